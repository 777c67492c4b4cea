"""Tail statistics against scipy, loops, and closed forms on exact Pareto samples."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_networks import Layer, look, make_loader, make_network

from bnstudy import probes
from bnstudy.probes.gradient_tails import QUANTILES, TAIL_SHARES, hill, linear_histogram, log_histogram


def rows_of(gradient, **options):
    """The probe's rows for one layer with this weight gradient, by quantity."""
    layer = Layer(1, "stem", "conv", "relu")
    seen: Any = SimpleNamespace(layers=(layer,), gradients={1: torch.as_tensor(gradient)})
    rows: dict[str, list] = {}
    for row in probes.rows("gradient_tails", options, seen):
        rows.setdefault(row["quantity"], []).append(row)
    return rows


def draw(shape=(16, 8, 3, 3), seed=0):
    return np.random.default_rng(seed).standard_t(3, shape)


def test_scalars_and_quantiles_are_scipys():
    gradient = draw()
    rows, values = rows_of(gradient), gradient.ravel()
    value = {quantity: found[0]["value"] for quantity, found in rows.items()}
    assert value["count"] == values.size
    assert value["mean"] == pytest.approx(values.mean(), abs=1e-15)
    assert value["std"] == pytest.approx(values.std())
    assert value["kurtosis"] == pytest.approx(scipy.stats.kurtosis(values, fisher=False))
    assert value["max_abs"] == np.abs(values).max()
    assert [r["x"] for r in rows["quantile"]] == list(QUANTILES)
    assert [r["value"] for r in rows["quantile"]] == pytest.approx(np.quantile(values, QUANTILES))


def test_a_normal_sample_has_kurtosis_3():
    value = rows_of(np.random.default_rng(0).standard_normal((64, 2000)))["kurtosis"][0]["value"]
    assert value == pytest.approx(3, abs=4 * math.sqrt(24 / 128_000))  # standard error of a normal sample's kurtosis


def test_histograms_count_every_entry_once():
    gradient = draw()
    gradient[0, 0] = 0.0
    rows = rows_of(gradient, num_bins=10)
    for row in rows["histogram_linear"]:
        top = row is rows["histogram_linear"][-1]
        slow = sum(row["x"] <= g < row["x_high"] or (top and g == row["x_high"]) for g in gradient.ravel())
        assert row["value"] == slow
    for row in rows["histogram_log"]:
        assert row["value"] == sum(row["x"] <= abs(g) < row["x_high"] for g in gradient.ravel())
    for quantity in ("histogram_linear", "histogram_log"):
        assert len(rows[quantity]) == 10
        assert sum(r["value"] for r in rows[quantity]) == gradient.size
        assert all(a["x_high"] == b["x"] for a, b in zip(rows[quantity], rows[quantity][1:], strict=False))


@given(st.floats(1e-35, 1e35), st.integers(1, 80))
@settings(max_examples=200, deadline=None)
def test_no_scale_loses_an_entry(largest, num_bins):
    values = np.array([largest, -largest / 3, largest / 1e4, 0.0])
    for histogram in (linear_histogram, log_histogram):
        counts, edges = histogram(values, num_bins)
        assert counts.sum() == 4 and len(counts) == num_bins and (np.diff(edges) > 0).all()


def test_log_bins_of_different_runs_coincide():
    one, other = (log_histogram(draw(seed=seed).ravel() * 10.0**seed, 64)[1][1:] for seed in (0, 1))
    assert len(np.intersect1d(one, other)) >= 50


# --- the tail index ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 2.0, 7.0])
def test_hill_has_its_closed_form_on_exact_pareto_quantiles(alpha):
    """X_(i) = (n / i)^(1/alpha) gives sum_{i<=k} ln(X_(i) / X_(k+1)) = (k ln(k + 1) - ln k!) / alpha."""
    num = 4000
    values = (num / np.arange(1, num + 1)) ** (1 / alpha)
    shuffled = np.random.default_rng(0).permutation(values).reshape(40, 100)
    found, _, _ = hill(shuffled, TAIL_SHARES, 1)
    for share, value in zip(TAIL_SHARES, found, strict=True):
        k = round(share * num)
        assert value == pytest.approx(alpha * k / (k * math.log(k + 1) - scipy.special.gammaln(k + 1)), rel=1e-10)


def test_hill_is_the_maximum_likelihood_fit_of_the_largest_values():
    values = np.abs(draw((20, 100)))
    found, _, _ = hill(values, TAIL_SHARES, 1)
    falling = np.sort(values.ravel())[::-1]
    for share, value in zip(TAIL_SHARES, found, strict=True):
        k = round(share * values.size)
        fitted, _, _ = scipy.stats.pareto.fit(falling[:k], floc=0, fscale=falling[k])
        assert value == pytest.approx(fitted)


def test_hill_agrees_with_the_powerlaw_package():
    powerlaw = pytest.importorskip("powerlaw")
    values = np.random.default_rng(0).pareto(1.2, (20, 100))
    falling = np.sort(values.ravel())[::-1]
    (found,), _, _ = hill(values, (0.1,), 1)
    fit = powerlaw.Fit(falling, xmin=falling[200], verbose=False)
    # Its exponent is the density's, one more than the tail's, and it counts X_(k+1) among the data.
    assert found == pytest.approx((fit.power_law.alpha - 1) * 200 / 201, rel=1e-4)


def slow_hill(values, share):
    falling = sorted(values, reverse=True)
    k = max(1, round(share * len(falling)))
    return k / sum(math.log(falling[i] / falling[k]) for i in range(k))


def test_the_interval_is_that_of_explicit_resamples_of_channels():
    values = np.abs(draw((12, 50))) * np.linspace(0.2, 3, 12)[:, None]
    _, low, high = hill(values, TAIL_SHARES, 30)
    draws = np.random.default_rng(0).integers(0, 12, (30, 12))
    slow = [[1 / slow_hill(np.concatenate([values[c] for c in row]), share) for share in TAIL_SHARES] for row in draws]
    assert low == pytest.approx(1 / np.percentile(slow, 97.5, axis=0))
    assert high == pytest.approx(1 / np.percentile(slow, 2.5, axis=0))


def test_the_interval_covers_the_index_of_pareto_samples():
    source = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        _, (low,), (high,) = hill(source.pareto(2.0, (64, 50)) + 1, (0.1,), 100)
        hits += low <= 2.0 <= high
    assert hits >= 50  # of 57 expected: at 95 %, fewer than 51 come about once in a thousand


def test_a_few_strong_channels_widen_the_interval():
    values = np.random.default_rng(0).pareto(2.0, (32, 200)) + 1
    _, low, high = hill(values, (0.05,), 200)
    values = values * np.where(np.arange(32) < 2, 30.0, 1.0)[:, None]
    _, low_blocks, high_blocks = hill(values, (0.05,), 200)
    assert (high_blocks - low_blocks).item() > 3 * (high - low).item()


@given(st.floats(1e-20, 1e20))
@settings(max_examples=30, deadline=None)
def test_shape_statistics_do_not_depend_on_the_scale(scale):
    gradient = draw((8, 40))
    scaled = hill(np.abs(gradient) * scale, TAIL_SHARES, 5)
    for one, other in zip(hill(np.abs(gradient), TAIL_SHARES, 5), scaled, strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    kurtosis = rows_of(gradient * scale, num_bootstrap=1)["kurtosis"][0]["value"]
    assert kurtosis == pytest.approx(scipy.stats.kurtosis(gradient.ravel(), fisher=False))


def test_zero_and_non_finite_gradients():
    dead = rows_of(np.zeros((4, 25)))
    assert dead["std"][0]["value"] == 0 and math.isnan(dead["kurtosis"][0]["value"])
    assert sum(r["value"] for r in dead["histogram_log"]) == 100 == dead["histogram_log"][0]["value"]
    assert all(math.isnan(r["value"]) for r in dead["hill"])
    sparse = np.zeros((4, 25))
    sparse[0, :5] = [5.0, 4.0, 3.0, 2.0, 1.0]
    found = [r["value"] for r in rows_of(sparse)["hill"]]
    assert found[0] == pytest.approx(1 / math.log(5 / 4)) and found[3] > 0 and math.isnan(found[4])
    broken = draw()
    broken[1, 2] = [[np.nan, np.inf, -np.inf], [1, 2, 3], [1, 2, 3]]
    rows = rows_of(broken)
    assert rows["count"][0]["value"] == broken.size - 3 == sum(r["value"] for r in rows["histogram_linear"])
    for quantity in ("mean", "std", "kurtosis", "max_abs", "quantile", "hill"):
        assert all(math.isnan(r["value"]) for r in rows[quantity]), quantity


def test_equal_values_have_an_infinite_index():
    for value in (1.0, 0.3, 1e-20):
        assert np.isinf(hill(np.full((4, 25), value), TAIL_SHARES, 5)).all()


def test_every_layer_has_the_same_rows():
    network = make_network()
    rows = probes.rows("gradient_tails", {"num_bins": 6, "num_bootstrap": 3}, look(network, make_loader()))
    assert len(rows) == len(network.layers) * (5 + len(QUANTILES) + 2 * 6 + len(TAIL_SHARES))
