"""Intervals and effect sizes against scipy's, against their definitions, and under what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bnstudy import effects
from bnstudy.effects import Arms

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8).filter(lambda v: np.std(v) > 1e-6)


@settings(deadline=None)
@given(VALUES)
def test_a_means_interval_is_students(values):
    found = effects.mean(values)
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), wanted.low, wanted.high))


@settings(deadline=None)
@given(VALUES, VALUES)
def test_a_differences_interval_is_welchs(a, b):
    found = effects.difference(a, b)
    wanted = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    held = [found.low <= 3.0 <= found.high for found in map(effects.mean, draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_cliffs_delta_counts_pairs(a, b):
    pairs = [(x > y) - (x < y) for x in a for y in b]
    delta = effects.cliffs_delta(a, b)
    assert delta == pytest.approx(sum(pairs) / len(pairs)) and effects.cliffs_delta(b, a) == pytest.approx(-delta)
    assert effects.cliffs_delta(np.cbrt(a), np.cbrt(b)) == pytest.approx(delta)


def test_too_few_values_have_no_interval():
    assert math.isnan(effects.mean([2.0]).low) and str(effects.mean([2.0])) == "2"
    assert effects.difference([1.0, 1.0], [3.0, 3.0]) == effects.Interval(-2.0, -2.0, -2.0)
    with pytest.raises(ValueError, match="no values"):
        effects.mean([])


def test_ratios_are_compared_by_their_logarithms():
    told = Arms("ratio", (1.0, 10.0, 100.0), (100.0, 1000.0, 1e4), ratio=True).told()
    assert told.startswith("ratio: 10 [") and "without over with BN 100 [" in told and "delta 0.889" in told


def test_what_is_not_finite_is_left_out_of_the_means_and_told():
    told = Arms("x", (1.0, 2.0), (math.inf, 3.0, 5.0)).told()
    assert "4 [" in told and told.endswith("left out of the means: 1") and "delta 1;" in told
    assert Arms("x", (), (1.0,)).told() == "" and Arms("x", (math.inf,), (1.0,)).told() == ""


def test_zero_has_no_logarithm_and_an_end_beyond_the_largest_number_is_infinite():
    told = Arms("x", (0.0, 2.0, 2.0), (1.0, 1e200), ratio=True).told()
    assert told.startswith("x: 2 [2, 2] with BN") and told.endswith("zero or infinite and left out of the means: 1")
    assert "∞] without" in told


def test_several_quantities_are_told_one_after_the_other():
    one, none, other = Arms("x", (1.0,), (2.0,)), Arms("y", (), (2.0,)), Arms("z", (3.0,), (4.0,))
    assert effects.told(()) == "" and effects.told(one) == one.told()
    assert effects.told((one, none, other)) == f"{one.told()}. {other.told()}"


def test_arms_of_a_frame():
    frame = pd.DataFrame({"norm": ["batch", "none", "none"], "value": [1, 2, math.nan]})
    assert effects.arms(frame, "value", "x") == Arms("x", (1.0,), (2.0,))
