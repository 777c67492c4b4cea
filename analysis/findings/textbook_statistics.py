"""Why the test accuracy of BN-LeNet jumps from epoch to epoch: do the running statistics lag behind the weights?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, spread
from bnstudy.analysis.stats import Scale

CHAPTER = 0.1  # the chapter's weight of the new value
PLACES = {"*": "BN behind all four layers", "norm1,norm2": "BN behind the convolutions alone"}
LINES = {0.5: ":", 0.1: "-", 0.01: "--"}
EPOCHS = 10
AGAIN = Part("jumpiness with re-estimated statistics over that with running ones", below=1 / 3, scale=Scale.log)
CONVS = Part("jumpiness with BN behind the convolutions alone over that with BN everywhere", below=1 / 3,
             scale=Scale.log)  # fmt: skip
LAG = {
    weight: Part("jumpiness over that at the next larger weight of the new value", above=1, scale=Scale.log,
                 at=f"weight {weight:g}")
    for weight in (0.01, 0.1)
}  # fmt: skip

TITLE = "Does the test accuracy jump because of the running statistics?"
CAPTION = (
    "LeNet with BN on Fashion-MNIST, learning rate 1. (a, b) Test accuracy after each epoch with running statistics, "
    "by the weight of the new value in them; violet: with statistics re-estimated on 20 batches of 500 training images "
    "(weight 0.1). Mean (line) over seeds and 95 % interval (bar). (c) A run's jumpiness: the mean absolute change "
    "of its test accuracy from epoch to epoch, from the third on; one dot a run, line: geometric mean with 95 % "
    "interval; filled: running, hollow: re-estimated."
)
SWEEP = "textbook_statistics"
NEEDS = {"modes": "mode in ('eval', 'accumulated') and step > 0"}
SIZE = (10.8, 4.0)
WHERE = "Dive into Deep Learning, Batch Normalization; a report of its readers that the accuracy jumps"
CLAIMS = (
    Claim(
        id="textbook-statistics-1",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="The jumps are those of the running statistics: re-estimated at the same weights, there are none.",
        criterion=Criterion((AGAIN,), partial=(Part(AGAIN.of, below=2 / 3, scale=Scale.log),), remark="Weight 0.1."),
    ),
    Claim(
        id="textbook-statistics-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Statistics that lag further behind worsen it.",
        criterion=Criterion(tuple(LAG.values()), partial=1, remark="BN everywhere."),
    ),
    Claim(
        id="textbook-statistics-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Without BN behind the dense layers the curve is steady.",
        criterion=Criterion((CONVS,), partial=(Part(CONVS.of, below=2 / 3, scale=Scale.log),), remark="Weight 0.1."),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = _percent(frames["modes"])
    first, second, third = fig.subplots(1, 3)
    second.sharey(first)
    for ax, (where, title), letter in zip((first, second), PLACES.items(), "ab", strict=True):
        _curves(ax, rows[rows["norm_where"] == where])
        figures.panel(ax, letter, title)
    first.set_ylabel("test accuracy (%)")
    second.legend(title="weight of the new value", loc="lower right", handlelength=3)
    _jumps(third, jumps(rows))
    figures.panel(third, "c", "change from epoch to epoch")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = _percent(frames["modes"])
    sizes = jumps(rows[rows["epochs"] >= EPOCHS])
    running = {weight: _of(sizes, "*", weight, "eval") for weight in LINES}
    lag = {
        part.key: criteria.single(stats.effect(running[weight], running[larger], Scale.log))
        for (weight, part), larger in zip(LAG.items(), (0.1, 0.5), strict=True)
    }
    again, convs = _of(sizes, "*", CHAPTER, "accumulated"), _of(sizes, "norm1,norm2", CHAPTER, "eval")
    return {
        "textbook-statistics-1": {AGAIN.key: criteria.single(stats.effect(again, running[CHAPTER], Scale.log))},
        "textbook-statistics-2": lag,
        "textbook-statistics-3": {CONVS.key: criteria.single(stats.effect(convs, running[CHAPTER], Scale.log))},
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    sizes = jumps(_percent(frames["modes"]))
    return [
        Comparison(f"change an epoch (points), weight {weight}, {mode}, {where}", DASH, DASH,
                   str(spread(_of(sizes, where, weight, mode))), DASH)
        for where in PLACES for weight in LINES for mode in ("eval", "accumulated")
    ]  # fmt: skip


def jumps(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per run and mode, `jump`: mean absolute change of test accuracy (points) between epochs from the third."""
    keys = ["norm_where", "norm_momentum", "mode", "seed"]
    late = rows[rows["epoch"] >= 3].sort_values("epoch", kind="stable")
    change = late.groupby(keys, observed=True)["percent"].diff().abs()
    return late.assign(jump=change).groupby(keys, observed=True, as_index=False)[["jump"]].mean()


def _percent(modes: pd.DataFrame) -> pd.DataFrame:
    """With `percent`, the accuracy, and `epoch`: a run has one look per epoch."""
    epoch = modes.groupby(["run_id", "mode"], observed=True)["step"].rank().astype(int)
    return modes.assign(percent=100 * modes["accuracy"], epoch=epoch)


def _of(sizes: pd.DataFrame, where: str, weight: float, mode: str) -> pd.Series[float]:
    """By seed."""
    at = (sizes["norm_where"] == where) & (sizes["norm_momentum"] == weight) & (sizes["mode"] == mode)
    return sizes[at].set_index("seed")["jump"]


def _curves(ax: Axes, rows: pd.DataFrame) -> None:
    kinds = [(weight, "eval", figures.COLOURS["batch"], line, f"{weight}") for weight, line in LINES.items()]
    kinds += [(CHAPTER, "accumulated", figures.OTHER, "-", "re-estimated")]
    for place, (weight, mode, colour, line, label) in enumerate(kinds):
        part = stats.over_seeds(rows[(rows["norm_momentum"] == weight) & (rows["mode"] == mode)], ["epoch"], "percent")
        shift = 0.14 * (place - 1.5)
        figures.whiskers(ax, part, "epoch", "batch", label=label, shift=shift, colour=colour, ls=line, ms=2.5, lw=1.2)
    ax.set_xlabel("epoch")


def _jumps(ax: Axes, sizes: pd.DataFrame) -> None:
    for place, where in enumerate(PLACES):
        for index, weight in enumerate(LINES):
            for mode, shift, colour in (
                ("eval", -0.15, figures.COLOURS["batch"]),
                ("accumulated", 0.15, figures.OTHER),
            ):
                at = (sizes["norm_where"] == where) & (sizes["norm_momentum"] == weight) & (sizes["mode"] == mode)
                values = sizes[at]["jump"]
                x = [place * 3.6 + index + shift + 0.04 * (i - (len(values) - 1) / 2) for i in range(len(values))]
                ax.plot(x, values, "o", color=colour, ms=4, mfc=colour if mode == "eval" else "white", mew=1)
                of, ends = stats.interval(values, Scale.log), [place * 3.6 + index + shift + s for s in (-0.13, 0.13)]
                if of.n > 1:
                    ax.fill_between(ends, of.low, of.high, color=colour, alpha=0.2, lw=0)
                ax.plot(ends, [of.mean] * 2, color=colour, lw=1.6)
    ticks = [place * 3.6 + index for place in range(len(PLACES)) for index in range(len(LINES))]
    ax.set_xticks(ticks, [f"{weight:g}" for weight in LINES] * len(PLACES))
    ax.set_xlabel("weight; left: all layers, right: convolutions alone")
    ax.set_ylabel("points of test accuracy")
    ax.set_ylim(bottom=0)
    figures.headroom(ax, 0.1)
    running = figures.entry("running statistics", "o", colour=figures.COLOURS["batch"])
    again = figures.entry("re-estimated", "o", filled=False, colour=figures.OTHER)
    ax.legend(handles=[running, again], loc="upper right", ncols=2)
    ax.grid(False, axis="x")
