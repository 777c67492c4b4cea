"""Singular values of what a network does to small changes on the way to its classifier (Bjorck et al. 2018, section 4).

A linear network's Jacobian is the product of its matrices. One of a network with batch norm is taken example by example
with the statistics of the mini-batch held constant, so that norms are linear maps of each channel. What that leaves
out, the example's own weight in the statistics, falls as one over the size of the mini-batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bnstudy.norms._statistics import frozen as held_network
from bnstudy.probes.snapshot import Snapshot, after_activation

if TYPE_CHECKING:
    from bnstudy.models.layers import Layer

READS: set[str] = set()
COLUMNS = {
    "stretch": "string", "start": "int16", "example": "int16", "count": "int32", "index": "int32", "value": "float32",
}  # fmt: skip
AT_ONCE = 256  # rows of a Jacobian


def probe(
    snapshot: Snapshot,
    *,
    starts: Sequence[int] = (),
    starts_to_next: Sequence[int] = (),
    num_examples: int = 4,
    num_values: int = 0,
) -> Iterator[dict[str, Any]]:
    """Singular values of the Jacobians of stretches of the network, computed in float64, the largest first.

    A stretch begins with the activation of layer `start`, 0: with the image. Where a network has residual blocks it can
    begin behind a block, elsewhere behind any layer. Stretch to_features ends with the classifier's input, for every
    start in `starts` (none given: all there are); to_next ends with the next layer at which one can begin, for those in
    `starts_to_next`. A Jacobian has `count` singular values, the smaller number of its rows and columns; `index` 0 is
    the largest. Of each, `num_values` are kept, evenly spaced by index, both ends among them; 0: all. A Jacobian with
    an entry that is not finite has NaN for singular values. Those smaller than count * 2e-16 times the largest are
    rounding errors.

    Raises ValueError for starts that the network has not, or for less than one example or value.
    """
    if num_examples < 1 or num_values < 0 or num_values == 1:
        raise ValueError(
            f"jacobian_singular_values: num_examples = {num_examples}, num_values = {num_values}: give 1 or more "
            "examples, and 2 or more values, or 0 for all"
        )
    possible = possible_starts(snapshot)
    starts = starts or possible
    for name, given, allowed in (
        ("starts", starts, possible),
        ("starts_to_next", starts_to_next, possible[:-1]),
    ):
        if not set(given) <= set(allowed):
            raise ValueError(f"jacobian_singular_values: {name} = {list(given)}: give some of {allowed}")
    network = frozen(snapshot, snapshot.images_NCHW)
    for example, image_CHW in enumerate(snapshot.images_NCHW[:num_examples]):
        activations, features_F = passed(network, snapshot, image_CHW.double()[None])
        to_features = jacobians(features_F, activations, starts)
        stretches = [("to_features", *each) for each in zip(starts, to_features, strict=True)]
        for start in starts_to_next:
            after = activations[possible[possible.index(start) + 1]]
            stretches += [("to_next", start, jacobian) for jacobian in jacobians(after.flatten(), activations, [start])]
        for stretch, start, jacobian in stretches:
            values = singular_values(jacobian)
            where = {"stretch": stretch, "start": start, "example": example, "count": len(values)}
            for index in kept(len(values), num_values):
                yield {**where, "index": index, "value": values[index]}


def possible_starts(snapshot: Snapshot) -> list[int]:
    """0, and every layer but the classifier through whose activation alone the input reaches what follows."""
    hidden = snapshot.layers[:-1]
    blocks = any(layer.block_output for layer in hidden)
    return [0, *(layer.depth for layer in hidden if layer.block_output or not blocks)]


def frozen(snapshot: Snapshot, images_NCHW: Tensor) -> nn.Module:
    """The network in float64 and in evaluation mode, with what its norms take from these images held constant.

    It computes of each of these images what training does of the mini-batch that they are, but with statistics (and
    draws) that no image can change: see `norms._statistics.frozen`. Raises ValueError for norms that cannot be held.
    """
    return held_network(snapshot.network().requires_grad_(False).double(), images_NCHW.double())


def passed(network: nn.Module, snapshot: Snapshot, image_1CHW: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """One example's activations by depth (0: the image) and the classifier's input, with the graph that joins them."""
    activations = {0: image_1CHW.requires_grad_()}
    features: list[Tensor] = []

    # The network goes on with a copy, which it may write over.
    def keep_activation(layer: Layer, output: Tensor) -> Tensor:
        activations[layer.depth] = output
        return output.clone()

    def keep_features(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features.append(inputs[0].flatten())

    *hidden, classifier = snapshot.layers
    with ExitStack() as hooks, torch.enable_grad():
        for layer in hidden:
            hooks.enter_context(after_activation(network, layer, keep_activation))
        module = network.get_submodule(classifier.name)
        hooks.callback(module.register_forward_pre_hook(keep_features).remove)
        network(image_1CHW)
    return activations, features[0]


def jacobians(outputs_R: Tensor, activations: Mapping[int, Tensor], starts: Sequence[int]) -> list[Tensor]:
    """d outputs / d activation, (R, number of the activation's elements), for the activation of every start."""
    parts = [
        torch.autograd.grad(
            outputs_R, [activations[start] for start in starts], rows_BR, retain_graph=True, is_grads_batched=True
        )
        for rows_BR in torch.eye(len(outputs_R), dtype=outputs_R.dtype, device=outputs_R.device).split(AT_ONCE)
    ]
    return [torch.cat([gradient.flatten(1) for gradient in of_start]) for of_start in zip(*parts, strict=True)]


def singular_values(matrix: Tensor) -> list[float]:
    """Largest first; NaN for a matrix with entries that are not finite."""
    if not matrix.isfinite().all():
        return [math.nan] * min(matrix.shape)
    values: list[float] = torch.linalg.svdvals(matrix).tolist()
    return values


def kept(count: int, num_values: int) -> list[int]:
    """`num_values` of `count` indices, evenly spaced, both ends among them; all for 0, or where there are fewer."""
    if num_values == 0 or num_values >= count:
        return list(range(count))
    return [round(i * (count - 1) / (num_values - 1)) for i in range(num_values)]
