"""Mini-batches on the device: images stay there as uint8; crop, flip and normalisation are batched and drawn from the seed.

Shapes: N images of a mini-batch, C channels, H and W after padding small images to the network's input size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bnstudy.data.sources import Arrays, DataError

PAD = 4  # of the random crop (He et al., 2016)
# Streams of random numbers: each is drawn by a generator of its own, keyed by (seed, stream, epoch).
ORDER, CROP, PROBE = 0, 1, 2


class Feed:
    """One run's training batches, probe batches and test set. Everything is a function of the seed and the step."""

    def __init__(
        self,
        arrays: Arrays,
        *,
        batch_size: int,
        seed: int,
        augment: bool,
        normalise: str,
        num_train: int | None,
        input_size: int | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        available = len(arrays.train_labels)
        if num_train is not None and num_train > available:
            raise DataError(f"data.num_train = {num_train}: {arrays.source.name} has {available} training images")
        self.num_train = num_train or available
        if batch_size > self.num_train:
            raise DataError(f"data.batch_size = {batch_size}: there are only {self.num_train} training images")
        self.num_classes = arrays.source.num_classes
        self._batch_size, self._seed, self._augment = batch_size, seed, augment
        self._device, self._dtype = device, dtype
        train = arrays.train_images[: self.num_train]
        scale, shift = _affine(train, normalise)
        self._scale = torch.tensor(scale, dtype=dtype, device=device).view(-1, 1, 1)
        self._shift = torch.tensor(shift, dtype=dtype, device=device).view(-1, 1, 1)
        self._train = _to_device(train, input_size, device)
        self._test = _to_device(arrays.test_images, input_size, device)
        self._train_labels = torch.from_numpy(arrays.train_labels[: self.num_train].copy()).to(device)
        self._test_labels = torch.from_numpy(arrays.test_labels.copy()).to(device)
        self.shape: tuple[int, int, int] = tuple(self._train.shape[1:])
        self.steps_per_epoch = -(-self.num_train // batch_size)
        self._epoch: int | None = None
        self._probe_order: Tensor | None = None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The mini-batch of update `step`: images (N, C, H, W), labels (N,). The last of an epoch may be smaller."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._plan(epoch)
        chosen = slice(index * self._batch_size, (index + 1) * self._batch_size)
        images = self._train.index_select(0, self._order[chosen])
        if self._augment:
            images = _crop_and_flip(images, self._rows[chosen], self._columns[chosen], self._flips[chosen])
        return self._normalised(images), self._labels[chosen]

    def test_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The test set in its order."""
        for images, labels in zip(self._test.split(size), self._test_labels.split(size), strict=True):
            yield self._normalised(images), labels

    def train_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The training set in its order, not augmented."""
        for images, labels in zip(self._train.split(size), self._train_labels.split(size), strict=True):
            yield self._normalised(images), labels

    def probe_batch(self, size: int, index: int = 0) -> tuple[Tensor, Tensor]:
        """The index-th of the disjoint mini-batches into which the seed parts the training set; not augmented.

        Raises DataError beyond the set.
        """
        if (index + 1) * size > self.num_train:
            raise DataError(f"probe batch {index} of {size} images lies beyond the {self.num_train} training images")
        if self._probe_order is None:
            self._probe_order = torch.randperm(self.num_train, generator=self._generator(PROBE, 0)).to(self._device)
        chosen = self._probe_order[index * size : (index + 1) * size]
        return self._normalised(self._train.index_select(0, chosen)), self._train_labels.index_select(0, chosen)

    def _plan(self, epoch: int) -> None:
        """Draws an epoch's order, crops and flips on the CPU, so that they are the same for every device."""
        order = torch.randperm(self.num_train, generator=self._generator(ORDER, epoch))
        self._order = order.to(self._device)
        self._labels = self._train_labels.index_select(0, self._order)
        if self._augment:
            generator = self._generator(CROP, epoch)
            draws = torch.randint(0, 2 * PAD + 1, (2, self.num_train), generator=generator)
            flips = torch.randint(0, 2, (self.num_train,), generator=generator, dtype=torch.bool)
            self._rows, self._columns, self._flips = draws[0].to(self._device), draws[1].to(self._device), flips.to(self._device)
        self._epoch = epoch

    def _generator(self, stream: int, epoch: int) -> torch.Generator:
        key = np.random.SeedSequence([self._seed, stream, epoch]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(key) >> 1)

    def _normalised(self, images_NCHW: Tensor) -> Tensor:
        return torch.addcmul(self._shift, images_NCHW.to(self._dtype), self._scale)


def _crop_and_flip(images_NCHW: Tensor, rows_N: Tensor, columns_N: Tensor, flips_N: Tensor) -> Tensor:
    """Each image padded by black, cut back to its size at its own offset, mirrored where its flip says so."""
    num, channels, height, width = images_NCHW.shape
    padded = torch.nn.functional.pad(images_NCHW, (PAD, PAD, PAD, PAD))
    y_NH = rows_N[:, None] + torch.arange(height, device=images_NCHW.device)
    along = torch.arange(width, device=images_NCHW.device)
    x_NW = columns_N[:, None] + torch.where(flips_N[:, None], width - 1 - along, along)
    padded_width = width + 2 * PAD
    flat_NHW = y_NH[:, :, None] * padded_width + x_NW[:, None, :]
    index = flat_NHW.view(num, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view(num, channels, height, width)


def _to_device(images_NHWC: np.ndarray, input_size: int | None, device: torch.device) -> Tensor:
    """uint8 (N, C, H, W), zero-padded on all sides where smaller than the input size."""
    images = torch.from_numpy(np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2)))
    height, width = images.shape[2:]
    extra = [max(0, (input_size or 0) - side) for side in (width, height)]
    if any(extra):
        images = torch.nn.functional.pad(images, [p for e in extra for p in (e // 2, e - e // 2)])
    return images.to(device)


def _affine(train_NHWC: np.ndarray, normalise: str) -> tuple[list[float], list[float]]:
    """Scale and shift by channel, from the training images: to [0, 1], or to mean 0 and standard deviation 1."""
    channels = train_NHWC.shape[3]
    if normalise == "unit":
        return [1 / 255] * channels, [0.0] * channels
    scale, shift = [], []
    for channel in range(channels):
        counts = np.bincount(train_NHWC[..., channel].ravel(), minlength=256).astype(np.float64)
        values = np.arange(256)
        mean = (counts * values).sum() / counts.sum()
        std = np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum())
        if std == 0:
            raise DataError(f"channel {channel} of the training images is constant; use data.normalise=unit")
        scale.append(1 / std)
        shift.append(-mean / std)
    return scale, shift
