"""How large a convolution's gradient is between each input and output channel (Bjorck et al. 2018, Figure 7)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bnstudy.probes.snapshot import Snapshot

READS = {"gradients"}
COLUMNS = {
    "depth": "int16", "layer": "string", "quantity": "string",
    "in_channel": "int16", "out_channel": "int16", "value": "float64",
}  # fmt: skip


def probe(snapshot: Snapshot, *, entry_depths: Sequence[int] = (45,)) -> Iterator[dict[str, Any]]:
    """M[i, o] = sum over kernel taps of |dL/dK[o, i, x', y']|, for every convolution.

    rank1_share: s_1^2 / sum s^2 of M's singular values, 1 for a matrix of rank one; its channels are -1. entry: M
    itself, for the convolutions at `entry_depths`. M has no negative entries, so the share is large for unstructured
    gradients as well: 0.94 for 3x3 kernels of independent normal entries.
    """
    for layer in snapshot.layers:
        if layer.kind != "conv":
            continue
        matrix_IO = snapshot.gradients[layer.depth].double().abs().sum((2, 3)).T
        where = {"depth": layer.depth, "layer": layer.name}
        share = rank1_share(matrix_IO)
        yield {**where, "quantity": "rank1_share", "in_channel": -1, "out_channel": -1, "value": share}
        for i, row_O in enumerate(matrix_IO.tolist() if layer.depth in entry_depths else []):
            for o, value in enumerate(row_O):
                yield {**where, "quantity": "entry", "in_channel": i, "out_channel": o, "value": value}


def rank1_share(matrix_IO: Tensor) -> float:
    """Share of the squared Frobenius norm in the first singular pair; NaN for zero or non-finite matrices."""
    if not matrix_IO.isfinite().all() or not matrix_IO.any():
        return math.nan
    energy = torch.linalg.svdvals(matrix_IO / matrix_IO.max()).square()
    return (energy[0] / energy.sum()).item()
