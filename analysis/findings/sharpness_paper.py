"""Do larger learning rates end in flatter minima? The networks of Figure 1 (Bjorck et al. 2018, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import sharpness
from bnstudy.findings import Claim, Comparison, Evidence

TITLE = "ResNet-110: sharpness of the loss after the paper's training against the learning rate"
CAPTION = (
    "Largest eigenvalue of the Hessian of the mean loss on 256 training images, not augmented, in all parameters, "
    "with BN by the statistics of these images; Lanczos iteration to a residual of 1 %. The networks of Figure 1: "
    "ResNet-110 on CIFAR-10 with BN at 0.1, 0.003 and 0.0001 and without at 0.0001, after 165, 1320, 2400 and 2400 "
    "epochs. (a) After training; one mark a run, line: median over seeds of the runs that trained; dashes: median "
    "before training. (b) Loss on the same images. (c) One against the other. Hollow: stalled (under 30 % on the "
    "training images); diverged runs have no end. With BN the loss does not depend on the scale of the weights "
    "before a norm, but the eigenvalue does."
)
SWEEP = "fig1_paper"
NEEDS = {"hessian_top_eigenvalue": "model == 'resnet'"}
SIZE = (11.4, 4.3)
CLAIMS = (
    Claim(
        id="17",
        origin="paper",
        where="Section 2.1, text",
        scale="paper",
        says="Larger learning rates lead to flatter minima.",
        criterion="Largest Hessian eigenvalue on 256 training images at the end of training with BN, medians over "
        "seeds: falls from 0.0001 to 0.003 to 0.1 (reproduced); smaller at 0.1 than at 0.0001 (partly). A rate at "
        "which not every seed trains: undecided.",
        published="argued, not measured",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    sharpness.figure(fig, sharpness.looks(frames["hessian_top_eigenvalue"]), limit=False)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    rows = sharpness.looks(frames["hessian_top_eigenvalue"])
    return {"17": sharpness.evidence(rows[rows["norm"] == "batch"], num_rates=3)}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return sharpness.numbers(sharpness.looks(frames["hessian_top_eigenvalue"]))
