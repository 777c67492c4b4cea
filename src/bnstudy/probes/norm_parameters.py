"""What the norm layers have learned, and the statistics they keep: a number per channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {"site": "string", "quantity": "string", "channel": "int16", "value": "float64"}


def probe(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """Rows (site, quantity, channel, value); `site` is the norm's path in the network, `quantity` the tensor's name.

    weight is gamma and bias is beta, running_mean and running_var the statistics that evaluation uses. A norm is here
    any module with values of its own that is no convolution and no dense layer.
    """
    for site, module in snapshot.network().named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            continue
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for quantity, values in own:
            if values.dim() == 1:  # a count of batches has no channels
                for channel, value in enumerate(values.tolist()):
                    yield {"site": site, "quantity": quantity, "channel": channel, "value": value}
