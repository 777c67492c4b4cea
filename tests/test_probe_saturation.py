"""Saturated and dead units, counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from probe_networks import look, make_loader, make_network
from torch import nn

from bnstudy import models, norms, probes


def rows_of(activation, weight, images):
    """The first layer's row of an MLP whose unit j computes activation(weight[j] * pixel 0)."""
    options = {"hidden": str(len(weight)), "activation": activation}
    network = models.build("mlp", options, norms.Factory("none", {}), "xavier_uniform", (1, 1, 2), 3, 0)
    with torch.no_grad():
        dense = network.get_submodule("hidden.0.dense")
        assert isinstance(dense, nn.Linear)
        dense.weight.zero_()
        dense.weight[:, 0] = torch.tensor(weight)
    return network, torch.tensor([[[[x, 0.0]]] for x in images])


class OneBatch:
    num_train = 100

    def __init__(self, images):
        self.images = images

    def probe_batch(self, size, index=0):
        return self.images, torch.zeros(len(self.images), dtype=torch.long)


def test_sigmoids_by_hand():
    """4 a (1 - a) < 0.1 where |z| > ln((1 + sqrt(0.9)) / (1 - sqrt(0.9))) = 3.637."""
    edge = math.log((1 + math.sqrt(0.9)) / (1 - math.sqrt(0.9)))
    network, images = rows_of("sigmoid", [edge * 1.01, edge * 0.99, 2 * edge], [1.0, -1.0, 0.6])
    (row,) = probes.rows("saturation", {}, look(network, OneBatch(images), reads={"activations"}))
    assert row["activation"] == "sigmoid" and row["depth"] == 1
    assert row["saturated"] == pytest.approx((2 + 0 + 3) / 9)
    assert row["dead"] == pytest.approx(1 / 3)  # the third unit alone is saturated on every image


def test_rectifiers_by_hand():
    network, images = rows_of("relu", [1.0, -1.0, 0.0], [1.0, 2.0, -1.0])
    (row,) = probes.rows("saturation", {}, look(network, OneBatch(images), reads={"activations"}))
    assert row["saturated"] == pytest.approx((1 + 2 + 3) / 9) and row["dead"] == pytest.approx(1 / 3)


def test_every_layer_but_the_classifier_has_a_row():
    network = make_network()
    rows = probes.rows("saturation", {}, look(network, make_loader(), reads={"activations"}))
    assert [row["layer"] for row in rows] == [layer.name for layer in network.layers[:-1]]


@pytest.mark.parametrize("threshold", [0.0, 1.5, -0.1])
def test_a_threshold_that_is_no_share_is_named(threshold):
    with pytest.raises(ValueError, match="threshold"):
        probes.rows("saturation", {"threshold": threshold}, look(make_network(), make_loader(), reads={"activations"}))
