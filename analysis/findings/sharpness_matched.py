"""Do larger learning rates end in flatter minima? At equal epochs (Bjorck et al. 2018, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import sharpness
from bnstudy.analysis.criteria import Criterion, Sample
from bnstudy.analysis.findings import Claim, Comparison

TITLE = "ResNet-110: sharpness of the loss after 165 epochs against the learning rate"
CAPTION = (
    "Largest eigenvalue of the Hessian of the mean loss on 256 training images, not augmented, in all parameters, "
    "with BN by the statistics of these images; Lanczos iteration to a residual of 1 %. The four arms of Figure 1 at "
    "equal epochs: ResNet-110 on CIFAR-10, all for 165, which at 0.0001 is a fourteenth of the paper's training and "
    "no minimum yet; so it decides nothing about the paper's own claim. (a) After training; one mark a run, line: "
    "geometric mean over seeds of the runs that trained; dashes: that before training; grey: 2 (1 + 0.9)/rate, above "
    "which descent with momentum on a quadratic loss diverges. (b) Loss on the same images: equal "
    "epochs are not equal progress. (c) One against the other. Hollow: stalled (under 30 % on the training images); "
    "diverged runs have no end. With BN the loss does not depend on the scale of the weights before a norm, but the "
    "eigenvalue does."
)
SWEEP = "fig1_matched"
NEEDS = {"hessian_top_eigenvalue": "model == 'resnet'"}
SIZE = (11.4, 4.3)
RATES = (0.0001, 0.003, 0.1)
CLAIMS = (
    Claim(
        id="17-matched",
        where="Section 2.1, text, at equal epochs",
        scale="paper",
        says="After equally many epochs, too, the network is in a flatter place at a larger learning rate.",
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
    return {"17-matched": sharpness.measure(rows[rows["norm"] == "batch"], RATES)}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return sharpness.numbers(sharpness.looks(frames["hessian_top_eigenvalue"]))
