"""Without BN a kernel's gradient is one pattern over channel pairs (Bjorck et al. 2018, Figure 7, appendix G)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import effects, figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import ARMS, arms, by_arm, number, over_seeds, paired

LAYER = 45  # the paper's, counted from the stem
NO_STRUCTURE = 0.94  # rank-1 share where all kernel entries are independent and normal, see the probe
HEAT_MAP = "cividis"

TITLE = "Gradient between the input and output channels of a convolution at initialisation"
CAPTION = (
    "M(i, o) is the sum over the kernel's nine entries of the absolute gradient between input channel i and output "
    f"channel o. (a, b) Layer {LAYER}, first seed of each arm, divided by its mean; one colour scale, cut at its end. "
    "(c) Mean of M over the output channels, divided by its mean over all, against the mean activation of the input "
    f"channel (the output of layer {LAYER - 1}), likewise divided; one dot a channel, all seeds. (d) Share of M's sum "
    "of squares that its first singular pair holds, every convolution: 1 for a matrix of rank one; dashed: kernels of "
    "independent normal entries, which have no pattern at all. Median (line) and range over seeds (band). (e) Rank "
    "correlation of what (c) shows, one dot a seed; bar: median. The paper shows heat maps and no numbers."
)
SWEEP = "init"
NEEDS = {
    "channel_pair_gradients": "step == 0 and run_depth == 110",
    "activation_moments": f"step == 0 and site == 'activation' and depth == {LAYER - 1} and run_depth == 110",
}
SIZE = (10.4, 6.6)
CLAIMS = (
    Claim(
        id="13",
        origin="paper",
        where="Section 3.2, Figure 7",
        scale="init",
        says="Without BN the gradient between in- and out-channels is close to low rank.",
        criterion="Rank-1 share of the channel-pair matrix of layer 45: larger without BN in every pair of one seed.",
        published="shown as a heat map; no number",
    ),
    Claim(
        id="13-layers",
        where="Section 3.2, Figure 7",
        scale="init",
        says="The same holds at every depth, not only at layer 45.",
        criterion="Share of the 109 convolutions at which the rank-1 share is larger without BN in the median over "
        "the pairs of one seed: 0.9 or more reproduces, 0.75 or more does partly.",
        published="only layer 45 is shown",
    ),
    Claim(
        id="13-means",
        origin="paper",
        where="Appendix G",
        scale="init",
        says="Without BN, channels with a large mean have large gradients on the weights that leave them.",
        criterion="Spearman's correlation over the input channels of layer 45 between |mean activation| and mean "
        "|gradient| of the weights that leave the channel, without BN: at least 0.5 in the median over seeds and "
        "positive in every seed. Both: reproduced. At least 0.25 in the median: partly.",
        published="a relation is reported; its numbers are not known",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    panels = fig.subplot_mosaic([["a", "b", "c"], ["d", "d", "e"]], width_ratios=(1, 1, 1.05), height_ratios=(1.25, 1))
    pairs, channels = frames["channel_pair_gradients"], _channels(frames)
    _heat_maps(fig, panels["a"], panels["b"], pairs)
    _means(panels["c"], channels)
    ax = panels["d"]
    ax.axhline(NO_STRUCTURE, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)), label="no pattern")
    for arm, part in arms(_shares(pairs)).items():
        figures.band(ax, over_seeds(part, ["depth"], "value"), "depth", arm)
    figures.stages(ax)
    ax.set_ylim(top=1)
    ax.set_ylabel("rank-1 share")
    ax.legend(loc="lower right", ncols=3)
    figures.panel(ax, "d", "how much one pattern holds, by depth")
    ax = panels["e"]
    of = _correlations(channels)
    for position, arm in enumerate(ARMS):
        figures.seeds(ax, position, of[of["norm"] == arm]["spearman"], arm)
    ax.axhline(0, color=figures.MUTED, lw=0.9)
    ax.set_xticks(range(len(ARMS)), [figures.LABELS[arm] for arm in ARMS])
    ax.set_xlim(-0.6, len(ARMS) - 0.4)
    ax.set_ylim(min(-0.05, of["spearman"].min() - 0.1), 1.02)
    ax.grid(False, axis="x")
    ax.set_ylabel("Spearman's correlation")
    figures.panel(ax, "e", f"mean against gradient, layer {LAYER}")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    shares = _shares(frames["channel_pair_gradients"])
    here = shares[shares["depth"] == LAYER]
    wide, of = paired(here, "value"), by_arm(here, "value")
    higher = int((wide["none"] > wide["batch"]).sum())
    every = shares.pivot(index=["depth", "seed"], columns="norm", values="value").reindex(columns=list(ARMS)).dropna()
    medians = (every["none"] - every["batch"]).groupby("depth").median()
    holds = float((medians > 0).mean()) if len(medians) else float("nan")
    correlations = _correlations(_channels(frames))
    along = by_arm(correlations, "spearman")
    n = len(wide)
    return {
        "13": Evidence(
            measured=f"rank-1 share {number(of['none'].median)} without BN, {number(of['batch'].median)} with BN; "
            f"larger without BN in {higher} of {n} pairs",
            spread=f"{of['none'].range} without BN, {of['batch'].range} with BN",
            n=n,
            verdict=judge(n, whole=higher == n, part=False),
            arms=effects.arms(here, "value", "rank-1 share"),
        ),
        "13-layers": Evidence(
            measured=f"{100 * holds:.0f} % of the convolutions",
            spread=f"median difference by layer {number(medians.min())} to {number(medians.max())}",
            n=n,
            verdict=judge(n, whole=holds >= 0.9, part=holds >= 0.75),
        ),
        "13-means": Evidence(
            measured=f"{number(along['none'].median)} without BN, {number(along['batch'].median)} with BN",
            spread=f"{along['none'].range} without BN, {along['batch'].range} with BN",
            n=along["none"].n,
            verdict=judge(
                along["none"].n,
                whole=along["none"].median >= 0.5 and along["none"].low > 0,
                part=along["none"].median >= 0.25,
            ),
            arms=effects.arms(correlations, "spearman", "Spearman's correlation"),
        ),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    shares, channels = _shares(frames["channel_pair_gradients"]), _channels(frames)
    rows = []
    for layer in (18, LAYER, 90):
        ours = by_arm(shares[shares["depth"] == layer], "value")
        rows.append(Comparison(f"rank-1 share, layer {layer}", "", "", str(ours["batch"]), str(ours["none"])))
    of = _correlations(channels)
    for quantity, label in (("spearman", "Spearman"), ("pearson", "Pearson")):
        ours = by_arm(of, quantity)
        name = f"{label}, channel mean and gradient, layer {LAYER}"
        rows.append(Comparison(name, "", "", str(ours["batch"]), str(ours["none"])))
    return rows


def _heat_maps(fig: Figure, left: Axes, right: Axes, pairs: pd.DataFrame) -> None:
    shown = {arm: _first_seed(pairs, arm) for arm in ARMS}
    limit = max((np.quantile(matrix, 0.995) for matrix, _ in shown.values() if matrix is not None), default=1.0)
    image = None
    for ax, arm, letter in ((left, "none", "a"), (right, "batch", "b")):
        matrix, seed = shown[arm]
        whose = f" (seed {seed})" if matrix is not None else ", no run"
        figures.panel(ax, letter, f"layer {LAYER}, {figures.LABELS[arm]}{whose}")
        ax.grid(False)
        ax.set_xlabel("output channel")
        ax.set_ylabel("input channel")
        if matrix is not None:
            image = ax.imshow(matrix, aspect="auto", cmap=HEAT_MAP, vmin=0, vmax=limit, interpolation="nearest")
    if image is not None:
        bar = fig.colorbar(image, ax=[left, right], location="right", shrink=0.95, aspect=26, pad=0.015, extend="max")
        bar.set_label("|gradient| divided by its mean")
        bar.outline.set_visible(False)


def _means(ax: Axes, channels: pd.DataFrame) -> None:
    for arm, part in arms(channels).items():
        each = part.groupby("seed")[["mean", "gradient"]]
        relative = part[["mean", "gradient"]] / each.transform("mean")
        ax.plot(
            relative["mean"], relative["gradient"], "o", color=figures.COLOURS[arm], ms=3.2, mew=0, alpha=0.6,
            label=figures.LABELS[arm],
        )  # fmt: skip
    ax.set_xlabel("mean activation of the input channel")
    ax.set_ylabel("mean |gradient| of the weights that leave it")
    ax.legend(loc="upper left")
    figures.panel(ax, "c", f"layer {LAYER}, each divided by its mean")


def _shares(pairs: pd.DataFrame) -> pd.DataFrame:
    """One row a run and convolution."""
    return pairs[pairs["quantity"] == "rank1_share"]


def _matrices(pairs: pd.DataFrame) -> pd.DataFrame:
    return pairs[(pairs["quantity"] == "entry") & (pairs["depth"] == LAYER)]


def _first_seed(pairs: pd.DataFrame, arm: str) -> tuple[np.ndarray | None, int | None]:
    """M (input channel, output channel) of the arm's first seed, divided by its mean."""
    entries = _matrices(pairs)
    entries = entries[entries["norm"] == arm]
    if entries.empty:
        return None, None
    seed = int(entries["seed"].min())
    wide = entries[entries["seed"] == seed].pivot(index="in_channel", columns="out_channel", values="value")
    return (wide / wide.to_numpy().mean()).to_numpy(), seed


def _channels(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a run and input channel of the layer: |mean| of its activation, and `gradient`, the mean of M over o."""
    keys = ["norm", "seed", "channel"]
    entries = _matrices(frames["channel_pair_gradients"]).rename(columns={"in_channel": "channel"})
    gradient = entries.groupby(keys)["value"].mean().rename("gradient").reset_index()
    means = frames["activation_moments"][[*keys, "mean"]]
    return gradient.merge(means.assign(mean=means["mean"].abs()), on=keys, validate="one_to_one")


def _correlations(channels: pd.DataFrame) -> pd.DataFrame:
    """One row a run: correlation over channels of |mean| and gradient, of the values and of their ranks (Spearman)."""
    columns = ["norm", "seed", "spearman", "pearson"]
    rows = []
    for (norm, seed), part in channels.groupby(["norm", "seed"]):
        by = part[["mean", "gradient"]]
        rows.append((norm, seed, by.rank().corr().iloc[0, 1], by.corr().iloc[0, 1]))
    return pd.DataFrame(rows, columns=columns).astype({"spearman": float, "pearson": float})
