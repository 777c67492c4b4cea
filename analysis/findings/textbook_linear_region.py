"""Does BN confine sigmoids to their linear region, and do gamma and beta undo that in training?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, spread
from bnstudy.analysis.stats import Scale

BOUND = 1.3  # the probe's
NORMAL = 100 * math.erf(BOUND / math.sqrt(2))  # percent of a normal law of variance 1 within the bound: 80.6
MARGIN = 5  # points
EPOCHS = 10
BEFORE = Part(
    "share of the sigmoids' inputs within 1.3 of 0 before training, with BN less without", above=0, unit="points"
)  # fmt: skip
LOWER = Part("that share with BN after ten epochs less before training", below=-MARGIN, unit="points")

TITLE = "Sigmoids in their linear region, with BN and without"
CAPTION = (
    "Perceptron of 784-256-10 with sigmoids on Fashion-MNIST, plain SGD, learning rate 0.1, batches of 256, ten epochs "
    "(preset quick: three). Share of the 256 hidden sigmoids' inputs, on 256 training images, that lie within 1.3 of "
    "0. (a) After each epoch: every seed (thin), mean (thick), 95 % interval (band); dotted: a normal law of variance "
    "1 (80.6 %). (b) The share before training with BN less without, and with BN after training less before: one dot a "
    "seed, bar: mean with 95 % interval; dotted: 5 points less. (c) With BN, each hidden unit's gamma and beta after "
    "training, all seeds; cross: where they began."
)
SWEEP = "textbook_linear_region"
NEEDS = {
    "linear_region": "depth == 1",
    "norm_parameters": "norm == 'batch' and (quantity == 'weight' or quantity == 'bias')",
}
SIZE = (10.8, 4.1)
CLAIMS = (
    Claim(
        id="textbook-linear-region",
        origin="course",
        where="a course page on BN in a perceptron",
        scale="textbook",
        says="BN confines sigmoids to their linear region, which gamma and beta can undo.",
        criterion=Criterion(
            (BEFORE, LOWER),
            partial=1,
            remark="Changed after a look: with BN the share was compared with a normal law's, 80.6 %, which it has by "
            "construction, and not with what is there without BN.",
        ),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    along, change, learned = fig.subplots(1, 3)
    rows = _rows(frames)
    along.axhline(NORMAL, color=figures.MUTED, lw=1, ls=":", label="normal law of variance 1")
    for arm in ARMS:
        part = rows[rows["norm"] == arm]
        for _, of in part.groupby("seed"):
            along.plot(of["epoch"], of["percent"], color=figures.COLOURS[arm], lw=0.6, alpha=0.5)
        figures.band(along, stats.over_seeds(part, ["epoch"], "percent"), "epoch", arm, lw=2)
    along.set_xlabel("epoch")
    along.set_ylabel("inputs within 1.3 of 0 (%)")
    figures.panel(along, "a", "share near 0 along training")
    fig.legend(handles=along.get_legend_handles_labels()[0], loc="outside lower center", ncols=3)
    judged = {
        "before training,\nwith BN less without": _apart(rows),
        "with BN, after\ntraining less before": _change(rows, "batch"),
    }
    for place, values in enumerate(judged.values()):
        figures.seeds(change, place, values, "batch", scale=Scale.plain)
    change.axhline(0, color=figures.MUTED, lw=0.8)
    change.axhline(-MARGIN, color=figures.MUTED, lw=1, ls=":")
    change.set_xticks(range(len(judged)), list(judged))
    change.set_xlim(-0.6, len(judged) - 0.4)
    change.set_ylabel("share within 1.3 of 0, difference (points)")
    figures.panel(change, "b", "as judged")
    _learned(learned, frames["norm_parameters"])
    figures.panel(learned, "c", "gamma and beta after training")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = _rows(frames)
    rows = rows[rows["epochs"] >= EPOCHS]
    values = {BEFORE.key: _apart(rows), LOWER.key: _change(rows, "batch")}
    return {"textbook-linear-region": {key: criteria.single(of) for key, of in values.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    rows = _rows(frames)
    when = {"before training": False, "after training": True}
    return [
        Comparison(f"inputs within 1.3 of 0 (%), {text}", DASH, DASH,
                   *(str(spread(_at(rows, arm, last=last))) for arm in ARMS))
        for text, last in when.items()
    ]  # fmt: skip


def _rows(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`percent` of the inputs, by `epoch`."""
    rows = frames["linear_region"].sort_values("step", kind="stable")
    per_epoch = rows["step"].max() / rows["epochs"].max()
    return rows.assign(percent=100 * rows["share"], epoch=rows["step"] / per_epoch)


def _apart(rows: pd.DataFrame) -> pd.Series:
    """By how many points the share before training is larger with BN, by seed."""
    return stats.effect(_at(rows, "batch", last=False), _at(rows, "none", last=False))


def _at(rows: pd.DataFrame, arm: str, *, last: bool) -> pd.Series:
    """Percent by seed, before training or after it."""
    of = rows[rows["norm"] == arm]
    at = of["step"] == (of.groupby("run_id")["step"].transform("max") if last else 0)
    return of[at].set_index("seed")["percent"]


def _change(rows: pd.DataFrame, arm: str) -> pd.Series:
    return stats.effect(_at(rows, arm, last=True), _at(rows, arm, last=False))


def _learned(ax: Axes, parameters: pd.DataFrame) -> None:
    """A dot per hidden unit and seed."""
    last = parameters[parameters["step"] == parameters.groupby("run_id")["step"].transform("max")]
    wide = last.pivot(index=["seed", "channel"], columns="quantity", values="value")
    ax.plot(wide["weight"], wide["bias"], "o", color=figures.COLOURS["batch"], ms=1.6, mew=0, alpha=0.35)
    ax.plot([1], [0], "+", color=figures.INK, ms=10, mew=1.5)
    ax.set_xlabel("gamma, the inputs' standard deviation")
    ax.set_ylabel("beta, their mean")
