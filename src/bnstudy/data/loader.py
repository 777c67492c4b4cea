"""Decide which images make up mini-batch `step` and what is done to them before a network sees them.

Images stay on the device as uint8, zero-padded once; a mini-batch is one gather of whole windows of memory, a mirroring
and one multiply-add. Legend: N images, C channels, H and W height and width.

What is random is drawn on the CPU, once an epoch, by torch's generator, seeded with the first 32-bit word of
`numpy.random.SeedSequence(seed, spawn_key=(stream, epoch))` (torch's generator would ignore more): stream 0 for
training; stream 1, epoch 0, for the order of the probes' mini-batches. From the training stream come, in this order,
the permutation of the images, the vertical and the horizontal crop offset of each in 0..2 * MARGIN, and whether it is
mirrored; entry i belongs to the i-th image that the epoch shows. So a mini-batch is a function of (seed, step) alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bnstudy.data.sources import Array, Arrays, Source

MARGIN = 4  # pixels of zeros around an image that crops reach into (He et al. 2016, section 4.2)
_TRAINING, _PROBES = 0, 1  # streams of randomness
SPLITS = ("train", "held_out")  # of the training set

Batch = tuple[Tensor, Tensor]
Alteration = Callable[[Tensor], Tensor]  # of images (N, C, H, W) with values in [0, 1]


class Loader:
    """One run's, or one lockstep group's, mini-batches: images (N, C, H, W) in `dtype`, labels int64 (N,).

    `shape` is (C, H, W) as the network sees it. `num_train` images make an epoch of `steps_per_epoch` mini-batches, the
    last of which holds what is left.
    """

    def __init__(
        self,
        arrays: Arrays,
        *,
        batch_size: int,
        seed: int,
        augment: bool,
        normalise: str,
        num_train: int | None = None,
        num_test: int | None = None,
        balanced: bool = False,
        input_size: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`num_train`, `num_test`: how many images, the first ones (None: all); with `balanced` the first num_train /
        classes training images of each class, in the order of the data. `normalise`: "channel" subtracts each
        channel's mean over the training images among these and divides by its standard deviation, "unit" divides by
        255. Images smaller than `input_size` are centred in raw zeros; so are, before a crop, all with `augment`.

        Raises ValueError naming the key for values that do not fit the data.
        """
        num_train = check_sizes(
            arrays.source,
            num_train=num_train,
            num_test=num_test,
            sizes={"data.batch_size": batch_size},
        )
        chosen = _balanced(arrays, num_train) if balanced else slice(num_train)
        train_images, train_labels = arrays.train_images[chosen], arrays.train_labels[chosen]
        self._arrays, self._chosen, self._input_size = arrays, chosen, input_size
        self.num_train, self.num_classes = num_train, arrays.source.num_classes
        self.steps_per_epoch = -(-num_train // batch_size)
        self._batch_size, self._seed, self._augment = batch_size, seed, augment
        self._train = _Images.on(device, train_images, input_size, MARGIN if augment else 0)
        self._test = _Images.on(device, arrays.test_images[:num_test], input_size, 0)
        self._train_labels, self._test_labels = (
            torch.from_numpy(np.array(labels)).to(device) for labels in (train_labels, arrays.test_labels[:num_test])
        )
        self.shape = self._train.shape
        scale, shift = _multiply_add(train_images, normalise)
        # 16-bit floats would lose pixels' differences in the sum, so it is formed in 32 bits and rounded once.
        self._work_dtype, self._dtype = torch.promote_types(dtype, torch.float32), dtype
        self._scale_C11, self._shift_C11 = (
            torch.tensor(values, dtype=self._work_dtype, device=device).view(-1, 1, 1) for values in (scale, shift)
        )
        self._draws: tuple[int, _Draws] | None = None

    def batch(self, step: int) -> Batch:
        """The mini-batch of update `step` (0, 1, ...), whichever were requested before."""
        if step < 0:
            raise ValueError(f"step = {step}: updates are counted from 0")
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._draws is None or self._draws[0] != epoch:
            self._draws = epoch, self._draw(epoch)
        draws = self._draws[1]
        part = slice(index * self._batch_size, (index + 1) * self._batch_size)
        images = self._train.windows(draws.start_N[part])
        if draws.pick_N is not None:
            num = len(images)
            both = torch.cat([images, images.flip(-1)])
            images = both.index_select(0, draws.pick_N[part] * num + torch.arange(num, device=both.device))
        return self._normalised(images), draws.labels_N[part]

    def fitting(self, size: int, batch_size: int) -> int:
        """At most `size` images; of ones larger than 32 x 32 fewer, down to a mini-batch, which fits the memory."""
        _, height, width = self.shape
        return min(size, max(batch_size, size * 32 * 32 // (height * width)))

    def test_batches(self, size: int, alter: Alteration | None = None) -> Iterator[Batch]:
        """The test set in its order, `size` images at a time; `alter`: what is done to them before normalization."""
        if size < 1:
            raise ValueError(f"size = {size}: a mini-batch has at least one image")
        labels = self._test_labels
        starts = self._test.starts(torch.arange(len(labels), device=labels.device))
        for part in (slice(i, i + size) for i in range(0, len(labels), size)):
            yield self._normalised(self._test.windows(starts[part]), alter), labels[part]

    def split_batches(self, split: str, size: int) -> Iterator[Batch]:
        """Images as they are, in the order of the data, `size` at a time: those of the training set that are trained on
        ("train") or those that are not ("held_out"), none where all are trained on."""
        if split not in SPLITS or size < 1:
            raise ValueError(f"split = {split!r}, size = {size}: give one of {', '.join(SPLITS)}, and 1 or more")
        if split == "held_out" and self.num_train == len(self._arrays.train_images):
            return
        images, labels = (self._train, self._train_labels) if split == "train" else self._held_out
        starts = images.starts(torch.arange(len(labels), device=labels.device))
        for part in (slice(i, i + size) for i in range(0, len(labels), size)):
            yield self._normalised(images.windows(starts[part])), labels[part]

    @functools.cached_property
    def _held_out(self) -> tuple[_Images, Tensor]:
        left = np.ones(len(self._arrays.train_images), dtype=bool)
        left[self._chosen] = False
        device = self._train_labels.device
        labels = torch.from_numpy(np.array(self._arrays.train_labels[left])).to(device)
        return _Images.on(device, self._arrays.train_images[left], self._input_size, 0), labels

    def probe_batch(self, size: int, index: int = 0) -> Batch:
        """The `index`-th of disjoint mini-batches of training images as they are, the same throughout a run.

        Raises ValueError where the training images do not suffice.
        """
        if size < 1 or index < 0 or (index + 1) * size > self.num_train:
            raise ValueError(
                f"probe batch {index} of {size} images: {self.num_train} training images make "
                f"{self.num_train // size if size > 0 else 0}; ask for fewer or smaller ones, or raise data.num_train"
            )
        chosen = self._probe_order[index * size : (index + 1) * size]
        images = self._train.windows(self._train.starts(chosen))
        return self._normalised(images), self._train_labels.index_select(0, chosen)

    @functools.cached_property
    def _probe_order(self) -> Tensor:
        generator = _generator(self._seed, _PROBES, 0)
        return torch.randperm(self.num_train, generator=generator).to(self._train_labels.device)

    def _draw(self, epoch: int) -> _Draws:
        generator, device = _generator(self._seed, _TRAINING, epoch), self._train_labels.device
        order = torch.randperm(self.num_train, generator=generator)
        if not self._augment:
            order = order.to(device)
            return _Draws(self._train.starts(order), None, self._train_labels.index_select(0, order))
        offsets = torch.randint(0, 2 * MARGIN + 1, (2, self.num_train), generator=generator)
        mirrored = torch.randint(0, 2, (self.num_train,), generator=generator)
        start_N = self._train.starts(order, *offsets)
        order = order.to(device)
        return _Draws(start_N.to(device), mirrored.to(device), self._train_labels.index_select(0, order))

    def _normalised(self, images: Tensor, alter: Alteration | None = None) -> Tensor:
        if alter is not None:
            images = alter(images.to(self._work_dtype) / 255) * 255
        return images.to(self._work_dtype).mul_(self._scale_C11).add_(self._shift_C11).to(self._dtype)


@dataclass(frozen=True)
class _Draws:
    """One epoch, in the order in which it sees the images; `pick_N` is 1 for a mirrored image, None: never mirror."""

    start_N: Tensor
    pick_N: Tensor | None
    labels_N: Tensor


@dataclass(frozen=True)
class _Images:
    """uint8 images in zeros, laid out so that each crop is one stretch of memory, strides and all.

    Crop (y, x) of image n begins at n * C * P * Q + y * Q + x for padded images of P x Q pixels. From there to its last
    pixel it is always the same number of bytes, from which a view with the padded image's strides takes the crop.
    """

    every_window: Tensor  # (number of possible starts, length), overlapping: one byte further in every row
    shape: tuple[int, int, int]
    margin: int

    @staticmethod
    def on(device: torch.device | str, images_NHWC: Array, input_size: int | None, margin: int) -> _Images:
        num, height, width, channels = images_NHWC.shape
        sides = tuple(max(size, input_size or 0) for size in (height, width))
        top, left = (margin + (large - small) // 2 for large, small in zip(sides, (height, width), strict=True))
        padded = torch.zeros(num, channels, sides[0] + 2 * margin, sides[1] + 2 * margin, dtype=torch.uint8)
        padded.numpy()[:, :, top : top + height, left : left + width] = images_NHWC.transpose(0, 3, 1, 2)
        _, plane, row, _ = padded.stride()
        length = (channels - 1) * plane + (sides[0] - 1) * row + sides[1]
        flat = padded.to(device).view(-1)
        return _Images(flat.as_strided((flat.numel() - length + 1, length), (1, 1)), (channels, *sides), margin)

    def starts(self, chosen_N: Tensor, y_N: Tensor | None = None, x_N: Tensor | None = None) -> Tensor:
        """Where the crops of these images begin; without offsets, the images themselves."""
        image, _, row, _ = self._strides()
        y, x = (self.margin if offset is None else offset for offset in (y_N, x_N))
        return chosen_N * image + y * row + x

    def windows(self, start_N: Tensor) -> Tensor:
        """(N, C, H, W), a view with gaps between the rows."""
        rows = self.every_window.index_select(0, start_N)
        return rows.as_strided((len(start_N), *self.shape), (rows.shape[1], *self._strides()[1:]))

    def _strides(self) -> tuple[int, int, int, int]:
        channels, height, width = self.shape
        row = width + 2 * self.margin
        plane = (height + 2 * self.margin) * row
        return channels * plane, plane, row, 1


def check_sizes(source: Source, *, num_train: int | None, num_test: int | None, sizes: Mapping[str, int]) -> int:
    """The number of training images. Raises ValueError where there are too few images for these numbers and sizes."""
    for key, number, available in (
        ("data.num_train", num_train, source.num_train),
        ("data.num_test", num_test, source.num_test),
    ):
        if number is not None and not 1 <= number <= available:
            raise ValueError(f"{key} = {number}: give 1 to {available}, which {source.name} has")
    num_train = source.num_train if num_train is None else num_train
    for key, size in sizes.items():
        if not 1 <= size <= num_train:
            raise ValueError(f"{key} = {size}: give 1 to {num_train}, the number of training images")
    return num_train


def _balanced(arrays: Arrays, num_train: int) -> Array:
    """The indices of the first images of each class, equally many of every class, in the order of the data."""
    num_classes = arrays.source.num_classes
    each, left = divmod(num_train, num_classes)
    classes = [np.flatnonzero(arrays.train_labels == label)[:each] for label in range(num_classes)]
    fewest = int(np.bincount(arrays.train_labels, minlength=num_classes).min())
    if left or each > fewest:
        raise ValueError(
            f"data.num_train = {num_train} with data.balanced: give a multiple of the {num_classes} classes, at most "
            f"{fewest * num_classes}, as {arrays.source.name} has {fewest} images of the rarest"
        )
    return np.sort(np.concatenate(classes))


def _generator(seed: int, stream: int, epoch: int) -> torch.Generator:
    word = np.random.SeedSequence(seed, spawn_key=(stream, epoch)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(word))


def _multiply_add(images_NHWC: Array, normalise: str) -> tuple[list[float], list[float]]:
    """Scale and shift of every channel, in float64: normalised = scale * pixel + shift."""
    channels = images_NHWC.shape[3]
    if normalise == "unit":
        return [1 / 255] * channels, [0.0] * channels
    if normalise != "channel":
        raise ValueError(f"data.normalise = {normalise!r}: choose channel or unit")
    mean, std = channel_statistics(images_NHWC)
    if not std.all():
        raise ValueError(
            f"data.normalise = 'channel': channel {int(np.argmin(std))} of the training images is constant; use 'unit'"
        )
    return (1 / std).tolist(), (-mean / std).tolist()


def channel_statistics(images_NHWC: Array) -> tuple[Array, Array]:
    """Mean and (biased) standard deviation of every channel in pixel values, float64 (C,), from exact integer sums."""
    planes = (torch.from_numpy(np.array(images_NHWC[..., c])) for c in range(images_NHWC.shape[3]))
    counts = np.stack([torch.bincount(plane.flatten(), minlength=256).numpy() for plane in planes])
    pixels, total = np.arange(256), counts.sum(axis=1)
    mean = counts @ pixels / total
    return mean, np.sqrt((counts * np.square(pixels - mean[:, None])).sum(axis=1) / total)
