"""Products of random matrices are worse conditioned with every factor (Bjorck et al. 2018, section 4, Figure 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison, Evidence, claim, judge
from bnstudy.analysis.frames import DASH, number, spread
from bnstudy.analysis.stats import Scale

SHOWN = (1, 3, 5)  # matrices multiplied, in the paper's panels
FIRST_BIN = {1: 262, 3: 2150, 5: 3830}  # read off the published figure: counts of 10,000 values in the first of 50 bins
LARGEST = {1: 2.0, 3: 3.1, 5: 3.9}
NUM_BINS, NUM_VALUES = 50, 10_000
ROUNDING = 2.2e-16  # times the number of singular values and the largest: what float64 cannot tell from 0
LEFT_OUT = 1e-7  # singular values below the axis of (d)
NUM_FACTORS = (1, 2, 3, 4, 5, 8, 16)
DISTANCE = {
    m: Part("largest distance of the distribution from Theorem 1's", below=0.01, at=f"factors {m}") for m in SHOWN
}
CONDITION = {
    m: Part("largest over median singular value, over Theorem 1's", above=0.9, below=1.1, scale=Scale.log,
            at=f"factors {m}")
    for m in NUM_FACTORS
}  # fmt: skip
COLOUR, TINT = figures.OTHER, "#DCD0E6"  # of no arm: there is no network

TITLE = "Singular values of products of random square matrices"
CAPTION = (
    "Matrices of 1000 rows with independent normal entries of variance 1/1000; the products of one seed share their "
    "factors. (a, b, c) The singular values of all seeds in 50 bins between the smallest and the largest, brought to "
    "10,000 values. Hollow diamonds: read off the published figure. Line: what Theorem 1 (products of infinitely large "
    "matrices) predicts for these bins. (d) Share of the values below a given one, all seeds; dashed: Theorem 1. (e) "
    "Largest over median and largest over smallest singular value, one dot a seed, bar: geometric mean; dashed: "
    "Theorem 1. Where rounding drowns the smallest of any seed it is not shown. The images of the data set play no "
    "part."
)
SWEEP = "random_products"
NEEDS = {"jacobian_singular_values": "step == 0 and stretch == 'to_features' and example == 0 and norm == 'none'"}
PUBLISHED = "fig8"
IMAGES = False  # a run has a data set, as every run does, and products of matrices take nothing from it
SIZE = (10.4, 6.4)
CLAIMS = (
    Claim(
        id="14-density",
        origin="paper",
        where="Section 4, Theorem 1",
        scale="paper",
        says="The singular values follow the law of the theorem.",
        criterion=Criterion(
            tuple(DISTANCE.values()),
            partial=tuple(Part(part.of, below=0.05, at=part.at) for part in DISTANCE.values()),
            remark="Of a seed's singular values (Kolmogorov's distance).",
        ),
        published="the density in closed form (attributed to Liu et al., 2016)",
    ),
    Claim(
        id="14-factors",
        where="Section 4, Theorem 1",
        scale="paper",
        says="Every further factor makes the product worse conditioned, as the theorem predicts.",
        criterion=Criterion(
            tuple(CONDITION.values()),
            partial=4,
            remark="By the theorem the ratio rises with every factor, from 2.5 to 1600, so that to follow it is to "
            "rise.",
        ),
        published="argued from the density; no number",
    ),
)


class Law(NamedTuple):
    """Theorem 1 for a product of `num_factors` matrices: shares of the singular values below `values`."""

    num_factors: int
    values: np.ndarray
    shares: np.ndarray

    @property
    def largest(self) -> float:
        m = self.num_factors
        return float(np.sqrt((m + 1.0) ** (m + 1) / float(m) ** m))

    @property
    def median(self) -> float:
        return float(np.interp(0.5, self.shares, self.values))

    @property
    def to_median(self) -> float:
        return self.largest / self.median

    def below(self, values: np.ndarray) -> np.ndarray:
        return np.interp(values, self.values, self.shares)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    values, published = _products(frames), frames["published"]
    panels = fig.subplot_mosaic([list("abc"), list("dee")], height_ratios=(1, 1.15))
    for factors, letter in zip(SHOWN, "abc", strict=True):
        _histogram(panels[letter], values, published, factors)
        name = "one matrix" if factors == 1 else f"{factors} matrices"
        figures.panel(panels[letter], letter, name)
    ours = figures.entry("ours (a, b, c)", "s", colour=TINT, ms=6, mew=0)
    paper = figures.entry("published (a, b, c)", "D", filled=False, colour=COLOUR, ms=3.6)
    theory = figures.entry("Theorem 1", colour=figures.INK, lw=1.1)
    fig.legend(handles=[ours, paper, theory], loc="outside lower center", ncols=3)
    _shares_below(panels["d"], values)
    _condition(panels["e"], values)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    values = _products(frames)
    wide = _ratios(values).pivot(index="seed", columns="factors", values="to_median").reindex(columns=list(NUM_FACTORS))
    return {
        "14-density": {part.key: criteria.single(_distances(values, m)) for m, part in DISTANCE.items()},
        "14-factors": {part.key: criteria.single(wide[m] / _law(m).to_median) for m, part in CONDITION.items()},
    }


@claim(
    id="14",
    origin="paper",
    where="Section 4, Figure 8",
    scale="paper",
    says="Products of random matrices become ill-conditioned with their number.",
    calibrated="the scale of the entries, 1/N, was read off the figure's edges",
    criterion="Counts in the first of 50 bins within 3 % of 262, 2150, 3830 for 1, 3, 5 matrices, and largest "
    "singular values within 3 % of 2.0, 3.1, 3.9; of all seeds together, counts scaled to 10,000 values.",
    published="first bins 262, 2150, 3830; largest 2.0, 3.1, 3.9",
)
def ill_conditioned(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    values = _products(frames)
    n = _num_seeds(values)
    first = {m: _first_bin(values, m) for m in SHOWN}
    largest = {m: _of(values, m).max() if len(_of(values, m)) else float("nan") for m in SHOWN}
    near = [abs(first[m] / FIRST_BIN[m] - 1) <= 0.03 and abs(largest[m] / LARGEST[m] - 1) <= 0.03 for m in SHOWN]
    return Evidence(
        measured=f"first bins {', '.join(f'{first[m]:.0f}' for m in SHOWN)}; largest "
        f"{', '.join(f'{largest[m]:.2f}' for m in SHOWN)}",
        spread="largest, by seed: " + ", ".join(spread(_largest(values, m)).range for m in SHOWN),
        n=n,
        verdict=judge(n, full=all(near), partial=False),
    )


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    values = _products(frames)
    ratios = _ratios(values)
    rows = []
    for m in SHOWN:
        name = "one matrix" if m == 1 else f"{m} matrices"
        of = ratios[ratios["factors"] == m]
        theorem = number(_law(m).to_median)
        bins = f"{_first_bin(values, m):.0f}" if len(of) else DASH
        largest = str(spread(_largest(values, m)))
        rows.append(Comparison(f"count in the first of 50 bins, {name}", "", str(FIRST_BIN[m]), "", bins))
        rows.append(Comparison(f"largest singular value, {name}", "", f"{LARGEST[m]:.1f}", "", largest))
        ours = str(spread(of["to_median"]))
        rows.append(Comparison(f"largest over median, {name}", "", f"{theorem} (Theorem 1)", "", ours))
    return rows


def _histogram(ax: Axes, values: pd.DataFrame, published: pd.DataFrame, factors: int) -> None:
    pooled = _of(values, factors).to_numpy()
    if pooled.size:
        counts, edges = np.histogram(pooled, bins=NUM_BINS)
        scale = NUM_VALUES / pooled.size
        ax.stairs(counts * scale, edges, fill=True, color=TINT)
        expected = NUM_VALUES * np.diff(_law(factors).below(edges))
        centres = (edges[1:] + edges[:-1]) / 2
        ax.plot(centres, np.where(expected > 0.5, expected, np.nan), color=figures.INK, lw=1.1)
    paper = published[published["num_matrices"] == factors]
    ax.plot(
        paper["singular_value"], paper["count"], "D", color=COLOUR, mfc="white", ms=3, mew=0.9, zorder=4
    )  # fmt: skip
    ax.set_yscale("log")
    ax.set_ylim(3, 8000)
    ax.set_xlim(left=0)
    ax.set_xlabel("singular value")
    ax.set_ylabel("count of 10,000 values in a bin")


def _shares_below(ax: Axes, values: pd.DataFrame) -> None:
    for factors in sorted(values["factors"].unique()):
        ordered = np.sort(_of(values, factors).to_numpy())
        ordered, total = ordered[ordered > LEFT_OUT], len(ordered)
        ax.plot(ordered, 1 - np.arange(len(ordered), 0, -1) / total, color=COLOUR, alpha=0.5, lw=2.4)
        law = _law(factors)
        ax.plot(law.values, law.shares, color=figures.INK, lw=0.8, ls=(0, (3, 2)))
        fifth = float(np.interp(0.2, law.shares, law.values))
        ax.annotate(
            str(factors), (fifth, 0.2), textcoords="offset points", xytext=(-3, 2), ha="right", fontsize=7,
            color=figures.MUTED, bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.85},
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(LEFT_OUT, 10)
    ax.set_ylim(0, 1)
    ax.set_xlabel("singular value")
    ax.set_ylabel("share of the values below")
    figures.panel(ax, "d", "by number of factors")


def _condition(ax: Axes, values: pd.DataFrame) -> None:
    ratios = _ratios(values)
    every = sorted(ratios["factors"].unique())
    for column, marker, label in (
        ("to_median", "o", "largest over median"),
        ("to_smallest", "s", "largest over smallest (the condition number)"),
    ):
        means = stats.over_seeds(ratios.dropna(subset=column), ["factors"], column, Scale.log)
        ax.plot(ratios["factors"], ratios[column], marker, color=COLOUR, ms=3.6, mew=0, alpha=0.6, label=label)
        ax.plot(means["factors"], means["mean"], "_", color=COLOUR, ms=16, mew=1.6)
    law = np.array([(m, _law(m).to_median) for m in range(1, max(every, default=1) + 1)])
    ax.plot(law[:, 0], law[:, 1], color=figures.INK, lw=0.9, ls=(0, (3, 2)), label="largest over median, Theorem 1")
    ax.set_yscale("log")
    ax.set_xticks(every)
    ax.set_xlabel("number of factors")
    ax.set_ylabel("ratio of singular values")
    ax.legend(loc="upper right")
    figures.panel(ax, "e", "conditioning")


def _products(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per singular value, with the number of factors behind the stretch's start."""
    table = frames["jacobian_singular_values"]
    factors = (table["num_factors"] - table["start"]).astype(int)
    return table.assign(factors=factors, value=table["value"].astype(float))


def _of(values: pd.DataFrame, factors: int) -> pd.Series:
    return values.loc[values["factors"] == factors, "value"]


def _num_seeds(values: pd.DataFrame) -> int:
    """Seeds of the product that has fewest."""
    return min(int(values.loc[values["factors"] == m, "seed"].nunique()) for m in SHOWN)


def _first_bin(values: pd.DataFrame, factors: int) -> float:
    """Count in the first of 50 bins between the smallest and the largest value, brought to 10,000 values."""
    pooled = _of(values, factors).to_numpy()
    if not pooled.size:
        return float("nan")
    return float(np.histogram(pooled, bins=NUM_BINS)[0][0]) * NUM_VALUES / pooled.size


def _largest(values: pd.DataFrame, factors: int) -> pd.Series:
    """By seed."""
    return values[values["factors"] == factors].groupby("seed")["value"].max()


def _distances(values: pd.DataFrame, factors: int) -> pd.Series[float]:
    """Kolmogorov's distance between each seed's values and Theorem 1, by seed."""
    law, samples = _law(factors), {}
    for seed, part in values[values["factors"] == factors].groupby("seed"):
        ordered = np.sort(part["value"].to_numpy())
        expected = law.below(ordered)
        steps = np.arange(len(ordered) + 1) / len(ordered)
        samples[seed] = float(max(np.abs(steps[1:] - expected).max(), np.abs(steps[:-1] - expected).max()))
    return pd.Series(samples, dtype=float)


def _ratios(values: pd.DataFrame) -> pd.DataFrame:
    """One row per seed and number of factors; `to_smallest` is NaN where rounding drowns the smallest of any seed."""
    of = values.groupby(["factors", "seed"])["value"].agg(["max", "median", "min", "count"]).reset_index()
    whole = (of["min"] > ROUNDING * of["count"] * of["max"]).groupby(of["factors"]).transform("all")
    return of.assign(to_median=of["max"] / of["median"], to_smallest=(of["max"] / of["min"]).where(whole))


def _law(num_factors: int) -> Law:
    """Theorem 1, integrated over its parameter.

    With 0 < phi < pi / (M + 1) the squared singular values are x = sin^(M+1)((M+1) phi) / (sin phi sin^M(M phi)), with
    density rho(x) = sin((M+1) phi) sin(phi) / (pi x sin(M phi)). Hence x rho(x) d(ln x) is smooth in phi up to both
    ends, and x falls with phi from (M+1)^(M+1) / M^M to 0.
    """
    m = num_factors
    phi = np.linspace(0, np.pi / (m + 1), 20_003)[1:-1]
    inner, outer = np.sin(m * phi), np.sin((m + 1) * phi)
    ln_x = (m + 1) * np.log(outer) - np.log(np.sin(phi)) - m * np.log(inner)
    slope = (m + 1) ** 2 / np.tan((m + 1) * phi) - 1 / np.tan(phi) - m**2 / np.tan(m * phi)  # d ln x / d phi
    mass = -slope * outer * np.sin(phi) / (np.pi * inner)
    above = np.concatenate([[0], np.cumsum((mass[1:] + mass[:-1]) / 2) * (phi[1] - phi[0])])
    return Law(m, np.exp(ln_x[::-1] / 2), 1 - above[::-1])
