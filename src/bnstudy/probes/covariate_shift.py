"""Internal covariate shift: how the distribution of each layer's inputs moves, and what that does to its gradient.

Ioffe and Szegedy (2015) mean the first, Santurkar et al. (2018, definition 2.1) measure the second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bnstudy.probes.snapshot import Snapshot

READS = {"inputs", "gradients"}
COLUMNS = {
    "depth": "int16", "layer": "string", "step_drift": "float64", "start_drift": "float64",
    "gradient_change": "float64", "gradient_cosine": "float64",
}  # fmt: skip


def probe(snapshot: Snapshot, *, step_size: float = 0.1) -> Iterator[dict[str, Any]]:
    """A row per layer but the first, whose inputs are the images.

    The distribution of a layer's inputs is that of each of its channels over the mini-batch (and space). `step_drift`
    compares it with the one after the gradient step of this mini-batch (weights - step_size * gradient), `start_drift`
    with the one at the weights that training began with (NaN where these are not known), both on this mini-batch:
    Wasserstein distance over the standard deviation, mean over channels (see `drift`).

    With G the layer's gradient, and G' the one after only what comes before the layer has made that step,
    `gradient_change` is |G' - G| / |G| and `gradient_cosine` the cosine between them. What a network draws in training
    it draws anew after the step. Raises ValueError for a step size that is not positive.
    """
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size = {step_size}: the drift of an update needs the update's size, above 0")
    start = snapshot.at_start({"inputs"})
    with _other_draws(snapshot.images_NCHW):
        stepped = snapshot.displaced(step_size, {"inputs"})
        for layer in snapshot.layers[1:]:
            depth, before = layer.depth, snapshot.inputs[layer.depth]
            gradient, other = (
                g.double().flatten()
                for g in (
                    snapshot.gradients[depth],
                    snapshot.after(step_size, depth, {"gradients"}).gradients[depth],
                )
            )
            yield {
                "depth": depth,
                "layer": layer.name,
                "step_drift": drift(before, stepped.inputs[depth]),
                "start_drift": drift(start.inputs[depth], before) if start else math.nan,
                "gradient_change": ((other - gradient).norm() / gradient.norm()).item(),
                "gradient_cosine": (other @ gradient / (other.norm() * gradient.norm())).item(),
            }


def drift(before: Tensor, after: Tensor) -> float:
    """Mean over channels of the first Wasserstein distance, in units of the layer's spread before: NCHW or NC tensors.

    Samples are equal in number, so the distance is the mean of |sorted - sorted|. The spread is the root mean square
    over channels of their standard deviations: a channel that is constant by itself has no unit.
    """
    sorted_before, sorted_after = (x.double().transpose(0, 1).flatten(1).sort(1).values for x in (before, after))
    spread = sorted_before.var(1, correction=0).mean().sqrt()
    return ((sorted_after - sorted_before).abs().mean() / spread).item()


@contextmanager
def _other_draws(images_NCHW: Tensor) -> Iterator[None]:
    """Draw from another random state inside, and leave the one outside as it was."""
    devices = [images_NCHW.device] if images_NCHW.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.rand((), device=images_NCHW.device)
        yield
