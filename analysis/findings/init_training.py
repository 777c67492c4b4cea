"""Which initialisers train without BN at 0.0001: the first updates (Bjorck et al. 2018, section 4, appendix F)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import DASH, number, over_seeds, spread

INITS = {
    "kaiming_normal": ("Kaiming normal", "-"),
    "xavier_uniform": ("Xavier uniform", (0, (5, 1.6))),
    "xavier_normal": ("Xavier normal", (0, (1.2, 1.2))),
    "torch_default": ("torch's default", (0, (6, 1.6, 1.2, 1.6))),
}
XAVIER = ("xavier_uniform", "xavier_normal")
UPDATES, LATE = 30, 10
SMALL = 1000  # of an initial loss, in claim 16
CONSTANT = 1e-4  # standard deviation of the outputs over images, below which a network tells none apart
OUTCOMES = {"trains": "o", "loss no lower": "v", "dead": "s", "not finite": "x"}

TITLE = f"The first {UPDATES} updates of ResNet-110 without BN at 0.0001, by initialiser"
CAPTION = (
    "SGD with momentum 0.9 on mini-batches of 128. A loss above 1000 does not end a run here, one that is not finite "
    "does. (a) Mini-batch loss; median over the seeds that are still finite (line) and their range (band). (b) Loss of "
    f"the first mini-batch against the mean of the last {LATE}, one mark a seed; grey: equal. A network is dead where "
    "all images have the same output. Runs that were not finite stand at the top."
)
SWEEP = "init_training"
NEEDS = {
    "steps": f"step < {UPDATES} and depth == 110 and norm == 'none'",
    "moments_along_step": f"step == {UPDATES} and fraction == 0 and depth == 110 and norm == 'none'",
}
SIZE = (10.4, 4.2)
# Where an initialiser's name stands by its marks in (b), clear of the diagonal: offset in points, alignment.
BESIDE = {
    "kaiming_normal": ((-6, 0), "right", "center"),
    "xavier_uniform": ((0, 5), "center", "bottom"),
    "xavier_normal": ((6, 0), "left", "center"),
    "torch_default": ((-3, -5), "left", "top"),
}
CLAIMS = (
    Claim(
        id="16",
        origin="paper",
        where="Section 4, appendix F",
        scale="reduced",
        says="Keeping the variance at initialisation is too weak a condition; the initialisation is the cause of the "
        "explosion.",
        criterion="Without BN, over initialisers: the initial loss with Kaiming normal is at least 1000 times that "
        "with Xavier, and only initialisers that keep it below 1000 train at 0.0001 (losses: medians over seeds; "
        f"train: in every seed the loss stays finite, its mean over the last {LATE} of {UPDATES} updates is below the "
        "first, the outputs still differ between images; some do). Both: reproduced, one: partly.",
        published="values not known",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    left, right = fig.subplots(1, 2)
    runs = _runs(frames)
    steps = frames["steps"]
    finite = steps[np.isfinite(steps["loss"])]
    for init, (label, dashes) in INITS.items():
        part = finite[finite["init"] == init]
        if len(part):
            band, dot = over_seeds(part, ["step"], "loss"), "o" if part["step"].nunique() == 1 else ""
            figures.band(left, band, "step", "none", label=label, ls=dashes, marker=dot, ms=4, clip_on=not dot)
            left.legend(loc="upper right", handlelength=2.6)
    left.axhline(math.log(10), color=figures.MUTED, lw=0.9, ls=(0, (3, 2)), zorder=1)
    left.text(UPDATES - 1, math.log(10) * 0.9, "guess", fontsize=7, color=figures.MUTED, ha="right", va="top")
    left.set_yscale("log")
    left.set_xlim(0, UPDATES - 1)
    left.set_xlabel("updates made")
    left.set_ylabel("loss of the mini-batch")
    figures.panel(left, "a", "loss along training")
    _outcomes(right, runs)
    figures.panel(right, "b", "outcome")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = _runs(frames)
    parts = {init: runs[runs["init"] == init] for init in INITS}
    first = {init: spread(part["first"]) for init, part in parts.items()}
    train = {init for init, part in parts.items() if len(part) and (part["outcome"] == "trains").all()}
    ratio = first["kaiming_normal"].median / max(first[init].median for init in XAVIER)
    explodes = ratio >= 1000
    only_small = bool(train) and all(first[init].median < SMALL for init in train)
    n = min(len(part) for part in parts.values())
    return {
        "16": Evidence(
            measured=f"initial loss {number(ratio)} times; "
            + ", ".join(f"{INITS[init][0]} {_told(part)}" for init, part in parts.items()),
            spread="initial losses " + "; ".join(each.range for each in first.values()),
            n=n,
            verdict=judge(n, whole=explodes and only_small, part=explodes or only_small),
        )
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _runs(frames)
    lines = []
    for init, (label, _) in INITS.items():
        part = runs[runs["init"] == init]
        lines.append(Comparison(f"first loss, {label}", "", "", DASH, str(spread(part["first"]))))
        last = str(spread(part["last"].where(np.isfinite(part["last"]))))
        lines.append(Comparison(f"mean of the last {LATE} losses, {label}", "", "", DASH, last))
        lines.append(Comparison(f"outcome, {label}", "", "", DASH, _told(part) if len(part) else DASH))
    return lines


def _runs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a run: first loss, mean of the last ones (infinite where one is not finite), and the outcome."""
    outputs = frames["moments_along_step"].set_index("run_id")["variance"]
    found = []
    for (init, seed, run_id), part in frames["steps"].groupby(["init", "seed", "run_id"]):
        losses = part.sort_values("step")["loss"]
        finite = len(losses) == UPDATES and bool(np.isfinite(losses).all())
        last = losses.tail(LATE).mean() if finite else math.inf
        if not finite:
            outcome = "not finite"
        elif not math.sqrt(outputs.get(run_id, math.nan)) > CONSTANT:
            outcome = "dead"
        else:
            outcome = "trains" if last < losses.iloc[0] else "loss no lower"
        found.append((init, seed, losses.iloc[0], last, outcome))
    return pd.DataFrame(found, columns=["init", "seed", "first", "last", "outcome"])


def _outcomes(ax: Axes, runs: pd.DataFrame) -> None:
    finite = runs.loc[np.isfinite(runs["last"]), ["first", "last"]].to_numpy().ravel()
    values = np.concatenate([runs["first"], finite, [1.0, 1000.0]])
    low, high = 0.25 * values.min(), 4 * values.max()
    ax.plot([low, high], [low, high], color=figures.MUTED, lw=0.9, zorder=1)
    place = runs["last"].where(np.isfinite(runs["last"]), high / 1.6)
    for outcome, marker in OUTCOMES.items():
        at = runs["outcome"] == outcome
        face = figures.COLOURS["none"] if outcome == "trains" else "none"
        ax.plot(
            runs["first"][at], place[at], marker, color=figures.COLOURS["none"], mfc=face, ms=5, mew=1.2, label=outcome
        )
    for init, (label, _) in INITS.items():
        part = place[runs["init"] == init]
        if len(part):
            first = runs["first"][part.index]
            aside, ha, va = BESIDE[init]
            x = {"left": first.max(), "center": float(np.exp(np.log(first).mean())), "right": first.min()}[ha]
            ax.annotate(
                label, (x, float(part.max())), xytext=aside, textcoords="offset points", fontsize=7,
                color=figures.MUTED, ha=ha, va=va,
            )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_xlabel("loss of the first mini-batch")
    ax.set_ylabel(f"mean loss of the last {LATE}")
    ax.legend(loc="lower right")


def _told(part: pd.DataFrame) -> str:
    counts = part["outcome"].value_counts()
    return ", ".join(f"{name} in {counts[name]}" for name in OUTCOMES if name in counts) or DASH
