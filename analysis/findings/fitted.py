"""Figure 1 where the networks fit their training data (Bjorck et al. 2018, section 2.1)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, arms, number, spread
from bnstudy.analysis.stats import Scale

RATES = (0.003, 0.01, 0.1)  # with BN, rising
EQUAL = (0.003, 0.01)  # at which the network without BN is trained, too
DASHES: Mapping[float, object] = {0.1: "-", 0.01: "--", 0.003: ":"}
FITTED = 98.99  # percent of the 5,000 training images, in evaluation mode: 99 % of them fit
MARGIN = 2.0  # points within which test accuracies are the same
SHARPNESS = {"sharp": "largest Hessian eigenvalue", "relative": "largest eigenvalue in units of the weights' norms"}

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
STEPS = tuple(itertools.pairwise(RATES))
ENDS = (RATES[0], RATES[-1])


def _parts(what: str, pair: tuple[float, float], **bound: object) -> Part:
    return Part(what, at=f"the step from {pair[0]:g} to {pair[1]:g}", **bound)  # type: ignore[arg-type]


GAIN, FALL = "gain in final test accuracy with BN", "fall of training minus test accuracy with BN"
SAME = {rate: Part("final test accuracy with BN less without", above=-MARGIN, below=MARGIN, unit="points",
                   at=f"rate {rate:g}") for rate in EQUAL}  # fmt: skip
HIGHER = {pair: _parts(GAIN, pair, above=0, unit="points") for pair in (*STEPS, ENDS)}
SMALLER = {pair: _parts(FALL, pair, above=0, unit="points") for pair in (*STEPS, ENDS)}
FLATTER = {
    (value, pair): _parts(f"factor on the {label} with BN", pair, below=1, scale=Scale.log)
    for value, label in SHARPNESS.items() for pair in (*STEPS, ENDS)
}  # fmt: skip
ALL_FIT = Need("training accuracy with BN (evaluation mode), the smallest of the three rates",
               "networks do not fit their training data", above=FITTED)  # fmt: skip
_WHEN = "Training accuracy is in evaluation mode, after training."


def _claim(number: str, says: str, criterion: Criterion, published: str) -> Claim:
    return Claim(
        id=f"{number}-fitted",
        origin="paper",
        where="Section 2.1, Figure 1" if number != "17" else "Section 2.1, text",
        scale="fitted, 5,000 images",
        says=says,
        criterion=criterion,
        published=published,
    )


def _falling(parts: Mapping[Any, Part], last: tuple[Part, ...]) -> Criterion:
    """Whether each step goes the way claimed; partly: from the smallest rate to the largest."""
    steps = tuple(part for part in parts.values() if part not in last)
    return Criterion(steps, partial=last, needs=(ALL_FIT,), min_seeds=5, remark=_WHEN)


CLAIMS = (
    _claim(
        "1",
        "At the same learning rate BN does not generalise better.",
        Criterion(
            tuple(SAME.values()),
            partial=1,
            min_seeds=5,
            left_out="networks do not fit their training data",
            remark="Rates at which both arms fit, 99 % of the training images or more in every seed, the others being "
            f"left out. {_WHEN}",
        ),
        "at 0.0001: 81.3 % with BN, 81.9 % without (ResNet-110, 2400 epochs)",
    ),
    _claim(
        "2",
        "The gain of BN comes with larger learning rates.",
        _falling(HIGHER, (HIGHER[ENDS],)),
        "81.3, 90.4, 93.2 % at 0.0001, 0.003, 0.1 (ResNet-110)",
    ),
    _claim(
        "3",
        "Smaller learning rates overfit more.",
        _falling(SMALLER, (SMALLER[ENDS],)),
        "18.5, 9.6, 6.8 points at 0.0001, 0.003, 0.1 (ResNet-110)",
    ),
    _claim(
        "17",
        "Larger learning rates lead to flatter minima.",
        _falling(FLATTER, tuple(FLATTER[value, ENDS] for value in SHARPNESS)),
        "argued, not measured",
    ),
)


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


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    ends = _ends(frames)
    at = {rate: _of(ends, "batch", rate) for rate in RATES}
    without = {rate: _of(ends, "none", rate) for rate in EQUAL}

    def apart(value: str, pair: tuple[float, float], scale: Scale = Scale.plain) -> pd.Series:
        return stats.effect(at[pair[1]][value], at[pair[0]][value], scale)

    def fit(*cells: pd.DataFrame) -> bool:
        return all(len(cell) > 0 and bool((cell["train"] > FITTED).all()) for cell in cells)

    same = {rate: stats.effect(at[rate]["test"], without[rate]["test"]) for rate in EQUAL}
    same = {rate: of if fit(at[rate], without[rate]) else of.iloc[:0] for rate, of in same.items()}
    trained = pd.concat([of["train"] for of in at.values()], axis=1)
    quantities = {
        **{SAME[rate].key: of for rate, of in same.items()},
        **{part.key: apart("test", pair) for pair, part in HIGHER.items()},
        **{part.key: -apart("gap", pair) for pair, part in SMALLER.items()},
        **{part.key: apart(value, pair, Scale.log) for (value, pair), part in FLATTER.items()},
        ALL_FIT.of: trained.min(axis=1).where(trained.notna().all(axis=1), 0.0),  # what did not end does not fit
    }
    samples = {name: criteria.single(of) for name, of in quantities.items()}
    return {claim.id: samples for claim in CLAIMS}


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


def _ends(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per run: final accuracies in percent (`train` in evaluation mode), gap in points, both sharpnesses."""
    ends = frames["runs"].set_index("run_id")[["norm", "lr", "seed", "final_test_accuracy"]]
    trained = frames["splits"].query("split == 'train'").set_index("run_id")["accuracy"]
    columns = {"train": 100 * trained, "test": 100 * ends["final_test_accuracy"]}
    for name, table in (("sharp", "hessian_top_eigenvalue"), ("relative", "relative_sharpness")):
        rows = frames[table].set_index("run_id")
        columns[name] = rows["eigenvalue"].where(rows["converged"])
    ends = ends.assign(**{name: values.reindex(ends.index) for name, values in columns.items()})
    return ends.assign(gap=ends["train"] - ends["test"]).reset_index()


def _of(ends: pd.DataFrame, norm: str, rate: float) -> pd.DataFrame:
    return ends[(ends["norm"] == norm) & (ends["lr"] == rate)].set_index("seed")


def _courses(ax: Axes, epochs: pd.DataFrame, side: str) -> None:
    """Means and intervals over seeds against the part of training, of each arm."""
    shown = epochs.dropna(subset=[f"{side}_accuracy"])
    shown = shown.assign(percent=100 * shown["epoch"] / shown["epochs"], accuracy=100 * shown[f"{side}_accuracy"])
    for norm, of in arms(shown).items():
        for rate in sorted(DASHES, reverse=True):
            rows = of[of["run_lr"] == rate]
            if len(rows):
                means = stats.over_seeds(rows, ["percent"], "accuracy").rename(columns={"mean": "median"})
                label = f"{figures.LABELS[norm]}, {number(rate)}"
                figures.band(ax, means, "percent", norm, label=label, ls=DASHES[rate], lw=1.4)
    ax.set_xlim(0, 100)
    ax.set_xlabel("part of training (%)")
    ax.set_ylabel("accuracy (%)")


def _by_rate(ax: Axes, ends: pd.DataFrame, value: str, *, filled: bool) -> None:
    """A dot per seed, side by side in the arms, and the means by rate."""
    for shift, (norm, rows) in figures.beside(ends.dropna(subset=[value]), 1):
        side = 1.08**shift
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
