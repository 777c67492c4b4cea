"""Where BN has to sit, on a laptop's scale: the figure and the criteria of `placement.py` on another sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from bnstudy.analysis import findings
from bnstudy.analysis.criteria import Sample

PAPER = findings.load(Path(__file__).with_name("placement.py"))

TITLE = "Where does BN have to sit? ResNet-20 on 2,000 images for five epochs"
CAPTION = (
    f"{PAPER.caption} ResNet-20 instead of ResNet-110, 2,000 images instead of 50,000, mini-batches "
    "of 64 instead of 128, five epochs instead of 165."
)
SWEEP = "placement_reduced"
NEEDS = PAPER.needs
SIZE = PAPER.size
CLAIMS = tuple(
    replace(claim, id=f"{claim.id}-reduced", where=f"{claim.where}, at a laptop's scale", scale="reduced", family="")
    for claim in PAPER.claims
)
plot, numbers = PAPER.plot, PAPER.numbers


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, Mapping[str, Sample]]:
    assert PAPER.measure is not None
    return {f"{name}-reduced": samples for name, samples in PAPER.measure(frames).items()}
