"""Best learning rates by the size of the mini-batch, with BN and without (De and Smith, 2020, against the paper)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats, zoo
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import CHANCE, DASH, spread
from bnstudy.analysis.stats import Scale

ARMS = ("batch", "skipinit", "none")
SIZES = (16, 128, 1024)
ALIKE = Part("best rate with BN over that with SkipInit, mini-batches of 16", above=0.5, below=2, scale=Scale.log)
APART = Part("best rate with BN over that with SkipInit, mini-batches of 1024", above=4, scale=Scale.log)
SAME = {
    pair: Part("size of the difference of test accuracies with BN at one ratio of rate and size, mean over the ratios",
               below=3, unit="points", at=f"{pair[0]} and {pair[1]}")
    for pair in itertools.pairwise(SIZES)
}  # fmt: skip
INSIDE = {
    size: Need(f"number of arms compared whose best rate is at an end of the grid, mini-batches of {size}",
               "a best rate at the grid's edge is no optimum", below=0.5)
    for size in (SIZES[0], SIZES[-1])
}  # fmt: skip
LEARNT = Need("highest test accuracy with BN at each size, the lowest of them", "a network did not learn", above=30)

TITLE = "The best learning rate by the size of the mini-batch"
CAPTION = (
    "ResNet-20 on 10,000 images of CIFAR-10, ten epochs of the paper's schedule. (a to c) Final test accuracy by rate "
    "for each size of the mini-batch; a dot a run (a diverged one at 10 %), line: mean over seeds. (d) Best rate of "
    "each seed: the top of the parabola in the logarithm of the rate through its highest accuracy and the two beside "
    "it, bar: geometric mean with 95 % interval; hollow where the highest lies at an end of the grid. (e) Test "
    "accuracy with BN against rate over size, mean over seeds and 95 % interval (bar)."
)
SWEEP = "best_rates"
NEEDS = {"runs": "status in ('completed', 'diverged') and depth == 20"}
SIZE = (11.0, 6.2)
WHERE = "De and Smith (2020), section 4, against Bjorck et al. (2018), section 3"
BEST = "Tops of parabolas in the logarithm of the rate through the three rates around a seed's highest accuracy."
CLAIMS = (
    Claim(
        id="B6-small",
        where=WHERE,
        scale="reduced",
        says="On small mini-batches BN and SkipInit have the same best learning rate.",
        criterion=Criterion((ALIKE,), needs=(INSIDE[16], LEARNT), remark=BEST),
        published="at small mini-batches alike",
    ),
    Claim(
        id="B6-large",
        where=WHERE,
        scale="reduced",
        says="On large mini-batches the best rate with BN is several times that with SkipInit.",
        criterion=Criterion(
            (APART,), partial=(Part(APART.of, above=1, scale=Scale.log),), needs=(INSIDE[1024], LEARNT), remark=BEST
        ),
        published="at large mini-batches BN's is larger",
    ),
    Claim(
        id="B6-ratio",
        origin="paper",
        where="Bjorck et al. (2018), section 3, equation 3",
        scale="reduced",
        says="It is the rate over the size of the mini-batch that counts.",
        criterion=Criterion(
            tuple(SAME.values()), partial=1, needs=(LEARNT,),
            remark="Seed by seed, at ratios that both sizes have; epochs are the same; a diverged run counts as 10 %.",
        ),
        published="noise of a step, by rate squared over size; no accuracies",
    ),
)  # fmt: skip


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = _runs(frames)
    panels = fig.subplot_mosaic([list("aabbcc"), list("dddeee")])
    for letter, size in zip("abc", SIZES, strict=True):
        _by_rate(panels[letter], runs[runs["batch_size"] == size])
        figures.panel(panels[letter], letter, f"mini-batches of {size}")
        panels[letter].set_ylim(0, max(20.0, 1.1 * float(runs["percent"].max())))
    panels["a"].set_ylabel("test accuracy (%)")
    _tops(panels["d"], _best(runs))
    figures.panel(panels["d"], "d", "best rates")
    _ratios(panels["e"], runs[runs["arm"] == "batch"])
    figures.panel(panels["e"], "e", "with BN, by rate over size")
    handles = [figures.entry(zoo.ARMS[arm].label, "o", colour=figures.COLOURS[arm], ls="-") for arm in ARMS]
    handles += [figures.entry(f"{size} (e)", ls=dashes) for size, dashes in zip(SIZES, DASHES, strict=True)]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _runs(frames)
    tops = _best(runs)
    learnt = _lowest(runs)
    best: dict[str, dict[str, pd.Series]] = {}
    for claim, part, size in (("B6-small", ALIKE, 16), ("B6-large", APART, 1024)):
        at = tops[(tops["batch_size"] == size) & (tops["arm"] != "none")]
        rate = {arm: at[at["arm"] == arm].set_index("seed")["rate"] for arm in ("batch", "skipinit")}
        edges = (~at["inside"].astype(bool)).groupby(at["seed"]).sum()
        best[claim] = {part.key: stats.effect(rate["batch"], rate["skipinit"], Scale.log), INSIDE[size].of: edges}
    best["B6-ratio"] = {part.key: _apart(runs, *pair) for pair, part in SAME.items()}
    return {
        claim: {key: criteria.single(of) for key, of in (each | {LEARNT.of: learnt}).items()}
        for claim, each in best.items()
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _runs(frames)
    tops = _best(runs)
    lines = []
    for size, arm in itertools.product(SIZES, ARMS):
        at = tops[(tops["batch_size"] == size) & (tops["arm"] == arm)]
        for column, what in (("rate", "best rate"), ("percent", "highest test accuracy (%)")):
            value = str(spread(at[column]))
            ours = (DASH, value) if arm == "none" else (value, DASH)
            lines.append(Comparison(f"{what}, {zoo.ARMS[arm].label}, mini-batches of {size}", DASH, DASH, *ours))
    return lines


DASHES = (":", (0, (4, 1.6)), "-")


def _runs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per run, with arm, percent (chance where it diverged), and ratio: rate over size."""
    runs = zoo.with_percent(zoo.named(frames["runs"]))
    return runs.assign(ratio=(runs["lr"] / runs["batch_size"]).map(lambda ratio: float(f"{ratio:.2e}")))


def _best(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per arm, size and seed: rate (the parabola's top), percent (the highest), and whether it is inside."""
    rows = []
    for (arm, size, seed), part in runs.groupby(["arm", "batch_size", "seed"]):
        line = part.sort_values("lr", kind="stable")
        logs, percent = np.log(line["lr"].to_numpy()), line["percent"].to_numpy()
        place = int(percent.argmax())
        inside = 0 < place < len(percent) - 1 and percent[place] > CHANCE
        rate = _top(logs[place - 1 : place + 2], percent[place - 1 : place + 2]) if inside else logs[place]
        rows.append((arm, size, seed, math.exp(rate), percent[place], inside))
    return pd.DataFrame(rows, columns=["arm", "batch_size", "seed", "rate", "percent", "inside"])


def _top(x: np.ndarray, y: np.ndarray) -> float:
    """The top of the parabola through three points, of which the middle one is highest."""
    (left, right), (fall, rise) = np.diff(x), np.diff(y)
    bend = rise / right - fall / left  # below zero, or 0 where all are equal
    return float(x[1] if bend == 0 else (x[0] + x[1]) / 2 - fall / left * (x[2] - x[0]) / (2 * bend))


def _apart(runs: pd.DataFrame, small: int, large: int) -> pd.Series:
    """By seed: the mean distance of the accuracies with BN of the two sizes, over the ratios that both have."""
    part = runs[(runs["arm"] == "batch") & runs["batch_size"].isin([small, large])]
    pairs = part.assign(step=np.round(np.log(part["ratio"]), 1))
    wide = pairs.pivot_table(index=["seed", "step"], columns="batch_size", values="percent").reindex(
        columns=[small, large]
    )
    return (wide[small] - wide[large]).abs().dropna().groupby("seed").mean()


def _lowest(runs: pd.DataFrame) -> pd.Series:
    """By seed: the lowest, over sizes, of the highest accuracy with BN at each size."""
    part = runs[runs["arm"] == "batch"]
    return part.groupby(["seed", "batch_size"])["percent"].max().groupby("seed").min()


def _by_rate(ax: Axes, runs: pd.DataFrame) -> None:
    ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    for place, arm in enumerate(ARMS):
        part, factor = runs[runs["arm"] == arm], 1.06 ** (place - 1)
        means = stats.over_seeds(part, ["lr"], "percent")
        ax.plot(part["lr"] * factor, part["percent"], "o", color=figures.COLOURS[arm], ms=3.4, mew=0, alpha=0.7)
        ax.plot(means["lr"] * factor, means["mean"], color=figures.COLOURS[arm], lw=1.3)
    ax.set_xscale("log")
    ax.set_xlabel("learning rate")


def _tops(ax: Axes, tops: pd.DataFrame) -> None:
    for (place, size), (index, arm) in itertools.product(enumerate(SIZES), enumerate(ARMS)):
        at, x = tops[(tops["batch_size"] == size) & (tops["arm"] == arm)], place + 0.25 * (index - 1)
        figures.seeds(ax, x, at["rate"], arm, spacing=0.05, scale=Scale.log)
        edge = at[~at["inside"].astype(bool)]["rate"]
        ax.plot([x] * len(edge), edge, "o", color=figures.COLOURS[arm], mfc="white", ms=4.4, mew=1, zorder=6)
    ax.set_yscale("log")
    ax.set_xticks(range(len(SIZES)), [str(size) for size in SIZES])
    ax.set_xlim(-0.5, len(SIZES) - 0.5)
    ax.set_xlabel("images in a mini-batch")
    ax.set_ylabel("best learning rate")
    ax.grid(False, axis="x")


def _ratios(ax: Axes, runs: pd.DataFrame) -> None:
    for place, (size, dashes) in enumerate(zip(SIZES, DASHES, strict=True)):
        part = stats.over_seeds(runs[runs["batch_size"] == size], ["ratio"], "percent")
        figures.whiskers(ax, part, "ratio", "batch", label="", factor=1.06 ** (place - 1), ls=dashes)
    ax.set_xscale("log")
    ax.set_xlabel("learning rate over images in a mini-batch")
    ax.set_ylabel("test accuracy (%)")
