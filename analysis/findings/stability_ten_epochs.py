"""Whether the paper's network learns without BN at the rates that leave it finite (Bjorck et al. 2018, Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stability, stats
from bnstudy.analysis.criteria import Criterion, HoldsFor, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import CHANCE, arms, number
from bnstudy.store import outcomes

USED = 1e-4  # the paper's rate without BN
DASHES = {3e-5: ":", 1e-4: "-", 3e-4: "--"}
LEARNS = "whether the run without BN at 0.0001 learns (1) or not (0)"
EVERY, SOME = (Part(LEARNS, above=0.5, holds_for=holds_for) for holds_for in (HoldsFor.every, HoldsFor.some))

TITLE = "ResNet-110 at the rates that leave it finite without BN: ten epochs"
CAPTION = (
    "All of CIFAR-10, 3,910 updates on mini-batches of 128 at a constant rate, three seeds, fp32: without BN at three "
    "rates, with BN at 0.0001, the equal rates of the paper's Figure 1. (a) Loss, mean over each epoch's mini-batches; "
    "dashed: ln 10, the loss of guessing. (b) Accuracy on the test images. Lines: means over the seeds, bands: their "
    "95 % intervals; a run that diverged ends there."
)
SWEEP = "stability_ten_epochs"
NEEDS = {"steps": "depth == 110 and epochs == 10", "epochs": "depth == 110 and epochs == 10"}
SIZE = (9.6, 4.2)
CLAIMS = (
    Claim(
        id="4-ten-epochs",
        where="Section 2, Figure 1",
        scale="true depth, ten epochs",
        says="Without BN the network begins to learn at a learning rate of 0.0001 within ten epochs.",
        criterion=Criterion(
            (EVERY,),
            partial=(SOME,),
            remark="ResNet-110, all of CIFAR-10. Learns: mean of the last 50 mini-batch losses below 2.25. A network "
            "that has not begun by then may still train at 0.0001: the paper trains for 2,400 epochs.",
        ),
        published="at 10 % of its 2400 epochs it has 72 % on the test images, with BN 76 %",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    left, right = fig.subplots(1, 2)
    epochs = frames["epochs"]
    shown = epochs.assign(loss=epochs["train_loss"], percent=100 * epochs["test_accuracy"])
    for ax, column in ((left, "loss"), (right, "percent")):
        _courses(ax, shown, column)
        ax.set_xlabel("epoch")
        ax.set_xlim(left=0.8)
    left.axhline(stability.GUESS, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    left.set_ylabel("training loss")
    right.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    right.set_ylabel("test accuracy (%)")
    figures.panel(left, "a", "training loss")
    figures.panel(right, "b", "test accuracy")
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    by_rate = stability.outcomes_by_seed(stability.runs(frames["steps"]), "none", [USED])
    return {"4-ten-epochs": {EVERY.key: criteria.single((by_rate[USED] == outcomes.LEARNS).astype(float))}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return stability.numbers(stability.runs(frames["steps"]))


def _courses(ax: Axes, epochs: pd.DataFrame, column: str) -> None:
    """Mean over seeds with its 95 % interval by epoch, of each arm at each of its rates."""
    for arm, rows in arms(epochs).items():
        for rate, part in rows.groupby("run_lr"):
            label = f"{figures.LABELS[arm]}, {number(float(str(rate)))}"
            dashes = DASHES.get(float(str(rate)), "-")
            figures.band(ax, stats.over_seeds(part, ["epoch"], column), "epoch", arm, label=label, ls=dashes)
