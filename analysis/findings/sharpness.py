"""Do larger learning rates end in flatter minima? LeNet on a laptop's scale (Bjorck et al. 2018, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import sharpness
from bnstudy.analysis.criteria import Criterion, Sample
from bnstudy.analysis.findings import Claim, Comparison

TITLE = "LeNet: sharpness of the loss after training against the learning rate"
CAPTION = (
    "Largest eigenvalue of the Hessian of the mean loss on 1,000 training images in all parameters, with BN by the "
    "statistics of these images. LeNet with ReLU on 20,000 images of Fashion-MNIST, ten epochs of plain SGD at a "
    "constant rate. (a) After training; one mark a run, line: geometric mean over seeds of the runs that trained; "
    "dashes: that before training; grey: 2/rate, above which gradient descent on a quadratic loss diverges. (b) Loss "
    "on the same images: equal epochs are not equal progress. (c) One against the other. Hollow: stalled (under 30 % "
    "on the training images); diverged runs have no end. With BN the loss does not depend on the scale of the weights "
    "before a norm, but the eigenvalue does."
)
SWEEP = "sharpness"
NEEDS = {"hessian_top_eigenvalue": "model == 'lenet'"}
SIZE = (11.4, 4.3)
WHERE = "Section 2.1, text, carried over to LeNet"
RATES = {"batch": (0.01, 0.03, 0.1, 0.3, 1.0), "none": (0.01, 0.03, 0.1, 0.3)}  # of the grid, that train in each arm


def _falls(arm: str) -> Criterion:
    remark = (
        "Largest Hessian eigenvalue at the end of training, seed by seed; a run that did not train has none. It is not "
        "invariant under a rescaling of the weights before a norm."
    )
    partial, needs = (sharpness.ends(RATES[arm]),), (sharpness.TRAINED,)
    return Criterion(sharpness.steps(RATES[arm]), partial, needs, remark)


CLAIMS = (
    Claim(
        id="17-reduced",
        where=WHERE,
        scale="reduced",
        says="Larger learning rates lead to flatter minima.",
        criterion=_falls("batch"),
        published="argued, not measured",
    ),
    Claim(
        id="17-reduced-none",
        where=WHERE,
        scale="reduced",
        says="They do so without BN, too.",
        criterion=_falls("none"),
        published="argued, not measured",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    sharpness.figure(fig, _looks(frames), momentum=0.0)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = _looks(frames)
    return {
        claim: sharpness.measure(rows[rows["norm"] == arm], RATES[arm])
        for claim, arm in (("17-reduced", "batch"), ("17-reduced-none", "none"))
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return sharpness.numbers(_looks(frames))


def _looks(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return sharpness.looks(frames["hessian_top_eigenvalue"])
