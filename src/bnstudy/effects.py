"""How far two arms are apart: means with 95 % intervals over seeds, their difference, and an effect size.

Seeds are few (three to ten), so intervals are Student's: a bootstrap of five values is too narrow. Quantities that
span decades are compared as ratios: their logarithms have the mean and the interval. The effect size is Cliff's delta
(1993), which no transformation of the values changes and no outlier inflates. Verdicts do not depend on any of this:
they go by each claim's criterion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bnstudy.frames import number

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, or a difference of means, with its 95 % interval. The ends are NaN where the values are too few."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return number(self.mean)
        return f"{number(self.mean)} [{number(self.low)}, {number(self.high)}]"


@dataclass(frozen=True)
class Arms:
    """A quantity of a claim, one value a seed in each arm. `ratio`: it is compared by its logarithm.

    Values that are not finite (or, by logarithm, not positive) have no place in a mean; they are left out, and told.
    """

    quantity: str
    batch: tuple[float, ...]
    none: tuple[float, ...]
    ratio: bool = False

    def told(self) -> str:
        """In one line: both means, how far apart they are, and Cliff's delta."""
        of = {"with BN": self._usable(self.batch), "without": self._usable(self.none)}
        if min(map(len, of.values())) == 0:
            return ""
        means = ", ".join(f"{self._back(mean(values))} {arm}" for arm, values in of.items())
        apart = self._back(difference(of["without"], of["with BN"]))
        word = f"without {'over' if self.ratio else 'minus'} with BN {apart}"
        delta = f"Cliff's delta {number(cliffs_delta(self.none, self.batch))}"
        left_out = len(self.batch) + len(self.none) - sum(map(len, of.values()))
        without_mean = "zero or infinite" if self.ratio else "infinite"
        told = f"; {without_mean} and left out of the means: {left_out}" if left_out else ""
        return f"{self.quantity}: {means}; {word}; {delta}{told}"

    def _usable(self, values: Sequence[float]) -> list[float]:
        if self.ratio:
            return [math.log(v) for v in values if v > 0 and math.isfinite(v)]
        return [v for v in values if math.isfinite(v)]

    def _back(self, interval: Interval) -> Interval:
        if not self.ratio:
            return interval
        with np.errstate(over="ignore"):  # of few values far apart, an end can lie beyond the largest number
            return Interval(*np.exp((interval.mean, interval.low, interval.high)).tolist())


def told(compared: Arms | Sequence[Arms]) -> str:
    """What there is to tell of a quantity, or of each of several, in one line."""
    every = (compared,) if isinstance(compared, Arms) else compared
    return ". ".join(line for each in every if (line := each.told()))


def arms(frame: pd.DataFrame, value: str, quantity: str, *, ratio: bool = False) -> Arms:
    """From a frame with one row a seed and arm (column `norm`). NaN (not defined) is left out."""
    batch, none = (tuple(frame.loc[frame["norm"] == arm, value].dropna().astype(float)) for arm in ("batch", "none"))
    return Arms(quantity, batch, none, ratio)


def mean(values: Sequence[float]) -> Interval:
    """Mean with Student's 95 % interval. Raises ValueError without a value."""
    if not len(values):
        raise ValueError("mean of no values")
    centre, n = float(np.mean(values)), len(values)
    if n < 2:
        return Interval(centre, math.nan, math.nan)
    half = _t(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(centre, centre - half, centre + half)


def difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Mean of `a` minus mean of `b`, with Welch's 95 % interval (variances need not be equal)."""
    apart = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2:
        return Interval(apart, math.nan, math.nan)
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (a, b)]
    error = sum(parts)
    if error == 0:
        return Interval(apart, apart, apart)
    # Welch-Satterthwaite
    freedom = error**2 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (a, b), strict=True))
    half = _t(freedom) * math.sqrt(error)
    return Interval(apart, apart - half, apart + half)


def cliffs_delta(a: Sequence[float], b: Sequence[float]) -> float:
    """Share of pairs in which a value of `a` is larger minus that in which it is smaller: from -1 to 1."""
    from scipy import stats  # slow to import

    ranks = stats.rankdata([*a, *b])  # infinite values have a rank, too
    return float(np.sign(np.subtract.outer(ranks[: len(a)], ranks[len(a) :])).mean())


def _t(freedom: float) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))
