"""The noise of SGD's steps during training, by the learning rate (Bjorck et al. 2018, section 2.1, equation 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, Spread, arms, by_arm, number
from bnstudy.analysis.stats import Scale

SIZE_OF_STEP = 128  # images: the mini-batches that the runs train with
LAST = 60  # updates
OWN = {"batch": 0.1, "none": 0.01}  # learning rates
DASHES = {0.001: (0, (1, 1.4)), 0.01: (0, (4, 1.6)), 0.1: "-"}

SLOPE = {
    arm: Part(f"slope of the noise in the rate {'with' if arm == 'batch' else 'without'} BN", above=1.5, below=2.5)
    for arm in ARMS
}
NOISIER = Part("noise of a step with BN at 0.1 over that without at 0.01", above=1, scale=Scale.log)

TITLE = "The noise of SGD's steps along training, by the learning rate (ResNet-20, 1,280 images)"
CAPTION = (
    "A step is the learning rate times the gradient of 128 images (without momentum); its noise is the mean squared "
    "distance to that of 512 images that contain them, in all parameters. (a) Noise of the gradient, the step's "
    "divided by the squared rate, against the number of updates. (b) The same, divided by the square of the gradient "
    "of the 512 images. (c) Noise of the step against the rate, before training (hollow, slope 2 by identity) and "
    "after 60 updates (filled); grey: slope 2. Line: geometric mean over seeds, bar or band: 95 % interval; runs that "
    "diverged end before. A network of reduced depth on few images: it says nothing about ResNet-110 trained as in the "
    "paper."
)
SWEEP = "noise_training"
NEEDS = {"gradient_noise": f"batch_size == {SIZE_OF_STEP} and num_draws > 0"}
SIZE = (10.4, 4.2)
CLAIMS = (
    Claim(
        id="5-training",
        where="Section 2.1, equation 3",
        scale="reduced",
        says="Along training, too, the noise of a step grows with the square of the learning rate.",
        criterion=Criterion(
            tuple(SLOPE.values()),
            partial=1,
            remark="On log axes, after 60 updates, over 0.001, 0.01 and 0.1, seed by "
            "seed. At the same weights it is 2 by identity.",
        ),
        published="slope 2, at the same weights",
    ),
    Claim(
        id="5-own-rates",
        origin="paper",
        calibrated="by construction: the noise is the squared rate, a hundredfold apart, times the gradient's, which "
        "differs by a factor of three at most",
        where="Section 2.1",
        scale="reduced",
        says="The larger learning rate that BN allows makes the noisier steps.",
        criterion=Criterion((NOISIER,), remark="After 60 updates, paired by seed."),
        published="argued, not measured",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = _rows(frames)
    left, middle, right = fig.subplots(1, 3)
    _along(left, rows, "mean_squared_deviation")
    left.set_ylabel("noise of the gradient")
    handles, labels = left.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figures.panel(left, "a", "noise of the gradient")
    _along(middle, rows, "relative")
    figures.plain_log(middle)
    middle.set_ylabel("noise / square of the gradient")
    figures.panel(middle, "b", "relative to the gradient")
    for arm, part in arms(rows).items():
        for step, fill in ((0, "white"), (LAST, figures.COLOURS[arm])):
            lines = stats.over_seeds(part[part["step"] == step], ["lr"], "noise", Scale.log)
            figures.band(right, lines, "lr", arm, label="", marker="o", ms=4.2, mfc=fill, mew=1.0,
                         lw=1.4 if step else 0.8)  # fmt: skip
    rates = np.array(sorted(rows["lr"].unique()))
    middle_noise = float(np.exp(np.log(rows.loc[rows["lr"] == rates[len(rates) // 2], "noise"]).mean()))
    right.plot(rates, middle_noise * (rates / rates[len(rates) // 2]) ** 2, color=figures.MUTED, lw=0.9, zorder=5)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("learning rate")
    right.set_ylabel("noise of a step")
    handles = [
        *figures.arm_entries(arms(rows)),
        figures.entry("before training", "o", filled=False, ls="-", lw=0.8),
        figures.entry(f"after {LAST} updates", "o", ls="-", lw=1.4),
        figures.entry("slope 2", lw=0.9),
    ]
    right.legend(handles=handles, loc="upper left")
    figures.panel(right, "c", "noise of a step")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = _rows(frames)
    slopes = _slopes(rows)
    last = rows[(rows["step"] == LAST) & (rows["lr"] == rows["norm"].map(OWN))]
    by_arm_of = {
        part.key: criteria.single(slopes[slopes["norm"] == arm].set_index("seed")["slope"])
        for arm, part in SLOPE.items()
    }
    noisier = criteria.compared(last, "noise", Scale.log, of="batch")
    return {"5-training": by_arm_of, "5-own-rates": {NOISIER.key: noisier}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    rows = _rows(frames)
    slopes = by_arm(_slopes(rows), "slope")
    lines = [Comparison(f"slope of the noise of a step after {LAST} updates", "2", "2", *_ours(slopes))]
    for column, name in (("mean_squared_deviation", "noise of the gradient"), ("relative", "noise over its square")):
        for step in sorted(rows["step"].unique()):
            for rate in sorted(rows["lr"].unique()):
                here = by_arm(rows[(rows["step"] == step) & (rows["lr"] == rate)], column)
                lines.append(Comparison(f"{name}, {step} updates at {number(rate)}", DASH, DASH, *_ours(here)))
    return lines


def _rows(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What was measured, with: noise (of a step) and relative (of the gradient, to its square)."""
    rows = frames["gradient_noise"]
    deviation = rows["mean_squared_deviation"]
    return rows.assign(noise=rows["lr"] ** 2 * deviation, relative=deviation / rows["gradient_squared"])


def _slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per seed and arm: `slope` of ln noise in ln rate after the last update, NaN unless at every rate."""
    lines, rates = [], rows["lr"].nunique()
    for (norm, seed), part in rows[rows["step"] == LAST].groupby(["norm", "seed"]):
        defined = part[np.isfinite(part["noise"]) & (part["noise"] > 0)]
        complete = len(defined) == rates > 1
        slope = float(np.polyfit(np.log(defined["lr"]), np.log(defined["noise"]), 1)[0]) if complete else math.nan
        lines.append((norm, seed, slope))
    return pd.DataFrame(lines, columns=["norm", "seed", "slope"])


def _along(ax: Axes, rows: pd.DataFrame, column: str) -> None:
    """Against the number of updates, one line per arm and rate, side by side with their intervals."""
    steps = sorted(rows["step"].unique())
    cells = rows.groupby(["norm", "lr"])
    for place, ((arm, rate), part) in enumerate(cells):
        lines = stats.over_seeds(part.assign(look=part["step"].map(steps.index)), ["look"], column, Scale.log)
        label = f"{figures.LABELS[str(arm)]}, {number(float(str(rate)))}"
        x, colour = lines["look"] + 0.06 * (place - (len(cells) - 1) / 2), figures.COLOURS[str(arm)]
        ax.vlines(x, lines["low"], lines["high"], color=colour, lw=1.1, alpha=0.7)
        ax.plot(x, lines["mean"], color=colour, label=label, marker="o", ms=3.4, mew=0, ls=DASHES[float(str(rate))])
    ax.set_yscale("log")
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
    ax.set_xlabel("updates")


def _ours(of: Mapping[str, Spread]) -> tuple[str, str]:
    return str(of["batch"]), str(of["none"])
