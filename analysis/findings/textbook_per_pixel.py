"""BN's statistics in convolutions: over all positions of a channel, or of each pixel by itself?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, accuracies, spread
from bnstudy.analysis.stats import Scale

ARMS = {"lenet": "per channel\n(BN)", "lenet_per_pixel": "per channel\nand pixel"}  # by model
COLOURS = {"lenet": figures.COLOURS["batch"], "lenet_per_pixel": figures.OTHER}
SIDES = {"train": "training", "test": "test"}
EPOCHS = 5
BETTER = {
    side: Part(f"{name} accuracy per channel less per pixel", above=0, unit="points") for side, name in SIDES.items()
}

TITLE = "Statistics over all positions, or of each pixel by itself"
CAPTION = (
    "LeNet on Fashion-MNIST, learning rate 1, batches of 256, five epochs (preset quick: two). Behind its two "
    "convolutions BN, which takes mean and variance over mini-batch and positions, or the same over the mini-batch "
    "alone, for each pixel; gamma and beta belong to a channel, and the dense layers have BN, in both arms. Training "
    "accuracy is the last epoch's, test accuracy that after it, with running statistics. (a, b) One dot a seed, the "
    "two arms of a seed joined; bar: mean with 95 % interval. (c, d) Per channel less per pixel, one dot a seed; bar "
    "as before."
)
SWEEP = "textbook_per_pixel"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (10.4, 4.2)
CLAIMS = (
    Claim(
        id="textbook-per-pixel",
        origin="course",
        where="Dive into Deep Learning, Batch Normalization: in convolutional layers statistics are over all positions",
        scale="textbook",
        says="Statistics per channel, over all positions, are better than per channel and pixel.",
        criterion=Criterion(tuple(BETTER.values()), partial=1),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = accuracies(frames["runs"])
    panels = fig.subplot_mosaic([list("abcd")], width_ratios=(1, 1, 0.55, 0.55))
    for (side, name), letters in zip(SIDES.items(), ("ac", "bd"), strict=True):
        ax, apart = (panels[letter] for letter in letters)
        _pairs(ax, runs, side)
        ax.set_ylabel(f"{name} accuracy (%)")
        figures.panel(ax, letters[0], f"{name} accuracy")
        figures.seeds(apart, 0, _apart(runs, side), "", scale=Scale.plain, colour=figures.INK)
        apart.axhline(0, color=figures.MUTED, lw=0.9)
        apart.set_xticks([])
        apart.set_xlim(-0.6, 0.6)
        apart.set_ylabel("per channel less per pixel (points)")
        figures.panel(apart, letters[1], f"{name}: difference")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = accuracies(frames["runs"])
    full = runs[runs["epochs"] >= EPOCHS]
    return {"textbook-per-pixel": {part.key: criteria.single(_apart(full, side)) for side, part in BETTER.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = accuracies(frames["runs"])
    return [
        Comparison(f"{name} accuracy (%), {_flat(arm)}", DASH, DASH, str(spread(_of(runs, arm)[side])), DASH)
        for arm in ARMS
        for side, name in SIDES.items()
    ]


def _of(runs: pd.DataFrame, arm: str) -> pd.DataFrame:
    return runs[runs["model"] == arm].set_index("seed")


def _apart(runs: pd.DataFrame, side: str) -> pd.Series:
    channel, pixel = (_of(runs, arm)[side] for arm in ARMS)
    return stats.effect(channel, pixel)


def _flat(arm: str) -> str:
    return ARMS[arm].replace("\n", " ")


def _pairs(ax: Axes, runs: pd.DataFrame, side: str) -> None:
    """The arms side by side, a line from dot to dot of each seed."""
    values = pd.concat({arm: _of(runs, arm)[side] for arm in ARMS}, axis=1, join="inner").sort_index()
    ax.plot([0, 1], values.to_numpy().T, color=figures.FAINT, lw=0.8, zorder=1)
    for place, arm in enumerate(ARMS):
        colour = COLOURS[arm]
        of = stats.interval(values[arm])
        ax.plot([place] * len(values), values[arm], "o", color=colour, ms=4, mew=0, alpha=0.85, zorder=4)
        if of.n > 1:
            ax.fill_between([place - 0.2, place + 0.2], of.low, of.high, color=colour, alpha=0.25, lw=0, zorder=2)
        ax.plot([place - 0.2, place + 0.2], [of.mean] * 2, color=colour, lw=2, zorder=3)
    ax.set_xticks(range(len(ARMS)), list(ARMS.values()))
    ax.set_xlim(-0.6, len(ARMS) - 0.4)
