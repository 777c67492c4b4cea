"""Do larger learning rates end in flatter minima? The networks of Figure 1 (Bjorck et al. 2018, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import sharpness
from bnstudy.analysis.criteria import Criterion, Sample
from bnstudy.analysis.findings import Claim, Comparison

TITLE = "ResNet-110: sharpness of the loss after the paper's training against the learning rate"
CAPTION = (
    "Largest eigenvalue of the Hessian of the mean loss on 256 training images, not augmented, in all parameters, "
    "with BN by the statistics of these images; Lanczos iteration to a residual of 1 %. The networks of Figure 1: "
    "ResNet-110 on CIFAR-10 with BN at 0.1, 0.003 and 0.0001 and without at 0.0001, after 165, 1320, 2400 and 2400 "
    "epochs. (a) After training; one mark a run, line: geometric mean over seeds of the runs that trained; dashes: "
    "that before training; grey: 2 (1 + 0.9)/rate, above which descent with momentum on a quadratic loss diverges. (b) "
    "Loss on the same images. (c) One against the other. Hollow: stalled (under 30 % on the training images); diverged "
    "runs have no end. With BN the loss does not depend on the scale of the weights before a norm, but the eigenvalue "
    "does."
)
SWEEP = "fig1_paper"
NEEDS = {"hessian_top_eigenvalue": "model == 'resnet'"}
SIZE = (11.4, 4.3)
RATES = (0.0001, 0.003, 0.1)
CLAIMS = (
    Claim(
        id="17",
        origin="paper",
        where="Section 2.1, text",
        scale="paper",
        says="Larger learning rates lead to flatter minima.",
        criterion=Criterion(
            sharpness.steps(RATES),
            partial=(sharpness.ends(RATES),),
            needs=(sharpness.TRAINED,),
            remark="Largest Hessian eigenvalue on 256 training images at the end of training with BN, seed by seed; a "
            "run that did not train has none. It is not invariant under a rescaling of the weights before a norm.",
        ),
        published="argued, not measured",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    sharpness.figure(fig, sharpness.looks(frames["hessian_top_eigenvalue"]), momentum=0.9)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = sharpness.looks(frames["hessian_top_eigenvalue"])
    return {"17": sharpness.measure(rows[rows["norm"] == "batch"], RATES)}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return sharpness.numbers(sharpness.looks(frames["hessian_top_eigenvalue"]))
