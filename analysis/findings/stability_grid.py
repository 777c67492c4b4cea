"""Which of the paper's learning rates its network bears at its own depth (Bjorck et al. 2018, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import figures, stability
from bnstudy.analysis.findings import Claim, Comparison, Evidence, Verdict
from bnstudy.analysis.frames import ARMS, number
from bnstudy.store import outcomes

PAPER_GRID = (3e-5, 1e-4, 3e-4, 0.001, 0.003, 0.1)
DIVERGE = (0.003, 0.1, 1.0)  # rates at which the network without BN is to diverge
USED = 0.1  # the paper's rate with BN
SEEDS = 5

TITLE = "ResNet-110 during its first epoch, at the paper's learning rates"
CAPTION = (
    "All of CIFAR-10, 391 updates on mini-batches of 128 at a constant rate, five seeds, fp32. Above: the loss of each "
    "mini-batch, a line a seed, both axes logarithmic; cross: the loss that ended a run, above 1000 or not finite (at "
    "the top). Below: means of ten successive losses of the runs that did not diverge; dashed: ln 10, the loss of "
    "guessing. In each panel: how many seeds learn (mean of the last 50 losses below 2.25), stay at chance or diverge; "
    "at chance a rate is too small where a larger one of the same arm and seed learns, too large where only smaller "
    "ones do."
)
SWEEP = "stability_grid"
NEEDS = {"steps": "depth == 110 and epochs == 1"}
SIZE = (13.4, 5.4)
CLAIMS = (
    Claim(
        id="4-epoch",
        origin="paper",
        where="Section 3, text",
        scale="true depth, one epoch",
        says="Without BN larger learning rates cannot be used: training diverges.",
        criterion="ResNet-110, all of CIFAR-10, one epoch, five seeds: without BN every seed diverges (a mini-batch "
        "loss above 1000, or not finite) at 0.003, 0.1 and 1; with BN none diverges at 0.1, 0.003, 0.001, 0.0003, "
        "0.0001 and 0.00003, and every seed learns at 0.1 (mean of the last 50 losses below 2.25). Both: reproduced, "
        "one: partly. Undecided before five seeds have all of these runs whole.",
        published="0.1 diverges, 0.0001 trains; the grid is 0.1, 0.003, 0.001, 0.0003, 0.0001, 0.00003",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    steps, runs = frames["steps"], stability.runs(frames["steps"])
    rates = sorted(runs["lr"].unique())
    axes = fig.subplots(2, len(rates), sharex=True, sharey="row", squeeze=False)
    for (above, below), rate, letter in zip(axes.T, rates, "abcdefghijkl", strict=False):
        part = steps[steps["run_lr"] == rate]
        stability.losses(above, part)
        stability.courses(below, part)
        figures.panel(above, letter, f"rate {number(rate)}")
        stability.told(above, [stability.tally(runs, arm, rate) for arm in ARMS])
        below.set_xlabel("update (1: the first)")
    axes[0, 0].set_ylabel("loss of the mini-batch")
    axes[1, 0].set_ylabel("mean of ten losses")
    fig.legend(handles=stability.legend(), loc="outside lower center", ncols=5)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = stability.runs(frames["steps"])
    diverge = [stability.count(runs, "none", rate, outcomes.DIVERGED) for rate in DIVERGE]
    stay = [stability.count(runs, "batch", rate, outcomes.DIVERGED) for rate in PAPER_GRID]
    learn = stability.count(runs, "batch", USED, outcomes.LEARNS)
    n = min(part.of for part in (*diverge, *stay, learn))
    without = all(part.all for part in diverge)
    with_bn = learn.all and all(part.none for part in stay)
    return {
        "4-epoch": Evidence(
            measured="without BN "
            + ", ".join(f"{part} diverge at {number(rate)}" for rate, part in zip(DIVERGE, diverge, strict=True))
            + f"; with BN {sum(part.num for part in stay)} of {sum(part.of for part in stay)} diverge at the paper's "
            f"rates, {learn} learn at {number(USED)}",
            spread=stability.last_losses(runs, "batch", USED),
            n=n,
            verdict=_verdict(n, without, with_bn),
        )
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return stability.numbers(stability.runs(frames["steps"]))


def _verdict(n: int, without: bool, with_bn: bool) -> Verdict:
    if n < SEEDS:
        return Verdict.undecided
    if without and with_bn:
        return Verdict.reproduced
    return Verdict.partly if without or with_bn else Verdict.not_reproduced

