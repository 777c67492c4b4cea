"""What Dive into Deep Learning changes together with BN, taken apart: BN, pooling and padding, at one learning rate."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import effects, figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import ARMS, DASH, MINUS, arms, spread
from bnstudy.stats import Interval, interval

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

TITLE = "What the textbook changes together with BN"
CAPTION = (
    "LeNet on Fashion-MNIST, learning rate 1, ten epochs (preset quick: three); one dot a run. (a, b) Accuracy in the "
    "eight networks. (c) Effects of the 2x2x2 grid, in points: the mean accuracy at the level named minus that at the "
    "other, over all else; an interaction is half the difference that one factor makes to the other's effect. Bars: 95 "
    "% intervals over seeds (Student's t), filled: training, hollow: test."
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
        criterion="95 % interval of BN's main effect lies above 0: of training and test accuracy (reproduced), of "
        "training accuracy alone (partly).",
        published="0.820 without (padding 2, average pooling, learning rate 0.9), 0.908 with (none, max, 1.0)",
    ),
    Claim(
        id="textbook-confounds-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="A part of what the chapters' comparison shows is due to pooling and padding and not to BN.",
        criterion="Without BN, from padding 2 and average pooling to no padding and max pooling: the 95 % interval of "
        "the gain in training accuracy lies above 0 (reproduced); only its mean does (partly).",
        published="max pooling alone: training 0.824 to 0.849, test 0.797 to 0.841",
    ),
    Claim(
        id="textbook-confounds-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Max pooling alone raises plain LeNet's training accuracy from 0.824 to 0.849.",
        criterion=f"Without BN at padding 2: the 95 % interval of the gain holds {POOLING_ALONE} points and lies above "
        "0 (reproduced); one of the two (partly).",
        published="2.5 points (learning rate 0.9)",
    ),
    Claim(
        id="textbook-confounds-4",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="The effects do not simply add: what pooling and padding give depends on BN.",
        criterion="95 % intervals, training accuracy: those of BN x pooling and BN x padding exclude 0 (reproduced); "
        "one of them does (partly).",
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
    found = [{side: _effect(runs, factors, side) for side in SIDES} for factors in EFFECTS]
    figures.effects(axes[2], dict(zip([*names, "all three"], found, strict=True)))
    figures.panel(axes[2], "c", "effects")
    handles = [*figures.arm_entries("o"), *figures.effect_entries("(c)")]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = _runs(frames["epochs"])
    n = _seeds(runs) if runs["epoch"].min() >= EPOCHS else 0
    main = {side: _effect(runs, ("norm",), side) for side in SIDES}
    means = _whole(runs).groupby(["norm", "seed"])[list(SIDES)].mean().reset_index()
    plain = runs[runs["norm"] == "none"]
    both = _gain(plain, {"pooling": "average", "padding": 2}, {"pooling": "max", "padding": 0})
    pooling = _gain(plain, {"pooling": "average", "padding": 2}, {"pooling": "max", "padding": 2})
    holds = pooling.low <= POOLING_ALONE <= pooling.high
    mixed = [_effect(runs, ("norm", other), "train") for other in ("pooling", "padding")]
    clear = [each.above_zero or each.below_zero for each in mixed]
    return {
        "textbook-confounds-1": Evidence(
            f"{_points(main['train'])} points training, {_points(main['test'])} test",
            f"{_interval(main['train'])}; {_interval(main['test'])}",
            n,
            judge(n, whole=all(each.above_zero for each in main.values()), part=main["train"].above_zero),
            arms=tuple(effects.arms(means, side, f"{title} (%)") for side, title in SIDES.items()),
        ),
        "textbook-confounds-2": Evidence(
            f"{_points(both)} points training", _interval(both), n, judge(n, whole=both.above_zero, part=both.mean > 0)
        ),
        "textbook-confounds-3": Evidence(
            f"{_points(pooling)} points training",
            _interval(pooling),
            n,
            judge(n, whole=holds and pooling.above_zero, part=holds or pooling.above_zero),
        ),
        "textbook-confounds-4": Evidence(
            f"BN x max pooling {_points(mixed[0])}, BN x no padding {_points(mixed[1])} points",
            "; ".join(map(_interval, mixed)),
            n,
            judge(n, whole=all(clear), part=any(clear)),
        ),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _runs(frames["epochs"])
    lines = []
    for (pooling, padding), part in runs.groupby(["pooling", "padding"]):
        for side in SIDES:
            ours = (str(spread(part[part["norm"] == arm][side])) for arm in ARMS)
            lines.append(Comparison(f"{side} accuracy, {pooling} pooling, padding {padding} (%)", DASH, DASH, *ours))
    return lines


def _runs(epochs: pd.DataFrame) -> pd.DataFrame:
    """One row a run: its factors, seed, and accuracies in percent in the last epoch."""
    last = epochs.sort_values("epoch").groupby("run_id", observed=True).tail(1)
    return last.assign(train=100 * last["train_accuracy"], test=100 * last["test_accuracy"])


def _whole(runs: pd.DataFrame) -> pd.DataFrame:
    """Those of the seeds that have all eight."""
    return runs[runs.groupby("seed")["run_id"].transform("size") == 2 ** len(FACTORS)]


def _effect(runs: pd.DataFrame, factors: tuple[str, ...], side: str) -> Interval:
    """The contrast of a full factorial: mean over a seed's eight runs of value times signs, doubled."""
    runs = _whole(runs)
    sign = pd.Series(1.0, index=runs.index)
    for factor in factors:
        sign = sign * (runs[factor] == FACTORS[factor][0]).map({True: 1.0, False: -1.0})
    return interval((sign * runs[side]).groupby(runs["seed"]).mean() * 2)


def _gain(runs: pd.DataFrame, before: Mapping[str, str | int], after: Mapping[str, str | int]) -> Interval:
    """Of the training accuracy, seed by seed."""

    def at(levels: Mapping[str, str | int]) -> pd.Series[float]:
        chosen = runs
        for column, level in levels.items():
            chosen = chosen[chosen[column] == level]
        return chosen.set_index("seed")["train"]

    return interval((at(after) - at(before)).dropna())


def _seeds(runs: pd.DataFrame) -> int:
    """Seeds that have all eight runs."""
    return int((runs.groupby("seed")["run_id"].nunique() == 2 ** len(FACTORS)).sum())


def _cells(ax: Axes, runs: pd.DataFrame, side: str) -> None:
    cells = list(itertools.product(("average", "max"), (2, 0)))
    for arm, part in arms(runs).items():
        for place, (pooling, padding) in enumerate(cells):
            values = part[(part["pooling"] == pooling) & (part["padding"] == padding)][side]
            figures.seeds(ax, place + (0.18 if arm == "none" else -0.18), values, arm, spacing=0.04)
    ax.set_xticks(range(len(cells)), [f"{pooling}\npadding {padding}" for pooling, padding in cells])
    ax.grid(False, axis="x")


def _points(found: Interval) -> str:
    return f"{found.mean:+.1f}".replace("-", MINUS)


def _interval(found: Interval) -> str:
    return f"{found.low:.1f} to {found.high:.1f}".replace("-", MINUS)
