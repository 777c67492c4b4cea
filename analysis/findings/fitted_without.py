"""BN and no norm at equal rates, where the networks fit their training data (Bjorck et al. 2018, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, fitted, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.fitted import FITTED
from bnstudy.analysis.frames import ARMS, DASH, number, spread

EQUAL = (0.003, 0.01)
MARGIN = 2.0  # points within which test accuracies are the same
SAME = {rate: Part("final test accuracy with BN less without", above=-MARGIN, below=MARGIN, unit="points",
                   at=f"rate {rate:g}") for rate in EQUAL}  # fmt: skip

TITLE = "ResNet-20 on 5,000 images at equal learning rates, trained until they are fitted"
CAPTION = (
    "5,000 images of CIFAR-10, 500 of each class, not augmented; each arm for as long as it takes to fit them, 60 to "
    "800 epochs, the rate divided by 10 at 50 % and 75 %. (a) Accuracy on the training images during the epoch, (b) on "
    "the test images after it; line: mean over seeds, band: 95 % interval. (c) Test accuracy at the end, by rate, a "
    "dot a seed, line: mean."
)
SWEEP = "fitted_without"
_WHERE = "num_train == 5000 and depth == 20"
_OF_RUNS = f"status in ('completed', 'diverged') and {_WHERE}"
_TABLES = {"runs": _OF_RUNS, "epochs": _WHERE, "splits": _WHERE}
NEEDS = {**_TABLES, **{f"fitted/{table}": where for table, where in _TABLES.items()}}
SIZE = (11.4, 4.3)
_FIT = "networks do not fit their training data"
CLAIMS = (
    Claim(
        id="1-fitted",
        origin="paper",
        where="Section 2.1, Figure 1",
        scale="fitted, 5,000 images",
        says="At the same learning rate BN does not generalise better.",
        criterion=Criterion(
            tuple(SAME.values()),
            partial=1,
            min_seeds=5,
            left_out=_FIT,
            remark="Rates at which both arms fit, 99 % of the training images or more in every seed, the others being "
            "left out. Training accuracy is in evaluation mode, after training.",
        ),
        published="at 0.0001: 81.3 % with BN, 81.9 % without (ResNet-110, 2400 epochs)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    both = _both(frames)
    a, b, c = fig.subplots(1, 3)
    for ax, side, title, letter in ((a, "train", "training accuracy", "a"), (b, "test", "test accuracy", "b")):
        fitted.courses(ax, both["epochs"], side)
        figures.panel(ax, letter, title)
    fitted.by_rate(c, fitted.ends(both), "test")
    c.set_ylabel("test accuracy (%)")
    figures.panel(c, "c", "test accuracy at the end")
    fig.legend(*a.get_legend_handles_labels(), loc="outside lower center", ncols=5)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    ends = fitted.ends(_both(frames))
    samples = {}
    for rate, part in SAME.items():
        arms = [fitted.of(ends, arm, rate) for arm in ARMS]
        fit = all(len(rows) > 0 and bool((rows["train"] > FITTED).all()) for rows in arms)
        same = stats.effect(arms[0]["test"], arms[1]["test"])
        samples[part.key] = criteria.single(same if fit else same.iloc[:0])
    return {"1-fitted": samples}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    ends = fitted.ends(_both(frames))
    labels = {"train": "training accuracy at the end (%)", "test": "test accuracy at the end (%)"}
    lines = []
    for key, label in labels.items():
        for rate in sorted(ends["lr"].unique(), reverse=True):
            ours = [str(spread(fitted.of(ends, arm, rate)[key])) for arm in ARMS]
            lines.append(Comparison(f"{label}, rate {number(rate)}", DASH, DASH, *ours))
    return lines


def _both(frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables with the runs of both sweeps."""
    return {table: pd.concat([frames[f"fitted/{table}"], frames[table]], ignore_index=True) for table in _TABLES}
