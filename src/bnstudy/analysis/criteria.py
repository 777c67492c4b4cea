"""Criteria as data: what a claim asks of the measured values, the sentence that says so, and how it is judged.

A criterion is a conjunction of parts. A part says where the mean over seeds of one quantity lies, of which there is one
value per seed: above a bound or below one (its 95 % interval is), or between two (equivalence: two one-sided tests at
5 %). The sentence is made from the same numbers as the verdict, so that the two cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import pandas as pd

from bnstudy.analysis import stats
from bnstudy.analysis.frames import ARMS, number
from bnstudy.analysis.stats import ALPHA, MIN_SEEDS, Interval, Scale

LABELS = {"batch": "with BN", "none": "without"}
_MEANS = {Scale.plain: "", Scale.log: " (geometric mean)", Scale.logit: " (averaged as a logit)"}


class Outcome(StrEnum):
    """What the values say of a part: that it holds, that it does not, or neither."""

    holds = "holds"
    fails = "fails"
    open = "open"


@dataclass(frozen=True)
class Sample:
    """The values that one part is judged by, one per seed, and those of the two arms they compare, if they do."""

    values: pd.Series
    arms: Mapping[str, pd.Series] = field(default_factory=dict)
    arms_scale: Scale = Scale.plain


class HoldsFor(StrEnum):
    """What a bound applies to: the mean over seeds, or the seeds themselves, where nothing is left to chance."""

    mean = ""
    every = "in every seed"
    some = "in some seed"


@dataclass(frozen=True)
class Part:
    """Bounds on the quantity `of`: on its mean over seeds, taken on `scale`, or on the seeds themselves (`holds_for`).

    `at` names the place, as in "layer 18", where parts ask the same of one quantity in several places.
    Raises ValueError for a part without a bound, or with bounds that leave nothing between them.
    """

    of: str
    above: float | None = None
    below: float | None = None
    scale: Scale = Scale.plain
    unit: str = ""
    at: str = ""
    holds_for: HoldsFor = HoldsFor.mean

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise ValueError(f"criterion on {self.of}: give above, below, or both")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"criterion on {self.of}: above = {self.above} is not less than below = {self.below}")

    @property
    def key(self) -> str:
        """The name of its sample."""
        return f"{self.of}, {self.at}" if self.at else self.of

    @property
    def asks(self) -> str:
        """The quantity and its bound."""
        unit = f" {self.unit}" if self.unit else ""
        if self.above is None or self.below is None:
            bound = f"above {_exact(self.above)}" if self.above is not None else f"below {_exact(self.below or 0.0)}"
        else:
            bound = f"between {_exact(self.above)} and {_exact(self.below)}"
        return " ".join(filter(None, (f"{self.of}: {bound}{unit}{_MEANS[self.scale]}", self.holds_for)))

    def p(self, values: pd.Series) -> float:
        """A p value, below 0.05 where the part holds."""
        if self.holds_for:
            return float(not self._holds(values))
        if self.above is None:
            return stats.below(values, self.below or 0.0, self.scale)
        if self.below is None:
            return stats.above(values, self.above, self.scale)
        return stats.equivalent(values, self.above, self.below, self.scale)

    def p_against(self, values: pd.Series) -> float:
        """A p value, below 0.05 where the part fails: where the mean lies on a bound's wrong side."""
        if self.holds_for:
            return float(self._holds(values))
        wrong = [stats.below(values, self.above, self.scale)] if self.above is not None else []
        wrong += [stats.above(values, self.below, self.scale)] if self.below is not None else []
        return min(wrong)

    def outcome(self, values: pd.Series) -> Outcome:
        if self.p(values) < ALPHA:
            return Outcome.holds
        return Outcome.fails if self.p_against(values) < ALPHA else Outcome.open

    def _holds(self, values: pd.Series) -> bool:
        within = [_within(value, self.above, self.below) for value in values.dropna()]
        return bool(within) and (all(within) if self.holds_for is HoldsFor.every else any(within))


@dataclass(frozen=True)
class Need:
    """A precondition: every seed's value of the quantity `of` lies within the bounds; otherwise nothing can be decided.

    `reason` says what is the matter where it does not, for the verdict `undecided`.
    """

    of: str
    reason: str
    above: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        bounds = [f"above {_exact(self.above)}"] if self.above is not None else []
        bounds += [f"below {_exact(self.below)}"] if self.below is not None else []
        return f"{self.of} {' and '.join(bounds)}"

    def met(self, values: pd.Series, judged: pd.Index | None = None) -> bool:
        """A seed that is `judged` and has no value here does not meet it, as one whose control diverged."""
        if judged is not None:
            values = values.reindex(values.index.union(judged.unique()))
        needed = values.notna() if judged is None else values.notna() | values.index.isin(judged)
        return bool(values.notna().any()) and all(_within(v, self.above, self.below) for v in values[needed])


@dataclass(frozen=True)
class Judgement:
    """What the values say of a criterion.

    `full`: whether the full criterion holds, with the p value `p` that it does, and `against_p` that some part of it
    fails. `partial`: whether the partial one holds, with its p value `partial_p`, None where there is no partial one.
    `partial_open`: whether the partial one may still hold although the full one fails.
    """

    full: Outcome
    partial: bool
    p: float
    n: int
    partial_p: float | None = None
    against_p: float = 1.0
    partial_open: bool = False
    min_n: int = MIN_SEEDS  # below which nothing is decided
    unmet: str = ""  # why nothing can be decided
    undecided: str = ""  # which parts are open


@dataclass(frozen=True)
class Criterion:
    """Parts that reproduce a claim together; `partial`: how many of them do so partly, or other parts that do.

    `needs` are preconditions, and so are `min_seeds`; `remark` is added to the sentence: what a reader must know of
    how the bounds were laid down. Raises ValueError where two parts on one quantity average it on different scales.
    """

    full: tuple[Part, ...]
    partial: int | tuple[Part, ...] = 0
    needs: tuple[Need, ...] = ()
    remark: str = ""
    min_seeds: int = MIN_SEEDS

    def __post_init__(self) -> None:
        scales: dict[str, Scale] = {}
        for part in self.parts:
            if scales.setdefault(part.key, part.scale) is not part.scale:
                raise ValueError(f"criterion on {part.key}: averaged on {scales[part.key]} and on {part.scale}")

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.full + (self.partial if isinstance(self.partial, tuple) else ())

    @property
    def quantities(self) -> tuple[str, ...]:
        """The quantities that it asks for: one sample each."""
        return tuple(dict.fromkeys([part.key for part in self.parts] + [need.of for need in self.needs]))

    def __str__(self) -> str:
        together = {1: "", 2: ". Both"}.get(len(self.full), ". All")
        text = f"{_parts(self.full)}{together}: reproduced."
        if isinstance(self.partial, tuple):
            text += f" {_capital(_parts(self.partial))}: partly."
        elif self.partial == 1:
            text += " One of them: partly."
        elif self.partial:
            text += f" {self.partial} of them: partly."
        for need in self.needs:
            text += f" Undecided ({need.reason}) unless in every seed {need}."
        if self.min_seeds != MIN_SEEDS:
            text += f" Undecided with fewer than {self.min_seeds} seeds."
        return _capital(text) + (f" ({self.remark})" if self.remark else "")

    def judge(self, samples: Mapping[str, Sample]) -> Judgement:
        """Raises ValueError unless there is a sample for each quantity."""
        if lacking := [of for of in self.quantities if of not in samples]:
            raise ValueError(f"no values were measured for {', '.join(map(repr, lacking))}; there are {list(samples)}")
        outcomes = [part.outcome(samples[part.key].values) for part in self.full]
        p = max((part.p(samples[part.key].values) for part in self.full), default=1.0)  # the weakest part decides
        n = min(
            (int(samples[part.key].values.notna().sum()) for part in self.full), default=0
        )  # infinite ones are seeds
        partial_p, enough = None, True
        if isinstance(self.partial, tuple):
            of_lesser = [samples[part.key].values for part in self.partial]
            enough = all(values.notna().sum() >= self.min_seeds for values in of_lesser)
            lesser = [part.p(values) for part, values in zip(self.partial, of_lesser, strict=True)]
            partial_p = max(lesser, default=None)
        elif self.partial:
            lesser = sorted(part.p(samples[part.key].values) for part in self.full)
            partial_p = _some(lesser, self.partial)
        partial = partial_p is not None and partial_p < ALPHA and enough
        every = [samples[part.key].values.dropna().index for part in self.full]
        seeds = every[0].append(every[1:]) if every else None
        unmet = [need.reason for need in self.needs if not need.met(samples[need.of].values, seeds)]
        against = sorted(part.p_against(samples[part.key].values) for part in self.full)
        open_parts = [part.key for part, outcome in zip(self.full, outcomes, strict=True) if outcome is Outcome.open]
        if isinstance(self.partial, tuple):
            against_part = _some(sorted(part.p_against(samples[part.key].values) for part in self.partial), 1)
        else:  # so many fail that fewer than `partial` can hold
            against_part = _some(against, len(self.full) - self.partial + 1) if self.partial else 0.0
        return Judgement(
            full=_all(outcomes),
            partial=partial,
            p=p,
            n=n,
            partial_p=partial_p,
            against_p=_some(against, 1),
            partial_open=against_part >= ALPHA,
            min_n=self.min_seeds,
            unmet="; ".join(unmet),
            undecided=" and of ".join(open_parts),
        )

    def interval(self, part: Part, samples: Mapping[str, Sample]) -> Interval:
        return stats.interval(samples[part.key].values, part.scale)

    def estimates(self, samples: Mapping[str, Sample]) -> dict[str, Interval]:
        """The mean of each quantity with its interval, on the scale of the part that judges it."""
        return {part.key: self.interval(part, samples) for part in self.parts}


def single(values: pd.Series) -> Sample:
    """Values by seed that compare nothing. Raises stats.SeedTwice."""
    stats.check_seeds(values)
    return Sample(values.astype(float))


def compared(frame: pd.DataFrame, value: str, scale: Scale = Scale.plain, *, of: str = "none") -> Sample:
    """The arm `of` against the other, from a frame with one row per seed and arm: see `stats.effect`."""
    arms = {arm: rows.set_index("seed")[value].astype(float) for arm, rows in frame.groupby("norm", observed=True)}
    both = {arm: arms.get(arm, pd.Series(dtype=float)) for arm in ARMS}
    other = next(arm for arm in ARMS if arm != of)
    return Sample(stats.effect(both[of], both[other], scale), both, scale)


def formatted(interval: Interval) -> str:
    """A mean with its interval, as text."""
    if math.isnan(interval.low):
        return number(interval.mean)
    return f"{number(interval.mean)} [{number(interval.low)}, {number(interval.high)}]"


def _exact(bound: float) -> str:
    """A bound as text, with as many digits as it has: 98.99 is not 99."""
    return number(bound, max(3, len(f"{bound:.15g}".partition("e")[0].replace(".", "").lstrip("-0"))))


def _within(value: float, above: float | None, below: float | None) -> bool:
    return (above is None or value > above) and (below is None or value < below)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _parts(parts: tuple[Part, ...]) -> str:
    """The parts, those that ask the same in several places only once."""
    places: dict[str, list[str]] = {}
    for part in parts:
        places.setdefault(part.asks, []).append(part.at)
    return "; ".join(f"{asks}{_at(where)}" for asks, where in places.items())


def _at(places: list[str]) -> str:
    """ "at layers 18, 54 and 90" of "layer 18", "layer 54", "layer 90"."""
    named = [place for place in places if place]
    if len(named) < 2:
        return f", at {named[0]}" if named else ""
    kinds, last = zip(*(place.rpartition(" ")[::2] for place in named), strict=True)
    if len(set(kinds)) == 1 and kinds[0] and all(end[0].isdigit() for end in last):
        plural = "" if " " in kinds[0] or kinds[0].endswith("s") else "es" if kinds[0].endswith("ch") else "s"
        return f", at {kinds[0]}{plural} {', '.join(last[:-1])} and {last[-1]}"
    return f", for each of {', '.join(named[:-1])} and {named[-1]}"


def _some(ordered: list[float], number: int) -> float:
    """p that at least so many hold, whichever these are, from their p values in order (Benjamini and Heller, 2008,
    "Screening for partial conjunction hypotheses"); 1 where there are fewer.
    """
    return min(1.0, (len(ordered) - number + 1) * ordered[number - 1]) if 0 < number <= len(ordered) else 1.0


def _all(outcomes: list[Outcome]) -> Outcome:
    if Outcome.fails in outcomes:
        return Outcome.fails
    return Outcome.open if Outcome.open in outcomes else Outcome.holds
