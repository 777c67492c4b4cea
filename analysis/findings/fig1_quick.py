"""Train and test accuracy against percent of training, on a laptop's scale (Bjorck et al. 2018, Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import curves
from bnstudy.findings import Claim, Comparison, Evidence

TITLE = "ResNet-20 on 5,000 images for ten epochs: accuracy along training"
CAPTION = (
    "A small edition of the paper's Figure 1: its four arms and its recipe, with ResNet-20 instead of ResNet-110, "
    "5,000 instead of 50,000 images, ten epochs instead of 165 to 2400. (a) Accuracy on the training images during "
    "the epoch, (b) on the test images after it; line: median over seeds, band: their range. Pale, thin lines: the "
    "published curves, of their own scale. The learning rate is divided by 10 at 50 % and 75 %."
)
SWEEP = "fig1_quick"
NEEDS = curves.NEEDS
PUBLISHED = "fig1"
SIZE = (9.6, 4.4)
SMALL = "Figure 1, at a laptop's scale"
CLAIMS = (
    Claim(
        id="1-reduced",
        origin="paper",
        where=SMALL,
        scale="reduced",
        says="At the same small learning rate, 0.0001, BN does not generalise better.",
        criterion="Final test accuracy with and without BN at 0.0001, medians over seeds: with BN at most 2 points "
        "higher (reproduced), at most 5 (partly).",
        published="81.3 % with BN, 81.9 % without (ResNet-110, 2400 epochs)",
    ),
    Claim(
        id="2-reduced",
        origin="paper",
        where=SMALL,
        scale="reduced",
        says="The gain of BN comes with larger learning rates.",
        criterion="Median final test accuracy with BN rises from 0.0001 to 0.003 to 0.1, each step by more than the "
        "larger range over seeds (reproduced); highest at 0.1 (partly).",
        published="81.3, 90.4, 93.2 % (ResNet-110, 2400, 1320, 165 epochs)",
    ),
    Claim(
        id="3-reduced",
        origin="paper",
        where=SMALL,
        scale="reduced",
        says="Smaller learning rates overfit more.",
        criterion="Median gap between final train and test accuracy with BN falls from 0.0001 to 0.003 to 0.1 "
        "(reproduced); smaller at 0.1 than at 0.0001 (partly).",
        published="18.5, 9.6, 6.8 points (ResNet-110, 2400, 1320, 165 epochs)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    curves.figure(fig, frames, floor=0, published="published, full scale")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    found = curves.ends(frames["runs"])
    return {
        "1-reduced": curves.at_one_rate(found, whole=found.ahead <= 2, part=found.ahead <= 5),
        "2-reduced": curves.with_the_rate(found),
        "3-reduced": curves.overfitting(found),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return curves.numbers(frames["runs"])
