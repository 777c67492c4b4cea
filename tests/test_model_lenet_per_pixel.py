"""LeNet with statistics of each pixel: its norm by its formula, and everything else as in LeNet."""

from __future__ import annotations

import contextlib

import pytest
import torch
from small_runs import config, make, names, pending, quadrants, torch_as_it_was, written
from torch import nn

from bnstudy import models, norms
from bnstudy.models.lenet_per_pixel import PerPixel
from bnstudy.norms._statistics import frozen, reestimated
from bnstudy.training import signals
from bnstudy.training.engine.stacked import stack, unstack

SHAPE = (6, 4, 3, 2)


def random(shape=SHAPE, seed=0):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2


def per_pixel(**options):
    return PerPixel(nn.BatchNorm2d(SHAPE[1], **options), SHAPE[1] * SHAPE[2] * SHAPE[3]).double()


def network(name="lenet_per_pixel", norm="batch", seed=0, where="*", shape=(1, 28, 28), **options):
    return models.build(name, options, norms.Factory(norm, {}, where), "xavier_uniform", shape, 10, seed)


def images(num, seed=0):
    return torch.rand(num, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def assert_close(ours, theirs, tolerance=1e-10):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_every_pixel_by_its_formula():
    norm, x = per_pixel(momentum=0.25), random()
    with torch.no_grad():
        norm.weight.copy_(random((4,), 1)), norm.bias.copy_(random((4,), 2))
    y = norm(x)
    evaluated = norm.eval()(x)
    for pixel in range(24):
        channel, values = pixel // 6, x.flatten(1)[:, pixel]
        gamma, beta = norm.weight[channel], norm.bias[channel]
        mean, variance = values.mean(), values.var(correction=0)
        assert_close(y.flatten(1)[:, pixel], gamma * (values - mean) / (variance + 1e-5).sqrt() + beta)
        mean, variance = 0.25 * mean, 0.75 + 0.25 * values.var()
        assert_close(evaluated.flatten(1)[:, pixel], gamma * (values - mean) / (variance + 1e-5).sqrt() + beta)


def test_gradients_equal_finite_differences():
    norm = per_pixel()
    weight, bias = random((4,), 1).requires_grad_(), random((4,), 2).requires_grad_()

    def call(x, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (random().requires_grad_(), weight, bias))


def test_of_maps_of_one_pixel_it_is_batch_norm():
    plain = nn.BatchNorm2d(4).double()
    assert_close(PerPixel(nn.BatchNorm2d(4), 4).double()(random((6, 4, 1, 1))), plain(random((6, 4, 1, 1))))


def test_it_differs_from_lenet_in_the_statistics_alone():
    ours, plain = network(), network("lenet")
    theirs = dict(plain.named_parameters())
    assert {name: value.shape for name, value in ours.named_parameters()} == {n: v.shape for n, v in theirs.items()}
    assert all(torch.equal(value, theirs[name]) for name, value in ours.named_parameters())
    assert [type(ours.get_submodule(f"norm{i}")) for i in (1, 2, 3, 4)] == [PerPixel] * 2 + [nn.BatchNorm1d] * 2
    assert [ours.get_submodule(f"norm{i}.pixels").num_features for i in (1, 2)] == [6 * 24 * 24, 16 * 8 * 8]
    dense, same = network(where="norm3,norm4"), network("lenet", where="norm3,norm4")
    assert torch.equal(dense(images(5)), same(images(5)))


def test_padding_makes_the_maps_larger():
    assert network(padding=2, pooling="average").get_submodule("norm1.pixels").num_features == 6 * 28 * 28


@pytest.mark.parametrize("norm", ["group", "dropout", "batch_scratch"])
def test_another_norm_is_refused(norm):
    with pytest.raises(ValueError, match="give batch"):
        network(norm=norm)


def test_frozen_gamma_and_beta_stay_away():
    made = models.build(
        "lenet_per_pixel", {}, norms.Factory("batch", {"affine": False}), "xavier_uniform", (1, 28, 28), 10, 0
    )
    assert not [name for name, _ in made.named_parameters() if name.startswith("norm")]
    assert made(images(4)).isfinite().all()


def test_statistics_over_many_images_and_of_one_pass():
    net, some = network().double(), images(40).double()
    assert_close(frozen(net, some)(some), net.train()(some), 1e-6)
    again = reestimated(net, [(some[:20], torch.zeros(20)), (some[20:], torch.zeros(20))])
    found, maps = again.get_submodule("norm1.pixels"), net.get_submodule("conv1")(some).flatten(1)
    assert_close(found.running_mean, maps.mean(0))
    assert_close(found.running_var, maps.var(0))


def test_stacked_networks_compute_what_each_computes():
    alone = [network(seed=seed).train() for seed in range(2)]
    wide = stack(alone)
    for step in range(2):
        logits = wide(images(8, step)).chunk(2, 1)
        for run, each in enumerate(alone):
            torch.testing.assert_close(logits[run], each(images(8, step)), rtol=1e-4, atol=1e-4)
    for run, each in enumerate(alone):
        for key, value in each.state_dict().items():
            torch.testing.assert_close(unstack(wide.state_dict()[key], run, 2), value, rtol=1e-4, atol=1e-4)


def test_a_resumed_run_ends_in_the_bits_of_one_that_went_through(tmp_path):
    root = quadrants(tmp_path / "data")
    with torch_as_it_was():
        configs = [config(root, model={"name": "lenet_per_pixel", "padding": 4}, train__steps=5)]
        make(configs, tmp_path / "whole")
        for _ in range(10):
            stop = signals.Stop()

            def ask(done, total, stop=stop):
                stop.requested = True  # at every step

            with contextlib.suppress(signals.Interrupted):
                make(configs, tmp_path / "cut", report=ask, stop=stop)
        assert not pending(configs, tmp_path / "cut")
    run_ids = names(configs)
    assert written(tmp_path / "cut", run_ids) == written(tmp_path / "whole", run_ids)
