"""What a few seeds allow to be inferred: intervals, paired comparisons, equivalence, Holm's correction.

The two arms of a seed share initial weights and the order of the data: they are compared in pairs, shares by the
difference of their logits, quantities that span decades by that of their logarithms. No rule here gets easier to meet
with noise, or harder with more seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd
from scipy import special  # Student's t; scipy.stats takes a second longer to import

LEVEL = 0.95  # of an interval
ALPHA = 0.05  # of a test, two-sided; of each of the two one-sided tests of an equivalence
MIN_SEEDS = 3  # fewer than this and nothing is decided


class SeedTwice(ValueError):
    """A seed has two values where it must have one, or two runs would count as two seeds."""


class Scale(StrEnum):
    """The scale on which values are averaged. The mean is brought back to the scale of the values."""

    plain = "plain"
    log = "log"  # the mean is the geometric one
    logit = "logit"  # of shares between 0 and 1

    def forward(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            if self is Scale.log:
                return np.log(values)
            return np.log(values) - np.log1p(-values) if self is Scale.logit else values

    def back(self, value: float) -> float:
        with np.errstate(over="ignore"):  # of few values far apart, an end can lie beyond the largest number
            if self is Scale.log:
                return float(np.exp(value))
            return float(1 / (1 + np.exp(-value))) if self is Scale.logit else value


@dataclass(frozen=True)
class Interval:
    """A mean over `n` seeds with its 95 % confidence interval; the ends are NaN where n is below 2.

    `left_out`: values that have no place on the scale (infinite ones; the logarithm of 0).
    """

    mean: float
    low: float
    high: float
    n: int
    left_out: int = 0


def interval(values: Iterable[float], scale: Scale = Scale.plain) -> Interval:
    """Mean over seeds, mean +- t s / sqrt(n) on the scale, brought back. NaN values (not defined) do not count."""
    usable, left_out = _usable(values, scale)
    n = len(usable)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, left_out)
    mean = float(usable.mean())
    if n == 1:
        return Interval(scale.back(mean), math.nan, math.nan, 1, left_out)
    half = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * float(usable.std(ddof=1)) / math.sqrt(n)
    return Interval(scale.back(mean), scale.back(mean - half), scale.back(mean + half), n, left_out)


def over_seeds(frame: pd.DataFrame, by: Sequence[str], value: str, scale: Scale = Scale.plain) -> pd.DataFrame:
    """`interval` of `value` over the rows that share the columns `by`: those columns, mean, low, high, n."""
    rows = []
    for key, values in frame.groupby(list(by), observed=True)[value]:
        of = interval(values, scale)
        low, high = (of.mean if math.isnan(end) else end for end in (of.low, of.high))  # of one seed no interval
        rows.append((*(key if isinstance(key, tuple) else (key,)), of.mean, low, high, of.n))
    types = {"mean": float, "low": float, "high": float, "n": int}
    return pd.DataFrame(rows, columns=[*by, *types]).astype(types | ({} if rows else dict.fromkeys(by, float)))


def effect(treated: pd.Series, control: pd.Series, scale: Scale = Scale.plain) -> pd.Series:
    """The effect by seed, of the seeds that both have: difference, ratio (scale log) or ratio of odds (scale logit).

    Both are indexed by seed. A ratio or a ratio of odds is to be averaged on the scale log. Where both values are
    infinite, or both 0, neither is known to be larger: NaN. Raises SeedTwice.
    """
    check_seeds(treated)
    check_seeds(control)
    a, b = treated.align(control, join="inner")
    a, b = a.astype(float), b.astype(float)
    with np.errstate(all="ignore"):
        if scale is Scale.log:
            return a / b
        return (a / (1 - a)) / (b / (1 - b)) if scale is Scale.logit else a - b


def check_seeds(values: pd.Series) -> None:
    """Raises SeedTwice unless there is one value a seed, by which they are indexed."""
    if not values.index.is_unique:
        twice = values.index[values.index.duplicated()][0]
        raise SeedTwice(
            f"seed {twice} has two values: the sweep varies more than this finding compares; keep the others' values "
            "out of it (results of such a sweep have a page of their own)"
        )


def above(values: Iterable[float], bound: float, scale: Scale = Scale.plain) -> float:
    """Doubled p of the one-sided t test that the mean is at most `bound`: below 0.05 where the interval is above it.

    Values that lie infinitely far on the right side count as the most extreme finite one there is. 1 where there are
    fewer than two values, where one lies infinitely far on the wrong side, or where fewer than MIN_SEEDS are finite
    among infinite ones; 0 where all of them lie infinitely far on the right side.
    """
    return _one_sided(values, bound, scale, +1)


def below(values: Iterable[float], bound: float, scale: Scale = Scale.plain) -> float:
    """As `above`, of the test that the mean is no smaller."""
    return _one_sided(values, bound, scale, -1)


def equivalent(values: Iterable[float], low: float, high: float, scale: Scale = Scale.plain) -> float:
    """p of two one-sided t tests (TOST): below 0.05 where the mean's 90 % interval lies between `low` and `high`."""
    values = list(values)
    return max(above(values, low, scale), below(values, high, scale)) / 2


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction (1979): p values that keep the chance of any false positive among them at its level."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


def slope(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Least squares; NaN unless there are two different x and every value is finite."""
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(across) < 2 or np.ptp(across) == 0 or not (np.isfinite(across).all() and np.isfinite(up).all()):
        return math.nan
    across = across - across.mean()
    return float(across @ (up - up.mean()) / (across @ across))


def _one_sided(values: Iterable[float], bound: float, scale: Scale, side: int) -> float:
    array = np.asarray(list(values), dtype=float)
    on_scale = scale.forward(array[~np.isnan(array)])
    if np.isnan(on_scale).any():  # a value has no place on the scale, as a negative one has no logarithm
        return 1.0
    if (np.isinf(on_scale) & (np.sign(on_scale) != side)).any():
        return 1.0
    usable = on_scale[np.isfinite(on_scale)]
    if len(usable) == 0 and len(on_scale) > 1:
        return 0.0  # all of them lie infinitely far on the right side
    if len(usable) < (2 if len(usable) == len(on_scale) else MIN_SEEDS):
        return 1.0
    furthest = side * float((side * usable).max())
    usable = np.where(np.isfinite(on_scale), on_scale, furthest)
    apart = side * (float(usable.mean()) - float(scale.forward(np.asarray(bound, dtype=float))))
    error = float(usable.std(ddof=1)) / math.sqrt(len(usable))
    if error == 0:
        return 0.0 if apart > 0 else 1.0
    return min(1.0, 2 * float(special.stdtr(len(usable) - 1, -apart / error)))


def _usable(values: Iterable[float], scale: Scale) -> tuple[np.ndarray, int]:
    array = np.asarray(list(values), dtype=float)
    array = array[~np.isnan(array)]
    on_scale = scale.forward(array)
    finite = on_scale[np.isfinite(on_scale)]
    return finite, len(array) - len(finite)
