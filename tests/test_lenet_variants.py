"""LeNet with norms in other places, beside the obvious composition, and a norm of mini-batches of one."""

from __future__ import annotations

import pytest
import torch
from small_runs import config, quadrants
from torch import nn
from torch.nn import functional

from bnstudy import norms
from bnstudy.config import plugins
from bnstudy.models import lenet
from bnstudy.store.jobs import jobs
from bnstudy.training import construct

SHAPE, CLASSES = (1, 28, 28), 10


def build(model, norm="none", where="*", **options):
    torch.manual_seed(0)
    factory = norms.Factory(norm, plugins.defaults("norms", norm), where)
    return plugins.load("models", model).build(SHAPE, CLASSES, factory, **options).double()


@pytest.fixture
def images():
    return torch.rand(8, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model", ["lenet_norm_first", "lenet_norm_after"])
@pytest.mark.parametrize("options", [{}, {"activation": "relu", "pooling": "average", "padding": 2}])
def test_without_a_norm_they_are_lenet(model, options, images):
    plain, variant = build("lenet", **options), build(model, **options)
    variant.load_state_dict(dict(zip(variant.state_dict(), plain.state_dict().values(), strict=True)))
    torch.testing.assert_close(variant(images), plain(images), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_the_norm_behind_the_activation_sees_what_it_gives(activation, images):
    network = build("lenet_norm_after", "batch", activation=activation)
    act = {"sigmoid": torch.sigmoid, "relu": torch.relu}[activation]

    def normalised(x):
        return functional.batch_norm(x, None, None, training=True)

    x = images
    for conv in (network.conv1, network.conv2):
        x = functional.max_pool2d(normalised(act(conv(x))), 2)
    x = x.flatten(1)
    for dense in (network.dense1, network.dense2):
        x = normalised(act(dense(x)))
    torch.testing.assert_close(network(images), network.classifier(x), rtol=1e-10, atol=1e-12)


def test_the_norm_of_the_images_standardises_them(images):
    network = build("lenet_norm_first", "batch", "norm0")
    assert [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)] == ["norm0"]
    mean, variance = images.mean(), images.var(correction=0)
    standardised = (images - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(network(images), lenet.LeNet.forward(network, standardised), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("model", ["lenet_norm_first", "lenet_norm_after"])
def test_layers_are_named_by_paths_that_exist_and_start_alike(model, tmp_path):
    """Arms of one seed share their initial weights, whatever the network is called."""
    root = quadrants(tmp_path)
    started = []
    for name in ("lenet", model):
        each = config(root, model={"name": name}, norm={"name": "none"}, model__padding=4)
        loader = construct.make_loader(jobs([each])[0], torch.device("cpu"))
        network = construct.build_network(each, loader.shape, loader.num_classes)
        for layer in network.layers:  # type: ignore[union-attr]
            network.get_submodule(layer.activation)
        started.append([network.get_submodule(layer.name).weight for layer in network.layers])  # type: ignore[union-attr]
    for ours, theirs in zip(*started, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5, 4), (1, 3, 5, 4)])
def test_batch_of_one_is_batch_normalisation_where_that_is_defined(shape):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    norm = plugins.load("norms", "batch_of_one").build(3, len(shape) - 2).double()
    torch.testing.assert_close(norm(x), functional.batch_norm(x, None, None, training=True), rtol=1e-10, atol=1e-12)
    over = [d for d in range(x.dim()) if d != 1]
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.var(over, correction=0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(over), rtol=1e-10, atol=1e-12)


def test_of_a_single_value_it_gives_beta_and_passes_no_gradient():
    norm = plugins.load("norms", "batch_of_one").build(3, 0)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    x = torch.tensor([[0.3, 1e4, -7.0]], requires_grad=True)
    y = norm(x)
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.equal(y[0], norm.bias)
    assert x.grad is not None and not x.grad.any()
    assert torch.equal(norm.weight.grad, torch.zeros(3)) and torch.equal(norm.bias.grad, torch.tensor([1.0, 2.0, 3.0]))
    assert norm.running_var.isfinite().all()
