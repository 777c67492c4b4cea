"""BN folded into the layer before it, and biases before BN dropped: the same function, and none of them left."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bnstudy import models, norms, probes
from bnstudy.config import plugins
from bnstudy.models.folding import fold_bn, normed, unbiased
from bnstudy.probes.snapshot import observe

BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d


def network(model, **options):
    """With statistics and parameters as after training, not as they begin."""
    made = models.build(model, options, norms.Factory("batch", {}), "xavier_uniform", (3, 32, 32), 10, 0)
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


@pytest.mark.parametrize("norm", plugins.names("norms"))
def test_the_layers_that_batch_norm_alone_follows_are_found_whatever_the_norm(norm):
    made = models.build("lenet", {}, norms.Factory(norm, {}), "xavier_uniform", (1, 28, 28), 10, 0)
    normalized = dict(zip(["conv1", "conv2", "dense1", "dense2"], ["norm1", "norm2", "norm3", "norm4"], strict=True))
    assert normed(made) == (normalized if norm in ("batch", "ghost_batch") else {})


class Branched(nn.Module):
    """What its first layer gives goes past the norm, too: with the norm folded in, that would change."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        y = self.first(x)
        return y + self.norm(y)


def test_a_layer_that_something_else_reads_keeps_its_norm_and_its_bias():
    assert normed(Branched()) == {}
    assert isinstance(fold_bn(Branched()).get_submodule("norm"), nn.BatchNorm1d)
    assert unbiased(Branched()).get_submodule("first").bias is not None


def test_dropped_biases_leave_training_as_it_was_and_evaluation_not():
    """The probe's numbers, against a network whose biases are set to zero by hand."""
    whole = network("lenet")
    for name in normed(whole):
        nn.init.uniform_(whole.get_parameter(f"{name}.bias"), -0.3, 0.3)
    images, labels = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 10
    zeroed = copy.deepcopy(whole).double()
    for name in normed(zeroed):
        nn.init.zeros_(zeroed.get_parameter(f"{name}.bias"))
    assert all(unbiased(whole).get_submodule(name).bias is None for name in normed(whole))
    rows = probes.rows("folding", {}, observe(whole, images, labels, reads=set()))
    found = {(r["change"], r["mode"], r["precision"]): r["difference"] for r in rows}
    assert len(found) == len(rows) == 6 and {r["num_layers"] for r in rows} == {4}
    assert found["folded", "evaluation", "float64"] < 1e-12 < found["folded", "evaluation", "float32"] < 1e-5
    assert found["unbiased", "training", "float64"] < 1e-12
    doubled = copy.deepcopy(whole).double().eval()
    with torch.no_grad():
        before, after = doubled(images.double()), zeroed.eval()(images.double())
    expected = ((after - before).abs().max() / before.abs().max()).item()
    assert found["unbiased", "evaluation", "float64"] == pytest.approx(expected) and expected > 1e-3


def test_a_bias_before_batch_norm_changes_nothing():
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    conv, norm = nn.Conv2d(3, 4, 3).double(), nn.BatchNorm2d(4).double()
    normed = norm(conv(images))
    assert conv.bias is not None
    gradient = torch.autograd.grad(normed.pow(3).sum(), conv.bias)[0]
    assert gradient.abs().max() < 1e-8
    conv.bias = None
    torch.testing.assert_close(norm(conv(images)), normed, rtol=1e-10, atol=1e-10)
