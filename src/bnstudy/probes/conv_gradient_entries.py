"""Do the summands of a kernel entry's gradient agree in sign? Entry by entry (Bjorck et al. 2018, appendix J).

`conv_gradient_sums` has the averages over a kernel's entries, which are those of Table 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.probes.conv_gradient_sums import absolute_summands
from bnstudy.probes.snapshot import Snapshot

READS = {"inputs", "output_gradients", "gradients"}
COLUMNS = {
    "depth": "int16", "layer": "string", "num_entries": "int64", "quantity": "string", "x": "float64",
    "value": "float64",
}  # fmt: skip

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
FACTORS = (1.1, 2.0, 4.0, 10.0, 100.0)


def probe(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """Rows (quantity, x, value) for every numbered convolution, over its entries (co, ci, x', y').

    sum_abs and abs_sum: an entry's sum of absolute summands and the absolute value of their sum, both over the number
    of summands |B| H W; ratio: the one over the other, 1 where all summands have one sign, infinite where they cancel
    to nothing. Of each, x is a probability and value the quantile; for share_below, value is the share of entries whose
    ratio is below the factor x. num_entries are those that have a summand other than 0: the others have no ratio, and
    are left out everywhere.
    """
    for layer in snapshot.layers:
        module = snapshot.module(layer)
        if not isinstance(module, nn.Conv2d):
            continue
        abs_OIHW, num_summands = absolute_summands(snapshot, layer.depth, module)
        # An entry is not left out for a NaN: it stays one, in every number of the layer.
        alive = abs_OIHW.flatten() != 0
        sum_abs = abs_OIHW.double().flatten()[alive]
        abs_sum = snapshot.gradients[layer.depth].double().abs().flatten()[alive]
        # The two sums are rounded in different orders: one sign can come out a rounding below 1.
        ratio = (sum_abs / abs_sum).clamp(min=1.0)
        where = {"depth": layer.depth, "layer": layer.name, "num_entries": ratio.numel()}
        quantities = {"sum_abs": sum_abs / num_summands, "abs_sum": abs_sum / num_summands, "ratio": ratio}
        for quantity, values in quantities.items():
            for x, value in zip(QUANTILES, _quantiles(values), strict=True):
                yield {**where, "quantity": quantity, "x": x, "value": value}
        for factor in FACTORS:
            below = torch.where(ratio.isnan(), ratio, (ratio < factor).double())
            yield {**where, "quantity": "share_below", "x": factor, "value": below.mean().item()}


def _quantiles(values: Tensor) -> list[float]:
    """The nearest of the values themselves: between infinities there is nothing to interpolate."""
    if not values.numel():
        return [float("nan")] * len(QUANTILES)
    probabilities = torch.tensor(QUANTILES, dtype=values.dtype, device=values.device)
    return [float(q) for q in torch.quantile(values, probabilities, interpolation="nearest")]
