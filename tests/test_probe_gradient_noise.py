"""Noise of mini-batch gradients against all mini-batches there are, separate backward passes, and closed forms."""

from __future__ import annotations

import copy
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from probe_networks import Loader, look, make_loader, make_network
from torch.nn import functional

from bnstudy import probes
from bnstudy.probes import gradient_noise

OPTIONS = {"sizes": (1, 3, 6), "num_divided": (1, 2, 3), "large_size": 6, "num_large": 4}
OFTEN = {2: 1000, 12: 400}  # mini-batches drawn, by their size


def double_feed(num=12, **options):
    loader = make_loader(num, **options)
    loader.images = loader.images.double()
    return loader


def rows_of(network, loader, **options):
    seen = look(network, loader, reads=[])
    return {row["batch_size"]: row for row in probes.rows("gradient_noise", OPTIONS | options, seen)}


def slow(network, images, labels):
    """The gradient in every parameter, by backward() on a copy."""
    copied = copy.deepcopy(network).train()
    functional.cross_entropy(copied(images), labels).backward()
    return np.concatenate([p.grad.double().flatten().numpy() for p in copied.parameters()])


def law(num_examples, size):
    return (num_examples - size) / (size * (num_examples - 1))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_rows_are_those_of_separate_backward_passes(norm):
    network, loader = make_network(norm).double(), double_feed(24)
    rows = rows_of(network, loader)
    large = [slow(network, *loader.probe_batch(6, index)) for index in range(4)]
    mean = np.mean(large, axis=0)
    for size, divided in ((1, 1), (3, 2), (6, 3)):
        row = rows[size]
        assert row["gradient_squared"] == pytest.approx(mean @ mean)
        assert (row["num_examples"], row["large_size"]) == (24, 6)
        if norm == "batch" and size == 1:
            assert row["num_draws"] == 0
            assert math.isnan(row["mean_squared_deviation"]) and math.isnan(row["bias_squared"])
            continue
        count = 6 * divided // size
        each = np.stack([slow(network, *loader.probe_batch(size, index)) for index in range(count)])
        assert row["num_draws"] == count
        assert row["mean_squared_deviation"] == pytest.approx(((each - mean) ** 2).sum(1).mean(), rel=1e-9)
        if divided == 1:
            assert math.isnan(row["bias_squared"])
            continue
        apart = [part.mean(0) - whole for part, whole in zip(np.split(each, divided), large, strict=False)]
        products = [a @ b for i, a in enumerate(apart) for b in apart[:i]]
        assert row["bias_squared"] == pytest.approx(np.mean(products), rel=1e-6, abs=1e-12)


def test_over_every_mini_batch_there_is_the_deviation_is_that_of_equation_3():
    """All mini-batches of each size of seven examples, by backward()."""
    network, loader = make_network("none").double(), double_feed(7)
    alone = np.stack([slow(network, loader.images[[i]], loader.labels[[i]]) for i in range(7)])
    whole = slow(network, loader.images, loader.labels)
    constant = ((alone - whole) ** 2).sum(1).mean()
    for size in range(1, 8):
        every = [slow(network, loader.images[list(b)], loader.labels[list(b)]) for b in combinations(range(7), size)]
        deviation = ((np.stack(every) - whole) ** 2).sum(1).mean()
        assert deviation == pytest.approx(constant * law(7, size), rel=1e-9, abs=1e-20)


def test_a_step_deviates_with_the_square_of_the_learning_rate():
    """The slope 2 of claim 5 is an identity: SGD's step is the learning rate times the gradient."""
    network, loader = make_network("none").double(), double_feed(12)
    small = loader.probe_batch(4)

    def moved(batch, lr):
        copied = copy.deepcopy(network).train()
        optimiser = torch.optim.SGD(copied.parameters(), lr=lr, momentum=0.9)  # from rest, so momentum adds nothing
        functional.cross_entropy(copied(batch[0]), batch[1]).backward()
        optimiser.step()
        return np.concatenate([p.detach().flatten().numpy() for p in copied.parameters()])

    rates = np.array([1e-4, 1e-3, 1e-2, 0.1])
    apart = [((moved(small, lr) - moved((loader.images, loader.labels), lr)) ** 2).sum() for lr in rates]
    slope, _ = np.polyfit(np.log(rates), np.log(apart), 1)
    assert slope == pytest.approx(2, abs=1e-9)


@pytest.mark.slow
def test_measured_deviations_follow_the_law_without_norm_and_have_no_bias():
    """Averaged over many orders of the same images."""
    network, loader = make_network("none").double(), double_feed(12, size=4)
    alone = np.stack([slow(network, loader.images[[i]], loader.labels[[i]]) for i in range(12)])
    constant = ((alone - alone.mean(0)) ** 2).sum(1).mean()
    found: dict[int, list[float]] = {size: [] for size in (1, 2, 4)}
    for seed in range(150):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        shuffled = Loader(loader.images[order], loader.labels[order])
        rows = rows_of(network, shuffled, sizes=(1, 2, 4), num_divided=(1, 2, 2), large_size=4, num_large=3)
        for size, row in rows.items():
            found[size].append(row["mean_squared_deviation"])
            assert math.isnan(row["bias_squared"]) or abs(row["bias_squared"]) < 1e-12 * constant
    for size, values in found.items():
        assert np.mean(values) == pytest.approx(constant * law(12, size), rel=0.1)


@pytest.mark.slow
def test_batch_norm_biases_the_gradients_of_small_mini_batches():
    """Against the means over many mini-batches, of images drawn independently of each other."""
    network, loader = make_network("batch").double(), double_feed(24, size=4)
    source = torch.Generator().manual_seed(0)

    def drawn(num):
        chosen = torch.randint(24, (num,), generator=source)
        return loader.images[chosen], loader.labels[chosen]

    small, large = (np.mean([slow(network, *drawn(size)) for _ in range(num)], axis=0) for size, num in OFTEN.items())
    expected = ((small - large) ** 2).sum()
    options = {"sizes": (2,), "num_divided": (4,), "large_size": 12, "num_large": 4}
    found = [rows_of(network, Loader(*drawn(48)), **options)[2]["bias_squared"] for _ in range(40)]
    assert np.mean(found) == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_whole_set_has_neither_noise_nor_bias(norm):
    row = rows_of(make_network(norm), make_loader(12), sizes=[12], num_divided=[1], large_size=12, num_large=1)[12]
    assert row["mean_squared_deviation"] < 1e-9 * row["gradient_squared"]
    assert row["num_draws"] == 1 and math.isnan(row["bias_squared"])
    row = rows_of(make_network(norm), make_loader(12), sizes=[6], num_divided=[2], large_size=6, num_large=2)[6]
    assert abs(row["bias_squared"]) < 1e-9 * row["gradient_squared"]


def test_examples_that_are_all_the_same_have_no_noise():
    loader = make_loader(24)
    same = Loader(loader.images[:1].expand(24, -1, -1, -1).clone(), loader.labels[:1].expand(24).clone())
    for row in rows_of(make_network("none"), same).values():
        assert row["mean_squared_deviation"] < 1e-9 * row["gradient_squared"]


def test_every_parameter_counts():
    network, loader = make_network("batch").double(), double_feed(12)
    images, labels = loader.probe_batch(12)
    expected = slow(network, images, labels)
    found = gradient_noise.gradient(copy.deepcopy(network).train(), images, labels).numpy()
    assert len(found) == sum(p.numel() for p in network.parameters())
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_square_of_a_mean_is_without_bias():
    """Over many repeats with known mean: four draws of three values each."""
    source = torch.Generator().manual_seed(3)
    mean = torch.tensor([0.3, 0.0, -0.4], dtype=torch.float64)
    drawn = mean + 0.5 * torch.randn(4000, 4, 3, generator=source, dtype=torch.float64)
    found = np.array([gradient_noise.square_of_mean(each) for each in drawn])
    assert abs(found.mean() - 0.25) < 4 * found.std() / math.sqrt(len(found))
    assert found.min() < 0
    assert math.isnan(gradient_noise.square_of_mean(drawn[0, :1]))


def test_passes_depend_on_nothing_before_them():
    """Running statistics move with every pass in training mode; gradients do not depend on them."""
    network, loader = make_network("batch"), make_loader(24)
    assert rows_of(network, loader)[6] == rows_of(network, loader, sizes=[6], num_divided=[3])[6]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sizes": ()}, r"sizes = \[\], large_size = 6: give sizes that divide large_size"),
        ({"sizes": (1, 2, 4)}, "give sizes that divide large_size"),
        ({"sizes": (0, 2, 3)}, "give sizes that divide large_size"),
        ({"num_divided": (1, 2)}, r"num_divided = \[1, 2\], num_large = 4: give one number a size, from 1"),
        ({"num_divided": (1, 2, 5)}, "from 1 to num_large"),
        ({"num_divided": (0, 2, 3)}, "from 1 to num_large"),
        ({"num_large": 5}, "num_large = 5: the training images make 4 mini-batches of large_size = 6; give that"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=f"gradient_noise: .*{message}"):
        rows_of(make_network("none"), make_loader(24), **options)
