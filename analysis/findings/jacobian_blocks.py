"""Does every residual block stretch some directions more than others without BN? (Bjorck et al. 2018, section 4)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import effects, figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import arms, by_arm, number, over_seeds, paired

SHARES = {0.0: "largest", 0.5: "middle", 0.9: "nine in ten above"}  # of the singular values by rank, from the largest
DASHES = ("-", (0, (4, 1.6)), ":")
MOST = 0.9  # of the blocks

TITLE = "Singular values of every residual block of the untrained network"
CAPTION = (
    "Jacobian of one residual block, from its input to its output, for one image at a time; BN with the statistics of "
    "its mini-batch of 128 held constant; the first also passes the stem. Of the singular values that ReLU leaves: (a) "
    "the largest, the middle one and the one that nine in ten exceed; (b) the largest over the middle one; (c) all, by "
    "rank, of a block in each stage. (d) Share of singular values that are zero, as ReLU shuts outputs. Estimated by "
    "stochastic Lanczos quadrature. Medians over four images, then median (line) and range over seeds (band)."
)
SWEEP = "jacobian_blocks"
NEEDS = {"jacobian_density": "step == 0"}
SIZE = (10.4, 6.6)
SHOWN = (19, 55, 91)  # the blocks of (c) begin behind these layers: the middle of each stage
CLAIMS = (
    Claim(
        id="jacobians-3",
        where="Section 4, beside Theorem 1",
        scale="init",
        says="Without BN single blocks, too, stretch some directions far more than others.",
        criterion="Of each block, the largest singular value over the middle one of those that ReLU leaves, the median "
        f"over four images: larger without BN, in the median over seeds, at {100 * MOST:.0f} % of the blocks or more, "
        "and in the median over the blocks in every pair of one seed: reproduced. At more than half of the blocks: "
        "partly.",
        published="argued from products of random matrices; not measured",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    panels = fig.subplot_mosaic([["a", "b"], ["c", "d"]])
    table = _over_examples(frames["jacobian_density"])
    for arm, part in arms(table).items():
        for (share, name), dashes in zip(SHARES.items(), DASHES, strict=True):
            rows = over_seeds(part[_at(part, share)], ["layer"], "value")
            figures.band(panels["a"], rows, "layer", arm, label=f"{name}, {figures.LABELS[arm]}", ls=dashes)
        zero = over_seeds(part[_at(part, 0)], ["layer"], "zero")
        figures.band(panels["d"], zero, "layer", arm)
        for start, dashes in zip(SHOWN, DASHES, strict=True):
            rows = over_seeds(part[part["start"] == start], ["share"], "value").assign(share=lambda f: 100 * f["share"])
            label = f"layers {start + 1} and {start + 2}, {figures.LABELS[arm]}"
            figures.band(panels["c"], rows, "share", arm, label=label, ls=dashes)
    for arm, part in arms(_uneven(frames)).items():
        figures.band(panels["b"], over_seeds(part, ["layer"], "uneven"), "layer", arm)
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
    for ax in panels.values():
        ax.legend(loc="upper right", ncols=2 if ax is panels["a"] else 1)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    uneven = _uneven(frames)
    of_blocks = uneven.groupby(["norm", "layer"])["uneven"].median().unstack("norm")
    more = of_blocks["none"] > of_blocks["batch"] if {"none", "batch"} <= set(of_blocks) else pd.Series(dtype=bool)
    of_runs = uneven.groupby(["norm", "seed"])["uneven"].median().reset_index()
    wide, of = paired(of_runs, "uneven"), by_arm(of_runs, "uneven")
    always = bool((wide["none"] > wide["batch"]).all())
    return {
        "jacobians-3": Evidence(
            measured=f"{number(of['none'].median)} without BN, {number(of['batch'].median)} with BN in the median over "
            f"the blocks; larger without BN at {int(more.sum())} of {len(more)} blocks",
            spread=f"{of['none'].range} without BN, {of['batch'].range} with BN",
            n=len(wide),
            verdict=judge(len(wide), whole=always and more.mean() >= MOST, part=more.mean() > 0.5),
            arms=effects.arms(of_runs, "uneven", "largest over middle singular value of a block", ratio=True),
        )
    }


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
    """One row a run and block, `uneven`: largest over middle singular value, the median over the images."""
    table = frames["jacobian_density"]
    keys = ["norm", "seed", "start", "example"]
    largest, middle = (table[_at(table, share)].set_index(keys)["value"] for share in (0.0, 0.5))
    of = (largest / middle).groupby(["norm", "seed", "start"]).median().rename("uneven").reset_index()
    return of.merge(_over_examples(table)[["start", "layer"]].drop_duplicates(), on="start")


def _at(table: pd.DataFrame, share: float) -> pd.Series:
    return (table["share"] - share).abs() < 1e-6


def _depth(ax: Axes, letter: str, title: str, label: str) -> None:
    figures.stages(ax)
    ax.set_xlabel("last weight layer of the block")
    ax.set_ylabel(label)
    figures.panel(ax, letter, title)
