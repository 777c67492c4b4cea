"""How many GPUs a process may use, seen without importing torch: what is planned depends on it, no number does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/gpus")


def gpus() -> int:
    """GPUs that CUDA_VISIBLE_DEVICES leaves of those the driver shows; none where there is no driver."""
    return len(names())


def names() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls those GPUs."""
    try:
        present = sum(1 for _ in DRIVER.iterdir())
    except OSError:
        return []
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return [str(number) for number in range(present)]
    return [name.strip() for name in chosen.split(",") if name.strip()][:present]


def one_of(device: str, taken: Sequence[str | None]) -> str | None:
    """The GPU for one more process, when others have `taken` theirs: the one that fewest have.

    None where there is nothing to choose: `device` (`runtime.device`) says which, or there are not several.
    """
    several = names() if device in ("auto", "cuda") else []
    return min(several, key=taken.count) if len(several) > 1 else None


def on_gpu(device: str) -> bool:
    """Whether `runtime.device` means a GPU here."""
    return device.startswith("cuda") or (device == "auto" and gpus() > 0)
