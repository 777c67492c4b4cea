"""Make images that take the place of a data set that is not available: class structure under natural-image noise.

An image is 1/f noise (the amplitude spectrum of natural images; Field 1987) plus one of a few patterns of its class,
itself 1/f noise, moved by a few pixels, sometimes mirrored, and of varying strength: a label is about local and global
structure, survives crops and mirroring, and cannot always be told. Measured on one core: made in 5 s in CIFAR-10's size
and 2 s in Fashion-MNIST's; test accuracy after three epochs 85 % and 55 % for logistic regression, 88 % and 73 % for a
LeNet with batch normalisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SEED = 20180602
NUM_PATTERNS = 3  # a class
MAX_SHIFT = 2  # pixels, each way
STRENGTH = (0.4, 1.2)  # of the pattern, as a share of the noise's standard deviation
MEAN, STD = 0.47, 0.25  # of the pixels in [0, 1], about as in CIFAR-10
_CHUNK = 250
_LUMINANCE = 0.9  # share of a colour channel's amplitude that all channels have in common

Array = np.ndarray[Any, Any]


def images(
    shape: tuple[int, int, int], num_classes: int, num_train: int, num_test: int, seed: int = SEED
) -> dict[str, Array]:
    """{train,test}_{images,labels}: uint8 (N, H, W, C) of `shape` (C, H, W), int64 (N,), classes equally frequent."""
    draw = np.random.default_rng(seed)
    patterns = _noise(draw, num_classes * NUM_PATTERNS, shape)
    arrays = {}
    for split, count in (("train", num_train), ("test", num_test)):
        labels = draw.permutation(np.arange(count, dtype=np.int64) % num_classes)
        chunks = [_images(draw, labels[i : i + _CHUNK], patterns) for i in range(0, count, _CHUNK)]
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = np.concatenate(chunks), labels
    return arrays


def _images(draw: np.random.Generator, labels: Array, patterns_NCHW: Array) -> Array:
    num, shape = len(labels), patterns_NCHW.shape[1:]
    which = labels * NUM_PATTERNS + draw.integers(NUM_PATTERNS, size=num)
    shift = draw.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=(2, num, 1))
    rows, columns = ((np.arange(size) + s) % size for size, s in zip(shape[1:], shift, strict=True))
    patterns_NHWC = patterns_NCHW.transpose(0, 2, 3, 1)
    moved_NHWC = patterns_NHWC[which[:, None, None], rows[:, :, None], columns[:, None, :]]
    strength = draw.uniform(*STRENGTH, size=(num, 1, 1, 1)).astype(np.float32)
    images_NHWC = _noise(draw, num, shape).transpose(0, 2, 3, 1) + strength * moved_NHWC
    mirrored = draw.random(num) < 0.5
    images_NHWC[mirrored] = images_NHWC[mirrored, :, ::-1]
    images_NHWC *= 255 * STD / np.sqrt(1 + np.mean(np.square(STRENGTH)))
    images_NHWC += 255 * MEAN
    return np.clip(images_NHWC, 0, 255, out=images_NHWC).astype(np.uint8)


def _noise(draw: np.random.Generator, num: int, shape: tuple[int, ...]) -> Array:
    """float32 (num, C, H, W) with amplitude 1/f, mean 0 and expected variance 1; channels share most of it."""
    channels, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf  # brightness alone says nothing
    amplitude = 1 / frequency
    # numpy's real transforms hold half of the spectrum: every column but these stands for its mirror image too.
    single = [0, width // 2] if width % 2 == 0 else [0]
    power = 2 * np.square(amplitude).sum() - np.square(amplitude[:, single]).sum()
    amplitude *= height * width / np.sqrt(power)
    amplitude[:, single] *= np.sqrt(2)  # only the part of a draw that mirrors itself counts there: half of its power
    mixing = _mixing(channels)
    spectrum = draw.random((num, mixing.shape[1], height, width // 2 + 1, 2), dtype=np.float32)
    spectrum -= np.float32(0.5)
    # A uniform draw has variance 1/12; the real and the imaginary part carry half of the power each.
    spectrum *= (amplitude * np.sqrt(12 / 2)).astype(np.float32)[..., None]
    planes = np.fft.irfft2(spectrum.view(np.complex64)[..., 0], s=(height, width))
    return (mixing @ planes.reshape(num, mixing.shape[1], -1)).reshape(num, *shape)


def _mixing(channels: int) -> Array:
    """(C, planes) of unit rows: what all channels have in common, and two planes of colour around it."""
    if channels == 1:
        return np.ones((1, 1), np.float32)
    hue = 2 * np.pi * np.arange(channels) / channels
    colour = np.sqrt(1 - _LUMINANCE**2)
    return np.stack([np.full(channels, _LUMINANCE), colour * np.cos(hue), colour * np.sin(hue)], 1).astype(np.float32)
