"""Up to which learning rate networks of other depths learn (Bjorck et al. 2018, section 3 and appendix H)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, limits, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, arms, number
from bnstudy.analysis.stats import Scale

DEPTHS = (8, 20, 56, 110)
DEEPEST = 110
TIMES = 30  # by which the limit is to be larger with BN, at least
SHARE = 1 / 3  # of the slope without BN, that with BN at most
CURVATURE = "stability_curvature/hessian_top_eigenvalue"

TITLE = "The largest stable learning rate of the first epoch, by depth"
CAPTION = (
    "CIFAR ResNets on all of CIFAR-10, one epoch on mini-batches of 128 at a constant rate, fp32. (a) Limit of each "
    "seed: a bar from the largest rate that learns (mean of the last 50 losses below 2.25) to the next, which does "
    "not; pale where no rate learns, from the largest that stays finite to the next, which diverges; triangle: the "
    "largest that was tried is below it; white dot: rates above the bar learn again. Dashed: 2 over the largest "
    "eigenvalue of the Hessian of the untrained network (training mode, 64 images; median over seeds), the limit of "
    "gradient descent on a quadratic loss. (b) The limit with BN over that without, a dot a seed, with the mean and "
    "its 95 % interval; dashed: 30."
)
SWEEP = "stability_depth"
ONE_EPOCH = "epochs == 1 and depth in (8, 20, 56, 110)"
NEEDS = {
    "runs": f"status in ('completed', 'diverged') and {ONE_EPOCH}",
    CURVATURE: "depth in (8, 20, 56, 110)",
}
SIZE = (9.8, 4.6)
LARGER, LARGER_PARTLY = (
    Part("limit with BN over that without at depth 110", above=bound, scale=Scale.log) for bound in (TIMES, 1)
)
FALLS = Part("slope of log limit on log depth without BN", below=0)
SLOWER = Part("slope with BN less a third of that without", above=0)
KNOWN = Need("cells of a seed at depth 110 without a limit, or without BN with one above the largest rate tried",
             "a limit is not known", below=0.5)  # fmt: skip
ALL_KNOWN = Need("cells of a seed without a limit, or with one above the largest rate tried", "a limit is not known",
                 below=0.5)  # fmt: skip
LIMIT = (
    "Limit: the largest rate up to which a network learns in one epoch on all of CIFAR-10 (mean of the last 50 losses "
    "below 2.25) or, where no rate learns, stays finite, by decades from 1e-4 to 10 and bisection to a factor of 1.25."
)
CLAIMS = (
    Claim(
        id="4-largest-epoch",
        origin="paper",
        where="Section 3, text",
        scale="true depth, one epoch",
        says="The largest learning rate that trains is an order of magnitude larger with BN.",
        criterion=Criterion((LARGER,), partial=(LARGER_PARTLY,), needs=(KNOWN,), remark=LIMIT),
        published="0.1 against 0.0001 are the rates used",
    ),
    Claim(
        id="15-epoch",
        origin="paper",
        where="Appendix H",
        scale="true depth, one epoch",
        says="Without BN shallower networks train at larger learning rates.",
        criterion=Criterion(
            (FALLS, SLOWER),
            partial=(FALLS,),
            needs=(ALL_KNOWN,),
            remark=f"Depths 8, 20, 56 and 110. With BN it falls at most a third as steeply. {LIMIT}",
        ),
        published="values not known",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    cells = _cells(frames)
    left, right = fig.subplots(1, 2, width_ratios=(1.5, 1))
    _limits(left, cells, frames[CURVATURE])
    figures.panel(left, "a", "limits, and 2 over the curvature at the start")
    _ratios(right, cells)
    figures.panel(right, "b", "how many times larger with BN")
    handles = [
        *figures.arm_entries(arms(cells), lw=5),
        figures.entry("none learns: finite", lw=5, colour=figures.TINTS["none"]),
        figures.entry("2 / curvature", ls=figures.DASHED, lw=1.1),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=4)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    cells = _cells(frames)
    deepest = cells[cells["depth"] == DEEPEST]
    with_bn, without = (_slopes(cells, arm) for arm in ARMS)
    unknown = cells["low"].isna()
    open_ended = np.isinf(cells["high"])
    quantities = {
        LARGER.key: _ratio(cells, DEEPEST),
        KNOWN.of: (unknown | (open_ended & (cells["norm"] == "none")))[deepest.index].groupby(deepest["seed"]).sum(),
        FALLS.key: without,
        SLOWER.key: stats.effect(with_bn, SHARE * without),
        ALL_KNOWN.of: (unknown | open_ended).groupby(cells["seed"]).sum(),
    }
    samples = {name: criteria.single(values) for name, values in quantities.items()}
    return {"4-largest-epoch": samples, "15-epoch": samples}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    cells, curvature = _cells(frames), _curvature(frames[CURVATURE])
    lines = []
    for depth in sorted(cells["depth"].unique()):
        both = [cells[(cells["depth"] == depth) & (cells["norm"] == arm)] for arm in ARMS]
        lines.append(Comparison(f"limit, {depth} layers", DASH, DASH, *(_told(part) for part in both)))
        at = [curvature[(curvature["depth"] == depth) & (curvature["norm"] == arm)]["limit"].median() for arm in ARMS]
        lines.append(Comparison(f"2 / curvature, {depth} layers", DASH, DASH, *map(number, at)))
    return lines


def _cells(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return limits.by_cell(frames["runs"], ["norm", "depth", "seed"])


def _ratio(cells: pd.DataFrame, depth: int) -> pd.Series:
    """By seed: the limit with BN over that without."""
    at = cells[cells["depth"] == depth].set_index("seed")
    with_bn, without = (at.loc[at["norm"] == arm, "low"] for arm in ARMS)
    return stats.effect(with_bn, without, Scale.log).dropna()


def _slopes(cells: pd.DataFrame, arm: str) -> pd.Series:
    """By seed: the slope of log limit on log depth, of the seeds that have all depths."""
    wide = cells[cells["norm"] == arm].pivot(index="seed", columns="depth", values="low").reindex(columns=list(DEPTHS))
    slopes = {seed: stats.slope(np.log(DEPTHS), np.log(row.to_numpy(dtype=float))) for seed, row in wide.iterrows()}
    return pd.Series(slopes, dtype=float).dropna()


def _told(cells: pd.DataFrame) -> str:
    finite = int(cells["finite"].sum())
    return limits.described(cells) + (f"; none learns in {finite}, which stay finite" if finite else "")


def _curvature(table: pd.DataFrame) -> pd.DataFrame:
    """With `limit`, 2 over the eigenvalue; NaN where it did not converge."""
    return table.assign(limit=2 / table["eigenvalue"].where(table["converged"]))


def _limits(ax: Axes, cells: pd.DataFrame, table: pd.DataFrame) -> None:
    """A bar per seed and arm, side by side at each depth, and the median of 2 over the curvature."""
    depths = sorted(cells["depth"].unique())
    curvature = _curvature(table)
    for side, (arm, part) in figures.beside(cells, 0.18):
        for (depth, seed), cell in part.groupby(["depth", "seed"]):
            seeds = sorted(part.loc[part["depth"] == depth, "seed"])
            x = depths.index(depth) + side + (seeds.index(seed) - (len(seeds) - 1) / 2) * 0.06
            _bar(ax, x, arm, cell.iloc[0])
        medians = curvature[curvature["norm"] == arm].groupby("depth")["limit"].median()
        medians = medians[medians.index.isin(depths)]
        places = [depths.index(depth) for depth in medians.index]
        ax.plot(places, medians, color=figures.COLOURS[arm], lw=1.1, ls=figures.DASHED, marker="D", ms=3, mew=0)
    figures.plain_log(ax)
    ax.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    ax.set_xlim(-0.5, len(depths) - 0.5)
    ax.grid(False, axis="x")
    ax.set_xlabel("weight layers")
    ax.set_ylabel("learning rate")


def _bar(ax: Axes, x: float, arm: str, cell: pd.Series) -> None:
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


def _ratios(ax: Axes, cells: pd.DataFrame) -> None:
    depths = sorted(cells["depth"].unique())
    ax.axhline(TIMES, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    ax.axhline(1, color=figures.MUTED, lw=0.9, zorder=1)
    for place, depth in enumerate(depths):
        ratio = _ratio(cells, depth)
        of = stats.interval(ratio, Scale.log)
        ax.plot([place - 0.12] * len(ratio), ratio, "o", color=figures.INK, ms=3.5, mew=0, alpha=0.6)
        if of.n:
            ax.plot([place + 0.1], [of.mean], "o", color=figures.INK, mfc="white", ms=4.5, mew=1.1, zorder=4)
        if of.n > 1:
            ax.plot([place + 0.1] * 2, [of.low, of.high], color=figures.INK, lw=1.2, zorder=3)
    figures.plain_log(ax)
    ax.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    ax.set_xlim(-0.5, len(depths) - 0.5)
    ax.grid(False, axis="x")
    ax.set_xlabel("weight layers")
    ax.set_ylabel("limit with BN over limit without")
