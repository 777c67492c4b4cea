"""How many GPUs a process may use, seen without importing torch: what is planned depends on it, no number does."""

from __future__ import annotations

import os
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/gpus")


def gpus() -> int:
    """GPUs that CUDA_VISIBLE_DEVICES leaves of those the driver shows; none where there is no driver."""
    try:
        present = sum(1 for _ in DRIVER.iterdir())
    except OSError:
        return 0
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return present if chosen is None else min(present, len([name for name in chosen.split(",") if name.strip()]))


def on_gpu(device: str) -> bool:
    """Whether `runtime.device` means a GPU here."""
    return device.startswith("cuda") or (device == "auto" and gpus() > 0)
