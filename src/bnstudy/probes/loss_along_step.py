"""The loss along the gradient step, over a range of step sizes (Bjorck et al. 2018, Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnstudy.probes.snapshot import Snapshot

READS = {"gradients"}
COLUMNS = {"step_size": "float64", "loss": "float64", "relative_loss": "float64"}
MAX_NUM = 50  # each costs a forward pass


def probe(snapshot: Snapshot, *, low: float = 1.5e-5, high: float = 0.2, num: int = 25) -> Iterator[dict[str, Any]]:
    """loss(theta - a * gradient) on the same mini-batch for `num` step sizes a from `low` to `high`, evenly spaced in
    ln a.

    relative_loss is that over loss(theta), NaN where loss(theta) is 0. The gradient is the plain one of the mini-batch,
    with respect to every parameter, without momentum or weight decay.
    """
    if not 1 <= num <= MAX_NUM:
        raise ValueError(f"loss_along_step: num = {num}: give 1 to {MAX_NUM} step sizes")
    if not 0 < low <= high < math.inf:
        raise ValueError(f"loss_along_step: low = {low}, high = {high}: give 0 < low <= high")
    for step_size in np.geomspace(low, high, num).tolist():
        loss = snapshot.displaced(step_size).loss
        relative_loss = loss / snapshot.loss if snapshot.loss else math.nan
        yield {"step_size": step_size, "loss": loss, "relative_loss": relative_loss}
