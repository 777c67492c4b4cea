"""BN before the activation or behind it: does it train alike?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, accuracies, spread

PLACES = {"lenet": "before the activation", "lenet_norm_after": "behind it"}
ACTIVATIONS = {"sigmoid": "sigmoid", "relu": "ReLU"}
EPOCHS = 5
ALIKE = {
    activation: Part("training accuracy with BN before the activation less behind it", above=-1, below=1,
                     unit="points", at=name)
    for activation, name in ACTIVATIONS.items()
}  # fmt: skip

TITLE = "BN before the activation and behind it"
CAPTION = (
    "LeNet with BN on Fashion-MNIST, learning rate 0.1, five epochs (preset quick: one). (a) Accuracy on the training "
    "images during the last epoch (filled) and on the test images after it (hollow): mean and 95 % interval. (b) With "
    "BN before the activation less behind it, training accuracy: every seed, mean and interval; shaded: one point, "
    "which the claim allows."
)
SWEEP = "textbook_before_after"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (9.6, 4.0)
CLAIMS = (
    Claim(
        id="textbook-before-after",
        origin="course",
        where="Dive into Deep Learning, Batch Normalization: before or after the activation",
        scale="textbook",
        says="BN before the activation and after it train alike.",
        criterion=Criterion(tuple(ALIKE.values()), partial=1, remark="After five epochs, paired by seed."),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = accuracies(frames["runs"])
    left, right = fig.subplots(1, 2)
    ticks = list[str]()
    for activation, name in ACTIVATIONS.items():
        for model, place in PLACES.items():
            rows = runs[(runs["activation"] == activation) & (runs["model"] == model)]
            for side, shift in (("train", -0.1), ("test", 0.1)):
                of = stats.interval(rows[side])
                figures.estimate(left, len(ticks) + shift, of, figures.COLOURS["batch"], filled=side == "train")
            ticks.append(f"{name},\n{place}")
    left.set_xticks(range(len(ticks)), ticks, fontsize=7.5)
    left.grid(False, axis="x")
    left.set_ylabel("accuracy (%)")
    figures.panel(left, "a", "accuracy")
    right.axhspan(-1, 1, color=figures.FAINT, lw=0, zorder=0)
    right.axhline(0, color=figures.MUTED, lw=0.9)
    for x, activation in enumerate(ACTIVATIONS):
        figures.seeds(right, x, _less_behind(runs, activation), "batch", scale=stats.Scale.plain)
    right.set_xticks(range(len(ACTIVATIONS)), list(ACTIVATIONS.values()))
    right.set_xlim(-0.6, len(ACTIVATIONS) - 0.4)
    right.grid(False, axis="x")
    right.set_ylabel("points of training accuracy")
    figures.panel(right, "b", "before less behind, by seed")
    entries = [
        figures.entry(f"{side} accuracy (a)", "o", filled=side == "training", colour=figures.COLOURS["batch"])
        for side in ("training", "test")
    ]
    fig.legend(handles=entries, loc="outside lower center", ncols=2)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = accuracies(frames["runs"])
    full = runs[runs["epochs"] >= EPOCHS]
    samples = {part.key: criteria.single(_less_behind(full, activation)) for activation, part in ALIKE.items()}
    return {"textbook-before-after": samples}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = accuracies(frames["runs"])
    return [
        Comparison(f"{side} accuracy (%), {ACTIVATIONS[str(activation)]}, BN {PLACES[str(model)]}", DASH, DASH,
                   str(spread(part[side])), DASH)
        for side in ("train", "test")
        for (activation, model), part in runs.groupby(["activation", "model"])
    ]  # fmt: skip


def _less_behind(runs: pd.DataFrame, activation: str) -> pd.Series:
    """Training accuracy by seed, in points."""
    rows = runs[runs["activation"] == activation]
    before, behind = (rows[rows["model"] == model].set_index("seed")["train"] for model in PLACES)
    return stats.effect(before, behind)
