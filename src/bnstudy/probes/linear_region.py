"""Share of sigmoids that are used where they are nearly linear: their input is near 0."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from bnstudy.probes.snapshot import Snapshot

READS = {"activations"}
COLUMNS = {"depth": "int16", "layer": "string", "share": "float64"}


def probe(snapshot: Snapshot, *, bound: float = 1.3) -> Iterator[dict[str, Any]]:
    """A row per layer that ends in a sigmoid: the share, over units and images, of inputs z with |z| < `bound`.

    At 1.3 the sigmoid s(z) = 1 / (1 + exp(-z)) has risen by 12 % less than its tangent 1/2 + z / 4, and has two thirds
    of its slope. It is monotone: |z| < bound where the activation is less than s(bound) - 1/2 away from 1/2. Raises
    ValueError for a bound that is not positive.
    """
    if not (math.isfinite(bound) and bound > 0):
        raise ValueError(f"linear_region: bound = {bound}: of a sigmoid's inputs around 0, so give more than 0")
    reach = 1 / (1 + math.exp(-bound)) - 0.5
    network = snapshot.network()
    for layer in snapshot.layers:
        if any(isinstance(m, nn.Sigmoid) for m in network.get_submodule(layer.activation).modules()):
            act = snapshot.activations[layer.depth]
            near = (act.double() - 0.5).abs() < reach
            share = near.double().mean().item() if act.isfinite().all() else math.nan
            yield {"depth": layer.depth, "layer": layer.name, "share": share}
