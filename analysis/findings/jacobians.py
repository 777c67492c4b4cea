"""Is the real network's Jacobian, too, worse conditioned without BN? (Bjorck et al. 2018, section 4)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import effects, figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import arms, by_arm, number, over_seeds, paired

STAGE_ENDS = tuple(last for _, last in figures.STAGES[:-1])  # layers 37 and 73
STARTS = (0, *STAGE_ENDS)
ROUNDING = 2.2e-16  # times the number of singular values and the largest: what float64 cannot tell from 0
HIGHEST = 1e30  # stands for infinity where bands are drawn

TITLE = "Conditioning of the untrained network's Jacobians"
CAPTION = (
    "Singular values of the Jacobian from a layer's activation to the 64 values that the classifier is given, for one "
    "image at a time; BN with the statistics of its mini-batch of 128 held constant. (a) Largest over smallest, by the "
    "layer behind which the stretch begins (0: the image); infinite, and the band open above, where ReLU holds one of "
    "the 64 at zero. (b) Largest and smallest. (c) From the image, divided by the largest, in order. (d) Of single "
    "blocks of the third stage; those that ReLU sets to zero are not shown. "
    "Medians over four images, then median (line) and range over seeds (band)."
)
SWEEP = "jacobians"
NEEDS = {"jacobian_singular_values": "step == 0"}
SIZE = (10.4, 6.6)
CLAIMS = (
    Claim(
        id="jacobians-1",
        where="Section 4, beside Theorem 1",
        scale="init",
        says="Without BN the real network's Jacobian is worse conditioned.",
        criterion="Condition number of the Jacobian from the image to the classifier's input, median over four images: "
        "larger without BN in every pair of one seed reproduces, larger in the median over pairs does partly.",
        published="argued from products of random matrices; not measured",
    ),
    Claim(
        id="jacobians-2",
        where="Section 4, beside Theorem 1",
        scale="init",
        says="Without BN the conditioning is the worse the more layers are passed.",
        criterion="The same condition number without BN, by where the stretch begins: larger from the image than from "
        "behind layer 37, and from there than from behind layer 73, in every seed in which it is finite. Both: "
        "reproduced. Larger from the image than from behind layer 73 in each of these: partly. (That infinite values "
        "are left out was added after a trial with one image, in which a seed had one.)",
        published="argued from products of random matrices; not measured",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    table = frames["jacobian_singular_values"]
    panels = fig.subplot_mosaic([["a", "b"], ["c", "d"]])
    ends, highest = _ends(table), 1.0
    for arm, part in arms(ends).items():
        conditions = over_seeds(part, ["start"], "condition")
        figures.band(panels["a"], conditions.replace(np.inf, HIGHEST), "start", arm)
        highest = max(highest, conditions["median"].replace(np.inf, 0).max())
        for column, dashes in (("largest", "-"), ("smallest", (0, (4, 1.6)))):
            label = f"{column}, {figures.LABELS[arm]}"
            figures.band(panels["b"], over_seeds(part, ["start"], column), "start", arm, label=label, ls=dashes)
    for letter, title, label in (
        ("a", "to the classifier's input: condition number", "largest / smallest singular value"),
        ("b", "to the classifier's input: gain", "singular value"),
    ):
        ax = panels[letter]
        ax.set_yscale("log")
        figures.stages(ax)
        ax.set_xlim(-2, 112)
        ax.set_xticks([0, 18, *STAGE_ENDS, 90, 109])
        ax.set_xlabel("weight layer behind which the stretch begins")
        ax.set_ylabel(label)
        ax.legend(loc="upper right" if letter == "a" else "lower left", ncols=1 if letter == "a" else 2)
        figures.panel(ax, letter, title)
    panels["a"].set_ylim(0.8, 6 * highest)
    panels["b"].set_ylim(bottom=1e-3)  # with room for the legend
    _spectrum(panels["c"], table)
    _blocks(panels["d"], table)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    ends = _ends(frames["jacobian_singular_values"])
    whole = ends[ends["start"] == 0]
    wide, of = paired(whole, "condition"), by_arm(whole, "condition")
    n, higher = len(wide), int((wide["none"] > wide["batch"]).sum())
    alone = ends[ends["norm"] == "none"].pivot(index="seed", columns="start", values="condition")
    alone = alone.reindex(columns=list(STARTS)).replace(np.inf, np.nan).dropna()
    first, second, third = (alone[start] for start in STARTS)
    medians = {start: by_arm(ends[ends["start"] == start], "condition")["none"] for start in STARTS}
    return {
        "jacobians-1": Evidence(
            measured=f"{number(of['none'].median)} without BN, {number(of['batch'].median)} with BN; larger without BN "
            f"in {higher} of {n} pairs",
            spread=f"{of['none'].range} without BN, {of['batch'].range} with BN",
            n=n,
            verdict=judge(n, whole=higher == n, part=bool(n) and bool((wide["none"] - wide["batch"]).median() > 0)),
            arms=effects.arms(whole, "condition", "condition number", ratio=True),
        ),
        "jacobians-2": Evidence(
            measured=", ".join(f"{number(medians[start].median)} from {_begins(start)}" for start in STARTS),
            spread=", ".join(medians[start].range for start in STARTS),
            n=len(alone),
            verdict=judge(
                len(alone),
                whole=bool((first > second).all() and (second > third).all()),
                part=bool((first > third).all()),
            ),
        ),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    ends = _ends(frames["jacobian_singular_values"])
    rows = []
    for column, label in (("condition", "condition number"), ("largest", "largest singular value")):
        for start in STARTS:
            ours = by_arm(ends[ends["start"] == start], column)
            rows.append(Comparison(f"{label}, from {_begins(start)}", "", "", str(ours["batch"]), str(ours["none"])))
    return rows


def _spectrum(ax: Axes, table: pd.DataFrame) -> None:
    rows = table[(table["stretch"] == "to_features") & (table["start"] == 0)]
    rows = rows.assign(place=rows["index"] + 1, relative=rows["value"] / _largest(rows))
    for arm, part in arms(_over_examples(rows, ["place"], "relative")).items():
        figures.band(ax, over_seeds(part, ["place"], "relative"), "place", arm)
    ax.set_yscale("log")
    ax.set_ylim(1e-4, 1.5)
    ax.set_xlabel("singular value, by size")
    ax.set_ylabel("divided by the largest")
    ax.legend(loc="lower left")
    figures.panel(ax, "c", "from the image to the classifier's input")


def _blocks(ax: Axes, table: pd.DataFrame) -> None:
    rows = table[table["stretch"] == "to_next"]
    rows = rows[rows["value"] > ROUNDING * rows["count"] * _largest(rows)]
    rows = rows.assign(share=100 * rows["index"] / (rows["count"] - 1))
    for start, dashes in zip(sorted(rows["start"].unique()), ("-", (0, (4, 1.6)), ":"), strict=False):
        by = _over_examples(rows[rows["start"] == start], ["share"], "value")
        for arm, part in arms(by).items():
            label = f"layers {start + 1} and {start + 2}, {figures.LABELS[arm]}"
            figures.band(ax, over_seeds(part, ["share"], "value"), "share", arm, label=label, ls=dashes)
    ax.set_xlim(0, 100)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("place among the block's singular values, by size (%)")
    ax.set_ylabel("singular value")
    ax.legend(loc="upper right")
    figures.panel(ax, "d", "single blocks")


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    """One row a run and start: largest and smallest singular value to the classifier's input, and their ratio.

    Each the median over the images. A smallest value that is lost in rounding counts as 0.
    """
    rows = table[table["stretch"] == "to_features"]
    of = rows.groupby(["norm", "seed", "start", "example"]).agg(
        largest=("value", "max"), smallest=("value", "min"), count=("count", "first")
    )
    resolved = of["smallest"] > ROUNDING * of["count"] * of["largest"]
    of["smallest"] = of["smallest"].where(resolved | of["smallest"].isna(), 0.0)
    with np.errstate(divide="ignore"):
        of["condition"] = of["largest"] / of["smallest"]
    return of.groupby(["norm", "seed", "start"])[["largest", "smallest", "condition"]].median().reset_index()


def _over_examples(rows: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    return rows.groupby(["norm", "seed", *by])[value].median().reset_index()


def _largest(rows: pd.DataFrame) -> pd.Series:
    """Of each row's own Jacobian."""
    return rows.groupby(["norm", "seed", "stretch", "start", "example"])["value"].transform("max")


def _begins(start: int) -> str:
    return "the image" if start == 0 else f"behind layer {start}"
