"""Gradients at initialisation are larger and heavy-tailed without BN (Bjorck et al. 2018, Figure 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import effects, figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import ARMS, Spread, arms, by_arm, number, over_seeds, spread

LAYER = 55  # the paper's, counted from the stem
HILL_FRACTION = 0.05  # the share of the largest |gradient| that the summary over layers rests on

TITLE = "Gradients of the convolutions at initialisation"
CAPTION = (
    "Top: layer 55. (a, b) Density of the gradient's entries, one line a seed; grey: the published outline, brought "
    "to unit area (without BN it is cut at ±4.3 and its centre bin by the axis). (c) The same in units of each run's "
    "standard deviation, all seeds together, against the normal law. (d) Hill estimate of the tail index from the "
    "largest share k/n of |gradient|; thin bars: 95 % bootstrap interval of the median seed. Bottom: every "
    "convolution; median (line) and range over seeds (band). Hollow diamonds: read off the published figure."
)
SWEEP = "init"
NEEDS = {"gradient_tails": "step == 0 and depth < 110 and run_depth == 110"}  # convolutions, not the classifier
PUBLISHED = "fig2"
SIZE = (10.4, 6.1)
CLAIMS = (
    Claim(
        id="6",
        origin="paper",
        where="Section 3.1, Figure 2",
        scale="init",
        says="Gradients at initialisation are larger and heavy-tailed without BN (layer 55).",
        criterion="At layer 55: median over seeds of the ratio of standard deviations (without / with BN, paired by "
        "seed) is at least 50; median kurtosis is above 6 without BN and below 4.5 with BN (normal law: 3). All "
        "three: reproduced. The ratio and one kurtosis: partly.",
        published="std ratio about 90; kurtosis about 3.1 with BN, 6.3 without (tails cut by the axis)",
    ),
    Claim(
        id="6-layers",
        where="Section 3.1, Figure 2",
        scale="init",
        says="The same holds at every depth, not only at layer 55.",
        criterion="Share of the 109 convolutions at which the median kurtosis without BN exceeds that with BN and "
        "the median standard deviation is at least 10 times larger: 0.9 or more reproduces, 0.5 or more does partly.",
        published="only layer 55 is shown",
    ),
)
PUBLISHED_STD = {"batch": 0.012, "none": 1.04}  # inside the published window
PUBLISHED_KURTOSIS = {"batch": 3.1, "none": 6.3}


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    tails, published = frames["gradient_tails"], frames["published"]
    rows: Any = fig.subfigures(2, 1, height_ratios=(1.08, 1))
    top, bottom = rows
    row = top.subplots(1, 4)
    for ax, arm, letter in zip(row, ARMS, "ab", strict=False):
        _histogram(ax, tails, published, arm)
        figures.panel(ax, letter, f"layer {LAYER}, {figures.LABELS[arm]}")
    _standardised(row[2], tails)
    figures.panel(row[2], "c", "in units of its std")
    _hill_plot(row[3], tails)
    figures.panel(row[3], "d", f"tail index, layer {LAYER}")

    row = bottom.subplots(1, 4)
    for ax, quantity, letter, label, seen in (
        (row[0], "std", "e", "standard deviation", PUBLISHED_STD),
        (row[2], "kurtosis", "g", "kurtosis", PUBLISHED_KURTOSIS),
    ):
        for arm, part in arms(_rows(tails, quantity)).items():
            figures.band(ax, over_seeds(part, ["depth"], "value"), "depth", arm)
            figures.diamonds(ax, [LAYER], [seen[arm]], arm)
        ax.set_yscale("log")
        ax.set_ylabel(label)
        figures.panel(ax, letter, label)
        figures.stages(ax)
    figures.plain_log(row[2])
    row[2].axhline(3, color=figures.MUTED, lw=0.9, ls=figures.DASHED)
    row[2].text(2, 2.9, "normal law", fontsize=7, color=figures.MUTED, va="top")
    row[2].set_ylim(bottom=2)

    ratios = over_seeds(_ratios(tails), ["depth"], "ratio")
    row[1].fill_between(ratios["depth"], ratios["low"], ratios["high"], color=figures.MUTED, alpha=0.2, lw=0)
    row[1].plot(ratios["depth"], ratios["median"], color=figures.INK)
    seen_ratio = PUBLISHED_STD["none"] / PUBLISHED_STD["batch"]
    row[1].plot([LAYER], [seen_ratio], "D", color=figures.INK, ms=4.6, mfc="white", mew=1.2)
    figures.plain_log(row[1])
    row[1].set_ylabel("std without BN / std with BN")
    figures.panel(row[1], "f", "ratio of standard deviations")
    figures.stages(row[1])

    for arm, part in arms(_hill(tails, at=HILL_FRACTION)).items():
        figures.band(row[3], over_seeds(part, ["depth"], "value"), "depth", arm)
    row[3].set_ylim(bottom=0)
    row[3].set_ylabel("tail index (smaller: heavier)")
    figures.panel(row[3], "h", f"tail index at k/n = {100 * HILL_FRACTION:g} %")
    figures.stages(row[3])
    handles = [*figures.arm_entries(), figures.entry("published", "D", filled=False)]
    bottom.legend(handles=handles, loc="outside lower center", ncols=3)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    tails = frames["gradient_tails"]
    at = tails[tails["depth"] == LAYER]
    std, kurtoses = _rows(at, "std"), _rows(at, "kurtosis")
    ratio, kurtosis = spread(_ratios(at)["ratio"]), by_arm(kurtoses, "value")
    n = min(ratio.n, *(kurtosis[arm].n for arm in ARMS))
    large, heavy, light = ratio.median >= 50, kurtosis["none"].median > 6, kurtosis["batch"].median < 4.5
    one = Evidence(
        measured=f"std ratio {number(ratio.median)}; kurtosis {number(kurtosis['batch'].median)} with BN, "
        f"{number(kurtosis['none'].median)} without",
        spread=f"ratio {ratio.range}; kurtosis {kurtosis['batch'].range} with BN, {kurtosis['none'].range} without",
        n=n,
        verdict=judge(n, whole=large and heavy and light, part=large and (heavy or light)),
        arms=(
            effects.arms(std, "value", "standard deviation", ratio=True),
            effects.arms(kurtoses, "value", "kurtosis", ratio=True),
        ),
    )
    share, per_seed = _share_of_layers(tails)
    every = Evidence(
        measured=f"{100 * share:.0f} % of the convolutions",
        spread=f"seed by seed {100 * per_seed.low:.0f} to {100 * per_seed.high:.0f} %",
        n=per_seed.n,
        verdict=judge(per_seed.n, whole=share >= 0.9, part=share >= 0.5),
    )
    return {"6": one, "6-layers": every}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    tails = frames["gradient_tails"]
    at = tails[tails["depth"] == LAYER]
    std, kurtosis, largest = (by_arm(_rows(at, quantity), "value") for quantity in ("std", "kurtosis", "max_abs"))
    hill = by_arm(_hill(at, at=HILL_FRACTION), "value")
    lines = (
        ("standard deviation, layer 55", "about 0.012", "about 1.04 (cut)", std),
        ("kurtosis, layer 55 (normal: 3)", "about 3.1", "about 6.3 (cut)", kurtosis),
        ("largest |gradient|, layer 55", "about 0.05", "beyond 4.3", largest),
        (f"tail index, layer 55, k/n = {100 * HILL_FRACTION:g} %", "", "", hill),
    )
    ratio = Comparison("ratio of standard deviations", "", "about 90", "", str(spread(_ratios(at)["ratio"])))
    return [*(Comparison(name, b, u, str(ours["batch"]), str(ours["none"])) for name, b, u, ours in lines), ratio]


def _rows(tails: pd.DataFrame, quantity: str) -> pd.DataFrame:
    return tails[tails["quantity"] == quantity]


def _pairs(tails: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """One row a depth and seed that both arms have, columns `batch` and `none`."""
    wide = _rows(tails, quantity).pivot(index=["depth", "seed"], columns="norm", values="value")
    return wide.reindex(columns=list(ARMS)).dropna()


def _ratios(tails: pd.DataFrame) -> pd.DataFrame:
    """Columns depth, seed, ratio: standard deviation without BN over that with BN, of one seed."""
    wide = _pairs(tails, "std")
    return (wide["none"] / wide["batch"]).rename("ratio").reset_index()


def _share_of_layers(tails: pd.DataFrame) -> tuple[float, Spread]:
    """Of medians over seeds, and of each seed by itself."""
    std, kurtosis = _pairs(tails, "std"), _pairs(tails, "kurtosis")
    ratio = std["none"] / std["batch"]
    medians = kurtosis.groupby("depth").median()
    overall = (ratio.groupby("depth").median() >= 10) & (medians["none"] > medians["batch"])
    alone = (ratio >= 10) & (kurtosis["none"] > kurtosis["batch"])
    return float(overall.mean()), spread(alone.groupby("seed").mean())


def _hill(tails: pd.DataFrame, at: float) -> pd.DataFrame:
    """The Hill rows whose share k/n is nearest to `at`, convolutions only."""
    rows = _rows(tails, "hill")
    shares = np.sort(rows["x"].unique())
    nearest = shares[np.abs(shares - at).argmin()]
    return rows[rows["x"] == nearest]


def _histogram(ax: Axes, tails: pd.DataFrame, published: pd.DataFrame, arm: str) -> None:
    seen = published[(published["norm"] == arm) & published["count"].notna()]
    width = float(np.median(np.diff(seen["gradient"])))
    # BN rows are pixel columns of an outline, not bins: only their area has a meaning.
    area = float((seen["count"] * width).sum())
    ax.fill_between(
        seen["gradient"], seen["count"] / area, step="mid", color="#8A929C", alpha=0.45, lw=0, label="published"
    )
    at = tails[(tails["depth"] == LAYER) & (tails["norm"] == arm)]
    for position, (_, run) in enumerate(at[at["quantity"] == "histogram_linear"].groupby("run_id")):
        edges, density = _density(run)
        filled = density > 0  # an empty bin has no place on a logarithmic axis
        centres = (edges[:-1] + edges[1:]) / 2
        label = None if position else "ours, by seed"
        ax.plot(centres[filled], density[filled], color=figures.COLOURS[arm], lw=0.9, alpha=0.8, label=label)
    std = float(at.loc[at["quantity"] == "std", "value"].median())
    if not (math.isfinite(std) and std > 0):  # no run of this arm: the published window
        std = PUBLISHED_STD[arm]
    ax.set_xlim(-5.5 * std, 5.5 * std)
    ax.set_yscale("log")
    ax.set_ylim(1e-5 / std, 60 / std)
    ax.set_xlabel("gradient")
    ax.set_ylabel("density")
    ax.legend(loc="upper right", handlelength=1.2, borderaxespad=0)


def _standardised(ax: Axes, tails: pd.DataFrame) -> None:
    z = np.linspace(-4.6, 4.6, 200)
    ax.plot(
        z,
        np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
        color=figures.INK,
        lw=1.1,
        ls=(0, (3, 2)),
        label="normal law",
        zorder=5,
    )
    grid = np.arange(-12.25, 12.5, 0.5)
    centres = (grid[:-1] + grid[1:]) / 2
    for arm, part in arms(tails[tails["depth"] == LAYER]).items():
        shares = []
        for _, run in part.groupby("run_id"):
            std = float(run.loc[run["quantity"] == "std", "value"].iloc[0])
            edges, density = _density(run[run["quantity"] == "histogram_linear"])
            cumulative = np.concatenate([[0.0], np.cumsum(density * np.diff(edges))])
            shares.append(np.diff(np.interp(grid, edges / std, cumulative)))
        pooled = np.mean(shares, axis=0) / np.diff(grid)
        filled = pooled > 0
        ax.plot(
            centres[filled],
            pooled[filled],
            "-o",
            ms=2.2,
            mew=0,
            color=figures.COLOURS[arm],
            lw=1.1,
        )
    ax.set_xlim(-12, 12)
    ax.set_yscale("log")
    ax.set_ylim(1e-5, 60)
    ax.set_xlabel("gradient / its standard deviation")
    ax.set_ylabel("density")
    ax.legend(loc="upper right", handlelength=1.2, borderaxespad=0)


def _density(histogram: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    rows = histogram.sort_values("x")
    edges = np.append(rows["x"].to_numpy(), rows["x_high"].iloc[-1])
    counts = rows["value"].to_numpy()
    return edges, counts / counts.sum() / np.diff(edges)


def _hill_plot(ax: Axes, tails: pd.DataFrame) -> None:
    for arm, part in arms(tails[(tails["depth"] == LAYER) & (tails["quantity"] == "hill")]).items():
        figures.band(ax, over_seeds(part.assign(percent=part["x"] * 100), ["percent"], "value"), "percent", arm)
        order = part.groupby("run_id")["value"].mean().sort_values()
        middle = part[part["run_id"] == order.index[(len(order) - 1) // 2]].sort_values("x")
        errors = np.abs(middle[["low", "high"]].to_numpy().T - middle["value"].to_numpy())
        ax.errorbar(
            middle["x"] * 100, middle["value"], yerr=errors, fmt="none",
            color=figures.COLOURS[arm], ecolor=figures.COLOURS[arm], elinewidth=0.8, capsize=1.5,
        )  # fmt: skip
    ax.set_ylim(bottom=0)
    ax.set_xlabel("k/n (%)")
    ax.set_ylabel("tail index (smaller: heavier)")
    interval = figures.entry("95 %, median seed", "|", ms=9, mew=0.9)
    ax.legend(handles=[interval], loc="upper right", borderaxespad=0, handlelength=1)
