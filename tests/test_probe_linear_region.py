"""Inputs of sigmoids near 0, counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from probe_networks import Loader, look, make_loader, make_network
from torch import nn

from bnstudy import models, norms, probes


def share(norm, weight, pixels, **options):
    """The first layer's row of a perceptron whose unit j has the input weight[j] * pixel, normalized or not."""
    made = models.build(
        "mlp", {"hidden": str(len(weight)), "activation": "sigmoid"}, norms.Factory(norm, {}), "xavier_uniform",
        (1, 1, 1), 3, 0,
    )  # fmt: skip
    dense = made.get_submodule("hidden.0.dense")
    assert isinstance(dense, nn.Linear)
    with torch.no_grad():
        dense.weight[:, 0] = torch.tensor(weight)
    images = torch.tensor(pixels)[:, None, None, None]
    given = Loader(images, torch.zeros(len(pixels), dtype=torch.long))
    (row,) = probes.rows("linear_region", options, look(made, given, {"activations"}, len(pixels)))
    assert (row["depth"], row["layer"]) == (1, "hidden.0.dense")
    return row["share"]


def test_inputs_by_hand():
    """1.3 times 0.99 and times -0.99 lie within, times 1.01 does not; of the second unit none, of the third all."""
    assert share("none", [1.0, 10.0, 0.0], [1.3 * 0.99, -1.3 * 0.99, 1.3 * 1.01]) == pytest.approx((2 + 0 + 3) / 9)
    assert share("none", [1.0], [0.4, -0.6], bound=0.5) == 0.5


def test_what_is_normalized_counts_as_normalized():
    """A normal law, whatever its scale: 2 Phi(1.3) - 1."""
    normal = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).tolist()
    within = math.erf(1.3 / math.sqrt(2))
    assert share("batch", [100.0], normal) == pytest.approx(within, abs=0.01) == pytest.approx(0.806, abs=0.01)
    assert share("none", [100.0], normal) < 0.05


def test_of_a_layer_that_has_diverged_there_is_no_share():
    assert math.isnan(share("none", [math.nan], [1.0, 2.0]))


def test_networks_without_sigmoids_have_no_rows():
    assert probes.rows("linear_region", {}, look(make_network(), make_loader(), {"activations"})) == []


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf])
def test_a_bound_that_bounds_nothing_is_named(bound):
    with pytest.raises(ValueError, match=r"bound = .*give"):
        probes.rows("linear_region", {"bound": bound}, look(make_network(), make_loader(), {"activations"}))
