"""The noise of an SGD step against the mini-batch size, with BN and without (Bjorck et al. 2018, equation 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, MINUS, Spread, arms, spread
from bnstudy.analysis.stats import Scale

NETWORKS = {"resnet20": "ResNet-20", "mlp": "perceptron"}
MOMENTS = {"before": "-", "after": (0, (4, 1.6))}  # training
SETTINGS = tuple((network, moment) for network in NETWORKS for moment in MOMENTS)
PAPERS_SIZE = 128  # of the mini-batches it trains with

TITLE = "The noise of mini-batch gradients by the size of the mini-batch"
LAW = f"C(N {MINUS} b)/(b(N {MINUS} 1))"  # equation 3 without replacement
CAPTION = (
    "Gradients in all parameters at the same weights, of mini-batches drawn without replacement from N = 5,120 images, "
    "before training and after one epoch. (a, b) Mean squared distance from the gradient of all images, divided "
    f"by that gradient's square; broad grey line: equation 3, {LAW}, with C the mean over 1,024 single examples. "
    "Geometric mean (line) and 95 % interval (bar). (c) Slopes on log axes over mini-batches of 4 to 128; one dot a "
    f"seed, bar: mean with 95 % interval, grey: {MINUS}1 ± 0.1. With BN a single example has no gradient, the whole "
    "set's is the mean of mini-batches of 512, and the slope is of the variance around the mean over mini-batches of "
    "the same size. (d, e) How much of the mean squared distance is due to that mean: how far it is from the gradient "
    "of mini-batches of 512 of the same images; an estimate without bias, which chance can take below 0. A step is the "
    "learning rate times the gradient, so that its noise has slope 2 in the rate: an identity, not measured."
)
SWEEP = "gradient_noise"
NEEDS = {"gradient_noise": None}
SIZE = (10.4, 7.0)
LIMITS: dict[str, tuple[str, str, float | None, float | None, Scale, str]] = {  # claim: quantity, arm, bounds, scale
    "5": ("slope of the noise in the mini-batch size, without BN", "none", -1.1, -0.9, Scale.plain, ""),
    "5-constant": ("noise over equation 3, without BN", "none", 0.8, 1.25, Scale.log, ""),
    "5-bn": ("slope of the variance in the mini-batch size, with BN", "batch", -1.1, -0.9, Scale.plain, ""),
    "5-bias": ("squared bias at mini-batches of 128, with BN", "batch", None, 10.0, Scale.plain, "% of the deviation"),
}


def _parts(claim: str) -> dict[tuple[str, str], Part]:
    """By network and moment."""
    of, _, low, high, scale, unit = LIMITS[claim]
    return {
        (network, moment): Part(of, above=low, below=high, scale=scale, unit=unit, at=f"{label} {moment} training")
        for network, label in NETWORKS.items() for moment in MOMENTS
    }  # fmt: skip


CLAIMS = (
    Claim(
        id="5",
        origin="paper",
        where="Section 2.1, equation 3",
        scale="reduced",
        says="The noise of an SGD step grows with the square of the learning rate and falls with the mini-batch size.",
        calibrated="true by construction: both slopes are identities without BN, and this a check of the code",
        criterion=Criterion(
            tuple(_parts("5").values()), partial=1, remark="On log axes; that in the rate is 2 always."
        ),
        published=f"slopes 2 and {MINUS}1 (a bound; equality without replacement up to (N {MINUS} b)/(N {MINUS} 1))",
    ),
    Claim(
        id="5-constant",
        origin="paper",
        where="Section 2.1, equation 3",
        scale="reduced",
        says="The constant is how far the gradients of single examples are from their mean.",
        calibrated="true by construction: an identity without BN, and this a check of the code",
        criterion=Criterion(tuple(_parts("5-constant").values()), partial=1, remark="Geometric mean over the sizes."),
        published=f"C = E|grad l_i {MINUS} grad l|² (a bound)",
    ),
    Claim(
        id="5-bn",
        where="Section 2.1, equation 3, where it does not hold by itself",
        scale="reduced",
        says="With BN, where a single example has no gradient of its own, the noise falls with the size just so.",
        criterion=Criterion(tuple(_parts("5-bn").values()), partial=1, remark="On log axes."),
        published="not told apart",
    ),
    Claim(
        id="5-bias",
        where="Section 2.1, equation 2, where it does not hold by itself",
        scale="reduced",
        says="With BN, too, the mean over mini-batches is nearly the large mini-batch's gradient.",
        criterion=Criterion(tuple(_parts("5-bias").values()), partial=1),
        published="zero mean (for networks without BN an identity)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = _rows(frames)
    panels = fig.subplot_mosaic([list("aabb"), list("ccde")])
    for letter, (network, label) in zip("ab", NETWORKS.items(), strict=True):
        _noise(panels[letter], rows[rows["network"] == network])
        figures.panel(panels[letter], letter, f"{label}: noise")
    _slopes(panels["c"], _fits(rows))
    figures.panel(panels["c"], "c", "slopes")
    for letter, (network, label) in zip("de", NETWORKS.items(), strict=True):
        _bias(panels[letter], rows[rows["network"] == network])
        figures.panel(panels[letter], letter, f"{label}: bias")
    panels["d"].set_ylabel("bias² / mean squared deviation (%)")
    handles = figures.arm_entries(arms(rows), lw=1.6)
    handles += [
        Line2D([], [], color=figures.MUTED, ls=dashes, lw=1.6, label=f"{moment} training")
        for moment, dashes in MOMENTS.items()
    ]
    handles.append(Line2D([], [], color=figures.FAINT, lw=5, label="equation 3"))
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = _rows(frames)
    fits, biases = _fits(rows), rows[rows["batch_size"] == PAPERS_SIZE]
    columns = {"5": (fits, "slope"), "5-constant": (fits, "over_law"), "5-bn": (fits, "slope"),
               "5-bias": (biases, "bias_percent")}  # fmt: skip
    samples = {}
    for claim, (table, column) in columns.items():
        arm = table[table["norm"] == LIMITS[claim][1]]
        samples[claim] = {
            part.key: criteria.single(_at(arm, setting).set_index("seed")[column])
            for setting, part in _parts(claim).items()
        }
    return samples


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
    """One row per run and moment: slope in the size (of the variance with BN), and the noise over equation 3."""
    lines = []
    for (norm, network, seed, moment), part in rows[rows["batch_size"] > 1].groupby(
        ["norm", "network", "seed", "moment"]
    ):
        noise = part["variance" if norm == "batch" else "mean_squared_deviation"]
        with np.errstate(divide="ignore", invalid="ignore"):  # a network without gradients has none
            over_law = float(np.exp(np.log(noise / part["law"]).mean()))
        lines.append((norm, network, seed, moment, _slope(part["batch_size"], noise), over_law))
    return pd.DataFrame(lines, columns=["norm", "network", "seed", "moment", "slope", "over_law"])


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


def _told(setting: tuple[str, str]) -> str:
    network, moment = setting
    return f"{NETWORKS[network]} {moment}"


def _noise(ax: Axes, rows: pd.DataFrame) -> None:
    for moment, dashes in MOMENTS.items():
        part = rows[rows["moment"] == moment]
        for arm, of_arm in arms(part).items():
            rows_of = stats.over_seeds(of_arm, ["batch_size"], "relative", Scale.log)
            factor = 0.93 if arm == "batch" else 1  # without BN they are to stand on equation 3
            figures.whiskers(ax, rows_of, "batch_size", arm, label="", factor=factor, ls=dashes, lw=1.2, ms=3)
        law = part.assign(law=part["law"] / part["gradient_squared"]).dropna(subset="law")
        law = stats.over_seeds(law, ["batch_size"], "law", Scale.log)
        ax.plot(law["batch_size"], law["mean"], color=figures.FAINT, lw=5, zorder=1, solid_capstyle="butt")
    ax.set_yscale("log")
    _sizes(ax, rows)
    ax.set_ylabel("mean squared deviation\n/ square of the whole gradient")


def _slopes(ax: Axes, fits: pd.DataFrame) -> None:
    ax.axhspan(-1.1, -0.9, color=figures.FAINT, alpha=0.6, lw=0, zorder=0)
    ax.axhline(-1, color=figures.MUTED, lw=0.9, zorder=1)
    for position, (network, moment) in enumerate(SETTINGS):
        part = fits[(fits["network"] == network) & (fits["moment"] == moment)]
        for arm, shift in zip(ARMS, (-0.18, 0.18), strict=True):
            figures.seeds(ax, position + shift, part.loc[part["norm"] == arm, "slope"], arm,
                          scale=Scale.plain)  # fmt: skip
    ax.set_xticks(range(len(SETTINGS)), [_told(setting).replace(" ", "\n") for setting in SETTINGS])
    ax.set_xlim(-0.5, len(SETTINGS) - 0.5)
    ax.set_ylabel("slope of ln noise in ln mini-batch size")
    ax.grid(False, axis="x")


def _bias(ax: Axes, rows: pd.DataFrame) -> None:
    ax.axhline(0, color=figures.MUTED, lw=0.9, zorder=1)
    rows = rows[rows["batch_size"] > 1]
    for place, (moment, dashes) in enumerate(MOMENTS.items()):
        for arm, part in arms(rows[rows["moment"] == moment]).items():
            lines = stats.over_seeds(part, ["batch_size"], "bias_percent")
            factor = 1 + 0.08 * (place - 0.5)
            figures.whiskers(ax, lines, "batch_size", arm, label="", factor=factor, ls=dashes, ms=3, lw=1.1)
    _sizes(ax, rows)


def _sizes(ax: Axes, rows: pd.DataFrame) -> None:
    ax.set_xscale("log", base=2)
    sizes = sorted(rows["batch_size"].unique())
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel("size of the mini-batch")
