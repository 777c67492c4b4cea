"""The process that computes: its threads, deterministic kernels, and how its allocator treats memory that is freed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from bnstudy.training.engine.kernels import build

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # malloc.h
# glibc's defaults
GLIBC = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 128 << 10, M_TRIM_THRESHOLD: 128 << 10, M_TOP_PAD: 128 << 10}
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}
# 8 MiB: 16 channels of 128 images of CIFAR-10. Smaller limits cost time: gradients take 14 % more at 4 MiB, 73 at 1.5.
RETURNING = KEEPING | {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 8 << 20}
_allocator: Mapping[int, int] = GLIBC


def prepare(threads: int) -> None:
    """Set up this process to compute: threads, deterministic kernels, an allocator that keeps freed memory.

    Records of what computed before are cleared (see `engine.facts`).

    glibc returns large blocks to the system as soon as they are freed, so that every activation of every step costs
    page faults; told to keep them it does not.
    """
    build.reset_uses()
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # as use_deterministic_algorithms, which imports all of the compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _set_allocator(KEEPING)


@contextmanager
def as_it_was() -> Iterator[None]:
    """Compute by torch's defaults, and restore the process's settings afterwards: threads, determinism, random state.

    The allocator, whose settings cannot be read, is given glibc's defaults, and what it has kept goes to the system.
    """
    utilities: Any = torch.utils.deterministic
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fill = utilities.fill_uninitialized_memory
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with by_default(), torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        utilities.fill_uninitialized_memory = fill
        _set_allocator(GLIBC, trim=True)


@contextmanager
def by_default() -> Iterator[None]:
    """Within, torch computes as in a new process, whatever the caller has set, as notebooks do: gradients, autocast,
    type and device of new tensors, and the precision of float32.
    """
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    settings = (
        *(backends, backends.cuda.matmul, cudnn, cudnn.conv, cudnn.rnn),
        *(mkldnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn),
    )
    kind, precisions = torch.get_default_dtype(), [setting.fp32_precision for setting in settings]
    older = _readable(torch.get_float32_matmul_precision), _readable(lambda: cudnn.allow_tf32)
    with ExitStack() as stack:
        for context in (torch.inference_mode(False), torch.enable_grad()):
            stack.enter_context(context)
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":  # asked first: this context slows down every operation
            stack.enter_context(torch.device("cpu"))
        try:
            torch.set_default_dtype(torch.float32)
            for setting in settings:
                setting.fp32_precision = "none"
            cudnn.allow_tf32 = True  # torch's default; the configuration says what a run computes by
            torch.set_float32_matmul_precision("highest")
            yield
        finally:
            torch.set_default_dtype(kind)
            if older[0] is not None:
                torch.set_float32_matmul_precision(older[0])
            if older[1] is not None:
                cudnn.allow_tf32 = older[1]
            for setting, precision in zip(settings, precisions, strict=True):
                setting.fp32_precision = precision


def _readable(setting: Callable[[], Any]) -> Any:
    """A setting's value; None where torch has none, as the newer settings do not agree."""
    try:
        return setting()
    except RuntimeError:
        return None


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Within, what is freed in large blocks goes to the system again, and afterwards all that is free.

    `prepare` has it kept. For what holds on to small tensors from pass to pass, as probes to gradients: these come
    to lie in blocks that were freed before, which then are too small for the next pass's activations, and memory grows
    with each.
    """
    if _allocator is not KEEPING:
        yield
        return
    _set_allocator(RETURNING)
    try:
        yield
    finally:
        _set_allocator(KEEPING, trim=True)


def _set_allocator(settings: Mapping[int, int], *, trim: bool = False) -> None:
    """`trim`: what is free goes to the system now."""
    global _allocator
    _allocator = settings
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    for parameter, value in settings.items():
        libc.mallopt(parameter, value)
    if trim:
        libc.malloc_trim(0)
