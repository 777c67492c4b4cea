"""Waiting for what other processes do, and looking at folders that they change meanwhile."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def wait_for(condition: Callable[[], object], seconds: float = 60.0, every_sec: float = 0.01) -> None:
    """Return when `condition`, asked every so often, is true. Raises AssertionError if it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to that within {seconds:g} s"
        time.sleep(every_sec)


def found(folder: Path, name: str) -> list[Path]:
    """Files and folders of that name below `folder`, sorted. A folder that goes while it is looked into holds none
    (Path.rglob raises FileNotFoundError there)."""
    return sorted(Path(at, name) for at, folders, files in os.walk(folder) if name in folders or name in files)


def modified(folder: Path, name: str) -> dict[Path, int]:
    """When each of them was last written, in ns; those that go meanwhile are left out."""
    times = {}
    for path in found(folder, name):
        try:
            times[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return times
