"""How a measurement is made, each side in a process of its own and in turns, and what is derived from the numbers.

One process per side: allocator settings, threads or caches of one must not help or hinder the other. While one side
measures, the other waits for its turn.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
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
    """Called after each turn with what each side measured, by name; ours comes first."""

    def __call__(self, repeat: int, repeats: int, turn: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class Measured:
    """A side's measurements in the order they were made, and how it was set up."""

    values: tuple[float, ...]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Ratio:
    """How many times better: of the medians, and lowest and highest of the single turns."""

    value: float
    low: float
    high: float


OURS = "ours"  # the side that the others are compared with
OURS_ALONE = ("THP_MEM_ALLOC_ENABLE",)  # settings of our own process that a baseline does not make


def seconds(act: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """How long `act` takes."""
    began = clock()
    act()
    return clock() - began


def ratio(ours: Sequence[float], theirs: Sequence[float], more_is_better: bool) -> Ratio:
    """How many times better `ours` is; above 1 it is better. Raises ValueError where the turns do not pair up."""
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} measurements against {len(theirs)}: a ratio needs pairs")

    def better(a: float, b: float) -> float:
        return a / b if more_is_better else b / a

    pairs = [better(a, b) for a, b in zip(ours, theirs, strict=True)]
    return Ratio(better(median(ours), median(theirs)), min(pairs), max(pairs))


def interleaved(sides: Mapping[str, Prepare], repeats: int, *, report: Report) -> dict[str, Measured]:
    """Measure A B C A B C ..., `repeats` times each. Raises MeasurementError with the text of what went wrong."""
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(Side(prepare, without=() if name == OURS else OURS_ALONE))
            for name, prepare in sides.items()
        }
        turns: list[dict[str, float]] = []
        for repeat in range(1, repeats + 1):
            turns.append({name: side.measure() for name, side in running.items()})
            report(repeat, repeats, turns[-1])
        return {name: Measured(tuple(turn[name] for turn in turns), side.facts) for name, side in running.items()}


class Side:
    """A side in its own process, prepared there; use it in a `with`."""

    def __init__(self, prepare: Prepare, *, without: Sequence[str] = ()) -> None:
        """`without`: environment variables that the process does not get."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # Not a daemon: it may have to start processes of its own, which daemons must not.
        self._process = context.Process(target=_serve, args=(theirs, prepare), daemon=False)
        removed = {name: os.environ.pop(name) for name in without if name in os.environ}
        self._process.start()
        os.environ.update(removed)
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
