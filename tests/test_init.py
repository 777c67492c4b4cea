"""Initial weights: their distributions in closed form, and what they do and do not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnstudy import models, norms
from bnstudy.config import plugins
from bnstudy.models import init

SHAPE = (3, 32, 32)


def build(model="resnet", norm="none", scheme="xavier_uniform", seed=0, shape=SHAPE, where="*", **options):
    return models.build(model, options, norms.Factory(norm, {}, where), scheme, shape, 10, seed)


def weights(network):
    return {n: m.weight.detach() for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def fans(weight):
    taps = weight[0, 0].numel()
    return weight.shape[1] * taps, weight.shape[0] * taps


# Variances in closed form: 2 / (fan_in + fan_out), 2 / fan_in, 1 / (3 fan_in) (uniform in +-1/sqrt(fan_in)).
STD = {
    "xavier_uniform": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "xavier_normal": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "kaiming_normal": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "torch_default": lambda fan_in, fan_out: 1 / math.sqrt(3 * fan_in),
}
STD["xavier_uniform_biased"] = STD["xavier_uniform"]
BOUND = {
    "xavier_uniform": lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out)),
    "torch_default": lambda fan_in, fan_out: 1 / math.sqrt(fan_in),
}
BOUND["xavier_uniform_biased"] = BOUND["xavier_uniform"]
NON_EXCESS_KURTOSIS = {"xavier_uniform": 1.8, "torch_default": 1.8, "xavier_normal": 3.0, "kaiming_normal": 3.0}
NON_EXCESS_KURTOSIS["xavier_uniform_biased"] = NON_EXCESS_KURTOSIS["xavier_uniform"]


def test_the_scale_multiplies_every_weight_and_nothing_else():
    plain = build("mlp", "batch", hidden="8-8")
    scaled = models.build(
        "mlp", {"hidden": "8-8"}, norms.Factory("batch", {}), "xavier_uniform", SHAPE, 10, 0, init_scale=4.0
    )
    weighed = {f"{name}.weight" for name in weights(plain)}
    for name, value in plain.state_dict().items():
        assert torch.equal(scaled.state_dict()[name], 4 * value if name in weighed else value), name


def test_every_scheme_of_the_configuration_is_there():
    assert set(init.SCHEMES) == set(plugins.initialisers()) == set(STD)


@pytest.mark.parametrize("scheme", sorted(STD))
def test_weights_have_the_schemes_distribution(scheme):
    kept = {"classifier"}
    for name, weight in weights(build(depth=20, scheme=scheme)).items():
        used = "torch_default" if name in kept else scheme
        fan_in, fan_out = fans(weight)
        std, n = STD[used](fan_in, fan_out), weight.numel()
        assert weight.mean().abs() < 5 * std / math.sqrt(n), name
        # the standard deviation of a sample variance is var * sqrt((kurtosis - 1) / n)
        spread = math.sqrt((NON_EXCESS_KURTOSIS[used] - 1) / n)
        assert abs(weight.var().item() / std**2 - 1) < 5 * spread, name
        if used in BOUND:
            bound = BOUND[used](fan_in, fan_out)
            assert 0.97 * bound < weight.abs().max() <= bound * (1 + 1e-6), name
        else:
            assert weight.abs().max() > 2 * std, name


@pytest.mark.parametrize("scheme", sorted(STD))
def test_shape_of_the_distribution(scheme):
    weight = weights(build("mlp", scheme=scheme, hidden="512"))["hidden.0.dense"].double()
    kurtosis = (weight**4).mean() / (weight**2).mean() ** 2
    assert kurtosis.item() == pytest.approx(NON_EXCESS_KURTOSIS[scheme], abs=0.02)


@pytest.mark.parametrize("scheme", sorted(STD))
@pytest.mark.parametrize("model", ["resnet", "lenet", "mlp"])
def test_biases(scheme, model):
    options = {"bias": True, "depth": 8} if model == "resnet" else {}
    for name, module in build(model, scheme=scheme, **options).named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        assert module.bias is not None
        if scheme in ("torch_default", "xavier_uniform_biased") or (model == "resnet" and name == "classifier"):
            bound = 1 / math.sqrt(fans(module.weight)[0])
            assert 0.2 * bound < module.bias.abs().max() <= bound
            assert module.bias.unique().numel() == module.bias.numel()
        else:
            assert not module.bias.any()


def test_drawing_biases_leaves_the_weights_as_they_are():
    plain, biased = (build(depth=8, bias=True, scheme=f"xavier_uniform{s}").state_dict() for s in ("", "_biased"))
    differ = {key for key in plain if not torch.equal(plain[key], biased[key])}
    assert differ == {key for key in plain if key.endswith("bias") and key != "classifier.bias"}


def test_torch_default_is_what_torchs_layers_do_of_themselves():
    """Same bounds as torch's own draws, on a layer large enough to show them."""
    torchs = nn.Linear(400, 500)
    ours = build("mlp", scheme="torch_default", hidden="500", shape=(1, 20, 20)).hidden[0].dense
    for mine, theirs in ((ours.weight, torchs.weight), (ours.bias, torchs.bias)):
        assert mine.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.02)
        assert mine.std().item() == pytest.approx(theirs.std().item(), rel=0.1)


def test_resnet_keeps_torchs_default_in_the_classifier_alone():
    xavier, default = (weights(build(depth=8, scheme=scheme)) for scheme in ("xavier_uniform", "torch_default"))
    assert {name for name in xavier if torch.equal(xavier[name], default[name])} == {"classifier"}


@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_other_networks_draw_every_layer_by_the_scheme(model):
    kaiming, xavier = (weights(build(model, scheme=s)) for s in ("kaiming_normal", "xavier_normal"))
    assert not any(torch.equal(kaiming[name], xavier[name]) for name in xavier)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_seed_alone_decides(seed):
    torch.manual_seed(1)
    first = build("lenet", seed=seed).state_dict()
    torch.manual_seed(2)
    again, other = build("lenet", seed=seed).state_dict(), build("lenet", seed=seed + 1).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first if key.endswith("weight"))


def test_layers_of_one_shape_draw_apart():
    drawn = [w for w in weights(build(depth=20)).values() if w.shape == (16, 16, 3, 3)]
    assert len(drawn) == 6
    stacked = torch.stack([w.flatten() for w in drawn])
    assert (torch.corrcoef(stacked) - torch.eye(6)).abs().max() < 0.1


@pytest.mark.parametrize("model", ["resnet", "lenet", "mlp"])
@pytest.mark.parametrize("norm", ["batch", "batch_scratch"])
def test_removing_the_norm_removes_nothing_else(model, norm):
    options = {"depth": 20} if model == "resnet" else {}
    plain, normed = build(model, **options), build(model, norm, **options)
    norm_paths = {n for n, m in normed.named_modules() if "running_mean" in dict(m.named_buffers(recurse=False))}
    rest = {k: v for k, v in normed.state_dict().items() if k.rpartition(".")[0] not in norm_paths}
    assert norm_paths and plain.state_dict().keys() == rest.keys()
    assert all(torch.equal(value, rest[key]) for key, value in plain.state_dict().items())
    assert dict(plain.named_modules()).keys() == dict(normed.named_modules()).keys()
    assert plain.layers == normed.layers


def test_a_layers_draw_depends_on_no_other_layer():
    projected, identity = weights(build(depth=8)), weights(build(depth=8, shortcut="identity"))
    deeper, some = weights(build(depth=14)), weights(build(depth=8, norm="batch", where="stage3.*"))
    for other in (projected, deeper, some):
        assert all(torch.equal(weight, other[name]) for name, weight in identity.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_are_the_same_in_every_precision(dtype):
    plain = build("lenet", "batch")
    torch.set_default_dtype(dtype)
    try:
        other = build("lenet", "batch")
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in plain.named_parameters():
        assert other.get_parameter(name).dtype == dtype
        assert torch.equal(value.to(dtype), other.get_parameter(name))


def test_network_is_built_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        network = build("lenet", "batch")
    assert {value.device.type for value in network.state_dict().values()} == {"cpu"}
    assert torch.equal(network.conv1.weight, build("lenet").conv1.weight)


def test_known_draw():
    """The mixing of seed and name is part of a run's meaning: a change here changes every result."""
    assert init._key(0, "stem") == 0xDB34DF1EE0DDA85D >> 1  # printf 0/stem | sha256sum, the first 16 digits
    network = build(depth=8, seed=0)
    expected = torch.tensor([0.13280119, 0.06575529, -0.09526745]), torch.tensor([0.11839901, 0.09396003, 0.07582322])
    for drawn, golden in zip((network.stem.weight.flatten()[:3], network.classifier.bias[:3]), expected, strict=True):
        torch.testing.assert_close(drawn, golden, rtol=0, atol=1e-7)


def test_unknown_scheme_is_named():
    with pytest.raises(ValueError, match="init = 'orthogonal': choose one of xavier_uniform, xavier_normal"):
        build("lenet", scheme="orthogonal")


def test_building_leaves_the_global_random_state():
    before = torch.get_rng_state()
    build("lenet", "batch")
    assert torch.equal(before, torch.get_rng_state())
