"""What Ctrl-C, SIGTERM, a cluster's signals and the end of a limited time do to each process of the project.

| process | Ctrl-C | SIGTERM | otherwise |
|---|---|---|---|
| a command (`raise_interrupts`) | KeyboardInterrupt | the same | SIGALRM of `limit`: Spent |
| what trains (`Stop`) | saves, then ends; a second one ends it at once | saves, then ends | |
| a job of a cluster (`cluster_job`) | KeyboardInterrupt | saves, trains on | SIGUSR1, SIGUSR2: saves, is queued again |
| what waits for nothing (`end_on_interrupt`) | ends it at once | as before | |
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

POLITE = (signal.SIGINT, signal.SIGTERM)
REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)
PATIENCE_SEC = 5.0  # before a request that is not honoured yet is answered with what it waits for
ENDING_SEC = 2.0  # in which a process may still end by itself after a second Ctrl-C


class Spent(BaseException):
    """The limited time is over. The message, if any, says what is left to do."""


class Left(BaseException):
    """A look was broken off on request: the state is as it was before the look, and can be saved."""


class Interrupted(BaseException):
    """Training stopped on request, after a checkpoint."""


def raise_interrupts() -> None:
    """Have Ctrl-C and SIGTERM raise KeyboardInterrupt; Ctrl-C too where a script's `&` or nohup has it ignored."""
    for number in POLITE:
        signal.signal(number, signal.default_int_handler)


def end_on_interrupt() -> None:
    """Have Ctrl-C end this process at once: there is nothing to save."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def limit(minutes: float | None) -> Iterator[None]:
    """Raise Spent in the main thread once so many minutes have passed (None: never)."""
    if minutes is None:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise Spent

    with _handlers({signal.SIGALRM: ring}):
        signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def limited() -> bool:
    """Whether the time of this process is limited, and not spent."""
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0


class Stop:
    """A request to stop, by Ctrl-C or SIGTERM, honoured where what was trained can be saved.

    While there is nothing to save it raises KeyboardInterrupt. Where it is `deferred`, what trains asks for `requested`
    after each update; within a look, which may take long, it raises Left (`leavable`). A second Ctrl-C never waits.
    """

    def __init__(self, *, ends_process: bool = False) -> None:
        """`ends_process`: whether a second Ctrl-C ends this process, also within an operation that takes minutes."""
        self.requested, self._ends_process = False, ends_process
        self._deferring = self._leavable = False
        self._activity: str | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Install the handlers (in the main thread; elsewhere signals are the caller's business)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with _handlers(dict.fromkeys(POLITE, self._receive)), self._answering():
            yield

    @contextmanager
    def deferred(self, worthwhile: bool = True) -> Iterator[None]:
        """Within, a request waits until `requested` is asked for, unless there is nothing `worthwhile` to save."""
        self._deferring = worthwhile
        try:
            yield
        finally:
            self._deferring = False

    @contextmanager
    def leavable(self, activity: str) -> Iterator[str | None]:
        """Within, a request raises Left, also one that waits already; if that takes long, a line names the activity."""
        self._leavable, self._activity = self._deferring, activity
        try:
            if self._leavable and self.requested:
                raise Left
            yield activity
        finally:
            self._leavable, self._activity = False, None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._deferring or (self.requested and number == signal.SIGINT):
            raise KeyboardInterrupt
        first, self.requested = not self.requested, True
        if self._leavable and first:
            raise Left

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Within, a request that is not honoured for PATIENCE_SEC is answered with what it waits for.

        Python runs no handler while an operation of torch goes on, which may take minutes; the bytes that it writes for
        each signal come at once. What is on the disk is whole at any time, so that a process may be ended at any time.
        """
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        with writing:
            before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._answer, args=(reading,), daemon=True).start()
            try:
                yield
            finally:
                signal.set_wakeup_fd(before)

    def _answer(self, signals: socket.socket) -> None:
        num_interrupts = 0
        with signals:
            while True:
                try:
                    if not (number := signals.recv(1)):
                        return
                    num_interrupts += number[0] == signal.SIGINT
                    signals.settimeout(ENDING_SEC if num_interrupts > 1 else PATIENCE_SEC)
                except TimeoutError:
                    if num_interrupts > 1 and self._ends_process:
                        print("\nended at once; what was saved is kept", file=sys.stderr, flush=True)
                        os._exit(128 + signal.SIGINT)
                    if self._activity is not None:
                        print(f"\nstopping as soon as {self._activity} can be left", file=sys.stderr, flush=True)
                    signals.settimeout(None)


@dataclass
class ClusterJob:
    """What a cluster has asked of its job so far, by signals."""

    requeue: bool = False  # save, and be queued again
    warned: bool = False  # the end may be near


@contextmanager
def cluster_job() -> Iterator[ClusterJob]:
    """Within, SIGUSR1 and SIGUSR2 raise KeyboardInterrupt, and SIGTERM, which the worker receives too, is noted.

    Left after SIGUSR1 or SIGUSR2, it calls the handler that one of them had: submitit's queues the job again.
    """
    job = ClusterJob()
    former = {number: handler for number in REQUEUE if callable(handler := signal.getsignal(number))}

    def warn(number: int, frame: FrameType | None) -> None:
        job.warned = True

    def requeue(number: int, frame: FrameType | None) -> None:
        job.requeue = True
        raise KeyboardInterrupt

    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: warn} | dict.fromkeys(REQUEUE, requeue)
    with _handlers(handlers):
        yield job
    if job.requeue:
        for number, handler in former.items():
            handler(number, None)


@contextmanager
def cluster_signals_blocked() -> Iterator[None]:
    """Within, a cluster's signals wait, and a process started here never receives them: it would die of them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUEUE)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], Any]]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
