"""BN in training and in evaluation: what a forgotten `eval()` costs, and what accumulated statistics give."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, Spread, spread
from bnstudy.analysis.stats import Scale

ORDERS = {"mixed": "-", "sorted": "--"}
EPOCHS = 10
LOST = {
    size: Part("accuracy lost in training mode, mixed order", above=above, below=below, unit="points",
               at=f"batches of {size}")
    for size, above, below in ((2, 20, None), (8, 5, None), (256, None, 2))
}  # fmt: skip
MISREAD = Part("accuracy lost by sorting, in batches of 256", above=20, unit="points")
AFTER = Part("accuracy lost by one forgetful pass over sorted images", above=5, unit="points")
BETTER = Part("accuracy with accumulated statistics less with running ones", above=0, unit="points")
EVENER = Part("distance from the seeds' mean with accumulated statistics over that with running ones", below=1,
              scale=Scale.log)  # fmt: skip

TITLE = "BN's two modes: what a forgotten eval() does"
CAPTION = (
    "LeNet with BN (learning rate 1, ten epochs; preset quick: three), the 10,000 test images of Fashion-MNIST. (a) "
    "Left in training mode, where each batch is normalized by its own statistics, against the batch's size; test "
    "images in mixed order and sorted by label; line: mean over seeds, band: 95 % interval. A batch of one is refused "
    "by the norms of dense layers. (b) One dot a seed, bar: mean with 95 % interval: evaluation with the running "
    "statistics, with statistics accumulated over 10,000 training images at the final weights, and with the running "
    "statistics after eval() was forgotten for one pass over the test images (batches of 256) and then remembered."
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
        criterion=Criterion(tuple(LOST.values()), partial=(LOST[2],), remark="Below accumulated statistics."),
    ),
    Claim(
        id="textbook-modes-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="In training mode an image's prediction depends on its neighbours: sorted test images are misread.",
        criterion=Criterion((MISREAD,), partial=(Part(MISREAD.of, above=5, unit="points"),)),
    ),
    Claim(
        id="textbook-modes-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="A forgotten eval() also changes the network: its running statistics are those of the test images then.",
        criterion=Criterion(
            (AFTER,),
            partial=(Part(AFTER.of, above=1, unit="points"),),
            remark="With running statistics, before the pass less after it.",
        ),
    ),
    Claim(
        id="textbook-modes-4",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Statistics accumulated at the final weights evaluate better, and more evenly, than running ones.",
        criterion=Criterion((BETTER, EVENER), partial=1),
        published="0.878 and 0.796 from one network, with running statistics",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = frames["modes"].assign(percent=100 * frames["modes"]["accuracy"])
    left, right = fig.subplots(1, 2)
    _training_mode(left, rows)
    figures.panel(left, "a", "left in training mode")
    _evaluations(right, rows)
    figures.panel(right, "b", "in evaluation mode")
    left.set_ylabel("test accuracy (%)")
    left.set_ylim(0, 100)
    right.set_ylabel("test accuracy (%), axis cut")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = frames["modes"]
    rows = rows[rows["epochs"] >= EPOCHS]
    stored, accumulated = _by_seed(rows, "eval"), _by_seed(rows, "accumulated")
    mixed, by_label = (_by_seed(rows, "train", order, 256) for order in ORDERS)
    lost = {part.key: stats.effect(accumulated, _by_seed(rows, "train", "mixed", size)) for size, part in LOST.items()}
    even, uneven = ((each - each.mean()).abs() for each in (accumulated, stored))
    values = {
        "textbook-modes-1": lost,
        "textbook-modes-2": {MISREAD.key: stats.effect(mixed, by_label)},
        "textbook-modes-3": {AFTER.key: stats.effect(stored, _by_seed(rows, "after", "sorted"))},
        "textbook-modes-4": {
            BETTER.key: stats.effect(accumulated, stored), EVENER.key: stats.effect(even, uneven, Scale.log),
        },
    }  # fmt: skip
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    rows = frames["modes"]
    lines = [
        Comparison("test accuracy (%), running statistics", DASH, DASH, str(_of(rows, "eval")), DASH),
        Comparison("test accuracy (%), accumulated statistics", DASH, DASH, str(_of(rows, "accumulated")), DASH),
    ]
    for order in ORDERS:
        for size in sorted(rows[rows["mode"] == "train"]["batch_size"].unique()):
            value = _of(rows, "train", order, int(size))
            text = str(value) if value.n else "refused"
            lines.append(Comparison(f"training mode, {order}, batches of {size}", DASH, DASH, text, DASH))
        after = str(_of(rows, "after", order))
        lines.append(Comparison(f"evaluation after a forgetful pass, {order}", DASH, DASH, after, DASH))
    return lines


def _of(rows: pd.DataFrame, mode: str, order: str = "mixed", size: int | None = None) -> Spread:
    """Accuracies in percent."""
    return spread(_by_seed(rows, mode, order, size))


def _by_seed(rows: pd.DataFrame, mode: str, order: str = "mixed", size: int | None = None) -> pd.Series[float]:
    part = rows[(rows["mode"] == mode) & (rows["order"] == order)]
    if size is not None:
        part = part[part["batch_size"] == size]
    return 100 * part.set_index("seed")["accuracy"]


def _training_mode(ax: Axes, rows: pd.DataFrame) -> None:
    train = rows[rows["mode"] == "train"]
    for order, line in ORDERS.items():
        values = stats.over_seeds(train[train["order"] == order].dropna(subset="percent"), ["batch_size"], "percent")
        figures.band(ax, values, "batch_size", "batch", label=f"{order} order", ls=line, marker="o", ms=3)
    reference = rows[rows["mode"] == "accumulated"]["percent"].mean()
    ax.axhline(reference, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)), label="evaluation, accumulated statistics")
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
        figures.seeds(ax, index, rows[(rows["mode"] == mode) & (rows["order"] == order)]["percent"], "batch",
                      scale=Scale.plain)  # fmt: skip
    ax.set_xticks(range(len(ways)), list(ways))
    ax.set_xlim(-0.5, len(ways) - 0.5)
    ax.grid(False, axis="x")
