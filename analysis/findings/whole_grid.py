"""The learning-rate grid on all of CIFAR-10, rates chosen on held-out images (Bjorck et al. 2018, sections 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, HoldsFor, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import CHANCE, DASH, number, placed, spread

PLACES = ("*", "before_pooling", "none")  # where BN sits
DEAD = 12.0  # percent of the training images, below which a run that stalled tells nothing apart
MARKS = {"trained": ("o", True), "slow": ("v", False), "dead": ("s", False), "diverged": ("x", True)}

TITLE = "ResNet-20 on all of CIFAR-10: accuracy against the learning rate"
CAPTION = (
    "15 epochs of the paper's recipe (augmented, rate divided by 10 at 50 % and 75 %) on 45,000 images, BN everywhere, "
    "once before the pooling, and nowhere. (a) Accuracy on the test images, (b) on the training images in evaluation "
    "mode, both after training; a mark a run, line: mean over the seeds that did not diverge. Triangles: slow (under "
    "30 % during the last epoch), squares: dead (under 12 %), crosses at the bottom: diverged. Dotted: the rate chosen "
    "by the mean accuracy on the 5,000 images held out, at which the claims compare test accuracies."
)
SWEEP = "whole_grid"
_WHERE = "depth == 20 and num_train == 45000 and epochs == 15"
NEEDS = {"runs": f"status in ('completed', 'diverged') and {_WHERE}", "splits": _WHERE}
SIZE = (9.8, 4.8)
GAIN = Part("test accuracy with BN everywhere at its rate less at the rate of the network without", above=0,
            unit="points")  # fmt: skip
ALONE = Part("whether the network without BN trains at the rate of BN everywhere (1) or not (0)", below=0.5,
             holds_for=HoldsFor.every)  # fmt: skip
LOST, UNUSED = (
    Part(f"rates at which every seed trains with BN everywhere and {what}", above=0.5, holds_for=HoldsFor.every)
    for what in ("every seed diverges without", "none trains without")
)
_SHARE = "share (before the pooling - nowhere) / (everywhere - nowhere) of the test accuracies"
SHARE, SHARE_PARTLY = (Part(_SHARE, above=low, below=high) for low, high in ((0.5, 0.85), (0.25, 1.0)))
CONTROL = Need("rates at which every seed trains without BN", "without BN no rate trains in every seed", above=0.5)
OTHER = Need("rates that BN everywhere and nowhere both choose", "both arms choose the same rate", below=0.5)
GAINED = Need("gain of BN everywhere over nowhere", "BN everywhere is not above nowhere", above=0)
INSIDE, TRAINS = (
    {place: Need(f"{what}, BN {figures.PLACES[place][0]}", f"BN {figures.PLACES[place][0]}: {why}", below=0.5)
     for place in PLACES}
    for what, why in (
        ("rates chosen that are the grid's smallest or largest", "the rate chosen is at the grid's end"),
        ("runs at the rate chosen that do not train", "a seed does not train at the rate chosen"),
    )
)  # fmt: skip
_CHOSEN = "Each arm's rate is that of highest mean accuracy on held-out images over the seeds; diverged: 10 %."
_TRAINS = "Trains: 30 % of the training images in the last epoch."


def _needs(*places: str) -> tuple[Need, ...]:
    return tuple(need[place] for place in places for need in (INSIDE, TRAINS))


CLAIMS = (
    Claim(
        id="2-best-grid",
        origin="paper",
        where="Section 2.1",
        scale="ResNet-20, 15 epochs",
        says="The gain of BN comes with larger learning rates: its best is one that does not train without BN.",
        criterion=Criterion(
            (GAIN, ALONE), partial=(GAIN,), needs=(*_needs("*", "none"), OTHER), remark=f"{_CHOSEN} {_TRAINS}"
        ),
        published="93.2 % at 0.1, which diverges without BN; 81.3 % at 0.0001 (ResNet-110)",
    ),
    Claim(
        id="4-grid",
        origin="paper",
        where="Section 3, text",
        scale="ResNet-20, 15 epochs",
        says="Without BN larger learning rates cannot be used: training diverges.",
        criterion=Criterion((LOST,), partial=(UNUSED,), needs=(CONTROL,), remark=_TRAINS),
        published="0.1 (ResNet-110)",
    ),
    Claim(
        id="10-grid",
        origin="paper",
        where="Section 3.1, appendix E",
        scale="ResNet-20, 15 epochs",
        says="One BN layer at the very end gives about two thirds of BN's gain.",
        criterion=Criterion(
            (SHARE,), partial=(SHARE_PARTLY,), needs=(*_needs(*PLACES), GAINED), remark=f"{_CHOSEN} {_TRAINS}"
        ),
        published="90.1 % at rates up to 0.03 (recalled), of 81.9 to 93.2 %: 0.73",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = _runs(frames)
    chosen = {place: _chosen(runs, place) for place in PLACES}
    left, right = fig.subplots(1, 2, sharey=True)
    for ax, side, title, letter in (
        (left, "test", "test accuracy", "a"),
        (right, "train", "training accuracy, evaluation mode", "b"),
    ):
        for place in PLACES:
            _accuracies(ax, runs[runs["place"] == place], side, place)
            if chosen[place] is not None:
                ax.axvline(chosen[place], color=figures.PLACES[place][1], lw=0.9, ls=":", zorder=1)
        ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
        ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylim(0, 101)
        figures.panel(ax, letter, title)
    left.set_ylabel("accuracy (%)")
    handles = [
        *(figures.entry(figures.PLACES[p][0], "o", colour=figures.PLACES[p][1], ls="-", lw=1.3) for p in PLACES),
        *(figures.entry(name, mark, filled=filled) for name, (mark, filled) in MARKS.items() if name != "trained"),
        figures.entry("rate chosen", ls=":", lw=0.9),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=7)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _runs(frames)
    chosen = {place: _chosen(runs, place) for place in PLACES}
    at = {place: _at(runs, place, rate) for place, rate in chosen.items()}
    everywhere = stats.effect(at["*"]["test"], at["none"]["test"])
    one = stats.effect(at["before_pooling"]["test"], at["none"]["test"])
    gained = stats.effect(at["*"]["test"], _at(runs, "*", chosen["none"])["test"])
    quantities = {
        GAIN.key: gained,
        ALONE.key: (_at(runs, "none", chosen["*"])["kind"] == "trained").astype(float).reindex(gained.index),
        SHARE.key: one / everywhere,
        GAINED.of: everywhere,
        OTHER.of: pd.Series(float(chosen["*"] == chosen["none"]), index=gained.index),
        **_by_rate(runs),
    }
    for place in PLACES:
        rates = runs.loc[runs["place"] == place, "lr"]
        at_end = float(chosen[place] in (rates.min(), rates.max()))
        quantities[INSIDE[place].of] = pd.Series(at_end, index=at[place].index)
        quantities[TRAINS[place].of] = (at[place]["kind"] != "trained").astype(float)
    samples = {name: criteria.single(of) for name, of in quantities.items()}
    return {claim.id: samples for claim in CLAIMS}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _runs(frames)
    chosen = {place: number(_chosen(runs, place) or math.nan) for place in PLACES}
    lines = [Comparison("rate chosen", DASH, DASH, chosen["*"], chosen["none"])]
    lines.append(Comparison("rate chosen, BN before the pooling", DASH, DASH, chosen["before_pooling"], DASH))
    for rate in sorted(runs["lr"].unique()):
        for place in PLACES:
            part = runs[(runs["place"] == place) & (runs["lr"] == rate)]
            counts = {name: int((part["kind"] == name).sum()) for name in MARKS if name != "trained"}
            parts = [str(spread(part["test"])), *(f"{count} {name}" for name, count in counts.items() if count)]
            ours = ["; ".join(parts) if len(part) else DASH, DASH]
            label = f"test accuracy at {number(float(rate))} (%), BN {figures.PLACES[place][0]}"
            lines.append(Comparison(label, DASH, DASH, *(ours if place != "none" else reversed(ours))))
    return lines


def _runs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per run: place, lr, seed, accuracies in percent (train, held_out, test; a diverged run guesses), kind."""
    runs = placed(frames["runs"]).set_index("run_id")
    lost = runs["outcome"] == "diverged"
    accuracies = {"test": 100 * runs["final_test_accuracy"]}
    for name in ("train", "held_out"):
        rows = frames["splits"][frames["splits"]["split"] == name].set_index("run_id")["accuracy"]
        accuracies[name] = 100 * rows.reindex(runs.index)
    kind = runs["outcome"].replace("stalled", "slow")
    kind = kind.mask((kind == "slow") & (100 * runs["final_train_accuracy"] < DEAD), "dead")
    return runs.assign(kind=kind, **{name: values.mask(lost, CHANCE) for name, values in accuracies.items()})


def _chosen(runs: pd.DataFrame, place: str) -> float | None:
    """The rate of highest mean held-out accuracy, of those that every seed of the place was run at; None without."""
    part = runs[runs["place"] == place]
    means = part.groupby("lr")["held_out"].agg(["mean", "count"])
    means = means[means["count"] == part["seed"].nunique()]
    return float(means.index.to_numpy()[means["mean"].argmax()]) if len(means) else None


def _at(runs: pd.DataFrame, place: str, rate: float | None) -> pd.DataFrame:
    return runs[(runs["place"] == place) & (runs["lr"] == rate)].set_index("seed")


def _by_rate(runs: pd.DataFrame) -> dict[str, pd.Series]:
    """How many rates both arms were run at have what LOST, UNUSED and CONTROL name, the same for every seed."""
    rates = [float(rate) for rate in sorted(runs["lr"].unique())]
    kinds = {rate: [_at(runs, place, rate)["kind"] for place in ("*", "none")] for rate in rates}
    both = {rate: pair for rate, pair in kinds.items() if all(map(len, pair))}
    seeds = set.intersection(*(set(of.index) for pair in both.values() for of in pair)) if both else set()
    used = [without for with_bn, without in both.values() if (with_bn == "trained").all()]
    counts = {
        LOST.key: sum((of == "diverged").all() for of in used),
        UNUSED.key: sum(not (of == "trained").any() for of in used),
        CONTROL.of: sum((without == "trained").all() for _, without in both.values()),
    }
    return {name: pd.Series(float(count), index=sorted(seeds), dtype=float) for name, count in counts.items()}


def _accuracies(ax: Axes, runs: pd.DataFrame, side: str, place: str) -> None:
    _, colour, dashes = figures.PLACES[place]
    alive = runs[runs["kind"] != "diverged"].dropna(subset=[side])
    if len(alive):
        means = stats.over_seeds(alive, ["lr"], side)
        ax.plot(means["lr"], means["mean"], color=colour, lw=1.3, ls=dashes)
    for kind, (mark, filled) in MARKS.items():
        rows = runs[runs["kind"] == kind]
        y = rows[side] if kind != "diverged" else [3 * (1 + PLACES.index(place)) / 1.5] * len(rows)
        ax.plot(rows["lr"], y, mark, color=colour, mfc=colour if filled else "white", ms=4, mew=1, ls="")
