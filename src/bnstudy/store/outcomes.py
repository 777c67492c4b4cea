"""The outcome of a run, judged by the losses of its mini-batches: the one rule for search, tables and figures.

A run *diverged* where the loss of a mini-batch is above 1e3 or not finite, the rule of Bjorck et al. (2018, section
3). It *learns* where the mean loss of its last 50 mini-batches is below 2.25: a network that tells none of ten classes
apart has ln 10 = 2.303, and the margin was set by a pilot (seed 0 of ResNet-110, one epoch: runs at chance ended
between 2.29 and 2.33, runs that learn below 2.0). Anything else is *at chance*: the rate is too small where a larger
one of the same cell learns, too large where only smaller ones do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

DIVERGED, LEARNS, CHANCE = "diverged", "learns", "at chance"
TOO_SMALL, TOO_LARGE = "at chance: rate too small", "at chance: rate too large"
PARTIAL = "partial data"  # too few losses to tell
DIVERGENCE_LOSS = 1e3
NUM_LAST = 50
LEARNS_BELOW = 2.25  # of ten classes


def stalled_below(num_classes: int) -> float:
    """The final training accuracy below which a run that finished did not train: three times chance, 30 % of ten
    classes, and of few classes a quarter of the way from chance to 1."""
    chance = 1 / num_classes
    return min(3 / num_classes, chance + (1 - chance) / 4)


def of_losses(losses: Sequence[float] | np.ndarray) -> str:
    """The outcome of a run from its mini-batch losses, in their order: diverged, learns, at chance.

    A run that has not diverged and has fewer than 50 losses is "partial data".
    """
    values = np.asarray(losses, dtype=np.float64)
    if not (values <= DIVERGENCE_LOSS).all():  # NaN compares as False, too
        return DIVERGED
    if len(values) < NUM_LAST:
        return PARTIAL
    return LEARNS if last_loss(values) < LEARNS_BELOW else CHANCE


def last_loss(losses: Sequence[float] | np.ndarray) -> float:
    """Mean of the last 50 losses, of all where they are fewer; NaN of none."""
    return float(np.mean(np.asarray(losses, dtype=np.float64)[-NUM_LAST:])) if len(losses) else math.nan


def in_cell(outcomes: Mapping[float, str]) -> dict[float, str]:
    """The outcomes by learning rate of one cell (one network, arm and seed), with chance told apart.

    A run at chance is too small where a larger rate learns, and too large where only smaller ones do. Where no rate of
    the cell learns, nothing tells the two apart, and it stays at chance.
    """
    learning = [rate for rate, outcome in outcomes.items() if outcome == LEARNS]
    if not learning:
        return dict(outcomes)
    return {
        rate: outcome if outcome != CHANCE else TOO_SMALL if rate < max(learning) else TOO_LARGE
        for rate, outcome in outcomes.items()
    }


def by_run(steps: pd.DataFrame, cell: Sequence[str]) -> pd.DataFrame:
    """One row per run: columns `cell`, run_id, lr, outcome (chance told apart within the cell), last_loss, num_losses.

    `steps`: the rows of the table of that name with their run's columns, of which `run_lr` is the run's learning rate;
    `cell`: the columns that runs share which differ in their rate alone, such as norm and seed. Raises ValueError if a
    cell has two runs at one rate.
    """
    import pandas as pd  # half a second, which runs do not need

    rows = []
    for (*key, lr, run_id), part in steps.groupby([*cell, "run_lr", "run_id"], observed=True):
        losses = part.sort_values("step", kind="stable")["loss"].to_numpy()
        rows.append((*key, run_id, lr, of_losses(losses), last_loss(losses), len(losses)))
    runs = pd.DataFrame(rows, columns=[*cell, "run_id", "lr", "outcome", "last_loss", "num_losses"])
    for _, part in runs.groupby(list(cell)):
        if part["lr"].duplicated().any():
            twice = part.loc[part["lr"].duplicated(keep=False), "run_id"].tolist()
            both = f"{twice[0]} and {twice[1]} have the same rate and cell ({', '.join(cell)})"
            raise ValueError(f"{both}: give every column in which they differ")
        outcomes = in_cell(dict(zip(part["lr"], part["outcome"], strict=True)))
        runs.loc[part.index, "outcome"] = part["lr"].map(outcomes)
    return runs
