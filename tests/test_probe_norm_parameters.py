"""Every norm's own values, by channel, and nothing of the weight layers."""

from __future__ import annotations

import torch
from probe_networks import look, make_loader, make_network
from torch import nn

from bnstudy import probes


def test_rows_are_the_networks_own_tensors():
    network = make_network()
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.add_(0.01 * index)
    rows = probes.rows("norm_parameters", {}, look(network, make_loader(), reads=()))
    found = {(r["site"], r["quantity"], r["channel"]): r["value"] for r in rows}
    norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(found) == len(rows) == sum(4 * norm.num_features for norm in norms.values())
    for site, norm in norms.items():
        for quantity in ("weight", "bias", "running_mean", "running_var"):
            for channel, value in enumerate(getattr(norm, quantity).tolist()):
                assert found[site, quantity, channel] == value


def test_without_norms_there_are_no_rows():
    assert probes.rows("norm_parameters", {}, look(make_network("none"), make_loader(), reads=())) == []
