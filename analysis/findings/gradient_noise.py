"""The noise of an SGD step against the mini-batch size, with BN and without (Bjorck et al. 2018, equation 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy import effects, figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import ARMS, DASH, MINUS, Spread, arms, number, over_seeds, spread

NETWORKS = {"resnet20": "ResNet-20", "mlp": "perceptron"}
MOMENTS = {"before": "-", "after": (0, (4, 1.6))}  # training
SETTINGS = tuple((network, moment) for network in NETWORKS for moment in MOMENTS)
PAPERS_SIZE = 128  # of the mini-batches it trains with

TITLE = "The noise of mini-batch gradients by the size of the mini-batch"
LAW = f"C(N {MINUS} b)/(b(N {MINUS} 1))"  # equation 3 without replacement
CAPTION = (
    "Gradients in all parameters at the same weights, of mini-batches drawn without replacement from N = 5,120 images, "
    "before training and after one epoch. (a, b) Mean squared distance from the gradient of all images, divided "
    f"by that gradient's square; grey: equation 3, {LAW}, with C the mean over 1,024 single examples. Median (line) "
    "and range over seeds (band). (c) Slopes on log axes over mini-batches of 4 to 128; one dot a seed, bar: median, "
    f"grey: {MINUS}1 ± 0.1. With BN a single example has no gradient, the whole set's is the mean of mini-batches of "
    "512, and the slope is of the variance around the mean over mini-batches of the same size. (d) How much of the "
    "mean squared distance is due to that mean: how far it is from the gradient of mini-batches of 512 of the same "
    "images; an estimate without bias, which chance can take below 0. A step is the learning rate times the gradient, "
    "so that its noise has slope 2 in the rate: an identity, not measured."
)
SWEEP = "gradient_noise"
NEEDS = {"gradient_noise": None}
SIZE = (10.4, 7.0)
FOUR = "for each of two networks, before and after training: all four reproduce, some do partly."
CLAIMS = (
    Claim(
        id="5",
        origin="paper",
        where="Section 2.1, equation 3",
        scale="reduced",
        says="The noise of an SGD step grows with the square of the learning rate and falls with the mini-batch size.",
        criterion="Slopes on log axes of the mean squared deviation of a step: 2.0 ± 0.1 in the rate, "
        f"{MINUS}1.0 ± 0.1 in the mini-batch size (far below the whole set). The rate's is 2 by "
        f"identity; that of the size without BN, median over seeds, {FOUR}",
        published=f"slopes 2 and {MINUS}1 (a bound; equality without replacement up to (N {MINUS} b)/(N {MINUS} 1))",
    ),
    Claim(
        id="5-constant",
        origin="paper",
        where="Section 2.1, equation 3",
        scale="reduced",
        says="The constant is how far the gradients of single examples are from their mean.",
        criterion=f"Without BN, mean squared deviation over {LAW}, geometric mean over sizes, median over seeds "
        f"between 0.8 and 1.25, {FOUR}",
        published=f"C = E|grad l_i {MINUS} grad l|² (a bound)",
    ),
    Claim(
        id="5-bn",
        where="Section 2.1, equation 3, where it does not hold by itself",
        scale="reduced",
        says="With BN, where a single example has no gradient of its own, the noise falls with the size just so.",
        criterion="With BN, slope of the variance of mini-batch gradients in the mini-batch size on log axes, median "
        f"over seeds {MINUS}1.0 ± 0.1, {FOUR}",
        published="not told apart",
    ),
    Claim(
        id="5-bias",
        where="Section 2.1, equation 2, where it does not hold by itself",
        scale="reduced",
        says="With BN, too, the mean over mini-batches is nearly the large mini-batch's gradient.",
        criterion="With BN, squared bias at mini-batches of 128, median over seeds at most 10 % of the mean squared "
        f"deviation, {FOUR}",
        published="zero mean (for networks without BN an identity)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = _rows(frames)
    panels = fig.subplot_mosaic([["a", "b"], ["c", "d"]])
    for letter, (network, label) in zip("ab", NETWORKS.items(), strict=True):
        _noise(panels[letter], rows[rows["network"] == network])
        figures.panel(panels[letter], letter, f"{label}: noise")
    _slopes(panels["c"], _fits(rows))
    figures.panel(panels["c"], "c", "slopes")
    _bias(panels["d"], rows)
    figures.panel(panels["d"], "d", "part of the noise that is bias")
    handles = [Line2D([], [], color=figures.COLOURS[arm], lw=1.6, label=figures.LABELS[arm]) for arm in ARMS]
    handles += [
        Line2D([], [], color=figures.MUTED, ls=dashes, lw=1.6, label=f"{moment} training")
        for moment, dashes in MOMENTS.items()
    ]
    handles.append(Line2D([], [], color=figures.MUTED, lw=0.9, label="equation 3"))
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    rows = _rows(frames)
    fits = _fits(rows)
    alone, coupled = fits[fits["norm"] == "none"], fits[fits["norm"] == "batch"]
    at_papers_size = rows[(rows["norm"] == "batch") & (rows["batch_size"] == PAPERS_SIZE)]
    slopes = tuple(effects.arms(_at(fits, setting), "slope", f"slope, {_told(setting)}") for setting in SETTINGS)
    return {
        "5": _judged(_of(alone, "slope"), low=-1.1, high=-0.9),
        "5-constant": _judged(_of(alone, "over_law"), low=0.8, high=1.25),
        "5-bn": replace(_judged(_of(coupled, "slope"), low=-1.1, high=-0.9), arms=slopes),
        "5-bias": _judged(_of(at_papers_size, "bias_percent"), low=-math.inf, high=10.0, unit=" %"),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    rows = _rows(frames)
    fits, at_papers_size = _fits(rows), rows[rows["batch_size"] == PAPERS_SIZE]
    lines = []
    for table, column, label, paper in (
        (fits, "slope", "slope in the mini-batch size", f"{MINUS}1"),
        (fits, "over_law", "noise over equation 3", "1 (at most)"),
        (at_papers_size, "relative", f"noise over the gradient's square, mini-batches of {PAPERS_SIZE}", DASH),
        (at_papers_size, "bias_percent", f"bias, part of the noise, mini-batches of {PAPERS_SIZE} (%)", "0"),
    ):
        of = {arm: _of(table[table["norm"] == arm], column) for arm in ARMS}
        for setting in SETTINGS:
            lines.append(Comparison(f"{label}, {_told(setting)}", paper, paper, *(str(of[a][setting]) for a in ARMS)))
    return lines


def _rows(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What was measured, with: moment; law (equation 3, without BN); variance; relative (to the gradient's square);
    bias_percent (of the mean squared deviation)."""
    rows = frames["gradient_noise"]
    rows = rows[(rows["num_draws"] > 0) & rows["network"].isin(NETWORKS)].copy()
    rows["moment"] = np.where(rows["step"] == 0, "before", "after")
    key = ["norm", "network", "seed", "moment"]
    single = rows.loc[rows["batch_size"] == 1, [*key, "mean_squared_deviation"]]
    rows = rows.merge(single.rename(columns={"mean_squared_deviation": "constant"}), on=key, how="left")
    size, num_examples = rows["batch_size"], rows["num_examples"]
    rows["law"] = rows["constant"] * (num_examples - size) / (size * (num_examples - 1))
    rows["variance"] = rows["mean_squared_deviation"] - rows["bias_squared"]
    rows["relative"] = rows["mean_squared_deviation"] / rows["gradient_squared"]
    rows["bias_percent"] = 100 * rows["bias_squared"] / rows["mean_squared_deviation"]
    return rows


def _fits(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a run and moment: slope in the size (of the variance with BN), and the noise over equation 3."""
    found = []
    for (norm, network, seed, moment), part in rows[rows["batch_size"] > 1].groupby(
        ["norm", "network", "seed", "moment"]
    ):
        noise = part["variance" if norm == "batch" else "mean_squared_deviation"]
        with np.errstate(divide="ignore", invalid="ignore"):  # a network without gradients has none
            over_law = float(np.exp(np.log(noise / part["law"]).mean()))
        found.append((norm, network, seed, moment, _slope(part["batch_size"], noise), over_law))
    return pd.DataFrame(found, columns=["norm", "network", "seed", "moment", "slope", "over_law"])


def _slope(size: pd.Series, noise: pd.Series) -> float:
    """Of ln noise in ln size, by least squares; NaN where there is none."""
    if len(size) < 2 or not (np.isfinite(noise) & (noise > 0)).all():
        return math.nan
    return float(np.polyfit(np.log(size), np.log(noise), 1)[0])


def _of(table: pd.DataFrame, column: str) -> dict[tuple[str, str], Spread]:
    return {setting: spread(_at(table, setting)[column]) for setting in SETTINGS}


def _at(table: pd.DataFrame, setting: tuple[str, str]) -> pd.DataFrame:
    network, moment = setting
    return table[(table["network"] == network) & (table["moment"] == moment)]


def _judged(of: Mapping[tuple[str, str], Spread], *, low: float, high: float, unit: str = "") -> Evidence:
    """Whether the medians of all settings, or of some, lie between `low` and `high`."""
    inside = [low <= each.median <= high for each in of.values()]
    n = min(each.n for each in of.values())
    return Evidence(
        measured="; ".join(f"{_told(setting)} {number(each.median)}{unit}" for setting, each in of.items()),
        spread="; ".join(f"{each.range}{unit}" for each in of.values()),
        n=n,
        verdict=judge(n, whole=all(inside), part=any(inside)),
    )


def _told(setting: tuple[str, str]) -> str:
    network, moment = setting
    return f"{NETWORKS[network]} {moment}"


def _noise(ax: Axes, rows: pd.DataFrame) -> None:
    for moment, dashes in MOMENTS.items():
        part = rows[rows["moment"] == moment]
        for arm, of_arm in arms(part).items():
            figures.band(ax, over_seeds(of_arm, ["batch_size"], "relative"), "batch_size", arm, label="", ls=dashes)
        law = over_seeds(part.assign(law=part["law"] / part["gradient_squared"]), ["batch_size"], "law")
        ax.plot(law["batch_size"], law["median"], color=figures.MUTED, lw=0.9, zorder=5)
    ax.set_yscale("log")
    _sizes(ax, rows)
    ax.set_ylabel("mean squared deviation\n/ square of the whole gradient")


def _slopes(ax: Axes, fits: pd.DataFrame) -> None:
    ax.axhspan(-1.1, -0.9, color=figures.FAINT, alpha=0.6, lw=0, zorder=0)
    ax.axhline(-1, color=figures.MUTED, lw=0.9, zorder=1)
    for position, (network, moment) in enumerate(SETTINGS):
        part = fits[(fits["network"] == network) & (fits["moment"] == moment)]
        for arm, shift in zip(ARMS, (-0.18, 0.18), strict=True):
            figures.seeds(ax, position + shift, part.loc[part["norm"] == arm, "slope"], arm)
    ax.set_xticks(range(len(SETTINGS)), [_told(setting).replace(" ", "\n") for setting in SETTINGS])
    ax.set_xlim(-0.5, len(SETTINGS) - 0.5)
    ax.set_ylabel("slope of ln noise in ln mini-batch size")
    ax.grid(False, axis="x")


def _bias(ax: Axes, rows: pd.DataFrame) -> None:
    ax.axhline(0, color=figures.MUTED, lw=0.9, zorder=1)
    rows = rows[rows["batch_size"] > 1]
    for (network, moment), marker in zip(SETTINGS, "osD^", strict=True):
        part = rows[(rows["network"] == network) & (rows["moment"] == moment)]
        for arm, of_arm in arms(part).items():
            lines = over_seeds(of_arm, ["batch_size"], "bias_percent")
            figures.band(
                ax, lines, "batch_size", arm, label="", ls=MOMENTS[moment], marker=marker, ms=3.6, lw=1.1, mew=0
            )
        ax.plot([], [], marker, color=figures.MUTED, ms=4, mew=0, label=_told((network, moment)))
    _sizes(ax, rows)
    ax.set_ylabel("bias² / mean squared deviation (%)")
    ax.legend(loc="upper right")


def _sizes(ax: Axes, rows: pd.DataFrame) -> None:
    ax.set_xscale("log", base=2)
    sizes = sorted(rows["batch_size"].unique())
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel("size of the mini-batch")
