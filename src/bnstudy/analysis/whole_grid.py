"""ResNet-20 on all of CIFAR-10 over learning rates: its runs by where BN sits, and the rate that each place chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import figures, stats
from bnstudy.analysis.criteria import Need
from bnstudy.analysis.findings import Comparison
from bnstudy.analysis.frames import CHANCE, DASH, number, placed, spread

PLACES = ("*", "before_pooling", "none")  # where BN sits: everywhere, in one place, nowhere
DEAD = 12.0  # percent of the training images, below which a run that stalled tells nothing apart
MARKS = {"trained": ("o", True), "slow": ("v", False), "dead": ("s", False), "diverged": ("x", True)}

_WHERE = "depth == 20 and num_train == 45000 and epochs == 15"
NEEDS = {"runs": f"status in ('completed', 'diverged') and {_WHERE}", "splits": _WHERE}
SIZE = (9.8, 4.8)
SHOWN = (  # of a caption: what `draw` shows
    "15 epochs of the paper's recipe (augmented, rate divided by 10 at 50 % and 75 %) on 45,000 images. (a) Accuracy "
    "on the test images, (b) on the training images in evaluation mode, both after training; a mark a run, line: mean "
    "over the seeds that did not diverge. Triangles: slow (under 30 % during the last epoch), squares: dead (under "
    "12 %), crosses at the bottom: diverged. Dotted: the rate chosen by the mean accuracy on the 5,000 images held "
    "out, at which the claims compare test accuracies."
)
TRAINS = "Trains: 30 % of the training images in the last epoch."  # of a remark
CHOSEN = "Each arm's rate is that of highest mean accuracy on held-out images over the seeds; diverged: 10 %."
_INSIDE, _ALIVE = (
    {place: Need(f"{what}, BN {figures.PLACES[place][0]}", f"BN {figures.PLACES[place][0]}: {why}", below=0.5)
     for place in PLACES}
    for what, why in (
        ("number of rates chosen that are the grid's smallest or largest", "the rate chosen is at the grid's end"),
        ("number of runs at the rate chosen that do not train", "a seed does not train at the rate chosen"),
    )
)  # fmt: skip


def needs(places: Sequence[str]) -> tuple[Need, ...]:
    """Of each of the places: its rate is not at an end of the grid, and every seed trains at it."""
    return tuple(need[place] for place in places for need in (_INSIDE, _ALIVE))


def needed(runs: pd.DataFrame, places: Sequence[str]) -> dict[str, pd.Series]:
    """The quantities of `needs`, by seed."""
    quantities = {}
    for place in places:
        rate, rates = chosen(runs, place), runs.loc[runs["place"] == place, "lr"]
        rows = at(runs, place, rate)
        quantities[_INSIDE[place].of] = pd.Series(float(rate in (rates.min(), rates.max())), index=rows.index)
        quantities[_ALIVE[place].of] = (rows["kind"] != "trained").astype(float)
    return quantities


def by_run(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
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


def chosen(runs: pd.DataFrame, place: str) -> float | None:
    """The rate of highest mean held-out accuracy, of those that every seed of the place was run at; None without."""
    part = runs[runs["place"] == place]
    means = part.groupby("lr")["held_out"].agg(["mean", "count"])
    means = means[means["count"] == part["seed"].nunique()]
    return float(means.index.to_numpy()[means["mean"].argmax()]) if len(means) else None


def at(runs: pd.DataFrame, place: str, rate: float | None) -> pd.DataFrame:
    """The runs of a place at a rate, by seed."""
    return runs[(runs["place"] == place) & (runs["lr"] == rate)].set_index("seed")


def draw(fig: Figure, runs: pd.DataFrame, places: Sequence[str]) -> None:
    """Accuracies against the rate, on the test and on the training images, with the rate that each place chooses."""
    left, right = fig.subplots(1, 2, sharey=True)
    for ax, side, title, letter in (
        (left, "test", "test accuracy", "a"),
        (right, "train", "training accuracy, evaluation mode", "b"),
    ):
        for row, place in enumerate(places):
            _accuracies(ax, runs[runs["place"] == place], side, place, 2.0 * (1 + row))
            if (rate := chosen(runs, place)) is not None:
                ax.axvline(rate, color=figures.PLACES[place][1], lw=0.9, ls=":", zorder=1)
        ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
        figures.plain_log(ax, "x")
        ax.set_xlabel("learning rate")
        ax.set_ylim(0, 101)
        figures.panel(ax, letter, title)
    left.set_ylabel("accuracy (%)")
    handles = []
    for place in places:
        label, colour, dashes = figures.PLACES[place]
        handles.append(figures.entry(f"BN {label}", "o", colour=colour, ls=dashes, lw=1.3))
    handles += [figures.entry(name, mark, filled=filled) for name, (mark, filled) in MARKS.items() if name != "trained"]
    handles += [figures.entry("rate chosen", ls=":", lw=0.9), figures.entry("guessing", ls=figures.DASHED, lw=0.9)]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def numbers(runs: pd.DataFrame, places: Sequence[str]) -> list[Comparison]:
    """A line per rate for the chosen rates and the test accuracies, and one more for each place between the arms."""
    between = [place for place in places if place not in ("*", "none")]
    rates = {place: number(chosen(runs, place) or math.nan) for place in places}
    lines = [Comparison("rate chosen", DASH, DASH, rates["*"], rates["none"])]
    lines += [Comparison(f"rate chosen{_aside(place)}", DASH, DASH, rates[place], DASH) for place in between]
    for rate in sorted(float(rate) for rate in runs["lr"].unique()):
        label = f"test accuracy at {number(rate)} (%)"
        lines.append(Comparison(label, DASH, DASH, *(_accuracy(at(runs, place, rate)) for place in ("*", "none"))))
        for place in between:
            ours = _accuracy(at(runs, place, rate))
            lines.append(Comparison(f"{label}{_aside(place)}", DASH, DASH, ours, DASH))
    return lines


def _aside(place: str) -> str:
    return f", BN {figures.PLACES[place][0]}"


def _accuracy(rows: pd.DataFrame) -> str:
    """Mean and range over seeds, and how many seeds did not train."""
    counts = {name: int((rows["kind"] == name).sum()) for name in MARKS if name != "trained"}
    counted = [f"{count} {name}" for name, count in counts.items() if count]
    return "; ".join([str(spread(rows["test"])), *counted]) if len(rows) else DASH


def _accuracies(ax: Axes, runs: pd.DataFrame, side: str, place: str, bottom: float) -> None:
    """A mark a run, those that diverged at `bottom`, and the means of the others."""
    _, colour, dashes = figures.PLACES[place]
    alive = runs[runs["kind"] != "diverged"].dropna(subset=[side])
    if len(alive):
        means = stats.over_seeds(alive, ["lr"], side)
        ax.plot(means["lr"], means["mean"], color=colour, lw=1.3, ls=dashes)
    for kind, (mark, filled) in MARKS.items():
        rows = runs[runs["kind"] == kind]
        y = rows[side] if kind != "diverged" else [bottom] * len(rows)
        ax.plot(rows["lr"], y, mark, color=colour, mfc=colour if filled else "white", ms=4, mew=1, ls="")
