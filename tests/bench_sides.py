"""Sides for the bench's tests, in a module of their own: the processes that import it need not wait for torch."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.measure import Prepared


def logging(name: str, log: Path) -> Prepared:
    """A side that notes every measurement in a file and returns how many there were."""

    def note() -> float:
        with log.open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        return float(len(log.read_text().splitlines()))

    return Prepared(note, {"name": name})


def failing(when: str) -> Prepared:
    def fail() -> float:
        raise OSError("at measuring")

    if when == "preparing":
        raise OSError("at preparing")
    return Prepared((lambda: os._exit(7)) if when == "dying" else fail)
