"""What holding batch statistics constant leaves out of a network's Jacobian (Bjorck et al. 2018, section 4).

In training, batch norm lets every example of a mini-batch move the others' features through its statistics. The whole
derivative of the features in all images of the mini-batch stands here beside the one that the other Jacobian probes
take, example by example and with these statistics held constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bnstudy.probes.jacobian_singular_values import frozen, jacobians, kept, passed, singular_values
from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {
    "size": "int32", "num_examples": "int32", "count": "int32", "index": "int32", "frozen": "float32",
    "coupled": "float32", "difference": "float32",
}  # fmt: skip


def probe(
    snapshot: Snapshot, *, sizes: Sequence[int] = (4, 16), whole_sizes: Sequence[int] = (4,), num_values: int = 0
) -> Iterator[dict[str, Any]]:
    """Singular values of the Jacobian of features (the classifier's inputs) in all images of a mini-batch, in float64.

    The mini-batch is the first `size` images. For each of `sizes`, the features of its first example alone
    (num_examples = 1); for each of `whole_sizes`, those of all (num_examples = size). `coupled`: in training mode;
    `frozen`: with the statistics held constant, when every example's features depend on its own image alone.
    `difference` is the Frobenius norm of coupled minus frozen over that of frozen. `index` and `num_values` as in
    jacobian_singular_values.

    Raises ValueError for sizes beyond the mini-batch's, or below 2.
    """
    largest = len(snapshot.images_NCHW)
    for name, given in (("sizes", sizes), ("whole_sizes", whole_sizes)):
        if not all(2 <= size <= largest for size in given):
            raise ValueError(
                f"jacobian_coupling: {name} = {list(given)}: give sizes from 2 to the mini-batch's, {largest}"
            )
    if num_values < 0 or num_values == 1:
        raise ValueError(f"jacobian_coupling: num_values = {num_values}: give 2 or more values, or 0 for all")
    for size, num_examples in [*((size, 1) for size in sizes), *((size, size) for size in whole_sizes)]:
        images_NCHW = snapshot.images_NCHW[:size]
        alone_RI = _frozen(snapshot, images_NCHW, num_examples)
        coupled_RI = _coupled(snapshot, images_NCHW, num_examples)
        difference = ((coupled_RI - alone_RI).norm() / alone_RI.norm()).item()
        values = singular_values(alone_RI), singular_values(coupled_RI)
        count = len(values[0])
        for index in kept(count, num_values):
            yield {
                "size": size, "num_examples": num_examples, "count": count, "index": index, "frozen": values[0][index],
                "coupled": values[1][index], "difference": difference,
            }  # fmt: skip


def _coupled(snapshot: Snapshot, images_NCHW: Tensor, num_examples: int) -> Tensor:
    network = snapshot.network().requires_grad_(False).double()
    with torch.random.fork_rng([images_NCHW.device] if images_NCHW.is_cuda else []):  # the draws that are held, too
        activations, features_F = passed(network, snapshot, images_NCHW.double())
    rows = len(features_F) // len(images_NCHW) * num_examples
    (jacobian_RI,) = jacobians(features_F[:rows], activations, [0])
    return jacobian_RI


def _frozen(snapshot: Snapshot, images_NCHW: Tensor, num_examples: int) -> Tensor:
    """Block by block: zero where an example's features meet another's image."""
    network = frozen(snapshot, images_NCHW)
    blocks = []
    for image_CHW in images_NCHW[:num_examples]:
        activations, features_F = passed(network, snapshot, image_CHW.double()[None])
        blocks += jacobians(features_F, activations, [0])
    along = torch.block_diag(*blocks)
    others = (len(images_NCHW) - num_examples) * images_NCHW[0].numel()
    return torch.cat([along, along.new_zeros(len(along), others)], 1)
