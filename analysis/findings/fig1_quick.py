"""Train and test accuracy against percent of training, on a laptop's scale (Bjorck et al. 2018, Figure 1)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy import figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import Spread, number, over_seeds, spread

ARMS = (("batch", 0.1, "-"), ("batch", 0.003, "--"), ("batch", 0.0001, ":"), ("none", 0.0001, "-"))
PAPER = {("batch", 0.1): "93.2", ("batch", 0.003): "90.4", ("batch", 0.0001): "81.3", ("none", 0.0001): "81.9"}

TITLE = "ResNet-20 on 5,000 images for ten epochs: accuracy along training"
CAPTION = (
    "A small edition of the paper's Figure 1: its four arms and its recipe, with ResNet-20 instead of ResNet-110, "
    "5,000 instead of 50,000 images, ten epochs instead of 165 to 2400. (a) Accuracy on the training images during "
    "the epoch, (b) on the test images after it; line: median over seeds, band: their range. Pale, thin lines: the "
    "published curves, of their own scale. The learning rate is divided by 10 at 50 % and 75 %."
)
SWEEP = "fig1_quick"
NEEDS = {"epochs": "train_accuracy == train_accuracy"}
PUBLISHED = "fig1"
SIZE = (9.6, 4.4)
SMALL = "Figure 1, at a laptop's scale"
CLAIMS = (
    Claim(
        id="1-reduced",
        where=SMALL,
        scale="reduced",
        says="At the same small learning rate, 0.0001, BN does not generalise better.",
        criterion="Final test accuracy with and without BN at 0.0001, medians over seeds: with BN at most 2 points "
        "higher (reproduced), at most 5 (partly).",
        published="81.3 % with BN, 81.9 % without (ResNet-110, 2400 epochs)",
    ),
    Claim(
        id="2-reduced",
        where=SMALL,
        scale="reduced",
        says="The gain of BN comes with larger learning rates.",
        criterion="Median final test accuracy with BN rises from 0.0001 to 0.003 to 0.1, each step by more than the "
        "larger range over seeds (reproduced); highest at 0.1 (partly).",
        published="81.3, 90.4, 93.2 % (ResNet-110, 2400, 1320, 165 epochs)",
    ),
    Claim(
        id="3-reduced",
        where=SMALL,
        scale="reduced",
        says="Smaller learning rates overfit more.",
        criterion="Median gap between final train and test accuracy with BN falls from 0.0001 to 0.003 to 0.1 "
        "(reproduced); smaller at 0.1 than at 0.0001 (partly).",
        published="18.5, 9.6, 6.8 points (ResNet-110, 2400, 1320, 165 epochs)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    epochs, published = _percent(frames["epochs"]), frames["published"]
    left, right = fig.subplots(1, 2, sharey=True)
    for ax, side, title, letter in (
        (left, "train", "training accuracy, during the epoch", "a"),
        (right, "test", "test accuracy, after the epoch", "b"),
    ):
        for norm, lr, style in ARMS:
            _published(ax, published[(published["panel"] == side) & _of(published, norm, lr)], style)
            rows = epochs[_of(epochs, norm, lr)].dropna(subset=[f"{side}_accuracy"])
            if len(rows):
                rows = rows.assign(accuracy=100 * rows[f"{side}_accuracy"])
                figures.band(ax, over_seeds(rows, ["percent"], "accuracy"), "percent", norm, label="", ls=style, lw=1.6)
        figures.panel(ax, letter, title)
        ax.set_xlim(0, 100)
        ax.set_ylim(0, 100)
        ax.set_xlabel("part of training (%)")
    left.set_ylabel("accuracy (%)")
    handles = [
        Line2D([], [], color=figures.COLOURS[norm], ls=style, lw=1.6, label=f"{figures.LABELS[norm]}, rate {lr:g}")
        for norm, lr, style in ARMS
    ]
    handles.append(Line2D([], [], color=figures.MUTED, lw=0.8, label="published, full scale"))
    fig.legend(handles=handles, loc="outside lower center", ncols=5)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    test, gap = _final(frames["epochs"])
    n = min(each.n for each in test.values())
    rising = [test["batch", lr] for lr in (0.0001, 0.003, 0.1)]
    falling = [gap["batch", lr].median for lr in (0.0001, 0.003, 0.1)]
    with_bn, without = test["batch", 0.0001], test["none", 0.0001]
    ahead = with_bn.median - without.median
    clear = [b.median - a.median > max(a.high - a.low, b.high - b.low) for a, b in itertools.pairwise(rising)]
    return {
        "1-reduced": Evidence(
            measured=f"{with_bn.median:.1f} % with BN, {without.median:.1f} % without",
            spread=f"{_range(with_bn)} with BN, {_range(without)} without",
            n=n,
            verdict=judge(n, whole=ahead <= 2, part=ahead <= 5),
        ),
        "2-reduced": Evidence(
            measured=", ".join(f"{each.median:.1f}" for each in rising) + " % at 0.0001, 0.003, 0.1",
            spread=", ".join(map(_range, rising)),
            n=n,
            verdict=judge(n, whole=all(clear), part=rising[2].median == max(each.median for each in rising)),
        ),
        "3-reduced": Evidence(
            measured=", ".join(map(number, falling)) + " points at 0.0001, 0.003, 0.1",
            spread=", ".join(_range(gap["batch", lr]) for lr in (0.0001, 0.003, 0.1)),
            n=n,
            verdict=judge(n, whole=falling[0] > falling[1] > falling[2], part=falling[0] > falling[2]),
        ),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    test, _ = _final(frames["epochs"])
    rows = []
    for lr in (0.1, 0.003, 0.0001):
        ours = {arm: str(test[arm, lr]) if test.get((arm, lr), _NONE).n else "" for arm in ("batch", "none")}
        paper = {arm: PAPER.get((arm, lr), "") for arm in ("batch", "none")}
        rows.append(Comparison(f"final test accuracy at {lr:g} (%)", *paper.values(), *ours.values()))
    return rows


_NONE = spread([])


def _final(epochs: pd.DataFrame) -> tuple[dict[tuple[str, float], Spread], dict[tuple[str, float], Spread]]:
    """Of each arm the final test accuracy (%), and how far the training accuracy is above it (points)."""
    last = epochs.dropna(subset=["test_accuracy"]).sort_values("epoch").groupby("run_id").tail(1)
    parts = {(norm, lr): last[_of(last, norm, lr)] for norm, lr, _ in ARMS}
    test = {arm: spread(100 * rows["test_accuracy"]) for arm, rows in parts.items()}
    gap = {arm: spread(100 * (rows["train_accuracy"] - rows["test_accuracy"])) for arm, rows in parts.items()}
    return test, gap


def _percent(epochs: pd.DataFrame) -> pd.DataFrame:
    return epochs.assign(percent=100 * epochs["epoch"] / epochs.groupby("run_id")["epoch"].transform("max"))


def _of(rows: pd.DataFrame, norm: str, lr: float) -> pd.Series[bool]:
    rate = rows["run_lr"] if "run_lr" in rows else rows["lr"]  # an epoch has the rate it was trained at
    return (rows["norm"] == norm) & (rate == lr)


def _published(ax: Axes, rows: pd.DataFrame, style: str) -> None:
    rows = rows.dropna(subset=["accuracy"])
    norm = rows["norm"].iloc[0] if len(rows) else "none"
    ax.plot(rows["percent_of_training"], rows["accuracy"], color=figures.TINTS[norm], ls=style, lw=0.9, zorder=1)


def _range(values: Spread) -> str:
    return f"{values.low:.1f} to {values.high:.1f}"
