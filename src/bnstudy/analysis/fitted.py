"""Networks that fit their training images: how they ended, and how they are drawn (section 2.1, Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes

from bnstudy.analysis import figures, stats
from bnstudy.analysis.frames import arms, number
from bnstudy.analysis.stats import Scale

RATES = (0.003, 0.01, 0.1)  # rising
DASHES: Mapping[float, object] = {0.1: "-", 0.01: "--", 0.003: ":"}
FITTED = 98.99  # percent of the training images, in evaluation mode: 99 % of them fit
SHARPNESS = {"sharp": "hessian_top_eigenvalue", "relative": "relative_sharpness"}  # column of `ends`, and its table


def ends(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per run: final accuracies in percent (`train` in evaluation mode), gap in points, and, where the frames
    have their tables, both sharpnesses.
    """
    runs = frames["runs"].set_index("run_id")[["norm", "lr", "seed", "final_test_accuracy"]]
    trained = frames["splits"].query("split == 'train'").set_index("run_id")["accuracy"]
    columns = {"train": 100 * trained, "test": 100 * runs["final_test_accuracy"]}
    for name, table in SHARPNESS.items():
        if table in frames:
            rows = frames[table].set_index("run_id")
            columns[name] = rows["eigenvalue"].where(rows["converged"])
    runs = runs.assign(**{name: values.reindex(runs.index) for name, values in columns.items()})
    return runs.assign(gap=runs["train"] - runs["test"]).reset_index()


def of(rows: pd.DataFrame, norm: str, rate: float) -> pd.DataFrame:
    """The `ends` of one arm at one rate, by seed."""
    return rows[(rows["norm"] == norm) & (rows["lr"] == rate)].set_index("seed")


def courses(ax: Axes, epochs: pd.DataFrame, side: str) -> None:
    """Means and intervals over seeds against the part of training, of each arm."""
    shown = epochs.dropna(subset=[f"{side}_accuracy"])
    shown = shown.assign(percent=100 * shown["epoch"] / shown["epochs"], accuracy=100 * shown[f"{side}_accuracy"])
    for norm, each in arms(shown).items():
        for rate in sorted(DASHES, reverse=True):
            rows = each[each["run_lr"] == rate]
            if len(rows):
                means = stats.over_seeds(rows, ["percent"], "accuracy")
                label = f"{figures.LABELS[norm]}, rate {number(rate)}"
                figures.band(ax, means, "percent", norm, label=label, ls=DASHES[rate], lw=1.4)
    ax.set_xlim(0, 100)
    ax.set_xlabel("part of training (%)")
    ax.set_ylabel("accuracy (%)")


def by_rate(ax: Axes, rows: pd.DataFrame, value: str, *, filled: bool = True, scale: Scale = Scale.plain) -> None:
    """A dot per seed, side by side in the arms, and beside them the means by rate with their intervals."""
    for shift, (norm, part) in figures.beside(rows.dropna(subset=[value]), 1):
        side = 1.08**shift
        colour = figures.COLOURS[norm]
        ax.plot(part["lr"] * side, part[value], "o", color=colour, mfc=colour if filled else "white", ms=4, mew=1)
        if len(part):
            means, ls = stats.over_seeds(part, ["lr"], value, scale), "-" if filled else figures.DASHED
            mark = {"marker": "_", "ms": 9, "mew": 1.1} if len(means) == 1 else {"marker": ""}  # a line needs two rates
            figures.whiskers(ax, means, "lr", norm, label="", factor=1.06 * side, lw=1.1, ls=ls, **mark)
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
    ax.set_xlim(RATES[0] / 1.6, RATES[-1] * 1.6)
    ax.set_xlabel("learning rate")
