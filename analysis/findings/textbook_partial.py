"""A tutorial's network with BN behind two of its layers: what each of them gives, and what its last ReLU costs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison, Evidence, claim, judge
from bnstudy.analysis.frames import DASH, spread

# Where BN stands: its arm in the tables, colour and line.
PLACES = {
    "both": ("behind conv2 and dense1", figures.COLOURS["batch"], "-"),
    "norm2": ("behind conv2", figures.COLOURS["batch"], "--"),
    "norm3": ("behind dense1", figures.COLOURS["batch"], ":"),
    "none": ("nowhere", figures.COLOURS["none"], "-"),
}
HEADS = {True: "with the tutorial's last ReLU", False: "without it"}
CAPPED = 0.05  # a class of ten that is never predicted costs ten points; half of that is the mark
EPOCHS = 10
BETTER = {
    moment: Part("test accuracy with BN behind both less without", above=0, unit="points", at=f"the {moment} epoch")
    for moment in ("first", "last")
}
WORSE = {
    place: Part("training loss less that with both", above=0, at=f"BN {PLACES[place][0]}")
    for place in ("norm2", "norm3")
}

TITLE = "A tutorial's network: BN behind two layers, one, or none"
CAPTION = (
    "Convolutions of 10 and 20, dense layers of 50 and 10 on Fashion-MNIST, ReLU, learning rate 0.1, batches of 256. "
    "The tutorial's log-softmax is part of the loss; its ReLU on the classifier's outputs is kept in (a) and left out "
    "in (b). Test accuracy after each epoch, mean (line) over seeds and 95 % interval (bar). (c) Training loss in the "
    "last epoch, one dot a run, filled: with the ReLU, hollow: without; line: mean with 95 % interval."
)
SWEEP = "textbook_tutorial"
NEEDS = {"epochs": None}
SIZE = (10.8, 4.0)
WHERE = "a tutorial's network of two convolutions and two dense layers, BN behind the second and the third"
CLAIMS = (
    Claim(
        id="textbook-partial-1",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="BN behind these two layers makes the network train faster and better.",
        criterion=Criterion(tuple(BETTER.values()), partial=1, remark="Without the last ReLU."),
    ),
    Claim(
        id="textbook-partial-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Every layer's BN counts: with one of the two the network trains worse than with both.",
        criterion=Criterion(tuple(WORSE.values()), partial=1, remark="Without the last ReLU, last epoch."),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = _named(frames["epochs"])
    first, second, third = fig.subplots(1, 3)
    second.sharey(first)
    for ax, (rectified, title), letter in zip((first, second), HEADS.items(), "ab", strict=True):
        _curves(ax, rows[rows["rectified_outputs"] == rectified])
        figures.panel(ax, letter, title)
    first.set_ylabel("test accuracy (%)")
    second.legend(title="BN", loc="lower right", handlelength=2.6)
    _losses(third, _last(rows))
    figures.panel(third, "c", "training loss in the last epoch")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = _plain(_named(frames["epochs"]))
    rows = rows[rows["epochs"] >= EPOCHS]
    moments = {"first": rows[rows["epoch"] == 1], "last": _last(rows)}

    def at(moment: str, place: str, value: str) -> pd.Series:
        return moments[moment][moments[moment]["place"] == place].set_index("seed")[value]

    better = {m: stats.effect(at(m, "both", "test"), at(m, "none", "test")) for m in BETTER}
    last = {place: at("last", place, "train_loss") for place in PLACES}
    return {
        "textbook-partial-1": {part.key: criteria.single(better[moment]) for moment, part in BETTER.items()},
        "textbook-partial-2": {
            part.key: criteria.single(stats.effect(last[place], last["both"])) for place, part in WORSE.items()
        },
    }


@claim(
    id="textbook-partial-3",
    where="noticed in the tutorial's code",
    scale="textbook",
    says="The ReLU on the classifier's outputs can switch a class off for good.",
    criterion="With the last ReLU, training accuracy in the last epoch at least 5 points below that of the same "
    "place and seed without it: in at least half of all pairs (reproduced), in any (partly).",
)
def switched_off(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    last = _last(_named(frames["epochs"]))
    n = _seeds(last) if last["epoch"].min() >= EPOCHS else 0
    gaps = _gaps(last)
    lost = gaps >= 100 * CAPPED
    return Evidence(
        f"in {int(lost.sum())} of {len(lost)} pairs",
        f"{spread(gaps).range} points" if len(gaps) else "",
        n,
        judge(n, full=len(lost) > 0 and lost.mean() >= 0.5, partial=bool(lost.any())),
    )


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    last = _last(_named(frames["epochs"]))
    lines = []
    for rectified, head in HEADS.items():
        part = last[last["rectified_outputs"] == rectified]
        for place, (where, _, _) in PLACES.items():
            value = str(spread(part[part["place"] == place]["test"]))
            ours = (DASH, value) if place == "none" else (value, DASH)
            lines.append(Comparison(f"test accuracy (%), BN {where}, {head}", DASH, DASH, *ours))
    return lines


def _named(epochs: pd.DataFrame) -> pd.DataFrame:
    """With where BN stands, and the accuracies in percent."""
    place = epochs["norm_where"].where(epochs["norm_where"] != "*", "both").where(epochs["norm"] == "batch", "none")
    return epochs.assign(place=place, test=100 * epochs["test_accuracy"], train=100 * epochs["train_accuracy"])


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("epoch", kind="stable").groupby("run_id", observed=True).tail(1)


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the last ReLU."""
    return rows[~rows["rectified_outputs"].astype(bool)]


def _gaps(last: pd.DataFrame) -> pd.Series[float]:
    """Points of training accuracy that the last ReLU costs, by place and seed."""
    wide = last.pivot(index=["place", "seed"], columns="rectified_outputs", values="train")
    return (wide[False] - wide[True]).dropna() if len(wide.columns) == len(HEADS) else pd.Series(dtype=float)


def _seeds(last: pd.DataFrame) -> int:
    counts = last.groupby(["place", "rectified_outputs"])["seed"].nunique()
    return int(counts.min()) if len(counts) == len(PLACES) * len(HEADS) else 0


def _curves(ax: Axes, rows: pd.DataFrame) -> None:
    for index, (place, (where, colour, line)) in enumerate(PLACES.items()):
        part = stats.over_seeds(rows[rows["place"] == place], ["epoch"], "test")
        shift = 0.14 * (index - 1.5)
        figures.whiskers(ax, part, "epoch", "batch", label=where, shift=shift, colour=colour, ls=line, ms=2.5, lw=1.2)
    ax.set_xlabel("epoch")


def _losses(ax: Axes, last: pd.DataFrame) -> None:
    for index, (place, (_, colour, _)) in enumerate(PLACES.items()):
        for rectified, shift, face in ((True, -0.15, colour), (False, 0.15, "white")):
            part = last[(last["place"] == place) & (last["rectified_outputs"] == rectified)]["train_loss"]
            x = [index + shift + 0.03 * (i - (len(part) - 1) / 2) for i in range(len(part))]
            ax.plot(x, part, "o", color=colour, mfc=face, ms=4.4, mew=1.1)
            of = stats.interval(part)
            if of.n > 1:
                ax.fill_between([index + shift - 0.12, index + shift + 0.12], of.low, of.high, color=colour, alpha=0.25,
                                lw=0)  # fmt: skip
            ax.plot([index + shift - 0.12, index + shift + 0.12], [of.mean] * 2, color=colour, lw=1.6)
    ax.set_xticks(range(len(PLACES)), [where.replace(" and ", "\nand ") for where, _, _ in PLACES.values()], fontsize=7)
    ax.set_ylim(bottom=0)
    names = {True: "with the last ReLU", False: "without it"}
    ax.legend(handles=[figures.entry(name, "o", filled=filled) for filled, name in names.items()], loc="lower left")
    ax.set_ylabel("loss")
    ax.grid(False, axis="x")
