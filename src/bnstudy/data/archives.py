"""Turns torchvision's files of a data set into arrays, downloading them if allowed, in a process that can be killed.

The child works in a folder of its own: it links the files whose md5 is right into it, lets torchvision fetch what is
missing, unpack and read there, and never writes beside the user's files.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FILES = {  # what torchvision keeps under its root: (one complete set of files, or another)
    "cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "fashion_mnist": ("FashionMNIST/raw",),
}
ARRAYS = "arrays"  # the folder the child writes its result to
SILENCE_SEC = 20.0  # without a byte more on disk: give up
START_SEC = 120.0  # the same while torchvision is imported, which on a cold disk is slow and silent
_READY, _OUTCOME, _LOG = "ready", "outcome.json", "log"
_REPORT_SEC = 5.0


class Unavailable(Exception):
    """The files are not there and could not be had; its text says what was tried."""


class Damaged(Exception):
    """A file is there and is not what it should be; its text names the file and the remedy."""


def prepare(name: str, root: Path, work: Path, *, download: bool, report: Callable[[str], None]) -> Path:
    """The folder of arrays (one .npy a part) made in `work` from torchvision's files under `root`, or downloaded.

    Raises Damaged for a file whose md5 is wrong where no download repaired it, Unavailable otherwise.
    """
    missing = " and ".join(str(root / file) for file in FILES[name])
    if not download and not any((root / file).exists() for file in FILES[name]):
        raise Unavailable(f"no {missing}; downloading is switched off")
    if download:
        report(f"{name}: looking for torchvision's files, downloading what is missing ...")
    command = [sys.executable, "-m", __spec__.name, name, str(root), str(work)]
    gave_up = watch(command + ["--download"] * download, work, report=lambda text: report(f"{name}: {text}"))
    outcome = _outcome(work)
    if gave_up is None and outcome is None:
        return work / ARRAYS
    damaged = outcome["damaged"] if outcome else []
    why = outcome["error"] if outcome else gave_up
    if damaged:
        raise Damaged(
            f"{damaged[0]} is truncated or damaged (its md5 is not the published one), and it could not be replaced "
            f"({why}): delete it, and fetch it again"
        )
    raise Unavailable(f"no complete {missing}; {why}")


def watch(
    command: Sequence[str],
    folder: Path,
    *,
    silence_sec: float = SILENCE_SEC,
    start_sec: float = START_SEC,
    report: Callable[[str], None] = lambda text: None,
) -> str | None:
    """Runs `command` until it ends or the files in `folder` stop growing; None if it ended well, else a sentence.

    The first file in `folder` beside the log is due within `start_sec`, every further byte within `silence_sec`.
    Whatever happens here, the child and its children are gone afterwards; it is told by its standard input's end.
    """
    log = folder / _LOG
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    before = _extent(folder)
    patience, grown_at = start_sec, time.monotonic()
    reported_at = grown_at
    try:
        while (status := _wait(child, min(0.1, silence_sec / 4))) is None:
            now, extent = time.monotonic(), _extent(folder)
            if extent != before:
                before, grown_at, patience = extent, now, silence_sec
            if now - grown_at > patience:
                return f"gave up after {patience:g} s without progress"
            if now - reported_at > _REPORT_SEC:
                report(f"{extent[1] / 1e6:.0f} MB so far")
                reported_at = now
    finally:
        _end(child)
    return None if status == 0 else f"the reader ended with status {status}: {_last_line(log)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The child: writes the arrays, or why there are none; 0 in both cases, for both are answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=FILES)
    parser.add_argument("root", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--download", action="store_true")
    options = parser.parse_args(arguments)
    _import()
    (options.work / _READY).touch()
    parts, damaged = _link_intact(options.name, options.root, options.work), _damaged(options.name, options.root)
    error = None
    if not parts and not options.download:
        error = "downloading is switched off"
    else:
        try:
            arrays = _read(options.name, options.work)
        except (RuntimeError, OSError) as failure:  # URLError is an OSError
            error = "torchvision could not download it: " + " ".join(str(failure).split())
    if error is not None:
        (options.work / _OUTCOME).write_text(json.dumps({"damaged": damaged, "error": error}), encoding="utf-8")
        return 0
    _write(arrays, options.work / ARRAYS)
    return 0
