"""BN in training and in evaluation: what a forgotten `eval()` costs, and what accumulated statistics give."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import DASH, Spread, over_seeds, spread

ORDERS = {"mixed": "-", "sorted": "--"}
EPOCHS = 10

TITLE = "BN's two modes: what a forgotten eval() does"
CAPTION = (
    "LeNet with BN (learning rate 1, ten epochs; preset quick: three), the 10,000 test images of Fashion-MNIST. (a) "
    "Left in training mode, where each batch is normalized by its own statistics, against the batch's size; test "
    "images in mixed order and sorted by label; line: median over seeds, band: range. A batch of one is refused by the "
    "norms of dense layers. (b) One dot a seed, bar: median: evaluation with the running statistics, with statistics "
    "accumulated over 10,000 training images at the final weights, and with the running statistics after eval() was "
    "forgotten for one pass over the test images (batches of 256) and then remembered."
)
SWEEP = "textbook_evaluation"
NEEDS = {"modes": "norm == 'batch'"}
SIZE = (10.0, 4.0)
WHERE = "Dive into Deep Learning, Batch Normalization, 7.5.7"
CLAIMS = (
    Claim(
        id="textbook-modes-1",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Forgetting eval() costs accuracy, the more the smaller the batches.",
        criterion="Mixed order, median over seeds of the accuracy below that in evaluation mode with accumulated "
        "statistics: at least 20 points at batches of 2, at least 5 at 8, less than 2 at 256: all (reproduced), the "
        "first (partly).",
    ),
    Claim(
        id="textbook-modes-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="In training mode an image's prediction depends on its neighbours: sorted test images are misread.",
        criterion="Batches of 256, sorted by label: median accuracy at least 20 points below that in mixed order "
        "(reproduced), at least 5 (partly).",
    ),
    Claim(
        id="textbook-modes-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="A forgotten eval() also changes the network: its running statistics are those of the test images then.",
        criterion="After one forgetful pass over the sorted test images, in evaluation mode: median accuracy at least "
        "5 points below that with accumulated statistics (reproduced), at least 1 (partly).",
    ),
    Claim(
        id="textbook-modes-4",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Statistics accumulated at the final weights evaluate better, and more evenly, than running ones.",
        criterion="Median accuracy with accumulated statistics above that with running ones, and its range over seeds "
        "at most half (reproduced); one of the two (partly).",
        published="0.878 and 0.796 from one network, with running statistics",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = frames["modes"].assign(percent=100 * frames["modes"]["accuracy"])
    left, right = fig.subplots(1, 2, sharey=True)
    _training_mode(left, rows)
    figures.panel(left, "a", "left in training mode")
    _evaluations(right, rows)
    figures.panel(right, "b", "in evaluation mode")
    left.set_ylabel("test accuracy (%)")
    left.set_ylim(0, 100)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    rows = frames["modes"]
    n = rows[rows["epochs"] >= EPOCHS]["seed"].nunique()
    stored, accumulated = _of(rows, "eval"), _of(rows, "accumulated")
    below = {size: accumulated.median - _of(rows, "train", "mixed", size).median for size in (2, 8, 256)}
    steps = [below[2] >= 20, below[8] >= 5, below[256] < 2]
    mixed, by_label = (_of(rows, "train", order, 256) for order in ORDERS)
    after = _of(rows, "after", "sorted")
    fall = accumulated.median - after.median
    better = [accumulated.median > stored.median, accumulated.high - accumulated.low <= (stored.high - stored.low) / 2]
    return {
        "textbook-modes-1": Evidence(
            ", ".join(f"{value:.1f} points at batches of {size}" for size, value in below.items()) + " lost",
            "; ".join(f"{size}: {_of(rows, 'train', 'mixed', size).range} %" for size in below),
            n,
            judge(n, whole=all(steps), part=steps[0]),
        ),
        "textbook-modes-2": Evidence(
            f"{by_label.median:.1f} % sorted, {mixed.median:.1f} % mixed",
            f"{by_label.range}; {mixed.range}",
            n,
            judge(n, whole=mixed.median - by_label.median >= 20, part=mixed.median - by_label.median >= 5),
        ),
        "textbook-modes-3": Evidence(
            f"{after.median:.1f} % after it, {accumulated.median:.1f} % before",
            f"{after.range}; {accumulated.range}",
            n,
            judge(n, whole=fall >= 5, part=fall >= 1),
        ),
        "textbook-modes-4": Evidence(
            f"{accumulated.median:.1f} % with accumulated statistics, {stored.median:.1f} % with running ones",
            f"{accumulated.range}; {stored.range}",
            n,
            judge(n, whole=all(better), part=any(better)),
        ),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    rows = frames["modes"]
    lines = [
        Comparison("test accuracy (%), running statistics", DASH, DASH, str(_of(rows, "eval")), DASH),
        Comparison("test accuracy (%), accumulated statistics", DASH, DASH, str(_of(rows, "accumulated")), DASH),
    ]
    for order in ORDERS:
        for size in sorted(rows[rows["mode"] == "train"]["batch_size"].unique()):
            value = _of(rows, "train", order, int(size))
            told = str(value) if value.n else "refused"
            lines.append(Comparison(f"training mode, {order}, batches of {size}", DASH, DASH, told, DASH))
        after = str(_of(rows, "after", order))
        lines.append(Comparison(f"evaluation after a forgetful pass, {order}", DASH, DASH, after, DASH))
    return lines


def _of(rows: pd.DataFrame, mode: str, order: str = "mixed", size: int | None = None) -> Spread:
    """Accuracies in percent."""
    part = rows[(rows["mode"] == mode) & (rows["order"] == order)]
    if size is not None:
        part = part[part["batch_size"] == size]
    return spread(100 * part["accuracy"])


def _training_mode(ax: Axes, rows: pd.DataFrame) -> None:
    train = rows[rows["mode"] == "train"]
    for order, line in ORDERS.items():
        values = over_seeds(train[train["order"] == order].dropna(subset="percent"), ["batch_size"], "percent")
        figures.band(ax, values, "batch_size", "batch", label=f"{order} order", ls=line, marker="o", ms=3)
    reference = rows[rows["mode"] == "accumulated"]["percent"].median()
    ax.axhline(reference, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)))
    ax.annotate("evaluation, accumulated statistics", (0.99, reference), (0, 3), xycoords=ax.get_yaxis_transform(),
                textcoords="offset points", ha="right", fontsize=7, color=figures.MUTED)  # fmt: skip
    sizes = sorted(train["batch_size"].unique())
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size}" for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel("test images in a batch")
    ax.legend(loc="center right", handlelength=2.6)


def _evaluations(ax: Axes, rows: pd.DataFrame) -> None:
    ways = {
        "running\nstatistics": ("eval", "mixed"),
        "accumulated\nstatistics": ("accumulated", "mixed"),
        "after a forgetful\npass, mixed": ("after", "mixed"),
        "after a forgetful\npass, sorted": ("after", "sorted"),
    }
    for index, (mode, order) in enumerate(ways.values()):
        figures.seeds(ax, index, rows[(rows["mode"] == mode) & (rows["order"] == order)]["percent"], "batch")
    ax.set_xticks(range(len(ways)), list(ways))
    ax.set_xlim(-0.5, len(ways) - 0.5)
    ax.grid(False, axis="x")
