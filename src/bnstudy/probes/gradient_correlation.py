"""Do the gradients of disjoint mini-batches, or of single examples, point the same way at the same weights?

The noise of the stochastic gradient is the theme of section 2 of Bjorck et al. 2018; Balduzzi et al. 2017 ask how far
gradients of different inputs are correlated in deep networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bnstudy.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {
    "depth": "int16", "layer": "string", "batch_size": "int32", "num_batches": "int32", "num_pairs": "int32",
    "cosine_mean": "float64", "cosine_std": "float64", "defined": "bool",
}  # fmt: skip


def probe(
    snapshot: Snapshot, *, batch_sizes: Sequence[int] = (1, 16, 32, 128), num_batches: int = 8
) -> Iterator[dict[str, Any]]:
    """One row a layer and batch size: mean and standard deviation (biased) of the cosine between the weight gradients
    of two mini-batches, over all pairs of `num_batches`; num_batches is smaller where the training set has no more.

    Batch size 1 is the correlation between examples. Where a norm couples the examples of a mini-batch a single example
    has no gradient of its own: those rows have `defined` False, as have rows with fewer than two mini-batches.
    """
    if num_batches < 2 or not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(
            f"gradient_correlation: batch_sizes = {batch_sizes}, num_batches = {num_batches}: give sizes of 1 or more, "
            "and at least 2 mini-batches"
        )
    for size in batch_sizes:
        possible = size > 1 or not snapshot.couples_examples()
        batches = snapshot.batches(size, num_batches) if possible else iter(())
        gradients = [snapshot.gradients_on(*batch) for batch in batches]
        num = len(gradients)
        for layer in snapshot.layers:
            mean, std = math.nan, math.nan
            if num > 1:
                cosines = pairwise_cosines([each[layer.depth] for each in gradients])
                mean, std = cosines.mean().item(), cosines.std(correction=0).item()
            yield {
                "depth": layer.depth, "layer": layer.name, "batch_size": size,
                "num_batches": num, "num_pairs": num * (num - 1) // 2,
                "cosine_mean": mean, "cosine_std": std, "defined": num > 1,
            }  # fmt: skip


def pairwise_cosines(gradients: Sequence[Tensor]) -> Tensor:
    """Cosine of every pair, float64; NaN where one of the two is zero or not finite."""
    flat_BW = torch.stack([gradient.flatten().double() for gradient in gradients])
    unit_BW = flat_BW / flat_BW.norm(dim=1, keepdim=True)
    first, second = torch.triu_indices(len(flat_BW), len(flat_BW), offset=1)
    return (unit_BW @ unit_BW.T)[first, second]
