"""The four arms of Figure 1: how accuracy during training is drawn, and how the final accuracy is judged."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Need, Part, Sample
from bnstudy.analysis.findings import Comparison
from bnstudy.analysis.frames import CHANCE, accuracies, spread

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


FIT = 95.0  # percent of the training images in the last epoch, augmented: the paper's networks end at 99.6 and more
AHEAD = "final test accuracy at 0.0001 with BN less without"
SAME = Part(AHEAD, above=-2, below=2, unit="points")
NO_BETTER = Part(AHEAD, below=2, unit="points")
HIGHER = tuple(
    Part("gain in final test accuracy with BN", above=0, unit="points", at=f"the step from {low:g} to {high:g}")
    for low, high in itertools.pairwise(RATES)
)
HIGHEST = Part("final test accuracy with BN at 0.1 less at 0.0001", above=0, unit="points")
SMALLER = tuple(
    Part("fall of the gap between training and test accuracy with BN", above=0, unit="points", at=step.at)
    for step in HIGHER
)
SMALLEST = Part("gap with BN at 0.0001 less that at 0.1", above=0, unit="points")
BOTH_FIT = Need("training accuracy of the two arms compared", "networks do not fit their training data", above=FIT)
ALL_FIT = Need("training accuracy with BN at the three rates", "networks do not fit their training data", above=FIT)
LEARNED = Need("training loss without BN at 0.0001", "the control never learned", below=2.2)  # a guess's: ln 10 = 2.303


def measure(runs: pd.DataFrame) -> dict[str, Sample]:
    """The values for the parts and needs above, from one row per finished run.

    A run that diverged counts as guessing; it has no gap.
    """
    runs = accuracies(runs)
    test, train, gap = ({arm: _by_seed(runs, arm, side) for arm in ARMS} for side in ("test", "train", "gap"))
    with_bn = [("batch", lr) for lr in RATES]
    control: Arm = ("none", RATES[0])
    values = {SAME.key: stats.effect(test[with_bn[0]], test[control])}
    for step, fall, low, high in zip(HIGHER, SMALLER, with_bn, with_bn[1:], strict=False):
        values[step.key] = stats.effect(test[high], test[low])
        values[fall.key] = stats.effect(gap[low], gap[high])
    values[HIGHEST.key] = stats.effect(test[with_bn[-1]], test[with_bn[0]])
    values[SMALLEST.key] = stats.effect(gap[with_bn[0]], gap[with_bn[-1]])
    values[BOTH_FIT.of] = _smallest([train[with_bn[0]], train[control]])
    values[ALL_FIT.of] = _smallest([train[arm] for arm in with_bn])
    values[LEARNED.of] = _by_seed(runs, control, "final_train_loss")
    samples = {name: criteria.single(of) for name, of in values.items()}
    arms = {"batch": test[with_bn[0]], "none": test[control]}
    return samples | {SAME.key: Sample(values[SAME.key].astype(float), arms)}


def _by_seed(runs: pd.DataFrame, arm: Arm, value: str) -> pd.Series[float]:
    rows = runs[_of(runs, arm)]
    if value == "gap":
        rows = rows[rows["outcome"] != "diverged"]
    return rows.set_index("seed")[value].astype(float)


def _smallest(of: Sequence[pd.Series]) -> pd.Series[float]:
    """The smallest value by seed; NaN where one is missing."""
    return pd.concat(of, axis=1).min(axis=1, skipna=False)


def numbers(runs: pd.DataFrame) -> list[Comparison]:
    """Test accuracies and gaps beside the published ones."""
    runs = accuracies(runs)
    rows = []
    for place, (name, value) in enumerate((("final test accuracy", "test"), ("training minus test", "gap"))):
        for lr in reversed(RATES):
            paper = [PAPER[arm][place] if (arm := (norm, lr)) in PAPER else "" for norm in ("batch", "none")]
            ours = [str(spread(_by_seed(runs, (norm, lr), value))) if (norm, lr) in ARMS else ""
                    for norm in ("batch", "none")]  # fmt: skip
            rows.append(Comparison(f"{name} at {lr:g} ({'points' if place else '%'})", *paper, *ours))
    return rows


def figure(
    fig: Figure, frames: Mapping[str, pd.DataFrame], *, floor: float, published: Sequence[Arm] = (), label: str = ""
) -> None:
    """Two panels, training and test accuracy (%) from `floor` up, or from below the lowest end.

    `published`: the arms whose published curves stand behind ours, those that are trained as long as the paper's;
    `label`: what these are called.
    """
    epochs, runs = frames["epochs"], frames["runs"]
    epochs = epochs.assign(percent=100 * epochs["epoch"] / epochs["epochs"])
    left, right = fig.subplots(1, 2, sharey=True)
    for ax, side, title, letter in (
        (left, "train", "training accuracy, during the epoch", "a"),
        (right, "test", "test accuracy, after the epoch", "b"),
    ):
        for arm, dashes in ARMS.items():
            if arm in published:
                drawn = frames["published"][frames["published"]["panel"] == side]
                _published(ax, drawn[_of(drawn, arm)], arm, dashes)
            rows = epochs[_of(epochs, arm)].dropna(subset=[f"{side}_accuracy"])
            if len(rows):
                rows = rows.assign(accuracy=100 * rows[f"{side}_accuracy"])
                by_percent = stats.over_seeds(rows, ["percent"], "accuracy")
                figures.band(ax, by_percent, "percent", arm[0], label="", ls=dashes, lw=1.6)
        figures.panel(ax, letter, title)
        ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
        ax.set_xlim(0, 100)
        ax.set_xlabel("part of training (%)")
    lasting = runs.loc[runs["outcome"] != "diverged", "final_test_accuracy"]
    left.set_ylim(min(floor, 90 * lasting.min()), 100)
    left.set_ylabel("accuracy (%)")
    handles = [
        Line2D([], [], color=figures.COLOURS[arm[0]], ls=dashes, lw=1.6, label=_label(arm, runs))
        for arm, dashes in ARMS.items()
    ]
    if published:
        handles.append(Line2D([], [], color=figures.MUTED, lw=0.8, label=label))
    fig.legend(handles=handles, loc="outside lower center", ncols=5)


def _label(arm: Arm, runs: pd.DataFrame) -> str:
    part = runs[_of(runs, arm)]
    lost = int((part["outcome"] == "diverged").sum())
    note = f" ({lost} of {len(part)} diverged)" if lost else "" if len(part) else " (not run)"
    return f"{figures.LABELS[arm[0]]}, rate {arm[1]:g}{note}"


def _of(rows: pd.DataFrame, arm: Arm) -> pd.Series[bool]:
    rate = rows["run_lr"] if "run_lr" in rows else rows["lr"]  # an epoch has the rate it was trained at
    return (rows["norm"] == arm[0]) & (rate == arm[1])


def _published(ax: Axes, rows: pd.DataFrame, arm: Arm, dashes: str) -> None:
    rows = rows.dropna(subset=["accuracy"])
    ax.plot(rows["percent_of_training"], rows["accuracy"], color=figures.TINTS[arm[0]], ls=dashes, lw=0.9, zorder=1)
