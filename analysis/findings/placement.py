"""Where BN has to sit: everywhere, at its end, in one stage (Bjorck et al. 2018, section 3.1, appendix E)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.figures import PLACES
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import CHANCE, DASH, Spread, number, placed, spread
from bnstudy.analysis.stats import Scale

STAGES = ("stage1.*", "stage2.*", "stage3.*")

TITLE = "Where does BN have to sit?"
CAPTION = (
    "The same network with BN everywhere, in one place alone, or nowhere. (a) Accuracy on the test images after "
    "training, against the learning rate; mean over seeds (line), one mark a run: hollow triangles have not learned 30 "
    "% of the training images, crosses diverged; dashed: chance. (b) Share of BN's gain that each place gives: at each "
    "arm's rate of highest mean accuracy, its accuracy above that without BN, over that of BN everywhere; one mark a "
    "seed, bar: mean with 95 % interval; grey: what claim 10 allows. All arms are trained equally long."
)
SWEEP = "placement"
NEEDS = {"runs": "model == 'resnet' and status in ('completed', 'diverged')"}
SIZE = (10.4, 4.6)
WHERE = "Section 3.1, appendix E"
WHOLE, PART = (0.5, 0.85), (0.25, 1.0)
GAINED = Need("gain of BN everywhere over none", "BN everywhere gains nothing over none", above=0)
INSIDE = Need(
    "number of arms whose best rate is at an end of the grid", "a best rate at the grid's edge is no optimum", below=1
)
TRAINED = Need(
    "training accuracy without BN at its best rate (%)", "the network without BN does not train at any rate", above=30
)  # fmt: skip
NEEDS_OF = (GAINED, INSIDE, TRAINED)
SHARE = Part("share of BN's gain", above=WHOLE[0], below=WHOLE[1])
LATER = {
    stage: Part("by how much larger that share is than one stage earlier", above=0, at=f"stage {number}")
    for number, stage in ((2, STAGES[1]), (3, STAGES[2]))
}
RULE = (
    "Of test accuracies after training, each arm at its best rate (of highest mean; a diverged run counts 10 %), seed "
    "by seed: (this less none) over (everywhere less none)."
)
MARKS = {"trained": ("o", ""), "stalled": ("v", "white"), "diverged": ("x", "")}  # by outcome: mark, its face
OF_ONE = Criterion(
    (SHARE,), partial=(Part(SHARE.of, above=PART[0], below=PART[1]),), needs=NEEDS_OF, remark=RULE
)  # fmt: skip
CLAIMS = (
    Claim(
        id="10",
        origin="paper",
        where=WHERE,
        scale="paper",
        says="One BN layer at the very end gives about two thirds of BN's gain.",
        criterion=replace(OF_ONE, remark=f"BN before the pooling. {RULE}"),
        published="90.1 % at rates up to 0.03 (recalled), of 81.9 to 93.2 %: 0.73",
    ),
    Claim(
        id="10-classifier",
        where=WHERE,
        scale="paper",
        says="The same where that layer sits after the classifier.",
        criterion=replace(OF_ONE, remark=f"BN after the classifier. {RULE}"),
        published="which of the two places is meant is recalled only",
    ),
    Claim(
        id="10-stages",
        where=f"{WHERE}, carried on",
        scale="paper",
        says="Of single stages, the nearer to the end the one with BN is, the more of BN's gain it gives.",
        criterion=Criterion(tuple(LATER.values()), partial=1, needs=NEEDS_OF, remark=RULE),
        published="not in the paper",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = _runs(frames)
    left, right = fig.subplots(1, 2, width_ratios=(1.25, 1))
    _rates(left, runs)
    figures.panel(left, "a", "test accuracy against the learning rate")
    right.axhspan(*WHOLE, color=figures.FAINT, alpha=0.6, lw=0, zorder=0)
    right.axhline(1, color=PLACES["*"][1], lw=0.9, ls=(0, (3, 2)), zorder=1)
    right.axhline(0, color=PLACES["none"][1], lw=0.9, ls=(0, (3, 2)), zorder=1)
    inner = [place for place in PLACES if place not in ("*", "none")]
    for x, place in enumerate(inner):
        share = _shares(runs, place)
        figures.seeds(right, x, share, "batch", spacing=0.07, scale=Scale.plain, colour=PLACES[place][1])
    right.set_xticks(range(len(inner)), [PLACES[place][0].replace(" ", "\n", 1) for place in inner])
    right.set_xlim(-0.5, len(inner) - 0.5)
    right.set_ylabel("share of BN's gain")
    right.grid(False, axis="x")
    figures.panel(right, "b", "what one place gives")
    handles = [Line2D([], [], color=c, ls=dashes, marker="o", ms=3.5, label=t) for t, c, dashes in PLACES.values()]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), title="BN")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _runs(frames)
    share = {place: _shares(runs, place) for place in PLACES}

    def needed(places: Sequence[str]) -> dict[str, Sample]:
        gained = stats.effect(_by_seed(runs, "*"), _by_seed(runs, "none"))
        ends = {runs["lr"].min(), runs["lr"].max()}
        edges = sum(_best(runs, place) in ends for place in (*places, "*", "none"))
        trained = 100 * _by_seed(runs, "none", "final_train_accuracy")
        return {
            GAINED.of: criteria.single(gained),
            INSIDE.of: criteria.single(pd.Series(edges, index=gained.index)),
            TRAINED.of: criteria.single(trained),
        }

    of_one = {
        claim: {SHARE.key: criteria.single(share[place]), **needed([place])}
        for claim, place in (("10", "before_pooling"), ("10-classifier", "after_classifier"))
    }
    before = dict(zip(STAGES[1:], STAGES, strict=False))
    later = {
        part.key: criteria.single(stats.effect(share[place], share[before[place]])) for place, part in LATER.items()
    }
    return {**of_one, "10-stages": {**later, **needed(STAGES)}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _runs(frames)
    paper = {"before_pooling": "90.1 (recalled)", "*": "93.2", "none": "81.9"}
    lines = []
    for place, (label, _, _) in PLACES.items():
        cells = (f"{_at_best(runs, place)} at {number(_best(runs, place))}", DASH)
        published = (paper.get(place, ""), "")
        if place == "none":
            cells, published = cells[::-1], published[::-1]
        lines.append(Comparison(f"test accuracy at the best rate (%), BN {label}", *published, *cells))
    return lines


def _runs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """With `place`, and `percent`, the test accuracy after training; a diverged run's is chance."""
    runs = placed(frames["runs"])
    percent = (100 * runs["final_test_accuracy"]).where(runs["outcome"] != "diverged", CHANCE)
    return runs.assign(percent=percent)


def _best(runs: pd.DataFrame, place: str) -> float:
    """The rate at which the place's mean accuracy is highest."""
    means = runs[runs["place"] == place].groupby("lr")["percent"].mean()
    return float(means.index.to_numpy()[means.argmax()]) if len(means) else math.nan


def _by_seed(runs: pd.DataFrame, place: str, value: str = "percent") -> pd.Series[float]:
    """Test accuracy, or another column, at the place's best rate."""
    rows = runs[(runs["place"] == place) & (runs["lr"] == _best(runs, place))]
    return rows.set_index("seed")[value].sort_index()


def _at_best(runs: pd.DataFrame, place: str) -> Spread:
    return spread(_by_seed(runs, place))


def _shares(runs: pd.DataFrame, place: str) -> pd.Series[float]:
    """(place - none) / (everywhere - none), seed by seed."""
    here, everywhere, nowhere = (_by_seed(runs, each) for each in (place, "*", "none"))
    share = (here - nowhere) / (everywhere - nowhere)
    return share[share.abs() < math.inf]


def _rates(ax: Axes, runs: pd.DataFrame) -> None:
    rates = sorted(runs["lr"].unique())
    ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)), zorder=1)
    for index, (place, (_, colour, dashes)) in enumerate(PLACES.items()):
        part = runs[runs["place"] == place]
        side = 1.035 ** (index - 3)  # side by side at each rate
        means = stats.over_seeds(part, ["lr"], "percent")
        ax.plot(means["lr"] * side, means["mean"], color=colour, ls=dashes, lw=1.3)
        for outcome, (marker, face) in MARKS.items():
            rows = part[part["outcome"] == outcome]
            ax.plot(rows["lr"] * side, rows["percent"], marker, color=colour, mfc=face or colour, ms=3.8, zorder=4)
    ax.set_xscale("log")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.set_xlabel("learning rate")
    ax.set_ylabel("test accuracy (%)")
