"""Moments of the activations grow with depth without BN, already at initialisation (Bjorck et al. 2018, Figure 5)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import figures
from bnstudy.effects import Arms
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import ARMS, DASH, MINUS, arms, over_seeds, spread

# The published layers 6, 18, 30, ... are first convolutions of a block, and the paper does not say which activation it
# takes there. Figure and verdicts read the output of the block that contains layer L (weight layer L + 1). Its input
# (L - 1) lies nearer to the published BN points where a stage begins: the table of numbers shows both.
BLOCK_OUTPUT, BLOCK_INPUT = +1, -1
LAYERS = (6, 18, 30, 42, 54, 66, 78, 90, 102)
CLASSIFIER = 110

TITLE = "Channel moments by depth at initialisation"
CAPTION = (
    "Natural logarithm of the standard deviation (a) and of the absolute mean (b) of every channel of the block "
    "outputs (after the addition and ReLU), over batch and space, averaged over channels; line: median over seeds, "
    "band: range. At layer L stands the output of the block that contains it. Round dots at layer 110: the "
    "classifier's outputs, one a seed. Hollow diamonds with bars: read off the published figure. Vertical lines: "
    "first layers of the second and third stage. (c) The published points of (a) against our medians, read as standard "
    "deviations (filled) and as variances, whose logarithms are twice as large (hollow): on the line where they agree."
)
SWEEP = "init"
NEEDS = {"activation_moments": "step == 0 and site == 'activation' and run_depth == 110"}
PUBLISHED = "fig5"
SIZE = (12.6, 4.1)
_PUBLISHED_SHAPE = f"ln std without BN from {MINUS}1.25 at layer 6 to 3.03 at layer 102; with BN between 0.00 and 0.98"
CLAIMS = (
    Claim(
        id="9",
        origin="paper",
        where="Section 3.1, Figure 5",
        scale="init",
        says="Without BN the moments grow with depth already at initialisation; with BN they stay bounded and fall "
        "back at every stage.",
        criterion="Of ln std averaged over channels, medians over seeds: without BN the rise from layer 6 to 102 is "
        "at least 3 (a factor of 20); with BN the nine published layers lie within 1.5 of each other; and with BN "
        "layers 42 and 78, first of their stages, are within 0.25 of layer 6. All three: reproduced. The first two: "
        "partly.",
        published=_PUBLISHED_SHAPE,
    ),
    Claim(
        id="9-levels",
        origin="paper",
        where="Section 3.1, Figure 5",
        scale="init",
        says="The standard deviations have the published values: layer by layer with BN, within the seeds' range "
        "without.",
        criterion="With BN, median ln std at the nine layers is within 0.2 of the published point; without BN the "
        "published point lies within our range over seeds widened by 0.5. Both at all nine: reproduced. With BN at "
        "all nine: partly.",
        published="nine points an arm",
    ),
    Claim(
        id="9-means",
        origin="paper",
        where="Section 3.1, Figure 5",
        scale="init",
        says="The absolute means have the published values with BN.",
        criterion="Median ln |mean| is within 0.3 of the published point at all nine layers (reproduced), at five "
        "or more (partly).",
        published="ten points, as in the table; which statistic is meant is not stated",
    ),
    Claim(
        id="9-reading",
        where="Section 3.1, Figure 5",
        scale="init",
        says="The published magnitudes are standard deviations, not variances.",
        criterion="Root mean square difference over the nine layers of the published points from our medians over "
        "seeds: from ln std at most half of that from ln variance. In both arms: reproduced; in one: partly. (Laid "
        "down after 9-levels was measured.)",
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
            figures.band(
                ax, over_seeds(blocks, ["layer"], statistic), "layer", arm, label=f"{figures.LABELS[arm]}, ours"
            )
            end = part[part["layer"] == CLASSIFIER]
            ax.plot(
                end["layer"], end[statistic], "o", color=figures.COLOURS[arm], ms=3.2, mew=0, alpha=0.8, clip_on=False
            )
            seen = published[(published["norm"] == arm) & (published["statistic"] == statistic)]
            label_seen = f"{figures.LABELS[arm]}, published"
            figures.diamonds(ax, seen["layer"], seen["ln_value"], arm, errors=_bars(seen), label=label_seen)
        for (first, last_layer), width in zip(figures.STAGES, (16, 32, 64), strict=True):
            ax.text((first + last_layer) / 2, 0.015, f"{width} channels", transform=ax.get_xaxis_transform(),
                    ha="center", va="bottom", fontsize=7, color=figures.MUTED)  # fmt: skip
        ax.set_ylabel(f"{label}, averaged over channels")
        figures.panel(ax, letter, "standard deviation by depth" if statistic == "std" else "absolute mean by depth")
        figures.stages(ax)
        ax.set_xticks([*LAYERS, CLASSIFIER])
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.06 * (high - low), high)
        outputs = figures.entry("classifier's outputs, ours", "o", ms=3.2, mew=0)
        ax.legend(handles=[*ax.get_legend_handles_labels()[0], outputs], loc="upper left")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    logs = _logs(frames["activation_moments"])
    ours = {arm: _at_layers(logs, arm, "std") for arm in ARMS}
    seen = {arm: _published(frames["published"], arm, "std")[list(LAYERS)] for arm in ARMS}
    n = min(len(ours[arm]) for arm in ARMS)
    rises = {arm: ours[arm][102] - ours[arm][6] for arm in ARMS}
    rise = {arm: spread(rises[arm]) for arm in ARMS}
    level = {arm: ours[arm].median() for arm in ARMS}
    extent = float(level["batch"].max() - level["batch"].min())
    back = float(max(abs(level["batch"][42] - level["batch"][6]), abs(level["batch"][78] - level["batch"][6])))
    grows, bounded, resets = rise["none"].median >= 3, extent < 1.5, back < 0.25
    shape = Evidence(
        measured=f"rise of ln std {rise['none'].median:.2f} without BN; with BN all within {extent:.2f}, back to "
        f"{back:.2f} of layer 6",
        spread=f"rise {_two(rise['none'].low)} to {_two(rise['none'].high)} without BN, {_two(rise['batch'].low)} "
        f"to {_two(rise['batch'].high)} with BN",
        n=n,
        verdict=judge(n, whole=grows and bounded and resets, part=grows and bounded),
        arms=Arms("rise of ln std", tuple(rises["batch"].dropna()), tuple(rises["none"].dropna())),
    )
    off = (level["batch"] - seen["batch"]).abs()
    inside = (ours["none"].min() - 0.5 <= seen["none"]) & (seen["none"] <= ours["none"].max() + 0.5)
    levels = Evidence(
        measured=f"with BN {int((off <= 0.2).sum())} of 9 within 0.2 ({_largest(off)}); without BN "
        f"{int(inside.sum())} of 9 inside",
        spread=f"without BN, layer 102: {_two(ours['none'][102].min())} to {_two(ours['none'][102].max())}",
        n=n,
        verdict=judge(n, whole=bool((off <= 0.2).all() and inside.all()), part=bool((off <= 0.2).all())),
    )
    means = _at_layers(logs, "batch", "mean")
    apart = (means.median() - _published(frames["published"], "batch", "mean")[list(LAYERS)]).abs()
    near = int((apart <= 0.3).sum())
    of_means = Evidence(
        measured=f"{near} of 9 within 0.3; {_largest(apart)}",
        spread=f"range over seeds at a layer at most {(means.max() - means.min()).max():.2f}",
        n=len(means),
        verdict=judge(len(means), whole=near == 9, part=near >= 5),
    )
    std, variance = _distances(logs, frames["published"])
    fits = [std[arm] <= variance[arm] / 2 for arm in ARMS]
    reading = Evidence(
        measured=f"from ln std {_two(std['batch'])} with BN, {_two(std['none'])} without; from ln variance "
        f"{_two(variance['batch'])} and {_two(variance['none'])}",
        spread=DASH,
        n=n,
        verdict=judge(n, whole=all(fits), part=any(fits)),
    )
    return {"9": shape, "9-levels": levels, "9-means": of_means, "9-reading": reading}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    published = frames["published"]
    rows = []
    readings = (("std", "ln std", BLOCK_OUTPUT), ("std", "ln std, block's input", BLOCK_INPUT))
    for statistic, label, offset in (*readings, ("mean", "ln |mean|", BLOCK_OUTPUT)):
        logs = _logs(frames["activation_moments"], offset)
        for layer in (*LAYERS, CLASSIFIER):
            seen = [_two(_published(published, arm, statistic)[layer]) for arm in ARMS]
            ours = [logs[(logs["norm"] == arm) & (logs["layer"] == layer)][statistic] for arm in ARMS]
            told = [f"{_two(s.median())} [{_two(s.min())} to {_two(s.max())}]" if len(s) else DASH for s in ours]
            name = "classifier" if layer == CLASSIFIER else f"layer {layer}"
            rows.append(Comparison(f"{label}, {name}", seen[0], seen[1], told[0], told[1]))
    return rows


def _distances(logs: pd.DataFrame, published: pd.DataFrame) -> tuple[dict[str, float], dict[str, float]]:
    """By arm, how far the published points are from our medians of ln std, and of ln variance: root mean squares."""
    std, variance = {}, {}
    for arm in ARMS:
        ours, seen = _at_layers(logs, arm, "std").median(), _published(published, arm, "std")[list(LAYERS)]
        std[arm] = float(((ours - seen) ** 2).mean() ** 0.5)
        variance[arm] = float(((2 * ours - seen) ** 2).mean() ** 0.5)  # ln of a variance is twice ln of its root
    return std, variance


def _readings(ax: Axes, logs: pd.DataFrame, published: pd.DataFrame) -> None:
    for arm in ARMS:
        ours, seen = _at_layers(logs, arm, "std").median(), _published(published, arm, "std")[list(LAYERS)]
        ax.plot(2 * ours, seen, "o", color=figures.COLOURS[arm], ms=4.2, mfc="white", mew=1.0)
        ax.plot(ours, seen, "o", color=figures.COLOURS[arm], ms=4.2, mew=0)
    ax.axline((0, 0), slope=1, color=figures.MUTED, lw=0.9, ls=figures.DASHED, label="where they agree")
    ax.plot([], [], "o", color=figures.MUTED, ms=4.2, mew=0, label="ours: standard deviation")
    ax.plot([], [], "o", color=figures.MUTED, ms=4.2, mfc="white", label="ours: variance")
    ax.set_xlabel("ln of ours, median over seeds")
    ax.set_ylabel("published points of (a): ln of a magnitude")
    ax.legend(loc="lower right")


def _logs(moments: pd.DataFrame, offset: int = BLOCK_OUTPUT) -> pd.DataFrame:
    """One row a run and layer (the paper's number): ln std and ln |mean|, each averaged over channels.

    Channels that are constant on the batch (dead after ReLU) have no logarithm and are left out of the average.
    """
    kept = moments[moments["block_output"] | (moments["depth"] == CLASSIFIER)]
    with np.errstate(divide="ignore"):
        std, mean = 0.5 * np.log(kept["variance"]), np.log(kept["mean"].abs())
    logs = kept.assign(std=std.where(np.isfinite(std)), ln_mean=mean.where(np.isfinite(mean)))
    layer = logs["depth"].where(logs["depth"] == CLASSIFIER, logs["depth"] - offset)
    averaged = (
        logs.assign(layer=layer.astype(int)).groupby(["run_id", "norm", "seed", "layer"])[["std", "ln_mean"]].mean()
    )
    return averaged.rename(columns={"ln_mean": "mean"}).reset_index()


def _at_layers(logs: pd.DataFrame, arm: str, statistic: str) -> pd.DataFrame:
    """One row a seed, one column a published layer."""
    wide = logs[logs["norm"] == arm].pivot(index="seed", columns="layer", values=statistic)
    return wide.reindex(columns=list(LAYERS))


def _published(published: pd.DataFrame, arm: str, statistic: str) -> pd.Series:
    """By layer."""
    rows = published[(published["norm"] == arm) & (published["statistic"] == statistic)]
    return rows.set_index("layer")["ln_value"]


def _bars(seen: pd.DataFrame) -> np.ndarray:
    """Lengths below and above the points. The published bars are symmetric: a hidden end is mirrored from the other."""
    below, above = (seen["ln_value"] - seen["ln_low"]).to_numpy(), (seen["ln_high"] - seen["ln_value"]).to_numpy()
    below, above = np.where(np.isnan(below), above, below), np.where(np.isnan(above), below, above)
    return np.nan_to_num(np.stack([below, above]))


def _largest(differences: pd.Series) -> str:
    if differences.isna().all():
        return "no run"
    return f"largest difference {differences.max():.2f} at layer {differences.idxmax()}"


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)
