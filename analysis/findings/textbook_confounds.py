"""What Dive into Deep Learning changes together with BN, taken apart: BN, pooling and padding, at one learning rate."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, arms, spread
from bnstudy.analysis.stats import Scale

# Factor: its column, the level that counts +, the one that counts -, and how it is called.
FACTORS = {
    "norm": ("batch", "none", "BN"),
    "pooling": ("max", "average", "max pooling"),
    "padding": (0, 2, "no padding"),
}
EFFECTS = tuple(
    combination for size in (1, 2, 3) for combination in itertools.combinations(FACTORS, size)
)  # three main effects, three interactions of two, one of all
SIDES = {"train": "training accuracy in the last epoch", "test": "test accuracy after it"}
EPOCHS = 10
POOLING_ALONE = 2.5  # points of training accuracy that max pooling gave plain LeNet with padding 2, published
MAIN = {side: Part(f"main effect of BN on the {title}", above=0, unit="points") for side, title in SIDES.items()}
BOTH = Part("gain in training accuracy without BN from both changes", above=0, unit="points")
POOLING = Part("gain in training accuracy without BN from max pooling at padding 2", above=POOLING_ALONE - 0.5,
               below=POOLING_ALONE + 0.5, unit="points")  # fmt: skip
MIXED = {
    other: Part("size of the interaction with BN in training accuracy", above=0.2, unit="points", at=FACTORS[other][2])
    for other in ("pooling", "padding")
}

TITLE = "What the textbook changes together with BN"
CAPTION = (
    "LeNet on Fashion-MNIST, learning rate 1, ten epochs (preset quick: three); one dot a run, bar: mean with 95 % "
    "interval. (a, b) Accuracy in the eight networks. (c) Effects of the 2x2x2 grid, in points: the mean accuracy at "
    "the level named minus that at the other, over all else; an interaction is half the difference that one factor "
    "makes to the other's effect. Bars: 95 % intervals over seeds, filled: training, hollow: test."
)
SWEEP = "textbook_confounds"
NEEDS = {"epochs": None}
SIZE = (10.8, 4.4)
WHERE = "Dive into Deep Learning, LeNet and Batch Normalization"
CLAIMS = (
    Claim(
        id="textbook-confounds-1",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="BN raises the accuracy of LeNet by itself, also at one learning rate and with all else equal.",
        criterion=Criterion(tuple(MAIN.values()), partial=(MAIN["train"],)),
        published="0.820 without (padding 2, average pooling, learning rate 0.9), 0.908 with (none, max, 1.0)",
    ),
    Claim(
        id="textbook-confounds-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="A part of what the chapters' comparison shows is due to pooling and padding and not to BN.",
        criterion=Criterion((BOTH,), remark="From padding 2 and average pooling to no padding and max pooling."),
        published="max pooling alone: training 0.824 to 0.849, test 0.797 to 0.841",
    ),
    Claim(
        id="textbook-confounds-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Max pooling alone raises plain LeNet's training accuracy from 0.824 to 0.849.",
        criterion=Criterion(
            (POOLING,), partial=(Part(POOLING.of, above=0, unit="points"),), remark="Half a point each way."
        ),
        published="2.5 points (learning rate 0.9)",
    ),
    Claim(
        id="textbook-confounds-4",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="The effects do not simply add: what pooling and padding give depends on BN.",
        criterion=Criterion(
            tuple(MIXED.values()),
            partial=1,
            remark="Of either sign: that of its mean over the seeds; 0.2 points are "
            "what a main effect of BN of 8 points may neglect.",
        ),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = _runs(frames["epochs"])
    axes = fig.subplots(1, 3, width_ratios=(1, 1, 1.25))
    for ax, (side, title), letter in zip(axes, SIDES.items(), "ab", strict=False):
        _cells(ax, runs, side)
        figures.panel(ax, letter, title)
    axes[0].set_ylabel("accuracy (%)")
    names = [" x ".join(FACTORS[f][2] for f in factors) for factors in EFFECTS[:-1]]
    intervals = [{side: stats.interval(_effect(runs, factors, side)) for side in SIDES} for factors in EFFECTS]
    figures.effects(axes[2], dict(zip([*names, "all three"], intervals, strict=True)))
    figures.panel(axes[2], "c", "effects")
    handles = [*figures.arm_entries(arms(runs), "o"), *figures.effect_entries("(c)")]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _runs(frames["epochs"])
    if len(runs) == 0 or runs["epoch"].min() < EPOCHS:
        runs = runs.iloc[:0]
    plain = runs[runs["norm"] == "none"]
    both = _gain(plain, {"pooling": "average", "padding": 2}, {"pooling": "max", "padding": 0})
    pooling = _gain(plain, {"pooling": "average", "padding": 2}, {"pooling": "max", "padding": 2})
    mixed = {part.key: _effect(runs, ("norm", other), "train") for other, part in MIXED.items()}
    values = {
        "textbook-confounds-1": {part.key: _effect(runs, ("norm",), side) for side, part in MAIN.items()},
        "textbook-confounds-2": {BOTH.key: both},
        "textbook-confounds-3": {POOLING.key: pooling},
        "textbook-confounds-4": {key: of * np.sign(of.mean()) for key, of in mixed.items()},
    }
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _runs(frames["epochs"])
    lines = []
    for (pooling, padding), part in runs.groupby(["pooling", "padding"]):
        for side in SIDES:
            ours = (str(spread(part[part["norm"] == arm][side])) for arm in ARMS)
            lines.append(Comparison(f"{side} accuracy, {pooling} pooling, padding {padding} (%)", DASH, DASH, *ours))
    return lines


def _runs(epochs: pd.DataFrame) -> pd.DataFrame:
    """One row per run: its factors, seed, and accuracies in percent in the last epoch."""
    last = epochs.sort_values("epoch", kind="stable").groupby("run_id", observed=True).tail(1)
    return last.assign(train=100 * last["train_accuracy"], test=100 * last["test_accuracy"])


def _whole(runs: pd.DataFrame) -> pd.DataFrame:
    """Those of the seeds that have all eight."""
    return runs[runs.groupby("seed")["run_id"].transform("size") == 2 ** len(FACTORS)]


def _effect(runs: pd.DataFrame, factors: tuple[str, ...], side: str) -> pd.Series[float]:
    """The contrast of a full factorial by seed: mean over its eight runs of value times signs, doubled."""
    runs = _whole(runs)
    sign = pd.Series(1.0, index=runs.index)
    for factor in factors:
        sign = sign * (runs[factor] == FACTORS[factor][0]).map({True: 1.0, False: -1.0})
    return (sign * runs[side]).groupby(runs["seed"]).mean() * 2


def _gain(runs: pd.DataFrame, before: Mapping[str, str | int], after: Mapping[str, str | int]) -> pd.Series[float]:
    """Of the training accuracy, seed by seed."""

    def at(levels: Mapping[str, str | int]) -> pd.Series[float]:
        chosen = runs
        for column, level in levels.items():
            chosen = chosen[chosen[column] == level]
        return chosen.set_index("seed")["train"]

    return (at(after) - at(before)).dropna()


def _cells(ax: Axes, runs: pd.DataFrame, side: str) -> None:
    cells = list(itertools.product(("average", "max"), (2, 0)))
    for arm, part in arms(runs).items():
        for place, (pooling, padding) in enumerate(cells):
            values = part[(part["pooling"] == pooling) & (part["padding"] == padding)][side]
            figures.seeds(ax, place + (0.18 if arm == "none" else -0.18), values, arm, spacing=0.04,
                          scale=Scale.plain)  # fmt: skip
    ax.set_xticks(range(len(cells)), [f"{pooling}\npadding {padding}" for pooling, padding in cells])
    ax.grid(False, axis="x")
