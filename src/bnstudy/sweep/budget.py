"""A slice of time: when it is spent, work stops as on Ctrl-C, with everything saved; the next command resumes it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Spent(BaseException):
    """The time is over. The message, if any, says what is left."""


@contextmanager
def minutes(limit: float | None) -> Iterator[None]:
    """Raises Spent within, in the main thread, `limit` minutes from now (None: never)."""
    if limit is None:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise Spent

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 60 * limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ticking() -> bool:
    """Whether the time of this process is limited, and not spent."""
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0
