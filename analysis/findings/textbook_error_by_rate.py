"""The error over learning rates, trained until both arms fit: is the minimum flatter with BN?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, accuracies, arms, spread

EPOCHS = 50
WITHIN = 2.0  # points of the training error above the smallest
WIDER = Part("width of the range of rates with BN less without", above=0.5, unit="decades")
SOME = Part(WIDER.of, above=0, unit="decades")
INSIDE = Need(
    "number of arms whose smallest error is at an end of the grid",
    "an optimum at the grid's edge is no optimum",
    below=1,
)

TITLE = "The error over learning rates, after fifty epochs"
CAPTION = (
    "LeNet on Fashion-MNIST, fifty epochs (preset quick: two), plain SGD at a constant rate. Error (a) on the training "
    "images during the last epoch and (b) on the test images after it: mean over seeds (line), every seed (dots); a "
    "run that diverged guesses (90 %). (c) Width of the range of rates around the best whose training error is within "
    "2 points of its, interpolated between rates: every seed, mean and 95 % interval."
)
SWEEP = "textbook_error_by_rate"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (10.8, 4.2)
CLAIMS = (
    Claim(
        id="textbook-error-by-rate",
        origin="course",
        where="Dive into Deep Learning, Batch Normalization, exercise 2: training and test error by learning rate",
        scale="textbook",
        says="With BN the curve of the error over learning rates is flatter around its minimum.",
        criterion=Criterion(
            (WIDER,),
            partial=(SOME,),
            needs=(INSIDE,),
            remark="Rates around the best whose training error after fifty epochs is within 2 points of its, by seed.",
        ),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = _errors(frames["runs"])
    axes = fig.subplots(1, 3, width_ratios=(4, 4, 2))
    for ax, side, title, letter in zip(axes, ("train", "test"), ("training", "test"), "ab", strict=False):
        _curves(ax, runs, side)
        figures.panel(ax, letter, f"{title} error")
    axes[0].set_ylabel("error (%)")
    widths = _widths(runs)
    for x, arm in enumerate(ARMS):
        figures.seeds(axes[2], x, widths.loc[widths["norm"] == arm, "width"], arm, scale=stats.Scale.plain)
    axes[2].set_xticks(range(len(ARMS)), [figures.LABELS[arm] for arm in ARMS])
    axes[2].set_xlim(-0.6, len(ARMS) - 0.4)
    axes[2].set_ylim(bottom=0)
    axes[2].grid(False, axis="x")
    axes[2].set_ylabel("width (decades)")
    figures.panel(axes[2], "c", "within 2 points")
    fig.legend(handles=figures.arm_entries(), loc="outside lower center", ncols=2)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _errors(frames["runs"])
    widths = _widths(runs[runs["epochs"] >= EPOCHS])
    of = {arm: widths[widths["norm"] == arm].set_index("seed") for arm in ARMS}
    wider = stats.effect(of["batch"]["width"], of["none"]["width"])
    at_edge = sum(of[arm]["edge"].reindex(wider.index).astype(float) for arm in ARMS)
    samples = {WIDER.key: criteria.single(wider), INSIDE.of: criteria.single(pd.Series(at_edge, index=wider.index))}
    return {"textbook-error-by-rate": samples}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _errors(frames["runs"])
    widths = _widths(runs)
    cells = [str(spread(widths.loc[widths["norm"] == arm, "width"])) for arm in ARMS]
    lines = [Comparison("rates within 2 points of the smallest training error (decades)", DASH, DASH, *cells)]
    for side in ("train", "test"):
        for lr, part in runs.groupby("lr"):
            cells = [str(spread(part.loc[part["norm"] == arm, side])) for arm in ARMS]
            lines.append(Comparison(f"{side} error at {lr:g} (%)", DASH, DASH, *cells))
    return lines


def _errors(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with `train` and `test` error in percent."""
    found = accuracies(runs)
    return found.assign(train=100 - found["train"], test=100 - found["test"])


def _widths(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per arm and seed: `width` in decades, and whether the smallest error is at an `edge` of the grid."""
    lines = []
    for (arm, seed), part in runs.groupby(["norm", "seed"], observed=True):
        by_rate = part.sort_values("lr", kind="stable")
        rates, errors = np.log10(by_rate["lr"].to_numpy()), by_rate["train"].to_numpy()
        best = int(errors.argmin())
        width = _reach(rates, errors, best, 1) + _reach(rates, errors, best, -1)
        lines.append((arm, seed, width, best in (0, len(rates) - 1)))
    return pd.DataFrame(lines, columns=["norm", "seed", "width", "edge"])


def _reach(log_rates: np.ndarray, errors: np.ndarray, best: int, step: int) -> float:
    """How far from the best rate, in decades, the error first rises by WITHIN, or the grid ends."""
    bound, at = errors[best] + WITHIN, best
    while 0 <= at + step < len(errors):
        if errors[at + step] > bound:
            share = (bound - errors[at]) / (errors[at + step] - errors[at])
            crossing = log_rates[at] + share * (log_rates[at + step] - log_rates[at])
            return float(abs(crossing - log_rates[best]))
        at += step
    return float(abs(log_rates[at] - log_rates[best]))


def _curves(ax: Axes, runs: pd.DataFrame, side: str) -> None:
    for arm, part in arms(runs).items():
        shift = 1.06 if arm == "none" else 1 / 1.06  # arms side by side at each rate
        means = part.groupby("lr")[side].mean()
        ax.plot(means.index.to_numpy() * shift, means, color=figures.COLOURS[arm], lw=1.5)
        ax.plot(part["lr"] * shift, part[side], "o", color=figures.COLOURS[arm], ms=3, mew=0, alpha=0.7)
    ax.set_xscale("log")
    grid = sorted(runs["lr"].unique())
    ax.set_xticks(grid, [f"{rate:g}" for rate in grid], rotation=45)
    ax.minorticks_off()
    ax.set_ylim(0, 100)
    ax.set_xlabel("learning rate")
