"""Does the noise of the batch statistics regularise? Statistics over parts of a mini-batch whose size is fixed."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import DASH, accuracies, over_seeds, spread

WHOLE = 256
EPOCHS = 10

TITLE = "The noise of the statistics by itself: ghost batches"
CAPTION = (
    "LeNet on the first 12,000 images of Fashion-MNIST, learning rate 1, ten epochs (preset quick: three), "
    "mini-batches of 256, whose statistics are taken over parts of so many images; 256 is BN. (a) Test accuracy after "
    "the last epoch. (b) Training accuracy in the last epoch, as it was seen while the weights changed and with the "
    "noise, minus the test accuracy. Median (line) and range over seeds (band)."
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
        criterion="Median of training minus test accuracy at parts of 32 below that at 256 (partly), and that at 8 "
        "below that at 32, too (reproduced).",
    ),
    Claim(
        id="textbook-ghost-batch-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="The right amount of it makes the test accuracy better.",
        criterion="Parts of 64 against 256: worst seed's test accuracy above the best (reproduced); the median is "
        "higher (partly).",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = accuracies(frames["runs"])
    sizes = sorted(runs["norm_size"].unique())
    for ax, value, title, letter in zip(fig.subplots(1, 2), ("test", "gap"), ("test accuracy", "training minus test"),
                                        "ab", strict=True):  # fmt: skip
        figures.band(ax, over_seeds(runs, ["norm_size"], value), "norm_size", "batch", marker="o", ms=3)
        ax.set_xscale("log")
        ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
        ax.minorticks_off()
        ax.set_xlabel("images whose statistics are taken together")
        ax.set_ylabel("accuracy (%)" if value == "test" else "points of accuracy")
        figures.panel(ax, letter, title)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = accuracies(frames["runs"])
    wanted = [8, 32, 64, WHOLE]
    full = runs[runs["epochs"] >= EPOCHS].groupby("norm_size")["seed"].nunique()
    n = int(full.reindex(wanted, fill_value=0).min())
    gap = runs.groupby("norm_size")["gap"].median().reindex(wanted)
    some, none = (spread(runs[runs["norm_size"] == size]["test"]) for size in (64, WHOLE))
    return {
        "textbook-ghost-batch-1": Evidence(
            ", ".join(f"{value:.1f} points at {size}" for size, value in gap.items()),
            "",
            n,
            judge(n, whole=gap[8] < gap[32] < gap[WHOLE], part=gap[32] < gap[WHOLE]),
        ),
        "textbook-ghost-batch-2": Evidence(
            f"{some.median:.1f} % at 64, {none.median:.1f} % at {WHOLE}",
            f"{some.range}; {none.range}",
            n,
            judge(n, whole=some.low > none.high, part=some.median > none.median),
        ),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return [
        Comparison(f"test accuracy (%), parts of {size:g}", DASH, DASH, str(spread(part["test"])), DASH)
        for size, part in accuracies(frames["runs"]).groupby("norm_size")
    ]
