"""Do the claims about learning rates outlast warm-up and weight decay? LeNet's, judged again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import findings
from bnstudy.findings import Claim, Comparison, Evidence
from bnstudy.robustness import Study, compared, draw

FOLDER = Path(__file__).parent
STUDY = Study(
    findings=[findings.load(FOLDER / "lenet_lr.py")],
    base={"warmup": 0.0, "weight_decay": 0.0},
    variants={
        "warm-up": {"warmup": 0.1},
        "weight decay 0.0001": {"weight_decay": 0.0001},
        "weight decay 0.0005": {"weight_decay": 0.0005},
    },
    curves=FOLDER.parent / "paper_curves",
)

TITLE = "LeNet: do the verdicts about learning rates outlast warm-up and weight decay?"
CAPTION = (
    "The claims of LeNet's grid of learning rates, judged by the same criteria on runs of two epochs on Fashion-MNIST "
    "that differ in one setting from the textbook's recipe: the rate rises over the first tenth of training, or the "
    "weights decay. Framed: another verdict than with the recipe as it is."
)
SWEEP = "sensitivity_training"
NEEDS = STUDY.tables
SIZE = (9.6, 2.6)
IDS = dict(zip(STUDY.variants, ("warm-up", "decay-0.0001", "decay-0.0005"), strict=True))
CLAIMS = tuple(
    Claim(
        id=f"sensitivity-{name}",
        where="Section 1.2, carried over to LeNet",
        scale="reduced",
        says=f"LeNet's verdicts about learning rates are the same with {variant}.",
        criterion="Of the claims of LeNet's grid of learning rates, judged again by their own criteria: all have the "
        "verdict that they have with the recipe as it is (reproduced), at least two thirds (partly).",
        published="not in the paper",
    )
    for variant, name in IDS.items()
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    draw(fig.subplots(), STUDY.judged(frames), STUDY.claims)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    judged = STUDY.judged(frames)
    return {f"sensitivity-{name}": compared(judged, variant) for variant, name in IDS.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return []  # the figure is the table
