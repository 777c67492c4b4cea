"""BN and no norm at an equal rate, where the networks fit their training data (Bjorck et al. 2018, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, fitted, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.fitted import FITTED
from bnstudy.analysis.frames import ARMS, DASH, number, spread

RATE = 0.01  # of both arms
MARGIN = 2.0  # points within which test accuracies are the same
AT = f"rate {RATE:g}"
SAME = Part("final test accuracy with BN less without", above=-MARGIN, below=MARGIN, unit="points", at=AT)
NO_BETTER = Part(SAME.of, below=MARGIN, unit="points", at=AT)  # however much worse it is
BOTH_FIT = Need(f"the smaller training accuracy of the two arms at {AT}, in evaluation mode after training,",
                "networks do not fit their training data", above=FITTED)  # fmt: skip

TITLE = "ResNet-20 on 5,000 images at an equal learning rate, trained until they are fitted"
CAPTION = (
    "5,000 images of CIFAR-10, 500 of each class, not augmented; each arm for as many epochs as it takes to fit "
    "them, the rate divided by 10 at 50 % and 75 %. (a) Accuracy on the training images during the epoch, (b) on the "
    "test images after it; line: mean over seeds, band: 95 % interval. (c) Test accuracy at the end, by rate, a dot a "
    "seed, line: mean with 95 % interval."
)
SWEEP = "fitted_without"
_WHERE = "num_train == 5000 and depth == 20"
_OF_RUNS = f"status in ('completed', 'diverged') and {_WHERE}"
_TABLES = {"runs": _OF_RUNS, "epochs": _WHERE, "splits": _WHERE}
NEEDS = {**_TABLES, **{f"fitted/{table}": where for table, where in _TABLES.items()}}
SIZE = (11.4, 4.3)
CLAIMS = (
    Claim(
        id="1-fitted",
        origin="paper",
        where="Section 2.1, Figure 1",
        scale="fitted, 5,000 images",
        says="At the same learning rate BN does not generalise better.",
        criterion=Criterion(
            (SAME,),
            partial=(NO_BETTER,),
            needs=(BOTH_FIT,),
            min_seeds=5,
            remark="Laid down before the runs: where a seed does not fit in 400 epochs without BN, all have 800.",
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
    arms = [fitted.of(ends, arm, RATE) for arm in ARMS]
    apart = stats.effect(arms[0]["test"], arms[1]["test"])
    trained = pd.concat([rows["train"] for rows in arms], axis=1, join="inner")  # of the seeds that both arms have
    quantities = {
        SAME.key: apart,
        BOTH_FIT.of: trained.min(axis=1).where(trained.notna().all(axis=1), 0.0),  # what did not end does not fit
    }
    return {"1-fitted": {name: criteria.single(of) for name, of in quantities.items()}}


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
