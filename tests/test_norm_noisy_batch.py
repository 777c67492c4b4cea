"""Noise after batch normalization: its moments, that it moves from pass to pass, and that evaluation has none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnstudy import norms


def build(ndim=2, **options):
    return norms.Factory("noisy_batch", options)(6, ndim, "site")


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield


def test_without_channel_noise_what_is_left_is_that_of_the_examples():
    """mean=0, std=1: E y = 0 and, with s ~ N(1, 0.1) and m ~ U(-0.1, 0.1), Var y = (1 + 0.01) + 0.1^2 / 3."""
    y = build(0, mean=0.0, std=1.0).double()(torch.randn(200_000, 6, dtype=torch.float64))
    assert y.mean(0).abs().max() < 0.01
    torch.testing.assert_close(y.var(0), torch.full((6,), 1.01 + 0.01 / 3, dtype=torch.float64), rtol=0.02, atol=0)


def test_every_pass_moves_the_distribution_within_its_bounds():
    x = torch.randn(4000, 6)
    norm = build(0, mean=0.5, std=1.25)
    passes = torch.stack([torch.stack([y.mean(0), y.std(0)]) for y in (norm(x) for _ in range(50))])
    means, stds = passes[:, 0], passes[:, 1]
    assert means.abs().max() < 0.55 and stds.min() > 0.95 and stds.max() < 1.3
    # uniform on [-0.5, 0.5] and on [1, 1.25]: standard deviations width / sqrt(12)
    assert means.std().item() == pytest.approx(1 / 12**0.5, rel=0.15)
    assert stds.std().item() == pytest.approx(0.25 / 12**0.5, rel=0.25)


def test_one_example_has_one_noise_in_space():
    x = torch.randn(8, 6, 5, 5)
    normed = nn.BatchNorm2d(6)(x)
    y = build()(x)
    # y = s x + m with s and m the same at every pixel: differences between pixels are in one ratio
    ratio = (y - y[..., :1, :1])[..., 1:, 1:] / (normed - normed[..., :1, :1])[..., 1:, 1:]
    torch.testing.assert_close(ratio, ratio[..., :1, :1].expand_as(ratio), rtol=1e-2, atol=1e-3)


def test_evaluation_is_batch_normalizations():
    norm, plain = build(), nn.BatchNorm2d(6)
    for _ in range(3):
        x = torch.randn(16, 6, 4, 4)
        norm(x), plain(x)
    torch.testing.assert_close(norm.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("options", [{"mean": -0.1}, {"mean": float("inf")}, {"std": 0.9}, {"std": float("nan")}])
def test_values_that_make_no_noise_are_named(options):
    ((key, value),) = options.items()
    with pytest.raises(ValueError, match=rf"norm\.{key} = {value}"):
        build(**options)
