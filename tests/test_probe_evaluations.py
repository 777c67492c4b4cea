"""The trained network on other inputs and in other modes: against plain loops and what must come out."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from bnstudy import models, norms, probes
from bnstudy.norms._statistics import reestimated
from bnstudy.probes._evaluation import score
from bnstudy.probes.shifted_inputs import SHIFTS
from bnstudy.probes.snapshot import observe

CLASSES = 10


class Loader:
    """512 images whose class is where they are bright; test and training images are the same."""

    num_train = 512

    def __init__(self):
        source = torch.Generator().manual_seed(0)
        self.labels = torch.arange(self.num_train) % CLASSES
        self.images = 0.3 * torch.rand(self.num_train, 1, 16, 16, generator=source)
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            image[0, label : label + 4] += 0.4

    def probe_batch(self, size, index=0):
        part = slice(index * size, (index + 1) * size)
        return self.images[part], self.labels[part]

    def split_batches(self, split, size):
        part = slice(400) if split == "train" else slice(400, None)
        yield from zip(self.images[part].split(size), self.labels[part].split(size), strict=True)

    def test_batches(self, size, alter=None):
        for images, labels in zip(self.images.split(size), self.labels.split(size), strict=True):
            yield images if alter is None else alter(images), labels


def trained(norm="batch", num=40, **options):
    """LeNet after a few updates of SGD."""
    network = models.build("lenet", {}, norms.Factory(norm, options), "xavier_uniform", (1, 16, 16), CLASSES, 0)
    optimiser, loader = torch.optim.SGD(network.parameters(), 1.0), Loader()
    for step in range(num):
        images, labels = loader.probe_batch(64, step % 8)
        optimiser.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimiser.step()
    return network


@pytest.fixture(scope="module")
def network():
    return trained()


def look(network):
    return observe(network, *Loader().probe_batch(64), reads=set(), loader=Loader())


def accuracy(network, images, labels):
    with torch.no_grad():
        return (network(images).argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("norm", ["batch", "batch_scratch", "batch_renorm", "ghost_batch"])
@pytest.mark.parametrize("size", [128, 100, 511])
def test_reestimated_statistics_are_those_of_all_images_together(norm, size):
    """However unequal the mini-batches: 511 and 1, 100 five times and 12."""
    network = models.build("lenet", {}, norms.Factory(norm, {}), "xavier_uniform", (1, 16, 16), CLASSES, 0).double()
    batches = [(x.double(), y) for x, y in Loader().test_batches(size)]
    network = nn.Sequential(OrderedDict((name, network.get_submodule(name)) for name in ("conv1", "norm1")))
    found = reestimated(network, batches)
    conv = network.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    outputs = [conv(x) for x, _ in batches]
    first = found.get_submodule("norm1")
    values = torch.cat([o.transpose(0, 1).flatten(1) for o in outputs], 1)
    mean, var = values.mean(1), values.var(1)
    torch.testing.assert_close(first.running_mean, mean)
    torch.testing.assert_close(first.running_var, var)
    assert not found.training and network.training
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), found.parameters(), strict=True))
    assert not network.state_dict()["norm1.running_mean"].any()  # the network's own are untouched


def test_shifts_stay_within_the_pixels_range():
    images = Loader().images
    for name, alter in SHIFTS.items():
        if alter is not None:
            shifted = alter(images)
            assert shifted.shape == images.shape and shifted.min() >= 0 and shifted.max() <= 1, name
            assert not torch.allclose(shifted, images), name
    blurred = SHIFTS["blurred"]
    assert blurred is not None
    kernel = torch.full((1, 1, 5, 5), 1 / 25)
    torch.testing.assert_close(blurred(images)[..., 2:-2, 2:-2], functional.conv2d(images, kernel))


def test_an_affine_change_of_contrast_is_undone_by_reestimated_statistics(network):
    """Without padding, BN behind the first convolution takes away a factor and a shift of all pixels: exactly."""
    rows = {(r["inputs"], r["statistics"]): r for r in probes.rows("shifted_inputs", {}, look(network))}
    assert len(rows) == 2 * len(SHIFTS)
    plain = rows["unchanged", "re-estimated"]
    assert rows["less contrast", "re-estimated"]["loss"] == pytest.approx(plain["loss"], rel=1e-2)
    assert rows["less contrast", "re-estimated"]["accuracy"] == pytest.approx(plain["accuracy"], abs=0.01)
    assert plain["accuracy"] > rows["less contrast", "stored"]["accuracy"] + 0.1
    loader = Loader()
    stored = copy.deepcopy(network).eval()
    inverted = accuracy(stored, 1 - loader.images, loader.labels)
    assert rows["inverted", "stored"]["accuracy"] == pytest.approx(inverted)


def test_a_network_without_statistics_has_stored_rows_alone():
    rows = probes.rows("shifted_inputs", {}, look(trained("none", 2)))
    assert {r["statistics"] for r in rows} == {"stored"} and len(rows) == len(SHIFTS)


def test_modes_are_those_of_plain_loops(network):
    options = {"batch_sizes": [1, 8, 256], "num_training": 1}
    before = copy.deepcopy(network.state_dict())
    rows = {(r["mode"], r["order"], r["batch_size"]): r for r in probes.rows("modes", options, look(network))}
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training
    loader = Loader()
    assert rows["eval", "mixed", 500]["accuracy"] == pytest.approx(
        accuracy(copy.deepcopy(network).eval(), loader.images, loader.labels)
    )
    assert math.isnan(rows["train", "mixed", 1]["accuracy"])  # one value a channel: refused by the dense layers' norms
    by_label = loader.labels.argsort(stable=True)
    forgetful, correct = copy.deepcopy(network).train(), 0
    for part in by_label.split(8):
        with torch.no_grad():
            correct += (forgetful(loader.images[part]).argmax(1) == loader.labels[part]).sum().item()
    assert rows["train", "sorted", 8]["accuracy"] == pytest.approx(correct / loader.num_train)
    forgetful = copy.deepcopy(network).train()
    for part in by_label.split(256):
        forgetful(loader.images[part])
    remembered = accuracy(forgetful.eval(), loader.images, loader.labels)
    assert rows["after", "sorted", 256]["accuracy"] == pytest.approx(remembered)
    # sorted batches of one class are what normalizing by the batch cannot tell apart
    assert rows["train", "sorted", 8]["accuracy"] < rows["eval", "mixed", 500]["accuracy"] - 0.2


def test_modes_of_a_network_without_statistics_are_one():
    (row,) = probes.rows("modes", {}, look(trained("none", 2)))
    assert row["mode"] == "eval"


def test_values_that_make_no_batches_are_named(network):
    for options in ({"batch_sizes": [0]}, {"num_training": 0}):
        with pytest.raises(ValueError, match="give 1 or more"):
            probes.rows("modes", options, look(network))


def test_a_score_is_that_of_the_whole_set():
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, CLASSES))
    whole, parts = (score(network, Loader().test_batches(size)) for size in (512, 100))
    assert whole.accuracy == parts.accuracy and whole.loss == pytest.approx(parts.loss)


def alone(norm, **options):
    """A norm and nothing else, for features (N, 3), as a network in training."""
    return nn.Sequential(norms.Factory(norm, options)(3, 0, "norm"))


@pytest.mark.parametrize("norm", ["batch", "batch_scratch", "batch_renorm", "ghost_batch", "noisy_batch", "whitening"])
def test_a_mini_batch_of_two_images_counts_as_two(norm):
    """A lone norm's mean was 5.3 where that of all was -0.015."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(502, 3, generator=source) @ torch.randn(3, 3, generator=source)
    x[500:] += 100
    found: Any = next(reestimated(alone(norm), [(x[:500], x), (x[500:], x)]).children())
    kept = found.norm if norm == "noisy_batch" else found
    torch.testing.assert_close(kept.running_mean, x.double().mean(0).float())
    if norm == "whitening":
        torch.testing.assert_close(kept.running_cov, torch.cov(x.double().T).float())
    else:
        torch.testing.assert_close(kept.running_var, x.double().var(0).float())


def test_quantiles_are_weighed_by_their_number_of_values():
    x, y = torch.zeros(500, 3), torch.ones(2, 3)
    found: Any = next(reestimated(alone("probability_integral"), [(x, x), (y, y)]).children())
    torch.testing.assert_close(found.running_quantiles, torch.full_like(found.running_quantiles, 2 / 502))


def test_statistics_of_no_image_or_of_an_unknown_kind_are_refused():
    with pytest.raises(ValueError, match="two values or more a channel, and were given 0"):
        reestimated(alone("batch"), [])

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_median", torch.zeros(3))

        def forward(self, x):
            return x - self.running_median

    with pytest.raises(ValueError, match=r"0: Own keeps statistics of its own kind; give it `statistics"):
        reestimated(nn.Sequential(Own()), [])


class Small(Loader):
    """Fewer images than a mini-batch of the probes, or one too many."""

    def __init__(self, num):
        super().__init__()
        self.images, self.labels, self.num_train = self.images[:num], self.labels[:num], num


def test_one_image_left_is_no_mini_batch_of_its_own(network):
    """It failed there: 501 images are 251 and 250."""
    loader = Small(501)
    seen = observe(network, *loader.probe_batch(64), reads=set(), loader=loader)
    rows = probes.rows("shifted_inputs", {}, seen)
    assert all(math.isfinite(row["loss"]) for row in rows) and len(rows) == 2 * len(SHIFTS)


def test_accumulated_is_not_defined_without_a_mini_batch_of_training_images(network):
    """It was "eval", digit for digit."""
    loader = Small(499)
    seen = observe(network, *loader.probe_batch(64), reads=set(), loader=loader)
    rows = {row["mode"]: row for row in probes.rows("modes", {"batch_sizes": [64]}, seen)}
    assert math.isnan(rows["accumulated"]["loss"]) and math.isfinite(rows["eval"]["loss"])


def test_splits_are_what_a_plain_loop_gives_and_none_where_nothing_is_held_out(network, monkeypatch):
    loader = Loader()
    evaluating = copy.deepcopy(network).eval()
    rows = {row["split"]: row for row in probes.rows("splits", {}, look(network))}
    for split, part in (("train", slice(400)), ("held_out", slice(400, None))):
        expected = accuracy(evaluating, loader.images[part], loader.labels[part])
        assert rows[split]["accuracy"] == pytest.approx(expected)
        with torch.no_grad():
            loss = functional.cross_entropy(evaluating(loader.images[part]), loader.labels[part])
        assert rows[split]["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert rows[split]["num_examples"] == len(loader.labels[part])
    monkeypatch.setattr(Loader, "split_batches", lambda self, split, size: iter(
        zip(self.images.split(size), self.labels.split(size), strict=True) if split == "train" else ()
    ))  # fmt: skip
    assert [row["split"] for row in probes.rows("splits", {}, look(network))] == ["train"]


def test_held_out_images_are_counted_in_whole_batches_up_to_a_number(network, monkeypatch):
    monkeypatch.setattr("bnstudy.probes.splits.BATCH", 20)
    rows = {row["split"]: row for row in probes.rows("splits", {"num_held_out": 50}, look(network))}
    assert (rows["train"]["num_examples"], rows["held_out"]["num_examples"]) == (400, 60)
    with pytest.raises(ValueError, match="num_held_out = 0"):
        probes.rows("splits", {"num_held_out": 0}, look(network))
