"""Norms of gradients and weights against autograd."""

from __future__ import annotations

import pytest
from probe_networks import look, make_loader, make_network
from torch.nn import functional

from bnstudy import probes


def test_rows_are_autograds():
    network, loader = make_network(), make_loader()
    rows = probes.rows("gradient_norms", {}, look(network, loader, reads={"gradients"}))
    images, labels = loader.probe_batch(6)
    functional.cross_entropy(network.train()(images), labels).backward()
    assert [row["depth"] for row in rows] == [layer.depth for layer in network.layers]
    for row in rows:
        weight = network.get_submodule(row["layer"]).weight
        assert row["gradient"] == pytest.approx(weight.grad.norm().item(), rel=1e-5)
        assert row["weight"] == pytest.approx(weight.norm().item(), rel=1e-6)
