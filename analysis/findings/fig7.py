"""Without BN a kernel's gradient is one pattern over channel pairs (Bjorck et al. 2018, Figure 7, appendix G)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, arms, by_arm
from bnstudy.analysis.stats import Scale

LAYER = 45  # the paper's, counted from the stem
NO_STRUCTURE = 0.94  # rank-1 share where all kernel entries are independent and normal, see the probe
HEAT_MAP = "cividis"
REST = Part("what the first singular pair leaves, without BN over with BN", below=0.5, scale=Scale.log)
SHARE = Part("share of the convolutions at which it leaves less without BN", above=0.9)
SPEARMAN = Part("rank correlation of |mean activation| and mean |gradient| without BN", above=0.5)

TITLE = "Gradient between the input and output channels of a convolution at initialisation"
CAPTION = (
    "M(i, o) is the sum over the kernel's nine entries of the absolute gradient between input channel i and output "
    f"channel o. (a, b) Layer {LAYER}, first seed of each arm, divided by its mean; one colour scale, cut at its end. "
    "(c) Mean of M over the output channels, divided by its mean over all, against the mean activation of the input "
    f"channel (the output of layer {LAYER - 1}), likewise divided; one dot a channel, all seeds. (d) Share of M's sum "
    "of squares that its first singular pair leaves, every convolution: 0 for a matrix of rank one. Dashed: the null, "
    "what it leaves where all kernel entries are independent and normal: M is then nearly constant (each entry a sum "
    "of nine absolute values), so that one pair holds 94 % of it, although there is no pattern at all. Geometric mean "
    "(line) over seeds and 95 % interval (band). (e) Rank correlation of what (c) shows, one dot a seed; bar: mean "
    "with 95 % interval. The paper shows heat maps and no numbers."
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
        criterion=Criterion(
            (REST,),
            partial=(Part(REST.of, below=1.0, scale=Scale.log),),
            remark="Of the sum of squares of the channel-pair matrix of layer 45. With BN it leaves little, too, as it "
            "does of a matrix without a pattern: shares near 1 hide the difference. The bound was laid down when five "
            "seeds were known (0.998 and 0.923 in the first pair), before the other twenty-five.",
        ),
        published="shown as a heat map; no number",
    ),
    Claim(
        id="13-layers",
        where="Section 3.2, Figure 7",
        scale="init",
        says="The same holds at every depth, not only at layer 45.",
        criterion=Criterion((SHARE,), partial=(Part(SHARE.of, above=0.75),)),
        published="only layer 45 is shown",
    ),
    Claim(
        id="13-means",
        origin="paper",
        where="Appendix G",
        scale="init",
        says="Without BN, channels with a large mean have large gradients on the weights that leave them.",
        criterion=Criterion(
            (SPEARMAN,),
            partial=(Part(SPEARMAN.of, above=0.25),),
            remark="Over the input channels of layer 45, of the weights that leave the channel.",
        ),
        published="a relation is reported; its numbers are not known",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    panels = fig.subplot_mosaic([["a", "b", "c"], ["d", "d", "e"]], width_ratios=(1, 1, 1.05), height_ratios=(1.25, 1))
    pairs, channels = frames["channel_pair_gradients"], _channels(frames)
    _heat_maps(fig, panels["a"], panels["b"], pairs)
    _means(panels["c"], channels)
    ax = panels["d"]
    ax.axhline(1 - NO_STRUCTURE, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)), label="no pattern")
    for arm, part in arms(_shares(pairs)).items():
        figures.band(ax, stats.over_seeds(part, ["depth"], "rest", Scale.log), "depth", arm)
    figures.stages(ax)
    ax.set_yscale("log")
    figures.headroom(ax, 0.12)
    ax.set_ylabel("left by the first singular pair")
    ax.legend(loc="upper right", ncols=3)
    figures.panel(ax, "d", "how much one pattern leaves, by depth")
    ax = panels["e"]
    of = _correlations(channels)
    there = arms(of)
    for position, (arm, part) in enumerate(there.items()):
        figures.seeds(ax, position, part["spearman"], arm, scale=Scale.plain)
    ax.axhline(0, color=figures.MUTED, lw=0.9)
    ax.set_xticks(range(len(there)), [figures.LABELS[arm] for arm in there])
    ax.set_xlim(-0.6, len(there) - 0.4)
    ax.set_ylim(min(-0.05, of["spearman"].min() - 0.1), 1.02)
    ax.grid(False, axis="x")
    ax.set_ylabel("Spearman's correlation")
    figures.panel(ax, "e", f"mean against gradient, layer {LAYER}")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    shares = _shares(frames["channel_pair_gradients"])
    wide = shares.pivot(index=["depth", "seed"], columns="norm", values="rest").reindex(columns=list(ARMS)).dropna()
    correlations = _correlations(_channels(frames))
    along = correlations[correlations["norm"] == "none"].set_index("seed")["spearman"]
    return {
        "13": {REST.key: criteria.compared(shares[shares["depth"] == LAYER], "rest", Scale.log)},
        "13-layers": {SHARE.key: criteria.single((wide["none"] < wide["batch"]).groupby("seed").mean())},
        "13-means": {SPEARMAN.key: criteria.single(along)},
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    shares, channels = _shares(frames["channel_pair_gradients"]), _channels(frames)
    rows = []
    for layer in (18, LAYER, 90):
        ours = by_arm(shares[shares["depth"] == layer], "rest")
        name = f"share left by the first singular pair, layer {layer} (no pattern: {1 - NO_STRUCTURE:.2f})"
        rows.append(Comparison(name, "", "", str(ours["batch"]), str(ours["none"])))
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
    """One row per run and convolution, with `rest`: what the first singular pair leaves of the sum of squares."""
    rows = pairs[pairs["quantity"] == "rank1_share"]
    return rows.assign(rest=1 - rows["value"])


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
    """A row per run and input channel of the layer: |mean| of its activation, and `gradient`, the mean of M over o."""
    keys = ["norm", "seed", "channel"]
    entries = _matrices(frames["channel_pair_gradients"]).rename(columns={"in_channel": "channel"})
    gradient = entries.groupby(keys)["value"].mean().rename("gradient").reset_index()
    means = frames["activation_moments"][[*keys, "mean"]]
    return gradient.merge(means.assign(mean=means["mean"].abs()), on=keys, validate="one_to_one")


def _correlations(channels: pd.DataFrame) -> pd.DataFrame:
    """A row per run: correlation over channels of |mean| and gradient, of the values and of their ranks (Spearman)."""
    columns = ["norm", "seed", "spearman", "pearson"]
    rows = []
    for (norm, seed), part in channels.groupby(["norm", "seed"]):
        by = part[["mean", "gradient"]]
        rows.append((norm, seed, by.rank().corr().iloc[0, 1], by.corr().iloc[0, 1]))
    return pd.DataFrame(rows, columns=columns).astype({"spearman": float, "pearson": float})
