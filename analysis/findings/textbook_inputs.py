"""Does BN on the images do what standardising them does?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, spread

INPUTS = {  # label, colour, line
    "pixels": ("in [0, 1]", figures.COLOURS["none"], "-"),
    "standardised": ("standardised", "#117733", "--"),
    "norm_first": ("in [0, 1], BN on them", figures.COLOURS["batch"], "-"),
}
EPOCHS = 3
MARGIN = 0.02
ALIKE = Part("training loss with BN on the images less with standardised ones", above=-MARGIN, below=MARGIN)
BETTER = Part("training loss on images in [0, 1] less the larger of those two", above=0)

TITLE = "BN on the images, and images standardised beforehand"
CAPTION = (
    "LeNet without other norms on Fashion-MNIST, learning rate 1, three epochs (preset quick: one). (a) Training loss "
    "during each epoch: mean over seeds (line) and 95 % interval (band). (b, c) Differences of it in the last epoch, "
    "with the same seed: every seed, mean and interval; shaded: 0.02, which the claim allows."
)
SWEEP = "textbook_inputs"
NEEDS = {"epochs": "status in ('completed', 'diverged')"}
SIZE = (9.6, 4.0)
CLAIMS = (
    Claim(
        id="textbook-inputs",
        origin="course",
        where="Dive into Deep Learning, Batch Normalization: BN standardises hidden layers as one standardises inputs",
        scale="textbook",
        says="A BN layer on the images themselves does what standardising them does.",
        criterion=Criterion((ALIKE, BETTER), partial=1, remark="No other norms, after three epochs, paired by seed."),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    epochs = _named(frames["epochs"])
    left, middle, right = fig.subplots(1, 3, width_ratios=(3, 1.5, 1.5))
    for arm, (label, colour, line) in INPUTS.items():
        rows = stats.over_seeds(epochs[epochs["input"] == arm], ["epoch"], "train_loss")
        left.fill_between(rows["epoch"], rows["low"], rows["high"], color=colour, alpha=0.2, lw=0)
        left.plot(rows["epoch"], rows["mean"], color=colour, ls=line, marker="o", ms=3, label=label)
    left.set_xticks(sorted(epochs["epoch"].unique()))
    left.set_xlabel("epoch")
    left.set_ylabel("training loss")
    left.legend(loc="best", title="images")
    figures.panel(left, "a", "training loss")
    better, alike = _compared(_last(epochs))
    right.axhspan(-MARGIN, MARGIN, color=figures.FAINT, lw=0, zorder=0)
    for ax, values, colour, label, what, letter in (
        (middle, better, figures.COLOURS["none"], "in [0, 1] less\nthe larger of the two", "is it better", "b"),
        (right, alike, figures.COLOURS["batch"], "BN on them less\nstandardised", "is it the same", "c"),
    ):
        ax.axhline(0, color=figures.MUTED, lw=0.9)
        figures.seeds(ax, 0, values, "batch", scale=stats.Scale.plain, colour=colour)
        ax.set_xticks([0], [label])
        ax.set_xlim(-0.7, 0.7)
        ax.grid(False, axis="x")
        ax.set_ylabel("training loss in the last epoch, difference")
        figures.panel(ax, letter, what)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    epochs = _named(frames["epochs"])
    better, alike = _compared(_last(epochs[epochs["epochs"] >= EPOCHS]))
    return {"textbook-inputs": {ALIKE.key: criteria.single(alike), BETTER.key: criteria.single(better)}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    loss = _last(_named(frames["epochs"]))
    return [
        Comparison(f"training loss in the last epoch, images {label}", DASH, DASH, str(spread(loss[arm])), DASH)
        for arm, (label, *_) in INPUTS.items()
    ]


def _named(epochs: pd.DataFrame) -> pd.DataFrame:
    prepared = epochs["normalise"].map({"unit": "pixels", "channel": "standardised"})
    return epochs.assign(input=prepared.where(epochs["norm"] == "none", "norm_first"))


def _last(epochs: pd.DataFrame) -> dict[str, pd.Series]:
    """By arm and seed, the mean training loss of the last epoch."""
    last = epochs[epochs["epoch"] == epochs["epochs"]]
    return {arm: last[last["input"] == arm].set_index("seed")["train_loss"] for arm in INPUTS}


def _compared(loss: Mapping[str, pd.Series]) -> tuple[pd.Series, pd.Series]:
    """By seed: the loss on pixels less the larger of the others, and those two, BN's less that on standardised ones."""
    larger = pd.concat([loss["norm_first"], loss["standardised"]], axis=1).max(axis=1, skipna=False)
    return stats.effect(loss["pixels"], larger), stats.effect(loss["norm_first"], loss["standardised"])
