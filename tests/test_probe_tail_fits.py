"""Laws fitted to a tail: against numerical integrals, the powerlaw package, scipy, and samples of known laws."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_networks import Layer

from bnstudy import probes
from bnstudy.probes import tail_fits
from bnstudy.probes.tail_fits import LAWS, log_ratio, power_law_distance


def rows_of(values_ON, **options):
    layer = Layer(1, "stem", "conv", "relu")
    seen: Any = SimpleNamespace(layers=(layer,), gradients={1: torch.as_tensor(values_ON)})
    return probes.rows("tail_fits", options, seen)


def by_law(rows, chosen=False):
    return {row["law"]: row for row in rows if row["chosen"] == chosen}


def above_one(law, shape, scale, num=3000):
    """Evenly spaced quantiles of a law, above 1: ln x, falling."""
    frozen = {
        "power_law": lambda: scipy.stats.pareto(shape),
        "lognormal": lambda: scipy.stats.lognorm(shape, scale=scale),
        "stretched_exponential": lambda: scipy.stats.weibull_min(shape, scale=scale),
        "half_normal": lambda: scipy.stats.halfnorm(scale=scale),
    }[law]()
    survival = (np.arange(num) + 0.5) / num * frozen.sf(1)
    return np.log(frozen.isf(survival)), frozen


KNOWN = [
    ("power_law", 0.7, 1.0),
    ("power_law", 4.0, 1.0),
    ("lognormal", 1.2, 0.4),
    ("lognormal", 0.5, 3.0),
    ("stretched_exponential", 0.4, 0.1),
    ("stretched_exponential", 2.0, 1.5),
    ("half_normal", math.nan, 0.6),
    ("half_normal", math.nan, 9.0),
]


@pytest.mark.parametrize(("law", "shape", "scale"), KNOWN)
def test_a_law_is_found_again_in_its_own_quantiles(law, shape, scale):
    logs, frozen = above_one(law, shape, scale)
    found_shape, found_scale, log_density = LAWS[law](logs)
    assert found_shape == pytest.approx(shape, rel=0.05, nan_ok=True)
    if law != "power_law":
        assert found_scale == pytest.approx(scale, rel=0.1)
    true_density = frozen.logpdf(np.exp(logs)) - frozen.logsf(1)
    assert true_density.sum() <= log_density.sum() + 1e-6  # it is a maximum
    assert log_density == pytest.approx(true_density, abs=0.3)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("source", "shape", "scale"), KNOWN)
def test_densities_have_area_1_and_the_shape_they_name(law, source, shape, scale):
    logs, _ = above_one(source, shape, scale, 200)
    found_shape, found_scale, log_density = LAWS[law](logs)
    x = np.exp(logs)
    slow = {
        "power_law": lambda x: x ** -(found_shape + 1),
        "lognormal": lambda x: np.exp(-(np.log(x / found_scale) ** 2) / (2 * found_shape**2)) / x,
        "stretched_exponential": lambda x: x ** (found_shape - 1) * np.exp(-((x / found_scale) ** found_shape)),
        "half_normal": lambda x: np.exp(-(x**2) / (2 * found_scale**2)),
    }[law]
    with np.errstate(all="ignore"):
        kernel = slow(x)
        ratios = np.exp(log_density) / kernel
    if not (np.isfinite(ratios).all() and 1e-200 < found_scale < 1e200):  # a power law by another name
        pytest.skip("the law is at its limit, where its parameters cannot be told")
    assert ratios == pytest.approx(ratios[0], rel=1e-5)
    area, _ = scipy.integrate.quad(lambda y: float(slow(math.exp(y)) * math.exp(y)), 0, max(60.0, logs[0]), limit=500)
    assert area * ratios[0] == pytest.approx(1, rel=1e-3)


def test_the_power_law_and_the_ratio_are_those_of_the_powerlaw_package():
    powerlaw = pytest.importorskip("powerlaw")
    logs = np.sort(np.log(np.random.default_rng(0).lognormal(0, 2, 4000)))[::-1]
    logs = logs[:800] - logs[800]
    fit = powerlaw.Fit(np.exp(logs), xmin=1.0, verbose=0, parameter_ranges={"alpha": [1, 50]})
    index, _, log_density = LAWS["power_law"](logs)
    assert index == pytest.approx(fit.power_law.alpha - 1, rel=1e-6)
    assert power_law_distance(logs) == pytest.approx(fit.power_law.D, abs=2e-3)
    other = LAWS["half_normal"](logs)[2]
    ratio, std = log_ratio(log_density - other, np.arange(800), 800)
    expected, p = powerlaw.statistics.loglikelihood_ratio(log_density, other)
    assert ratio == pytest.approx(expected)
    assert scipy.special.erfc(abs(ratio) / (math.sqrt(2) * std)) == pytest.approx(p, rel=0.02)


def test_the_distance_is_scipys():
    logs = np.sort(np.random.default_rng(0).exponential(0.4, 300) ** 1.3)[::-1]
    expected = scipy.stats.kstest(logs, scipy.stats.expon(scale=logs.mean()).cdf).statistic
    assert power_law_distance(logs) == pytest.approx(expected)


@pytest.mark.parametrize(("source", "shape", "scale"), KNOWN)
def test_laws_that_contain_the_power_law_are_never_less_likely(source, shape, scale):
    logs, _ = above_one(source, shape, scale, 400)
    least = LAWS["power_law"](logs)[2].sum()
    for law in ("lognormal", "stretched_exponential"):
        assert LAWS[law](logs)[2].sum() >= least - 0.15


@pytest.mark.slow
def test_a_power_law_is_kept_about_as_often_as_the_doubled_ratio_says():
    """Where the power law holds, twice the ratio over its standard deviation is normal, cut at 0 (see the finding)."""
    source = np.random.default_rng(0)
    beyond = []
    for _ in range(200):
        rows = by_law(rows_of(source.pareto(2.0, (40, 100)) + 1))
        beyond += [-2 * r["log_ratio"] > 2 * r["log_ratio_std"] for r in (rows["stretched_exponential"],)]
    assert sum(beyond) <= 15  # 2.3 % expected: 5


def test_entries_of_a_channel_count_as_one_block():
    source = np.random.default_rng(0)
    differences, channels = source.normal(0.1, 1, 400), np.arange(400) % 50
    ratio, std = log_ratio(differences, channels, 50)
    totals = [differences[channels == c].sum() for c in range(50)]
    assert ratio == pytest.approx(sum(totals)) and std == pytest.approx(math.sqrt(50) * np.std(totals, ddof=1))
    twice, wider = log_ratio(np.tile(differences, 2), np.tile(channels, 2), 50)
    assert twice == pytest.approx(2 * ratio) and wider == pytest.approx(2 * std)


def test_the_threshold_is_chosen_where_the_power_law_begins():
    num = 20_000
    falling = np.empty(num)
    tail = num // 10
    falling[:tail] = (tail / (np.arange(tail) + 0.5)) ** (1 / 1.5)
    falling[tail:] = np.linspace(1, 0.9, num - tail)
    rows = rows_of(np.random.default_rng(0).permutation(falling).reshape(50, 400), shares=(0.3,))
    chosen = by_law(rows, chosen=True)["power_law"]
    assert chosen["share"] <= 0.1 and chosen["shape"] == pytest.approx(1.5, rel=0.05)
    assert chosen["distance"] < 0.02 < by_law(rows)["power_law"]["distance"]


@pytest.mark.parametrize("law", ["lognormal", "stretched_exponential", "half_normal"])
def test_what_is_no_power_law_is_seen(law):
    logs, _ = above_one(law, 1.0, 1.0, 6000)
    rows = by_law(rows_of(np.random.default_rng(0).permutation(np.exp(logs)).reshape(60, 100), shares=(0.5,)))
    best = max(rows, key=lambda name: -rows[name]["log_ratio"])
    assert best == law or rows[law]["log_ratio"] - rows[best]["log_ratio"] < 0.5
    assert -2 * rows[law]["log_ratio"] > 2 * rows[law]["log_ratio_std"]


@given(st.floats(1e-20, 1e20))
@settings(max_examples=10, deadline=None)
def test_only_scales_depend_on_the_scale(factor):
    values = np.random.default_rng(0).standard_t(3, (10, 200))
    for one, other in zip(rows_of(values), rows_of(values * factor), strict=True):
        for column in ("share", "distance", "shape", "log_ratio", "log_ratio_std"):
            assert other[column] == pytest.approx(one[column], rel=1e-3, abs=1e-6, nan_ok=True)
        for column in ("threshold", "scale"):
            assert other[column] == pytest.approx(one[column] * factor, rel=1e-2)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((8, 100)),
        np.ones((8, 100)),
        np.where(np.arange(800) == 5, np.nan, 1.0).reshape(8, 100),
        np.where(np.arange(800) == 5, np.inf, 1.0).reshape(8, 100),
        np.random.default_rng(0).normal(size=(4, 20)),
    ],
    ids=["zero", "equal", "nan", "infinite", "few"],
)
def test_a_tail_that_cannot_be_fitted_has_no_numbers(values):
    rows = rows_of(values)
    assert len(rows) == 2 * len(LAWS)
    for row in rows:
        assert row["num_tail"] == 0
        assert all(math.isnan(row[c]) for c in ("threshold", "distance", "shape", "scale", "log_ratio"))


def test_shares_that_make_no_sense_are_refused():
    for shares in ((0.0,), (1.0,)):
        with pytest.raises(ValueError, match="tail_fits: shares = "):
            rows_of(np.ones((2, 100)), shares=shares)


def test_the_choices_end_where_half_of_the_entries_are_tail():
    assert tail_fits.CHOICES[0] == 0.01 and tail_fits.CHOICES[-1] == 0.5
