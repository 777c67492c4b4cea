"""Is the variance that BN takes over a mini-batch an unbiased estimate of that over all images?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, spread
from bnstudy.analysis.stats import Scale

JUDGED = (2, 8, 32)
MARGIN = 0.1
OF = "mean variance of mini-batches of m over that of all images, less (m - 1)/m, over 1 - (m - 1)/m"
UNBIASED = {m: Part(OF, above=1 - MARGIN, below=1 + MARGIN, at=f"mini-batches of {m}") for m in JUDGED}
EXPLAINED = {0: "biased by\n(m - 1)/m", 1: "unbiased"}

TITLE = "The variance over a mini-batch, and that over all images"
CAPTION = (
    "Untrained perceptron of 784-256-10, the 60,000 training images of Fashion-MNIST cut into mini-batches of m: the "
    "variance that BN behind the dense layer divides by, found from what the layer does, over that of all images, mean "
    "over mini-batches and 256 features. One dot a seed (weights and mini-batches), bar: mean with 95 % interval. (a) "
    "The ratio: 1 if the estimate is unbiased; dashed: (m - 1)/m. (b) As judged: the ratio less (m - 1)/m, in units of "
    "1/m; bands: the margin of 0.1. (c) What the bias is beside the scatter of a single mini-batch's variance "
    "(standard deviation over mini-batches, over the variance of all images)."
)
SWEEP = "textbook_variance"
NEEDS = {"batch_variance": "step == 0 and norm == 'batch'"}
SIZE = (10.8, 4.1)
CLAIMS = (
    Claim(
        id="textbook-variance",
        origin="course",
        where="Dive into Deep Learning, Batch Normalization: the estimate of the variance",
        scale="textbook",
        says="The variance over a mini-batch, divided by m, is an unbiased estimate.",
        criterion=Criterion(
            tuple(UNBIASED.values()),
            remark="1 is no bias; 0 is a bias by exactly (m - 1)/m, and a mean within 0.1 of it (two one-sided tests) "
            "at all three refutes the claim. Behind a dense layer; the variance of all N images divides by N - 1.",
        ),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = _rows(frames)
    sizes = sorted(rows["batch_size"].unique())
    ratio, judged, scatter = axes = fig.subplots(1, 3)
    for size in sizes:
        of = rows[rows["batch_size"] == size]
        figures.seeds(ratio, math.log2(size), of["ratio"], "batch", scale=Scale.plain)
        figures.seeds(judged, math.log2(size), of["bias"], "batch", scale=Scale.plain)
    doublings = np.linspace(0.8, math.log2(max(sizes)) + 0.5, 100)
    ratio.plot(doublings, 1 - 0.5**doublings, color=figures.MUTED, ls="--", lw=1, label="(m - 1)/m")
    ratio.axhline(1, color=figures.MUTED, lw=1, label="unbiased")
    ratio.set_ylim(0.4, 1.05)
    ratio.set_ylabel("mini-batch variance over that of all images")
    ratio.legend(loc="lower right")
    for level in EXPLAINED:
        judged.axhspan(level - MARGIN, level + MARGIN, color=figures.FAINT, alpha=0.6, lw=0, zorder=0)
        judged.axhline(level, color=figures.MUTED, lw=0.8, zorder=1)
    judged.set_yticks(list(EXPLAINED), [f"{level}: {text}" for level, text in EXPLAINED.items()])
    judged.set_ylim(-0.3, 1.3)
    judged.set_ylabel("(ratio - (m - 1)/m) / (1/m)")
    _scatter(scatter, rows)
    titles = ("ratio of the variances", "the same, as judged", "bias and scatter of one estimate")
    for ax, title, letter in zip(axes, titles, "abc", strict=True):
        figures.panel(ax, letter, title)
        ax.set_xticks([math.log2(m) for m in sizes], [f"{m}" for m in sizes])
        ax.set_xlim(0.3, math.log2(max(sizes)) + 0.7)
        ax.set_xlabel("images in a mini-batch, m")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = _rows(frames)
    values = {part.key: rows[rows["batch_size"] == m].set_index("seed")["bias"] for m, part in UNBIASED.items()}
    return {"textbook-variance": {key: criteria.single(of) for key, of in values.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    what = {"ratio": "variance of a mini-batch over that of all images", "bias": "that less (m - 1)/m, over 1/m",
            "scatter": "standard deviation of one mini-batch's, over the variance of all images"}  # fmt: skip
    return [
        Comparison(f"{text}, mini-batches of {size}", DASH, DASH, str(spread(part[column])), DASH)
        for column, text in what.items()
        for size, part in _rows(frames).groupby("batch_size")
    ]


def _rows(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per seed and size of the mini-batch; `bias`: 0 where it is exactly (m - 1)/m, 1 where there is none."""
    rows = frames["batch_variance"]
    size = rows["batch_size"]
    return rows.assign(bias=(rows["ratio"] - (size - 1) / size) * size)


def _scatter(ax: Axes, rows: pd.DataFrame) -> None:
    rows = rows.assign(missing=1 - rows["ratio"], place=np.log2(rows["batch_size"]))
    for label, column, dashes in (("scatter", "scatter", "-"), ("bias", "missing", figures.DASHED)):
        figures.band(ax, stats.over_seeds(rows, ["place"], column), "place", "batch", label=label, ls=dashes)
        ax.plot(rows["place"], rows[column], "o", ms=2.6, mew=0, alpha=0.5, color=figures.COLOURS["batch"])
    ax.set_ylim(bottom=0)
    ax.set_ylabel("over the variance of all images")
    ax.legend(loc="upper right")
