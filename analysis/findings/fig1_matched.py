"""The four arms of Figure 1, all trained for equally many epochs (Bjorck et al. 2018, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import curves
from bnstudy.findings import Claim, Comparison, Evidence, judge

TITLE = "ResNet-110 for 165 epochs at every rate: accuracy along training"
CAPTION = (
    "The four arms of the paper's Figure 1 at equal epochs: ResNet-110 on CIFAR-10, all trained for 165, which at "
    "0.0001 is a fourteenth of the paper's training (2400 epochs) and at 0.003 an eighth (1320); so it decides "
    "nothing about the paper's own claims. (a) Accuracy on the training images during the epoch, (b) on the test "
    "images after every fifth; line: median over seeds, band: their range. Pale, thin lines: the published curves, "
    "each of its own length, which only at 0.1 is ours. The learning rate is divided by 10 at 50 % and 75 %."
)
SWEEP = "fig1_matched"
NEEDS = curves.NEEDS
PUBLISHED = "fig1"
SIZE = (9.6, 4.4)
CLAIMS = (
    Claim(
        id="1-matched",
        where="Section 2.1, Figure 1, at equal epochs",
        scale="paper",
        says="At equal epochs, too, BN gains by larger learning rates and not at the same small one.",
        criterion="All arms for 165 epochs, final test accuracies, medians over seeds (a run that diverged counts as "
        "10 %): with BN it rises from 0.0001 to 0.003 to 0.1, each step by more than the larger range over seeds of "
        "the two, and at 0.0001 it is with BN less than 2 points higher than without (reproduced); one of the two "
        "(partly).",
        published="not trained so; 93.2 % with BN at 0.1",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    curves.figure(fig, frames, floor=30, published="published, of its own length")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    found = curves.ends(frames["runs"])
    same, rate = curves.at_one_rate(found, whole=found.ahead < 2, part=False), curves.with_the_rate(found)
    n = min(same.n, rate.n)
    met = (curves.rises(found), found.ahead < 2)
    return {
        "1-matched": Evidence(
            measured=f"with BN {rate.measured}; without {found.test['none', 0.0001].median:.1f} % at 0.0001",
            spread=f"{rate.spread}; at 0.0001 {same.spread}",
            n=n,
            verdict=judge(n, whole=all(met), part=any(met)),
            arms=same.arms,
        )
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return curves.numbers(frames["runs"])
