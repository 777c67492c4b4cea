"""The variance that batch normalization divides by on a mini-batch, beside that of all images: is it unbiased?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.norms._statistics import _Moments
from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {
    "site": "string", "batch_size": "int32", "num_batches": "int32", "ratio": "float64", "scatter": "float64",
}  # fmt: skip


def probe(snapshot: Snapshot, *, batch_sizes: tuple[int, ...] = (2, 8, 32)) -> Iterator[dict[str, Any]]:
    """A row per size m for the first BN of the network, whose inputs depend on no mini-batch; none without BN.

    All training images are cut into mini-batches of m, in the probes' order; what fills none of the largest size is
    left out. With v the variance that BN divides by on one of them (see `_divided_by`) and |x - mean|^2 / (N - 1) = S^2
    that of all N images, `ratio` is the mean of v over the mini-batches over S^2, and `scatter` the standard deviation
    of v over them over S^2; both are means over channels. Of m values drawn without replacement from N the expectation
    of |x - mean|^2 / (m - 1) is S^2, for any N (Cochran 1977, theorem 2.4): where BN divides by m, that of `ratio` is
    (m - 1) / m. Behind a convolution a channel has more values than images, and the ratio is another.

    Raises ValueError for a size below 2, or one that is larger than the training set.
    """
    given, largest = f"batch_variance: batch_sizes = {list(batch_sizes)}", max(batch_sizes, default=0)
    if min(batch_sizes, default=0) < 2:
        raise ValueError(f"{given}: a variance needs two images; give sizes of 2 or more")
    if next(snapshot.batches(largest, 1), None) is None:
        raise ValueError(f"{given}: give no more than there are training images")
    network = snapshot.network().double()
    found = ((name, m) for name, m in network.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d))
    site, norm = next(found, ("", None))
    if norm is None:
        return
    if norm.affine:
        nn.init.ones_(norm.weight)
    of_all, of_parts = _Moments(whole=False), {size: _Moments(whole=False) for size in batch_sizes}
    with torch.no_grad(), torch.random.fork_rng([]):  # what the network draws
        for images_NCHW, _ in snapshot.batches(largest, 2**31):
            x = _entering(network, norm, images_NCHW.double())
            of_all.add(x)
            for size in batch_sizes:
                parts = [part for part in x.split(size) if len(part) == size]
                of_parts[size].add(torch.stack([_divided_by(norm, part) for part in parts]))
    whole_C = of_all.m2 / (of_all.count - 1)
    for size, moments in of_parts.items():
        yield {
            "site": site,
            "batch_size": size,
            "num_batches": moments.count,
            "ratio": (moments.mean / whole_C).mean().item(),
            "scatter": ((moments.m2 / moments.count).sqrt() / whole_C).mean().item(),
        }


def _entering(network: nn.Module, norm: nn.Module, images_NCHW: Tensor) -> Tensor:
    """What the norm is given."""
    given: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    network(images_NCHW)
    hook.remove()
    return given[0]


def _divided_by(norm: Any, x: Tensor) -> Tensor:
    """The variance v (C,) by which the norm, whose gamma is 1, divides x (N, C[, H, W]) in training, seen from outside:
    y - mean y = (x - mean x) / sqrt(v + eps), whatever the norm takes for v.
    """
    over = [d for d in range(x.dim()) if d != 1]
    before_C, after_C = (values.var(over, correction=0) for values in (x, norm(x)))  # of any divisor the ratio is one
    return torch.where(before_C == 0, 0.0, before_C / after_C - norm.eps)
