"""The largest stable learning rate of networks that are judged by losses: by cell, compared, described and drawn.

The largest rate up to which a network learns in one epoch on all of CIFAR-10 or, where no rate learns, stays finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from bnstudy.analysis import figures, limits, stats
from bnstudy.analysis.frames import ARMS
from bnstudy.analysis.stats import Scale

TIMES = 30  # by which the limit is to be larger with BN, at least
ONE_EPOCH = "status in ('completed', 'diverged') and epochs == 1"
LIMIT = (
    "Limit: the largest rate up to which a network learns in one epoch on all of CIFAR-10 (mean of the last 50 losses "
    "below 2.25) or, where no rate learns, stays finite, searched to a factor of 1.25."
)
DRAWN = (
    "a bar from the largest rate that learns (mean of the last 50 losses below 2.25) to the next, which does not; pale "
    "where no rate learns, from the largest that stays finite to the next, which diverges; triangle: the largest that "
    "was tried is below it; white dot: rates above the bar learn again"
)


def cells(runs: pd.DataFrame) -> pd.DataFrame:
    """The bracket of each arm, depth and seed (see `limits.by_cell`)."""
    return limits.by_cell(runs, ["norm", "depth", "seed"])


def ratio(cells: pd.DataFrame, depth: int) -> pd.Series:
    """By seed: the limit with BN over that without."""
    at = cells[cells["depth"] == depth].set_index("seed")
    with_bn, without = (at.loc[at["norm"] == arm, "low"] for arm in ARMS)
    return stats.effect(with_bn, without, Scale.log).dropna()


def described(cells: pd.DataFrame) -> str:
    """Some cells' limits in words."""
    finite = int(cells["finite"].sum())
    return limits.described(cells) + (f"; none learns in {finite}, which stay finite" if finite else "")


def draw_bar(ax: Axes, x: float, arm: str, cell: pd.Series) -> None:
    """As `DRAWN` says; nothing for a cell without a limit."""
    if math.isnan(cell["low"]):
        return
    colour = (figures.TINTS if cell["finite"] else figures.COLOURS)[arm]
    if math.isinf(cell["high"]):
        ax.plot([x], [cell["low"]], "^", color=colour, ms=5, mew=0)
        return
    # A bracket of a factor of 1.25 is thinner than its line: caps keep it visible.
    ax.plot([x, x], [cell["low"], cell["high"]], color=colour, lw=4, solid_capstyle="projecting", zorder=3)
    if cell["non_monotone"]:
        ax.plot([x], [math.sqrt(cell["low"] * cell["high"])], "o", color="white", ms=2.5, mew=0, zorder=4)


def draw_ratios(ax: Axes, cells: pd.DataFrame, depths: Sequence[int]) -> None:
    """The limit with BN over that without: at each depth a dot a seed, and the mean with its 95 % interval."""
    ax.axhline(TIMES, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    ax.axhline(1, color=figures.MUTED, lw=0.9, zorder=1)
    for place, depth in enumerate(depths):
        values = ratio(cells, depth)
        of = stats.interval(values, Scale.log)
        ax.plot([place - 0.12] * len(values), values, "o", color=figures.INK, ms=3.5, mew=0, alpha=0.6)
        if of.n:
            ax.plot([place + 0.1], [of.mean], "o", color=figures.INK, mfc="white", ms=4.5, mew=1.1, zorder=4)
        if of.n > 1:
            ax.plot([place + 0.1] * 2, [of.low, of.high], color=figures.INK, lw=1.2, zorder=3)
    over_depths(ax, depths)
    ax.set_ylabel("limit with BN over limit without")


def over_depths(ax: Axes, depths: Sequence[int]) -> None:
    """The axes of a panel that has a place for each depth, side by side."""
    figures.plain_log(ax)
    ax.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    ax.set_xlim(-0.5, len(depths) - 0.5)
    ax.grid(False, axis="x")
    ax.set_xlabel("weight layers")
