"""A slice of time ends what is under way, once, and leaves the process as it was."""

from __future__ import annotations

import signal
import time

import pytest

from bnstudy.training import signals


def test_the_time_is_over_when_it_is_over():
    before = signal.getsignal(signal.SIGALRM)
    began = time.monotonic()
    with pytest.raises(signals.Spent), signals.limit(0.1 / 60):
        time.sleep(30)
    assert time.monotonic() - began < 10 and signal.getsignal(signal.SIGALRM) == before


def test_what_ends_in_time_never_hears_of_it():
    with signals.limit(0.05 / 60):
        assert signals.limited()
    assert not signals.limited()
    time.sleep(0.1)  # a timer that was left running would end the process here
    with signals.limit(None):
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_slice_is_no_error_that_a_broad_except_would_swallow():
    assert not issubclass(signals.Spent, Exception)
