"""Does BN still train on mini-batches of 2, 4 and 8, and do its rivals there do better?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import effects, figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import DASH, accuracies, over_seeds, spread

NORMS = {
    "batch": ("BN", figures.COLOURS["batch"], "-"),
    "batch_renorm": ("batch renorm", figures.OTHER, "--"),
    "group": ("group", figures.MUTED, ":"),
    "none": ("no norm", figures.COLOURS["none"], "-"),
}
SIZES = (2, 4, 8)
NUM_IMAGES = 6000
FALLS = 2.0  # points of accuracy

TITLE = "BN on mini-batches of a few images"
CAPTION = (
    "LeNet, one epoch of the first 6,000 images of Fashion-MNIST, learning rate 0.1: all runs see as many examples, "
    "and smaller mini-batches make more updates. Test accuracy after the epoch, with the running statistics: median "
    "(line), every seed (dots)."
)
SWEEP = "textbook_tiny_batches"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (6.4, 4.0)
CLAIMS = (
    Claim(
        id="textbook-tiny-1",
        origin="course",
        where="Wu and He 2018, Figure 1: group normalization",
        scale="textbook",
        says="BN loses accuracy as the mini-batch shrinks, group normalization does not.",
        criterion="Median test accuracy falls from mini-batches of 8 to 2 by more than 2 points with BN, and with "
        "group normalization by less than half as much (reproduced); with BN by more than 2 points (partly).",
    ),
    Claim(
        id="textbook-tiny-2",
        origin="course",
        where="Ioffe 2017: batch renormalization",
        scale="textbook",
        says="Batch renormalization makes up for what BN loses on small mini-batches.",
        criterion="At mini-batches of 2, worst seed's test accuracy with batch renormalization above the best with BN "
        "(reproduced); its median is higher (partly).",
    ),
    Claim(
        id="textbook-tiny-3",
        origin="course",
        where="Dive into Deep Learning, Batch Normalization: it needs mini-batches that are large enough",
        scale="textbook",
        says="On mini-batches of a few images BN does harm: without it the network is better.",
        criterion="Median test accuracy without a norm above that with BN at 2 and at 4 (reproduced), at one of "
        "the two (partly).",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    ax, runs = fig.subplots(), accuracies(frames["runs"])
    for place, (norm, (label, colour, line)) in enumerate(NORMS.items()):
        rows = runs[runs["norm"] == norm]
        at = over_seeds(rows, ["batch_size"], "test")
        shift = 1.03 ** (place - 1.5)  # so that dots do not cover each other
        ax.plot(at["batch_size"] * shift, at["median"], color=colour, ls=line, marker="_", ms=9, label=label)
        ax.plot(rows["batch_size"] * shift, rows["test"], "o", color=colour, ms=3, alpha=0.7, lw=0)
    ax.set_xscale("log")
    ax.set_xticks(SIZES, [f"{size}" for size in SIZES])
    ax.minorticks_off()
    ax.set_xlabel("images in a mini-batch")
    ax.set_ylabel("test accuracy (%)")
    ax.legend(loc="best")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = accuracies(frames["runs"])
    runs = runs[runs["num_train"] >= NUM_IMAGES]
    cells = pd.MultiIndex.from_product([NORMS, SIZES], names=["norm", "batch_size"])
    grouped = runs.groupby(["norm", "batch_size"])
    n = int(grouped["seed"].nunique().reindex(cells, fill_value=0).min())
    median = grouped["test"].median().reindex(cells)
    of_two = runs[runs["batch_size"] == 2]
    bn, renorm = (spread(of_two[of_two["norm"] == norm]["test"]) for norm in ("batch", "batch_renorm"))
    fall = {norm: median[norm, 8] - median[norm, 2] for norm in ("batch", "group")}
    better = {size: median["none", size] > median["batch", size] for size in (2, 4)}
    return {
        "textbook-tiny-1": Evidence(
            f"falls by {fall['batch']:.1f} points with BN, {fall['group']:.1f} with group normalization",
            "; ".join(
                f"{NORMS[norm][0]} " + ", ".join(f"{median[norm, size]:.1f} % at {size}" for size in SIZES)
                for norm in fall
            ),
            n,
            judge(n, whole=fall["batch"] > max(FALLS, 2 * fall["group"]), part=fall["batch"] > FALLS),
        ),
        "textbook-tiny-2": Evidence(
            f"{renorm.median:.1f} % with batch renormalization, {bn.median:.1f} % with BN, at 2",
            f"{renorm.range}; {bn.range}",
            n,
            judge(n, whole=renorm.low > bn.high, part=renorm.median > bn.median),
        ),
        "textbook-tiny-3": Evidence(
            ", ".join(
                f"{median['none', size]:.1f} % without a norm, {median['batch', size]:.1f} % with BN at {size}"
                for size in better
            ),
            "",
            n,
            judge(n, whole=all(better.values()), part=any(better.values())),
            arms=tuple(
                effects.arms(runs[runs["batch_size"] == size], "test", f"test accuracy (%) at {size}")
                for size in better
            ),
        ),
    }


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
