"""Decide where a data set's images come from, and refuse whatever is not what it should be."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnstudy.data import archives, synthetic

Array = np.ndarray[Any, Any]
Shape = tuple[int, int, int]

PARTS = ("train_images", "train_labels", "test_images", "test_labels")
SOURCE_FILE = "SOURCE.json"
ARRAYS, TORCHVISION, SYNTHETIC = "arrays", "torchvision", "synthetic"
_STALE_SEC = 86400.0  # older work folders were left by processes that were killed


@dataclass(frozen=True)
class Known:
    """What a published data set is: (C, H, W), counts of images and classes."""

    shape: Shape
    num_train: int
    num_test: int
    num_classes: int


KNOWN = {
    "cifar10": Known((3, 32, 32), 50_000, 10_000, 10),
    "fashion_mnist": Known((1, 28, 28), 60_000, 10_000, 10),
}
NAMES = tuple(KNOWN)


class DataError(ValueError):
    """A data set that is not there or not what it should be; the text names the file and the remedy."""


@dataclass(frozen=True)
class Source:
    """A data set that was found and checked: arrays in `folder`, and what they are.

    `kind` says where they came from: "arrays" (the user's), "torchvision" or "synthetic". `sha256` is over the bytes of
    the four arrays, one after another in the order of `PARTS`. `shape` is (C, H, W). `title` is what SOURCE.json calls
    them for readers, as in "CIFAR-10 (59,889 of 60,000 images exact)"; empty where it does not.
    """

    name: str
    kind: str
    folder: Path
    sha256: str
    num_train: int
    num_test: int
    shape: Shape
    num_classes: int
    title: str = ""

    @property
    def identity(self) -> dict[str, str]:
        """What a run's identity holds of its data: two runs saw the same bytes if and only if this is equal."""
        return {"name": self.name, "source": self.kind, "sha256": self.sha256}

    @property
    def record(self) -> dict[str, str]:
        """What is written down of a run's data: its identity, and beside it the title, which identifies nothing."""
        return self.identity | {"title": self.title}

    @property
    def synthetic(self) -> bool:
        return self.kind == SYNTHETIC


@dataclass(frozen=True)
class Arrays:
    """A data set in memory: images uint8 (N, H, W, C), labels int64 (N,) of 0..num_classes-1."""

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    source: Source


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def locate(
    name: str,
    root: Path,
    *,
    allow_synthetic: bool = False,
    download: bool = True,
    report: Callable[[str], None] = _to_stderr,
) -> Source:
    """The first of: arrays in `root`/`name`, torchvision's files under `root` or downloaded, synthetic data if allowed.

    torchvision's files are read once and then kept as arrays. Files that are there but damaged are an error, never a
    reason to try the next source. Raises DataError saying what was tried and the remedies.
    """
    root = Path(root).absolute()
    folder = root / name
    if _has_arrays(folder):
        return _allowed(_inspect(name, folder), allow_synthetic)
    tried = [f"arrays: {folder / 'train_images.npy'} and its three companions are not there"]
    if name in archives.FILES:
        try:
            with work_folder(root, name) as work:
                prepared = archives.prepare(name, root, work, download=download, report=report)
                label(prepared, {"source": TORCHVISION})
                move_into_place(prepared, folder)
            return _allowed(_inspect(name, folder), allow_synthetic)
        except archives.Damaged as error:
            raise DataError(f"{name}: {error}") from None
        except archives.Unavailable as error:
            tried.append(f"torchvision's files: {error}")
    if allow_synthetic and name in KNOWN:
        return _stand_in(name, root, report)
    raise DataError(_nothing_found(name, folder, tried))


def load(source: Source) -> Arrays:
    """The arrays of a located source, read-only. Raises DataError where the files are no longer those located."""
    arrays = _read(source.name, source.folder, mapped=False)
    if _sha256(arrays.values()) != source.sha256:
        raise DataError(
            f"{source.folder}: the arrays changed since they were checked (sha256 {source.sha256[:12]}...): "
            f"leave them alone while runs are under way, and start again"
        )
    for array in arrays.values():
        array.setflags(write=False)
    return Arrays(**arrays, source=source)


def _has_arrays(folder: Path) -> bool:
    """Whether all four arrays are there. Raises DataError for some of them, or for a folder that cannot be read."""
    try:
        there = set(os.listdir(folder))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(folder, error) from None
    missing = [f"{part}.npy" for part in PARTS if f"{part}.npy" not in there]
    if len(missing) in (0, len(PARTS)):
        return not missing
    raise DataError(f"{folder / missing[0]} is missing beside the other arrays: add it, or move {folder} away")


def _inspect(name: str, folder: Path) -> Source:
    """Read and check everything, once per process as long as no file's size or time changes."""
    stamps = []
    for file in (*(f"{part}.npy" for part in PARTS), SOURCE_FILE):
        with contextlib.suppress(OSError):  # reading it will say what is wrong
            stat = (folder / file).stat()
            stamps.append((file, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return _inspect_once(name, folder, tuple(stamps))


@functools.lru_cache(maxsize=16)
def _inspect_once(name: str, folder: Path, stamps: tuple[tuple[str, int, int, int], ...]) -> Source:
    arrays = _read(name, folder, mapped=True)
    about = _about(folder)
    for part, expected in about.get("sha256", {}).items():
        if part in arrays and _sha256([arrays[part]]) != expected:
            raise DataError(
                f"{folder / part}.npy is not the file that {folder / SOURCE_FILE} describes (its sha256 differs): "
                f"copy it again, or delete {SOURCE_FILE} if the array was changed on purpose"
            )
    images = arrays["train_images"]
    _, height, width, channels = images.shape
    known = KNOWN.get(name)
    return Source(
        name=name,
        kind=about.get("source", ARRAYS),
        folder=folder,
        sha256=_sha256(arrays.values()),
        num_train=len(images),
        num_test=len(arrays["test_images"]),
        shape=(channels, height, width),
        num_classes=known.num_classes if known else int(arrays["train_labels"].max()) + 1,
        title=about.get("name", ""),
    )


def _read(name: str, folder: Path, *, mapped: bool) -> dict[str, Array]:
    """The four arrays, checked one by one and against each other."""
    arrays = {part: _uniform(_read_array(folder / f"{part}.npy", mapped)) for part in PARTS}
    for split in ("train", "test"):
        _check_split(folder, split, arrays[f"{split}_images"], arrays[f"{split}_labels"])
    shapes = arrays["train_images"].shape[1:], arrays["test_images"].shape[1:]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"{folder / 'test_images.npy'} has images of shape {shapes[1]}, {folder / 'train_images.npy'} of "
            f"{shapes[0]} (height, width, channels): make them alike"
        )
    known = KNOWN.get(name)
    if known and shapes[0] != (*known.shape[1:], known.shape[0]):
        expected = (*known.shape[1:], known.shape[0])
        raise DataError(
            f"{folder / 'train_images.npy'} has images of shape {shapes[0]}, {name} has {expected} (height, width, "
            f"channels): put other images in a folder of another name, and set data.name to that name"
        )
    _check_classes(folder, arrays, known.num_classes if known else None)
    return arrays


def _read_array(path: Path, mapped: bool) -> Array:
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError as error:
        raise _unreadable(path, error) from None
    except MemoryError:
        raise
    except Exception as error:  # numpy reads a header as Python's own tokens, and raises whatever the bytes provoke
        raise DataError(f"{path} is truncated or not a .npy file ({error}): write or copy it again") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an archive of several arrays: save the one array with numpy.save")
    return array


def _uniform(array: Array) -> Array:
    """Images (N, H, W) as (N, H, W, 1) and class numbers of any whole type as int64, so that equal data are equal."""
    if array.dtype == np.uint8 and array.ndim == 3:
        return array[..., None]
    return array.astype(np.int64) if array.ndim == 1 and array.dtype.kind in "iu" else array


def _check_split(folder: Path, split: str, images: Array, labels: Array) -> None:
    images_path, labels_path = folder / f"{split}_images.npy", folder / f"{split}_labels.npy"
    if images.dtype != np.uint8:
        raise DataError(f"{images_path} holds {images.dtype}: save raw pixels of 0..255 as uint8")
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(
            f"{images_path} has shape {images.shape}: save (images, height, width, channels) or, with one channel, "
            "(images, height, width), none zero"
        )
    if images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise DataError(f"{images_path} has shape {images.shape}: channels come last, transpose it with (0, 2, 3, 1)")
    if labels.dtype != np.int64:
        raise DataError(f"{labels_path} holds {labels.dtype}: save class numbers as whole numbers, such as int64")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_path} has shape {labels.shape} for {len(images)} images: save one label per image, shape (N,)"
        )


def _check_classes(folder: Path, arrays: Mapping[str, Array], num_classes: int | None) -> None:
    """Labels are 0..K-1. Where K is not known it is what the training labels say, so these must leave no gap."""
    bound = num_classes or int(arrays["train_labels"].max()) + 1
    for part in ("train_labels", "test_labels"):
        low, high = int(arrays[part].min()), int(arrays[part].max())
        if low < 0 or high >= bound:
            raise DataError(
                f"{folder / part}.npy has labels from {low} to {high}, out of range: number the classes 0..{bound - 1}"
            )
    if num_classes is None:
        labels = np.unique(arrays["train_labels"])
        if len(labels) != bound:
            gap = int(np.setdiff1d(np.arange(min(bound, len(labels) + 1)), labels)[0])
            raise DataError(
                f"{folder / 'train_labels.npy'} never has the label {gap}, but has {bound - 1}: number the classes "
                f"0..{len(labels) - 1} without a gap"
            )


def _about(folder: Path) -> dict[str, Any]:
    """What SOURCE.json says, {} where there is none."""
    path = folder / SOURCE_FILE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise DataError(f"{path} is not readable as JSON ({error}): restore or delete it") from None
    kinds = (ARRAYS, TORCHVISION, SYNTHETIC)
    if not isinstance(about, dict) or about.get("source", ARRAYS) not in kinds:
        raise DataError(f"{path}: source is not one of {', '.join(kinds)}: restore or delete the file")
    if not isinstance(about.get("sha256", {}), dict):
        raise DataError(f"{path}: sha256 is not a mapping of {', '.join(PARTS)}: restore or delete the file")
    if not isinstance(about.get("name", ""), str):
        raise DataError(f"{path}: name is not a text: restore or delete the file")
    return about


def _sha256(arrays: Iterable[Array]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _allowed(source: Source, allow_synthetic: bool) -> Source:
    if source.synthetic and not allow_synthetic:
        raise DataError(
            f"{source.folder / SOURCE_FILE} says that these images are synthetic: move "
            f"{source.folder} away and put the real data there"
        )
    return source


def _stand_in(name: str, root: Path, report: Callable[[str], None]) -> Source:
    folder = root / SYNTHETIC / name
    if not _has_arrays(folder):
        report(f"{name}: generating synthetic images")
        known = KNOWN[name]
        with work_folder(root, name) as work:
            prepared = work / "arrays"
            prepared.mkdir()
            arrays = synthetic.images(known.shape, known.num_classes, known.num_train, known.num_test)
            for part, array in arrays.items():
                np.save(prepared / f"{part}.npy", array)
            label(prepared, {"source": SYNTHETIC, "seed": synthetic.SEED})
            move_into_place(prepared, folder)
    source = _inspect(name, folder)
    if not source.synthetic:
        raise DataError(f"{folder / SOURCE_FILE} does not say that these images are synthetic data: delete {folder}")
    return source


@contextlib.contextmanager
def work_folder(root: Path, name: str) -> Iterator[Path]:
    """A new folder under `root`, gone afterwards; those that killed processes left are removed too."""
    work = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(f".{name}-*.part"):
            with contextlib.suppress(FileNotFoundError):  # another process may be at it too
                if time.time() - left.stat().st_mtime > _STALE_SEC:
                    shutil.rmtree(left)
        work = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=".part", dir=root))
        yield work
    except OSError as error:
        raise DataError(
            f"{root} cannot be written to ({error.strerror or error}), and {name} has to be unpacked there once: make "
            f"it writable and large enough, or set the data root (DATA_ROOT) to a folder that is"
        ) from None
    finally:
        if work:
            shutil.rmtree(work, ignore_errors=True)


def label(prepared: Path, about: dict[str, Any]) -> None:
    """Complete a folder of arrays with its SOURCE.json."""
    sha256 = {part: _sha256([np.load(prepared / f"{part}.npy", mmap_mode="r")]) for part in PARTS}
    (prepared / SOURCE_FILE).write_text(json.dumps(about | {"sha256": sha256}, indent=1) + "\n", encoding="utf-8")


def move_into_place(prepared: Path, folder: Path) -> None:
    """Move a folder to its place, whole or not at all; where another process was first, its folder stays."""
    for file in prepared.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        prepared.rename(folder)
    except OSError as error:
        if not _has_arrays(folder):
            raise DataError(
                f"{folder} is in the way of the arrays that belong there ({error.strerror}): move it away"
            ) from None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read ({error.strerror or error}): correct its path or its permissions, or set the data "
        f"root (DATA_ROOT) to another folder"
    )


def _nothing_found(name: str, folder: Path, tried: list[str]) -> str:
    lines = [f"data set {name!r} is not available under {folder.parent}. Tried:", *(f"  - {line}" for line in tried)]
    if name in KNOWN:
        height, width, channels = *KNOWN[name].shape[1:], KNOWN[name].shape[0]
        files = " or ".join(str(folder.parent / file) for file in archives.FILES[name])
        shape = f"(N, {height}, {width}, {channels})"
        other = f"give this machine a network and run again, or copy torchvision's files to {files}"
    else:
        shape = "(N, height, width, channels)"
        other = f"set data.name to one that can be downloaded: {', '.join(NAMES)}"
    lines += [
        "Remedies:",
        f"  - put {', '.join(f'{part}.npy' for part in PARTS)} into {folder} (images uint8 {shape}, labels int64 (N,))",
        f"  - {other}",
    ]
    return "\n".join(lines)
