"""The loss along the step against steps made by hand."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from probe_networks import look, make_loader, make_network
from torch.nn import functional

from bnstudy import probes


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_each_loss_is_that_of_a_network_moved_by_hand(norm):
    network, loader = make_network(norm).double(), make_loader()
    images, labels = loader.images[:6].double(), loader.labels[:6]
    rows = probes.rows("loss_along_step", {"num": 5, "high": 3.0}, look(network, loader, reads={"gradients"}))
    network.train()
    start = functional.cross_entropy(network(images), labels)
    start.backward()
    assert [row["step_size"] for row in rows] == pytest.approx(np.exp(np.linspace(np.log(1.5e-5), np.log(3.0), 5)))
    for row in rows:
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for there, here in zip(moved.parameters(), network.parameters(), strict=True):
                there.copy_(here - row["step_size"] * here.grad)
            loss = functional.cross_entropy(moved(images), labels).item()
        assert row["loss"] == pytest.approx(loss, rel=1e-10)
        assert row["relative_loss"] == pytest.approx(loss / start.item(), rel=1e-10)


def test_a_short_step_lowers_the_loss_by_the_squared_gradient():
    network, loader = make_network("none").double(), make_loader()
    seen = look(network, loader, reads={"gradients"})
    (row,) = probes.rows("loss_along_step", {"low": 1e-7, "high": 1e-7, "num": 1}, seen)
    squared = sum(g.square().sum().item() for g in seen._read("gradients").values())
    assert (seen.loss - row["loss"]) / row["step_size"] == pytest.approx(squared, rel=1e-3)


def test_an_explosion_is_kept():
    network, loader = make_network("none", num_blocks=3), make_loader()
    rows = probes.rows(
        "loss_along_step", {"low": 1e3, "high": 1e12, "num": 3}, look(network, loader, reads={"gradients"})
    )
    assert rows[0]["relative_loss"] > 1e6
    assert not math.isfinite(rows[-1]["loss"]) and not math.isfinite(rows[-1]["relative_loss"])


def test_no_relative_loss_where_the_loss_is_zero():
    seen = SimpleNamespace(loss=0.0, displaced=lambda step_size: SimpleNamespace(loss=1.0))
    (row,) = probes.rows("loss_along_step", {"num": 1}, seen)  # type: ignore[arg-type]
    assert row["loss"] == 1.0 and math.isnan(row["relative_loss"])


def test_the_published_range_is_the_default():
    seen = SimpleNamespace(loss=1.0, displaced=lambda step_size: SimpleNamespace(loss=1.0))
    sizes = [row["step_size"] for row in probes.rows("loss_along_step", {}, seen)]  # type: ignore[arg-type]
    assert len(sizes) == 25 and sizes[0] == pytest.approx(1.5e-5) and sizes[-1] == pytest.approx(0.2)
