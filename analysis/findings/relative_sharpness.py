"""Do larger learning rates end in flatter minima, in units that no rescaling of the weights changes?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import figures, sharpness
from bnstudy.analysis.criteria import Criterion, Sample
from bnstudy.analysis.findings import Claim, Comparison

TITLE = "LeNet: sharpness in units of the weights, against the learning rate"
CAPTION = (
    "LeNet with ReLU on 20,000 images of Fashion-MNIST, ten epochs of plain SGD at a constant rate. (a) Largest "
    "eigenvalue of the Hessian of the mean loss on 1,000 training images with every weight in units of its tensor's "
    "norm: with BN the loss does not depend on the scale of the weights before a norm, and neither does this. (b) In "
    "plain units, where it does. One mark a run, line: geometric mean over seeds of the runs that trained; dashes: "
    "before training. Hollow: stalled (under 30 % on the training images), where not below the axis; diverged "
    "runs have no end."
)
SWEEP = "sharpness"
NEEDS = {table: "model == 'lenet'" for table in ("relative_sharpness", "hessian_top_eigenvalue")}
SIZE = (9.6, 4.2)
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
CLAIMS = (
    Claim(
        id="17-reduced-relative",
        origin="ours",
        where="Section 2.1, text, carried over to LeNet",
        scale="reduced",
        says="With BN larger learning rates lead to flatter minima also where each weight is measured by its norm.",
        criterion=Criterion(
            sharpness.steps(RATES),
            (sharpness.ends(RATES),),
            (sharpness.TRAINED,),
            "Largest eigenvalue after training with every weight in units of its tensor's norm, seed by seed.",
        ),
        published="argued, not measured",
    ),
)
PANELS = {
    "relative_sharpness": ("in units of the weights' norms", "largest eigenvalue (squared norms)"),
    "hessian_top_eigenvalue": ("in plain units", "largest eigenvalue of the Hessian"),
}


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    for ax, (table, (title, label)), letter in zip(fig.subplots(1, 2), PANELS.items(), "ab", strict=True):
        _by_rate(ax, sharpness.looks(frames[table]))
        ax.set_ylabel(label)
        figures.panel(ax, letter, title)
    handles = figures.arm_entries(marker="o", ls="-", ms=4, lw=1.5)
    handles += [figures.entry("before training", ls=(0, (2, 2))), figures.entry("stalled", "o", filled=False)]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = sharpness.looks(frames["relative_sharpness"])
    return {"17-reduced-relative": sharpness.measure(rows[rows["norm"] == "batch"], RATES)}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return sharpness.numbers(sharpness.looks(frames["relative_sharpness"]))


def _by_rate(ax: Axes, rows: pd.DataFrame) -> None:
    sharpness.by_rate(ax, rows, "eigenvalue")
    sharpness.before_training(ax, rows)
    alive = rows.loc[~rows["ended"] | (rows["outcome"] == "trained"), "eigenvalue"]
    if alive.min() > 0:
        ax.set_ylim(alive.min() / 2, 1.5 * alive.max())
    figures.plain_log(ax)
