"""Mean and variance of channels along a gradient step, such as one that diverges (Bjorck et al. 2018, Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bnstudy.probes.activation_moments import moments
from bnstudy.probes.snapshot import Snapshot

READS = {"gradients"}
COLUMNS = {
    "fraction": "float64", "step_size": "float64", "loss": "float64",
    "depth": "int16", "layer": "string", "channel": "int16", "mean": "float64", "variance": "float64",
}  # fmt: skip


def probe(
    snapshot: Snapshot, *, step_size: float = 0.003, num: int = 41, depths: Sequence[int] = (8, 44, 80)
) -> Iterator[dict[str, Any]]:
    """Moments at theta - f * step_size * gradient on the same mini-batch, for `num` even fractions f from 0 to 1.

    Of the weight layers' own outputs, over batch and space (variance biased), with the loss there, which is the same
    for all rows of one f. Of the layers at `depths`, as far as the network has them, every channel has a row, of each
    other layer the channel with the largest variance. NaN where a channel holds values beyond the floating-point range;
    it counts as the largest.

    The gradient is the plain one of the mini-batch. With momentum that is SGD's update at its first step alone, which
    starts from rest; weight decay w would move each weight by a further lr * w of itself (3e-7 at the paper's
    values). So the step of a run that diverges at once is seen at step 0, on its training mini-batch, with its rate.
    """
    if not 0 < step_size < math.inf:
        raise ValueError(f"moments_along_step: step_size = {step_size}: give a positive learning rate")
    if num < 2:
        raise ValueError(f"moments_along_step: num = {num}: give 2 or more fractions, the first 0 and the last 1")
    for fraction in np.linspace(0, 1, num).tolist():
        there = snapshot.displaced(fraction * step_size, {"preactivations"})
        at = {"fraction": fraction, "step_size": fraction * step_size, "loss": there.loss}
        for layer in snapshot.layers:
            mean_C, variance_C = moments(there.preactivations[layer.depth])
            channels = range(len(mean_C)) if layer.depth in depths else [int(variance_C.argmax())]  # NaN is largest
            where = {**at, "depth": layer.depth, "layer": layer.name}
            means, variances = mean_C.tolist(), variance_C.tolist()
            for channel in channels:
                yield {**where, "channel": channel, "mean": means[channel], "variance": variances[channel]}
