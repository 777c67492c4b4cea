"""How large each layer's gradient is, and how large beside its weights: what vanishes, what explodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnstudy.probes.snapshot import Snapshot

READS = {"gradients"}
COLUMNS = {"depth": "int16", "layer": "string", "gradient": "float64", "weight": "float64"}


def probe(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """A row per layer: Euclidean norms of the gradient of the mean loss with respect to its weights, and of these."""
    for layer in snapshot.layers:
        norms = (values[layer.depth].double().norm().item() for values in (snapshot.gradients, snapshot.weights))
        yield {"depth": layer.depth, "layer": layer.name, **dict(zip(("gradient", "weight"), norms, strict=True))}
