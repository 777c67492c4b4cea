"""Count the GPUs and CPU cores that a process may use, without torch, and set up threads and cores.

Plans depend on these counts, results on the number of threads alone. The cores are looked at when this module is
imported, since libraries that bind threads (OMP_PROC_BIND) take all but one of them from the thread that loads them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
# What libraries read when they are loaded: how many threads, on which cores, and whether there may be fewer.
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
BINDING = (
    "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_HW_SUBSET", "KMP_PLACE_THREADS",
    "MKL_AFFINITY", "OPENBLAS_MAIN_FREE",
)  # fmt: skip
LIMITING = ("OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS", "KMP_ALL_THREADS", "KMP_DEVICE_THREAD_LIMIT",
            "KMP_TEAMS_THREAD_LIMIT", "MKL_DYNAMIC", "MKL_DOMAIN_NUM_THREADS")  # fmt: skip
AFFINITY = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset[int]()


def cores() -> int:
    """CPU cores this process may use: those it may run on, or fewer where a control group limits its time."""
    available = len(AFFINITY) or os.cpu_count() or 1
    return max(1, int(min(available, _quota())))


def _quota() -> float:
    """Processors' worth of time that control groups leave this process; infinity where they do not limit it."""
    try:
        lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if number == "0":
            root, files = CGROUPS, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, files = CGROUPS / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        inner = Path(path.lstrip("/"))
        for folder in (inner, *inner.parents):  # within a container its own group is the root
            try:
                words = " ".join((root / folder / name).read_text(encoding="utf-8") for name in files).split()
                if words[0] not in ("max", "-1"):
                    quotas.append(int(words[0]) / int(words[1]))
            except (OSError, ValueError, IndexError, ZeroDivisionError):
                continue
    return min(quotas)


def for_threads(threads: int) -> dict[str, str | None]:
    """Environment variables for a process that computes with exactly so many threads.

    None: the variable is to be taken out. It counts where no library has been loaded yet.
    """
    return dict.fromkeys((*BINDING, *LIMITING)) | dict.fromkeys(COUNTS, str(threads))


def share(worker: int, threads: int) -> set[int] | None:
    """The cores for one of several processes of so many threads; None where the platform cannot say.

    All that this process had, or, where the environment asks for threads to be bound, a part of its own.
    """
    if not AFFINITY:
        return None
    if not any(os.environ.get(name) for name in BINDING):
        return set(AFFINITY)
    every = sorted(AFFINITY)
    return {every[(worker * threads + i) % len(every)] for i in range(min(threads, len(every)))}


DRIVER = Path("/proc/driver/nvidia/gpus")


def gpus() -> int:
    """GPUs that CUDA_VISIBLE_DEVICES leaves of those the driver shows; none where there is no driver."""
    return len(names())


def names() -> list[str]:
    """The names that CUDA_VISIBLE_DEVICES has for those GPUs."""
    try:
        present = sum(1 for _ in DRIVER.iterdir())
    except OSError:
        return []
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return [str(number) for number in range(present)]
    return _visible(chosen, present)


def _visible(chosen: str, present: int) -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES that CUDA takes: up to the first invalid one, and none where one is repeated.

    Valid is the number of a GPU that is there (its digits at the beginning, as strtoul reads them), or, where the first
    entry is the identifier of a GPU or of a MIG instance, any of the same kind.
    """
    entries = [entry.strip() for entry in chosen.split(",")]
    kind = next((prefix for prefix in ("GPU-", "MIG-") if entries[0].startswith(prefix)), None)
    names: list[str] = []
    for entry in entries:
        if kind is None:
            digits = re.match(r"\+?(\d+)", entry)
            name = str(int(digits[1])) if digits else ""
            valid = digits is not None and int(digits[1]) < present
        else:
            name, valid = entry, entry.startswith(kind) and (kind == "MIG-" or len(names) < present or entry in names)
        if not valid:
            break
        if name in names:
            return []
        names.append(name)
    return names


def choose_gpu(device: str, taken: Sequence[str | None]) -> str | None:
    """The GPU for one more process, when others have `taken` theirs: the one that fewest have.

    None where there is nothing to choose: `device` (`runtime.device`) says which, or there are not several.
    """
    several = names() if device in ("auto", "cuda") else []
    return min(several, key=taken.count) if len(several) > 1 else None


def on_gpu(device: str) -> bool:
    """Whether `runtime.device` means a GPU here."""
    return device.startswith("cuda") or (device == "auto" and gpus() > 0)
