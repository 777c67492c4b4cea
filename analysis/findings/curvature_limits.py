"""Whether the curvature at the start says at which learning rates a network trains (Lewkowycz et al., 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, limits, stats, zoo
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, spread
from bnstudy.analysis.stats import Scale

ARMS = ("batch", "batch_before_pooling", "skipinit", "fixup", "none")
DEPTHS = {8: "o", 20: "s", 56: "^"}
NETWORKS = [(arm, depth) for arm in ARMS for depth in DEPTHS]
MOMENTUM = 0.9  # of the recipe
LINES = {2.0: "2", 4.0: "4", 12.0: "12"}  # over the curvature
SLOPE = Part("slope of log limit on minus log curvature, over the networks", above=0.8, below=1.2)
WITHIN = Part("largest over smallest product of limit and curvature, over the networks", below=3, scale=Scale.log)
KNOWN = Need("networks of a seed without a limit, a limit inside the grid, or a curvature", "a limit is not known",
             below=0.5)  # fmt: skip

TITLE = "Does the curvature at the start set the largest stable learning rate?"
CAPTION = (
    "CIFAR ResNets of 8, 20 and 56 layers on all of CIFAR-10, one epoch at a constant rate. Limit: the largest rate "
    "that learns or, where none does, stays finite. Curvature: the largest eigenvalue of the Hessian of the untrained "
    "network (training mode, 64 images). (a) A mark a network and seed; lines: so many over the curvature: 2, the "
    "bound of gradient descent on a quadratic loss, 3.8 with momentum (dotted), 4 and 12, between which Lewkowycz et "
    "al. (2020) find the largest rates. (b) Their product, a dot a seed, bar: geometric mean with 95 % interval."
)
SWEEP = "stability_arms"
CURVATURES = ("stability_arms_curvature/hessian_top_eigenvalue", "stability_curvature/hessian_top_eigenvalue")
ONE_EPOCH = "status in ('completed', 'diverged') and epochs == 1 and depth in (8, 20, 56)"
NEEDS = {
    "runs": ONE_EPOCH,
    "stability_depth/runs": ONE_EPOCH,
    **dict.fromkeys(CURVATURES, "depth in (8, 20, 56)"),
}
SIZE = (10.6, 4.8)
WHERE = "Lewkowycz et al. (2020), the catapult"
CLAIMS = (
    Claim(
        id="B2-slope",
        where=WHERE,
        scale="true depth, one epoch",
        says="A network bears a learning rate as much larger as its loss is less curved where training begins.",
        criterion=Criterion(
            (SLOPE,), partial=(Part(SLOPE.of, above=0),), needs=(KNOWN,),
            remark="BN, one BN at the end, SkipInit, Fixup and none, of 8, 20 and 56 layers, seed by seed.",
        ),
        published="the largest rate is 4 to 12 over the curvature",
    ),
    Claim(
        id="B2-product",
        where=WHERE,
        scale="true depth, one epoch",
        says="Beyond the curvature at the start, it makes no difference which network it is.",
        criterion=Criterion(
            (WITHIN,), partial=(Part(WITHIN.of, below=10, scale=Scale.log),), needs=(KNOWN,), remark="As above."
        ),
        published="4 to 12, a factor of 3",
    ),
)  # fmt: skip


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = _networks(frames)
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
    _products(right, rows)
    figures.panel(right, "b", "limit times curvature")
    handles = [figures.entry(zoo.ARMS[arm].label, "o", colour=_colour(arm)) for arm in ARMS]
    handles += [figures.entry(f"{depth} layers (a)", marker, filled=False) for depth, marker in DEPTHS.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=8)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = _networks(frames)
    known = rows[rows["known"]]
    slopes, ratios, lacking = {}, {}, {}
    for seed, every in rows.groupby("seed"):
        part = known[known["seed"] == seed]
        lacking[seed] = float(len(NETWORKS) - len(part))
        if len(every) == len(NETWORKS) and len(part) > 1:
            slopes[seed] = stats.slope(-np.log(part["curvature"]), np.log(part["low"]))
            ratios[seed] = float(part["product"].max() / part["product"].min())
    quantities = {SLOPE.key: slopes, WITHIN.key: ratios, KNOWN.of: {seed: lacking[seed] for seed in slopes}}
    samples = {key: criteria.single(pd.Series(values, dtype=float)) for key, values in quantities.items()}
    return {"B2-slope": samples, "B2-product": samples}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    rows = _networks(frames)
    lines = []
    for (arm, depth), part in rows.groupby(["arm", "depth"], sort=False):
        for column, what in (("low", "limit"), ("curvature", "curvature"), ("product", "product")):
            value = str(spread(part[column]))
            ours = (DASH, value) if arm == "none" else (value, DASH)
            lines.append(Comparison(f"{what}, {zoo.ARMS[str(arm)].label}, {depth} layers", DASH, DASH, *ours))
    return lines


def _networks(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per arm, depth and seed: low, high (a bracket), curvature, product, and whether all is known."""
    keys = ["arm", "depth", "seed"]
    runs = zoo.named(pd.concat([frames["runs"], frames["stability_depth/runs"]]))
    curved = zoo.named(pd.concat([frames[name] for name in CURVATURES]))
    curved = curved.assign(curvature=curved["eigenvalue"].where(curved["converged"]))
    at_start = curved.drop_duplicates(keys).set_index(keys)["curvature"]
    rows = limits.by_cell(runs[runs["arm"].isin(ARMS)], keys).join(at_start, on=keys)
    known = rows["low"].notna() & (rows["curvature"] > 0) & (rows["high"] < math.inf)
    return rows.assign(product=rows["low"] * rows["curvature"], known=known)


def _colour(arm: str) -> str:
    return figures.PLACES["before_pooling"][1] if arm == "batch_before_pooling" else figures.COLOURS[arm]


def _bounds(ax: Axes, curvature: pd.Series) -> None:
    across = np.array([curvature.min(), curvature.max()])
    ax.plot(across, 2 * (1 + MOMENTUM) / across, color=figures.MUTED, lw=0.8, ls=":", zorder=1)
    for factor, text in LINES.items():
        ax.plot(across, factor / across, color=figures.MUTED, lw=0.8, ls=figures.DASHED, zorder=1)
        ax.annotate(text, (across[-1], factor / across[-1]), xytext=(3, 0), textcoords="offset points", fontsize=6.5,
                    color=figures.MUTED, va="center", annotation_clip=False)  # fmt: skip


def _products(ax: Axes, rows: pd.DataFrame) -> None:
    for place, (arm, depth) in enumerate(NETWORKS):
        part = rows[(rows["arm"] == arm) & (rows["depth"] == depth)]
        figures.seeds(ax, place, part["product"], "batch", spacing=0.12, scale=Scale.log, colour=_colour(arm))
    for bound in (4, 12):
        ax.axhline(bound, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    figures.plain_log(ax)
    ax.set_xticks(range(len(NETWORKS)), [str(depth) for _, depth in NETWORKS])
    ax.set_xlabel("weight layers, arm by arm")
    ax.set_ylabel("largest stable rate x curvature")
    ax.grid(False, axis="x")
