"""Files are written whole or not at all: to a temporary name beside the target, synced, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` atomically, on failure it is removed.

    Raises OSError as the file system does (full disk, read-only folder), with `path` untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")  # nobody else's, on any machine
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


STAGED, COMPLETE = ".new", "complete.json"  # the folder of a set of files that is to take the place of another


@contextmanager
def replacing_all(folder: Path) -> Iterator[Path]:
    """Yield an empty folder; on success its files take the place of those in `folder` with such endings, as one.

    They count from the moment when their list is written: `current` gives the old files before it and the new ones
    after it, wherever a kill may come, and the next `settle` completes what was interrupted. On failure nothing has
    changed. One process at a time may do so. Raises OSError as the file system does.
    """
    settle(folder)
    staged = folder / STAGED
    staged.mkdir(parents=True)
    try:
        yield staged
        for path in staged.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        _sync_folder(staged)
        write_text(staged / COMPLETE, json.dumps(sorted(path.name for path in staged.iterdir())))
    except BaseException:
        if not (staged / COMPLETE).exists():
            shutil.rmtree(staged, ignore_errors=True)
        raise
    settle(folder)


def settle(folder: Path) -> None:
    """Complete a replacement that was interrupted after all of its files were written, and drop an earlier one."""
    staged = folder / STAGED
    if not staged.is_dir():
        return
    if (names := _complete(staged)) is not None:
        for name in names:
            with suppress(FileNotFoundError):  # renamed before the interruption
                (staged / name).replace(folder / name)
        _sync_folder(folder)
        written = {Path(name).suffix for name in names}
        for path in folder.iterdir():
            if path.is_file() and path.name not in names and path.suffix in written:
                path.unlink()
        (staged / COMPLETE).unlink()  # alone: everything that it names has its place
    shutil.rmtree(staged)


def current(folder: Path) -> list[Path]:
    """The files of `folder` by name: all of them old or all new, during a replacement, too."""
    if not folder.is_dir():
        return []
    staged = folder / STAGED
    if (names := _complete(staged)) is None:
        return sorted(path for path in folder.iterdir() if path.is_file())
    return [staged / name if (staged / name).exists() else folder / name for name in names]


def _complete(staged: Path) -> list[str] | None:
    try:
        return [str(name) for name in json.loads((staged / COMPLETE).read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return None


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """As `replacing`, with an open file, for libraries that would read a path as an address (`~`, `s3:`)."""
    with replacing(path) as part, part.open("wb") as file:
        yield file


def check_writable(folder: Path) -> None:
    """Raises OSError, as the system would, where the folder cannot be written to; leaves nothing behind."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    try:
        tempfile.TemporaryFile(dir=there).close()  # not by its rights: by them root may write to /proc
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(there)) from None


def fault_of_the_disk(error: BaseException | None) -> OSError | None:
    """The error of a full, read-only or failing disk that led to this one; None where there is none.

    Libraries that stumble over such an error in cleaning up raise another one.
    """
    passed = set[int]()
    while error is not None and id(error) not in passed:
        if isinstance(error, OSError) and error.errno in DISK:
            return error
        passed.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def write_text(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can sync a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
