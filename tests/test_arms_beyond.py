"""The arms that test the paper's mechanism by intervention: each by its paper's formula, and by what it equals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from bnstudy import models, norms
from bnstudy.config import plugins
from bnstudy.models import resnet_standardised
from bnstudy.norms._statistics import frozen, reestimated

IMAGES, FEATURES = (6, 4, 3, 2), (9, 4)
SHAPES = [IMAGES, FEATURES]


def norm(name, shape, **options):
    return norms.Factory(name, options)(shape[1], len(shape) - 2, "site").double()


def random(shape, seed=0):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2


def network(name, norm="none", init="kaiming_normal", seed=0, where="*", shape=(3, 32, 32), **options):
    return models.build(name, options, norms.Factory(norm, {}, where), init, shape, 10, seed)


def assert_close(ours, theirs, tolerance=1e-10):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_the_two_halves_after_one_another_are_batch_norm(shape, training):
    """Gradients and what evaluation uses, too, and in either order up to the mean's own scale."""
    mean, variance, whole = norm("mean_only", shape), norm("variance_only", shape), norm("batch", shape)
    for seed in range(3):
        x = random(shape, seed)
        assert_close(variance(mean(x)), whole(x))
    assert_close(mean.running_mean, whole.running_mean)
    assert_close(variance.running_var, whole.running_var)
    both = nn.Sequential(mean, variance).train(training)
    weights = random(shape, 9)
    gradients = []
    for module in (both, whole.train(training)):
        x = random(shape, 5).requires_grad_()
        gradients.append(torch.autograd.grad((module(x) * weights).sum(), x)[0])
    assert_close(*gradients)


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_only_centres_and_does_not_scale(shape):
    made, x = norm("mean_only", shape), random(shape)
    made.bias.data = random((4,), 1)
    y = made(x).transpose(0, 1).flatten(1)
    assert_close(y.mean(1), made.bias.detach())
    assert_close(y.var(1), x.transpose(0, 1).flatten(1).var(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_variance_only_scales_about_zero(shape):
    made, x = norm("variance_only", shape, eps=1e-30), random(shape)
    y, values = (each.transpose(0, 1).flatten(1) for each in (made(x), x))
    assert_close(y.var(1, correction=0), torch.ones(4).double())
    assert_close(y.mean(1) / y.std(1), values.mean(1) / values.std(1))


@pytest.mark.parametrize("name", ["mean_only", "variance_only", "dynamic_tanh", "skipinit"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_finite_differences(name, shape):
    made = norm(name, shape, **({"start": 0.7} if name == "skipinit" else {}))
    parameters = {key: random(value.shape, 3).requires_grad_() for key, value in made.named_parameters()}

    def call(x, *values):
        return torch.func.functional_call(made, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (random(shape).requires_grad_(), *parameters.values()))
    assert torch.autograd.gradgradcheck(call, (random(shape).requires_grad_(), *parameters.values()))


def test_dynamic_tanh_by_its_formula():
    made, x = norm("dynamic_tanh", IMAGES, alpha=0.8), random(IMAGES)
    made.weight.data, made.bias.data = random((4,), 1), random((4,), 2)
    gamma, beta = made.weight[:, None, None], made.bias[:, None, None]
    assert_close(made(x), gamma * torch.tanh(made.alpha.detach() * x) + beta)
    assert made.alpha.item() == pytest.approx(0.8) and made.alpha.numel() == 1


@pytest.mark.parametrize("name", ["mean_only", "variance_only"])
def test_statistics_over_many_images_and_of_one_pass(name):
    net = network("lenet", name, shape=(1, 28, 28)).double()
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = frozen(net, images)(images)
    assert_close(logits, net.train()(images), 1e-6)
    again = reestimated(net, [(images, torch.zeros(40))])
    key = "running_mean" if name == "mean_only" else "running_var"
    seen = []
    first = dict(net.named_modules())[next(n for n, m in net.named_modules() if hasattr(m, key))]
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].transpose(0, 1).flatten(1)))
    net.train()(images)
    hook.remove()
    wanted = seen[0].mean(1) if name == "mean_only" else seen[0].var(1)
    found = next(value for n, value in again.named_buffers() if n.endswith(key))
    assert_close(found, wanted)


NO_NORMS = {"dynamic_tanh": {"alpha": 0.0}, "skipinit": {"start": math.nan}, "mean_only": {"momentum": 2.0}}


@pytest.mark.parametrize(("name", "options"), [*NO_NORMS.items(), ("variance_only", {"eps": 0.0})])
def test_values_that_make_no_norm_are_named(name, options):
    ((key, value),) = options.items()
    with pytest.raises(ValueError, match=rf"norm\.{key} = {value}: "):
        norm(name, IMAGES, **options)


def test_skipinit_makes_every_branch_nothing_at_first():
    """De and Smith (2020): the untrained network is its shortcuts."""
    net = network("resnet", "skipinit", where="stage*.norm2", depth=8)
    images = torch.randn(4, 3, 32, 32)
    x = functional.relu(net.stem(images))
    for stage in (net.stage1, net.stage2, net.stage3):
        x = functional.relu(stage[0].shortcut(x))
    torch.testing.assert_close(net(images), net.classifier(x.mean((2, 3))))
    assert sum(isinstance(m, plugins.load("norms", "skipinit").SkipInit) for m in net.modules()) == 3


def test_a_zero_classifier_has_the_same_other_weights_and_says_nothing():
    zero, plain = network("resnet_zero_classifier", "batch", depth=8), network("resnet", "batch", depth=8)
    images = torch.randn(4, 3, 32, 32)
    plain(images)  # moves its running statistics as the other's move
    assert zero(images).abs().max() == 0
    assert [layer.name for layer in zero.layers] == [layer.name for layer in plain.layers]
    for (key, a), (_, b) in zip(zero.state_dict().items(), plain.state_dict().items(), strict=True):
        assert torch.equal(a, b) or key in ("classifier.weight", "classifier.bias"), key
    functional.cross_entropy(zero(images), torch.tensor([0, 1, 2, 3])).backward()
    moved = {name for name, p in zero.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_standardised_weights_by_their_formula():
    """Brock et al. (2021), equation 1: mean 0 and variance 1 / fan_in of each output channel, times the gain."""
    net, plain = network("resnet_standardised", depth=8).double(), network("resnet", depth=8).double()
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in net.state_dict().items())
    conv, x = net.stage1[0].conv1, random((2, 16, 5, 5))
    weight = conv.weight.detach().clone()
    for channel in weight:
        channel -= channel.mean()
        channel *= resnet_standardised.GAIN / (channel.numel() * channel.var(correction=0) + 1e-4).sqrt()
    assert_close(conv(x), functional.conv2d(x, weight, padding=1))
    z = torch.randn(10**6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).relu()
    assert (z * resnet_standardised.GAIN).var().item() == pytest.approx(1, abs=0.01)


def test_standardised_weights_do_not_feel_scale_and_shift():
    net = network("resnet_standardised", depth=8).double()
    x = random((2, 16, 5, 5))
    conv = net.stage1[0].conv1
    before = conv(x)
    conv.weight.data = 40 * conv.weight.data + 3
    torch.testing.assert_close(conv(x), before, rtol=1e-2, atol=1e-2)  # up to EPS


@pytest.mark.parametrize("depth", [8, 20])
def test_fixup_by_its_rules(depth):
    net, plain = network("resnet_fixup", depth=depth), network("resnet", depth=depth)
    blocks = (depth - 2) // 2
    ours, theirs = dict(net.named_parameters()), dict(plain.named_parameters())
    for name in theirs:
        factor = 1.0
        if name.startswith("classifier") or name.endswith("conv2.weight"):
            factor = 0.0
        elif name.startswith("stage") and name.endswith("conv1.weight"):
            factor = blocks**-0.5  # L^(-1 / (2m - 2)), m = 2
        torch.testing.assert_close(ours[name], factor * theirs[name])
    extra = {name: value.item() for name, value in ours.items() if name not in theirs}
    assert {value for name, value in extra.items() if name.endswith("factor")} == {1.0}
    assert {value for name, value in extra.items() if not name.endswith("factor")} == {0.0}
    # before each of two convolutions and each activation, and one factor, a branch; stem and classifier one each
    assert len(extra) == 5 * blocks + 2
    images = torch.randn(4, 3, 32, 32)
    assert net(images).abs().max() == 0
    for where in ("*", "before_pooling", "after_classifier", "stage*.shortcut.1"):
        with pytest.raises(ValueError, match="norm=none"):
            network("resnet_fixup", "batch", where=where, depth=8)


def test_fixup_adds_its_numbers_where_the_paper_has_them():
    net = network("resnet_fixup", depth=8).double()
    block = net.stage2[0]
    for index, (_, value) in enumerate(block.named_parameters()):
        if value.numel() == 1:
            value.data.fill_(0.1 * (index + 1))
    block.conv2.weight.data = random(block.conv2.weight.shape, 1)
    x = random((2, 16, 6, 6))
    y = functional.conv2d(x + block.conv1.before, block.conv1.weight, stride=2, padding=1)
    y = functional.relu(y + block.norm1.bias)
    y = functional.conv2d(y + block.conv2.before, block.conv2.weight, padding=1)
    y = functional.relu(block.norm2.factor * y + block.norm2.bias + block.shortcut(x))
    assert_close(block(x), y)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", ["batch", "none"])
def test_a_deep_perceptron_by_its_formula(residual, kind):
    net = network("deep_perceptron", kind, shape=(1, 4, 4), depth=5, width=12, residual=residual).double()
    images = random((7, 1, 4, 4))
    x = images.flatten(1)
    for index, hidden in enumerate(net.hidden):
        y = x @ hidden.dense.weight.T
        if kind == "batch":
            y = (y - y.mean(0)) / (y.var(0, correction=0) + 1e-5).sqrt()
        y = y.clamp(min=0)
        x = x + y if residual and index else y
    assert_close(net(images), x @ net.classifier.weight.T + net.classifier.bias)
    assert [layer.depth for layer in net.layers] == [1, 2, 3, 4, 5]
    assert [layer.block_output for layer in net.layers] == [False, *[residual] * 3, False]


@pytest.mark.slow
def test_batch_norm_explodes_gradients_of_plain_perceptrons_as_published():
    """Yang et al. (2019): the squared gradient grows by pi / (pi - 1) = 1.467 a layer; with shortcuts far less."""
    growth = {}
    for residual in (False, True):
        factors = []
        for seed in range(3):
            net = network("deep_perceptron", "batch", seed=seed, shape=(1, 8, 8), depth=30, residual=residual)
            given: list[torch.Tensor] = []
            for hidden in net.hidden[5:25]:
                hidden.leave.register_forward_hook(lambda _, inputs, output, given=given: given.append(output))
            images = torch.randn(512, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
            loss = functional.cross_entropy(net(images), torch.randint(10, (512,)))
            squares = [g.square().sum().item() for g in torch.autograd.grad(loss, given)]
            factors.append((squares[0] / squares[-1]) ** (1 / (len(squares) - 1)))
        growth[residual] = sum(factors) / len(factors)
    assert growth[False] == pytest.approx(math.pi / (math.pi - 1), abs=0.03)
    assert growth[True] < 1.15


@pytest.mark.parametrize(("options", "key"), [({"depth": 2}, "depth"), ({"width": 0}, "width")])
def test_a_perceptron_that_is_none_is_refused(options, key):
    with pytest.raises(ValueError, match=rf"model\.{key} = "):
        network("deep_perceptron", shape=(1, 4, 4), **options)
