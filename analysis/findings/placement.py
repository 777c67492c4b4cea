"""Where BN has to sit: everywhere, at its end, in one stage (Bjorck et al. 2018, section 3.1, appendix E)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy import figures
from bnstudy.figures import PLACES
from bnstudy.findings import Claim, Comparison, Evidence, Verdict, judge
from bnstudy.frames import DASH, Spread, number, over_seeds, placed, spread

CHANCE = 10  # per cent, of ten classes
STAGES = ("stage1.*", "stage2.*", "stage3.*")

TITLE = "Where does BN have to sit?"
CAPTION = (
    "The same network with BN everywhere, in one place alone, or nowhere. (a) Accuracy on the test images after "
    "training, against the learning rate; median over seeds (line), one mark a run; crosses, at chance: diverged. "
    "(b) Part of BN's gain that each place gives: at each arm's rate of highest median accuracy, its accuracy above "
    "that without BN, over that of BN everywhere; one mark a seed, bar: median; grey: what claim 10 allows. All arms "
    "are trained equally long."
)
SWEEP = "placement"
NEEDS = {"runs": "model == 'resnet' and status in ('completed', 'diverged')"}
SIZE = (10.4, 4.6)
WHERE = "Section 3.1, appendix E"
WHOLE, PART = (0.5, 0.85), (0.25, 1.0)
_SHARE = (
    "of the test accuracies after training at each arm's best rate (the grid's highest median over seeds, a diverged "
    "run counting 10 %), (this - none) / (everywhere - none) of the medians"
)
_NO_GAIN = "Undecided where BN everywhere is not above no BN in every pair of one seed."
CLAIMS = (
    Claim(
        id="10",
        origin="paper",
        where=WHERE,
        scale="paper",
        says="One BN layer at the very end gives about two thirds of BN's gain.",
        criterion=f"BN before the pooling: {_SHARE}, lies between {WHOLE[0]} and {WHOLE[1]} (reproduced), between "
        f"{PART[0]} and {PART[1]} (partly). {_NO_GAIN}",
        published="90.1 % at rates up to 0.03 (recalled), of 81.9 to 93.2 %: 0.73",
    ),
    Claim(
        id="10-classifier",
        where=WHERE,
        scale="paper",
        says="The same where that layer sits after the classifier.",
        criterion=f"BN after the classifier: judged as claim 10. {_NO_GAIN}",
        published="which of the two places is meant is recalled only",
    ),
    Claim(
        id="10-stages",
        where=f"{WHERE}, carried on",
        scale="paper",
        says="Of single stages, the nearer to the end the one with BN is, the more of BN's gain it gives.",
        criterion=f"BN in one stage alone: {_SHARE}, rises from stage 1 to 2 to 3 (reproduced), is largest in stage 3 "
        f"(partly). {_NO_GAIN}",
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
        colour = PLACES[place][1]
        offsets = [0.07 * (i - (len(share) - 1) / 2) for i in range(len(share))]
        right.plot([x + o for o in offsets], share, "o", color=colour, ms=4, mew=0, alpha=0.85)
        right.plot([x - 0.22, x + 0.22], [share.median()] * 2, color=colour, lw=2)
    right.set_xticks(range(len(inner)), [PLACES[place][0].replace(" ", "\n", 1) for place in inner])
    right.set_xlim(-0.5, len(inner) - 0.5)
    right.set_ylabel("part of BN's gain")
    right.grid(False, axis="x")
    figures.panel(right, "b", "what one place gives")
    handles = [Line2D([], [], color=c, ls=dashes, marker="o", ms=3.5, label=t) for t, c, dashes in PLACES.values()]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), title="BN")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = _runs(frames)
    gain = {place: _gain(runs, place) for place in PLACES}
    stages = [gain[place] for place in STAGES]
    rises = all(a < b for a, b in itertools.pairwise(stages))
    end = {
        place: _judged(runs, [place], whole=_within(gain[place], WHOLE), part=_within(gain[place], PART))
        for place in ("before_pooling", "after_classifier")
    }
    return {
        "10": end["before_pooling"],
        "10-classifier": end["after_classifier"],
        "10-stages": _judged(runs, STAGES, whole=rises, part=stages[2] > max(stages[:2])),
    }


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
    """The rate at which the place's median accuracy is highest."""
    medians = runs[runs["place"] == place].groupby("lr")["percent"].median()
    return float(medians.index.to_numpy()[medians.argmax()]) if len(medians) else math.nan


def _by_seed(runs: pd.DataFrame, place: str) -> pd.Series[float]:
    """Accuracy at the place's best rate."""
    rows = runs[(runs["place"] == place) & (runs["lr"] == _best(runs, place))]
    return rows.set_index("seed")["percent"].sort_index()


def _at_best(runs: pd.DataFrame, place: str) -> Spread:
    return spread(_by_seed(runs, place))


def _gain(runs: pd.DataFrame, place: str) -> float:
    """(place - none) / (everywhere - none) of the medians."""
    here, everywhere, nowhere = (_at_best(runs, each).median for each in (place, "*", "none"))
    return (here - nowhere) / (everywhere - nowhere) if everywhere != nowhere else math.nan


def _shares(runs: pd.DataFrame, place: str) -> pd.Series[float]:
    """The same of each seed."""
    here, everywhere, nowhere = (_by_seed(runs, each) for each in (place, "*", "none"))
    share = (here - nowhere) / (everywhere - nowhere)
    return share[share.abs() < math.inf]


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def _judged(runs: pd.DataFrame, places: Sequence[str], *, whole: bool, part: bool) -> Evidence:
    n = min(len(_by_seed(runs, place)) for place in (*places, "*", "none"))
    gained = (_by_seed(runs, "*") - _by_seed(runs, "none")).dropna()
    clear = len(gained) > 0 and bool((gained > 0).all())
    accuracies = ", ".join(f"{_at_best(runs, place).median:.1f}" for place in (*places, "*", "none"))
    return Evidence(
        measured=f"{', '.join(number(_gain(runs, place), 2) for place in places)}: of {accuracies} % "
        f"{', '.join(PLACES[place][0] for place in (*places, '*', 'none'))}",
        spread=", ".join(spread(_shares(runs, place)).range for place in places),
        n=n,
        verdict=judge(n, whole=whole, part=part) if clear else Verdict.undecided,
    )


def _rates(ax: Axes, runs: pd.DataFrame) -> None:
    rates = sorted(runs["lr"].unique())
    ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)), zorder=1)
    for index, (place, (_, colour, dashes)) in enumerate(PLACES.items()):
        part = runs[runs["place"] == place]
        side = 1.035 ** (index - 3)  # side by side at each rate
        medians = over_seeds(part, ["lr"], "percent")
        ax.plot(medians["lr"] * side, medians["median"], color=colour, ls=dashes, lw=1.3)
        for diverged, marker in ((False, "o"), (True, "x")):
            rows = part[(part["outcome"] == "diverged") == diverged]
            ax.plot(rows["lr"] * side, rows["percent"], marker, color=colour, ms=3.6 if marker == "o" else 5, zorder=4)
    ax.set_xscale("log")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.set_xlabel("learning rate")
    ax.set_ylabel("test accuracy (%)")
