"""Where a data set's bytes come from: arrays, torchvision's files, or, where it is allowed, made images.

Whatever the source, what is read in the end are four arrays in one folder, checked, with a checksum that becomes part of
every run's identity.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from bnstudy import files

NAMES = ("cifar10", "fashion_mnist")
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
RECORD = "SOURCE.json"


class DataError(ValueError):
    """Data that cannot be had or cannot be trusted; the message names the file and the remedy."""


@dataclass(frozen=True)
class Source:
    """A data set on the disk, checked. `sha256` is over the bytes of the four arrays, in the order of `ARRAYS`."""

    name: str
    kind: str  # arrays, torchvision, or stand-in
    folder: Path
    sha256: str
    num_train: int
    num_test: int
    shape: tuple[int, int, int]  # C, H, W
    num_classes: int

    @property
    def identity(self) -> dict[str, str]:
        return {"name": self.name, "source": self.kind, "sha256": self.sha256}

    @property
    def stand_in(self) -> bool:
        return self.kind == "stand-in"


@dataclass(frozen=True)
class Arrays:
    """Images uint8 (N, H, W, C), labels int64 (N,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: Source


def locate(name: str, root: Path, *, allow_stand_in: bool = False, download: bool = True) -> Source:
    """The first source of `name` that is there. Raises DataError saying what was tried, and what can be done."""
    folder = root / name
    if any((folder / f"{array}.npy").exists() for array in ARRAYS):
        return _examine(name, folder)
    tried = [f"arrays {folder}/{{train,test}}_{{images,labels}}.npy: not there"]
    if name in NAMES:
        from bnstudy.data import vision

        try:
            lay_out(folder, vision.read(name, root, download=download), kind="torchvision")
            return _examine(name, folder)
        except vision.Unavailable as reason:
            tried.append(f"torchvision's files under {root}: {reason}")
    if allow_stand_in and name in NAMES:
        return _stand_in(name, root)
    raise DataError(
        f"data set {name!r} cannot be had.\n  tried: "
        + "\n  tried: ".join(tried)
        + f"\n  remedy 1: connect to the network, so that torchvision can download it to {root}"
        + f"\n  remedy 2: put the four arrays there (uint8 images NHWC, int64 labels), or name their folder: DATA_ROOT={root}"
    )


def load(source: Source) -> Arrays:
    """The arrays, read once a process. Raises DataError if they are no longer the bytes that `locate` saw."""
    again, arrays = _read(source.name, source.folder)
    if again.sha256 != source.sha256:
        raise DataError(f"{source.folder}: its arrays have changed since the sweep began; run it again")
    return arrays


def lay_out(folder: Path, arrays: Mapping[str, np.ndarray], *, kind: str) -> None:
    """Writes four arrays and their record, whole or not at all, whoever else does the same at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for array in ARRAYS:
            np.save(temporary / f"{array}.npy", arrays[array])
        sums = {array: hashlib.sha256(np.ascontiguousarray(arrays[array]).data).hexdigest() for array in ARRAYS}
        files.write_text(temporary / RECORD, json.dumps({"source": kind, "sha256": sums}, indent=1) + "\n")
        temporary.chmod(0o755)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        try:
            os.rename(temporary, folder)
        except OSError:
            if not (folder / RECORD).exists():  # not a twin of ours that was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _examine(name: str, folder: Path) -> Source:
    return _read(name, folder)[0]


def _read(name: str, folder: Path) -> tuple[Source, Arrays]:
    paths = [folder / f"{array}.npy" for array in ARRAYS]
    try:
        stamp = tuple((path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}); put all four arrays into {folder}, readable"
        ) from None
    return _read_once(name, folder, stamp)


@cache
def _read_once(name: str, folder: Path, stamp: tuple[tuple[int, int], ...]) -> tuple[Source, Arrays]:
    """Reads and checks the four arrays; `stamp` tells a changed file from one already read."""
    found = {array: _array(folder / f"{array}.npy", labels=array.endswith("labels")) for array in ARRAYS}
    record = _record(folder / RECORD)
    whole = hashlib.sha256()
    for array in ARRAYS:
        data = np.ascontiguousarray(found[array]).data
        whole.update(data)
        if array in record["sha256"] and hashlib.sha256(data).hexdigest() != record["sha256"][array]:
            raise DataError(
                f"{folder / array}.npy is not what {RECORD} says (checksum); copy it again, or remove {folder / RECORD} "
                "if you changed the array on purpose"
            )
    for split in ("train", "test"):
        images, labels = found[f"{split}_images"], found[f"{split}_labels"]
        if len(images) != len(labels) or not len(images):
            path = folder / f"{split}_labels.npy"
            raise DataError(f"{path}: {len(labels)} labels for {len(images)} images; give one label an image")
        if labels.min() < 0:
            raise DataError(f"{folder}/{split}_labels.npy: label {labels.min()} is out of range; classes count from 0")
    if found["train_images"].shape[1:] != found["test_images"].shape[1:]:
        shapes = f"{found['train_images'].shape[1:]} and {found['test_images'].shape[1:]}"
        raise DataError(f"{folder}: training and test images differ in shape ({shapes}); give both one shape")
    num_classes = _num_classes(name, folder, found["train_labels"], found["test_labels"])
    height, width, channels = found["train_images"].shape[1:]
    source = Source(
        name=name,
        kind=record["source"],
        folder=folder,
        sha256=whole.hexdigest(),
        num_train=len(found["train_images"]),
        num_test=len(found["test_images"]),
        shape=(channels, height, width),
        num_classes=num_classes,
    )
    return source, Arrays(**found, source=source)


def _array(path: Path, *, labels: bool) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); copy it again, readable") from None
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is not a whole .npy array ({error}); copy it again") from None
    if labels and (array.dtype != np.int64 or array.ndim != 1):
        raise DataError(f"{path}: {array.dtype} of shape {array.shape}; labels are int64 of shape (N,)")
    if not labels and (array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3)):
        raise DataError(f"{path}: {array.dtype} of shape {array.shape}; images are uint8 of shape (N, H, W, 1 or 3)")
    return array


def _num_classes(name: str, folder: Path, train: np.ndarray, test: np.ndarray) -> int:
    if name in NAMES:
        highest, known = max(train.max(), test.max()), 10
        if highest >= known:
            raise DataError(f"{folder}: label {highest} is out of range; {name} has classes 0 to {known - 1}")
        return known
    if test.max() > train.max():
        raise DataError(f"{folder}/test_labels.npy: label {test.max()} never occurs in training (0 to {train.max()})")
    return int(train.max()) + 1


def _record(path: Path) -> dict:
    """What is known of the arrays' origin: {"source": kind, "sha256": {array: checksum}}; without a record, nothing."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        record = {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); remove it if the arrays are your own") from None
    if not isinstance(record, dict) or not isinstance(record.get("sha256", {}), dict):
        raise DataError(f'{path}: expected {{"source": ..., "sha256": {{...}}}}; remove it if the arrays are your own')
    return {"source": str(record.get("source", "arrays")), "sha256": record.get("sha256", {})}


def _stand_in(name: str, root: Path) -> Source:
    from bnstudy.data import stand_in

    folder = root / "stand-in" / name
    if not (folder / RECORD).exists():
        lay_out(folder, stand_in.make(name), kind="stand-in")
    return _examine(name, folder)
