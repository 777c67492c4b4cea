"""Intervals, tests and corrections against scipy's, against their definitions, and under what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from bnstudy.analysis import stats
from bnstudy.analysis.stats import Scale

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8).filter(lambda v: np.std(v) > 1e-6)


@settings(deadline=None)
@given(VALUES)
def test_an_interval_is_students(values):
    found = stats.interval([*values, math.nan])
    wanted = reference.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), wanted.low, wanted.high))
    assert found.n == len(values)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (1000, 5))
    held = [found.low <= 3.0 <= found.high for found in map(stats.interval, draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_scales_are_those_of_their_means():
    ratios = stats.interval([1.0, 10.0, 100.0], Scale.log)
    assert ratios.mean == pytest.approx(10) and ratios.mean / ratios.low == pytest.approx(ratios.high / ratios.mean)
    shares = stats.interval([0.9, 0.99, 0.999], Scale.logit)
    assert shares.mean / (1 - shares.mean) == pytest.approx((9 * 99 * 999) ** (1 / 3)) and shares.high < 1


def test_what_has_no_place_on_the_scale_is_counted():
    assert stats.interval([1.0, 2.0, math.inf]).left_out == 1
    assert stats.interval([0.0, 0.5, 0.6, 1.0], Scale.logit).left_out == 2
    alone = stats.interval([2.0])
    assert alone.mean == 2 and math.isnan(alone.low) and math.isnan(stats.interval([]).mean)


@settings(deadline=None)
@given(VALUES, st.floats(-10, 10))
def test_a_test_and_its_interval_agree(values, bound):
    found = stats.interval(values)
    assume(min(abs(found.low - bound), abs(found.high - bound)) > 1e-6)
    assert (stats.above(values, bound) < 0.05) == (found.low > bound)
    assert (stats.below(values, bound) < 0.05) == (found.high < bound)
    wanted = reference.ttest_1samp(values, bound, alternative="greater").pvalue
    assert stats.above(values, bound) == pytest.approx(min(1, 2 * wanted), abs=1e-9)


@settings(deadline=None)
@given(VALUES, st.floats(0.1, 100))
def test_equivalence_is_that_the_90_percent_interval_lies_inside(values, margin):
    found = reference.ttest_1samp(values, 0).confidence_interval(0.9)
    assume(min(abs(abs(found.low) - margin), abs(abs(found.high) - margin)) > 1e-6)
    assert (stats.equivalent(values, -margin, margin) < 0.05) == (-margin < found.low and found.high < margin)


def test_noise_never_makes_a_criterion_easier():
    quiet, noisy = np.array([1.0, 1.1, 0.9, 1.05, 0.95]), np.array([1.0, 3.0, -1.0, 2.0, 0.0])
    assert stats.above(quiet, 0) < stats.above(noisy, 0)
    assert stats.equivalent(quiet, 0, 2) < 0.05 < stats.equivalent(noisy, 0, 2)


def test_more_seeds_of_the_same_kind_make_it_easier():
    draws = np.random.default_rng(1).normal(1.0, 1.0, 40)
    assert stats.above(draws, 0) < stats.above(draws[:10], 0)


def test_infinitely_far_on_the_wrong_side_is_no_support():
    assert stats.below([0.1, 0.1, math.inf], 1) == 1
    assert stats.above([0.0, 5.0, 6.0], 1, Scale.log) == 1
    assert stats.above([5.0], 1) == 1


def test_infinitely_far_on_the_right_side_counts_as_far_as_the_furthest_finite_value():
    inf = math.inf
    assert stats.above([5.0, 5.1, 5.4, inf, inf], 1) == stats.above([5.0, 5.1, 5.4, 5.4, 5.4], 1)
    assert stats.below([0.1, 0.2, 0.4, 0.0], 1, Scale.log) == stats.below([0.1, 0.2, 0.4, 0.1], 1, Scale.log)
    assert stats.above([1.0, 2.0, 3.5], 1) > stats.above([1.0, 2.0, 3.5, inf], 1)
    assert stats.above([inf] * 5, 1, Scale.log) == stats.below([-inf] * 5, 1) == 0
    for few in ([5.0], [5.0, 6.0]):  # seeds that are finite decide nothing
        assert stats.above([inf] * 4 + few, 1, Scale.log) == 1
    assert 0 < stats.above([inf] * 4 + [5.0, 6.0, 7.0], 1, Scale.log) < 0.05


def test_pairs_are_formed_by_seed():
    treated, control = pd.Series([1.0, 2.0, 8.0], index=[2, 0, 7]), pd.Series([4.0, 1.0], index=[0, 2])
    assert stats.effect(treated, control).to_dict() == {0: -2.0, 2: 0.0}
    assert stats.effect(treated, control, Scale.log).to_dict() == {0: 0.5, 2: 1.0}
    shares = stats.effect(pd.Series([0.9]), pd.Series([0.5]), Scale.logit)
    assert shares.to_list() == pytest.approx([9.0])
    with pytest.raises(ValueError, match="seed 2 has two values"):
        stats.effect(pd.Series([1.0, 1.0], index=[2, 2]), control)


def test_holms_correction_by_hand():
    assert stats.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert stats.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0} and stats.holm({}) == {}


def test_a_slope_is_that_of_least_squares():
    x, y = [0.0, 1.0, 3.0, 4.0], [1.0, 2.0, 2.0, 5.0]
    assert stats.slope(x, y) == pytest.approx(np.polyfit(x, y, 1)[0])
    assert math.isnan(stats.slope([1.0, 1.0], [0.0, 1.0])) and math.isnan(stats.slope(x, [*y[:3], math.inf]))


def test_means_over_seeds_by_group():
    frame = pd.DataFrame({"depth": [2, 1, 1, 2], "value": [10.0, 1.0, 3.0, 1000.0]})
    found = stats.over_seeds(frame, ["depth"], "value", Scale.log)
    assert found["depth"].to_list() == [1, 2] and found["mean"].to_list() == pytest.approx([3**0.5, 100.0])
    assert (found["low"] < found["mean"]).all() and (found["n"] == 2).all()


def test_of_no_rows_there_are_no_means_but_columns_that_can_be_drawn():
    empty = stats.over_seeds(pd.DataFrame({"depth": [1], "value": [2.0]}).iloc[:0], ["depth"], "value")
    assert len(empty) == 0 and all(np.issubdtype(kind, np.number) for kind in empty.dtypes)
