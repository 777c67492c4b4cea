"""Mean and variance of every channel, by depth, before and after the norm (Bjorck et al. 2018, Figures 4 and 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from bnstudy.probes.snapshot import Snapshot

READS = {"preactivations", "activations"}
COLUMNS = {
    "depth": "int16", "layer": "string", "site": "string", "block_output": "bool", "channel": "int16",
    "mean": "float64", "variance": "float64",
}  # fmt: skip


def probe(snapshot: Snapshot, *, sites: Sequence[str] = ("preactivation", "activation")) -> Iterator[dict[str, Any]]:
    """One row per channel and site. Site "preactivation" is the weight layer's own output, "activation" the layer's
    output after norm, shortcut and non-linearity; the classifier has no more than its own output at both.
    """
    of_site = {"preactivation": snapshot.preactivations, "activation": snapshot.activations}
    if not sites or not of_site.keys() >= set(sites):
        raise ValueError(f"activation_moments: sites = {sites}: give one or both of {', '.join(of_site)}")
    for layer in snapshot.layers:
        for site in sites:
            where = {"depth": layer.depth, "layer": layer.name, "site": site, "block_output": layer.block_output}
            mean_C, variance_C = moments(of_site[site][layer.depth])
            for channel, (mean, variance) in enumerate(zip(mean_C.tolist(), variance_C.tolist(), strict=True)):
                yield {**where, "channel": channel, "mean": mean, "variance": variance}


def moments(act_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over batch and space, float64; NC tensors have no space."""
    over = [d for d in range(act_NCHW.dim()) if d != 1]
    centred = act_NCHW.double()  # squares of a diverging network's activations leave float32
    mean_C = centred.mean(over, keepdim=True)
    centred = centred - mean_C
    return mean_C.flatten(), centred.square_().mean(over)
