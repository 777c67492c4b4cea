"""Images made from a seed in place of a data set that cannot be had: same shape and counts, class structure, 1/f spectrum.

Each class has prototypes, smooth patterns with the 1/f amplitude spectrum of natural images; an image is a prototype of
its class, shifted and mixed with noise of the same spectrum, so that pixels alone decide little and shapes decide.
"""

from __future__ import annotations

import numpy as np

SEED = 20180606
NUM_CLASSES, PROTOTYPES = 10, 8
SIGNAL = 0.55  # share of the standard deviation that the prototype has in an image
MAX_SHIFT = 3  # pixels, each way
SHAPES = {"cifar10": (32, 3, 50_000, 10_000), "fashion_mnist": (28, 1, 60_000, 10_000)}
CHUNK = 5_000


def make(name: str) -> dict[str, np.ndarray]:
    """The four arrays of `sources.ARRAYS` for a data set's shape and counts; the same bytes each time."""
    side, channels, num_train, num_test = SHAPES[name]
    rng = np.random.default_rng([SEED, side, channels])
    prototypes = _pink(rng, NUM_CLASSES * PROTOTYPES, side, channels)
    found = {}
    for split, count in (("train", num_train), ("test", num_test)):
        labels = rng.permutation(np.arange(count) % NUM_CLASSES).astype(np.int64)
        parts = [_images(rng, prototypes, part) for part in np.split(labels, range(CHUNK, count, CHUNK))]
        found |= {f"{split}_images": np.concatenate(parts), f"{split}_labels": labels}
    return found


def _images(rng: np.random.Generator, prototypes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    count, (side, channels) = len(labels), prototypes.shape[2:]
    chosen = prototypes[labels * PROTOTYPES + rng.integers(PROTOTYPES, size=count)]
    rows = (np.arange(side) + rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, (count, 1))) % side
    columns = (np.arange(side) + rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, (count, 1))) % side
    moved = chosen[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    mixed = SIGNAL * moved + np.sqrt(1 - SIGNAL**2) * _pink(rng, count, side, channels)
    return np.clip(np.rint(mixed * 55 + 120), 0, 255).astype(np.uint8)


def _pink(rng: np.random.Generator, count: int, side: int, channels: int) -> np.ndarray:
    """Random images (count, side, side, channels) of mean 0 and standard deviation 1, amplitude falling as 1/frequency."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf  # no constant part
    noise = rng.standard_normal((count, channels, side, side), dtype=np.float32)
    shaped = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(side, side))
    shaped /= shaped.std(axis=(1, 2, 3), keepdims=True)
    return shaped.transpose(0, 2, 3, 1).astype(np.float32)
