"""Train and test accuracy against percent of training, on a laptop's scale (Bjorck et al. 2018, Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import curves
from bnstudy.analysis.criteria import Criterion, Sample
from bnstudy.analysis.findings import Claim, Comparison

TITLE = "ResNet-20 on 5,000 images for ten epochs: accuracy along training"
CAPTION = (
    "A small edition of the paper's Figure 1: its four arms and its recipe, with ResNet-20 instead of ResNet-110, "
    "5,000 instead of 50,000 images, ten epochs instead of 165 to 2400. (a) Accuracy on the training images during "
    "the epoch, (b) on the test images after it; line: mean over seeds, band: 95 % interval. The learning rate is "
    "divided by 10 at 50 % and 75 %."
)
SWEEP = "fig1_quick"
NEEDS = curves.NEEDS
SIZE = (9.6, 4.4)
SMALL = "Figure 1, at a laptop's scale"
DIVERGED = "A run that diverged counts as 10 % and has no gap. Training accuracy: during the last epoch, in percent."
CLAIMS = (
    Claim(
        id="1-reduced",
        origin="paper",
        where=SMALL,
        scale="reduced",
        says="At the same small learning rate, 0.0001, BN does not generalise better.",
        criterion=Criterion(
            (curves.SAME,), partial=(curves.NO_BETTER,), needs=(curves.LEARNED, curves.BOTH_FIT), remark=DIVERGED
        ),
        published="81.3 % with BN, 81.9 % without (ResNet-110, 2400 epochs)",
    ),
    Claim(
        id="2-reduced",
        origin="paper",
        where=SMALL,
        scale="reduced",
        says="The gain of BN comes with larger learning rates.",
        criterion=Criterion(curves.HIGHER, partial=(curves.HIGHEST,), needs=(curves.ALL_FIT,), remark=DIVERGED),
        published="81.3, 90.4, 93.2 % (ResNet-110, 2400, 1320, 165 epochs)",
    ),
    Claim(
        id="3-reduced",
        origin="paper",
        where=SMALL,
        scale="reduced",
        says="Smaller learning rates overfit more.",
        criterion=Criterion(curves.SMALLER, partial=(curves.SMALLEST,), needs=(curves.ALL_FIT,), remark=DIVERGED),
        published="18.5, 9.6, 6.8 points (ResNet-110, 2400, 1320, 165 epochs)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    curves.figure(fig, frames, floor=0)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    return dict.fromkeys((claim.id for claim in CLAIMS), curves.measure(frames["runs"]))


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return curves.numbers(frames["runs"])
