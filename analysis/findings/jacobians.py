"""Is the real network's Jacobian, too, worse conditioned without BN? (Bjorck et al. 2018, section 4)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import arms, by_arm
from bnstudy.analysis.stats import Scale

STAGE_ENDS = tuple(last for _, last in figures.STAGES[:-1])  # layers 37 and 73
STARTS = (0, *STAGE_ENDS)
LOST = 1e-12  # of the largest singular value: nothing but rounding
ROUNDING = 2.2e-16  # times the number of singular values and the largest: what float64 cannot tell from 0
WORSE = Part("condition number from the image without BN over that with BN", above=1, scale=Scale.log)
DEEPER = tuple(
    Part("condition number over that of the shorter stretch, without BN", above=1, scale=Scale.log, at=at)
    for at in ("the one from the image", "the one from behind layer 37")
)

TITLE = "Conditioning of the untrained network's Jacobians"
CAPTION = (
    "Singular values of the Jacobian from a layer's activation to the 64 values that the classifier is given, for one "
    "image at a time; BN with the statistics of its mini-batch of 128 held constant. (a) Largest over smallest, by the "
    "layer behind which the stretch begins (0: the image); infinite where ReLU holds one of the 64 at zero, which "
    "a triangle at the top marks. (b) Largest and smallest. (c) From the image, divided by the largest, in order. (d) "
    "Of single blocks of the third stage; those that ReLU sets to zero are not shown. "
    "Medians over four images, then geometric mean over the seeds in which it is finite (line), 95 % interval (band)."
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
        criterion=Criterion(
            (WORSE,),
            remark="Of the Jacobian to the classifier's input, median over four images; a seed in which it is infinite "
            "without BN has no place in the mean and counts in the test as the largest finite value.",
        ),
        published="argued from products of random matrices; not measured",
    ),
    Claim(
        id="jacobians-2",
        where="Section 4, beside Theorem 1",
        scale="init",
        says="Without BN the conditioning is the worse the more layers are passed.",
        criterion=Criterion(
            DEEPER,
            partial=1,
            remark="By where the stretch begins: the image, behind layer 37, behind layer 73. Infinite values have no "
            "place in the mean, which was added after a trial with one image.",
        ),
        published="argued from products of random matrices; not measured",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    table = frames["jacobian_singular_values"]
    panels = fig.subplot_mosaic([["a", "b"], ["c", "d"]])
    ends = _ends(table)
    finite = ends.replace(np.inf, np.nan)
    for arm, part in arms(finite).items():
        rows = stats.over_seeds(part.dropna(subset="condition"), ["start"], "condition", Scale.log)
        figures.band(panels["a"], rows, "start", arm)
        lost = ends[(ends["norm"] == arm) & np.isinf(ends["condition"])]
        panels["a"].plot(lost["start"], [0.975] * len(lost), "^", color=figures.COLOURS[arm], ms=4, mew=0,
                         transform=panels["a"].get_xaxis_transform())  # fmt: skip
        for column, dashes in (("largest", "-"), ("smallest", (0, (4, 1.6)))):
            label = f"{column}, {figures.LABELS[arm]}"
            rows = stats.over_seeds(part[part[column] > 0], ["start"], column, Scale.log)
            figures.band(panels["b"], rows, "start", arm, label=label, ls=dashes)
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
        ax.legend(loc="lower left", ncols=1 if letter == "a" else 2)
        figures.panel(ax, letter, title)
    panels["a"].set_ylim(bottom=0.8)
    figures.headroom(panels["a"], 0.12)
    panels["b"].set_ylim(bottom=1e-3)  # with room for the legend
    _spectrum(panels["c"], table)
    _blocks(panels["d"], table)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    ends = _ends(frames["jacobian_singular_values"])
    alone = ends[ends["norm"] == "none"].pivot(index="seed", columns="start", values="condition")
    alone = alone.reindex(columns=list(STARTS))
    deeper = {
        part.key: criteria.single(stats.effect(alone[start], alone[shorter], Scale.log))
        for part, start, shorter in zip(DEEPER, STARTS, STARTS[1:], strict=False)
    }
    whole = criteria.compared(ends[ends["start"] == 0], "condition", Scale.log)
    return {"jacobians-1": {WORSE.key: whole}, "jacobians-2": deeper}


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
        resolved = part[part["relative"] > LOST]
        figures.band(ax, stats.over_seeds(resolved, ["place"], "relative", Scale.log), "place", arm)
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
            figures.band(ax, stats.over_seeds(part, ["share"], "value"), "share", arm, label=label, ls=dashes)
    ax.set_xlim(0, 100)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("place among the block's singular values, by size (%)")
    ax.set_ylabel("singular value")
    ax.legend(loc="upper right")
    figures.panel(ax, "d", "single blocks")


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    """One row per run and start: largest and smallest singular value to the classifier's input, and their ratio.

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
