"""Locks on runs: one process at a time trains a run, and one that dies leaves it to the others at once.

A lock is a file `locks/<run id>` that its holder keeps locked by the kernel (flock, through `filelock`) and that names
the holder. Whether a run is locked only the kernel decides, so nothing has to be renewed, timed out or cleaned up. On a
network file system locks reach other machines where it is mounted with them: NFS 4 does so (its server frees the locks
of a machine that it lost after some 90 seconds), Lustre with `-o flock`. Where there are no locks, locking fails with a
message.
"""

from __future__ import annotations

import errno
import os
import platform
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bnstudy.store import paths

WAIT_SEC = 0.5  # for a lock: a process that looks up its holder may have it for an instant
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)
BUSY = "another process trains this run"
ELSEWHERE = "trained by another process"


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as its file names it."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


UNKNOWN = Holder("?", 0)  # of a lock that was taken an instant ago


class Locked(OSError):
    """A run that another process holds."""

    def __init__(self, run_id: str, holder: Holder) -> None:
        super().__init__(errno.EWOULDBLOCK, f"{BUSY} ({holder})", run_id)


class Locks:
    """Runs that this process holds."""

    def __init__(self, files: Mapping[str, Path], name: str) -> None:
        self._files, self._name = files, name

    def check(self) -> None:
        """Raise Locked where another process has a lock by now, after this machine lost its network's locks."""
        for run_id, path in self._files.items():
            if (text := _read(path)) != self._name:
                raise Locked(run_id, _named(text))


@contextmanager
def hold(results: Path, run_ids: Iterable[str]) -> Iterator[Locks]:
    """Hold all of these runs. Raises Locked naming one that another process holds."""
    files = {run_id: paths.lock(results, run_id) for run_id in sorted(run_ids)}
    name = f"{os.getpid()} {platform.node()} {secrets.token_hex(4)}"
    with ExitStack() as stack:
        for run_id, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(_locked(path, WAIT_SEC, name))
            except Timeout:
                raise Locked(run_id, _named(_read(path))) from None
        yield Locks(files, name)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Within, no other process is; waits for as long as one is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, -1):
        yield


def holder(results: Path, run_id: str) -> Holder | None:
    """The process that holds the run, or None."""
    path = paths.lock(results, run_id)
    if not path.exists():
        return None
    try:
        with _locked(path, 0):  # left behind by a process that died
            return None
    except Timeout:
        return _named(_read(path))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):  # another user's, who alone can tell if a process still holds it
            return _named(_read(path))
        if error.errno == errno.EROFS:  # nothing here can tell whether it trains elsewhere
            return None
        raise


def holders(results: Path) -> dict[str, Holder]:
    """The holder of every run that is locked."""
    folder = paths.locks(results)
    by_run = {path.name: holder(results, path.name) for path in sorted(folder.iterdir())} if folder.is_dir() else {}
    return {run_id: who for run_id, who in by_run.items() if who is not None}


@contextmanager
def _locked(path: Path, wait_sec: float, name: str | None = None) -> Iterator[None]:
    """Hold the file's lock within, under a name, and remove the file before letting go. Raises filelock's Timeout."""
    lock = FileLock(path, thread_local=False, is_singleton=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=wait_sec, poll_interval=0.02)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        why = "the file system has no locks; mount it with them (Lustre: -o flock), or give another --results"
        raise OSError(error.errno, why, str(path)) from None
    try:
        if name is not None:
            path.write_text(name, encoding="utf-8")
        yield
    finally:
        if name in (None, _read(path)):  # else the lock was lost, and the file is another holder's
            path.unlink(missing_ok=True)  # a process that waits for this file sees that it is gone, and makes a new one
        lock.release()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, PermissionError):
        return ""


def _named(text: str) -> Holder:
    pid, _, rest = text.partition(" ")
    return Holder(rest.rpartition(" ")[0], int(pid)) if pid.isdecimal() and rest else UNKNOWN
