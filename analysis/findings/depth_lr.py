"""Do shallower networks without BN bear larger learning rates (Bjorck et al. 2018, appendix H)?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import rates
from bnstudy.findings import Claim, Comparison, Evidence

TITLE = "The largest learning rate that trains without BN, by depth"
CAPTION = (
    "CIFAR ResNets without BN on all images of CIFAR-10 for 20 epochs at each learning rate. (a) Accuracy on the "
    "training images, a dot a run, line: median over seeds on the grid; a diverged run counts as 0. (b) The largest "
    "rate that trains, a bar a seed from a rate that does to one that does not; line: median of the lower ends; "
    "triangle: the largest that was tried trains; white dot: rates above the bar train again."
)
SWEEP = "depth_lr"
NEEDS = {"runs": "status in ('completed', 'diverged') and norm == 'none' and epochs == 20"}
SIZE = (9.6, 4.2)
CLAIMS = (
    Claim(
        id="15",
        where="Appendix H",
        scale="reduced",
        says="Shallower networks without BN bear larger learning rates.",
        criterion="Largest rate at which every seed trains does not rise with depth over 20, 32, 44, 56, 110 (within "
        "the search's factor of 1.25), and is smaller at 110 than at 20 (reproduced); only the last (partly). "
        "Undecided where in a seed no rate trains.",
        published="values not known",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rates.depth_figure(fig, frames["runs"])


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    return {"15": rates.depth_evidence(rates.edges(frames["runs"], ["norm", "depth", "seed"]))}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return rates.depth_numbers(frames["runs"])
