"""The norms beside batch normalization: closed forms, limits in which they are one another, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from bnstudy import norms

IMAGES, FEATURES = (6, 4, 3, 2), (9, 4)
DRAWS = ("batch_renorm", "group", "layer", "instance", "whitening", "probability_integral", "ghost_batch")
AFFINE = [(name, shape) for name in DRAWS for shape in (IMAGES, FEATURES) if (name, shape) != ("instance", FEATURES)]
few = settings(max_examples=20, deadline=None)


def build(name, shape, **options):
    return norms.Factory(name, options)(shape[1], len(shape) - 2, "site").double()


def random(shape, seed=0):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2


def assert_close(ours, theirs, tolerance=1e-10):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def channels(x):
    return x.transpose(0, 1).flatten(1)


@pytest.mark.parametrize(("name", "shape"), AFFINE)
def test_gradients_equal_finite_differences(name, shape):
    norm = build(name, shape, **({"r_max": 1.0, "d_max": 0.0} if name == "batch_renorm" else {}))
    x = random(shape).requires_grad_()
    weight, bias = random(shape[1:2], 1).requires_grad_(), random(shape[1:2], 2).requires_grad_()

    def call(x, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (x, weight, bias))


@pytest.mark.parametrize(("name", "shape"), AFFINE)
def test_gamma_scales_and_beta_shifts_each_channel(name, shape):
    norm, x = build(name, shape), random(shape)
    state = {key: value.clone() for key, value in norm.state_dict().items()}
    plain = channels(norm(x)).detach()
    norm.load_state_dict(state | {"weight": random(shape[1:2], 1), "bias": random(shape[1:2], 2)})
    assert_close(channels(norm(x)), norm.weight[:, None] * plain + norm.bias[:, None])


@pytest.mark.parametrize("shape", [IMAGES, FEATURES])
def test_renorm_without_correction_is_batch_norm(shape):
    x, weights = random(shape), random(shape, 1)
    found = []
    for norm in (build("batch_renorm", shape, r_max=1.0, d_max=0.0), build("batch", shape)):
        given = x.clone().requires_grad_()
        y = norm(given)
        gradients = torch.autograd.grad((y * weights).sum(), [given, norm.weight, norm.bias])
        found.append((y, *gradients, norm.running_mean.clone(), norm.running_var.clone(), norm.eval()(x)))
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs)


def test_renorm_without_bounds_trains_on_what_it_evaluates_with():
    norm = build("batch_renorm", IMAGES, r_max=1e9, d_max=1e9, momentum=0.0)
    norm.running_mean.copy_(random((4,), 1)), norm.running_var.copy_(random((4,), 2).abs())
    x = random(IMAGES)
    assert_close(norm.train()(x), norm.eval()(x))


def test_renorm_by_its_definition():
    norm = build("batch_renorm", FEATURES, r_max=1.5, d_max=0.5, momentum=0.25)
    norm.running_mean.fill_(2.0), norm.running_var.fill_(4.0)
    x = random(FEATURES)
    y = norm(x)
    for channel, values in enumerate(x.T):
        mean, deviation = values.mean(), (values.var(correction=0) + 1e-5).sqrt()
        root = math.sqrt(4.0 + 1e-5)
        r = min(max(deviation.item() / root, 1 / 1.5), 1.5)
        d = min(max((mean.item() - 2) / root, -0.5), 0.5)
        assert_close(y[:, channel], (values - mean) / deviation * r + d)
        assert norm.running_mean[channel].item() == pytest.approx(0.75 * 2 + 0.25 * mean.item())
        assert norm.running_var[channel].item() == pytest.approx(0.75 * 4 + 0.25 * values.var().item())


def test_groups_are_layer_norm_at_one_end_and_instance_norm_at_the_other():
    x = random(IMAGES)
    layer = functional.layer_norm(x, x.shape[1:])
    assert_close(build("layer", IMAGES)(x), layer)
    assert_close(build("group", IMAGES, groups=1)(x), layer)
    instance = functional.instance_norm(x)
    assert_close(build("instance", IMAGES)(x), instance)
    assert_close(build("group", IMAGES, groups=4)(x), instance)
    assert_close(build("group", IMAGES, groups=3)(x), build("group", IMAGES, groups=2)(x))  # 3 does not divide 4
    assert_close(build("layer", FEATURES)(random(FEATURES)), functional.layer_norm(random(FEATURES), (4,)))
    assert isinstance(build("instance", FEATURES), nn.Identity)


@pytest.mark.parametrize("name", ["group", "layer", "instance"])
def test_norms_of_single_examples_take_a_batch_of_one_and_know_no_modes(name):
    norm, x = build(name, IMAGES), random(IMAGES)
    assert_close(torch.cat([norm(example[None]) for example in x]), norm.eval()(x))


@few
@given(seed=st.integers(0, 10**6), mixing=st.floats(0, 1))
def test_whitened_covariance_is_the_identity_but_for_eps(seed, mixing):
    x = random((40, 4), seed)
    x = x + 10 * mixing * x.roll(1, 1)
    y = build("whitening", x.shape, eps=1e-3)(x).detach()
    values, vectors = torch.linalg.eigh(x.T.cov(correction=0))
    assert_close(y.mean(0), torch.zeros(4, dtype=torch.float64))
    assert_close(y.T.cov(correction=0), (vectors * (values / (values + 1e-3))) @ vectors.T)
    tight = build("whitening", x.shape, eps=1e-12)(x).detach()
    assert_close(tight.T.cov(correction=0), torch.eye(4, dtype=torch.float64), 1e-8)


def test_whitening_of_uncorrelated_channels_is_batch_norm():
    x = torch.tensor([[1.0, 3.0], [1.0, -3.0], [-1.0, 3.0], [-1.0, -3.0]], dtype=torch.float64)
    assert_close(build("whitening", x.shape, eps=1e-5)(x), build("batch", x.shape)(x))


def test_whitening_with_equal_eigenvalues_has_a_finite_gradient():
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    norm = build("whitening", corners.shape)
    assert torch.autograd.gradcheck(norm, corners.requires_grad_())


def test_whitening_evaluates_with_running_statistics():
    norm, x = build("whitening", IMAGES, momentum=1.0), random(IMAGES)
    norm(x)
    count = channels(x).shape[1]
    assert_close(norm.running_mean, channels(x).mean(1))
    assert_close(norm.running_cov, channels(x).cov())
    y = channels(norm.eval()(random(IMAGES)))
    root = norm.running_cov + 1e-3 * torch.eye(4)
    assert_close(y.cov(correction=0), torch.linalg.inv(root) @ channels(x).cov() * (count - 1) / count)


def test_whitening_of_fewer_values_than_channels_is_finite():
    x = random((3, 8)).requires_grad_()
    y = build("whitening", (3, 8))(x)
    (gradient,) = torch.autograd.grad(y.square().sum() + y[0, 0], x)
    assert y.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("power", [1, 3])
def test_ranks_are_uniform_whatever_the_distribution(power):
    x = random((4000, 2)) ** power
    y = build("probability_integral", x.shape)(x)
    uniform = (y / math.sqrt(12) + 0.5).sort(0).values
    places = torch.linspace(0, 1, len(x), dtype=torch.float64)[:, None].expand(-1, 2)
    assert (uniform - places).abs().max() < 1 / 32  # within a bin
    assert (uniform[:: (len(x) - 1) // 1000] - places[:: (len(x) - 1) // 1000]).abs().mean() < 0.003
    assert y.mean(0).abs().max() < 0.01 and (y.var(0) - 1).abs().max() < 0.02


@few
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 100), shift=st.floats(-100, 100))
def test_ranks_keep_the_order_and_know_nothing_of_scale_and_shift(seed, scale, shift):
    x = random((50, 1), seed)
    plain = build("probability_integral", x.shape, eps=1e-12)(x)
    moved = build("probability_integral", x.shape, eps=1e-12)(scale * x + shift)
    assert_close(moved, plain, 1e-6)
    assert (plain[x[:, 0].argsort(), 0].diff() >= 0).all()


def test_with_a_bin_for_each_gap_ranks_are_the_empirical_distribution():
    x = random((9, 3))
    y = build("probability_integral", x.shape, bins=8, eps=1e-12)(x)
    ranks = x.argsort(0).argsort(0).double() / 8
    assert_close(y / math.sqrt(12) + 0.5, ranks, 1e-8)


def test_ranks_evaluate_with_running_quantiles_and_stay_within_them():
    norm, x = build("probability_integral", IMAGES, momentum=1.0), random(IMAGES)
    trained = norm(x)
    assert_close(norm.eval()(x), trained)
    assert norm(x + 1e6).max().item() == pytest.approx(math.sqrt(3))
    assert norm(x - 1e6).min().item() == pytest.approx(-math.sqrt(3))
    constant = build("probability_integral", FEATURES)(torch.ones(FEATURES, dtype=torch.float64).requires_grad_())
    assert constant.isfinite().all()


def test_of_many_values_quantiles_are_nearly_those_of_all():
    x = random((64, 2, 24, 24))
    norm = build("probability_integral", x.shape, momentum=1.0)
    norm(x)
    exact = torch.quantile(channels(x), torch.linspace(0, 1, 33, dtype=torch.float64), dim=1).T
    assert (norm.running_quantiles - exact)[:, 1:-1].abs().max() < 0.2  # of a standard deviation of 3


@pytest.mark.parametrize("shape", [IMAGES, FEATURES])
def test_a_ghost_batch_of_the_whole_is_batch_norm_and_smaller_ones_are_batch_norms(shape):
    x = random(shape)
    whole, plain = build("ghost_batch", shape, size=shape[0]), build("batch", shape)
    assert_close(whole(x), plain(x))
    assert_close(whole.eval()(x), plain.eval()(x))
    ghosts, plain = build("ghost_batch", shape, size=2 if shape == IMAGES else 3), build("batch", shape)
    parts = torch.cat([plain(part) for part in x.split(ghosts.size)])
    assert_close(ghosts(x), parts)
    assert_close(ghosts.running_mean, plain.running_mean)
    assert_close(ghosts.running_var, plain.running_var)


def test_batch_norm_without_affine_has_nothing_to_learn():
    frozen, learning = build("batch", IMAGES, affine=False), build("batch", IMAGES)
    assert not list(frozen.parameters())
    assert_close(frozen(random(IMAGES)), learning(random(IMAGES)))


def test_dropout_drops_the_share_and_keeps_the_mean():
    norm, x = build("dropout", (1000, 100), p=0.3), torch.ones(1000, 100, dtype=torch.float64)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        y = norm(x)
    assert (y == 0).double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / 0.7))
    assert torch.equal(norm.eval()(x), x)


@pytest.mark.parametrize("name", ["batch_renorm", "whitening", "probability_integral", "ghost_batch"])
def test_one_value_a_channel_is_refused_in_training(name):
    with pytest.raises(ValueError, match=r"more than (one|1) value per channel"):
        build(name, (1, 3))(torch.zeros(1, 3, dtype=torch.float64))


@pytest.mark.parametrize(("name", "option", "value"), [
    ("batch_renorm", "r_max", 0.5), ("batch_renorm", "d_max", -1.0), ("batch_renorm", "eps", 0.0),
    ("group", "groups", 0), ("layer", "eps", 0.0), ("instance", "eps", -1.0), ("dropout", "p", 1.0),
    ("ghost_batch", "size", 1), ("whitening", "momentum", 2.0), ("probability_integral", "bins", 0),
])  # fmt: skip
def test_values_that_make_no_norm_are_named(name, option, value):
    with pytest.raises(ValueError, match=rf"norm\.{option} = {value}: "):
        build(name, IMAGES, **{option: value})


@pytest.mark.parametrize("name", ["batch_renorm", "batch_scratch", "ghost_batch", "noisy_batch", "variance_only"])
@pytest.mark.parametrize("kind", ["far from 0", "one far from the others"])
def test_a_variance_is_no_further_from_float64s_than_torchs(name, kind):
    """That of variance_only was off by 3e-4 of it: the mean is rounded, and its error's square was counted."""
    x = torch.randn(64, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    if kind == "far from 0":
        x = 1e3 + 0.01 * x
    else:
        x = 1 + 1e-3 * x
        x[0, :, 0, 0] = 100.0
    found = []
    with torch.random.fork_rng([]):
        for each in (name, "batch"):
            norm = norms.Factory(each, {"momentum": 1.0, **({"size": 64} if each == "ghost_batch" else {})})(16, 2, "")
            norm.train()(x)
            (value,) = (v for key, v in norm.named_buffers() if key.endswith("running_var"))
            found.append(value.double())
    exact = channels(x.double()).var(1)
    off, torchs = ((value / exact - 1).abs().max() for value in found)
    assert off <= max(1e-5, 2 * torchs)
