"""The four arms of Figure 1: how accuracy along training is drawn, and what its end is judged by."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy import effects, figures
from bnstudy.findings import Comparison, Evidence, judge
from bnstudy.frames import Spread, accuracies, number, over_seeds, spread

Arm = tuple[str, float]  # norm, learning rate
ARMS: Mapping[Arm, str] = {  # with their dashes
    ("batch", 0.1): "-",
    ("batch", 0.003): "--",
    ("batch", 0.0001): ":",
    ("none", 0.0001): "-",
}
RATES = (0.0001, 0.003, 0.1)  # with BN, rising
PAPER: Mapping[Arm, tuple[str, str]] = {  # final test accuracy (%), points by which training is ahead of it
    ("batch", 0.1): ("93.2", "6.8"),
    ("batch", 0.003): ("90.4", "9.6"),
    ("batch", 0.0001): ("81.3", "18.5"),
    ("none", 0.0001): ("81.9", "17.7"),
}
NEEDS = {"epochs": "train_accuracy == train_accuracy", "runs": "status in ('completed', 'diverged')"}


@dataclass(frozen=True)
class Ends:
    """Of each arm over its seeds: final test accuracy (%; a run that diverged guesses), and by how many points training
    accuracy during the last epoch is ahead of it (of the runs that did not diverge)."""

    runs: pd.DataFrame
    test: Mapping[Arm, Spread]
    gap: Mapping[Arm, Spread]

    @property
    def ahead(self) -> float:
        """By how many points the median test accuracy at 0.0001 is higher with BN than without."""
        return self.test["batch", 0.0001].median - self.test["none", 0.0001].median


def ends(runs: pd.DataFrame) -> Ends:
    """`runs`: one row a run that is done."""
    runs = accuracies(runs)
    parts = {arm: runs[_of(runs, arm)] for arm in ARMS}
    test = {arm: spread(part["test"]) for arm, part in parts.items()}
    gap = {arm: spread(part.loc[part["outcome"] != "diverged", "gap"]) for arm, part in parts.items()}
    return Ends(runs, test, gap)


def at_one_rate(found: Ends, *, whole: bool, part: bool) -> Evidence:
    """Whether BN generalises no better at 0.0001, by criteria on `found.ahead`."""
    with_bn, without = found.test["batch", 0.0001], found.test["none", 0.0001]
    n = min(with_bn.n, without.n)
    at_rate = found.runs[found.runs["lr"] == 0.0001]
    return Evidence(
        measured=f"{with_bn.median:.1f} % with BN, {without.median:.1f} % without",
        spread=f"{_range(with_bn)} with BN, {_range(without)} without",
        n=n,
        verdict=judge(n, whole=whole, part=part),
        arms=effects.arms(at_rate, "test", "final test accuracy at 0.0001 (%)"),
    )


def rises(found: Ends) -> bool:
    """Whether the median test accuracy with BN rises with the rate, each step by more than the larger range."""
    rising = [found.test["batch", lr] for lr in RATES]
    return all(
        b.median - a.median > max(a.high - a.low, b.high - b.low)  # False where there are none
        for a, b in itertools.pairwise(rising)
    )


def with_the_rate(found: Ends) -> Evidence:
    """Whether the test accuracy with BN rises with the rate (`rises`); a part: it is highest at the largest."""
    rising = [found.test["batch", lr] for lr in RATES]
    n = min(each.n for each in rising)
    return Evidence(
        measured=", ".join(f"{each.median:.1f}" for each in rising) + f" % at {_told(RATES)}",
        spread=", ".join(map(_range, rising)),
        n=n,
        verdict=judge(n, whole=rises(found), part=rising[-1].median == max(each.median for each in rising)),
    )


def overfitting(found: Ends) -> Evidence:
    """Whether with BN the gap falls from each rate to the next; a part: it is smaller at the largest than smallest."""
    gaps = [found.gap["batch", lr] for lr in RATES]
    n = min(each.n for each in gaps)
    falling = [each.median for each in gaps]
    return Evidence(
        measured=", ".join(map(number, falling)) + f" points at {_told(RATES)}",
        spread=", ".join(map(_range, gaps)),
        n=n,
        verdict=judge(n, whole=falling[0] > falling[1] > falling[2], part=falling[0] > falling[2]),
    )


def numbers(runs: pd.DataFrame) -> list[Comparison]:
    """Test accuracies and gaps beside the published ones."""
    found = ends(runs)
    rows = []
    for place, (name, values) in enumerate((("final test accuracy", found.test), ("training minus test", found.gap))):
        for lr in reversed(RATES):
            paper = [PAPER[arm][place] if (arm := (norm, lr)) in PAPER else "" for norm in ("batch", "none")]
            ours = [str(values[arm]) if (arm := (norm, lr)) in ARMS else "" for norm in ("batch", "none")]
            rows.append(Comparison(f"{name} at {lr:g} ({'points' if place else '%'})", *paper, *ours))
    return rows


def figure(fig: Figure, frames: Mapping[str, pd.DataFrame], *, floor: float, published: str) -> None:
    """Two panels, training and test accuracy (%) from `floor` up, or from below the lowest end; `published`: label."""
    epochs, runs = frames["epochs"], frames["runs"]
    epochs = epochs.assign(percent=100 * epochs["epoch"] / epochs["epochs"])
    left, right = fig.subplots(1, 2, sharey=True)
    for ax, side, title, letter in (
        (left, "train", "training accuracy, during the epoch", "a"),
        (right, "test", "test accuracy, after the epoch", "b"),
    ):
        drawn = frames["published"][frames["published"]["panel"] == side]
        for arm, dashes in ARMS.items():
            _published(ax, drawn[_of(drawn, arm)], arm, dashes)
            rows = epochs[_of(epochs, arm)].dropna(subset=[f"{side}_accuracy"])
            if len(rows):
                rows = rows.assign(accuracy=100 * rows[f"{side}_accuracy"])
                by_percent = over_seeds(rows, ["percent"], "accuracy")
                figures.band(ax, by_percent, "percent", arm[0], label="", ls=dashes, lw=1.6)
        figures.panel(ax, letter, title)
        ax.set_xlim(0, 100)
        ax.set_xlabel("part of training (%)")
    lasting = runs.loc[runs["outcome"] != "diverged", "final_test_accuracy"]
    left.set_ylim(min(floor, 90 * lasting.min()), 100)
    left.set_ylabel("accuracy (%)")
    handles = [
        Line2D([], [], color=figures.COLOURS[arm[0]], ls=dashes, lw=1.6, label=_label(arm, runs))
        for arm, dashes in ARMS.items()
    ]
    handles.append(Line2D([], [], color=figures.MUTED, lw=0.8, label=published))
    fig.legend(handles=handles, loc="outside lower center", ncols=5)


def _label(arm: Arm, runs: pd.DataFrame) -> str:
    part = runs[_of(runs, arm)]
    lost = int((part["outcome"] == "diverged").sum())
    told = f" ({lost} of {len(part)} diverged)" if lost else "" if len(part) else " (not run)"
    return f"{figures.LABELS[arm[0]]}, rate {arm[1]:g}{told}"


def _of(rows: pd.DataFrame, arm: Arm) -> pd.Series[bool]:
    rate = rows["run_lr"] if "run_lr" in rows else rows["lr"]  # an epoch has the rate it was trained at
    return (rows["norm"] == arm[0]) & (rate == arm[1])


def _published(ax: Axes, rows: pd.DataFrame, arm: Arm, dashes: str) -> None:
    rows = rows.dropna(subset=["accuracy"])
    ax.plot(rows["percent_of_training"], rows["accuracy"], color=figures.TINTS[arm[0]], ls=dashes, lw=0.9, zorder=1)


def _told(rates: tuple[float, ...]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _range(values: Spread) -> str:
    return f"{values.low:.1f} to {values.high:.1f}"
