"""Where a run's rows go besides its tables: the W&B mirror. (Progress on the console is `console`.)"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from bnstudy.config.identity import network
from bnstudy.config.schema import Config

DELAY_SEC = 2.0  # before a tracker is opened: importing W&B, too, holds up the first update


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
        self._opened: Future[Tracker] = _thread().submit(self._open, open_tracker)
        self._trouble: BaseException | None = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves, as they are now."""
        kept = dict(values)
        self._later(lambda tracker: tracker.scalars(step, kept))

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of a probe, as they are now."""
        kept = list(rows)
        self._later(lambda tracker: tracker.table(name, step, kept))

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """End the run, and wait until it is ended. Raises what opening it or a call raised."""
        self._ends.set()
        self._later(lambda tracker: tracker.finish(status, summary)).result()
        if self._trouble is not None:
            raise self._trouble

    def _open(self, open_tracker: Callable[[], Tracker]) -> Tracker:
        self._ends.wait(self._begins - time.monotonic())
        return open_tracker()

    def _later(self, act: Callable[[Tracker], object]) -> Future[None]:
        return _thread().submit(self._do, act)

    def _do(self, act: Callable[[Tracker], object]) -> None:
        try:
            act(self._opened.result())
        except BaseException as error:  # nobody asks for what most calls return
            self._trouble = self._trouble or error


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="tracker")


def tracker_of(config: Config, run_id: str, results: Path, facts: Mapping[str, Any]) -> Tracker:
    """The mirror that `config.tracking` asks for, opened meanwhile; `facts`, nested, become the W&B run's config."""
    if config.tracking.mode == "off":
        return NoTracker()
    from bnstudy.tracking.wandb import Wandb

    tags = [network(config), config.norm["name"], config.data.name, *config.tracking.tags]
    return Background(
        lambda: Wandb(
            results,
            mode=config.tracking.mode,
            project=config.tracking.project,
            run_id=run_id,
            group=config.sweep.name,
            tags=list(dict.fromkeys(tags)),
            config=facts,
        )
    )
