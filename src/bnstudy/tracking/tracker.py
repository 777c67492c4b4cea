"""Where a run's rows go besides its tables: the W&B mirror. (Progress on the console is `console`.)"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bnstudy.config.identity import network
from bnstudy.config.schema import Config

DELAY_SEC = 2.0  # before a tracker is opened: importing W&B, too, holds up the first update
LEAVE_SEC = 5.0  # that an interrupted run waits for one that is still being opened
T = TypeVar("T")


class Tracker(Protocol):
    """A mirror of one run. Nothing is ever read back from it, and its troubles never reach the training."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves at `step`; within a run these steps never fall."""

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of the probe `name` at `step`."""

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """The run's end, with its status (completed, diverged, failed, interrupted) and final numbers."""


class NoTracker:
    """The tracker of `tracking.mode: off`."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Drop the values."""

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Drop the rows."""

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """End nothing."""


class Background:
    """A tracker that another thread serves: opening a W&B run takes a second, for which no update has to wait.

    One thread for all such trackers of the process does what is asked of them, in that order; `finish` waits for it.
    The thread begins a little later, or when the run ends.
    """

    def __init__(self, open_tracker: Callable[[], Tracker]) -> None:
        self._ends, self._begins = threading.Event(), time.monotonic() + DELAY_SEC
        self._thread = _thread()
        self._opened = self._thread.submit(lambda: self._open(open_tracker))
        self._trouble: BaseException | None = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves, as they are now."""
        copied = dict(values)
        self._later(lambda tracker: tracker.scalars(step, copied))

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of a probe, as they are now."""
        copied = list(rows)
        self._later(lambda tracker: tracker.table(name, step, copied))

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """End the run, and wait until it is ended. Raises what opening it or a call raised.

        Whoever interrupts a run does not wait long for a tracker that does not open, as on a network that is down.
        """
        self._ends.set()
        if status == "interrupted" and not self._thread.reaches(self._opened, LEAVE_SEC):
            return
        self._later(lambda tracker: tracker.finish(status, summary)).result()
        if self._trouble is not None:
            raise self._trouble

    def _open(self, open_tracker: Callable[[], Tracker]) -> Tracker:
        self._ends.wait(self._begins - time.monotonic())
        return open_tracker()

    def _later(self, act: Callable[[Tracker], object]) -> Future[None]:
        return self._thread.submit(lambda: self._do(act))

    def _do(self, act: Callable[[Tracker], object]) -> None:
        try:
            act(self._opened.result())
        except BaseException as error:  # nobody asks for what most calls return
            self._trouble = self._trouble or error


class _Thread:
    """A thread that runs tasks in the order of their submission; unlike a pool's it does not delay Python's end."""

    def __init__(self) -> None:
        self._tasks = queue.SimpleQueue[Callable[[], None]]()
        self._given_up = False
        threading.Thread(target=self._serve, name="tracker", daemon=True).start()

    def submit(self, act: Callable[[], T]) -> Future[T]:
        future = Future[T]()

        def do() -> None:
            try:
                future.set_result(act())
            except BaseException as error:
                future.set_exception(error)

        self._tasks.put(do)
        return future

    def reaches(self, task: Future[Any], wait_sec: float) -> bool:
        """Whether it has done the task within this time. If not, it is given up, with all that waits behind."""
        try:
            task.exception(0.0 if self._given_up else wait_sec)
        except TimeoutError:
            if not self._given_up:
                print("W&B: the mirror is not open yet and is left; the tables have everything.", file=sys.stderr)
            self._given_up = True
            _thread.cache_clear()
            return False
        return True

    def _serve(self) -> None:
        while True:
            self._tasks.get()()


@cache
def _thread() -> _Thread:
    return _Thread()


def tracker_of(config: Config, run_id: str, results: Path, facts: Mapping[str, Any]) -> Tracker:
    """The mirror that `config.tracking` asks for, opened meanwhile; `facts`, nested, become the W&B run's config."""
    from bnstudy.tracking.wandb import Wandb, limited

    mode = limited(config.tracking.mode)
    if mode == "off":
        return NoTracker()
    tags = [network(config), config.norm["name"], config.data.name, *config.tracking.tags]
    return Background(
        lambda: Wandb(
            results,
            mode=mode,
            project=config.tracking.project,
            run_id=run_id,
            group=config.sweep.name,
            tags=list(dict.fromkeys(tags)),
            config=facts,
        )
    )
