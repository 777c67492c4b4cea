"""How a measurement is made: each side in a process of its own, in turns, and what is said of the numbers.

A process a side: allocator settings, threads or caches of one must not help or hinder the other. While one side
measures, the other waits for its turn.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from types import TracebackType
from typing import Any, Protocol, Self

Clock = Callable[[], float]


class MeasurementError(RuntimeError):
    """A side could not be prepared or measured; the text is its traceback."""


@dataclass(frozen=True)
class Prepared:
    """One side of a row, warmed up: `measure` makes one measurement, in the row's unit; `facts` say how it is made."""

    measure: Callable[[], float]
    facts: dict[str, Any] = field(default_factory=dict)


Prepare = Callable[[], Prepared]


class Report(Protocol):
    """Called after each turn with what was measured."""

    def __call__(self, repeat: int, repeats: int, ours: float, textbook: float | None) -> None: ...


@dataclass(frozen=True)
class Measured:
    """Both sides' measurements in the order they were made; `textbook` is empty where there is nothing to compare."""

    ours: tuple[float, ...]
    textbook: tuple[float, ...]
    facts: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Ratio:
    """How many times better: of the medians, and lowest and highest of the single turns."""

    value: float
    low: float
    high: float


OURS_ALONE = ("THP_MEM_ALLOC_ENABLE",)  # settings of our own process that a textbook loop does not make


def seconds(act: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """How long `act` takes."""
    began = clock()
    act()
    return clock() - began


def ratio(ours: Sequence[float], textbook: Sequence[float], more_is_better: bool) -> Ratio:
    """How many times better `ours` is; above 1 it is better. Raises ValueError where the turns do not pair up."""
    if not ours or len(ours) != len(textbook):
        raise ValueError(f"{len(ours)} measurements against {len(textbook)}: a ratio needs pairs")

    def better(a: float, b: float) -> float:
        return a / b if more_is_better else b / a

    pairs = [better(a, b) for a, b in zip(ours, textbook, strict=True)]
    return Ratio(better(median(ours), median(textbook)), min(pairs), max(pairs))


def interleaved(ours: Prepare, textbook: Prepare | None, repeats: int, *, report: Report) -> Measured:
    """Measures A B A B ..., `repeats` times each. Raises MeasurementError with the text of what went wrong."""
    with ExitStack() as stack:
        side_a = stack.enter_context(Side(ours))
        side_b = stack.enter_context(Side(textbook, without=OURS_ALONE)) if textbook else None
        seen_a: list[float] = []
        seen_b: list[float] = []
        for repeat in range(1, repeats + 1):
            seen_a.append(side_a.measure())
            if side_b:
                seen_b.append(side_b.measure())
            report(repeat, repeats, seen_a[-1], seen_b[-1] if side_b else None)
        facts = {"ours": side_a.facts} | ({"textbook": side_b.facts} if side_b else {})
        return Measured(tuple(seen_a), tuple(seen_b), facts)


class Side:
    """A side in its own process, prepared there; use it in a `with`."""

    def __init__(self, prepare: Prepare, *, without: Sequence[str] = ()) -> None:
        """`without`: environment variables that the process does not get."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # Not a daemon: it may have to start processes of its own, which daemons must not.
        self._process = context.Process(target=_serve, args=(theirs, prepare), daemon=False)
        kept = {name: os.environ.pop(name) for name in without if name in os.environ}
        self._process.start()
        os.environ.update(kept)
        theirs.close()

    def __enter__(self) -> Self:
        self.facts: dict[str, Any] = self._receive()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def measure(self) -> float:
        """One measurement. Raises MeasurementError."""
        self._pipe.send(None)
        value: float = self._receive()
        return value

    def _receive(self) -> Any:
        try:
            value, error = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise MeasurementError(f"its process died (exit {self._process.exitcode})") from None
        if error:
            raise MeasurementError(error)
        return value


def _serve(pipe: Connection, prepare: Prepare) -> None:
    """The other process: prepares, then measures on request until the pipe is closed."""
    try:
        prepared = prepare()
        pipe.send((prepared.facts, None))
        while True:
            pipe.recv()
            pipe.send((prepared.measure(), None))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except Exception:
        pipe.send((None, traceback.format_exc()))
