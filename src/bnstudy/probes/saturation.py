"""Share of each layer's units that hardly pass a gradient on: sigmoids near 0 or 1, rectifiers at 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from bnstudy.probes.snapshot import Snapshot

READS = {"activations"}
COLUMNS = {"depth": "int16", "layer": "string", "activation": "string", "saturated": "float64", "dead": "float64"}


def probe(snapshot: Snapshot, *, threshold: float = 0.1) -> Iterator[dict[str, Any]]:
    """A row per layer that ends in a sigmoid or a rectifier.

    A unit is saturated on an image where the derivative of its activation is below `threshold` times the largest it can
    have: for a sigmoid a, 4 a (1 - a) < threshold; for a rectifier a = 0. `saturated` is the share over units and
    images, `dead` the share of units that are saturated on every image (and place) of the mini-batch. Raises ValueError
    for a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold = {threshold}: a share of the largest derivative, above 0 and at most 1")
    network = snapshot.network()
    for layer in snapshot.layers:
        modules = network.get_submodule(layer.activation).modules()
        kind = next((type(m) for m in modules if isinstance(m, nn.Sigmoid | nn.ReLU)), None)
        if kind is None:
            continue
        act = snapshot.activations[layer.depth]
        passed: Tensor = 4 * act * (1 - act) if kind is nn.Sigmoid else (act > 0).to(act)
        saturated = passed < threshold
        dead_C = saturated.transpose(0, 1).flatten(1).all(1)
        yield {
            "depth": layer.depth,
            "layer": layer.name,
            "activation": kind.__name__.lower(),
            "saturated": saturated.double().mean().item(),
            "dead": dead_C.double().mean().item(),
        }
