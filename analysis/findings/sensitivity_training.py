"""Do the claims about learning rates also hold with warm-up and weight decay? LeNet's, judged again."""

from __future__ import annotations

from pathlib import Path

from bnstudy.analysis import findings
from bnstudy.analysis.robustness import Study

FOLDER = Path(__file__).parent
STUDY = Study(
    findings=[findings.load(FOLDER / "lenet_lr.py")],
    base={"warmup": 0.0, "weight_decay": 0.0},
    variants={
        "warm-up": {"warmup": 0.1},
        "weight decay 0.0001": {"weight_decay": 0.0001},
        "weight decay 0.0005": {"weight_decay": 0.0005},
    },
    names={"warm-up": "warm-up", "weight decay 0.0001": "decay-0.0001", "weight decay 0.0005": "decay-0.0005"},
    curves=FOLDER.parent / "paper_curves",
    called="with the recipe alone",
)

TITLE = "LeNet: do the verdicts about learning rates outlast warm-up and weight decay?"
CAPTION = (
    "The claims of LeNet's grid of learning rates, judged by the same criteria on runs of two epochs on Fashion-MNIST "
    "that differ in one setting from the textbook's recipe: the rate rises over the first tenth of training, or the "
    "weights decay. Framed: another verdict than with the recipe alone; the number is what a claim is judged by, where "
    "that is one number. Two epochs and three seeds are less than the ten and five by which these claims are judged "
    "for the table of claims: where the first column is undecided, nothing can be compared."
)
SWEEP = "sensitivity_training"
NEEDS = STUDY.tables
SIZE = (9.6, 2.6)
CLAIMS = STUDY.claims(
    "LeNet's verdicts about learning rates are the same with {}.",
    "Of the claims of LeNet's grid of learning rates",
    where="Section 1.2, carried over to LeNet",
    scale="reduced",
    published="not in the paper",
)
plot, numbers = STUDY.plot, STUDY.numbers
