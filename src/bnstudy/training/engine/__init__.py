"""Engines advance R runs that share their batches: which one, on which device, with which settings is decided here."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bnstudy.config.schema import Config
from bnstudy.training.engine.base import Engine
from bnstudy.training.engine.captured import Captured
from bnstudy.training.engine.kernels import build, pooled_conv
from bnstudy.training.engine.lockstep import Lockstep
from bnstudy.training.engine.parallel import Parallel

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # malloc.h
# glibc's defaults
GLIBC = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 128 << 10, M_TRIM_THRESHOLD: 128 << 10, M_TOP_PAD: 128 << 10}
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}
# 8 MiB: 16 channels of 128 images of CIFAR-10. Smaller limits cost time: gradients take 14 % more at 4 MiB, 73 at 1.5.
RETURNING = KEEPING | {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 8 << 20}

_allocator: Mapping[int, int] = GLIBC


def device(config: Config) -> torch.device:
    """The device of `runtime.device`; auto is the GPU where there is one. Raises ValueError for a missing GPU."""
    name = config.runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"runtime.device = {name!r}: torch sees no GPU here; use runtime.device=cpu")
    return torch.device(name)


def prepare_host(threads: int) -> None:
    """Set up this process to compute: threads, deterministic kernels, an allocator that keeps freed memory.

    Records of what computed before are cleared (see `facts`).

    glibc returns large blocks to the system as soon as they are freed, so that every activation of every step costs
    page faults; told to keep them it does not.
    """
    build.reset_uses()
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # as use_deterministic_algorithms, which imports all of the compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _set_allocator(KEEPING)


@contextmanager
def host_as_it_was() -> Iterator[None]:
    """Restore the process's settings afterwards: threads, determinism, TF32, torch's random state.

    The allocator, whose settings cannot be read, is given glibc's defaults, and what it has kept goes to the system.
    """
    backends: Any = torch.backends
    utilities: Any = torch.utils.deterministic
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fill = utilities.fill_uninitialized_memory
    tf32 = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        utilities.fill_uninitialized_memory = fill
        backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = tf32
        _set_allocator(GLIBC, trim=True)


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Within, what is freed in large blocks goes to the system again, and afterwards all that is free.

    `prepare_host` has it kept. For what holds on to small tensors from pass to pass, as probes to gradients: these come
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


def build_engine(configs: Sequence[Config], networks: Sequence[nn.Module], on: torch.device) -> Engine:
    """An engine for runs that differ in the learning rate alone.

    Several stay networks of their own, so that a run's bits are those it has alone, unless the engine is to be stacked:
    one network whose sums, and with them every run's last digits, depend on how many runs it has. On a GPU updates are
    recorded, unless the engine is to be plain. Networks without a wide convolution have kernels that take torch's plain
    layout, which without these suits only a single one; others compute with the channels innermost.
    """
    common = configs[0]
    kind = common.runtime.engine
    _set_precision(common.precision, on)
    narrow = all(map(pooled_conv.narrow, networks[0].modules()))
    stacked = len(networks) > 1 and kind == "stacked"
    parts = [networks] if stacked else [[network] for network in networks]
    engines: list[Engine] = [
        Lockstep(
            part,
            common.optim,
            divergence_loss=common.train.divergence_loss,
            device=on,
            channels_last=not narrow or (stacked and build.compiler() is None),
            fuse=on.type == "cpu",
            half=torch.bfloat16 if common.precision == "bf16" else None,
            flat=on.type == "cuda",
        )
        for part in parts
    ]
    engine = engines[0] if len(engines) == 1 else Parallel(engines, on)
    return Captured(engine, on) if on.type == "cuda" and kind != "plain" else engine


def _set_precision(precision: str, on: torch.device) -> None:
    """Allow TF32 only if the configuration asks for it. Raises ValueError for TF32 on a CPU."""
    if precision == "tf32" and on.type != "cuda":
        raise ValueError("precision = 'tf32': the CPU has no such unit; use fp32, or bf16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def facts(config: Config, num_runs: int, on: torch.device) -> dict[str, Any]:
    """How the numbers were computed, for the manifest; to be called after training.

    `kernels`: whether kernels of ours computed, and torch in place of none; `kernels_used` names them, `kernels_missed`
    those that were not available (no compiler, one that fails, or a cache from which nothing can be executed).
    """
    together = "stacked" if config.runtime.engine == "stacked" else "parallel"
    return {
        "engine": together if num_runs > 1 else "plain",
        "device": torch.cuda.get_device_name(on) if on.type == "cuda" else "cpu",
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "kernels": bool(build.used) and not build.missed,
        "kernels_used": sorted(build.used),
        "kernels_missed": sorted(build.missed),
    }
