"""Do the summands of a convolution's gradient agree in sign? (Bjorck et al. 2018, section 3.2, Table 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from bnstudy.probes.snapshot import Snapshot

READS = {"inputs", "output_gradients", "gradients"}
COLUMNS = {
    "depth": "int16", "layer": "string", "num_summands": "int64",
    "sum_abs": "float64", "abs_sum": "float64", "ratio": "float64",
}  # fmt: skip


def probe(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """One row per convolution (the numbered ones: projections are not).

    dL/dK[co, ci, x', y'] = sum_{b, x, y} d, with d = dL/dO[b, co, x, y] * I[b, ci, x + x', y + y']. sum_abs is the mean
    over kernel entries of sum |d|, abs_sum of |sum d|, both over the number of summands |B| H W; ratio is sum_abs /
    abs_sum. Since |d| = |dL/dO| |I|, the sum of absolute summands is itself the gradient of a convolution.
    """
    for layer in snapshot.layers:
        module = snapshot.module(layer)
        if not isinstance(module, nn.Conv2d):
            continue
        abs_OIHW, num_summands = absolute_summands(snapshot, layer.depth, module)
        grad_OIHW = snapshot.gradients[layer.depth]
        sum_abs, abs_sum = abs_OIHW.double().mean() / num_summands, grad_OIHW.double().abs().mean() / num_summands
        where = {"depth": layer.depth, "layer": layer.name, "num_summands": num_summands}
        yield {**where, "sum_abs": sum_abs.item(), "abs_sum": abs_sum.item(), "ratio": (sum_abs / abs_sum).item()}


def absolute_summands(snapshot: Snapshot, depth: int, conv: nn.Conv2d) -> tuple[Tensor, int]:
    """Sum of |d| for every kernel entry, OIHW, and the number of summands."""
    grad_NOHW = snapshot.output_gradients[depth]
    abs_OIHW = conv2d_weight(
        snapshot.inputs[depth].abs(), list(conv.weight.shape), grad_NOHW.abs(),
        conv.stride, conv.padding, conv.dilation, conv.groups,
    )  # fmt: skip
    return abs_OIHW, grad_NOHW[:, 0].numel()
