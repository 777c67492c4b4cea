"""Is a mini-batch of 50 to 100 best for BN, and is that more than the number and the noise of the updates?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, accuracies, spread

NORMS = {
    "batch": ("BN", figures.COLOURS["batch"], "-"),
    "batch_renorm": ("batch renorm", figures.NORMS["batch_renorm"], "--"),
    "group": ("group", figures.NORMS["group"], ":"),
}
BEST = (50, 100)
EPOCHS = 10
BEST_SIZE = Part("test accuracy with BN at 64 less the highest mean of the other sizes", above=-0.5, unit="points")
GAPS = {
    (16, 64): Part("fall of training minus test accuracy from mini-batches of 64 to 16", above=0, unit="points"),
    (64, 512): Part("fall of it from 512 to 64", above=0, unit="points"),
}
OTHER_OPTIMUM = Part("loss of test accuracy of group normalization at BN's best size", above=0, unit="points")
INSIDE = Need(
    "number of BN's best sizes at an end of the grid", "a best size at the grid's edge is no optimum", below=1
)

TITLE = "Is a mini-batch of 50 to 100 best?"
CAPTION = (
    "LeNet on the first 12,000 images of Fashion-MNIST, learning rate 1, ten epochs (preset quick: three): smaller "
    "mini-batches make more updates. (a) Test accuracy after the last epoch. (b) Training accuracy in the last epoch, "
    "as it was seen while the weights changed, minus the test accuracy. Mean (line) over seeds and 95 % interval "
    "(bar); grey band: 50 to 100."
)
SWEEP = "textbook_batch_size"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (9.6, 4.0)
WHERE = "Dive into Deep Learning, Batch Normalization: mini-batches of 50 to 100 have the right amount of noise"
CLAIMS = (
    Claim(
        id="textbook-batch-size-1",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="With BN a mini-batch of 50 to 100 gives the best test accuracy.",
        criterion=Criterion(
            (Part(BEST_SIZE.of, above=0, unit="points"),),
            partial=(BEST_SIZE,),
            remark="Sizes 16 to 512, seed by seed.",
        ),
    ),
    Claim(
        id="textbook-batch-size-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Small mini-batches regularise: training is less ahead of the test.",
        criterion=Criterion(tuple(GAPS.values()), partial=(GAPS[64, 512],), remark="With BN."),
    ),
    Claim(
        id="textbook-batch-size-3",
        where=WHERE,
        scale="textbook",
        says="This is BN's doing: a norm that does not look at the mini-batch has no such optimum.",
        criterion=Criterion((OTHER_OPTIMUM,), needs=(INSIDE,), remark="Less its own highest mean, seed by seed."),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = accuracies(frames["runs"])
    axes = fig.subplots(1, 2)
    for ax, value, title, letter in zip(axes, ("test", "gap"), ("test accuracy", "training minus test"), "ab",
                                        strict=True):  # fmt: skip
        _lines(ax, runs, value)
        figures.panel(ax, letter, title)
    axes[0].set_ylabel("accuracy (%)")
    axes[1].set_ylabel("points of accuracy")
    axes[0].legend(loc="best")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = accuracies(frames["runs"])
    runs = runs[runs["epochs"] >= EPOCHS]
    sizes = sorted(runs["batch_size"].unique())
    wide = {
        norm: {side: rows.pivot(index="seed", columns="batch_size", values=side) for side in ("test", "gap")}
        for norm, rows in runs.groupby("norm")
    }
    none = {side: pd.DataFrame(dtype=float) for side in ("test", "gap")}
    bn, group = (wide.get(norm, none) for norm in ("batch", "group"))
    test, gap = bn["test"].reindex(columns=sorted({*sizes, 64})), bn["gap"].reindex(columns=[16, 64, 512])
    others = test.drop(columns=64).mean()
    best = test.mean().idxmax() if len(test) else math.nan
    rival = others.idxmax() if len(others.dropna()) else 64
    at_best, own = (group["test"].get(size, pd.Series(dtype=float)) for size in (best, _highest(group["test"])))
    falls = {part.key: stats.effect(gap[high], gap[low]) for (low, high), part in GAPS.items()}
    values = {
        "textbook-batch-size-1": {BEST_SIZE.key: test[64] - test[rival]},
        "textbook-batch-size-2": falls,
        "textbook-batch-size-3": {
            OTHER_OPTIMUM.key: stats.effect(own, at_best),
            INSIDE.of: pd.Series(float(best in (sizes[:1] + sizes[-1:])), index=test.index),
        },
    }
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


def _highest(test: pd.DataFrame) -> float:
    """The size of highest mean accuracy."""
    return float(str(test.mean().idxmax())) if len(test) else math.nan


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = accuracies(frames["runs"])
    return [
        Comparison(
            f"test accuracy (%), {NORMS[str(norm)][0]}, batches of {size}", DASH, DASH, str(spread(part["test"])), DASH
        )
        for (norm, size), part in runs.groupby(["norm", "batch_size"])
    ]


def _lines(ax: Axes, runs: pd.DataFrame, value: str) -> None:
    ax.axvspan(*BEST, color=figures.FAINT, alpha=0.6, lw=0, zorder=0)
    for place, (norm, (label, colour, line)) in enumerate(NORMS.items()):
        part = stats.over_seeds(runs[runs["norm"] == norm], ["batch_size"], value)
        factor = 1.06 ** (place - 1)
        figures.whiskers(ax, part, "batch_size", norm, label=label, factor=factor, colour=colour, ls=line)
    sizes = sorted(runs["batch_size"].unique())
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size}" for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel("images in a mini-batch")
