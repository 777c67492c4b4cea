"""The best learning rate of BN and of SkipInit at one size of the mini-batch: found by seed, compared and drawn."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats, zoo
from bnstudy.analysis.criteria import Need, Part, Sample
from bnstudy.analysis.findings import Comparison
from bnstudy.analysis.frames import CHANCE, DASH, spread
from bnstudy.analysis.stats import Scale

ARMS = ("batch", "skipinit")
INSIDE = Need("number of the two arms whose best rate is at an end of the grid",
              "a best rate at the grid's edge is no optimum", below=0.5)  # fmt: skip
LEARNT = Need("highest test accuracy with BN", "a network did not learn", above=30)
ENDED = "status in ('completed', 'diverged') and depth == 20"
SHOWN = "ResNet-20 on 10,000 images of CIFAR-10, ten epochs of the paper's schedule"  # of a caption
WHERE = "De and Smith (2020), section 4, against Bjorck et al. (2018), section 3"
BEST = "Tops of parabolas in the logarithm of the rate through the three rates around a seed's highest accuracy."
SIZE = (9.2, 4.2)


def of_size(size: int) -> str:
    """The query for the runs on mini-batches of this size."""
    return f"{ENDED} and batch_size == {size}"


def caption(size: int) -> str:
    """What `draw` shows."""
    return (
        f"{SHOWN}, mini-batches of {size}. (a) Final test accuracy by rate; a dot a run (a diverged one at 10 %), "
        "line: mean over seeds. (b) Best rate of each seed: the top of the parabola in the logarithm of the rate "
        "through its highest accuracy and the two beside it, bar: geometric mean with 95 % interval; hollow where the "
        "highest lies at an end of the grid."
    )


def by_run(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run, with arm, and percent (chance where it diverged)."""
    return zoo.with_percent(zoo.named(runs))


def best(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per arm and seed: rate (the parabola's top), percent (the highest), and whether it is inside."""
    rows = []
    for (arm, seed), part in runs.groupby(["arm", "seed"]):
        line = part.sort_values("lr", kind="stable")
        logs, percent = np.log(line["lr"].to_numpy()), line["percent"].to_numpy()
        place = int(percent.argmax())
        inside = 0 < place < len(percent) - 1 and percent[place] > CHANCE
        rate = _top(logs[place - 1 : place + 2], percent[place - 1 : place + 2]) if inside else logs[place]
        rows.append((arm, seed, math.exp(rate), percent[place], inside))
    return pd.DataFrame(rows, columns=["arm", "seed", "rate", "percent", "inside"])


def samples(runs: pd.DataFrame, part: Part) -> dict[str, Sample]:
    """What `part`, on the best rate with BN over that with SkipInit, and `INSIDE` and `LEARNT` ask for."""
    tops = best(runs)
    rate = {arm: tops[tops["arm"] == arm].set_index("seed")["rate"] for arm in ARMS}
    values = {
        part.key: stats.effect(rate["batch"], rate["skipinit"], Scale.log),
        INSIDE.of: (~tops["inside"].astype(bool)).groupby(tops["seed"]).sum(),
        LEARNT.of: tops[tops["arm"] == "batch"].set_index("seed")["percent"],
    }
    return {key: criteria.single(of) for key, of in values.items()}


def numbers(runs: pd.DataFrame) -> list[Comparison]:
    tops = best(runs)
    lines = []
    for arm in ARMS:
        for column, what in (("rate", "best rate"), ("percent", "highest test accuracy (%)")):
            value = str(spread(tops[tops["arm"] == arm][column]))
            lines.append(Comparison(f"{what}, {zoo.ARMS[arm].label}", DASH, DASH, value, DASH))
    return lines


def draw(fig: Figure, runs: pd.DataFrame) -> None:
    """Two panels, as `caption` says."""
    left, right = fig.subplots(1, 2, width_ratios=(1.6, 1))
    _by_rate(left, runs)
    figures.panel(left, "a", "test accuracy")
    _tops(right, best(runs))
    figures.panel(right, "b", "best rates")


def _top(x: np.ndarray, y: np.ndarray) -> float:
    """The top of the parabola through three points, of which the middle one is highest."""
    (left, right), (fall, rise) = np.diff(x), np.diff(y)
    bend = rise / right - fall / left  # below zero, or 0 where all are equal
    return float(x[1] if bend == 0 else (x[0] + x[1]) / 2 - fall / left * (x[2] - x[0]) / (2 * bend))


def _by_rate(ax: Axes, runs: pd.DataFrame) -> None:
    ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    for arm, factor in zip(ARMS, (1 / 1.03, 1.03), strict=True):
        part = runs[runs["arm"] == arm]
        means = stats.over_seeds(part, ["lr"], "percent")
        ax.plot(part["lr"] * factor, part["percent"], "o", color=figures.COLOURS[arm], ms=3.4, mew=0, alpha=0.7)
        ax.plot(means["lr"] * factor, means["mean"], color=figures.COLOURS[arm], lw=1.3, label=zoo.ARMS[arm].label)
    ax.set_xscale("log")
    ax.set_ylim(0, max(20.0, 1.1 * float(runs["percent"].max())))
    ax.set_xlabel("learning rate")
    ax.set_ylabel("test accuracy (%)")
    ax.legend(loc="lower left")


def _tops(ax: Axes, tops: pd.DataFrame) -> None:
    for place, arm in enumerate(ARMS):
        at = tops[tops["arm"] == arm]
        figures.seeds(ax, place, at["rate"], arm, scale=Scale.log, hollow=~at["inside"].astype(bool))
    figures.plain_log(ax)
    ax.set_xticks(range(len(ARMS)), [zoo.ARMS[arm].label for arm in ARMS])
    ax.set_xlim(-0.6, len(ARMS) - 0.4)
    ax.set_ylabel("best learning rate")
    ax.grid(False, axis="x")
