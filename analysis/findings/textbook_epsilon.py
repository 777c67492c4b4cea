"""Does the size of epsilon matter, which BN adds to the variance?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, accuracies, number, spread

USUAL = 1e-5
SMALL = (1e-12, 1e-3)
EPOCHS = 3
ALIKE = {
    eps: Part("training accuracy less that with the usual 1e-5", above=-0.5, below=0.5, unit="points",
              at=f"epsilon {number(eps)}")
    for eps in SMALL
}  # fmt: skip

TITLE = "The size of epsilon"
CAPTION = (
    "LeNet with BN on Fashion-MNIST, learning rate 1, three epochs (preset quick: one). (a) Training accuracy during "
    "the last epoch and (b) test accuracy after it, less those of the same seed with the usual 1e-5, in points: every "
    "seed, mean and 95 % interval. Shaded: half a point, which the claim allows to small epsilons. The axes differ."
)
SWEEP = "textbook_epsilon"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (9.6, 4.0)
CLAIMS = (
    Claim(
        id="textbook-epsilon",
        origin="course",
        where="Dive into Deep Learning, Batch Normalization: epsilon never leaves a division by zero",
        scale="textbook",
        says="The size of epsilon does not matter as long as it is small.",
        criterion=Criterion(tuple(ALIKE.values()), remark="After three epochs, paired by seed."),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = accuracies(frames["runs"])
    sizes = sorted(set(runs["norm_eps"]) - {USUAL})
    panels = {"train": "training accuracy", "test": "test accuracy"}
    for ax, (side, title), letter in zip(fig.subplots(1, 2), panels.items(), "ab", strict=True):
        ax.axhspan(-0.5, 0.5, color=figures.FAINT, lw=0, zorder=0)
        ax.axhline(0, color=figures.MUTED, lw=0.9)
        for x, eps in enumerate(sizes):
            figures.seeds(ax, x, _less_usual(runs, eps, side), "batch", scale=stats.Scale.plain)
        ax.set_xticks(range(len(sizes)), [number(eps) for eps in sizes])
        ax.set_xlim(-0.6, len(sizes) - 0.4)
        ax.grid(False, axis="x")
        ax.set_xlabel("epsilon")
        figures.panel(ax, letter, title)
        ax.set_ylabel("points, less with 1e-5")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = accuracies(frames["runs"])
    full = runs[runs["epochs"] >= EPOCHS]
    samples = {part.key: criteria.single(_less_usual(full, eps, "train")) for eps, part in ALIKE.items()}
    return {"textbook-epsilon": samples}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = accuracies(frames["runs"])
    return [
        Comparison(f"{side} accuracy (%), epsilon {number(float(str(eps)))}", DASH, DASH, str(spread(part[side])), DASH)
        for side in ("train", "test")
        for eps, part in runs.groupby("norm_eps")
    ]


def _less_usual(runs: pd.DataFrame, eps: float, side: str) -> pd.Series:
    """By seed, in points."""
    of = {size: runs[runs["norm_eps"] == size].set_index("seed")[side] for size in (eps, USUAL)}
    return stats.effect(of[eps], of[USUAL])
