"""Gradients at initialisation are larger and heavy-tailed without BN (Bjorck et al. 2018, Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, arms, by_arm, spread
from bnstudy.analysis.stats import Scale

LAYER = 55  # the paper's, counted from the stem
HILL_FRACTION = 0.05  # the share of the largest |gradient| that the summary over layers rests on
WINDOW = {"batch": 0.0562, "none": 4.22}  # the published axes end at 0.055 and 4.3: the bins' edges nearest to them
PUBLISHED_STD = {"batch": 0.012, "none": 1.04}  # inside the published window
PUBLISHED_KURTOSIS = {"batch": 3.1, "none": 6.3}
BETWEEN = 4.4  # the geometric mean of the published kurtoses
TIMES_LARGER = 10
RATIO = "standard deviation without BN over that with BN, inside the published axes"
KURTOSIS = {"batch": "kurtosis there with BN", "none": "kurtosis there without BN"}
SHARE = "share of the convolutions where without BN the kurtosis is larger and the standard deviation 10 times larger"

TITLE = "Gradients of the convolutions at initialisation"
CAPTION = (
    "Top: layer 55. (a, b) Density of |gradient| inside the published axes, one line a seed, in the same bins for all; "
    "grey: the published outline, likewise folded at zero, of unit area (without BN the axis cuts its centre "
    "bin). (c) All entries in units of each run's standard deviation, all seeds together, against the normal law. (d) "
    "Hill estimate of the tail index from the largest share k/n of |gradient|. Bottom: every convolution, all entries; "
    "large dots: inside the published axes, which is what the claim is judged by. Hollow diamonds: read off the "
    "published figure. Geometric means over seeds (line) with 95 % intervals (band)."
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
        criterion=Criterion(
            (
                Part(RATIO, above=50, scale=Scale.log),
                Part(KURTOSIS["none"], above=BETWEEN, scale=Scale.log),
                Part(KURTOSIS["batch"], below=BETWEEN, scale=Scale.log),
            ),
            partial=(Part(RATIO, above=50, scale=Scale.log),),
            remark="Paired by seed, at layer 55. 4.4 lies midway between the published kurtoses. Both are moments of "
            "what the paper's axes show, as its own are: untruncated, the ratio is several times larger. Laid down "
            "when five seeds were known, before the other twenty-five.",
        ),
        published="inside its axes: std ratio about 90; kurtosis about 3.1 with BN, 6.3 without",
    ),
    Claim(
        id="6-layers",
        where="Section 3.1, Figure 2",
        scale="init",
        says="The same holds at every depth, not only at layer 55.",
        criterion=Criterion((Part(SHARE, above=0.9),), partial=(Part(SHARE, above=0.5),)),
        published="only layer 55 is shown",
    ),
)


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
    inside = _inside(tails[tails["depth"] == LAYER])
    for ax, quantity, letter, label, seen in (
        (row[0], "std", "e", "standard deviation", PUBLISHED_STD),
        (row[2], "kurtosis", "g", "kurtosis", PUBLISHED_KURTOSIS),
    ):
        for arm, part in arms(_rows(tails, quantity)).items():
            figures.band(ax, stats.over_seeds(part, ["depth"], "value", Scale.log), "depth", arm)
            shown = stats.interval(inside.loc[inside["norm"] == arm, quantity], Scale.log)
            figures.estimate(ax, LAYER, shown, figures.COLOURS[arm])
            figures.diamonds(ax, [LAYER + 4], [seen[arm]], arm)
        ax.set_yscale("log")
        ax.set_ylabel(label)
        figures.panel(ax, letter, label)
        figures.stages(ax)
    figures.plain_log(row[2])
    row[2].axhline(3, color=figures.MUTED, lw=0.9, ls=figures.DASHED)
    row[2].text(2, 2.9, "normal law", fontsize=7, color=figures.MUTED, va="top")
    row[2].set_ylim(bottom=2)

    ratios = stats.over_seeds(_ratios(tails), ["depth"], "ratio", Scale.log)
    row[1].fill_between(ratios["depth"], ratios["low"], ratios["high"], color=figures.MUTED, alpha=0.2, lw=0)
    row[1].plot(ratios["depth"], ratios["mean"], color=figures.INK)
    ratio = stats.interval(measure(frames)["6"][RATIO].values, Scale.log)
    figures.estimate(row[1], LAYER, ratio, figures.INK)
    seen_ratio = PUBLISHED_STD["none"] / PUBLISHED_STD["batch"]
    row[1].plot([LAYER + 4], [seen_ratio], "D", color=figures.INK, ms=4.6, mfc="white", mew=1.2)
    figures.plain_log(row[1])
    row[1].set_ylabel("std without BN / std with BN")
    figures.panel(row[1], "f", "ratio of standard deviations")
    figures.stages(row[1])

    for arm, part in arms(_hill(tails, at=HILL_FRACTION)).items():
        figures.band(row[3], stats.over_seeds(part, ["depth"], "value", Scale.log), "depth", arm)
    row[3].set_ylim(bottom=0)
    row[3].set_ylabel("tail index (smaller: heavier)")
    figures.panel(row[3], "h", f"tail index at k/n = {100 * HILL_FRACTION:g} %")
    figures.stages(row[3])
    handles = [
        *figures.arm_entries(arms(tails)),
        figures.entry("inside the published axes (e, f, g)", "o"),
        figures.entry("published", "D", filled=False),
    ]
    bottom.legend(handles=handles, loc="outside lower center", ncols=4)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    tails = frames["gradient_tails"]
    inside = _inside(tails[tails["depth"] == LAYER])
    kurtosis = {
        KURTOSIS[arm]: criteria.single(inside[inside["norm"] == arm].set_index("seed")["kurtosis"]) for arm in ARMS
    }
    std, kurtoses = _pairs(tails, "std"), _pairs(tails, "kurtosis")
    more = (std["none"] >= TIMES_LARGER * std["batch"]) & (kurtoses["none"] > kurtoses["batch"])
    return {
        "6": {RATIO: criteria.compared(inside, "std", Scale.log), **kurtosis},
        "6-layers": {SHARE: criteria.single(more.groupby("seed").mean())},
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    tails = frames["gradient_tails"]
    at = tails[tails["depth"] == LAYER]
    std, kurtosis, largest = (by_arm(_rows(at, quantity), "value") for quantity in ("std", "kurtosis", "max_abs"))
    hill = by_arm(_hill(at, at=HILL_FRACTION), "value")
    inside = _inside(at)
    lines = (
        ("standard deviation inside the axes, layer 55", "about 0.012", "about 1.04", by_arm(inside, "std")),
        ("kurtosis inside the axes, layer 55 (normal: 3)", "about 3.1", "about 6.3", by_arm(inside, "kurtosis")),
        ("standard deviation, all entries, layer 55", "", "", std),
        ("kurtosis, all entries, layer 55", "", "", kurtosis),
        ("largest |gradient|, layer 55", "about 0.05", "beyond 4.3", largest),
        (f"tail index, layer 55, k/n = {100 * HILL_FRACTION:g} %", "", "", hill),
    )
    cut = spread(measure(frames)["6"][RATIO].values)
    return [
        *(Comparison(name, b, u, str(ours["batch"]), str(ours["none"])) for name, b, u, ours in lines),
        Comparison("ratio of standard deviations inside the axes", "", "about 90", "", str(cut)),
        Comparison("ratio of standard deviations, all entries", "", "", "", str(spread(_ratios(at)["ratio"]))),
    ]


def _rows(tails: pd.DataFrame, quantity: str) -> pd.DataFrame:
    return tails[tails["quantity"] == quantity]


def _pairs(tails: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """One row per depth and seed that both arms have, columns `batch` and `none`."""
    wide = _rows(tails, quantity).pivot(index=["depth", "seed"], columns="norm", values="value")
    return wide.reindex(columns=list(ARMS)).dropna()


def _ratios(tails: pd.DataFrame) -> pd.DataFrame:
    """Columns depth, seed, ratio: standard deviation without BN over that with BN, of one seed."""
    wide = _pairs(tails, "std")
    return (wide["none"] / wide["batch"]).rename("ratio").reset_index()


def _inside(tails: pd.DataFrame) -> pd.DataFrame:
    """One row per run: std and kurtosis of the entries inside the published axes, around 0, from the runs' histograms.

    Their bins have the same edges in every run; within one the entries are taken as evenly spread, by which the
    standard deviation comes out 2 to 3 % too large.
    """
    bins = _window(tails)
    a, b = bins["x"], bins["x_high"]
    moments = bins.assign(
        second=bins["value"] * (b**3 - a**3) / (3 * (b - a)), fourth=bins["value"] * (b**5 - a**5) / (5 * (b - a))
    )
    of = moments.groupby(["norm", "seed"])[["value", "second", "fourth"]].sum().reset_index()
    second, fourth = ((of[moment] / of["value"]).astype(float) for moment in ("second", "fourth"))
    return of.assign(std=second**0.5, kurtosis=fourth / second**2)[["norm", "seed", "std", "kurtosis"]]


def _window(tails: pd.DataFrame) -> pd.DataFrame:
    """The bins of |gradient| that lie inside the published axes."""
    bins = _rows(tails, "histogram_log")
    return bins[bins["x_high"] <= 1.001 * bins["norm"].map(WINDOW).astype(float)]


def _hill(tails: pd.DataFrame, at: float) -> pd.DataFrame:
    """The Hill rows whose share k/n is nearest to `at`, convolutions only."""
    rows = _rows(tails, "hill")
    shares = np.sort(rows["x"].unique())
    nearest = shares[np.abs(shares - at).argmin()]
    return rows[rows["x"] == nearest]


def _histogram(ax: Axes, tails: pd.DataFrame, published: pd.DataFrame, arm: str) -> None:
    paper = published[(published["norm"] == arm) & published["count"].notna()]
    # BN rows are pixel columns of an outline, not bins: only their area has a meaning.
    width = float(np.median(np.diff(paper["gradient"])))
    folded = paper.assign(size=(paper["gradient"].abs() / width).round() * width).groupby("size")["count"].sum()
    ax.fill_between(
        folded.index, folded / float((folded * width).sum()), step="mid", color="#8A929C", alpha=0.45, lw=0,
        label="published",
    )  # fmt: skip
    at = _window(tails[(tails["depth"] == LAYER) & (tails["norm"] == arm)])
    for position, (_, run) in enumerate(at.groupby("run_id")):
        bins = run.sort_values("x", kind="stable")
        density = bins["value"] / bins["value"].sum() / (bins["x_high"] - bins["x"])
        filled = density > 0  # an empty bin has no place on a logarithmic axis
        label = None if position else "ours, by seed"
        centres = (bins["x"] + bins["x_high"]) / 2
        ax.plot(centres[filled], density[filled], color=figures.COLOURS[arm], lw=0.9, alpha=0.7, label=label)
    ax.set_xlim(0, 1.05 * WINDOW[arm])
    ax.set_yscale("log")
    ax.set_ylim(1e-3 / WINDOW[arm], 300 / WINDOW[arm])
    ax.set_xlabel("|gradient|")
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
    rows = histogram.sort_values("x", kind="stable")
    edges = np.append(rows["x"].to_numpy(), rows["x_high"].iloc[-1])
    counts = rows["value"].to_numpy()
    return edges, counts / counts.sum() / np.diff(edges)


def _hill_plot(ax: Axes, tails: pd.DataFrame) -> None:
    for arm, part in arms(tails[(tails["depth"] == LAYER) & (tails["quantity"] == "hill")]).items():
        rows = stats.over_seeds(part.assign(percent=part["x"] * 100), ["percent"], "value", Scale.log)
        figures.band(ax, rows, "percent", arm, marker="o", ms=3)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("k/n (%)")
    ax.set_ylabel("tail index (smaller: heavier)")
