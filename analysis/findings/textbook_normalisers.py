"""Is it BN that helps LeNet at the chapter's learning rate, or any normalization? Other norms in its place."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import DASH, Spread, accuracies, spread

# As the table calls them, and as the figure does, from the network without to the exercises' transforms.
ARMS = {
    "none": "none",
    "dropout": "dropout",
    "batch": "batch (BN)",
    "frozen": "BN, gamma and\nbeta frozen",
    "batch_renorm": "batch renorm",
    "group": "group",
    "layer": "layer",
    "instance": "instance (convs)",
    "whitening": "whitening",
    "probability_integral": "probability\nintegral",
}
OTHERS = ("batch_renorm", "group", "layer", "instance", "whitening", "probability_integral")
POINTS = 1.0  # of accuracy: nearer is called equal
EPOCHS = 5

TITLE = "Other transforms in the place of BN"
CAPTION = (
    "LeNet on Fashion-MNIST, learning rate 1, batches of 256, five epochs (preset quick: three). One dot a run, bar: "
    "median; blue: BN, orange: no norm, violet: others. (a) Training accuracy in the last epoch. (b) Test accuracy "
    "after it. Runs that diverged stand at 10 %, which is chance."
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
        criterion=f"Median training accuracy in the last epoch, frozen below learned by more than {POINTS:g} point "
        "(reproduced), by less, but in every seed (partly).",
    ),
    Claim(
        id="textbook-normalisers-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="BN can stand in for dropout: it gives the higher test accuracy.",
        criterion="Test accuracy: worst seed with BN above the best with dropout of 0.2 (reproduced); the median is "
        "higher (partly).",
    ),
    Claim(
        id="textbook-normalisers-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Other normalizing transforms help as well, also those that do not look at the mini-batch.",
        criterion="Median training accuracy above that without a norm, and not more than 2 points below BN's: for all "
        "six of batch renormalization, group, layer, instance, whitening, probability integral (reproduced); at least "
        "three of them (partly).",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = _named(frames["runs"])
    axes = fig.subplots(1, 2, sharey=True)
    for ax, side, title, letter in zip(axes, ("train", "test"), ("training", "test"), "ab", strict=True):
        _dots(ax, runs, side)
        figures.panel(ax, letter, f"{title} accuracy")
        ax.set_xlabel("accuracy (%)")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = _named(frames["runs"])
    full = runs[runs["epochs"] >= EPOCHS]
    seeds = full.groupby("arm")["seed"].nunique().reindex(list(ARMS), fill_value=0)
    train = {arm: _of(runs, arm, "train") for arm in ARMS}
    test = {arm: _of(runs, arm, "test") for arm in ARMS}
    wide = runs.pivot(index="seed", columns="arm", values="train").reindex(columns=list(ARMS))
    worse = (wide["frozen"] < wide["batch"])[wide[["frozen", "batch"]].notna().all(axis=1)]
    lost = train["batch"].median - train["frozen"].median
    bn, dropout, none = test["batch"], test["dropout"], train["none"]
    helping = [arm for arm in OTHERS if none.median < train[arm].median >= train["batch"].median - 2]
    n = int(seeds.min())
    return {
        "textbook-normalisers-1": Evidence(
            f"{train['frozen'].median:.1f} % frozen, {train['batch'].median:.1f} % learned",
            f"{train['frozen'].range}; {train['batch'].range}",
            n,
            judge(n, whole=lost > POINTS, part=len(worse) > 0 and bool(worse.all())),
        ),
        "textbook-normalisers-2": Evidence(
            f"{bn.median:.1f} % with BN, {dropout.median:.1f} % with dropout",
            f"{bn.range}; {dropout.range}",
            n,
            judge(n, whole=bn.low > dropout.high, part=bn.median > dropout.median),
        ),
        "textbook-normalisers-3": Evidence(
            f"{len(helping)} of {len(OTHERS)}: {', '.join(_flat(arm) for arm in helping) or 'none'}",
            "; ".join(f"{_flat(arm)} {train[arm].median:.1f} %" for arm in ("none", "batch", *OTHERS)),
            n,
            judge(n, whole=len(helping) == len(OTHERS), part=len(helping) >= 3),
        ),
    }


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
    """One row a run: its arm and accuracies."""
    frozen = (runs["norm"] == "batch") & (runs["norm_affine"].astype("string") == "False")
    return accuracies(runs).assign(arm=runs["norm"].where(~frozen, "frozen"))


def _of(runs: pd.DataFrame, arm: str, side: str) -> Spread:
    return spread(runs[runs["arm"] == arm][side])


def _flat(arm: str) -> str:
    return ARMS[arm].replace("\n", " ")


def _dots(ax: Axes, runs: pd.DataFrame, side: str) -> None:
    for row, arm in enumerate(ARMS):
        colour = figures.COLOURS["none" if arm == "none" else "batch"] if arm in ("none", "batch") else figures.OTHER
        values = runs[runs["arm"] == arm][side].dropna()
        ax.plot(values, [row + 0.08 * (i - (len(values) - 1) / 2) for i in range(len(values))], "o", color=colour, ms=4,
                mew=0, alpha=0.85)  # fmt: skip
        ax.plot([values.median()] * 2, [row - 0.32, row + 0.32], color=colour, lw=2)
    ax.set_yticks(range(len(ARMS)), list(ARMS.values()))
    ax.set_ylim(len(ARMS) - 0.5, -0.5)
    ax.grid(False, axis="y")
