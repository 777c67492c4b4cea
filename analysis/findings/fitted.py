"""Figure 1 where the networks fit their training data (Bjorck et al. 2018, section 2.1)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import figures, stats
from bnstudy.analysis.findings import Claim, Comparison, Evidence, Verdict
from bnstudy.analysis.frames import ARMS, DASH, number, spread
from bnstudy.analysis.stats import ALPHA, Interval, Scale

Arm = tuple[str, float]  # norm, learning rate
RATES = (0.003, 0.01, 0.1)  # with BN, rising
EQUAL = (0.003, 0.01)  # at which the network without BN is trained, too
DASHES: Mapping[float, object] = {0.1: "-", 0.01: "--", 0.003: ":"}
SEEDS = 5
FITTED = 99.0  # percent of the training images, in evaluation mode
MARGIN = 2.0  # points within which test accuracies are the same
SHARPNESS = {"sharp": "largest Hessian eigenvalue", "relative": "in units of the weights' norms"}

TITLE = "ResNet-20 on 5,000 images, trained until they are fitted"
CAPTION = (
    "The paper's Figure 1 where its networks are small enough for a processor: 5,000 images of CIFAR-10, 500 of each "
    "class, not augmented; each arm for as long as it takes to fit them, 60 to 800 epochs, the rate divided by 10 at "
    "50 % and 75 %. (a) Accuracy on the training images during the epoch, (b) on the test images after it; line: mean "
    "over seeds, band: 95 % interval. (c) By how many points the accuracy on the training images, in evaluation mode "
    "after training, is ahead of that on the test images, by rate, a dot a seed. (d) Largest eigenvalue of the Hessian "
    "after training on 256 training images; hollow: with every weight in units of its tensor's norm, which no "
    "rescaling that BN undoes can change."
)
SWEEP = "fitted"
_WHERE = "num_train == 5000 and depth == 20"
NEEDS = {
    "runs": f"status in ('completed', 'diverged') and {_WHERE}",
    **dict.fromkeys(("epochs", "splits", "hessian_top_eigenvalue", "relative_sharpness"), _WHERE),
}
SIZE = (9.8, 7.6)
_RULE = (
    "Means of paired differences over five seeds, 95 % intervals, Holm's correction over claims 1, 2, 3 and 17 at this "
    f"scale. Undecided below five seeds, where a seed of an arm compared has under {FITTED:g} % of the training images "
    "right after training (evaluation mode), and where the intervals hold the bound."
)


def _claim(number: str, says: str, criterion: str, published: str) -> Claim:
    return Claim(
        id=f"{number}-fitted",
        origin="paper",
        where="Section 2.1, Figure 1" if number != "17" else "Section 2.1, text",
        scale="fitted, 5,000 images",
        says=says,
        criterion=f"{criterion} {_RULE}",
        published=published,
    )


CLAIMS = (
    _claim(
        "1",
        "At the same learning rate BN does not generalise better.",
        f"Final test accuracy with BN minus without at 0.003 and 0.01, of these rates those at which both arms fit: "
        f"within {MARGIN:g} points (two one-sided tests) at each (reproduced), at one (partly).",
        "at 0.0001: 81.3 % with BN, 81.9 % without (ResNet-110, 2400 epochs)",
    ),
    _claim(
        "2",
        "The gain of BN comes with larger learning rates.",
        "Final test accuracy with BN rises from 0.003 to 0.01 and from 0.01 to 0.1 (reproduced); from 0.003 to 0.1 "
        "(partly).",
        "81.3, 90.4, 93.2 % at 0.0001, 0.003, 0.1 (ResNet-110)",
    ),
    _claim(
        "3",
        "Smaller learning rates overfit more.",
        "Training accuracy in evaluation mode minus test accuracy with BN falls from 0.003 to 0.01 and from 0.01 to "
        "0.1 (reproduced); from 0.003 to 0.1 (partly).",
        "18.5, 9.6, 6.8 points at 0.0001, 0.003, 0.1 (ResNet-110)",
    ),
    _claim(
        "17",
        "Larger learning rates lead to flatter minima.",
        "Largest Hessian eigenvalue after training with BN, plain and with the weights in units of their tensors' "
        "norms, on the log scale: both fall from 0.003 to 0.01 and from 0.01 to 0.1 (reproduced); both from 0.003 to "
        "0.1 (partly).",
        "argued, not measured",
    ),
)


class Judged(NamedTuple):
    """What decides a claim: its p before correction, that of the part, whether an interval speaks against it."""

    p: float
    part_p: float
    against: bool
    n: int
    unmet: str
    measured: str
    spread: str


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    ends = _ends(frames)
    (a, b), (c, d) = fig.subplots(2, 2)
    for ax, side, title, letter in ((a, "train", "training accuracy", "a"), (b, "test", "test accuracy", "b")):
        _courses(ax, frames["epochs"], side)
        figures.panel(ax, letter, title)
    _by_rate(c, ends, "gap", filled=True)
    c.set_ylabel("training minus test accuracy (points)")
    figures.panel(c, "c", "how far training is ahead at the end")
    for value in SHARPNESS:
        _by_rate(d, ends, value, filled=value == "sharp")
    d.set_yscale("log")
    d.set_ylabel("largest eigenvalue of the Hessian")
    figures.panel(d, "d", "sharpness at the end")
    fig.legend(*a.get_legend_handles_labels(), loc="outside lower center", ncols=5)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    judged = _judged(_ends(frames))
    asked = {name: of.p for name, of in judged.items() if not of.unmet and of.n >= SEEDS}
    corrected = stats.holm(asked)
    return {
        name: Evidence(
            measured=of.measured + (f"; {of.unmet}" if of.unmet else ""),
            spread=of.spread,
            n=of.n,
            verdict=_verdict(of, corrected.get(name)),
        )
        for name, of in judged.items()
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    ends = _ends(frames)
    labels = {"train": "training accuracy at the end (%)", "test": "test accuracy at the end (%)",
              "gap": "training minus test (points)", **SHARPNESS}  # fmt: skip
    lines = []
    for key, label in labels.items():
        for rate in sorted(ends["lr"].unique(), reverse=True):
            ours = [str(spread(_of(ends, arm, rate)[key])) for arm in ARMS]
            lines.append(Comparison(f"{label}, rate {number(rate)}", DASH, DASH, *ours))
    return lines


def _verdict(of: Judged, corrected_p: float | None) -> Verdict:
    if corrected_p is None:
        return Verdict.undecided
    if corrected_p < ALPHA:
        return Verdict.reproduced
    if of.part_p < ALPHA:
        return Verdict.partly
    return Verdict.not_reproduced if of.against else Verdict.undecided


def _ends(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a run: final accuracies in percent (`train` in evaluation mode), gap in points, both sharpnesses."""
    ends = frames["runs"].set_index("run_id")[["norm", "lr", "seed", "final_test_accuracy"]]
    trained = frames["splits"].query("split == 'train'").set_index("run_id")["accuracy"]
    found = {"train": 100 * trained, "test": 100 * ends["final_test_accuracy"]}
    for name, table in (("sharp", "hessian_top_eigenvalue"), ("relative", "relative_sharpness")):
        rows = frames[table].set_index("run_id")
        found[name] = rows["eigenvalue"].where(rows["converged"])
    ends = ends.assign(**{name: values.reindex(ends.index) for name, values in found.items()})
    return ends.assign(gap=ends["train"] - ends["test"]).reset_index()


def _of(ends: pd.DataFrame, norm: str, rate: float) -> pd.DataFrame:
    return ends[(ends["norm"] == norm) & (ends["lr"] == rate)].set_index("seed")


def _unfitted(ends: pd.DataFrame, arms: Iterable[Arm]) -> list[str]:
    """The arms of which a seed does not fit its training images."""
    return [
        f"{figures.LABELS[norm]} at {number(rate)} ({number(float(part['train'].min()))} %)"
        for norm, rate in arms
        if len(part := _of(ends, norm, rate)) and not (part["train"] >= FITTED).all()
    ]


def _judged(ends: pd.DataFrame) -> dict[str, Judged]:
    unfitted = _unfitted(ends, [("batch", rate) for rate in RATES])
    unmet = f"not fitted: {', '.join(unfitted)}" if unfitted else ""
    return {
        "1-fitted": _same(ends),
        "2-fitted": _steps(ends, {"test": "test accuracies"}, Scale.plain, rises=True, unmet=unmet),
        "3-fitted": _steps(ends, {"gap": "gaps"}, Scale.plain, rises=False, unmet=unmet),
        "17-fitted": _steps(ends, SHARPNESS, Scale.log, rises=False, unmet=unmet),
    }


def _same(ends: pd.DataFrame) -> Judged:
    """Claim 1, at the rates at which both arms fit."""
    unfitted = {rate: _unfitted(ends, [("batch", rate), ("none", rate)]) for rate in EQUAL}
    rates = [rate for rate in EQUAL if not unfitted[rate]]
    apart = {rate: stats.effect(_of(ends, "batch", rate)["test"], _of(ends, "none", rate)["test"]) for rate in rates}
    intervals = {rate: stats.interval(values) for rate, values in apart.items()}
    p = [stats.equivalent(values, -MARGIN, MARGIN) for values in apart.values()]
    out = "; ".join(", ".join(arms) for arms in unfitted.values() if arms)
    told = ", ".join(f"{number(of.mean)} points at {number(rate)}" for rate, of in intervals.items()) or "no rate"
    return Judged(
        p=max(p, default=1.0),
        part_p=min(p, default=1.0),
        against=any(of.low > MARGIN or of.high < -MARGIN for of in intervals.values()),
        n=min((of.n for of in intervals.values()), default=0),
        unmet="" if rates else f"not fitted: {out}",
        measured=f"with BN minus without {told}" + (f"; left out, as not fitted: {out}" if rates and out else ""),
        spread=", ".join(_told(of) for of in intervals.values()),
    )


def _steps(ends: pd.DataFrame, values: Mapping[str, str], scale: Scale, *, rises: bool, unmet: str) -> Judged:
    """Whether quantities with BN rise, or fall, from rate to rate; a part: from the smallest to the largest."""
    null = 1.0 if scale is Scale.log else 0.0
    test, other = (stats.above, stats.below) if rises else (stats.below, stats.above)
    at = {rate: _of(ends, "batch", rate) for rate in RATES}

    def apart(value: str, low: float, high: float) -> pd.Series:
        return stats.effect(at[high][value], at[low][value], scale)

    steps = [apart(value, *pair) for value in values for pair in itertools.pairwise(RATES)]
    whole = [apart(value, RATES[0], RATES[-1]) for value in values]
    means = {label: [stats.interval(at[rate][value], scale).mean for rate in RATES] for value, label in values.items()}
    told = "; ".join(f"{label} {', '.join(map(number, each))}" for label, each in means.items())
    intervals = [stats.interval(step, scale) for step in steps]
    return Judged(
        p=max(test(step, null, scale) for step in steps),
        part_p=max(test(ends_apart, null, scale) for ends_apart in whole),
        against=any(other(step, null, scale) < ALPHA for step in steps),
        n=min(of.n for of in intervals),
        unmet=unmet,
        measured=f"{told} at {', '.join(map(number, RATES))}",
        spread=f"{'ratios' if scale is Scale.log else 'steps'} {', '.join(map(_told, intervals))}",
    )


def _told(interval: Interval) -> str:
    return f"{number(interval.mean)} [{number(interval.low)}, {number(interval.high)}]"


def _courses(ax: Axes, epochs: pd.DataFrame, side: str) -> None:
    """Means and intervals over seeds against the part of training, of each arm."""
    shown = epochs.dropna(subset=[f"{side}_accuracy"])
    shown = shown.assign(percent=100 * shown["epoch"] / shown["epochs"], accuracy=100 * shown[f"{side}_accuracy"])
    for norm in ARMS:
        for rate in sorted(DASHES, reverse=True):
            rows = shown[(shown["norm"] == norm) & (shown["run_lr"] == rate)]
            if len(rows):
                means = stats.over_seeds(rows, ["percent"], "accuracy").rename(columns={"mean": "median"})
                label = f"{figures.LABELS[norm]}, {number(rate)}"
                figures.band(ax, means, "percent", norm, label=label, ls=DASHES[rate], lw=1.4)
    ax.set_xlim(0, 100)
    ax.set_xlabel("part of training (%)")
    ax.set_ylabel("accuracy (%)")


def _by_rate(ax: Axes, ends: pd.DataFrame, value: str, *, filled: bool) -> None:
    """A dot a seed, side by side in the arms, and the means by rate."""
    for norm, side in zip(ARMS, (1 / 1.08, 1.08), strict=True):
        rows = ends[ends["norm"] == norm].dropna(subset=[value])
        colour = figures.COLOURS[norm]
        ax.plot(rows["lr"] * side, rows[value], "o", color=colour, mfc=colour if filled else "white", ms=4, mew=1)
        if len(rows):
            scale = Scale.plain if value == "gap" else Scale.log
            means = stats.over_seeds(rows, ["lr"], value, scale)
            ax.plot(means["lr"] * side, means["mean"], color=colour, lw=1.1, ls="-" if filled else figures.DASHED)
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
    ax.set_xlim(RATES[0] / 1.6, RATES[-1] * 1.6)
    ax.set_xlabel("learning rate")
