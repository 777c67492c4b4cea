"""How far is a mini-batch's gradient from the whole set's, by its size (Bjorck et al. 2018, section 2.1, equation 3)?

Of N examples with gradients g_i and mean g, a mini-batch of b drawn without replacement has a gradient g_B with
E|g_B - g|^2 = C (N - b) / (b (N - 1)), C = mean |g_i - g|^2. Every pair of examples is drawn together with the same
probability, and the deviations g_i - g sum to zero, which gives the factor. (The paper's b^2 / N^2 for a pair treats
its draws as independent.) Under batch norm there are no g_i, and the mean of g_B over mini-batches depends on b: that
bias and the variance around it are told apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnstudy.models.layers import memory_format
from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {
    "batch_size": "int32", "num_draws": "int32", "num_examples": "int32", "large_size": "int32",
    "mean_squared_deviation": "float64", "bias_squared": "float64", "gradient_squared": "float64",
}  # fmt: skip


def probe(
    snapshot: Snapshot,
    *,
    sizes: Sequence[int] = (1, 4, 8, 16, 32, 64, 128),
    num_divided: Sequence[int] = (2, 2, 2, 2, 3, 4, 6),
    large_size: int = 512,
    num_large: int = 10,
) -> Iterator[dict[str, Any]]:
    """One row per mini-batch size. Gradients are those of the mean loss in every parameter.

    N = num_examples = large_size * num_large training images form large mini-batches, whose mean gradient r is the
    whole set's where no norm couples the examples; gradient_squared is |r|^2. For each size, `num_divided` of them are
    divided into num_draws mini-batches: each is a draw without replacement from the N images.

    mean_squared_deviation is the mean of |g_B - r|^2, for size 1 an estimate of C. bias_squared estimates
    |E g_B - E g_large|^2, over images drawn independently of each other, without bias, and can therefore be negative;
    NaN where only one large mini-batch is divided. It compares gradients on the same images, so that without coupling
    there is nothing left. Where a norm couples the examples of a mini-batch a single one has no gradient of its own:
    there num_draws of size 1 is 0, and nothing is defined.

    Raises ValueError for options that make no sense, and where the training images do not suffice.
    """
    if not sizes or min(sizes) < 1 or any(large_size % size for size in sizes):
        raise ValueError(
            f"gradient_noise: sizes = {list(sizes)}, large_size = {large_size}: give sizes that divide large_size"
        )
    if len(num_divided) != len(sizes) or not 1 <= min(num_divided) <= max(num_divided) <= num_large:
        raise ValueError(
            f"gradient_noise: num_divided = {list(num_divided)}, num_large = {num_large}: give one number a size, "
            "from 1 to num_large"
        )
    large = list(snapshot.batches(large_size, num_large))
    if len(large) < num_large:
        raise ValueError(
            f"gradient_noise: num_large = {num_large}: the training images make {len(large)} mini-batches of "
            f"large_size = {large_size}; give that or less, or raise data.num_train"
        )
    coupled = snapshot.couples_examples()
    network = snapshot.network().requires_grad_()
    large_LW = [gradient(network, *batch) for batch in large]
    mean_W = torch.stack(large_LW).mean(0)
    for size, num in zip(sizes, num_divided, strict=True):
        row = dict.fromkeys(COLUMNS, math.nan) | {
            "batch_size": size, "num_draws": 0, "num_examples": large_size * num_large, "large_size": large_size,
            "gradient_squared": mean_W.square().sum().item(),
        }  # fmt: skip
        if size > 1 or not coupled:
            squares, biases = [], []
            for batch, large_W in zip(large[:num], large_LW, strict=False):
                total_W, num_parts = torch.zeros_like(mean_W), large_size // size
                for images_NCHW, labels_N in parts(*batch, size):
                    gradient_W = gradient(network, images_NCHW, labels_N)
                    squares.append((gradient_W - mean_W).square().sum().item())
                    total_W += gradient_W
                biases.append(total_W / num_parts - large_W)
            row |= {
                "num_draws": len(squares),
                "mean_squared_deviation": sum(squares) / len(squares),
                "bias_squared": square_of_mean(torch.stack(biases)),
            }
        yield row


def parts(images_NCHW: Tensor, labels_N: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The mini-batches of `size` that a large one is divided into."""
    return zip(images_NCHW.split(size), labels_N.split(size), strict=True)


def square_of_mean(draws_DW: Tensor) -> float:
    """|E d|^2 without bias, from the products of different draws d; NaN for a single one."""
    num = len(draws_DW)
    if num < 2:
        return math.nan
    return ((draws_DW.sum(0).square().sum() - draws_DW.square().sum()) / (num * (num - 1))).item()


def gradient(network: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy in all parameters, one after the other, float64."""
    images_NCHW = images_NCHW.contiguous(memory_format=memory_format(network))
    with torch.enable_grad(), torch.random.fork_rng([images_NCHW.device] if images_NCHW.is_cuda else []):
        loss = functional.cross_entropy(network(images_NCHW).double(), labels_N)
        gradients = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
    return torch.cat([each.flatten().double() for each in gradients])
