"""Drifts against scipy, changed gradients against a step made by hand, and new noise after the step."""

from __future__ import annotations

import copy
import math

import pytest
import scipy.stats
import torch
from probe_networks import look, make_loader, make_network
from torch.nn import functional

from bnstudy import models, norms, probes
from bnstudy.probes.covariate_shift import READS, drift
from bnstudy.probes.snapshot import observe


def test_drift_is_scipys_distance_in_units_of_the_spread():
    source = torch.Generator().manual_seed(0)
    before, after = (torch.randn(7, 3, 4, 4, generator=source, dtype=torch.float64) for _ in range(2))
    distances, variances = [], []
    for channel in range(3):
        one, other = (x[:, channel].flatten().numpy() for x in (before, after))
        distances.append(scipy.stats.wasserstein_distance(one, other))
        variances.append(one.var())
    assert drift(before, after) == pytest.approx(sum(distances) / 3 / math.sqrt(sum(variances) / 3))


def test_known_drifts():
    x = torch.randn(500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    unit = x.var(0, correction=0).mean().sqrt().item()
    assert drift(x, x) == 0
    assert drift(x, x.flip(0)) == 0  # the same distribution
    assert drift(x, x + 0.5) == pytest.approx(0.5 / unit)
    assert drift(10 * x, 10 * x + 5) == pytest.approx(0.5 / unit)  # units do not matter


def test_rows_are_those_of_steps_made_by_hand():
    first, network, loader = make_network(seed=4), make_network(), make_loader()
    size = 0.3
    rows = {
        row["depth"]: row
        for row in probes.rows(
            "covariate_shift", {"step_size": size}, look(network, loader, reads=READS, initial=first.state_dict())
        )
    }
    assert sorted(rows) == [layer.depth for layer in network.layers[1:]]
    images, labels = loader.probe_batch(6)
    now = observe(network, images, labels, reads=READS)
    grown = copy.deepcopy(network).train()
    functional.cross_entropy(grown(images), labels).backward()
    with torch.no_grad():
        for p in grown.parameters():
            p -= size * p.grad
    stepped = observe(grown, images, labels, reads={"inputs"})
    start = observe(first, images, labels, reads={"inputs"})
    for depth, row in rows.items():
        assert row["step_drift"] == pytest.approx(drift(now.inputs[depth], stepped.inputs[depth]), rel=1e-4)
        assert row["start_drift"] == pytest.approx(drift(start.inputs[depth], now.inputs[depth]), rel=1e-4)
        other = now.after(size, depth, {"gradients"}).gradients[depth]
        g = now.gradients[depth]
        assert row["gradient_change"] == pytest.approx(((other - g).norm() / g.norm()).item(), rel=1e-4)
        cosine = functional.cosine_similarity(other.flatten(), g.flatten(), 0).item()
        assert row["gradient_cosine"] == pytest.approx(cosine, rel=1e-4)


def test_noise_is_new_after_the_step_and_the_state_of_chance_as_before():
    options = {"mean": 0.5, "std": 1.25}
    network = models.build("lenet", {}, norms.Factory("noisy_batch", options), "xavier_uniform", (1, 28, 28), 10, 0)
    images = torch.rand(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 10
    before = torch.get_rng_state()
    seen = observe(network, images, labels, reads=READS, initial=network.state_dict())
    rows = probes.rows("covariate_shift", {"step_size": 1e-9}, seen)
    assert torch.equal(before, torch.get_rng_state())
    assert min(row["step_drift"] for row in rows) > 0.05  # without a step to speak of
    quiet = models.build("lenet", {}, norms.Factory("batch", {}), "xavier_uniform", (1, 28, 28), 10, 0)
    rows = probes.rows("covariate_shift", {"step_size": 1e-9}, observe(quiet, images, labels, reads=READS))
    assert max(row["step_drift"] for row in rows) < 1e-4
    assert all(math.isnan(row["start_drift"]) for row in rows)


@pytest.mark.parametrize("size", [0.0, -1.0, math.inf, math.nan])
def test_a_step_size_that_makes_no_step_is_named(size):
    with pytest.raises(ValueError, match="step_size"):
        probes.rows("covariate_shift", {"step_size": size}, look(make_network(), make_loader(), reads=READS))
