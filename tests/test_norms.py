"""Norms: our own against torch's, their mathematics, and where in a network they are put."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnstudy import models, norms
from bnstudy.config import plugins

BATCH_NORMS = ("batch", "batch_scratch")
SHAPES = [(8, 5, 6, 7), (2, 3, 4, 4), (2, 4, 1, 1), (9, 5)]
ULP = 1e-12


def build(name, num_features, ndim=2, **options):
    return norms.Factory(name, options)(num_features, ndim, "site")


def pair(shape, **options):
    """Our norm and torch's in float64, with the same scales, shifts and running statistics, none at its start."""
    draw = torch.Generator().manual_seed(len(shape))
    ndim = len(shape) - 2
    ours, torchs = (build(name, shape[1], ndim, **options).double() for name in ("batch_scratch", "batch"))
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = torch.rand(shape[1], generator=draw, dtype=torch.float64) + 0.5
            getattr(ours, name).copy_(value)
            getattr(torchs, name).copy_(value)
    return ours, torchs


def random(shape, seed=0):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2


def assert_close(ours, theirs, tolerance=ULP):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def over_all_but_channel(x):
    return x.transpose(0, 1).flatten(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [{}, {"eps": 1e-3, "momentum": 0.9}, {"momentum": 0.0}, {"momentum": 1.0}])
def test_scratch_equals_torch_in_outputs_gradients_and_statistics(shape, options):
    ours, torchs = pair(shape, **options)
    for step in range(3):
        for mode in (True, False):
            results = []
            for norm in (ours.train(mode), torchs.train(mode)):
                x = random(shape, step).requires_grad_()
                y = norm(x)
                loss = (y * random(shape, step + 100)).sum() + y.pow(3).mean()
                gradients = torch.autograd.grad(loss, [x, norm.weight, norm.bias])
                results.append((y, *gradients, norm.running_mean.clone(), norm.running_var.clone()))
            for mine, theirs in zip(*results, strict=True):
                assert_close(mine, theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_scratch_gradient_equals_finite_differences(shape):
    ours, _ = pair(shape)
    small = shape if len(shape) == 2 else (*shape[:2], *(min(side, 2) for side in shape[2:]))
    assert torch.autograd.gradcheck(ours, random(small).requires_grad_())


@pytest.mark.parametrize("shape", SHAPES)
def test_running_statistics_follow_their_definition(shape):
    unbiased, _ = pair(shape, momentum=0.3)
    biased = build("batch_scratch", shape[1], momentum=0.3, biased_running_variance=True).double()
    biased.load_state_dict(unbiased.state_dict())
    mean, variance = unbiased.running_mean.clone(), unbiased.running_var.clone()
    x = random(shape)
    unbiased(x), biased(x)
    for channel in range(shape[1]):
        values = over_all_but_channel(x)[channel].tolist()
        average = sum(values) / len(values)
        squares = sum((value - average) ** 2 for value in values)
        for norm, count in ((unbiased, len(values) - 1), (biased, len(values))):
            assert norm.running_mean[channel].item() == pytest.approx(0.7 * mean[channel].item() + 0.3 * average)
            assert norm.running_var[channel].item() == pytest.approx(
                0.7 * variance[channel].item() + 0.3 * squares / count
            )


def test_biased_running_variance_changes_the_running_variance_alone():
    plain, biased = (build("batch_scratch", 3, biased_running_variance=flag).double() for flag in (False, True))
    x = random((2, 3, 2, 2))
    assert torch.equal(plain(x), biased(x))
    assert torch.equal(plain.running_mean, biased.running_mean)
    change = [norm.running_var - 0.9 for norm in (plain, biased)]  # the start, 1, has kept a weight of 0.9
    assert_close(change[1], change[0] * 7 / 8)


def test_parameters_and_buffers_have_torchs_names():
    ours, torchs = build("batch_scratch", 3), build("batch", 3)
    assert dict(ours.named_parameters()).keys() == dict(torchs.named_parameters()).keys() == {"weight", "bias"}
    assert dict(ours.named_buffers()).keys() == {"running_mean", "running_var"}
    assert dict(torchs.named_buffers()).keys() - {"num_batches_tracked"} == {"running_mean", "running_var"}
    for norm in (ours, torchs):
        assert torch.equal(norm.weight, torch.ones(3)) and torch.equal(norm.bias, torch.zeros(3))
        assert torch.equal(norm.running_mean, torch.zeros(3)) and torch.equal(norm.running_var, torch.ones(3))


images = st.builds(
    lambda n, c, h, w, seed: random((n, c, h, w), seed),
    st.integers(2, 6), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6),
)  # fmt: skip
few = settings(max_examples=30, deadline=None)


@pytest.mark.parametrize("name", BATCH_NORMS)
@few
@given(x=images)
def test_output_has_mean_zero_and_the_variance_that_eps_leaves(name, x):
    y = over_all_but_channel(build(name, x.shape[1], eps=1e-5).double()(x))
    variance = over_all_but_channel(x).var(1, unbiased=False)
    assert_close(y.mean(1), torch.zeros(x.shape[1], dtype=torch.float64), 1e-10)
    assert_close(y.var(1, unbiased=False), variance / (variance + 1e-5), 1e-10)


@pytest.mark.parametrize("name", BATCH_NORMS)
@few
@given(x=images, scale=st.floats(0.01, 1e3), shift=st.floats(-1e2, 1e2))
def test_scale_and_shift_of_the_input_change_nothing(name, x, scale, shift):
    # With eps scaled along the invariance is exact: (cx - c mean) / sqrt(c^2 var + c^2 eps).
    y = build(name, x.shape[1], eps=1e-5).double()(x)
    moved = build(name, x.shape[1], eps=1e-5 * scale**2).double()(scale * x + shift)
    negated = build(name, x.shape[1], eps=1e-5).double()(-x)
    assert_close(moved, y, 1e-6)
    assert_close(negated, -y, 1e-10)


@pytest.mark.parametrize("name", BATCH_NORMS)
@few
@given(x=images)
def test_input_gradient_is_orthogonal_to_shift_and_nearly_to_scale(name, x):
    """A channel's gradient sums to zero; along the centred input it is what eps leaves of the one for gamma."""
    x = x.clone().requires_grad_()
    norm = build(name, x.shape[1], eps=1e-5).double()
    weights = random(x.shape, 1)
    loss = (norm(x) * weights).sum()
    grad_x, grad_gamma = torch.autograd.grad(loss, [x, norm.weight])
    flat, grad = over_all_but_channel(x.detach()), over_all_but_channel(grad_x)
    centred, variance = flat - flat.mean(1, keepdim=True), flat.var(1, unbiased=False)
    size = 1 + grad.abs().sum(1)
    assert (grad.sum(1).abs() / size).max() < 1e-10
    # d/dc L(mean + c (x - mean)) at c = 1 equals dL/dgamma * eps / (var + eps), as y scales by c / sqrt(c^2 var + eps).
    expected = grad_gamma * 1e-5 / (variance + 1e-5)
    assert (((grad * centred).sum(1) - expected).abs() / (1 + grad_gamma.abs())).max() < 1e-8


@pytest.mark.parametrize("name", BATCH_NORMS)
@few
@given(x=images, seed=st.integers(0, 1000))
def test_order_of_examples_does_not_matter(name, x, seed):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    norm = build(name, x.shape[1]).double()
    assert_close(norm(x[order]), norm(x)[order], 1e-10)


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_evaluation_treats_each_example_by_itself_and_keeps_the_statistics(name):
    norm = build(name, 3).double()
    norm(random((8, 3, 4, 4)))
    before = copy.deepcopy(norm.state_dict())
    norm.eval()
    x = random((4, 3, 2, 2), 1)
    assert_close(norm(x), torch.cat([norm(example[None]) for example in x]))
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())


@pytest.mark.parametrize("name", sorted(plugins.names("norms")))
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_of_the_input_is_kept(name, training, layout):
    norm = build(name, 3).train(training)
    before = copy.deepcopy(norm)
    x = random((4, 3, 5, 6)).float().contiguous(memory_format=layout)
    with torch.random.fork_rng([]):  # a norm may draw
        y = norm(x)
    assert y.is_contiguous(memory_format=layout)
    if name == "dropout" and training:
        return  # it draws in the order in which the values lie
    with torch.random.fork_rng([]):
        torch.testing.assert_close(y, before(x.contiguous()))


@pytest.mark.parametrize("name", sorted(plugins.names("norms")))
def test_the_input_is_left_as_it_was(name):
    x = random((4, 3, 5, 6)).float()
    before = x.clone()
    build(name, 3)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", [n for n in plugins.names("norms") if plugins.flag("norms", n, "STACKABLE")])
def test_stackable_norms_treat_every_channel_by_itself(name):
    x = random((4, 6, 3, 3))
    wide, left, right = build(name, 6).double(), build(name, 2).double(), build(name, 4).double()
    assert_close(wide(x), torch.cat([left(x[:, :2]), right(x[:, 2:])], 1))


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_one_value_a_channel_is_refused_in_training(name):
    with pytest.raises(ValueError, match=r"more than (one|1) value per channel"):
        build(name, 3, 0)(torch.zeros(1, 3))


@pytest.mark.parametrize("name", BATCH_NORMS)
@pytest.mark.parametrize("options", [
    {"eps": 0.0}, {"eps": -1e-5}, {"eps": float("nan")}, {"eps": float("inf")},
    {"momentum": -0.1}, {"momentum": 1.1}, {"momentum": float("nan")},
])  # fmt: skip
def test_values_that_make_no_norm_are_named(name, options):
    ((key, value),) = options.items()
    with pytest.raises(ValueError, match=rf"norm\.{key} = {value}: .* usual"):
        build(name, 3, **options)


def test_unknown_norm_is_named():
    with pytest.raises(ValueError, match=r"'nonesuch'; there are batch, .*batch_scratch, .*none"):
        norms.Factory("nonesuch", {})


def sites(where, model="resnet", **options):
    """Paths of the norm modules in a network."""
    options = {"depth": 8} if model == "resnet" else options
    network = models.build(model, options, norms.Factory("batch", {}, where), "xavier_uniform", (3, 32, 32), 10, 0)
    return {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)}


def test_where_picks_sites_by_their_path():
    everywhere = sites("*")
    assert "stage2.0.shortcut.1" in everywhere and "norm" in everywhere and len(everywhere) == 9
    assert sites("stage1.*") == {"stage1.0.norm1", "stage1.0.norm2"}
    assert sites("norm, *.norm2") == {"norm", "stage1.0.norm2", "stage2.0.norm2", "stage3.0.norm2"}
    assert sites("stage?.0.norm1,stage1.*") == {f"stage{s}.0.norm1" for s in (1, 2, 3)} | {"stage1.0.norm2"}
    assert sites("norm1,norm2", "lenet") == {"norm1", "norm2"}
    assert sites("hidden.1.norm", "mlp", hidden="8-8") == {"hidden.1.norm"}
    assert sites("none") == set()


def test_places_without_a_norm_of_their_own_take_one_only_where_they_are_named_in_full():
    extra = {"before_pooling", "after_classifier"}
    assert not extra & sites("*")
    assert [sites(site) for site in sorted(extra)] == [{site} for site in sorted(extra)]
    assert sites("*,after_classifier") == sites("*") | {"after_classifier"}
    with pytest.raises(ValueError, match=r"'before_\*' matches none of norm, .*before_pooling, after_classifier"):
        sites("before_*")


@pytest.mark.parametrize("where", ["stage4.*", "*,nowhere", "norm,", "", "NORM"])
def test_pattern_that_matches_no_site_is_named_with_the_sites_there_are(where):
    culprit = {"*,nowhere": "nowhere", "norm,": ""}.get(where, where)
    with pytest.raises(ValueError, match=r"norm\.where = .*matches none of norm, stage1\.0\.norm1") as error:
        sites(where)
    assert f"{culprit!r} matches none" in str(error.value)


def test_factory_serves_several_networks():
    norm = norms.Factory("batch", {}, "stage1.*")
    models.build("resnet", {"depth": 8}, norm, "xavier_uniform", (3, 32, 32), 10, 0)
    with pytest.raises(ValueError, match="matches none of norm1, norm2, norm3, norm4"):
        models.build("lenet", {}, norm, "xavier_uniform", (3, 32, 32), 10, 0)
