"""The four arms of Figure 1, all trained for equally many epochs (Bjorck et al. 2018, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import curves
from bnstudy.analysis.criteria import Criterion, Sample
from bnstudy.analysis.findings import Claim, Comparison

TITLE = "ResNet-110 for 165 epochs at every rate: accuracy along training"
CAPTION = (
    "The four arms of the paper's Figure 1 at equal epochs: ResNet-110 on CIFAR-10, all trained for 165, which at "
    "0.0001 is a fourteenth of the paper's training (2400 epochs) and at 0.003 an eighth (1320); so it decides "
    "nothing about the paper's own claims. (a) Accuracy on the training images during the epoch, (b) on the test "
    "images after every fifth; line: mean over seeds, band: 95 % interval. Pale, thin line: the published curve "
    "at 0.1, which is as long. The learning rate is divided by 10 at 50 % and 75 %."
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
        criterion=Criterion(
            (*curves.HIGHER, curves.NO_BETTER),
            partial=1,
            needs=(curves.LEARNED,),
            remark="All arms for 165 epochs. A run that diverged counts as 10 %.",
        ),
        published="not trained so; 93.2 % with BN at 0.1",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    curves.figure(fig, frames, floor=30, published=(("batch", 0.1),), label="published, as long")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    return {"1-matched": curves.measure(frames["runs"])}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return curves.numbers(frames["runs"])
