"""Cosines between mini-batch gradients against autograd, one batch and one pair at a time."""

from __future__ import annotations

import copy
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from probe_networks import Loader, look, make_loader, make_network
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from bnstudy import probes
from bnstudy.probes import gradient_correlation

OPTIONS = {"batch_sizes": (1, 4, 6), "num_batches": 4}


def rows_of(network, loader, **options):
    seen = look(network, loader, reads=probes.reads(["gradient_correlation"]))
    return {(r["batch_size"], r["depth"]): r for r in probes.rows("gradient_correlation", OPTIONS | options, seen)}


def slow(network, loader, layer, size):
    """Mean and standard deviation of the cosines of all pairs of four mini-batches that have one, by backward()."""
    gradients = []
    for index in range(4):
        copied = copy.deepcopy(network).train()
        images, labels = loader.probe_batch(size, index)
        functional.cross_entropy(copied(images.double()), labels).backward()
        gradients.append(copied.get_submodule(layer.name).weight.grad.flatten().numpy())
    pairs = [(a, b) for a, b in combinations(gradients, 2) if a.any() and b.any()]
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs]
    return (np.mean(cosines), np.std(cosines)) if pairs else (math.nan, math.nan)


@pytest.mark.parametrize("norm, sizes", [("none", (1, 4, 6)), ("batch", (4, 6))])
def test_cosines_are_those_of_separate_backward_passes(norm, sizes):
    network, loader = make_network(norm).double(), make_loader(24)
    rows = rows_of(network, loader)
    assert len(rows) == 3 * len(network.layers)
    for size in sizes:
        for layer in network.layers:
            row, (mean, std) = rows[size, layer.depth], slow(network, loader, layer, size)
            assert (row["layer"], row["num_batches"], row["num_pairs"], row["defined"]) == (layer.name, 4, 6, True)
            assert row["cosine_mean"] == pytest.approx(mean, abs=1e-10)
            assert row["cosine_std"] == pytest.approx(std, abs=1e-10)


def test_batch_size_1_is_the_correlation_between_examples():
    network, loader = make_network("none").double(), make_loader(24)
    parameters = {k: v.detach() for k, v in network.named_parameters()}

    def loss(parameters, image, label):
        return functional.cross_entropy(functional_call(network, parameters, image[None]), label[None])

    each = vmap(grad(loss), (None, 0, 0))(parameters, loader.images[:4].double(), loader.labels[:4])
    rows = rows_of(network, loader)
    for layer in network.layers:
        unit = functional.normalize(each[f"{layer.name}.weight"].flatten(1))
        cosines = [float(unit[i] @ unit[j]) for i, j in combinations(range(4), 2)]
        assert rows[1, layer.depth]["cosine_mean"] == pytest.approx(np.mean(cosines), abs=1e-10)


def test_examples_have_no_gradient_of_their_own_under_batch_norm():
    rows = rows_of(make_network("batch"), make_loader(24))
    for (size, _), row in rows.items():
        assert row["defined"] == (size > 1)
        if size == 1:
            assert math.isnan(row["cosine_mean"]) and math.isnan(row["cosine_std"])
            assert row["num_batches"] == row["num_pairs"] == 0


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_identical_batches_have_cosine_1(norm):
    class Same(Loader):
        def probe_batch(self, size, index=0):
            return super().probe_batch(size, 0)

    loader = make_loader(24)
    for row in rows_of(make_network(norm), Same(loader.images, loader.labels), batch_sizes=[4]).values():
        assert row["cosine_mean"] == pytest.approx(1, abs=1e-12) and row["cosine_std"] == pytest.approx(0, abs=1e-12)


def test_opposite_labels_of_two_classes_have_cosine_minus_1():
    """With equal logits and two classes the gradients for the two labels are each other's negative."""
    network, loader = make_network("none", num_classes=2), make_loader(2, num_classes=2)
    with torch.no_grad():
        network.classifier.weight[1] = network.classifier.weight[0]
        network.classifier.bias.fill_(0.0)
    loader.images[1], loader.labels = loader.images[0].clone(), torch.tensor([0, 1])
    seen = look(network, loader, reads=(), batch_size=2)
    rows = probes.rows("gradient_correlation", {"batch_sizes": [1]}, seen)
    assert rows[-1]["layer"] == "classifier"
    assert rows[-1]["cosine_mean"] == pytest.approx(-1) and rows[-1]["num_batches"] == 2


def test_a_small_training_set_gives_fewer_batches_and_says_so():
    rows = rows_of(make_network(), make_loader(13), batch_sizes=(4, 6, 8))
    assert [rows[size, 1]["num_batches"] for size in (4, 6, 8)] == [3, 2, 1]
    assert [rows[size, 1]["num_pairs"] for size in (4, 6, 8)] == [3, 1, 0]
    assert [rows[size, 1]["defined"] for size in (4, 6, 8)] == [True, True, False]


@pytest.mark.parametrize(("num_certain", "num_pairs"), [(0, 6), (1, 3), (2, 1), (3, 0), (4, 0)])
def test_examples_without_a_gradient_are_in_no_pair(num_certain, num_pairs):
    """Regression: one example whose class the network is certain of made the mean of every layer NaN."""
    network, loader = make_network("none").double(), make_loader(24)
    with torch.no_grad():
        network.classifier.weight *= 1e6  # the softmax is 0 or 1 to the last bit
        loader.labels = network(loader.images.double()).argmax(1)
    loader.labels[num_certain:] = (loader.labels[num_certain:] + 1) % 5
    rows = rows_of(network, loader, batch_sizes=[1])
    for layer in network.layers:
        row, (mean, std) = rows[1, layer.depth], slow(network, loader, layer, 1)
        assert (row["num_batches"], row["num_pairs"], row["defined"]) == (4, num_pairs, num_pairs > 0)
        assert row["cosine_mean"] == pytest.approx(mean, abs=1e-10, nan_ok=True)
        assert row["cosine_std"] == pytest.approx(std, abs=1e-10, nan_ok=True)
        assert math.isnan(row["cosine_mean"]) == (num_pairs == 0)


def test_cosines_of_a_pair_that_has_none_and_of_very_small_gradients():
    cosines = gradient_correlation.pairwise_cosines
    one, zero, endless = torch.tensor([3.0, 4.0]), torch.zeros(2), torch.tensor([math.inf, 1.0])
    assert cosines([one, zero, endless, torch.tensor([math.nan, 1.0])]).tolist() == []
    assert cosines([]).tolist() == cosines([one]).tolist() == []
    assert cosines([one, zero, -one]).tolist() == [pytest.approx(-1)]
    tiny = torch.tensor([3e-300, 4e-300], dtype=torch.float64)  # its squares are below every float64
    assert cosines([tiny, one]).tolist() == [pytest.approx(1)]
    assert cosines([torch.tensor([3e-45, 4e-45]), torch.tensor([3e-45, 4e-45])]).tolist() == [pytest.approx(1)]


def test_gradients_beyond_float32s_squares_have_a_direction():
    network, loader = make_network("none"), make_loader(24)
    usual = rows_of(network, loader)
    with torch.no_grad():
        network.classifier.weight *= 1e-25
        network.classifier.bias.fill_(0.0)
    tiny = rows_of(network, loader)
    assert all(math.isfinite(row["cosine_mean"]) for row in tiny.values())
    assert usual.keys() == tiny.keys()
