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

from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {
    "depth": "int16", "layer": "string", "batch_size": "int32", "num_batches": "int32", "num_pairs": "int32",
    "cosine_mean": "float64", "cosine_std": "float64", "defined": "bool",
}  # fmt: skip


def probe(
    snapshot: Snapshot, *, batch_sizes: Sequence[int] = (1, 16, 32, 128), num_batches: int = 8
) -> Iterator[dict[str, Any]]:
    """One row per layer and batch size: mean and standard deviation (biased) of the cosine between the weight gradients
    of two mini-batches, over the pairs for which there is one: both gradients finite and not zero.

    Of `num_batches` mini-batches (fewer where the training set has no more) `num_pairs` such pairs could be formed;
    `defined` says that there was at least one. A gradient is zero where the softmax is certain of the right class to
    the last bit, which untrained networks without normalization are of some examples. Batch size 1 is the correlation
    between examples. Where a norm couples the examples of a mini-batch a single example has no gradient of its own:
    there num_batches is 0.
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
        for layer in snapshot.layers:
            cosines = pairwise_cosines([each[layer.depth] for each in gradients])
            num_pairs = len(cosines)
            yield {
                "depth": layer.depth, "layer": layer.name, "batch_size": size,
                "num_batches": len(gradients), "num_pairs": num_pairs,
                "cosine_mean": cosines.mean().item() if num_pairs else math.nan,
                "cosine_std": cosines.std(correction=0).item() if num_pairs else math.nan,
                "defined": num_pairs > 0,
            }  # fmt: skip


def pairwise_cosines(gradients: Sequence[Tensor]) -> Tensor:
    """Cosine of every pair of which neither is zero or not finite, float64; empty where there is none."""
    if not gradients:
        return torch.empty(0, dtype=torch.float64)
    flat_BW = torch.stack([gradient.flatten().double() for gradient in gradients])
    largest_B = flat_BW.abs().amax(1)
    kept_B = (largest_B > 0) & largest_B.isfinite()
    scaled_BW = flat_BW[kept_B] / largest_B[kept_B, None]  # squares of very small entries would vanish
    unit_BW = scaled_BW / scaled_BW.norm(dim=1, keepdim=True)
    first, second = torch.triu_indices(len(unit_BW), len(unit_BW), offset=1)
    return (unit_BW @ unit_BW.T)[first, second]
