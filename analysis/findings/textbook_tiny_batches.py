"""Does BN still train on mini-batches of 2, 4 and 8, and do its rivals there do better?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, accuracies, spread

NORMS = {
    "batch": ("BN", figures.COLOURS["batch"], "-"),
    "batch_renorm": ("batch renorm", figures.NORMS["batch_renorm"], "--"),
    "group": ("group", figures.NORMS["group"], ":"),
    "none": ("no norm", figures.COLOURS["none"], "-"),
}
SIZES = (2, 4, 8)
NUM_IMAGES = 6000
FALL = Part("fall of the test accuracy from mini-batches of 8 to 2 with BN", above=2, unit="points")
MORE = Part("that fall less twice that with group normalization", above=0, unit="points")
RENORM = Part("test accuracy at 2 with batch renormalization less with BN", above=0, unit="points")
WHOLE = Part("test accuracy at 2 with batch renormalization less at 8 with BN", above=-2, unit="points")
HARM = {
    size: Part("test accuracy without a norm less with BN", above=0, unit="points", at=f"mini-batches of {size}")
    for size in (2, 4)
}
LEARNED = Need("test accuracy without a norm at 2 and 4", "the control never learned: it is at chance", above=15)

TITLE = "BN on mini-batches of a few images"
CAPTION = (
    "LeNet, one epoch of the first 6,000 images of Fashion-MNIST, learning rate 0.1: all runs see as many examples, "
    "and smaller mini-batches make more updates. At this rate the network without a norm does not leave chance (10 %). "
    "Test accuracy after the epoch, with the running statistics: mean (line) with 95 % interval (bar), every seed "
    "(dots)."
)
SWEEP = "textbook_tiny_batches"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (9.6, 4.2)
CLAIMS = (
    Claim(
        id="textbook-tiny-1",
        origin="course",
        where="Wu and He 2018, Figure 1: group normalization",
        scale="textbook",
        says="BN loses accuracy as the mini-batch shrinks, group normalization does not.",
        criterion=Criterion((FALL, MORE), partial=(FALL,)),
    ),
    Claim(
        id="textbook-tiny-2",
        origin="course",
        where="Ioffe 2017: batch renormalization",
        scale="textbook",
        says="Batch renormalization makes up for what BN loses on small mini-batches.",
        criterion=Criterion(
            (RENORM, WHOLE),
            partial=(RENORM,),
            remark="Made up for is all that is lost: the weaker criterion was the whole one before a look at the data.",
        ),
    ),
    Claim(
        id="textbook-tiny-3",
        origin="course",
        where="Dive into Deep Learning, Batch Normalization: it needs mini-batches that are large enough",
        scale="textbook",
        says="On mini-batches of a few images BN does harm: without it the network is better.",
        criterion=Criterion(tuple(HARM.values()), partial=1, needs=(LEARNED,)),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    ax, runs = fig.subplots(), accuracies(frames["runs"])
    for place, (norm, (label, colour, line)) in enumerate(NORMS.items()):
        rows = runs[runs["norm"] == norm]
        at = stats.over_seeds(rows, ["batch_size"], "test")
        shift = 1.035 ** (place - 1.5)  # so that dots do not cover each other
        x = at["batch_size"] * shift
        ax.plot(x, at["mean"], color=colour, ls=line, lw=1.6, label=label)
        ax.vlines(x, at["low"], at["high"], color=colour, lw=1.6)
        ax.plot(rows["batch_size"] * shift, rows["test"], "o", color=colour, ms=3.4, alpha=0.6, mew=0)
    ax.set_xscale("log")
    ax.set_xticks(SIZES, [f"{size}" for size in SIZES])
    ax.minorticks_off()
    ax.set_xlabel("images in a mini-batch")
    ax.set_ylabel("test accuracy (%)")
    ax.legend(loc="best")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = accuracies(frames["runs"])
    runs = runs[runs["num_train"] >= NUM_IMAGES]
    at = {
        (norm, size): runs[(runs["norm"] == norm) & (runs["batch_size"] == size)].set_index("seed")["test"]
        for norm in NORMS for size in SIZES
    }  # fmt: skip
    fall = {norm: stats.effect(at[norm, 8], at[norm, 2]) for norm in ("batch", "group")}
    harm = {part.key: stats.effect(at["none", size], at["batch", size]) for size, part in HARM.items()}
    control = pd.concat([at["none", size] for size in HARM], axis=1).min(axis=1, skipna=False)
    values = {
        "textbook-tiny-1": {FALL.key: fall["batch"], MORE.key: stats.effect(fall["batch"], 2 * fall["group"])},
        "textbook-tiny-2": {
            RENORM.key: stats.effect(at["batch_renorm", 2], at["batch", 2]),
            WHOLE.key: stats.effect(at["batch_renorm", 2], at["batch", 8]),
        },
        "textbook-tiny-3": {**harm, LEARNED.of: control},
    }
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return [
        Comparison(
            f"test accuracy (%), {NORMS[str(norm)][0]}, mini-batches of {size}",
            DASH,
            DASH,
            str(spread(part["test"])),
            DASH,
        )
        for (norm, size), part in accuracies(frames["runs"]).groupby(["norm", "batch_size"])
    ]
