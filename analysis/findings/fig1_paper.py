"""Train and test accuracy against percent of training (Bjorck et al. 2018, Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import curves
from bnstudy.analysis.criteria import Criterion, Sample
from bnstudy.analysis.findings import Claim, Comparison

TITLE = "ResNet-110, each arm for as long as in the paper: accuracy along training"
CAPTION = (
    "The paper's Figure 1: ResNet-110 on CIFAR-10 with BN at 0.1, 0.003 and 0.0001 and without at 0.0001, trained "
    "for 165, 1320, 2400 and 2400 epochs. (a) Accuracy on the training images during the epoch, augmented and with "
    "the weights of the moment, (b) on the test images after every fifth epoch; line: mean over seeds, band: 95 % "
    "interval. Pale, thin lines: the published curves, means over seeds. The learning rate is divided by 10 at 50 % "
    "and 75 %."
)
SWEEP = "fig1_paper"
NEEDS = curves.NEEDS
PUBLISHED = "fig1"
SIZE = (9.6, 4.4)
WHERE = "Section 2.1, Figure 1"
DIVERGED = "A run that diverged counts as 10 % and has no gap. Training accuracy: during the last epoch, in percent."
CLAIMS = (
    Claim(
        id="1",
        origin="paper",
        where=WHERE,
        scale="paper",
        says="At the same small learning rate, 0.0001, BN does not generalise better.",
        criterion=Criterion(
            (curves.SAME,), partial=(curves.NO_BETTER,), needs=(curves.LEARNED, curves.BOTH_FIT), remark=DIVERGED
        ),
        published="81.3 % with BN, 81.9 % without",
    ),
    Claim(
        id="2",
        origin="paper",
        where=WHERE,
        scale="paper",
        says="The gain of BN comes with larger learning rates.",
        criterion=Criterion(curves.HIGHER, partial=(curves.HIGHEST,), needs=(curves.ALL_FIT,), remark=DIVERGED),
        published="81.3, 90.4, 93.2 %",
    ),
    Claim(
        id="3",
        origin="paper",
        where=WHERE,
        scale="paper",
        says="Smaller learning rates overfit more.",
        criterion=Criterion(curves.SMALLER, partial=(curves.SMALLEST,), needs=(curves.ALL_FIT,), remark=DIVERGED),
        published="18.5, 9.6, 6.8 points; 17.7 without BN at 0.0001",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    curves.figure(fig, frames, floor=50, published=tuple(curves.ARMS), label="published")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    return dict.fromkeys((claim.id for claim in CLAIMS), curves.measure(frames["runs"]))


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return curves.numbers(frames["runs"])
