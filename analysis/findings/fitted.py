"""Figure 1 where the networks fit their training data (Bjorck et al. 2018, section 2.1)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, fitted, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.fitted import FITTED, RATES
from bnstudy.analysis.frames import DASH, number, spread
from bnstudy.analysis.stats import Scale

SHARPNESS = {"sharp": "largest Hessian eigenvalue", "relative": "largest eigenvalue in units of the weights' norms"}

TITLE = "ResNet-20 with BN on 5,000 images, trained until they are fitted"
CAPTION = (
    "The paper's Figure 1 where its networks are small enough for a processor: 5,000 images of CIFAR-10, 500 of each "
    "class, not augmented; each rate for as long as it takes to fit them, 60 to 100 epochs, the rate divided by 10 at "
    "50 % and 75 %. (a) Accuracy on the training images during the epoch, (b) on the test images after it; line: mean "
    "over seeds, band: 95 % interval. (c) By how many points the accuracy on the training images, in evaluation mode "
    "after training, is ahead of that on the test images, by rate, a dot a seed, line: mean with 95 % interval. (d) "
    "Largest eigenvalue of the Hessian after training on 256 training images; hollow: with every weight in units of "
    "its tensor's norm, which no rescaling that BN undoes can change; line: geometric mean."
)
SWEEP = "fitted"
_WHERE = "num_train == 5000 and depth == 20 and norm == 'batch'"
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
HIGHER = {pair: _parts(GAIN, pair, above=0, unit="points") for pair in (*STEPS, ENDS)}
SMALLER = {pair: _parts(FALL, pair, above=0, unit="points") for pair in (*STEPS, ENDS)}
FLATTER = {
    (value, pair): _parts(f"factor on the {label} with BN", pair, below=1, scale=Scale.log)
    for value, label in SHARPNESS.items() for pair in (*STEPS, ENDS)
}  # fmt: skip
ALL_FIT = Need("training accuracy with BN (evaluation mode), the smallest of the three rates",
               "networks do not fit their training data", above=FITTED)  # fmt: skip
_WHEN = "Training accuracy is in evaluation mode, after training."


def _claim(name: str, says: str, criterion: Criterion, published: str) -> Claim:
    return Claim(
        id=name,
        origin="paper",
        where="Section 2.1, Figure 1" if name != "17-fitted" else "Section 2.1, text",
        scale="fitted, 5,000 images",
        says=says,
        criterion=criterion,
        published=published,
    )


def _falling(parts: Mapping[Any, Part], last: tuple[Part, ...], more: str = "") -> Criterion:
    """Whether each step goes the way claimed; partly: from the smallest rate to the largest."""
    steps = tuple(part for part in parts.values() if part not in last)
    return Criterion(steps, partial=last, needs=(ALL_FIT,), min_seeds=5, remark=f"{_WHEN}{more}")


CLAIMS = (
    _claim(
        "2-rates",
        "With BN the test accuracy rises with the learning rate.",
        _falling(
            HIGHER, (HIGHER[ENDS],), " No network without BN is part of this: what BN gains at one rate is 1-fitted's."
        ),
        "81.3, 90.4, 93.2 % at 0.0001, 0.003, 0.1 (ResNet-110)",
    ),
    _claim(
        "3-fitted",
        "Smaller learning rates overfit more.",
        _falling(SMALLER, (SMALLER[ENDS],)),
        "18.5, 9.6, 6.8 points at 0.0001, 0.003, 0.1 (ResNet-110)",
    ),
    _claim(
        "17-fitted",
        "Larger learning rates lead to flatter minima.",
        _falling(FLATTER, tuple(FLATTER[value, ENDS] for value in SHARPNESS)),
        "argued, not measured",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    ends = fitted.ends(frames)
    (a, b), (c, d) = fig.subplots(2, 2)
    for ax, side, title, letter in ((a, "train", "training accuracy", "a"), (b, "test", "test accuracy", "b")):
        fitted.courses(ax, frames["epochs"], side)
        figures.panel(ax, letter, title)
    fitted.by_rate(c, ends, "gap")
    c.set_ylabel("training minus test accuracy (points)")
    figures.panel(c, "c", "how far training is ahead at the end")
    for value in SHARPNESS:
        fitted.by_rate(d, ends, value, filled=value == "sharp", scale=Scale.log)
    d.set_yscale("log")
    relative = figures.entry("in units of the weights' norms", "o", filled=False, ls=figures.DASHED)
    d.legend(handles=[figures.entry("as it is", "o", ls="-"), relative])
    d.set_ylabel("largest eigenvalue of the Hessian")
    figures.panel(d, "d", "sharpness at the end")
    fig.legend(*a.get_legend_handles_labels(), loc="outside lower center", ncols=5)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    ends = fitted.ends(frames)
    at = {rate: fitted.of(ends, "batch", rate) for rate in RATES}

    def apart(value: str, pair: tuple[float, float], scale: Scale = Scale.plain) -> pd.Series:
        return stats.effect(at[pair[1]][value], at[pair[0]][value], scale)

    trained = pd.concat([of["train"] for of in at.values()], axis=1)
    quantities = {
        **{part.key: apart("test", pair) for pair, part in HIGHER.items()},
        **{part.key: -apart("gap", pair) for pair, part in SMALLER.items()},
        **{part.key: apart(value, pair, Scale.log) for (value, pair), part in FLATTER.items()},
        ALL_FIT.of: trained.min(axis=1).where(trained.notna().all(axis=1), 0.0),  # what did not end does not fit
    }
    samples = {name: criteria.single(of) for name, of in quantities.items()}
    return {claim.id: samples for claim in CLAIMS}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    ends = fitted.ends(frames)
    labels = {"train": "training accuracy at the end (%)", "test": "test accuracy at the end (%)",
              "gap": "training minus test (points)", **SHARPNESS}  # fmt: skip
    return [
        Comparison(f"{label}, rate {number(rate)}", DASH, DASH, str(spread(fitted.of(ends, "batch", rate)[key])), DASH)
        for key, label in labels.items()
        for rate in sorted(ends["lr"].unique(), reverse=True)
    ]
