"""Moments of the activations grow with depth without BN, already at initialisation (Bjorck et al. 2018, Figure 5)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, MINUS, arms
from bnstudy.analysis.stats import Scale

# The published layers 6, 18, 30, ... are first convolutions of a block, and the paper does not say which activation it
# takes there. Figure and verdicts read the output of the block that contains layer L (weight layer L + 1). Its input
# (L - 1) lies nearer to the published BN points where a stage begins: the table of numbers shows both.
BLOCK_OUTPUT, BLOCK_INPUT = +1, -1
LAYERS = (6, 18, 30, 42, 54, 66, 78, 90, 102)
CLASSIFIER = 110

RISE = Part("rise of ln std from layer 6 to 102 without BN", above=3)
STRAIGHT = Part("share of the variance of ln std that a straight line in depth explains without BN", above=0.9,
                scale=Scale.logit)  # fmt: skip
SLOPE = Part("rise of ln rms over that of mean-field theory without BN", above=0.9, below=1.1)
EXTENT = Part("largest less smallest ln std of the nine layers with BN", below=1.5)
BACK = {
    layer: Part("difference of ln std from layer 6 with BN", above=-0.25, below=0.25, at=f"layer {layer}")
    for layer in (42, 78)
}
OFF = {
    (arm, layer): Part(f"ln std less the published one {'with' if arm == 'batch' else 'without'} BN", above=-margin,
                       below=margin, at=f"layer {layer}")
    for arm, margin in (("batch", 0.2), ("none", 0.5)) for layer in LAYERS
}  # fmt: skip
MEANS = {layer: Part("ln |mean| less the published one with BN", above=-0.3, below=0.3, at=f"layer {layer}") for layer
         in LAYERS}  # fmt: skip
READING = {
    arm: Part(f"distance from ln std over that from ln variance {'with' if arm == 'batch' else 'without'} BN",
              below=0.5)
    for arm in ARMS
}  # fmt: skip
CALIBRATED = "Figure 5: the configuration was chosen by it"

TITLE = "Channel moments by depth at initialisation"
CAPTION = (
    "Natural logarithm of the standard deviation (a) and of the absolute mean (b) of every channel of the block "
    "outputs (after the addition and ReLU), over batch and space, averaged over channels; line: mean over seeds, band: "
    "95 % interval, thin lines: seeds. At layer L stands the output of the block that contains it. Round dots at layer "
    "110: the classifier's outputs, one a seed. Hollow diamonds with bars: read off the published figure. Vertical "
    "lines: first layers of the second and third stage. Dashed: mean-field theory (infinitely wide, from our layer 6 "
    "on), for the root mean square (rms) of all outputs of a block, ours dotted. (c) The published points of (a) "
    "against our means, read as standard deviations (filled) and as variances, whose logarithms are twice as large "
    "(hollow): on the line where they agree."
)
SWEEP = "init"
NEEDS = {"activation_moments": "step == 0 and site == 'activation' and run_depth == 110"}
PUBLISHED = "fig5"
SIZE = (12.6, 4.4)
_PUBLISHED_SHAPE = f"ln std without BN from {MINUS}1.25 at layer 6 to 3.03 at layer 102; with BN between 0.00 and 0.98"
CLAIMS = (
    Claim(
        id="9",
        origin="paper",
        calibrated=CALIBRATED,
        where="Section 3.1, Figure 5",
        scale="init",
        says="Without BN the moments grow with depth already at initialisation; with BN they stay bounded and fall "
        "back at every stage.",
        criterion=Criterion((RISE, EXTENT, *BACK.values()), partial=(RISE, EXTENT)),
        published=_PUBLISHED_SHAPE,
    ),
    Claim(
        id="9-exponential",
        where="Section 3.1, Figure 5",
        scale="init",
        says="Without BN the growth is exponential in depth, as fast as mean-field theory says.",
        criterion=Criterion(
            (STRAIGHT, SLOPE),
            partial=1,
            remark="Over the nine layers. Theory: infinitely wide layers with Xavier's weights and zero padding; what "
            "it predicts, and what is set against it, is the root mean square over all channels. Laid down when the "
            "rise of five seeds was known; judged at first by ln std, averaged over channels.",
        ),
        published="4.28 from layer 6 to 102",
    ),
    Claim(
        id="9-levels",
        origin="paper",
        calibrated=CALIBRATED,
        where="Section 3.1, Figure 5",
        scale="init",
        says="The standard deviations have the published values, layer by layer, in both arms.",
        criterion=Criterion(
            tuple(OFF.values()), partial=tuple(part for (arm, _), part in OFF.items() if arm == "batch")
        ),
        published="nine points an arm",
    ),
    Claim(
        id="9-means",
        origin="paper",
        where="Section 3.1, Figure 5",
        scale="init",
        says="The absolute means have the published values with BN.",
        criterion=Criterion(tuple(MEANS.values()), partial=5),
        published="ten points, as in the table; which statistic is meant is not stated",
    ),
    Claim(
        id="9-reading",
        calibrated=CALIBRATED,
        where="Section 3.1, Figure 5",
        scale="init",
        says="The published magnitudes are standard deviations, not variances.",
        criterion=Criterion(
            tuple(READING.values()),
            partial=1,
            remark="Root mean square differences over the nine layers. Laid down after 9-levels was measured.",
        ),
        published="the axis reads Log [magnitude]; the text speaks of means and variances (recalled)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    logs = _logs(frames["activation_moments"])
    published = frames["published"]
    labels = (("std", "a", "ln standard deviation"), ("mean", "b", "ln |mean|"))
    *depths, last = fig.subplots(1, 3, width_ratios=(1.25, 1.25, 1))
    _readings(last, logs, published)
    figures.panel(last, "c", "standard deviations or variances?")
    for ax, (statistic, letter, label) in zip(depths, labels, strict=True):
        for arm, part in arms(logs).items():
            blocks = part[part["layer"] != CLASSIFIER]
            for _, line in blocks.groupby("seed"):
                ax.plot(line["layer"], line[statistic], color=figures.COLOURS[arm], lw=0.5, alpha=0.35)
            rows = stats.over_seeds(blocks, ["layer"], statistic)
            figures.band(ax, rows, "layer", arm)
            if (arm, statistic) == ("none", "std"):
                theory, rms = pd.Series(mean_field()), blocks.groupby("layer")["rms"].mean()
                ax.plot(rms.index, rms, color=figures.COLOURS[arm], lw=1.1, ls=":")
                if LAYERS[0] in rms.index:
                    ax.plot(theory.index, theory + rms[LAYERS[0]], color=figures.INK, lw=1, ls=figures.DASHED)
            end = part[part["layer"] == CLASSIFIER]
            ax.plot(
                end["layer"], end[statistic], "o", color=figures.COLOURS[arm], ms=3.2, mew=0, alpha=0.8, clip_on=False
            )
            paper = published[(published["norm"] == arm) & (published["statistic"] == statistic)]
            aside = paper["layer"] + {"batch": -0.9, "none": 0.9}.get(arm, 0)  # the bars of the arms cover each other
            figures.diamonds(ax, aside, paper["ln_value"], arm, errors=_bars(paper))
        for (first, last_layer), width in zip(figures.STAGES, (16, 32, 64), strict=True):
            ax.text((first + last_layer) / 2, 0.015, f"{width} channels", transform=ax.get_xaxis_transform(),
                    ha="center", va="bottom", fontsize=7, color=figures.MUTED)  # fmt: skip
        ax.set_ylabel(f"{label}, averaged over channels")
        figures.panel(ax, letter, "standard deviation by depth" if statistic == "std" else "absolute mean by depth")
        figures.stages(ax)
        ax.set_xticks([*LAYERS, CLASSIFIER])
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.06 * (high - low), high)
    handles = [
        *figures.arm_entries(arms(logs), lw=1.6),
        figures.entry("published (a, b)", "D", filled=False, ms=4.6),
        figures.entry("classifier's outputs, ours (a, b)", "o", ms=3.2, mew=0),
        figures.entry("ln rms without BN (a)", colour=figures.COLOURS["none"], ls=":", lw=1.1),
        figures.entry("of mean-field theory", colour=figures.INK, ls=figures.DASHED, lw=1),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    logs = _logs(frames["activation_moments"])
    ours = {arm: _at_layers(logs, arm, "std") for arm in ARMS}
    paper = {arm: _published(frames["published"], arm, "std")[list(LAYERS)] for arm in ARMS}
    with_bn, without = ours["batch"], ours["none"]
    rise = without[LAYERS[-1]] - without[LAYERS[0]]
    rms = _at_layers(logs, "none", "rms")
    grown = rms[LAYERS[-1]] - rms[LAYERS[0]]
    padded = bool(frames["activation_moments"].get("shortcut", pd.Series(dtype=str)).eq("identity").any())
    depth = np.array(LAYERS, dtype=float)
    explained = without.apply(lambda row: np.corrcoef(depth, row.to_numpy(dtype=float))[0, 1] ** 2, axis=1)
    values = {
        "9": {
            RISE.key: rise,
            EXTENT.key: with_bn.max(axis=1, skipna=False) - with_bn.min(axis=1, skipna=False),
            **{part.key: with_bn[layer] - with_bn[LAYERS[0]] for layer, part in BACK.items()},
        },
        "9-exponential": {STRAIGHT.key: explained, SLOPE.key: grown / mean_field(padded=padded)[LAYERS[-1]]},
        "9-levels": {part.key: ours[arm][layer] - paper[arm][layer] for (arm, layer), part in OFF.items()},
    }
    means = _at_layers(logs, "batch", "mean") - _published(frames["published"], "batch", "mean")[list(LAYERS)]
    values["9-means"] = {part.key: means[layer] for layer, part in MEANS.items()}
    values["9-reading"] = {part.key: _distances(ours[arm], paper[arm]) for arm, part in READING.items()}
    return {name: {key: criteria.single(of) for key, of in each.items()} for name, each in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    published = frames["published"]
    rows = []
    readings = (("std", "ln std", BLOCK_OUTPUT), ("std", "ln std, block's input", BLOCK_INPUT))
    for statistic, label, offset in (*readings, ("mean", "ln |mean|", BLOCK_OUTPUT)):
        logs = _logs(frames["activation_moments"], offset)
        for layer in (*LAYERS, CLASSIFIER):
            paper = [_two(_published(published, arm, statistic)[layer]) for arm in ARMS]
            ours = [logs[(logs["norm"] == arm) & (logs["layer"] == layer)][statistic] for arm in ARMS]
            cells = [f"{_two(s.median())} [{_two(s.min())} to {_two(s.max())}]" if len(s) else DASH for s in ours]
            name = "classifier" if layer == CLASSIFIER else f"layer {layer}"
            rows.append(Comparison(f"{label}, {name}", paper[0], paper[1], cells[0], cells[1]))
    return rows


@cache
def mean_field(num_units: int = 200_000, *, padded: bool = False) -> dict[int, float]:
    """ln of the root mean square of the block outputs, less that at layer 6, by published layer, without BN.

    Of infinitely wide layers: a unit is a sample from the distribution of the sum before a block's last ReLU. Xavier's
    weights have variance 2 / (fan_in + fan_out), so that a convolution between equal widths passes on the second moment
    of its input, c of it at an average position, as 3x3 kernels reach into the padding: c = ((3s - 2) / 3s)^2 for
    images of side s. A ReLU between two convolutions halves it: a block adds a normal variable of variance c^2 m / 2 to
    the sum x = relu(z), m being the second moment of x. Where a stage begins, fan_out is twice fan_in: convolution and
    projection pass on 2/3, and the projection's output is normal itself. `padded`: shortcuts have no weights (option
    A), and half of the units there have none.
    """
    draws = np.random.default_rng(0)
    units = np.maximum(draws.normal(size=num_units), 0)
    level = {}
    for (first, last), side in zip(figures.STAGES, (32, 16, 8), strict=True):
        c = ((3 * side - 2) / (3 * side)) ** 2
        for layer in range(first, last + 1, 2):
            second = float(np.mean(units**2))
            begins = layer == first and first != figures.STAGES[0][0]
            passed = 2 / 3 if begins else 1.0
            below = units
            if begins and padded:
                below = np.where(np.arange(num_units) % 2, units, 0)
            elif begins:
                below = draws.normal(size=num_units) * np.sqrt(passed * second)
            units = np.maximum(below + draws.normal(size=num_units) * np.sqrt(passed * c**2 * second / 2), 0)
            level[layer] = 0.5 * float(np.log(np.mean(units**2)))
    return {layer: value - level[LAYERS[0]] for layer, value in level.items() if layer >= LAYERS[0]}


def _distances(ours: pd.DataFrame, paper: pd.Series) -> pd.Series:
    """By seed: root mean square distance of the published points from ln std over that from ln variance."""
    std = ((ours - paper) ** 2).mean(axis=1, skipna=False) ** 0.5
    variance = ((2 * ours - paper) ** 2).mean(axis=1, skipna=False) ** 0.5  # ln of a variance: twice ln of its root
    return std / variance


def _readings(ax: Axes, logs: pd.DataFrame, published: pd.DataFrame) -> None:
    for arm in ARMS:
        ours, paper = _at_layers(logs, arm, "std").mean(), _published(published, arm, "std")[list(LAYERS)]
        ax.plot(2 * ours, paper, "o", color=figures.COLOURS[arm], ms=4.2, mfc="white", mew=1.0)
        ax.plot(ours, paper, "o", color=figures.COLOURS[arm], ms=4.2, mew=0)
    ax.axline((0, 0), slope=1, color=figures.MUTED, lw=0.9, ls=figures.DASHED, label="where they agree")
    ax.plot([], [], "o", color=figures.MUTED, ms=4.2, mew=0, label="ours: standard deviation")
    ax.plot([], [], "o", color=figures.MUTED, ms=4.2, mfc="white", label="ours: variance")
    ax.set_xlabel("ln of ours, mean over seeds")
    ax.set_ylabel("published points of (a): ln of a magnitude")
    ax.legend(loc="lower right")


def _logs(moments: pd.DataFrame, offset: int = BLOCK_OUTPUT) -> pd.DataFrame:
    """One row per run and layer (the paper's number): ln std and ln |mean|, each averaged over channels, and ln rms
    of all channels together.

    Channels that are constant on the batch (dead after ReLU) have no logarithm: the averages leave them out, rms
    does not.
    """
    shown = moments[moments["block_output"] | (moments["depth"] == CLASSIFIER)]
    with np.errstate(divide="ignore"):
        std, mean = 0.5 * np.log(shown["variance"]), np.log(shown["mean"].abs())
    second = shown["variance"] + shown["mean"] ** 2
    logs = shown.assign(std=std.where(np.isfinite(std)), ln_mean=mean.where(np.isfinite(mean)), second=second)
    layer = logs["depth"].where(logs["depth"] == CLASSIFIER, logs["depth"] - offset)
    keys = ["run_id", "norm", "seed", "layer"]
    averaged = logs.assign(layer=layer.astype(int)).groupby(keys)[["std", "ln_mean", "second"]].mean()
    averaged["rms"] = 0.5 * np.log(averaged.pop("second"))
    return averaged.rename(columns={"ln_mean": "mean"}).reset_index()


def _at_layers(logs: pd.DataFrame, arm: str, statistic: str) -> pd.DataFrame:
    """One row per seed, one column a published layer."""
    wide = logs[logs["norm"] == arm].pivot(index="seed", columns="layer", values=statistic)
    return wide.reindex(columns=list(LAYERS))


def _published(published: pd.DataFrame, arm: str, statistic: str) -> pd.Series:
    """By layer."""
    rows = published[(published["norm"] == arm) & (published["statistic"] == statistic)]
    return rows.set_index("layer")["ln_value"]


def _bars(paper: pd.DataFrame) -> np.ndarray:
    """Lengths below and above the points. The published bars are symmetric: a hidden end is mirrored from the other."""
    below, above = (paper["ln_value"] - paper["ln_low"]).to_numpy(), (paper["ln_high"] - paper["ln_value"]).to_numpy()
    below, above = np.where(np.isnan(below), above, below), np.where(np.isnan(above), below, above)
    return np.nan_to_num(np.stack([below, above]))


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)
