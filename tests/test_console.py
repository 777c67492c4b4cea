"""Progress lines, with a clock that the tests move."""

from __future__ import annotations

import io

import pytest

from bnstudy.store.words import duration
from bnstudy.tracking.console import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_say_what_how_far_and_how_long_still() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress("init", 10, "runs", stream=out, clock=clock)
    for done in range(1, 10):
        clock.now += 15
        progress.update(done, f"seed {done}")
    clock.now += 15
    progress.update(10)
    progress.close("8 completed, 2 diverged")
    lines = out.getvalue().splitlines()
    assert lines[0] == "init: 0 of 10 runs, 0 %"
    assert lines[1] == "init: 1 of 10 runs, 10 %, 2 min 15 s left, seed 1"
    assert lines[9] == "init: 9 of 10 runs, 90 %, 15 s left, seed 9"
    assert lines[-1] == "init: 10 of 10 runs, 100 %, took 2 min 30 s, 8 completed, 2 diverged"


def test_a_file_gets_a_line_at_most_every_ten_seconds() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress("train", 1000, "steps", stream=out, clock=clock)
    for step in range(1000):
        clock.now += 0.1
        progress.update(step)
    assert 9 <= len(out.getvalue().splitlines()) <= 11  # 100 seconds


def test_what_turns_out_to_have_been_there_does_not_count_as_pace() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress("sweep", 4, "runs", stream=out, clock=clock)
    assert progress.left_sec is None
    progress.resumed(1.5)
    clock.now += 60
    progress.update(2)
    assert progress.left_sec == 240


def test_what_is_under_way_is_in_the_share_and_not_in_the_count() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress("sweep", 10, "runs", stream=out, clock=clock)
    for done, whole in ((0.75, None), (6.4, 0), (6.4, 5)):
        clock.now += 64
        progress.update(done, whole=whole)
    shown = [line.split(", ")[:2] for line in out.getvalue().splitlines()[1:]]
    assert shown == [["sweep: 0 of 10 runs", "7 %"], ["sweep: 0 of 10 runs", "64 %"], ["sweep: 5 of 10 runs", "64 %"]]


def test_a_share_needs_no_unit() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress("grid", stream=out, clock=clock)
    clock.now += 20
    progress.update(0.256)
    assert out.getvalue().splitlines()[-1] == "grid: 25 %, 58 s left"


def test_a_terminal_keeps_one_moving_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    clock, out = Clock(), Terminal()
    with Progress("init", 4, "runs", stream=out, clock=clock) as progress:
        for done in range(1, 5):
            clock.now += 1
            progress.update(done, "a note that is longer than the terminal is wide")
    shown = out.getvalue()
    assert shown.count("\n") == 1  # the last line
    moving = shown.split("\r\x1b[K")[1:-1]
    assert all(len(line) < 40 for line in moving if not line.endswith("\n"))
    assert shown.endswith("init: 4 of 4 runs, 100 %, took 4 s\n")


def test_a_terminal_is_not_redrawn_at_every_step() -> None:
    clock, out = Clock(), Terminal()
    progress = Progress("train", 10_000, "steps", stream=out, clock=clock)
    for step in range(10_000):
        clock.now += 0.001
        progress.update(step)
    assert out.getvalue().count("\r") <= 102


@pytest.mark.parametrize(("error", "said"), [(KeyboardInterrupt, "interrupted"), (ValueError, "stopped by an error")])
def test_a_stage_that_does_not_end_well_says_so(error: type[BaseException], said: str) -> None:
    out = io.StringIO()
    with pytest.raises(error), Progress("init", 4, "runs", stream=out, clock=Clock()):
        raise error
    assert out.getvalue().splitlines()[-1] == f"init: 0 of 4 runs, 0 %, took 0 s, {said}"


def test_an_empty_stage_is_complete() -> None:
    out = io.StringIO()
    Progress("init", 0, "runs", stream=out, clock=Clock()).close()
    assert out.getvalue().splitlines()[-1] == "init: 0 of 0 runs, 100 %, took 0 s"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (97_200, "1 d 3 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
