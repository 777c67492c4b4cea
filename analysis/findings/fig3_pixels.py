"""Figure 3 once more, with images in [0, 1]: the figure and the criteria of `fig3.py` on another sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from bnstudy.analysis import findings
from bnstudy.analysis.criteria import Sample

STANDARDISED = findings.load(Path(__file__).with_name("fig3.py"))

TITLE = "The loss along the gradient in the first updates, with images in [0, 1]"
CAPTION = f"{STANDARDISED.caption} Images in [0, 1], which halve the gradient without BN."
SWEEP = "first_steps_pixels"
NEEDS = STANDARDISED.needs
PUBLISHED = STANDARDISED.published
SIZE = STANDARDISED.size
CLAIMS = tuple(
    replace(claim, id=f"{claim.id}-pixels", where=f"{claim.where}, images in [0, 1]", origin="ours", family="")
    for claim in STANDARDISED.claims
)
plot, numbers = STANDARDISED.plot, STANDARDISED.numbers


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, Mapping[str, Sample]]:
    assert STANDARDISED.measure is not None
    return {f"{name}-pixels": samples for name, samples in STANDARDISED.measure(frames).items()}
