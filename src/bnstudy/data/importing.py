"""Turn images in folders, one folder per class, into the arrays of a data set.

`FOLDER/train/CLASS/*` and `FOLDER/test/CLASS/*` become the training and the test set; of `FOLDER/CLASS/*` every fifth
image of a class, in the order of their names, becomes a test image. Both sets are shuffled, the same way every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bnstudy.data import sources
from bnstudy.data.sources import DataError, Source

SPLITS = ("train", "test")
TEST_EVERY = 5
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
BROKEN_NOTES = (SyntaxError, ValueError, OSError, KeyError, struct.error)  # what Pillow raises for EXIF that is none
LEFT_BY_OTHERS = "__MACOSX"  # a folder of archives that a Mac has made
Files = dict[str, list[tuple[Path, int]]]  # by split: images with their class numbers
Pixels = np.ndarray[Any, Any]  # uint8, (height, width, channels)


def import_images(
    folder: Path,
    name: str,
    root: Path,
    *,
    size: int | None = None,
    title: str = "",
    report: Callable[[str], None] = print,
) -> Source:
    """Write the arrays into `root`/`name` and return what they are. `size`: the side to which images are scaled.

    Colours are kept unless every image is grey. What is not read is reported, such as images beside the classes, and so
    are images that are in both sets, or in several classes. Raises DataError, with nothing written, for a folder that
    is laid out otherwise, a class that lacks training or test images, images that cannot be read, are of several sizes
    or of more than 8 bits, and for a name that is none or that a data set has.
    """
    if name in sources.NAMES or not re.fullmatch(r"(?!\.)[^/\\\0]{1,60}", name):  # as data.name is checked
        why = "a data set that is downloaded has it" if name in sources.NAMES else "a folder cannot be called so here"
        raise DataError(f"--name {name!r}: {why}; give another of 60 characters or less, without / and a dot in front")
    target = root / name
    if target.exists():
        raise DataError(f"{target} is there: give another --name, or move it away")
    classes, files, unread = _read_folder(folder)
    if unread:
        such_as, endings = unread[0].relative_to(folder), ", ".join(sorted(SUFFIXES))
        report(f"not read: {len(unread)}, such as {such_as}; images lie in their class's folder and end in {endings}")
    if moving := [path for split in SPLITS for path, _ in files[split] if _has_several_frames(path)]:
        such_as = moving[0].relative_to(folder)
        remedy = "the first frame is read; save others as files of their own"
        report(f"images of several frames: {len(moving)}, such as {such_as}; {remedy}")
    with sources.work_folder(root, name) as work:
        arrays = work / "arrays"
        arrays.mkdir()
        first: tuple[int, int] | None = (size, size) if size else None
        images: dict[str, list[Pixels]] = {split: [] for split in SPLITS}
        for split in SPLITS:
            for path, _ in files[split]:
                image = _open(path).convert("RGB")
                image = image.resize((size, size), Image.Resampling.BILINEAR) if size else image
                first = first or image.size
                if image.size != first:
                    sides = f"{image.size[0]}x{image.size[1]}, others {first[0]}x{first[1]}"
                    raise DataError(f"{path} is {sides}: give --size")
                images[split].append(_without_grey_copies(np.asarray(image)))
        channels = max(pixels.shape[2] for each in images.values() for pixels in each)
        for split in SPLITS:
            stacked = np.stack([np.broadcast_to(each, (*each.shape[:2], channels)) for each in images[split]])
            np.save(arrays / f"{split}_images.npy", stacked)
            np.save(arrays / f"{split}_labels.npy", np.array([label for _, label in files[split]], dtype=np.int64))
        _report_copies(folder, files, images, report)
        title = title or f"{name} (images of {folder.name})"
        sources.label(arrays, {"name": title, "classes": classes, "order": "shuffled"})
        sources.move_into_place(arrays, target)
    return sources.locate(name, root, download=False)


def _read_folder(folder: Path) -> tuple[list[str], Files, list[Path]]:
    """The names of the classes, the images of both splits, shuffled, and what is no image. Raises DataError."""
    split = all((folder / name).is_dir() for name in SPLITS)
    homes = {name: folder / name if split else folder for name in SPLITS}
    by_split = {name: _class_folders(home) for name, home in homes.items()}
    classes = by_split["train"]
    if not split and _class_folders(folder / "train"):  # as ImageNet is laid out, with val/
        raise DataError(f"{folder}: there is a train/ and no test/ beside it; rename the folder of test images test/")
    if len(classes) < 2:
        raise DataError(
            f"{folder}: give a folder with train/CLASS/ and test/CLASS/, or with CLASS/ alone, of two classes or more "
            f"with five images or more; what is read ends in {', '.join(sorted(SUFFIXES))}"
        )
    if unknown := sorted(set(by_split["test"]) - set(classes)):
        raise DataError(
            f"{homes['test'] / unknown[0]}: {homes['train']} has no class of this name; rename one of the two folders, "
            f"or move it away ({len(unknown)} such)"
        )
    files: Files = {name: [] for name in SPLITS}
    unread = _beside(folder, set(SPLITS)) if split else set[Path]()
    for home, names in ((homes[name], by_split[name]) for name in SPLITS):
        unread |= _beside(home, {*names})
    for label, name in enumerate(classes):
        for which, home in homes.items():
            images, others = _images(home / name)
            unread |= others
            if not split:
                images = [p for i, p in enumerate(images) if (i % TEST_EVERY == TEST_EVERY - 1) == (which == "test")]
            if not images:
                kind = "training" if which == "train" else "test"
                need = "some" if split else f"{TEST_EVERY} or more, of which every {TEST_EVERY}th is a test image"
                raise DataError(
                    f"{home / name}: this class has no {kind} images; put {need} there, or move the folder away "
                    f"(images end in {', '.join(sorted(SUFFIXES))})"
                )
            files[which] += [(path, label) for path in images]
    return classes, {which: sorted(each, key=_place) for which, each in files.items()}, sorted(unread)


def _class_folders(home: Path) -> list[str]:
    folders = [path.name for path in home.iterdir() if path.is_dir()] if home.is_dir() else []
    return sorted(name for name in folders if not name.startswith(".") and name != LEFT_BY_OTHERS)


def _images(folder: Path) -> tuple[list[Path], set[Path]]:
    """The images of one class by name, and the other files there but for hidden ones."""
    there = _beside(folder, set())
    in_place = (path for path in there if path.parent == folder and path.is_file())
    images = sorted(path for path in in_place if path.suffix.lower() in SUFFIXES)
    return images, there - {*images}


def _beside(folder: Path, names: set[str]) -> set[Path]:
    """The files in a folder and below but for `names` in it, hidden files and what archives leave there."""
    files = set[Path]()
    for path in folder.glob("[!.]*"):
        if path.name not in {*names, LEFT_BY_OTHERS}:
            files |= _beside(path, set()) if path.is_dir() and not path.is_symlink() else {path}
    return files


def _place(image: tuple[Path, int]) -> bytes:
    """A key that shuffles by the names of class and file alone: the first images of a set are of all classes.

    No generator of random numbers is promised to give the same order in years, and runs are named after the bytes.
    """
    path, _ = image
    return hashlib.sha256(os.fsencode(f"{path.parent.name}/{path.name}")).digest()


def _has_several_frames(path: Path) -> bool:
    """Whether an image has more than one. Raises DataError for one of more than 8 bits a channel."""
    several = True
    try:
        with Image.open(path) as image:
            mode, layout = image.mode, str(getattr(image, "tile", ""))
            with contextlib.suppress(Exception):  # whatever Pillow raises where those behind the first are broken
                several = getattr(image, "n_frames", 1) > 1
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}): repair or remove it") from None
    if mode[0] in "IF" or ";16" in layout:  # Pillow has colours of 16 bits as 8, and tells of it there
        raise DataError(f"{path} has more than 8 bits a channel, which would be cut off: convert it to 8 bits")
    return several


def _open(path: Path) -> Image.Image:
    try:
        image: Image.Image = Image.open(path)
        image.load()  # or a truncated one would raise where it is written
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}): repair or remove it") from None
    with contextlib.suppress(*BROKEN_NOTES):  # beside the image: they say nothing of how it lies
        image = ImageOps.exif_transpose(image)  # upright, as viewers show it
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise DataError(f"{path} is transparent in places, which have no colour: give it a background first")
    return image


def _without_grey_copies(pixels: Pixels) -> Pixels:
    """One channel in place of three that are equal."""
    return pixels[..., :1].copy() if (pixels == pixels[..., :1]).all() else pixels


def _report_copies(folder: Path, files: Files, images: dict[str, list[Pixels]], report: Callable[[str], None]) -> None:
    """Report how many images both sets have, and how many several classes have, with an example of each."""
    known: dict[bytes, tuple[str, Path, int]] = {}
    leaked, ambiguous = list[tuple[Path, Path]](), dict[bytes, tuple[Path, Path]]()
    for split in SPLITS:  # training images first
        for (path, label), pixels in zip(files[split], images[split], strict=True):
            digest, path = hashlib.sha256(pixels.tobytes()).digest(), path.relative_to(folder)
            known_split, known_path, known_label = known.setdefault(digest, (split, path, label))
            if split != known_split:
                leaked.append((path, known_path))
            if label != known_label:
                ambiguous.setdefault(digest, (path, known_path))
    found = {"test images that are also training images": leaked, "images in several classes": [*ambiguous.values()]}
    for what, pairs in found.items():
        if pairs:
            such_as = " and ".join(map(str, pairs[0]))
            report(f"{what}: {len(pairs)}, such as {such_as}; keep one of each and remove the others")
