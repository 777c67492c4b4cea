"""Turns torchvision's files of a data set into arrays, downloading them if allowed, in a process that can be killed.

The child works in a folder of its own: it links the archives whose md5 is right into it, lets torchvision fetch what
is missing, unpack and read there, and never writes beside the user's files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FILES = {  # what torchvision keeps under its root, any of these
    "cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "fashion_mnist": ("FashionMNIST/raw",),
}
SILENCE_SEC = 20.0  # without a byte more on disk: give up
START_SEC = 120.0  # the same until torchvision is imported, which on a cold disk is slow and silent
_REPORT_SEC = 5.0
_ARRAYS, _FACTS, _LOG = "arrays", "facts.json", "log"  # what the child leaves in its folder


class Unavailable(Exception):
    """The files are not there and could not be had; the text says what was tried."""


class Damaged(Exception):
    """A file is there and is not what it should be; the text names the file and the remedy."""


def prepare(name: str, root: Path, work: Path, *, download: bool, report: Callable[[str], None]) -> Path:
    """The folder with {train,test}_{images,labels}.npy, made in the empty folder `work` from torchvision's files.

    Raises Damaged for a file under `root` whose md5 is wrong and which no download replaced, else Unavailable.
    """
    files = " or ".join(str(root / file) for file in FILES[name])
    if not download and not any((root / file).exists() for file in FILES[name]):
        raise Unavailable(f"{files} is not there, and downloading is switched off")
    report(f"{name}: reading torchvision's files" + ", downloading what is missing" * download)
    command = [sys.executable, "-m", __name__, name, str(root), str(work), *["--download"] * download]
    failure = watch(command, work, report=lambda text: report(f"{name}: {text}"))
    facts = _facts(work)
    failure = facts["error"] or failure
    if failure is None:
        return work / _ARRAYS
    if facts["damaged"]:
        raise Damaged(
            f"{facts['damaged'][0]} is truncated or damaged: its md5 is not the published one, and it could not be "
            f"replaced ({failure}). Delete it and fetch it again."
        )
    raise Unavailable(f"{files} is not there or not complete, and {failure}")


def watch(
    command: Sequence[str],
    folder: Path,
    *,
    silence_sec: float = SILENCE_SEC,
    start_sec: float = START_SEC,
    report: Callable[[str], None] = lambda text: None,
) -> str | None:
    """Runs `command` until it ends or the files in `folder` stop growing; None if it ended well, else a sentence.

    The first byte in `folder` is due within `start_sec`, every other within `silence_sec` of the one before. However
    this is left, the child is gone; should this process be killed, the child is told by the end of its standard input.
    """
    log = folder / _LOG
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    size, size_reported, patience_sec = 0, 0, start_sec
    grown_at = reported_at = time.monotonic()
    try:
        while (status := _wait(child, min(0.1, silence_sec / 4))) is None:
            now, size_now = time.monotonic(), _num_bytes(folder)
            if size_now != size:
                size, grown_at, patience_sec = size_now, now, silence_sec
            if now - grown_at > patience_sec:
                return f"the attempt was given up after {patience_sec:g} s without progress"
            if now - reported_at > _REPORT_SEC and size - size_reported > 1e6:
                report(f"{size / 1e6:.0f} MB on disk so far")
                size_reported, reported_at = size, now
    finally:
        child.kill()
        child.communicate()
    return None if status == 0 else f"the reading process ended with status {status}: {_last_line(log)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The child: leaves the arrays in its folder, or the reason why there are none. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=FILES)
    parser.add_argument("root", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--download", action="store_true")
    given = parser.parse_args(arguments)
    error, complete, damaged = None, False, []
    sets = _published(given.name)
    for files in sets:
        intact = [file for file, md5 in files if _intact(given.root / file, md5)]
        damaged += [str(given.root / f) for f, _ in files if f not in intact and (given.root / f).exists()]
        complete = len(intact) == len(files)
        if complete or files is sets[0]:
            _link(intact, given.root, given.work)
        if complete:
            break
    _keep_facts(given.work, damaged, error)  # now: what follows may be killed
    if not complete and not given.download:
        error = "downloading is switched off"
    else:
        try:
            _write(_read(given.name, given.work), given.work / _ARRAYS)
        except (RuntimeError, OSError) as failure:  # URLError is an OSError
            error = f"torchvision could not get it: {' '.join(str(failure).split())}"
    _keep_facts(given.work, damaged, error)
    return 0


def _published(name: str) -> list[list[tuple[str, str]]]:
    """The sets of (file, md5) that torchvision knows, each enough by itself; the first is what it downloads."""
    from torchvision.datasets import CIFAR10, FashionMNIST

    if name == "fashion_mnist":
        return [[(f"FashionMNIST/raw/{file}", md5) for file, md5 in FashionMNIST.resources]]
    unpacked = [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]
    return [[(CIFAR10.filename, CIFAR10.tgz_md5)], [(f"{CIFAR10.base_folder}/{file}", md5) for file, md5 in unpacked]]


def _intact(path: Path, md5: str) -> bool:
    from torchvision.datasets.utils import check_integrity

    return bool(check_integrity(str(path), md5))


def _link(files: Sequence[str], root: Path, work: Path) -> None:
    for file in files:
        (work / file).parent.mkdir(parents=True, exist_ok=True)
        (work / file).symlink_to(root / file)


def _read(name: str, work: Path) -> dict[str, np.ndarray[Any, Any]]:
    from torchvision.datasets import CIFAR10, FashionMNIST

    arrays = {}
    for split in ("train", "test"):
        # Where every archive is linked `download` only unpacks: torchvision checks each file before it fetches it.
        made = {"cifar10": CIFAR10, "fashion_mnist": FashionMNIST}[name](work, train=split == "train", download=True)
        images = np.asarray(made.data)
        arrays[f"{split}_images"] = images if images.ndim == 4 else images[..., None]
        arrays[f"{split}_labels"] = np.asarray(made.targets, dtype=np.int64)
    return arrays


def _write(arrays: dict[str, np.ndarray[Any, Any]], folder: Path) -> None:
    folder.mkdir()
    for part, array in arrays.items():
        np.save(folder / f"{part}.npy", np.ascontiguousarray(array))


def _keep_facts(work: Path, damaged: list[str], error: str | None) -> None:
    part = work / f"{_FACTS}.part"
    part.write_text(json.dumps({"damaged": damaged, "error": error}), encoding="utf-8")
    part.replace(work / _FACTS)


def _facts(work: Path) -> dict[str, Any]:
    """What the child found out before it ended; nothing, where it did not come that far."""
    path = work / _FACTS
    if not path.exists():
        return {"damaged": [], "error": None}
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def _num_bytes(folder: Path) -> int:
    """Of the files in and below `folder`; files come and go while it looks."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(place, file)).st_size
            except FileNotFoundError:
                continue
    return total


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the parent closes it or is gone
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main())
