"""Training and test images from different sources: what BN's statistics have to do with what is lost."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import figures
from bnstudy.effects import Arms
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import DASH, Spread, number, spread

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

TITLE = "Test images from another source than the training images"
CAPTION = (
    "LeNet trained on Fashion-MNIST (learning rate 1, ten epochs; preset quick: three), tested on its test images "
    "changed: pixels in [0, 1] plus or minus 0.3, contrast times 0.3 or 3 about the middle, a 5x5 box blur, inverted. "
    "One dot a seed, bar: median. Re-estimated: means over the changed test images, without labels, at the weights as "
    "they are."
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
        criterion=f"With BN and stored statistics, and without BN: median test accuracy at least {NOTABLE:g} points "
        "below that on the unchanged images for at least four of the six kinds, in both (reproduced), in one (partly).",
    ),
    Claim(
        id="textbook-shift-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="BN with its stored statistics makes a network more robust to such a change of the inputs.",
        criterion="Median loss of accuracy smaller with BN (stored) than without: for at least five of the six kinds "
        "(reproduced), for four (partly).",
    ),
    Claim(
        id="textbook-shift-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Re-estimating BN's statistics on the changed images, without labels, wins back what was lost.",
        criterion=f"Of the kinds that cost at least {NOTABLE:g} points with stored statistics: at least half of the "
        "loss won back, medians over seeds, for all of them (reproduced), for more than half of them (partly).",
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
                ax.plot([index + shift - 0.1, index + shift + 0.1], [values.median()] * 2, color=colour, lw=1.8)
    for _, _, colour, face, label in WAYS.values():
        ax.plot([], [], "o", color=colour, mfc=face, ms=4.5, label=label)
    ax.axhline(10, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1, label="chance")
    ax.set_xticks(range(len(KINDS) + 1), [PLAIN, *KINDS])
    ax.set_xlim(-0.5, len(KINDS) + 0.5)
    ax.set_ylim(0, 100)
    ax.set_ylabel("test accuracy (%)")
    ax.grid(False, axis="x")
    fig.legend(loc="outside lower center", ncols=4)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    rows = frames["shifted_inputs"]
    n = _seeds(rows)
    lost = {way: {kind: _lost(rows, way, kind) for kind in KINDS} for way in WAYS}
    many = [sum(lost[way][kind].median >= NOTABLE for kind in KINDS) >= 4 for way in ("stored", "none")]
    every = {way: pd.concat([_points(rows, way, kind) for kind in KINDS], axis=1) for way in ("stored", "none")}
    mean = {way: each.mean(axis=1, skipna=False).dropna() for way, each in every.items()}
    smaller = sum(lost["stored"][kind].median < lost["none"][kind].median for kind in KINDS)
    costly = [kind for kind in KINDS if lost["stored"][kind].median >= NOTABLE]
    back = {kind: 1 - lost["new"][kind].median / lost["stored"][kind].median for kind in costly}
    won = [share >= 0.5 for share in back.values()]
    return {
        "textbook-shift-1": Evidence(
            "; ".join(f"{WAYS[way][4]}: {_worst(lost[way])}" for way in ("stored", "none")),
            "; ".join(f"{kind} {lost['stored'][kind].range}" for kind in KINDS),
            n,
            judge(n, whole=all(many), part=any(many)),
        ),
        "textbook-shift-2": Evidence(
            f"smaller loss with BN for {smaller} of {len(KINDS)} kinds",
            "; ".join(f"{k} {number(lost['stored'][k].median)}, {number(lost['none'][k].median)}" for k in KINDS)
            + " points with BN, without",
            n,
            judge(n, whole=smaller >= 5, part=smaller == 4),
            arms=Arms("points lost, mean over the kinds", tuple(mean["stored"]), tuple(mean["none"])),
        ),
        "textbook-shift-3": Evidence(
            "; ".join(f"{kind} {100 * share:.0f} %" for kind, share in back.items()) + " won back"
            if back
            else "nothing lost",
            "; ".join(f"{kind} {lost['new'][kind].range} points left" for kind in costly),
            n,
            judge(n, whole=bool(won) and all(won), part=2 * sum(won) > len(won)),
        ),
    }


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


def _lost(rows: pd.DataFrame, way: str, kind: str) -> Spread:
    return spread(_points(rows, way, kind))


def _points(rows: pd.DataFrame, way: str, kind: str) -> pd.Series[float]:
    """Points below the unchanged images' accuracy with the same statistics' source, seed by seed.

    Re-estimated ones are compared with the stored ones' accuracy on unchanged images: what there was before.
    """
    arm, statistics = WAYS[way][:2]
    return 100 * (_of(rows, arm, "stored", PLAIN) - _of(rows, arm, statistics, kind))


def _seeds(rows: pd.DataFrame) -> int:
    whole = rows[rows["epochs"] >= EPOCHS]
    return min(whole[whole["norm"] == arm]["seed"].nunique() for arm in ("batch", "none"))


def _worst(lost: Mapping[str, Spread]) -> str:
    costly = [f"{kind} {number(found.median)}" for kind, found in lost.items() if found.median >= NOTABLE]
    return (", ".join(costly) or "none") + " points lost"
