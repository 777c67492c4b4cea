"""Do shallow networks without BN train at larger learning rates, at a small scale (Bjorck et al. 2018, appendix H)?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import limits
from bnstudy.analysis.criteria import Criterion, Sample
from bnstudy.analysis.findings import Claim, Comparison

TITLE = "On few images: the largest learning rate that trains without BN, by depth"
CAPTION = (
    "CIFAR ResNets without BN on the first 32 images of CIFAR-10, 200 updates of 16 images at each constant learning "
    "rate: whether the network can be trained at all, not what it then knows of other images. (a to e) Accuracy on the "
    "training images, a dot a run, line: mean over seeds on the grid; a diverged run counts as 0. (f) The largest "
    "rate that trains (30 % or more), a bar a seed from a rate that does to one that does not; line: geometric mean "
    "of the lower ends; triangle: the largest that was tried trains; white dot: rates above the bar train again."
)
SWEEP = "depth_lr_reduced"
NEEDS = {"runs": "status in ('completed', 'diverged') and norm == 'none'"}
SIZE = (11.4, 4.8)
CLAIMS = (
    Claim(
        id="15-reduced",
        origin="paper",
        where="Appendix H, at a laptop's scale",
        scale="reduced",
        says="Without BN shallower networks train at larger learning rates.",
        criterion=Criterion(
            (limits.FALLS,),
            remark="Over the depths of the sweep, by least squares, seed by seed; a rate trains where the training "
            "accuracy of the last epoch is 30 % or more.",
        ),
        published="values not known",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    limits.depth_figure(fig, frames["runs"])


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    return {"15-reduced": limits.slopes(limits.by_cell(frames["runs"], ["norm", "depth", "seed"]))}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return limits.depth_numbers(frames["runs"])
