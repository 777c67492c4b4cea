"""The norm zoo: networks with BN, with parts of it, with other norms and with none, and a table that compares them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bnstudy.analysis import criteria, figures, frames, limits, stats
from bnstudy.analysis.claims_page import line
from bnstudy.analysis.findings import Comparison
from bnstudy.analysis.frames import CHANCE, DASH, number, spread
from bnstudy.analysis.stats import Scale

SWEEPS = ("norm_zoo_parts", "norm_zoo")  # the arms that claims about BN's parts compare, and all others
ENDED = "status in ('completed', 'diverged') and depth == 32"
NOT_RUN = "not run"
SHOWN = "ResNet-32 on 10,000 images of CIFAR-10, eight epochs at a constant rate."  # of a caption
BEST = (  # of a caption: what `draw_accuracies` shows
    "Test accuracy at each arm's best rate (of highest mean; a diverged run counts as 10 %), one dot a seed, bar: mean "
    "with 95 % interval."
)
GRID = "Limit: the largest rate, of a grid by factors of about 3, up to which every tried one learns; seed by seed."


class Arm(NamedTuple):
    """What an arm is called in figures, and the runs that belong to it: their network, norm and where that sits."""

    label: str
    model: str = "resnet"
    norm: str = "none"
    where: str = "*"


ARMS = {  # an arm of conf/arm: what it is
    "batch": Arm("BN", norm="batch"),
    "mean_only": Arm("BN: mean only", norm="mean_only"),
    "variance_only": Arm("BN: variance only", norm="variance_only"),
    "batch_before_pooling": Arm("one BN, at the end", norm="batch", where="before_pooling"),
    "group": Arm("group", norm="group"),
    "layer": Arm("layer", norm="layer"),
    "dynamic_tanh": Arm("dynamic tanh", norm="dynamic_tanh"),
    "standardised": Arm("weights standardised", model="resnet_standardised"),
    "skipinit": Arm("SkipInit", norm="skipinit", where="stage*.norm2"),
    "fixup": Arm("Fixup", model="resnet_fixup"),
    "zero_classifier": Arm("classifier from zero", model="resnet_zero_classifier"),
    "none": Arm("none"),
}


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with `arm`, the name of each one's arm; rows of no arm are left out."""
    kinds = {(arm.model, arm.norm, arm.where if arm.norm != "none" else "*"): name for name, arm in ARMS.items()}
    where = frame["norm_where"].where(frame["norm"] != "none", "*")
    arms = [kinds.get(kind) for kind in zip(frame["model"], frame["norm"], where, strict=True)]
    return frame.assign(arm=np.array(arms, dtype=object)).dropna(subset="arm")


def cells(runs: pd.DataFrame) -> pd.DataFrame:
    """The bracket of the largest rate that learns in each arm and seed (see `limits.by_cell`); runs have `arm`.

    Where none learns there is none: the largest rate that stays finite, which `limits` gives then, is another quantity.
    """
    brackets = limits.by_cell(runs, ["arm", "seed"])
    return brackets.assign(low=brackets["low"].mask(brackets["finite"].astype(bool)))


def with_percent(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run with `percent`, the final test accuracy; chance where it diverged."""
    return runs.assign(percent=(100 * runs["final_test_accuracy"]).where(runs["outcome"] != "diverged", CHANCE))


def best(runs: pd.DataFrame) -> tuple[float, pd.Series, bool]:
    """For one arm: the rate of highest mean accuracy among those that every seed has, the accuracies there by seed, and
    whether it lies inside the grid. NaN and none without such a rate.
    """
    rates = with_percent(runs).pivot(index="seed", columns="lr", values="percent").dropna(axis="columns")
    if rates.empty:
        return math.nan, pd.Series(dtype=float), False
    rate, grid = float(str(rates.mean().idxmax())), rates.columns.to_numpy(dtype=float)
    return rate, rates[rate], bool(grid.min() < rate < grid.max())


def there(runs: pd.DataFrame) -> list[str]:
    """The arms that have runs, in the order of `ARMS`."""
    return [arm for arm in ARMS if (runs["arm"] == arm).any()]


def numbers(runs: pd.DataFrame, growth: pd.DataFrame | None = None) -> list[Comparison]:
    """By arm: largest rate that learns, growth of activations (of the column `growth`, where given), best accuracy."""
    limit = cells(runs)
    lines = []
    for arm in there(runs):
        quantities = {"largest rate that learns": limit[limit["arm"] == arm]["low"]}
        if growth is not None:
            quantities["growth of activations"] = growth[growth["arm"] == arm]["growth"]
        quantities["test accuracy at the best rate (%)"] = best(runs[runs["arm"] == arm])[1]
        for what, values in quantities.items():
            value = str(spread(values))
            ours = (DASH, value) if arm == "none" else (value, DASH)
            lines.append(Comparison(f"{what}, {ARMS[arm].label}", DASH, DASH, *ours))
    return lines


def draw_accuracies(ax: Axes, runs: pd.DataFrame) -> None:
    """As `BEST` says."""
    draw_rows(ax, {arm: best(runs[runs["arm"] == arm])[1] for arm in there(runs)}, Scale.plain)
    ax.set_xlabel("test accuracy (%)")


def draw_limits(ax: Axes, runs: pd.DataFrame) -> None:
    """The largest rate that learns, a dot a seed, with the geometric mean and its 95 % interval."""
    limit = cells(runs)
    draw_rows(ax, {arm: limit[limit["arm"] == arm]["low"].dropna() for arm in there(runs)}, Scale.log)
    figures.plain_log(ax, "x")
    ax.set_xlabel("learning rate")


def draw_rows(ax: Axes, by_arm: Mapping[str, pd.Series], scale: Scale) -> None:
    """A row an arm: a dot a seed, and a bar at their mean on the scale, with its 95 % interval."""
    for row, (arm, values) in enumerate(by_arm.items()):
        of, colour = stats.interval(values, scale), figures.COLOURS[arm]
        ax.plot(values, row + np.linspace(-0.16, 0.16, len(values)), "o", color=colour, ms=4, mew=0, alpha=0.85)
        if of.n > 1:
            ax.fill_betweenx([row - 0.32, row + 0.32], of.low, of.high, color=colour, alpha=0.25, lw=0)
        if of.n:
            ax.plot([of.mean] * 2, [row - 0.32, row + 0.32], color=colour, lw=2)
    ax.set_yticks(range(len(by_arm)), [ARMS[arm].label for arm in by_arm])
    ax.set_ylim(len(by_arm) - 0.5, -0.5)
    ax.grid(False, axis="y")


def seconds(runs: pd.DataFrame) -> float:
    """Median over the runs that reached their end of the time a step took, each its share of those beside it."""
    ended = runs[(runs["status"] == "completed") & (runs["num_steps"] > 0)]
    return float((frames.process_sec(ended) / ended["num_steps"]).median()) if len(ended) else math.nan


def table(workspace: Path) -> str:
    """In Markdown: largest stable rate, accuracy at the best rate, cost of a step, an arm per line; an arm without
    published runs is "not run".
    """
    runs = _published(workspace)
    lines = [line(["arm", "largest rate that learns", "test accuracy at its best rate (%)", "time of a step", "n"])]
    lines.append(line(["---"] * 5))
    by_arm: Mapping[str, pd.DataFrame] = {name: runs[runs["arm"] == name] for name in ARMS}
    unit = seconds(by_arm["none"]) if len(by_arm["none"]) else math.nan
    for name, part in by_arm.items():
        lines.append(line([ARMS[name].label, *(_cells(part, unit) if len(part) else [NOT_RUN] * 3), _seeds(part)]))
    return "\n".join(lines)


def _published(workspace: Path) -> pd.DataFrame:
    """The runs of both sweeps, or of the one that there is."""
    tables = [pd.DataFrame(columns=["run_id", "arm"])]
    for sweep in SWEEPS:
        with contextlib.suppress(frames.MissingTable):
            tables.append(named(frames.load(workspace, sweep, "runs", ENDED)))
    return pd.concat(tables[1:] or tables, ignore_index=True).drop_duplicates("run_id")


def _cells(runs: pd.DataFrame, unit: float) -> list[str]:
    limit = stats.interval(cells(runs)["low"], Scale.log)
    rate, percent, inside = best(runs)
    edge = "" if inside else ", the grid's edge"
    accuracy = f"{criteria.formatted(stats.interval(percent))} at {number(rate)}{edge}" if len(percent) else NOT_RUN
    cost = seconds(runs) / unit
    relative = NOT_RUN if math.isnan(cost) else f"{number(cost)} of that without a norm"
    return [criteria.formatted(limit), accuracy, relative]


def _seeds(runs: pd.DataFrame) -> str:
    return str(runs["seed"].nunique() if len(runs) else 0)
