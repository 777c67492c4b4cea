"""Turn torchvision's files of a data set into arrays, downloading them if allowed, with a bounded wait.

The files whose md5 is right are linked into a folder of our own; there torchvision fetches what is missing, unpacks and
reads. Nothing is ever written beside the user's files.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

FILES = {  # what torchvision keeps under its root, any of these
    "cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "fashion_mnist": ("FashionMNIST/raw",),
}
SILENCE_SEC = 20.0  # without an answer or a byte from the network: give up
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)  # faults of the disk that is written to, not of a source
_ARRAYS = "arrays"


class Unavailable(Exception):
    """The files are missing and could not be downloaded; the text says what was tried."""


class Damaged(Exception):
    """A file is there and is not what it should be; the text names the file and the remedy."""


def prepare(name: str, root: Path, work: Path, *, download: bool, report: Callable[[str], None]) -> Path:
    """The folder with {train,test}_{images,labels}.npy, written into the empty folder `work` from torchvision's files.

    Raises Damaged for a file under `root` whose md5 is wrong and which no download replaced, else Unavailable; OSError
    where there is no room to unpack: such data must not count as unavailable.
    """
    files = " or ".join(str(root / file) for file in FILES[name])
    if not download and not any((root / file).exists() for file in FILES[name]):
        raise Unavailable(f"{files} is not there, and downloading is switched off")
    report(f"{name}: reading torchvision's files" + ", downloading what is missing" * download)
    complete, damaged = _link_intact(name, root, work)
    failure = "downloading is switched off"
    if complete or download:
        try:
            with _bounded_wait(), contextlib.redirect_stdout(sys.stderr):  # torchvision prints what it fetches
                arrays = _read(name, work)
        except (RuntimeError, OSError, HTTPException) as error:  # URLError and TimeoutError are OSErrors
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            failure = f"torchvision could not get it: {' '.join(str(error).split())}"
        else:
            return _write(arrays, work / _ARRAYS)
    if damaged:
        raise Damaged(
            f"{damaged[0]} is truncated or damaged: its md5 is not the published one, and it could not be "
            f"replaced ({failure}). Delete it and fetch it again."
        )
    raise Unavailable(f"{files} is not there or not complete, and {failure}")


@contextlib.contextmanager
def _bounded_wait() -> Iterator[None]:
    """Within, a request to the network without a bound of its own waits for SILENCE_SEC at most."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SEC)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _link_intact(name: str, root: Path, work: Path) -> tuple[bool, list[Path]]:
    """Link the files whose md5 is right; return whether they suffice, and the files with another md5."""
    damaged: list[Path] = []
    sets = _published(name)
    for files in sets:
        intact = [file for file, md5 in files if _intact(root / file, md5)]
        damaged += [root / file for file, _ in files if file not in intact and (root / file).exists()]
        complete = len(intact) == len(files)
        if complete or files is sets[0]:
            _link(intact, root, work)
        if complete:
            return True, damaged
    return False, damaged


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
        read = {"cifar10": CIFAR10, "fashion_mnist": FashionMNIST}[name](work, train=split == "train", download=True)
        images = np.asarray(read.data)
        arrays[f"{split}_images"] = images if images.ndim == 4 else images[..., None]
        arrays[f"{split}_labels"] = np.asarray(read.targets, dtype=np.int64)
    return arrays


def _write(arrays: dict[str, np.ndarray[Any, Any]], folder: Path) -> Path:
    folder.mkdir()
    for part, array in arrays.items():
        np.save(folder / f"{part}.npy", np.ascontiguousarray(array))
    return folder
