"""Which claims about the untrained network depend on what the paper leaves open? All of the sweep init, judged anew."""

from __future__ import annotations

from pathlib import Path

from bnstudy.analysis import findings
from bnstudy.analysis.robustness import Study

FOLDER = Path(__file__).parent
JUDGED = ("fig2", "fig5", "fig6", "fig7", "gradient_correlation", "table1")  # those of the sweep init
STUDY = Study(
    findings=[findings.load(FOLDER / f"{name}.py") for name in JUDGED],
    base={"shortcut": "projection", "bias": False, "normalise": "channel", "init": "xavier_uniform"},
    variants={
        "shortcuts of option A": {"shortcut": "identity"},
        "biases, as torch draws them": {"bias": True, "init": "xavier_uniform_biased"},
        "images in [0, 1]": {"normalise": "unit"},
        "Xavier's normal law": {"init": "xavier_normal"},
    },
    names={
        "shortcuts of option A": "shortcut",
        "biases, as torch draws them": "biases",
        "images in [0, 1]": "preprocessing",
        "Xavier's normal law": "xavier",
    },
    curves=FOLDER.parent / "paper_curves",
)

TITLE = "Do the verdicts at initialisation hang on what the paper leaves open?"
CAPTION = (
    "Every claim of the sweep init, as far as this sweep has its tables, judged by the same criterion on networks that "
    "differ in one setting from those studied (projections, no biases, images of mean 0 and standard deviation 1 per "
    "channel, Xavier's uniform law). Framed: another verdict than as studied; the number is what a claim is judged by, "
    "where that is one number. Claims that name published values ask "
    "for more than the others: the settings studied are those that match these."
)
SWEEP = "sensitivity"
NEEDS = STUDY.tables
SIZE = (11.4, 6.8)
CLAIMS = STUDY.claims(
    "The verdicts at initialisation are the same with {}.",
    "Of the claims that the sweep init decides",
    where="Section 1.2, what it leaves open",
    scale="init",
    published="not in the paper",
)
plot, numbers = STUDY.plot, STUDY.numbers
