"""Largest stable learning rates beside the curvature where training begins, network by network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, limits, stats, zoo
from bnstudy.analysis.criteria import Need, Part, Sample
from bnstudy.analysis.findings import Comparison
from bnstudy.analysis.frames import DASH, spread
from bnstudy.analysis.stats import Scale

DEPTHS = {8: "o", 20: "s", 56: "^"}
OF_DEPTHS = "depth in (8, 20, 56)"
MOMENTUM = 0.9  # of the recipe
LINES = {2.0: "2", 4.0: "4", 12.0: "12"}  # over the curvature
SLOPE = Part("slope of log limit on minus log curvature, over the networks", above=0.8, below=1.2)
SLOPE_PARTLY = Part(SLOPE.of, above=0)
_PRODUCT = "largest over smallest product of limit and curvature, over the networks"
WITHIN, WITHIN_PARTLY = (Part(_PRODUCT, below=bound, scale=Scale.log) for bound in (3, 10))
KNOWN = Need("number of a seed's networks without a limit, a limit inside the grid, or a curvature",
             "a limit is not known", below=0.5)  # fmt: skip
CAPTION = (
    "CIFAR ResNets of 8, 20 and 56 layers on all of CIFAR-10, one epoch at a constant rate. Limit: the largest rate "
    "that learns or, where none does, stays finite. Curvature: the largest eigenvalue of the Hessian of the untrained "
    "network (training mode, 64 images). (a) A mark a network and seed; lines: so many over the curvature: 2, the "
    "bound of gradient descent on a quadratic loss, 3.8 with momentum (dotted), 4 and 12, between which Lewkowycz et "
    "al. (2020) find the largest rates. (b) Their product, a dot a seed, bar: geometric mean with 95 % interval."
)


def networks(runs: pd.DataFrame, curved: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """One row per arm, depth and seed: low, high (a bracket), curvature, product, and whether all is known.

    `runs`: a row per run; `curved`: a row per untrained network, its `eigenvalue` and whether that `converged`.
    """
    keys = ["arm", "depth", "seed"]
    runs, curved = zoo.named(runs), zoo.named(curved)
    curved = curved.assign(curvature=curved["eigenvalue"].where(curved["converged"]))
    at_start = curved.drop_duplicates(keys).set_index(keys)["curvature"]
    rows = limits.by_cell(runs[runs["arm"].isin(arms)], keys).join(at_start, on=keys)
    known = rows["low"].notna() & (rows["curvature"] > 0) & (rows["high"] < math.inf)
    return rows.assign(product=rows["low"] * rows["curvature"], known=known)


def samples(rows: pd.DataFrame, arms: Sequence[str]) -> dict[str, Sample]:
    """What `SLOPE`, `WITHIN` and `KNOWN` ask for, of the seeds that have every network of these arms."""
    num = len(arms) * len(DEPTHS)
    slopes, ratios, lacking = {}, {}, {}
    for seed, every in rows.groupby("seed"):
        part = every[every["known"]]
        if len(every) == num and len(part) > 1:
            slopes[seed] = stats.slope(-np.log(part["curvature"]), np.log(part["low"]))
            ratios[seed] = float(part["product"].max() / part["product"].min())
            lacking[seed] = float(num - len(part))
    quantities = {SLOPE.key: slopes, WITHIN.key: ratios, KNOWN.of: lacking}
    return {key: criteria.single(pd.Series(values, dtype=float)) for key, values in quantities.items()}


def numbers(rows: pd.DataFrame) -> list[Comparison]:
    lines = []
    for (arm, depth), part in rows.groupby(["arm", "depth"], sort=False):
        for column, what in (("low", "limit"), ("curvature", "curvature"), ("product", "product")):
            value = str(spread(part[column]))
            ours = (DASH, value) if arm == "none" else (value, DASH)
            lines.append(Comparison(f"{what}, {zoo.ARMS[str(arm)].label}, {depth} layers", DASH, DASH, *ours))
    return lines


def draw(fig: Figure, rows: pd.DataFrame, arms: Sequence[str]) -> None:
    """Two panels, as `CAPTION` says."""
    left, right = fig.subplots(1, 2, width_ratios=(1.2, 1))
    for (arm, depth), part in rows.groupby(["arm", "depth"]):
        left.plot(part["curvature"], part["low"], DEPTHS[int(str(depth))], color=_colour(str(arm)), ms=5, mew=0,
                  alpha=0.85)  # fmt: skip
    if rows["curvature"].notna().any():
        _bounds(left, rows["curvature"])
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("largest eigenvalue of the Hessian at the start")
    left.set_ylabel("largest stable learning rate")
    figures.panel(left, "a", "limit against curvature")
    _products(right, rows, arms)
    figures.panel(right, "b", "limit times curvature")
    handles = [figures.entry(zoo.ARMS[arm].label, "o", colour=_colour(arm)) for arm in arms]
    handles += [figures.entry(f"{depth} layers (a)", marker, filled=False) for depth, marker in DEPTHS.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=8)


def _colour(arm: str) -> str:
    return figures.PLACES["before_pooling"][1] if arm == "batch_before_pooling" else figures.COLOURS[arm]


def _bounds(ax: Axes, curvature: pd.Series) -> None:
    across = np.array([curvature.min(), curvature.max()])
    ax.plot(across, 2 * (1 + MOMENTUM) / across, color=figures.MUTED, lw=0.8, ls=":", zorder=1)
    for factor, text in LINES.items():
        ax.plot(across, factor / across, color=figures.MUTED, lw=0.8, ls=figures.DASHED, zorder=1)
        ax.annotate(text, (across[-1], factor / across[-1]), xytext=(3, 0), textcoords="offset points", fontsize=6.5,
                    color=figures.MUTED, va="center", annotation_clip=False)  # fmt: skip


def _products(ax: Axes, rows: pd.DataFrame, arms: Sequence[str]) -> None:
    places = [(arm, depth) for arm in arms for depth in DEPTHS]
    for place, (arm, depth) in enumerate(places):
        part = rows[(rows["arm"] == arm) & (rows["depth"] == depth)]
        figures.seeds(ax, place, part["product"], "batch", spacing=0.12, scale=Scale.log, colour=_colour(arm))
    for bound in (4, 12):
        ax.axhline(bound, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    figures.plain_log(ax)
    ax.set_xticks(range(len(places)), [str(depth) for _, depth in places])
    ax.set_xlabel("weight layers, arm by arm")
    ax.set_ylabel("largest stable rate x curvature")
    ax.grid(False, axis="x")
