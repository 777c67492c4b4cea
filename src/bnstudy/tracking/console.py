"""Progress of a stage on the console: what, how far, how long still. On a terminal one line that moves."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from bnstudy.store.words import duration

LINE_SEC = 10.0  # between lines where the stream is a file or a pipe
REDRAW_SEC = 0.1  # between redraws on a terminal
CLEAR = "\r\x1b[K"  # to the line's start, and empty it


class Progress:
    """Shows how far one stage is, as in `fetch: 3 of 10 files, 30 %, 2 min 5 s left, cifar10`.

    `total` counts `unit`s (without a unit only the share is shown). Parts of units count towards the share, whole ones
    alone are counted. `live`: whether the line moves; None: on a terminal. Use it in a `with`, or
    call `close`.
    """

    def __init__(
        self,
        what: str,
        total: float = 1.0,
        unit: str = "",
        *,
        stream: TextIO | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._unit, self._begun, self._done = what, total, unit, 0.0, 0.0
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty() if live is None else live
        self._clock = clock
        self._start = clock()
        self._closed = self._stepped = False
        self._note, self._whole = "", 0
        self._show(self._start)

    def update(self, done: float, note: str = "", *, whole: int | None = None) -> None:
        """`done` units in all are finished; `note` says what is under way. Cheap enough for every step.

        `whole`: how many of them are, where `done` adds up parts of several.
        """
        self._done, self._note, self._whole = done, note, math.floor(done) if whole is None else whole
        now = self._clock()
        if now - self._shown >= (REDRAW_SEC if self._live else LINE_SEC):
            self._show(now)

    def step(self, done: int, total: int) -> None:
        """`done` of a run's `total` updates are made; what was made at the first call is a checkpoint's."""
        if not self._stepped:
            self._stepped = True
            self.resumed(done / total)
        self.update(done / total, f"step {done} of {total}")

    def resumed(self, part: float) -> None:
        """`part` units of what is done were there before this stage began, as only now is known."""
        self._begun += part

    @property
    def left_sec(self) -> float | None:
        """The time left at the pace so far; None while there is none."""
        gained, left = self._done - self._begun, self._total - self._done
        return (self._clock() - self._start) * left / gained if gained > 0 else None

    def close(self, note: str = "") -> None:
        """The stage's last line, with the time it took."""
        if not self._closed:
            self._closed = True
            self._write(f"{self._how_far()}, took {duration(self._clock() - self._start)}", note, last=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.close("stopped by an error" if issubclass(kind, Exception) else "interrupted")

    def _show(self, now: float) -> None:
        self._shown = now
        still = f", {duration(self.left_sec)} left" if self.left_sec else ""
        self._write(f"{self._how_far()}{still}", self._note, last=False)

    def _how_far(self) -> str:
        share = self._done / self._total if self._total else 1.0
        counted = f"{self._whole:,} of {self._total:,.0f} {self._unit}, " if self._unit else ""
        return f"{self._what}: {counted}{math.floor(100 * share)} %"

    def _write(self, text: str, note: str, *, last: bool) -> None:
        line = f"{text}, {note}" if note else text
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(CLEAR + (f"{line}\n" if last else line[:width]))
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()
