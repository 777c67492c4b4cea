"""Synthetic images: repeatable, natural-image spectrum, learnable and not trivial."""

from __future__ import annotations

import numpy as np
import pytest

from bnstudy.data import synthetic

SHAPES = [(3, 32, 32), (1, 28, 28)]


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_counts_and_classes(shape: tuple[int, int, int]) -> None:
    arrays = synthetic.images(shape, 10, 510, 300)
    assert arrays["train_images"].shape == (510, *shape[1:], shape[0]) and arrays["train_images"].dtype == np.uint8
    assert arrays["test_images"].shape == (300, *shape[1:], shape[0]) and arrays["test_labels"].dtype == np.int64
    assert np.bincount(arrays["train_labels"]).tolist() == [51] * 10
    assert (np.diff(arrays["train_labels"]) != 0).mean() > 0.8  # in no order


def test_it_is_a_function_of_the_seed() -> None:
    first, again, other = (synthetic.images((3, 32, 32), 10, 300, 20, seed=seed) for seed in (1, 1, 2))
    for part, array in first.items():
        np.testing.assert_array_equal(array, again[part])
    assert (first["train_images"] != other["train_images"]).mean() > 0.9


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_has_unit_variance_and_amplitude_1_over_f(shape: tuple[int, int, int]) -> None:
    noise_NCHW = synthetic._noise(np.random.default_rng(0), 2000, shape)
    assert noise_NCHW.dtype == np.float32
    assert noise_NCHW.var() == pytest.approx(1, rel=0.03)
    power = (np.abs(np.fft.fft2(noise_NCHW)) ** 2).mean((0, 1))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(shape[1]), np.fft.fftfreq(shape[2]), indexing="ij"))
    flat = (power * frequency**2)[frequency > 0]
    np.testing.assert_allclose(flat, flat.mean(), rtol=0.15)
    assert power[0, 0] < 1e-3 * flat.mean()


def test_channels_share_most_of_their_variance() -> None:
    red, green, blue = (
        synthetic._noise(np.random.default_rng(0), 2000, (3, 32, 32)).transpose(1, 0, 2, 3).reshape(3, -1)
    )
    for one, other in ((red, green), (green, blue), (blue, red)):
        assert 0.6 < np.corrcoef(one, other)[0, 1] < 0.9


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_are_spread_as_in_photographs(shape: tuple[int, int, int]) -> None:
    images = synthetic.images(shape, 10, 1000, 10)["train_images"] / 255
    assert images.mean() == pytest.approx(synthetic.MEAN, abs=0.01)
    assert images.std() == pytest.approx(synthetic.STD, abs=0.03)  # less what is clipped
    assert ((images == 0) | (images == 1)).mean() < 0.06


@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_model_learns_and_does_not_suffice(shape: tuple[int, int, int]) -> None:
    arrays = synthetic.images(shape, 10, 4000, 1000)
    train, test = (arrays[f"{s}_images"].reshape(-1, np.prod(shape)) / 255 - synthetic.MEAN for s in ("train", "test"))
    target = np.eye(10)[arrays["train_labels"]]
    weights = np.linalg.solve(train.T @ train + 30 * np.eye(train.shape[1]), train.T @ target)
    accuracy = ((test @ weights).argmax(1) == arrays["test_labels"]).mean()
    assert 0.3 < accuracy < 0.9
