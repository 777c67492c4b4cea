"""Which process makes a run: a claim that one process holds at a time, and that it loses when it dies.

A claim on a run is the folder `leases/<run id>` with one empty file in it, whose name says who holds the claim and
whose time of change the holder renews. It is made whole and renamed to its place, which fails where another one is: on
network file systems too, that leaves one winner. A claim whose holder is dead changes hands by renaming that one file,
which again succeeds for one process only.

Dead is a process of this machine that is gone, at once; and any whose claim has stood still for `EXPIRE_SEC` under the
eyes and by the clock of who looks: times are compared for equality only, so that no two machines need to agree on one.
A holder that could not renew its claim for as long (suspended, cut off) finds out before it writes anything more.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bnstudy.store import paths

BEAT_SEC = 5.0  # between renewals
EXPIRE_SEC = 60.0  # without one, and a claim is anyone's; network file systems may show a change half a minute late
MAKING = "another process is making this run"
MADE = "made by another process"


class Taken(OSError):
    """A run that is another process's to make."""

    def __init__(self, run_id: str, holder: Holder | None) -> None:
        super().__init__(errno.EWOULDBLOCK, f"{MAKING} ({holder})" if holder else MAKING, run_id)


@dataclass(frozen=True)
class Holder:
    """A process, and the machine on which its number means something: one boot of one kernel, one space of numbers."""

    host: str
    machine: str
    pid: int
    started: str  # tells it from a later process of the same number
    token: str

    @classmethod
    def here(cls) -> Holder:
        host = re.sub(r"[^\w.-]", "-", platform.node()) or "unknown"
        return cls(host, _machine(), os.getpid(), _started(os.getpid()) or "0", secrets.token_hex(4))

    @classmethod
    def named(cls, name: str) -> Holder | None:
        """The holder that a claim's file names; None where something else lies there."""
        host, *rest = name.split("~")
        if len(rest) != 4 or not rest[1].isdecimal():
            return None
        return cls(host, rest[0], int(rest[1]), rest[2], rest[3])

    @property
    def name(self) -> str:
        return f"{self.host}~{self.machine}~{self.pid}~{self.started}~{self.token}"

    @property
    def dead(self) -> bool:
        """Whether it is certainly gone. Of other machines nothing is certain."""
        return self.machine == _machine() and _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


UNKNOWN = Holder("?", "", 0, "", "")  # of a claim whose file names nobody


@dataclass(frozen=True)
class Pulse:
    """What a claim looks like at one moment. Equal to what it looked like before: not renewed in between."""

    name: str
    renewed: int

    @property
    def holder(self) -> Holder | None:
        return Holder.named(self.name)


def look(results: Path, run_id: str) -> Pulse | None:
    """The claim on a run; None where nobody has one."""
    folder = paths.lease(results, run_id)
    while True:
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not names:  # let go of, or about to be
            return None
        try:
            handle = os.open(folder / names[0], os.O_RDONLY)  # opened, since a network's client asks the server then
        except FileNotFoundError:
            continue  # it changed hands as we looked
        try:
            return Pulse(names[0], os.fstat(handle).st_mtime_ns)
        finally:
            os.close(handle)


def held(results: Path) -> dict[str, Holder]:
    """The runs that processes hold now, but for those that are certainly dead. One look: a claim may have expired."""
    try:
        run_ids = sorted(name for name in os.listdir(paths.leases(results)) if not name.startswith("."))
    except FileNotFoundError:
        return {}
    found = {run_id: pulse.holder for run_id in run_ids if (pulse := look(results, run_id)) is not None}
    return {run_id: holder for run_id, holder in found.items() if holder is not None and not holder.dead}


class Watch:
    """Looks at claims again and again, and knows which of them stand still."""

    def __init__(self, results: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._results, self._clock = results, clock
        self._since: dict[str, tuple[Pulse, float]] = {}

    def holder(self, run_id: str) -> Holder | None:
        """Who is making the run, for all that can be seen; None where anyone may."""
        pulse, now = look(self._results, run_id), self._clock()
        if pulse is None or (pulse.holder is not None and pulse.holder.dead):
            self._since.pop(run_id, None)
            return None
        seen, since = self._since.get(run_id, (None, now))
        if seen != pulse:
            self._since[run_id] = pulse, now
        return None if seen == pulse and now - since >= EXPIRE_SEC else pulse.holder or UNKNOWN

    def expired(self) -> dict[str, Pulse]:
        """The claims that have stood still for long enough, as they looked all the while."""
        now = self._clock()
        return {run_id: pulse for run_id, (pulse, since) in self._since.items() if now - since >= EXPIRE_SEC}


class Claim:
    """Runs that are this process's to make, for as long as `check` is content."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._renewed = _uptime()
        self._lost: str | None = None

    def check(self) -> None:
        """Raises Taken where another process has, or may have, taken over. Costs nothing but a look at the clock."""
        if self._lost is None and _uptime() - self._renewed > 2 * BEAT_SEC:
            self.renew()
        if self._lost is not None:
            raise Taken(self._lost, None)

    def renew(self) -> None:
        """Shows that this process is alive."""
        now = _uptime()
        for run_id, path in self._files.items():
            try:
                os.utime(path)
            except FileNotFoundError:
                self._lost = run_id
                return
            except OSError:  # the file system is away: if it stays so, others may think that we are
                if now - self._renewed > EXPIRE_SEC:
                    self._lost = run_id
                return
        self._renewed = now


@contextmanager
def claimed(results: Path, run_ids: Iterable[str], expired: Mapping[str, Pulse] | None = None) -> Iterator[Claim]:
    """Within, these runs are this process's to make, all of them. Raises Taken naming one that is another's.

    `expired` are claims that a Watch has seen to stand still.
    """
    files: dict[str, Path] = {}
    try:
        for run_id in sorted(run_ids):
            files[run_id] = _take(results, run_id, (expired or {}).get(run_id))
        claim, ended = Claim(files), threading.Event()
        beating = threading.Thread(target=_beat, args=(claim, ended), daemon=True)
        beating.start()
        try:
            yield claim
        finally:
            ended.set()
            beating.join()
    finally:
        for path in files.values():
            with contextlib.suppress(OSError):  # lost, or a file system that is away
                path.unlink()
                path.parent.rmdir()


def _beat(claim: Claim, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SEC):
        claim.renew()


def _take(results: Path, run_id: str, expired: Pulse | None) -> Path:
    """Makes the claim, or takes over a dead holder's; its file."""
    folder, mine = paths.lease(results, run_id), Holder.here().name
    while True:
        if _put(folder, mine):
            return folder / mine
        pulse = look(results, run_id)
        if pulse is None:
            continue
        holder = pulse.holder
        if pulse != expired and not (holder is not None and holder.dead):
            raise Taken(run_id, holder)
        with contextlib.suppress(FileNotFoundError):  # another was faster; or we were, and a network's answer got lost
            os.rename(folder / pulse.name, folder / mine)
        try:
            os.utime(folder / mine)
        except FileNotFoundError:
            continue
        return folder / mine


def _put(folder: Path, name: str) -> bool:
    """Puts a claim where none is; False where one is."""
    whole = folder.with_name(f".{name}")
    whole.mkdir(parents=True)
    try:
        (whole / name).touch()
        whole.rename(folder)  # takes the place of an empty folder, which is nobody's claim
    except OSError as error:
        (whole / name).unlink(missing_ok=True)
        whole.rmdir()
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _uptime() -> float:
    """A clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@cache
def _machine() -> str:
    """Equal for two processes only if they see each other's numbers: the kernel's boot, and its space of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot, space = f"{uuid.getnode():x}", platform.node()
    return hashlib.sha256(f"{boot} {space}".encode()).hexdigest()[:8]


def _started(pid: int) -> str | None:
    """When a process of this machine began, by the kernel's count; None: it is gone; "0": that is not told here."""
    if Path("/proc/self/stat").exists():
        try:
            state, *rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if state in "ZX" else rest[18]  # a zombie does nothing any more
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return "0"
    return "0"
