"""Up to which learning rate networks of other depths learn (Bjorck et al. 2018, section 3 and appendix H)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stable_rates, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, arms, number

DEPTHS = (8, 20, 56, 110)
SHARE = 1 / 3  # of the slope without BN, that with BN at most
CURVATURE, DEEPEST = "stability_curvature/hessian_top_eigenvalue", "stability_largest/runs"

TITLE = "The largest stable learning rate of the first epoch, by depth"
CAPTION = (
    "CIFAR ResNets on all of CIFAR-10, one epoch on mini-batches of 128 at a constant rate, fp32. (a) Limit of each "
    f"seed: {stable_rates.DRAWN}. Dashed: 2 over the largest eigenvalue of the Hessian of the untrained network "
    "(training mode, 64 images; median over seeds), the limit of gradient descent on a quadratic loss. (b) The limit "
    "with BN over that without, a dot a seed, with the geometric mean and its 95 % interval; dashed: 30."
)
SWEEP = "stability_depth"
NEEDS = {
    "runs": f"{stable_rates.ONE_EPOCH} and depth in (8, 20, 56)",
    DEEPEST: f"{stable_rates.ONE_EPOCH} and depth == 110",
    CURVATURE: "depth in (8, 20, 56, 110)",
}
SIZE = (9.8, 4.6)
FALLS = Part("slope of log limit on log depth without BN", below=0)
SLOWER = Part("slope with BN less a third of that without", above=0)
ALL_KNOWN = Need("number of a seed's cells without a limit, or with one above the largest rate tried",
                 "a limit is not known", below=0.5)  # fmt: skip
CLAIMS = (
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
            remark=f"Depths 8, 20, 56 and 110. With BN it falls at most a third as steeply. {stable_rates.LIMIT}",
        ),
        published="values not known",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    cells = _cells(frames)
    left, right = fig.subplots(1, 2, width_ratios=(1.5, 1))
    _limits(left, cells, frames[CURVATURE])
    figures.panel(left, "a", "limits, and 2 over the curvature at the start")
    stable_rates.draw_ratios(right, cells, sorted(cells["depth"].unique()))
    figures.panel(right, "b", "how many times larger with BN")
    handles = [
        *figures.arm_entries(arms(cells), lw=5),
        figures.entry("none learns: finite", lw=5, colour=figures.TINTS["none"]),
        figures.entry("2 / curvature", ls=figures.DASHED, lw=1.1),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=4)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    cells = _cells(frames)
    with_bn, without = (_slopes(cells, arm) for arm in ARMS)
    unknown = cells["low"].isna() | np.isinf(cells["high"])
    quantities = {
        FALLS.key: without,
        SLOWER.key: stats.effect(with_bn, SHARE * without),
        ALL_KNOWN.of: unknown.groupby(cells["seed"]).sum(),
    }
    return {"15-epoch": {name: criteria.single(values) for name, values in quantities.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    cells, curvature = _cells(frames), _curvature(frames[CURVATURE])
    lines = []
    for depth in sorted(cells["depth"].unique()):
        both = [cells[(cells["depth"] == depth) & (cells["norm"] == arm)] for arm in ARMS]
        lines.append(Comparison(f"limit, {depth} layers", DASH, DASH, *(stable_rates.described(part) for part in both)))
        at = [curvature[(curvature["depth"] == depth) & (curvature["norm"] == arm)]["limit"].median() for arm in ARMS]
        lines.append(Comparison(f"2 / curvature, {depth} layers", DASH, DASH, *map(number, at)))
    return lines


def _cells(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Of the seeds that have every depth."""
    cells = stable_rates.cells(pd.concat([frames["runs"], frames[DEEPEST]], ignore_index=True))
    return cells[cells.groupby("seed")["depth"].transform("nunique") == cells["depth"].nunique()]


def _slopes(cells: pd.DataFrame, arm: str) -> pd.Series:
    """By seed: the slope of log limit on log depth, of the seeds that have all depths."""
    wide = cells[cells["norm"] == arm].pivot(index="seed", columns="depth", values="low").reindex(columns=list(DEPTHS))
    slopes = {seed: stats.slope(np.log(DEPTHS), np.log(row.to_numpy(dtype=float))) for seed, row in wide.iterrows()}
    return pd.Series(slopes, dtype=float).dropna()


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
            stable_rates.draw_bar(ax, x, arm, cell.iloc[0])
        medians = curvature[curvature["norm"] == arm].groupby("depth")["limit"].median()
        medians = medians[medians.index.isin(depths)]
        places = [depths.index(depth) for depth in medians.index]
        ax.plot(places, medians, color=figures.COLOURS[arm], lw=1.1, ls=figures.DASHED, marker="D", ms=3, mew=0)
    stable_rates.over_depths(ax, depths)
    ax.set_ylabel("learning rate")
