"""The cache of drawn figures: an entry holds while no file that was read for the drawing changes, nor the drawing."""

from __future__ import annotations

import functools
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bnstudy.store import files, paths

ROOMS = ("analysis", "store", "config")  # whose code decides what is drawn
PACKAGES = ("matplotlib", "numpy", "pandas", "pillow", "pyarrow", "scipy", "seaborn")

_reads: ContextVar[dict[Path, str | None] | None] = ContextVar("reads", default=None)


@contextmanager
def recording() -> Iterator[dict[Path, str | None]]:
    """The checksum of each file that is recorded within; None for one that is missing."""
    reads: dict[Path, str | None] = {}
    token = _reads.set(reads)
    try:
        yield reads
    finally:
        _reads.reset(token)


def record(path: Path) -> Path:
    """Record the path as one that is about to be read, and return it."""
    reads = _reads.get()
    if reads is not None:
        reads[path] = checksum(path)
    return path


def checksum(path: Path) -> str | None:
    return files.sha256(path) if path.is_file() else None


def put(into: Path, name: str, reads: Mapping[Path, str | None], drawn: list[Path], section: Any) -> None:
    """Write, beside the drawing, which files it was drawn from, and its section; `section` as JSON has it."""
    entry = {
        "code": code(),
        "reads": {os.path.relpath(path, into): when_read for path, when_read in reads.items()},
        "drawn": {os.path.relpath(path, into): checksum(path) for path in drawn},
        "section": section,
    }
    files.write_text(_path(into, name), json.dumps(entry, indent=1, ensure_ascii=False) + "\n")


def get(into: Path, name: str, sums: dict[Path, str | None]) -> Any:
    """The section as it was put here, or None where anything has changed. `sums`: checksums that are known already."""

    def same(relative: str, was: str | None) -> bool:
        path = into / relative
        if path not in sums:
            sums[path] = checksum(path)
        return sums[path] == was

    try:
        entry = json.loads(_path(into, name).read_text(encoding="utf-8"))
        whole = entry["code"] == code() and all(
            same(*each) for each in [*entry["reads"].items(), *entry["drawn"].items()]
        )
        return entry["section"] if whole else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or damaged
        return None


def remove(into: Path, name: str) -> None:
    _path(into, name).unlink(missing_ok=True)


@functools.cache
def code() -> str:
    """A checksum of the code that draws and judges, and of the versions of what it draws with."""
    package = Path(__file__).parents[1]
    digest = sha256(" ".join([platform.python_version(), *map(version, PACKAGES)]).encode())
    for path in sorted(path for room in ROOMS for path in (package / room).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _path(into: Path, name: str) -> Path:
    return paths.drawn(into) / f"{name}.json"
