"""Engines advance R runs that share their batches: which one, on which device, with which settings is decided here."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bnstudy import plugins
from bnstudy.config import Config
from bnstudy.engine.base import Engine
from bnstudy.engine.captured import Captured
from bnstudy.engine.kernels import build, pooled_conv
from bnstudy.engine.lockstep import Lockstep
from bnstudy.engine.parallel import Parallel

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def device(config: Config) -> torch.device:
    """The device asked for; auto is the GPU where there is one. Raises ValueError where it is not there."""
    asked = config.runtime.device
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"runtime.device = {asked!r}: torch sees no GPU here; use runtime.device=cpu")
    return torch.device(asked)


def prepare_host(threads: int) -> None:
    """Settings of the process: threads, deterministic kernels, and an allocator that keeps the memory it has.

    What was computed before is forgotten (see `facts`).

    glibc returns large blocks to the system as soon as they are freed, so that every activation of every step costs
    page faults; told to keep them it does not.
    """
    build.forget()
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # as use_deterministic_algorithms, which imports all of the compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(M_TOP_PAD, 64 << 20)


def make(configs: Sequence[Config], networks: Sequence[nn.Module], on: torch.device) -> Engine:
    """An engine for runs that differ in the learning rate alone.

    Networks without a wide convolution have kernels that take torch's plain layout, which without these suits only a
    single one; others compute with the channels innermost. Several are one network where they may be stacked, and
    otherwise stay apart. On a GPU updates are recorded, unless the engine is to be plain.
    """
    common = configs[0]
    asked, model = common.runtime.engine, common.model["name"]
    _set_precision(common.precision, on)
    narrow = all(map(pooled_conv.narrow, networks[0].modules()))
    stacked = len(networks) > 1 and asked != "parallel" and plugins.stackable(model, common.norm["name"])
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
    return Captured(engine, on) if on.type == "cuda" and asked != "plain" else engine


def _set_precision(precision: str, on: torch.device) -> None:
    """float32 means float32, also where a GPU by itself would take TF32. Raises ValueError where there is no TF32."""
    if precision == "tf32" and on.type != "cuda":
        raise ValueError("precision = 'tf32': the CPU has no such unit; use fp32, or bf16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def facts(on: torch.device) -> dict[str, Any]:
    """What a manifest records of how the numbers were computed, asked for once they were.

    `kernels`: whether kernels of ours computed, and torch in place of none; `kernels_used` names them, `kernels_missed`
    those that could not be had (no compiler, one that fails, or a cache from which nothing can be executed).
    """
    return {
        "device": torch.cuda.get_device_name(on) if on.type == "cuda" else "cpu",
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "kernels": bool(build.used) and not build.missed,
        "kernels_used": sorted(build.used),
        "kernels_missed": sorted(build.missed),
    }
