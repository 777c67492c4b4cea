"""Which claims about the untrained network hang on what the paper leaves open? All of the sweep init, judged again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import findings
from bnstudy.findings import Claim, Comparison, Evidence
from bnstudy.robustness import Study, compared, draw

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
    curves=FOLDER.parent / "paper_curves",
)

TITLE = "Do the verdicts at initialisation hang on what the paper leaves open?"
CAPTION = (
    "Every claim that the sweep init decides, judged by the same criterion on networks that differ in one setting from "
    "those studied (projections, no biases, images of mean 0 and standard deviation 1 per channel, Xavier's uniform "
    "law). Framed: another verdict than as studied. Claims that name published values ask for more than the others: "
    "the settings studied are those that match these."
)
SWEEP = "sensitivity"
NEEDS = STUDY.tables
SIZE = (11.4, 6.2)
IDS = dict(zip(STUDY.variants, ("shortcut", "biases", "preprocessing", "xavier"), strict=True))
CLAIMS = tuple(
    Claim(
        id=f"sensitivity-{name}",
        where="Section 1.2, what it leaves open",
        scale="init",
        says=f"The verdicts at initialisation are the same with {variant}.",
        criterion="Of the claims that the sweep init decides, judged again by their own criteria: all "
        "have the verdict that they have at the settings studied (reproduced), at least two thirds (partly).",
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
