"""Engines advance R runs that share their batches: which one, on which device, with which settings is decided here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bnstudy.config.schema import Config
from bnstudy.training.engine.base import Engine
from bnstudy.training.engine.captured import Captured
from bnstudy.training.engine.kernels import build, pooled_conv
from bnstudy.training.engine.lockstep import Lockstep
from bnstudy.training.engine.parallel import Parallel


def device(config: Config) -> torch.device:
    """The device of `runtime.device`; auto is the GPU where there is one. Raises ValueError for a missing GPU."""
    name = config.runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"runtime.device = {name!r}: torch sees no GPU here; use runtime.device=cpu")
    return torch.device(name)


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
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


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
