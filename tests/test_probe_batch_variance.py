"""The variance that BN divides by: found from what a layer does, whatever it divides by, and its mean by counting."""

from __future__ import annotations

import math

import pytest
import torch
from probe_networks import Loader
from torch import nn

from bnstudy import models, norms, probes
from bnstudy.probes import batch_variance
from bnstudy.probes.snapshot import observe

CLASSES = 3


def network(norm="batch", **options):
    return models.build("mlp", {"hidden": "5"}, norms.Factory(norm, options), "torch_default", (1, 2, 2), CLASSES, 0)


def loader(num=64):
    source = torch.Generator().manual_seed(0)
    return Loader(torch.rand(num, 1, 2, 2, generator=source), torch.randint(CLASSES, (num,), generator=source))


def rows(of, given, **options):
    seen = observe(of, *given.probe_batch(8), reads=set(), loader=given)
    return {row["batch_size"]: row for row in probes.rows("batch_variance", options, seen)}


def test_ratio_and_scatter_by_hand():
    made, given = network(), loader()
    x = made.get_submodule("hidden.0.dense").double()(given.images.flatten(1).double())
    found = rows(made.float(), given, batch_sizes=[2, 8])
    assert list(found) == [2, 8]
    for size, row in found.items():
        v = torch.stack([part.var(0, correction=0) for part in x.split(size)])
        assert row["num_batches"] == 64 // size == len(v)
        assert row["ratio"] == pytest.approx((v.mean(0) / x.var(0)).mean().item(), rel=1e-5)
        assert row["scatter"] == pytest.approx((v.std(0, correction=0) / x.var(0)).mean().item(), rel=1e-5)


def test_the_mean_over_all_mini_batches_that_there_can_be_is_that_of_the_formula():
    """Of four images all six pairs, with equal weights: exactly (m - 1)/m of the variance that divides by N - 1."""
    four = loader(4)
    pairs = [(a, b) for a in range(4) for b in range(a)]
    x = network().get_submodule("hidden.0.dense").double()(four.images.flatten(1).double())
    v = torch.stack([x[list(pair)].var(0, correction=0) for pair in pairs]).mean(0)
    torch.testing.assert_close(v, x.var(0) / 2)


class Dividing(nn.BatchNorm1d):
    """A norm that divides by the unbiased estimate."""

    def forward(self, x):
        return (x - x.mean(0)) / (x.var(0, correction=1) + self.eps).sqrt() * self.weight + self.bias


@pytest.mark.parametrize(("kind", "correction"), [(nn.BatchNorm1d, 0), (Dividing, 1)])
@pytest.mark.parametrize("size", [2, 32])
def test_what_a_layer_divides_by_is_seen_from_outside(kind, correction, size):
    norm, x = kind(4, eps=0.3).double(), torch.randn(size, 4, dtype=torch.float64)
    torch.testing.assert_close(batch_variance._divided_by(norm, x), x.var(0, correction=correction))


def test_a_constant_channel_has_no_variance():
    norm, x = nn.BatchNorm1d(2).double(), torch.tensor([[1.0, 2.0], [1.0, 3.0]], dtype=torch.float64)
    assert batch_variance._divided_by(norm, x).tolist() == [0.0, pytest.approx(0.25)]


def test_gamma_does_not_matter_and_the_network_stays_as_it_was():
    made, given = network(), loader()
    with torch.no_grad():
        made.get_submodule("hidden.0.norm").weight.copy_(torch.tensor([0.0, 1.0, -2.0, 3.0, 1e-3]))
    before = {key: value.clone() for key, value in made.state_dict().items()}
    assert rows(made, given, batch_sizes=[4])[4]["ratio"] == rows(network(), given, batch_sizes=[4])[4]["ratio"]
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


def test_over_many_mini_batches_it_is_biased_by_m_less_one_over_m():
    for size, row in rows(network(), loader(20_000), batch_sizes=[2, 8]).items():
        assert row["ratio"] == pytest.approx((size - 1) / size, abs=0.1 / size)


def test_what_fills_no_mini_batch_of_the_largest_size_is_left_out():
    found = rows(network(), loader(23), batch_sizes=[2, 8])
    assert {size: row["num_batches"] for size, row in found.items()} == {2: 8, 8: 2}


def test_without_bn_there_are_no_rows():
    assert rows(network("none"), loader()) == {}


@pytest.mark.parametrize("sizes", [[1, 4], [], [65]])
def test_sizes_that_make_no_variance_are_refused(sizes):
    with pytest.raises(ValueError, match=r"batch_sizes = .*give"):
        rows(network(), loader(), batch_sizes=sizes)


def test_a_network_that_has_diverged_has_no_ratio():
    made = network()
    with torch.no_grad():
        made.get_submodule("hidden.0.dense").weight.fill_(math.inf)
    assert math.isnan(rows(made, loader(), batch_sizes=[2])[2]["ratio"])
