"""Training and test images from different sources: how much of the lost accuracy BN's statistics account for."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, spread

KINDS = ("brighter", "darker", "less contrast", "more contrast", "blurred", "inverted")
PLAIN = "unchanged"
# What is compared: arm, statistics, colour, face of the marker, label.
WAYS = {
    "stored": ("batch", "stored", figures.COLOURS["batch"], figures.COLOURS["batch"], "with BN, stored statistics"),
    "new": ("batch", "re-estimated", figures.COLOURS["batch"], "white", "with BN, re-estimated on the test images"),
    "none": ("none", "stored", figures.COLOURS["none"], figures.COLOURS["none"], "without BN"),
}
NOTABLE = 5.0  # points of accuracy
EPOCHS = 10
LOSES = {way: Part(f"kinds of six that cost 5 points or more, {WAYS[way][4]}", above=3.5) for way in ("stored", "none")}
ROBUST = Part("points lost without BN less with BN and stored statistics, mean over the kinds", above=0)
KIND = {kind: Part("points lost without BN less with BN", above=0, at=kind) for kind in KINDS}
WON = Part("share of what costs 5 points or more that re-estimation wins back, smallest over the kinds", above=0.5)
WON_ALL = Part("share of all that is lost that re-estimation wins back", above=0.5)

TITLE = "Test images from another source than the training images"
CAPTION = (
    "LeNet trained on Fashion-MNIST (learning rate 1, ten epochs; preset quick: three), tested on its test images "
    "changed: pixels in [0, 1] plus or minus 0.3, contrast times 0.3 or 3 about the middle, a 5x5 box blur, inverted. "
    "One dot a seed, bar: mean with 95 % interval. Re-estimated: means over the changed test images, without labels, "
    "at the weights as they are."
)
SWEEP = "textbook_evaluation"
NEEDS = {"shifted_inputs": None}
SIZE = (10.4, 4.2)
WHERE = "a course page on BN: 'if the train and test sets come from entirely different sources'"
CLAIMS = (
    Claim(
        id="textbook-shift-1",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="A network loses accuracy when the test images come from another source.",
        criterion=Criterion(tuple(LOSES.values()), partial=1, remark="Below the unchanged images, seed by seed."),
    ),
    Claim(
        id="textbook-shift-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="BN with its stored statistics makes a network more robust to such a change of the inputs.",
        criterion=Criterion((ROBUST, *KIND.values()), partial=(ROBUST,)),
    ),
    Claim(
        id="textbook-shift-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Re-estimating BN's statistics on the changed images, without labels, wins back what was lost.",
        criterion=Criterion((WON,), partial=(WON_ALL,), remark="Stored statistics; seed by seed."),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    ax = fig.subplots()
    rows = frames["shifted_inputs"]
    for index, kind in enumerate((PLAIN, *KINDS)):
        for shift, (arm, statistics, colour, face, _) in zip((-0.24, 0, 0.24), WAYS.values(), strict=True):
            values = 100 * _of(rows, arm, statistics, kind)
            x = [index + shift + 0.03 * (i - (len(values) - 1) / 2) for i in range(len(values))]
            ax.plot(x, values, "o", color=colour, mfc=face, ms=4, mew=1, zorder=4)
            if len(values):
                of, ends = stats.interval(values), [index + shift - 0.1, index + shift + 0.1]
                ax.fill_between(ends, of.low, of.high, color=colour, alpha=0.2, lw=0)
                ax.plot(ends, [of.mean] * 2, color=colour, lw=1.8)
    for _, _, colour, face, label in WAYS.values():
        ax.plot([], [], "o", color=colour, mfc=face, ms=4.5, label=label)
    ax.axhline(10, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1, label="chance")
    ax.set_xticks(range(len(KINDS) + 1), [PLAIN, *KINDS])
    ax.set_xlim(-0.5, len(KINDS) + 0.5)
    ax.set_ylim(0, 100)
    ax.set_ylabel("test accuracy (%)")
    ax.grid(False, axis="x")
    fig.legend(loc="outside lower center", ncols=4)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = frames["shifted_inputs"]
    rows = rows[rows["epochs"] >= EPOCHS]
    lost = {way: pd.DataFrame({kind: _points(rows, way, kind) for kind in KINDS}) for way in WAYS}
    more = lost["none"] - lost["stored"]
    costly = lost["stored"].where(lost["stored"] >= NOTABLE)
    back = 1 - lost["new"] / costly
    values = {
        "textbook-shift-1": {part.key: (lost[way] >= NOTABLE).sum(axis=1) for way, part in LOSES.items()},
        "textbook-shift-2": {
            ROBUST.key: more.mean(axis=1, skipna=False), **{part.key: more[kind] for kind, part in KIND.items()},
        },
        "textbook-shift-3": {
            WON.key: back.min(axis=1), WON_ALL.key: 1 - lost["new"].sum(axis=1) / lost["stored"].sum(axis=1),
        },
    }  # fmt: skip
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    rows = frames["shifted_inputs"]
    lines = []
    for kind in (PLAIN, *KINDS):
        stored, new, none = (str(spread(100 * _of(rows, *WAYS[way][:2], kind))) for way in WAYS)
        lines.append(Comparison(f"test accuracy (%), {kind}", DASH, DASH, f"{stored}; re-estimated {new}", none))
    return lines


def _of(rows: pd.DataFrame, arm: str, statistics: str, kind: str) -> pd.Series[float]:
    """Accuracies by seed."""
    part = rows[(rows["norm"] == arm) & (rows["statistics"] == statistics) & (rows["inputs"] == kind)]
    return part.set_index("seed")["accuracy"].sort_index()


def _points(rows: pd.DataFrame, way: str, kind: str) -> pd.Series[float]:
    """Points below the unchanged images' accuracy with the same statistics' source, seed by seed.

    Re-estimated statistics are compared with the accuracy of the stored ones on unchanged images.
    """
    arm, statistics = WAYS[way][:2]
    return 100 * (_of(rows, arm, "stored", PLAIN) - _of(rows, arm, statistics, kind))
