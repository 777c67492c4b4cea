"""The learning-rate grid on all of CIFAR-10, rates chosen on held-out images (Bjorck et al. 2018, sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import figures, stats
from bnstudy.analysis.criteria import MIN_SEEDS
from bnstudy.analysis.findings import Claim, Comparison, Evidence, Verdict
from bnstudy.analysis.frames import CHANCE, DASH, number, placed, spread
from bnstudy.analysis.stats import ALPHA, Interval

PLACES = ("*", "before_pooling", "none")  # where BN sits
DEAD = 12.0  # percent of the training images, below which a run that stalled tells nothing apart
WHOLE, PART = (0.5, 0.85), (0.25, 1.0)  # of BN's gain, for one BN before the pooling; as claim 10 has it
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
_CHOSEN = (
    "Each arm's rate is that of highest mean accuracy on held-out images over the seeds, a diverged run counting 10 %. "
)
_UNDECIDED = (
    "Means of paired differences, 95 % intervals, Holm's correction over claims 2-best and 10 at this scale. Undecided "
    "below three seeds, where a rate chosen is the smallest or largest of the grid, or one at which a seed does not "
    "train (30 % of the training images in the last epoch), and where the interval holds the bound."
)
CLAIMS = (
    Claim(
        id="2-best-grid",
        origin="paper",
        where="Section 2.1",
        scale="ResNet-20, 15 epochs",
        says="The gain of BN comes with larger learning rates: its best is one that does not train without BN.",
        criterion=f"{_CHOSEN}With BN everywhere the test accuracy at its rate is above that at the rate of the network "
        f"without (partly), and at its rate no seed trains without (both: reproduced). {_UNDECIDED}",
        published="93.2 % at 0.1, which diverges without BN; 81.3 % at 0.0001 (ResNet-110)",
    ),
    Claim(
        id="4-grid",
        origin="paper",
        where="Section 3, text",
        scale="ResNet-20, 15 epochs",
        says="Without BN larger learning rates cannot be used: training diverges.",
        criterion="There is a rate of the grid at which every seed trains with BN everywhere (30 % of the training "
        "images in the last epoch) and every seed diverges without (reproduced), or none trains without (partly). "
        "Undecided below three seeds, and where without BN no rate trains in every seed.",
        published="0.1 (ResNet-110)",
    ),
    Claim(
        id="10-grid",
        origin="paper",
        where="Section 3.1, appendix E",
        scale="ResNet-20, 15 epochs",
        says="One BN layer at the very end gives about two thirds of BN's gain.",
        criterion=f"{_CHOSEN}Test accuracies there, seed by seed, share (before the pooling - nowhere) / (everywhere - "
        f"nowhere): between {WHOLE[0]} and {WHOLE[1]} (two one-sided tests: reproduced), between {PART[0]} and "
        f"{PART[1]:g} (partly). Undecided where BN everywhere is not above nowhere, too. {_UNDECIDED}",
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


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = _runs(frames)
    chosen = {place: _chosen(runs, place) for place in PLACES}
    gain, gain_text = _gain(runs, chosen)
    share, share_text = _share(runs, chosen)
    p = {"2-best-grid": stats.above(gain, 0.0), "10-grid": stats.equivalent(share, *WHOLE)}
    unmet = {"2-best-grid": _unmet(runs, chosen, ("*", "none")), "10-grid": _unmet(runs, chosen, PLACES)}
    if not unmet["10-grid"] and stats.above(_everywhere(runs, chosen), 0.0) >= ALPHA:
        unmet["10-grid"] = "BN everywhere is not above nowhere"
    corrected = stats.holm({name: value for name, value in p.items() if not unmet[name]})
    alone = bool(gain.size) and _count(runs, "none", chosen["*"], "trained") == 0
    best = _verdict(gain, unmet["2-best-grid"], corrected.get("2-best-grid", 1.0) < ALPHA)
    if best is Verdict.reproduced and not alone:
        best = Verdict.partly
    elif best is Verdict.undecided and not unmet["2-best-grid"] and stats.interval(gain).below_zero:
        best = Verdict.not_reproduced
    end = _verdict(share, unmet["10-grid"], corrected.get("10-grid", 1.0) < ALPHA)
    if end is Verdict.undecided and not unmet["10-grid"] and len(share) >= MIN_SEEDS:
        of = stats.interval(share)
        if stats.equivalent(share, *PART) < ALPHA:
            end = Verdict.partly
        elif of.low > PART[1] or of.high < PART[0]:
            end = Verdict.not_reproduced
    rates = ", ".join(f"{figures.PLACES[place][0]} {_rate(chosen[place])}" for place in PLACES)
    return {
        "2-best-grid": Evidence(
            measured=f"{gain_text} points; rates chosen: {rates}; without BN "
            f"{_count(runs, 'none', chosen['*'], 'trained')} seeds train at {_rate(chosen['*'])}"
            + _because(unmet["2-best-grid"]),
            spread=f"95 % interval {_ends(gain)}",
            n=len(gain),
            verdict=best,
        ),
        "4-grid": _diverges(runs),
        "10-grid": Evidence(
            measured=f"share {share_text}; rates chosen: {rates}" + _because(unmet["10-grid"]),
            spread=f"95 % interval {_ends(share)}",
            n=len(share),
            verdict=end,
        ),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _runs(frames)
    lines = []
    for rate in sorted(runs["lr"].unique()):
        for place in PLACES:
            part = runs[(runs["place"] == place) & (runs["lr"] == rate)]
            counts = {name: int((part["kind"] == name).sum()) for name in MARKS if name != "trained"}
            told = [str(spread(part["test"])), *(f"{count} {name}" for name, count in counts.items() if count)]
            ours = ["; ".join(told) if len(part) else DASH, DASH]
            label = f"test accuracy at {number(float(rate))} (%), BN {figures.PLACES[place][0]}"
            lines.append(Comparison(label, DASH, DASH, *(ours if place != "none" else reversed(ours))))
    return lines


def _runs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a run: place, lr, seed, accuracies in percent (train, held_out, test; a diverged run guesses), kind."""
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


def _count(runs: pd.DataFrame, place: str, rate: float | None, kind: str) -> int:
    return int((_at(runs, place, rate)["kind"] == kind).sum())


def _unmet(runs: pd.DataFrame, chosen: Mapping[str, float | None], places: tuple[str, ...]) -> str:
    """Why what these places give at their rates cannot be compared; nothing where it can."""
    for place in places:
        rate, name = chosen[place], figures.PLACES[place][0]
        if rate is None:
            return f"BN {name}: no runs"
        rates = runs.loc[runs["place"] == place, "lr"]
        if rate in (rates.min(), rates.max()):
            return f"BN {name}: the rate chosen is at the grid's end"
        if _count(runs, place, rate, "trained") < len(_at(runs, place, rate)):
            return f"BN {name}: a seed does not train at the rate chosen"
    return ""


def _gain(runs: pd.DataFrame, chosen: Mapping[str, float | None]) -> tuple[pd.Series, str]:
    """By seed, with BN everywhere: test accuracy at its rate minus that at the rate chosen without."""
    its_own, other = (_at(runs, "*", chosen[place])["test"] for place in ("*", "none"))
    of = stats.effect(its_own, other).dropna()
    return of, number(stats.interval(of).mean)


def _everywhere(runs: pd.DataFrame, chosen: Mapping[str, float | None]) -> pd.Series:
    everywhere, nowhere = (_at(runs, place, chosen[place])["test"] for place in ("*", "none"))
    return stats.effect(everywhere, nowhere).dropna()


def _share(runs: pd.DataFrame, chosen: Mapping[str, float | None]) -> tuple[pd.Series, str]:
    """By seed: of the gain of BN everywhere, what one before the pooling gives."""
    none = _at(runs, "none", chosen["none"])["test"]
    one = stats.effect(_at(runs, "before_pooling", chosen["before_pooling"])["test"], none)
    of = (one / _everywhere(runs, chosen)).dropna()
    return of, number(stats.interval(of).mean)


def _verdict(values: pd.Series, unmet: str, holds: bool) -> Verdict:
    if unmet or len(values) < MIN_SEEDS or not holds:
        return Verdict.undecided
    return Verdict.reproduced


def _diverges(runs: pd.DataFrame) -> Evidence:
    """Whether a rate at which every seed trains with BN makes every seed diverge without."""
    rates = [float(rate) for rate in sorted(runs["lr"].unique())]
    with_bn, without = ({rate: _at(runs, place, rate)["kind"] for rate in rates} for place in ("*", "none"))
    rates = [rate for rate in rates if len(with_bn[rate]) and len(without[rate])]
    used = [rate for rate in rates if (with_bn[rate] == "trained").all()]
    lost = [rate for rate in used if (without[rate] == "diverged").all()]
    unused = [rate for rate in used if not (without[rate] == "trained").any()]
    n = min((min(len(with_bn[rate]), len(without[rate])) for rate in rates), default=0)
    control = any((without[rate] == "trained").all() for rate in rates)
    verdict = Verdict.undecided
    if n >= MIN_SEEDS and control:
        verdict = Verdict.reproduced if lost else Verdict.partly if unused else Verdict.not_reproduced
    return Evidence(
        measured=f"trains with BN and diverges without at {_listed(lost)}; trains with BN and not without at "
        f"{_listed(unused)}" + _because("" if control else "without BN no rate trains in every seed"),
        spread=f"{len(rates)} rates",
        n=n,
        verdict=verdict,
    )


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


def _rate(rate: float | None) -> str:
    return DASH if rate is None else number(rate)


def _listed(rates: list[float]) -> str:
    return ", ".join(map(number, rates)) or "no rate"


def _because(unmet: str) -> str:
    return f"; {unmet}" if unmet else ""


def _ends(values: pd.Series) -> str:
    of: Interval = stats.interval(values)
    return f"[{number(of.low)}, {number(of.high)}]"
