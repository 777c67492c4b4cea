"""Does training use gamma and beta to undo the normalisation? What they become, beside the statistics."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, spread
from bnstudy.analysis.stats import Scale

SITES = {"norm1": "conv 1", "norm2": "conv 2", "norm3": "dense 1", "norm4": "dense 2"}
ASKED = 0.5
GAMMA = Part("rank correlation of gamma with the standard deviation that BN divides by, mean over layers", above=ASKED)
BETA = Part("rank correlation of beta with the mean that BN subtracts, mean over layers", above=ASKED)
UNDO = {"gamma": ("gamma", "deviation"), "beta": ("beta", "mean")}  # the parameter, and what it would undo
EPOCHS = 10

TITLE = "Do gamma and beta undo what BN does?"
CAPTION = (
    "LeNet with torch's BN on Fashion-MNIST, learning rate 1, ten epochs (preset quick: three); running statistics of "
    "the end. A dot is a channel, all seeds together. (a) Scale of each channel against the standard deviation that BN "
    "divides by. (b) Shift against the mean that BN subtracts. Dashed: where they would undo it exactly; last panels: "
    "0.5, which the claim asks for. Titles give the rank correlation over channels, mean over seeds: 1 is the same "
    "order, 0 none."
)
SWEEP = "textbook_lenet"
NEEDS = {"norm_parameters": "norm == 'batch'"}
SIZE = (12.4, 5.6)
CLAIMS = (
    Claim(
        id="textbook-undo",
        origin="course",
        where="Ioffe and Szegedy (2015), section 3: gamma and beta can restore the identity",
        scale="textbook",
        says="Training uses gamma and beta to undo the normalisation.",
        criterion=Criterion((GAMMA, BETA), partial=1, remark="After ten epochs of LeNet, over each layer's channels."),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    channels = _channels(frames["norm_parameters"])
    found = _correlations(channels)
    rows = fig.subplots(2, len(SITES) + 1)
    for (*axes, last), (which, (learned, undone)), letter in zip(rows, UNDO.items(), "ab", strict=True):
        for ax, (site, layer) in zip(axes, SITES.items(), strict=True):
            part = channels[channels["site"] == site]
            _scatter(ax, part[undone], part[learned])
            ax.set_xlabel("standard deviation" if which == "gamma" else "mean")
            mean = found.loc[found["site"] == site, which].mean()
            figures.panel(ax, letter if site == "norm1" else " ", f"{layer}, $\\rho$ = {mean:.2f}")
        axes[0].set_ylabel(f"{'scale' if which == 'gamma' else 'shift'} $\\{which}$")
        figures.seeds(last, 0, found.groupby("seed")[which].mean(), "batch", scale=Scale.plain)
        last.axhline(ASKED, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
        last.set(xlim=(-0.7, 0.7), ylim=(-0.1, 1), ylabel=f"$\\rho$ of $\\{which}$")
        last.set_xticks([0], ["mean over layers"])
        last.grid(False, axis="x")
        figures.panel(last, " ", "by seed")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = frames["norm_parameters"]
    found = _correlations(_channels(rows[rows["epochs"] >= EPOCHS]))
    by_seed = found.groupby("seed")[list(UNDO)].mean()
    samples = {GAMMA.key: criteria.single(by_seed["gamma"]), BETA.key: criteria.single(by_seed["beta"])}
    return {"textbook-undo": samples}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    found = _correlations(_channels(frames["norm_parameters"]))
    return [
        Comparison(
            f"rank correlation of {learned} with the {undone}, {layer}",
            DASH,
            DASH,
            str(spread(found.loc[found["site"] == site, which])),
            DASH,
        )
        for which, (learned, undone) in UNDO.items()
        for site, layer in SITES.items()
    ]


def _channels(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per seed, site and channel: gamma, beta, and the running mean and deviation."""
    last = rows[rows["step"] == rows["num_steps"]]
    wide = last.pivot(index=["seed", "site", "channel"], columns="quantity", values="value").reset_index()
    return wide.assign(
        gamma=wide["weight"], beta=wide["bias"], mean=wide["running_mean"], deviation=np.sqrt(wide["running_var"])
    )


def _correlations(channels: pd.DataFrame) -> pd.DataFrame:
    """One row per seed and site: Spearman's coefficient of each parameter with what it would undo."""
    lines = [
        (*key, *(part[learned].rank().corr(part[undone].rank()) for learned, undone in UNDO.values()))
        for key, part in channels.groupby(["seed", "site"])
    ]
    return pd.DataFrame(lines, columns=["seed", "site", *UNDO])


def _scatter(ax: Axes, undone: pd.Series, learned: pd.Series) -> None:
    ax.plot(undone, learned, "o", color=figures.COLOURS["batch"], ms=3, mew=0, alpha=0.5)
    low, high = min(undone.min(), learned.min()), max(undone.max(), learned.max())
    ax.plot([low, high], [low, high], color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
