"""The product of square matrices: what it computes, how its entries are drawn, what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnstudy import models, norms

SHAPE = (3, 4, 5)


def build(norm="none", seed=0, shape=SHAPE, **options):
    options = {"width": 12, "num_factors": 3} | options
    return models.build("matrix_product", options, norms.Factory(norm, {}), "xavier_normal", shape, 7, seed)


def test_it_computes_the_product_of_its_factors_on_an_images_first_values():
    network = build().double()
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second, third = (factor.dense.weight for factor in network.factors)
    product = third @ second @ first
    for image, logits in zip(images, network(images), strict=True):
        x = torch.stack([image.reshape(-1)[i] for i in range(12)])
        expected = network.classifier.weight @ (product @ x) + network.classifier.bias
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


def test_entries_are_normal_with_variance_one_over_the_width():
    """Four standard errors of mean, variance and kurtosis over 4 x 300^2 entries."""
    network = build(shape=(3, 10, 10), width=300, num_factors=4)
    entries = torch.cat([factor.dense.weight.detach().double().flatten() for factor in network.factors])
    scaled = entries * 300**0.5
    error = len(entries) ** -0.5
    assert scaled.mean().abs() < 4 * error
    assert scaled.var() == pytest.approx(1, abs=4 * 2**0.5 * error)
    assert scaled.pow(4).mean() == pytest.approx(3, abs=4 * 96**0.5 * error)


def test_every_factor_and_seed_has_entries_of_its_own():
    matrices = [factor.dense.weight for seed in (0, 1) for factor in build(seed=seed).factors]
    assert not any(torch.equal(a, b) for i, a in enumerate(matrices) for b in matrices[:i])
    longer = build(num_factors=5)  # the first factors do not depend on how many follow
    assert all(torch.equal(a, b.dense.weight) for a, b in zip(matrices[:3], longer.factors[:3], strict=True))


def test_layers_are_the_factors_then_the_classifier_and_a_norm_stands_behind_each_factor():
    network = build("batch")
    assert [layer.name for layer in network.layers] == [*(f"factors.{i}.dense" for i in range(3)), "classifier"]
    assert [layer.activation for layer in network.layers[:-1]] == [f"factors.{i}.norm" for i in range(3)]
    assert sum(isinstance(module, nn.BatchNorm1d) for module in network.modules()) == 3
    assert network.factors[0].dense.bias is None


@pytest.mark.parametrize("options", [{"width": 61}, {"width": 0}, {"num_factors": 0}])
def test_options_that_make_no_network_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"model\.{name} = {value}: .*give"):
        build(**options)
