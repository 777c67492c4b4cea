"""Is it BN that helps LeNet at the chapter's learning rate, or any normalization? Other norms in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, Spread, accuracies, spread

# As the table calls them, and as the figure does, from the network without to the exercises' transforms.
ARMS = {
    "none": "none",
    "dropout": "dropout",
    "batch": "batch (BN)",
    "frozen": "BN, gamma,\nbeta frozen",
    "batch_renorm": "batch\nrenorm",
    "group": "group",
    "layer": "layer",
    "instance": "instance\n(convs)",
    "whitening": "whitening",
    "probability_integral": "probability\nintegral",
}
OTHERS = ("batch_renorm", "group", "layer", "instance", "whitening", "probability_integral")
EPOCHS = 5
FROZEN = Part("training accuracy learned less frozen", above=1, unit="points")
DROPOUT = Part("test accuracy with BN less with dropout", above=0, unit="points")
OVERFITS = Need(
    "training less test accuracy without a norm", "the network does not overfit, and dropout has nothing to cure",
    above=5,
)  # fmt: skip
HELPS = {
    norm: Part("gain in training accuracy over no norm", above=0, unit="points", at=norm.replace("_", " "))
    for norm in OTHERS
}

TITLE = "Other transforms in the place of BN"
CAPTION = (
    "LeNet on Fashion-MNIST, learning rate 1, batches of 256, five epochs (preset quick: three). One dot a run, bar: "
    "mean with 95 % interval; blue: BN, orange: no norm, the other norms as in every figure. (a) Training accuracy in "
    "the last epoch. (b) Test accuracy after it. Runs that diverged stand at 10 %, which is chance."
)
SWEEP = "textbook_normalisers"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (10.4, 4.6)
WHERE = "Dive into Deep Learning, Batch Normalization, exercises"
CLAIMS = (
    Claim(
        id="textbook-normalisers-1",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Gamma and beta are needed: with them frozen at 1 and 0 BN trains worse.",
        criterion=Criterion((FROZEN,), partial=(Part(FROZEN.of, above=0, unit="points"),)),
    ),
    Claim(
        id="textbook-normalisers-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="BN can stand in for dropout: it gives the higher test accuracy.",
        criterion=Criterion((DROPOUT,), needs=(OVERFITS,), remark="Dropout of 0.2."),
    ),
    Claim(
        id="textbook-normalisers-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Other normalizing transforms help as well, also those that do not look at the mini-batch.",
        criterion=Criterion(
            tuple(HELPS.values()),
            partial=3,
            remark="Changed after a look: each was also to come within 2 points of BN, of which the statement says "
            "nothing.",
        ),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = _named(frames["runs"])
    axes = fig.subplots(1, 2, sharey=True)
    for ax, side, title, letter in zip(axes, ("train", "test"), ("training", "test"), "ab", strict=True):
        _dots(ax, runs, side)
        figures.panel(ax, letter, f"{title} accuracy")
        ax.set_xlabel("accuracy (%)")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _named(frames["runs"])
    full = runs[runs["epochs"] >= EPOCHS]
    train, test = (
        {arm: full[full["arm"] == arm].set_index("seed")[side] for arm in ARMS} for side in ("train", "test")
    )
    helps = {part.key: stats.effect(train[norm], train["none"]) for norm, part in HELPS.items()}
    values: dict[str, dict[str, Any]] = {
        "textbook-normalisers-1": {FROZEN.key: stats.effect(train["batch"], train["frozen"])},
        "textbook-normalisers-2": {
            DROPOUT.key: stats.effect(test["batch"], test["dropout"]),
            OVERFITS.of: stats.effect(train["none"], test["none"]),
        },
        "textbook-normalisers-3": helps,
    }
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _named(frames["runs"])
    lines = []
    for arm in ARMS:
        for side in ("train", "test"):
            value = str(_of(runs, arm, side))
            ours = (DASH, value) if arm == "none" else (value, DASH)
            lines.append(Comparison(f"{side} accuracy (%), {_flat(arm)}", DASH, DASH, *ours))
    return lines


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run: its arm and accuracies."""
    frozen = (runs["norm"] == "batch") & (runs["norm_affine"].astype("string") == "False")
    return accuracies(runs).assign(arm=runs["norm"].where(~frozen, "frozen"))


def _of(runs: pd.DataFrame, arm: str, side: str) -> Spread:
    return spread(runs[runs["arm"] == arm][side])


def _flat(arm: str) -> str:
    return ARMS[arm].replace("\n", " ")


def _dots(ax: Axes, runs: pd.DataFrame, side: str) -> None:
    for row, arm in enumerate(ARMS):
        colour = figures.NORMS.get(arm, figures.OTHER)
        values = runs[runs["arm"] == arm][side].dropna()
        ax.plot(values, [row + 0.08 * (i - (len(values) - 1) / 2) for i in range(len(values))], "o", color=colour, ms=4,
                mew=0, alpha=0.85)  # fmt: skip
        of = stats.interval(values)
        if of.n > 1:
            ax.fill_betweenx([row - 0.32, row + 0.32], of.low, of.high, color=colour, alpha=0.25, lw=0)
        ax.plot([of.mean] * 2, [row - 0.32, row + 0.32], color=colour, lw=2)
    ax.set_yticks(range(len(ARMS)), list(ARMS.values()))
    ax.set_ylim(len(ARMS) - 0.5, -0.5)
    ax.grid(False, axis="y")
