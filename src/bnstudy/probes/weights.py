"""How each layer's weights are distributed, and how far they have moved from where training began."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {"depth": "int16", "layer": "string", "quantity": "string", "x": "float64", "value": "float64"}

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


def probe(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """Rows (quantity, x, value) for every weight layer; x is NaN except for quantiles, where it is the probability.

    mean, std (biased), quantile: of the layer's weights w. l2_drift_relative: |w - w0| / |w0| with w0 the weights
    before training. wasserstein: the first Wasserstein distance between the distributions of w and w0, whose entries
    are equal in number, so that it is the mean of |sorted w - sorted w0|. Both drifts are NaN where w0 is not known.
    """
    initial = snapshot.initial_weights
    for layer in snapshot.layers:
        weights = snapshot.weights[layer.depth].double().flatten()
        l2, wasserstein = drifts(weights, initial[layer.depth]) if initial else (math.nan, math.nan)
        quantiles = weights.quantile(weights.new_tensor(QUANTILES))
        for quantity, x, value in (
            ("mean", math.nan, weights.mean()),
            ("std", math.nan, weights.std(correction=0)),
            *(("quantile", p, quantile) for p, quantile in zip(QUANTILES, quantiles, strict=True)),
            ("l2_drift_relative", math.nan, l2),
            ("wasserstein", math.nan, wasserstein),
        ):
            yield {"depth": layer.depth, "layer": layer.name, "quantity": quantity, "x": x, "value": float(value)}


def drifts(weights: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """Relative Euclidean and first Wasserstein distance of two layers' weights."""
    initial = initial.to(weights).flatten()
    l2 = (weights - initial).norm() / initial.norm()
    return l2, (weights.sort().values - initial.sort().values).abs().mean()
