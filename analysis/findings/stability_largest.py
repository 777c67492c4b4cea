"""Up to which learning rate the paper's network learns (Bjorck et al. 2018, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stable_rates
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, arms
from bnstudy.analysis.stats import Scale
from bnstudy.store import outcomes

DEEPEST = 110
MARKS = {outcomes.LEARNS: ("o", True), outcomes.CHANCE: ("o", False), outcomes.DIVERGED: ("x", True)}

TITLE = "The largest stable learning rate of ResNet-110 in its first epoch"
CAPTION = (
    "All of CIFAR-10, one epoch on mini-batches of 128 at a constant rate, fp32. (a) Every rate that was tried, by its "
    f"outcome, a column an arm and seed, and its limit: {stable_rates.DRAWN}. (b) The limit with BN over that without, "
    "a dot a seed, with the geometric mean and its 95 % interval; dashed: 30."
)
SWEEP = "stability_largest"
NEEDS = {"runs": f"{stable_rates.ONE_EPOCH} and depth == {DEEPEST}"}
SIZE = (9.4, 4.8)
LARGER, LARGER_PARTLY = (
    Part("limit with BN over that without at depth 110", above=bound, scale=Scale.log)
    for bound in (stable_rates.TIMES, 1)
)
KNOWN = Need("number of a seed's cells without a limit, or without BN with one above the largest rate tried",
             "a limit is not known", below=0.5)  # fmt: skip
CLAIMS = (
    Claim(
        id="4-largest-epoch",
        origin="paper",
        where="Section 3, text",
        scale="true depth, one epoch",
        says="The largest learning rate that trains is an order of magnitude larger with BN.",
        criterion=Criterion(
            (LARGER,), partial=(LARGER_PARTLY,), needs=(KNOWN,), min_seeds=5, remark=stable_rates.LIMIT
        ),
        published="0.1 against 0.0001 are the rates used",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs, cells = frames["runs"], stable_rates.cells(frames["runs"])
    left, right = fig.subplots(1, 2, width_ratios=(2.4, 1))
    _tried(left, runs, cells)
    figures.panel(left, "a", "every rate that was tried, and the limits")
    stable_rates.draw_ratios(right, cells, [DEEPEST])
    figures.panel(right, "b", "times larger with BN")
    handles = [
        *figures.arm_entries(arms(cells), lw=5),
        figures.entry("none learns: finite", lw=5, colour=figures.TINTS["none"]),
        *(figures.entry(name, mark, filled=filled) for name, (mark, filled) in MARKS.items()),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=6)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    cells = stable_rates.cells(frames["runs"])
    unknown = cells["low"].isna() | (np.isinf(cells["high"]) & (cells["norm"] == "none"))
    quantities = {LARGER.key: stable_rates.ratio(cells, DEEPEST), KNOWN.of: unknown.groupby(cells["seed"]).sum()}
    return {"4-largest-epoch": {name: criteria.single(values) for name, values in quantities.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    cells = stable_rates.cells(frames["runs"])
    both = [stable_rates.described(cells[cells["norm"] == arm]) for arm in ARMS]
    return [Comparison(f"limit, {DEEPEST} layers", DASH, DASH, *both)]


def _tried(ax: Axes, runs: pd.DataFrame, cells: pd.DataFrame) -> None:
    seeds = sorted(runs["seed"].unique())
    for side, (arm, rows) in figures.beside(runs, 0.32):
        for seed, part in rows.groupby("seed"):
            x = seeds.index(seed) + side
            for outcome, (mark, filled) in MARKS.items():
                rates = part.loc[part["outcome"] == outcome, "lr"]
                face = figures.COLOURS[arm] if filled else "white"
                ax.plot([x] * len(rates), rates, mark, color=figures.COLOURS[arm], mfc=face, ms=4.5, mew=1.1)
            cell = cells[(cells["norm"] == arm) & (cells["seed"] == seed)]
            stable_rates.draw_bar(ax, x + 0.11, arm, cell.iloc[0])
    figures.plain_log(ax)
    ax.set_xticks(range(len(seeds)), [f"seed {seed}" for seed in seeds])
    ax.set_xlim(-0.5, len(seeds) - 0.5)
    ax.grid(False, axis="x")
    ax.set_ylabel("learning rate")
