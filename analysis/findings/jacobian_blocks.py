"""Does every residual block stretch some directions more than others without BN? (Bjorck et al. 2018, section 4)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, arms, by_arm
from bnstudy.analysis.stats import Scale

SHARES = {0.0: "largest", 0.5: "middle", 0.9: "nine in ten above"}  # of the singular values by rank, from the largest
DASHES = ("-", (0, (4, 1.6)), ":")
UNEVEN = Part("largest over middle singular value of a block, without BN over with BN", above=1, scale=Scale.log)
SHARE = Part("share of the blocks at which it is larger without BN", above=0.9)

TITLE = "Singular values of every residual block of the untrained network"
CAPTION = (
    "Jacobian of one residual block, from its input to its output, for one image at a time; BN with the statistics of "
    "its mini-batch of 128 held constant; the first also passes the stem. Of the singular values that ReLU leaves: (a) "
    "the largest, the middle one and the one that nine in ten exceed; (b) the largest over the middle one (dashed: the "
    "median over the blocks, as its geometric mean over seeds); (c) all, by rank, of a block in each stage. (d) Share "
    "of singular values that are zero, as ReLU shuts outputs. Estimated by stochastic Lanczos quadrature. Medians over "
    "four images, then mean (line) over seeds and 95 % interval (band). (e) Share of the blocks at which the ratio of "
    "(b) is larger without BN, one dot a seed, bar: mean with 95 % interval; dashed: what is asked for."
)
SWEEP = "jacobian_blocks"
NEEDS = {"jacobian_density": "step == 0"}
SIZE = (11.6, 6.6)
SHOWN = (19, 55, 91)  # the blocks of (c) begin behind these layers: the middle of each stage
CLAIMS = (
    Claim(
        id="jacobians-3",
        where="Section 4, beside Theorem 1",
        scale="init",
        says="Without BN single blocks, too, stretch some directions far more than others.",
        criterion=Criterion(
            (UNEVEN, SHARE),
            partial=(Part(SHARE.of, above=0.5),),
            remark="Of those that ReLU leaves; the median over four images, and for the first over the blocks.",
        ),
        published="argued from products of random matrices; not measured",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    panels = fig.subplot_mosaic([["a", "b", "e"], ["c", "d", "e"]], width_ratios=(1, 1, 0.3))
    table = _over_examples(frames["jacobian_density"])
    for arm, part in arms(table).items():
        for (share, name), dashes in zip(SHARES.items(), DASHES, strict=True):
            rows = stats.over_seeds(part[_at(part, share)], ["layer"], "value")
            figures.band(panels["a"], rows, "layer", arm, label=f"{name}, {figures.LABELS[arm]}", ls=dashes)
        zero = stats.over_seeds(part[_at(part, 0)], ["layer"], "zero")
        figures.band(panels["d"], zero, "layer", arm)
        for start, dashes in zip(SHOWN, DASHES, strict=True):
            rows = stats.over_seeds(part[part["start"] == start], ["share"], "value")
            rows = rows.assign(share=100 * rows["share"])
            label = f"layers {start + 1} and {start + 2}, {figures.LABELS[arm]}"
            figures.band(panels["c"], rows, "share", arm, label=label, ls=dashes)
    for arm, part in arms(_uneven(frames)).items():
        figures.band(panels["b"], stats.over_seeds(part, ["layer"], "uneven"), "layer", arm)
        level = stats.interval(_of_runs(part)["uneven"], Scale.log).mean
        panels["b"].axhline(level, color=figures.COLOURS[arm], lw=0.9, ls=figures.DASHED, zorder=1)
    _depth(panels["a"], "a", "single blocks: singular values", "singular value")
    figures.plain_log(panels["a"])
    _depth(panels["b"], "b", "single blocks: how uneven", "largest / middle singular value")
    _depth(panels["d"], "d", "single blocks: directions that are lost", "zero singular values (%)")
    panels["b"].set_ylim(bottom=0)
    panels["d"].set_ylim(0, 100)
    panels["c"].set_ylim(bottom=0)
    panels["c"].set_xlabel("place among the singular values that ReLU leaves, by size (%)")
    panels["c"].set_ylabel("singular value")
    figures.panel(panels["c"], "c", "a block of each stage")
    panels["a"].set_ylim(top=80)  # with room for the legend
    by_seed = measure(frames)["jacobians-3"][SHARE.key].values
    figures.seeds(panels["e"], 0, by_seed, "", colour=figures.INK, scale=Scale.plain)
    panels["e"].axhline(SHARE.above or 0, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    panels["e"].set_ylim(0, 1)
    panels["e"].set_xlim(-0.6, 0.6)
    panels["e"].set_xticks([])
    panels["e"].set_ylabel("share of blocks more uneven without BN")
    figures.panel(panels["e"], "e", "by seed")
    for ax in (panels[letter] for letter in "abcd"):
        ax.legend(loc="upper right", ncols=2 if ax is panels["a"] else 1)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    uneven = _uneven(frames)
    of_runs = _of_runs(uneven)
    wide = uneven.pivot(index=["layer", "seed"], columns="norm", values="uneven").reindex(columns=list(ARMS)).dropna()
    share = (wide["none"] > wide["batch"]).groupby("seed").mean()
    return {
        "jacobians-3": {
            UNEVEN.key: criteria.compared(of_runs, "uneven", Scale.log), SHARE.key: criteria.single(share),
        }
    }  # fmt: skip


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    table = _over_examples(frames["jacobian_density"])
    lines = []
    for start in SHOWN:
        for share, name in SHARES.items():
            ours = by_arm(table[_at(table, share) & (table["start"] == start)], "value")
            label = f"{name} singular value, layers {start + 1} and {start + 2}"
            lines.append(Comparison(label, "", "", str(ours["batch"]), str(ours["none"])))
    return lines


def _over_examples(table: pd.DataFrame) -> pd.DataFrame:
    """Medians over the images; `layer`: the block's last; `zero`: percent of the singular values."""
    table = table.assign(zero=100 * table["num_zero"] / table["count"], share=table["share"].round(6))
    of = table.groupby(["norm", "seed", "start", "share"])[["value", "zero"]].median().reset_index()
    after = of["start"].map(dict(zip(starts := sorted(of["start"].unique()), starts[1:], strict=False)))
    return of.assign(layer=after.fillna(figures.STAGES[-1][1]).astype(int))


def _uneven(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per run and block, `uneven`: largest over middle singular value, the median over the images."""
    table = frames["jacobian_density"]
    keys = ["norm", "seed", "start", "example"]
    largest, middle = (table[_at(table, share)].set_index(keys)["value"] for share in (0.0, 0.5))
    of = (largest / middle).groupby(["norm", "seed", "start"]).median().rename("uneven").reset_index()
    return of.merge(_over_examples(table)[["start", "layer"]].drop_duplicates(), on="start")


def _of_runs(uneven: pd.DataFrame) -> pd.DataFrame:
    """One row per run, `uneven`: the median over its blocks."""
    return uneven.groupby(["norm", "seed"])["uneven"].median().reset_index()


def _at(table: pd.DataFrame, share: float) -> pd.Series:
    return (table["share"] - share).abs() < 1e-6


def _depth(ax: Axes, letter: str, title: str, label: str) -> None:
    figures.stages(ax)
    ax.set_xlabel("last weight layer of the block")
    ax.set_ylabel(label)
    figures.panel(ax, letter, title)
