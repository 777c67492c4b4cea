"""Outcomes of runs at the rates of a grid, counted over seeds, and how their losses are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bnstudy.analysis import figures
from bnstudy.analysis.findings import Comparison
from bnstudy.analysis.frames import ARMS, DASH, arms, number, spread
from bnstudy.store import outcomes

GUESS = math.log(10)  # loss of guessing among ten classes
SHORT = {  # outcomes as a figure's heading has them
    outcomes.LEARNS: "learn",
    outcomes.TOO_SMALL: "too small",
    outcomes.TOO_LARGE: "too large",
    outcomes.CHANCE: "at chance",
    outcomes.DIVERGED: "diverge",
    outcomes.PARTIAL: "partial data",
}


def runs(steps: pd.DataFrame) -> pd.DataFrame:
    """One row per run with its outcome, over the cells of an arm and a seed (see `outcomes.by_run`)."""
    return outcomes.by_run(steps, ["norm", "seed"])


def outcomes_by_seed(runs: pd.DataFrame, arm: str, rates: Sequence[float]) -> pd.DataFrame:
    """The outcomes of an arm, a column per rate, of the seeds that have whole runs at all of these rates."""
    part = runs[(runs["norm"] == arm) & (runs["outcome"] != outcomes.PARTIAL)]
    at = {rate: part[np.isclose(part["lr"], rate, rtol=1e-9, atol=0)].set_index("seed")["outcome"] for rate in rates}
    return pd.DataFrame(at).dropna()


def tally(runs: pd.DataFrame, arm: str, rate: float) -> str:
    """Every outcome at a rate with its number of seeds: "5 learn", "3 diverge, 2 too large"."""
    outcome = _at(runs, arm, rate)["outcome"]
    return ", ".join(f"{num} {short}" for name, short in SHORT.items() if (num := int((outcome == name).sum())))


def numbers(runs: pd.DataFrame) -> list[Comparison]:
    """A line per rate: outcomes, and the mean losses at the end."""
    lines = []
    for rate in sorted(runs["lr"].unique()):
        cells = []
        for arm in ARMS:
            words = [tally(runs, arm, rate)]
            if (ends := _ends(runs, arm, rate)) != DASH:
                words.append(f"loss {ends}")
            cells.append("; ".join(filter(None, words)) or DASH)
        lines.append(Comparison(f"seeds at {number(float(rate))}", DASH, DASH, cells[0], cells[1]))
    return lines


def losses(ax: Axes, steps: pd.DataFrame) -> None:
    """The loss of every mini-batch, a line per run, on logarithmic axes; a cross ends the run that diverged.

    Losses beyond the panel, and those that are not finite, stand at its top, at ten times what ends a run.
    """
    top = 10 * outcomes.DIVERGENCE_LOSS
    for arm, part in arms(steps).items():
        for _, run in part.groupby("run_id", observed=True):
            run = run.sort_values("step", kind="stable")
            y = np.nan_to_num(run["loss"].to_numpy(), nan=top, posinf=top).clip(max=top)
            x = run["step"].to_numpy() + 1
            ax.plot(x, y, color=figures.COLOURS[arm], lw=0.6, alpha=0.75)
            if outcomes.of_losses(run["loss"].to_numpy()) == outcomes.DIVERGED:
                ax.plot(x[-1:], y[-1:], "x", color=figures.COLOURS[arm], ms=5, mew=1.4, zorder=4, clip_on=False)
    ax.axhline(GUESS, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    ax.axhline(outcomes.DIVERGENCE_LOSS, color=figures.ALARM, lw=0.7, ls=figures.DASHED, zorder=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(1, top)


def courses(ax: Axes, steps: pd.DataFrame) -> None:
    """Means of ten successive losses around that of guessing, a line per run, of those that did not diverge."""
    for arm, part in arms(steps).items():
        for _, run in part.groupby("run_id", observed=True):
            run = run.sort_values("step", kind="stable")
            if outcomes.of_losses(run["loss"].to_numpy()) != outcomes.DIVERGED:
                tens = run.head(len(run) // 10 * 10).groupby(run["step"] // 10)[["step", "loss"]].mean()
                ax.plot(tens["step"] + 1, tens["loss"], color=figures.COLOURS[arm], lw=0.8, alpha=0.8)
    ax.axhline(GUESS, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    ax.axhline(outcomes.LEARNS_BELOW, color=figures.MUTED, lw=0.9, ls=":", zorder=1)
    ax.set_xscale("log")
    ax.set_ylim(1.7, 2.7)


def labels(ax: Axes, lines: Mapping[str, str]) -> None:
    """A line of text for each arm in its colour, below the level that ends a run."""
    for row, (arm, line) in enumerate(lines.items()):
        if line:
            ax.text(
                0.97, 0.70 - 0.10 * row, line, transform=ax.transAxes, fontsize=7.5, color=figures.COLOURS[arm],
                ha="right", va="top",
            )  # fmt: skip


def legend(runs: pd.DataFrame) -> list[Line2D]:
    """Entries for the arms of the runs, the end of a run that diverged, and the three levels."""
    return [
        *figures.arm_entries(arms(runs), lw=1.2),
        figures.entry("diverged", "x"),
        figures.entry("guessing", ls=figures.DASHED, lw=0.9),
        figures.entry("learns below", ls=":", lw=0.9),
        figures.entry("ends a run", ls=figures.DASHED, lw=0.9, colour=figures.ALARM),
    ]


def _at(runs: pd.DataFrame, arm: str, rate: float) -> pd.DataFrame:
    return runs[(runs["norm"] == arm) & np.isclose(runs["lr"], rate, rtol=1e-9, atol=0)]


def _ends(runs: pd.DataFrame, arm: str, rate: float) -> str:
    alive = _at(runs, arm, rate)
    return str(spread(alive.loc[~alive["outcome"].isin([outcomes.DIVERGED, outcomes.PARTIAL]), "last_loss"]))
