"""Does the noise of the batch statistics regularise? Statistics over parts of a mini-batch whose size is fixed."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, accuracies, spread

WHOLE = 256
EPOCHS = 10
SMALLER = {
    (32, WHOLE): Part("fall of training minus test accuracy from parts of 256 to 32", above=0, unit="points"),
    (8, 32): Part("fall of it from parts of 32 to 8", above=0, unit="points"),
}
BETTER = Part("test accuracy with parts of 64 less with 256", above=0, unit="points")

TITLE = "The noise of the statistics by itself: ghost batches"
CAPTION = (
    "LeNet on the first 12,000 images of Fashion-MNIST, learning rate 1, ten epochs (preset quick: three), "
    "mini-batches of 256, whose statistics are taken over parts of so many images; 256 is BN. (a) Test accuracy after "
    "the last epoch. (b) Training accuracy in the last epoch, as it was seen while the weights changed and with the "
    "noise, minus the test accuracy. Mean (line) over seeds and 95 % interval (band)."
)
SWEEP = "textbook_ghost_batch"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (9.6, 4.0)
WHERE = "Dive into Deep Learning, Batch Normalization: the noise of mini-batches regularises"
CLAIMS = (
    Claim(
        id="textbook-ghost-batch-1",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="The noise of batch statistics regularises: with it, training is less ahead of the test.",
        criterion=Criterion(tuple(SMALLER.values()), partial=(SMALLER[32, WHOLE],)),
    ),
    Claim(
        id="textbook-ghost-batch-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="The right amount of it makes the test accuracy better.",
        criterion=Criterion((BETTER,)),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = accuracies(frames["runs"])
    sizes = sorted(runs["norm_size"].unique())
    for ax, value, title, letter in zip(fig.subplots(1, 2), ("test", "gap"), ("test accuracy", "training minus test"),
                                        "ab", strict=True):  # fmt: skip
        figures.band(ax, stats.over_seeds(runs, ["norm_size"], value), "norm_size", "batch", marker="o", ms=3)
        ax.set_xscale("log")
        ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
        ax.minorticks_off()
        ax.set_xlabel("images whose statistics are taken together")
        ax.set_ylabel("accuracy (%)" if value == "test" else "points of accuracy")
        figures.panel(ax, letter, title)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = accuracies(frames["runs"])
    of = {size: part.set_index("seed") for size, part in runs[runs["epochs"] >= EPOCHS].groupby("norm_size")}
    none = pd.DataFrame(columns=["gap", "test"], dtype=float)
    gap, test = ({size: of.get(size, none)[side] for size in (8, 32, 64, WHOLE)} for side in ("gap", "test"))
    falls = {part.key: criteria.single(stats.effect(gap[high], gap[low])) for (low, high), part in SMALLER.items()}
    better = {BETTER.key: criteria.single(stats.effect(test[64], test[WHOLE]))}
    return {"textbook-ghost-batch-1": falls, "textbook-ghost-batch-2": better}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return [
        Comparison(f"test accuracy (%), parts of {size:g}", DASH, DASH, str(spread(part["test"])), DASH)
        for size, part in accuracies(frames["runs"]).groupby("norm_size")
    ]
