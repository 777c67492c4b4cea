"""Mini-batches: against a twin that does it image by image, and as a function of seed and step alone."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.data.loader import MARGIN, Loader, channel_statistics
from bnstudy.data.sources import Arrays, Source


def make_arrays(num_train: int = 50, num_test: int = 23, shape: tuple[int, int, int] = (3, 8, 10)) -> Arrays:
    """Random images; the i-th image has the label i mod 7."""
    draw = np.random.default_rng(3)
    channels, height, width = shape
    made: dict[str, Any] = {}
    for split, count in (("train", num_train), ("test", num_test)):
        images = draw.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
        images.setflags(write=False)
        made |= {f"{split}_images": images, f"{split}_labels": np.arange(count, dtype=np.int64) % 7}
    return Arrays(**made, source=Source("mine", "arrays", Path("mine"), "0" * 64, num_train, num_test, shape, 7))


def make_loader(arrays: Arrays | None = None, **options: Any) -> Loader:
    given: dict[str, Any] = {"batch_size": 8, "seed": 5, "augment": True, "normalise": "channel"}
    return Loader(arrays or make_arrays(), **(given | options))


# The twin: one image at a time, in float64, straight from the text of the module


def twin_draws(seed: int, epoch: int, num: int, augment: bool) -> list[list[int]]:
    """Permutation and, for augmentation, vertical and horizontal offsets and mirrorings, in the documented order."""
    word = np.random.SeedSequence(seed, spawn_key=(0, epoch)).generate_state(1)[0]
    generator = torch.Generator().manual_seed(int(word))
    order = torch.randperm(num, generator=generator).tolist()
    if not augment:
        return [order]
    offsets = torch.randint(0, 9, (2, num), generator=generator).tolist()
    return [order, *offsets, torch.randint(0, 2, (num,), generator=generator).tolist()]


def twin_centred(image_HWC: np.ndarray[Any, Any], input_size: int | None) -> np.ndarray[Any, Any]:
    height, width, channels = image_HWC.shape
    out = np.zeros((max(height, input_size or 0), max(width, input_size or 0), channels))
    top, left = (out.shape[0] - height) // 2, (out.shape[1] - width) // 2
    for y, x in itertools.product(range(height), range(width)):
        out[top + y, left + x] = image_HWC[y, x]
    return out


def twin_cropped(image_HWC: np.ndarray[Any, Any], y0: int, x0: int, mirrored: int) -> np.ndarray[Any, Any]:
    height, width, channels = image_HWC.shape
    padded = np.zeros((height + 8, width + 8, channels))
    padded[4 : 4 + height, 4 : 4 + width] = image_HWC
    out = np.empty_like(image_HWC)
    for y, x in itertools.product(range(height), range(width)):
        out[y, width - 1 - x if mirrored else x] = padded[y0 + y, x0 + x]
    return out


def twin_normalised(
    image_HWC: np.ndarray[Any, Any], train_NHWC: np.ndarray[Any, Any], normalise: str
) -> np.ndarray[Any, Any]:
    if normalise == "unit":
        return (image_HWC / 255).transpose(2, 0, 1)
    pixels = train_NHWC.astype(np.float64)
    return ((image_HWC - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))).transpose(2, 0, 1)


def twin_batch(
    arrays: Arrays, step: int, *, batch_size: int, seed: int, augment: bool, normalise: str, input_size: int | None
) -> tuple[np.ndarray[Any, Any], list[int]]:
    num = len(arrays.train_images)
    epoch, index = divmod(step, -(-num // batch_size))
    draws = twin_draws(seed, epoch, num, augment)
    images, labels = [], []
    for entry in range(index * batch_size, min((index + 1) * batch_size, num)):
        chosen = draws[0][entry]
        image = twin_centred(arrays.train_images[chosen], input_size)
        if augment:
            image = twin_cropped(image, draws[1][entry], draws[2][entry], draws[3][entry])
        images.append(twin_normalised(image, arrays.train_images, normalise))
        labels.append(int(arrays.train_labels[chosen]))
    return np.stack(images), labels


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(3, 9), st.integers(3, 9)),
    input_size=st.none() | st.integers(2, 12),
    augment=st.booleans(),
    normalise=st.sampled_from(["channel", "unit"]),
    seed=st.integers(0, 2**63),
    batch_size=st.integers(1, 20),
    step=st.integers(0, 200),
)
def test_a_batch_is_the_twins(
    shape: tuple[int, int, int],
    input_size: int | None,
    augment: bool,
    normalise: str,
    seed: int,
    batch_size: int,
    step: int,
) -> None:
    arrays = make_arrays(20, 1, shape)
    options: dict[str, Any] = {
        "batch_size": batch_size, "seed": seed, "augment": augment, "normalise": normalise, "input_size": input_size
    }  # fmt: skip
    images, labels = make_loader(arrays, dtype=torch.float64, **options).batch(step)
    expected, expected_labels = twin_batch(arrays, step, **options)
    np.testing.assert_allclose(images.numpy(), expected, rtol=0, atol=1e-12)
    assert labels.tolist() == expected_labels and labels.dtype == torch.int64


def test_float32_is_float64_rounded() -> None:
    for normalise, bound in (("channel", 1e-6), ("unit", 1e-7)):
        single, double = (make_loader(normalise=normalise, dtype=d).batch(3)[0] for d in (torch.float32, torch.float64))
        assert single.dtype == torch.float32 and single.is_contiguous()
        assert (single - double).abs().max() < bound
    half = make_loader(dtype=torch.bfloat16).batch(3)[0]
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, make_loader().batch(3)[0].bfloat16())


# Seed and step, and nothing else


def same(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize("augment", [False, True])
def test_a_batch_depends_on_seed_and_step_alone(augment: bool) -> None:
    in_order = make_loader(augment=augment)
    batches = [in_order.batch(step) for step in range(3 * in_order.steps_per_epoch)]
    shuffled = make_loader(augment=augment)
    list(shuffled.test_batches(5))
    shuffled.probe_batch(4)
    for step in np.random.default_rng(0).permutation(len(batches)):
        torch.manual_seed(int(step))
        torch.rand(3)  # the global generator is nobody's business
        assert same(shuffled.batch(int(step)), batches[step])
    resumed = make_loader(augment=augment)
    assert same(resumed.batch(2 * in_order.steps_per_epoch + 1), batches[2 * in_order.steps_per_epoch + 1])


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loader = make_loader()
    loader.batch(0), loader.probe_batch(4), list(loader.test_batches(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_caller_does_to_a_batch_stays_with_the_caller() -> None:
    loader = make_loader()
    first = loader.batch(0)[0].clone()
    loader.batch(0)[0].zero_()
    next(loader.test_batches(4))[0].zero_()
    assert torch.equal(loader.batch(0)[0], first)
    assert next(loader.test_batches(4))[0].any()


def test_seeds_and_epochs_differ() -> None:
    # torch's CPU generator looks at the low 32 bits of its seed only: seeds that differ above must differ all the same.
    seeds = [0, 1, 2, 2**32, 2**32 + 1, 2**63]
    drawn = [make_loader(seed=seed).batch(0)[0] for seed in seeds]
    drawn += [make_loader(seed=0).batch(epoch * 7)[0] for epoch in (1, 2, 3)]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("num_train", [50, 37])
def test_every_image_is_seen_once_an_epoch(augment: bool, num_train: int) -> None:
    arrays = make_arrays()
    marked = np.zeros((50, 8, 10, 3), np.uint8) + np.arange(50, dtype=np.uint8)[:, None, None, None]
    arrays = replace(arrays, train_images=marked)
    loader = make_loader(arrays, augment=augment, num_train=num_train, normalise="unit")
    assert loader.steps_per_epoch == -(-num_train // 8)
    orders = []
    for epoch in range(3):
        batches = [loader.batch(epoch * loader.steps_per_epoch + i) for i in range(loader.steps_per_epoch)]
        assert [len(labels) for _, labels in batches] == [8] * (num_train // 8) + [num_train % 8] * (num_train % 8 > 0)
        which = torch.cat([images.amax((1, 2, 3)) for images, _ in batches]).mul(255).round().long()
        assert torch.equal(which.sort().values, torch.arange(num_train))
        assert torch.equal(torch.cat([labels for _, labels in batches]), which % 7)
        orders.append(which.tolist())
    assert orders[0] != orders[1] != orders[2] != sorted(orders[2])


def test_crops_are_uniform_and_half_are_mirrored() -> None:
    # One bright pixel in the middle of a 9x9 image tells the offset; a second, on its left, whether it is mirrored.
    num = 8100
    images = np.zeros((num, 9, 9, 1), np.uint8)
    images[:, 4, 4], images[:, 4, 3] = 255, 100
    arrays = make_arrays(num, 1, (1, 9, 9))
    loader = make_loader(replace(arrays, train_images=images), batch_size=num, normalise="unit")
    seen = loader.batch(0)[0][:, 0]
    place = seen.flatten(1).argmax(1)
    counts = torch.bincount(place, minlength=81).double()
    assert counts.min() > 0  # every offset from -4 to 4, each way
    chi_square = ((counts - 100) ** 2 / 100).sum()
    assert chi_square < 131  # 80 degrees of freedom: once in 4000 seeds
    # In a corner the left pixel may be cropped away; elsewhere it lies left of the bright one, or right if mirrored.
    y, x = place // 9, place % 9
    inside = (x > 0) & (x < 8)
    y, x, rest = y[inside], x[inside], seen[inside]
    left, right = (rest[torch.arange(len(rest)), y, x + d] > 0 for d in (-1, 1))
    assert torch.equal(left, ~right)
    assert right.double().mean() == pytest.approx(0.5, abs=4 * 0.5 / len(rest) ** 0.5)


# Everything else it gives


def test_the_first_test_images_alone() -> None:
    arrays = make_arrays()
    some, every = (next(make_loader(arrays, num_test=num).test_batches(100)) for num in (9, None))
    assert torch.equal(some[0], every[0][:9]) and torch.equal(some[1], every[1][:9])
    with pytest.raises(ValueError, match=r"data\.num_test = 24: give 1 to 23, which mine has"):
        make_loader(arrays, num_test=24)


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_the_test_set_in_its_order_as_it_is(size: int) -> None:
    arrays = make_arrays()
    batches = list(make_loader(arrays, dtype=torch.float64, input_size=12, num_train=40).test_batches(size))
    assert all(len(labels) == size for _, labels in batches[:-1])
    found = torch.cat([images for images, _ in batches])
    expected = [twin_normalised(twin_centred(i, 12), arrays.train_images[:40], "channel") for i in arrays.test_images]
    np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=0, atol=1e-12)
    assert torch.cat([labels for _, labels in batches]).tolist() == arrays.test_labels.tolist()


@pytest.mark.parametrize("normalise", ["unit", "channel"])
def test_test_images_are_altered_before_they_are_normalised(normalise: str) -> None:
    arrays = make_arrays()
    loader = make_loader(arrays, dtype=torch.float64, normalise=normalise)
    inverted = np.ascontiguousarray(255 - arrays.test_images)
    other = make_loader(dataclasses.replace(arrays, test_images=inverted), dtype=torch.float64, normalise=normalise)
    found, expected = (
        torch.cat([x for x, _ in b]) for b in (loader.test_batches(7, lambda x: 1 - x), other.test_batches(7))
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_channel_normalised_training_images_have_mean_0_and_variance_1() -> None:
    loader = make_loader(augment=False, dtype=torch.float64)
    images = torch.cat([loader.batch(step)[0] for step in range(loader.steps_per_epoch)])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(images.var((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64))


def test_channel_statistics_are_numpys() -> None:
    images = make_arrays(700).train_images
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, images.astype(np.float64).mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(std, images.astype(np.float64).std((0, 1, 2)), rtol=1e-12)


def test_unit_images_reach_from_0_to_1() -> None:
    arrays = make_arrays()
    images = arrays.train_images.copy()
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    loader = make_loader(replace(arrays, train_images=images), augment=False, normalise="unit")
    found = loader.batch(0)[0]
    assert found.min() == 0 and found.max() == 1


@pytest.mark.parametrize("augment", [False, True])
def test_probe_batches_are_disjoint_fixed_and_as_they_are(augment: bool) -> None:
    arrays = make_arrays()
    marked = np.zeros((50, 8, 10, 3), np.uint8) + np.arange(50, dtype=np.uint8)[:, None, None, None]
    arrays = replace(arrays, train_images=marked)
    loader = make_loader(arrays, augment=augment, normalise="unit", input_size=10)
    chosen = []
    for index in range(6):
        images, labels = loader.probe_batch(8, index)
        which = images.amax((1, 2, 3)).mul(255).round().long()
        assert torch.equal(labels, which % 7)
        assert (images[:, :, 1:-1] == images[:, :, 1:2, :1]).all() and not images[:, :, [0, -1]].any()  # 8 rows of 10
        chosen += which.tolist()
    assert len(set(chosen)) == 48 and chosen != sorted(chosen)
    loader.batch(11)
    again, other = (make_loader(arrays, seed=seed, normalise="unit", input_size=10) for seed in (5, 6))
    assert same(loader.probe_batch(8, 2), again.probe_batch(8, 2))
    assert not same(loader.probe_batch(8), other.probe_batch(8))
    assert torch.equal(torch.cat([loader.probe_batch(4, i)[1] for i in (0, 1)]), loader.probe_batch(8)[1])


def test_probe_batches_are_not_the_first_training_batch() -> None:
    loader = make_loader(augment=False)
    assert not same(loader.probe_batch(8), loader.batch(0))


def test_its_facts() -> None:
    loader = make_loader(input_size=12, num_train=41, batch_size=10)
    assert (loader.shape, loader.num_classes, loader.num_train, loader.steps_per_epoch) == ((3, 12, 12), 7, 41, 5)
    assert make_loader(input_size=4).shape == (3, 8, 10)  # larger images stay as they are
    assert loader.batch(0)[0].shape == (10, 3, 12, 12) and loader.batch(4)[0].shape == (1, 3, 12, 12)
    assert MARGIN == 4


# What is refused


@pytest.mark.parametrize(
    "options, says",
    [
        ({"num_train": 51}, "data.num_train = 51: give 1 to 50, which mine has"),
        ({"num_train": 0}, "data.num_train = 0: give 1 to 50"),
        ({"batch_size": 51}, "data.batch_size = 51: give 1 to 50"),
        ({"batch_size": 11, "num_train": 10}, "data.batch_size = 11: give 1 to 10"),
        ({"batch_size": 0}, "data.batch_size = 0: give 1 to 50"),
        ({"normalise": "pixel"}, "data.normalise = 'pixel': choose channel or unit"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_loader(**options)


def test_a_constant_channel_cannot_be_normalised() -> None:
    arrays = make_arrays()
    images = arrays.train_images.copy()
    images[..., 1] = 9
    with pytest.raises(ValueError, match="channel 1 of the training images is constant; use 'unit'"):
        make_loader(replace(arrays, train_images=images))


@pytest.mark.parametrize("size, index", [(51, 0), (10, 5), (0, 0), (8, -1)])
def test_probe_batches_beyond_the_set(size: int, index: int) -> None:
    with pytest.raises(ValueError, match=rf"probe batch {index} of {size} images: 50 training images make"):
        make_loader().probe_batch(size, index)


def test_steps_and_sizes_below_their_first() -> None:
    with pytest.raises(ValueError, match="step = -1"):
        make_loader().batch(-1)
    with pytest.raises(ValueError, match="size = 0"):
        next(make_loader().test_batches(0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("augment", [False, True])
def test_devices_see_the_same(augment: bool) -> None:
    arrays = make_arrays()
    host, device = (make_loader(arrays, augment=augment, device=device) for device in ("cpu", "cuda"))
    for step in (0, 6, 7, 30):
        (images, labels), (there, labels_there) = host.batch(step), device.batch(step)
        assert there.is_cuda and torch.equal(labels, labels_there.cpu())
        torch.testing.assert_close(there.cpu(), images, rtol=0, atol=1e-6)
    assert torch.equal(host.probe_batch(8)[1], device.probe_batch(8)[1].cpu())


@pytest.mark.parametrize("balanced", [False, True])
def test_what_is_trained_on_and_what_is_held_out_make_the_training_set(balanced: bool) -> None:
    arrays = make_arrays(50)
    loader = make_loader(arrays, num_train=14, balanced=balanced, normalise="unit")
    seen = {split: list(loader.split_batches(split, 4)) for split in ("train", "held_out")}
    images, labels = (
        torch.cat([batch[i] for split in ("train", "held_out") for batch in seen[split]]) for i in range(2)
    )
    assert sum(len(batch[1]) for batch in seen["train"]) == 14 and len(labels) == 50
    whole = torch.from_numpy(np.array(arrays.train_images)).permute(0, 3, 1, 2) / 255
    order = [int(np.flatnonzero([torch.allclose(image, other) for other in whole])[0]) for image in images]
    assert sorted(order) == list(range(50))
    torch.testing.assert_close(labels, torch.from_numpy(np.array(arrays.train_labels))[order])
    assert order == sorted(order[:14]) + sorted(order[14:])  # each in the order of the data


def test_nothing_is_held_out_where_all_is_trained_on() -> None:
    assert list(make_loader().split_batches("held_out", 8)) == []
    with pytest.raises(ValueError, match="split = 'test', size = 8: give one of train, held_out"):
        next(make_loader().split_batches("test", 8))


def test_balanced_images_are_the_first_of_each_class() -> None:
    arrays = make_arrays(50)
    skewed = np.array([0] * 20 + [1, 2, 3, 4, 5, 6] * 5, dtype=np.int64)
    arrays = replace(arrays, train_labels=skewed)
    loader = make_loader(arrays, num_train=14, balanced=True, normalise="unit", augment=False)
    labels = torch.cat([labels for _, labels in loader.split_batches("train", 5)])
    assert labels.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]
    epoch = torch.cat([loader.batch(step)[1] for step in range(loader.steps_per_epoch)])
    assert torch.bincount(epoch).tolist() == [2] * 7
    plain = make_loader(arrays, num_train=14, normalise="unit", augment=False)
    assert torch.cat([plain.batch(step)[1] for step in range(2)]).tolist() == [0] * 14


@pytest.mark.parametrize("num_train", [15, 42])
def test_images_that_cannot_be_balanced_are_refused(num_train: int) -> None:
    skewed = np.array([0] * 20 + [1, 2, 3, 4, 5, 6] * 5, dtype=np.int64)
    with pytest.raises(ValueError, match=rf"data\.num_train = {num_train} with data\.balanced.* at most 35"):
        make_loader(replace(make_arrays(50), train_labels=skewed), num_train=num_train, balanced=True)
