"""BN folded into the layer before it: the same function, and none of it left."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bnstudy import models, norms
from bnstudy.models.folding import fold_bn

BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d


def network(model, **options):
    """With statistics and parameters as after training, not as they begin."""
    made = models.build(model, options, norms.factory("batch", {}), "xavier_uniform", (3, 32, 32), 10, 0)
    draw = torch.Generator().manual_seed(0)
    for module in made.modules():
        if isinstance(module, BATCH_NORMS):
            mean, variance = module.running_mean, module.running_var
            assert mean is not None and variance is not None
            for values in (module.weight.data, module.bias.data, mean, variance):
                values.copy_(torch.rand(values.shape, generator=draw) + 0.5)
    return made


@pytest.mark.parametrize(("model", "options"), [("lenet", {}), ("resnet", {"depth": 8})])
def test_a_folded_network_is_the_same_function(model, options):
    whole, images = network(model, **options), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(whole.state_dict())
    folded = fold_bn(whole)
    assert not any(isinstance(module, BATCH_NORMS) for module in folded.modules())
    logits = whole.eval()(images)
    torch.testing.assert_close(folded(images), logits, rtol=1e-5, atol=1e-5 * logits.abs().max().item())
    assert all(torch.equal(before[name], value) for name, value in whole.state_dict().items())


def test_a_bias_before_batch_norm_changes_nothing():
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    conv, norm = nn.Conv2d(3, 4, 3).double(), nn.BatchNorm2d(4).double()
    normed = norm(conv(images))
    assert conv.bias is not None
    gradient = torch.autograd.grad(normed.pow(3).sum(), conv.bias)[0]
    assert gradient.abs().max() < 1e-8
    conv.bias = None
    torch.testing.assert_close(norm(conv(images)), normed, rtol=1e-10, atol=1e-10)
