"""Brackets: between which learning rates training ceases to work, and the rates that narrow it. Pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from bnstudy.store import outcomes

TRAINED, STALLED, DIVERGED = "trained", "stalled", outcomes.DIVERGED  # of a run that ended, by its training accuracy
WORKS = (TRAINED, outcomes.LEARNS)
ENDS = ((TRAINED, STALLED, DIVERGED), (outcomes.LEARNS, outcomes.CHANCE, DIVERGED))  # by accuracy, by losses


@dataclass(frozen=True)
class Bracket:
    """Every rate tried up to `low` trains, apart from the smallest, which may be too small to; `high` does not.

    `low` is None where no rate trains below the first that fails, `high` where the largest rate tried trains. A rate
    above `high` that trains is one of `non_monotone`: what trains is then no interval, and the bracket its lower end.
    `finite`: no rate learns, and the bracket is that of the rates which stay finite; learning cannot end above it.
    """

    low: float | None
    high: float | None
    non_monotone: tuple[float, ...] = ()
    finite: bool = False

    def middle(self, factor: float) -> float | None:
        """The rate that halves the bracket geometrically, to three digits; None where high / low <= `factor`."""
        if self.low is None or self.high is None or self.high / self.low <= factor:
            return None
        return float(f"{math.sqrt(self.low * self.high):.3g}")

    def __str__(self) -> str:
        from bnstudy.analysis.frames import number  # and with it pandas, which a search does not need

        if self.low is None:
            text = "none of those tried"
        elif self.high is None:
            text = f"at or above {number(self.low)}"
        else:
            text = f"{number(self.low)} to {number(self.high)}"
        text = f"{text} (again at {', '.join(map(number, self.non_monotone))})" if self.non_monotone else text
        return f"{text}; none learns, finite" if self.finite else text


def of(ended: Mapping[float, str]) -> Bracket:
    """The bracket that the outcomes by rate give, by training accuracy or by losses (see `outcomes`).

    A rate that stalls, or stays at chance, below all others that do not is too small. By losses, where no rate learns,
    the bracket is that of the rates at which training stays finite.
    """
    rates = sorted(ended)
    finite = by_losses(ended) and outcomes.LEARNS not in ended.values()
    while rates and not finite and ended[rates[0]] not in (*WORKS, DIVERGED):
        rates.pop(0)
    works = [ended[rate] != DIVERGED if finite else ended[rate] in WORKS for rate in rates]
    edge = works.index(False) if False in works else len(works)
    return Bracket(
        low=rates[edge - 1] if edge else None,
        high=rates[edge] if edge < len(rates) else None,
        non_monotone=tuple(rate for rate, does in zip(rates[edge:], works[edge:], strict=True) if does),
        finite=finite,
    )


def by_losses(ended: Mapping[float, str]) -> bool:
    """Whether these outcomes are judged by losses; those of a cell in which every run diverged may be either."""
    return any(outcome not in ENDS[0] for outcome in ended.values())


def search(grid: Iterable[float], factor: float, outcome: Callable[[float], str | None]) -> dict[float, str | None]:
    """Every rate that the search asks for, with its outcome; None where `outcome` does not know it yet.

    First the grid, all of it; then, one by one, the middles of the bracket until its ends are at most `factor` apart.
    Nothing is kept between calls: earlier outcomes are asked for again, so that a search resumes after any
    interruption.
    """
    known = {rate: outcome(rate) for rate in grid}
    while (ended := {rate: end for rate, end in known.items() if end is not None}).keys() == known.keys():
        middle = of(ended).middle(factor)
        if middle is None:
            break
        known[middle] = outcome(middle)
    return known


def still(tried: Mapping[float, str | None], factor: float) -> tuple[int, int]:
    """How many rates `search` asks for beyond those `tried`: at least, at most."""
    rates = sorted(tried)
    ended = {rate: outcome for rate, outcome in tried.items() if outcome is not None}
    unknown = tried.keys() - ended.keys()
    if len(unknown) == 1:
        ends = ENDS[1] if by_losses(ended) else ENDS[0]
        possible = [of(ended | dict.fromkeys(unknown, end)) for end in ends]
        counts = [_halvings(bracket, factor) for bracket in possible]
    elif unknown:  # of the grid; none of its rates may train, or all
        counts = [(0, _halvings(Bracket(*gap), factor)[1]) for gap in itertools.pairwise(rates)]
    else:
        counts = []
    return min((low for low, _ in counts), default=0), max((high for _, high in counts), default=0)


def _halvings(bracket: Bracket, factor: float) -> tuple[int, int]:
    middle = bracket.middle(factor)
    if middle is None:
        return 0, 0
    halves = [_halvings(Bracket(*ends), factor) for ends in ((bracket.low, middle), (middle, bracket.high))]
    return 1 + min(low for low, _ in halves), 1 + max(high for _, high in halves)
