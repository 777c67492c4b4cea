"""Train and test accuracy against percent of training (Bjorck et al. 2018, Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import curves
from bnstudy.findings import Claim, Comparison, Evidence

TITLE = "ResNet-110, each arm for as long as in the paper: accuracy along training"
CAPTION = (
    "The paper's Figure 1: ResNet-110 on CIFAR-10 with BN at 0.1, 0.003 and 0.0001 and without at 0.0001, trained "
    "for 165, 1320, 2400 and 2400 epochs. (a) Accuracy on the training images during the epoch, augmented and with "
    "the weights of the moment, (b) on the test images after every fifth epoch; line: median over seeds, band: their "
    "range. Pale, thin lines: the published curves, means over seeds. The learning rate is divided by 10 at 50 % and "
    "75 %."
)
SWEEP = "fig1_paper"
NEEDS = curves.NEEDS
PUBLISHED = "fig1"
SIZE = (9.6, 4.4)
WHERE = "Section 2.1, Figure 1"
CLAIMS = (
    Claim(
        id="1",
        origin="paper",
        where=WHERE,
        scale="paper",
        says="At the same small learning rate, 0.0001, BN does not generalise better.",
        criterion="Final test accuracy with and without BN at 0.0001, medians over seeds (a run that diverged counts "
        "as 10 %), differ by less than 2 points (reproduced); with BN less than 2 points higher (partly).",
        published="81.3 % with BN, 81.9 % without",
    ),
    Claim(
        id="2",
        origin="paper",
        where=WHERE,
        scale="paper",
        says="The gain of BN comes with larger learning rates.",
        criterion="Median final test accuracy with BN (a run that diverged counts as 10 %) rises from 0.0001 to 0.003 "
        "to 0.1, each step by more than the larger range over seeds of the two (reproduced); highest at 0.1 (partly).",
        published="81.3, 90.4, 93.2 %",
    ),
    Claim(
        id="3",
        origin="paper",
        where=WHERE,
        scale="paper",
        says="Smaller learning rates overfit more.",
        criterion="Median gap with BN between the training accuracy during the last epoch and the final test accuracy, "
        "of runs that did not diverge, falls from 0.0001 to 0.003 to 0.1 (reproduced); smaller at 0.1 than at 0.0001 "
        "(partly).",
        published="18.5, 9.6, 6.8 points; 17.7 without BN at 0.0001",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    curves.figure(fig, frames, floor=50, published="published")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    found = curves.ends(frames["runs"])
    return {
        "1": curves.at_one_rate(found, whole=abs(found.ahead) < 2, part=found.ahead < 2),
        "2": curves.with_the_rate(found),
        "3": curves.overfitting(found),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return curves.numbers(frames["runs"])
