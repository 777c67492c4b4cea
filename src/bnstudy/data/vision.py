"""torchvision's own files, verified and read by torchvision in a process of its own, which is ended when nothing moves."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

SILENCE_SEC = 20.0  # of a download, before it is given up
DATASETS = {"cifar10": "CIFAR10", "fashion_mnist": "FashionMNIST"}


class Unavailable(Exception):
    """torchvision could not provide the data set; the message says why in a sentence."""


def read(name: str, root: Path, *, download: bool, silence_sec: float = SILENCE_SEC) -> dict[str, np.ndarray]:
    """The four arrays of `sources.ARRAYS`. Raises Unavailable.

    Files that are there are checked against torchvision's md5; missing ones are downloaded if `download` allows.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".torchvision-", dir=root) as folder:
        target = Path(folder)
        process = multiprocessing.get_context("spawn").Process(target=_fetch, args=(name, root, target, download))
        process.start()
        try:
            _attend(process, root, silence_sec)
        finally:
            if process.is_alive():
                process.kill()
            process.join()
        failure = target / "failure.txt"
        if failure.exists():
            raise Unavailable(failure.read_text(encoding="utf-8"))
        if process.exitcode != 0:
            raise Unavailable(f"reading them ended with exit code {process.exitcode}")
        return {path.stem: np.load(path) for path in target.glob("*.npy")}


def _attend(process: BaseProcess, root: Path, silence_sec: float) -> None:
    """Waits while files under `root` keep growing. Raises Unavailable after `silence_sec` without growth."""
    size, since = -1, time.monotonic()
    while process.is_alive():
        process.join(timeout=0.2)
        now = _size(root)
        if now != size:
            size, since = now, time.monotonic()
        if time.monotonic() - since > silence_sec:
            raise Unavailable(f"the download made no progress for {silence_sec:g} s and was given up")


def _size(root: Path) -> int:
    total = 0
    for path in root.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # it went away between the listing and the look
            continue
    return total


def _fetch(name: str, root: Path, target: Path, download: bool) -> None:
    """In the child: reads both splits through torchvision and saves them as arrays, or says why not."""
    import torchvision

    try:
        for split in ("train", "test"):
            made = getattr(torchvision.datasets, DATASETS[name])(root, train=split == "train", download=download)
            images = np.asarray(made.data)
            images = images[..., None] if images.ndim == 3 else images
            np.save(target / f"{split}_images.npy", np.ascontiguousarray(images))
            np.save(target / f"{split}_labels.npy", np.asarray(made.targets, dtype=np.int64))
    except Exception as error:  # of the network, of a damaged archive, of the disk: each ends here in a sentence
        text = " ".join(str(error).split()) or type(error).__name__
        hint = f"; remove {root / DATASETS[name]} if it is damaged" if (root / DATASETS[name]).exists() else ""
        (target / "failure.txt").write_text(f"{text[:300]}{hint}", encoding="utf-8")
