"""A tracker that another thread serves: opening a W&B run takes a second, for which no update has to wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

from bnstudy.tracking.tracker import Tracker


class Background:
    """One thread for all trackers of the process does what is asked of them, in that order; `finish` waits for it."""

    def __init__(self, open_tracker: Callable[[], Tracker]) -> None:
        self._opened: Future[Tracker] = _thread().submit(open_tracker)
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
        self._later(lambda tracker: tracker.finish(status, summary)).result()
        if self._trouble is not None:
            raise self._trouble

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
