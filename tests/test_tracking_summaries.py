"""What a dashboard is shown of each probe's table, against sums done by hand."""

from __future__ import annotations

import math

import pytest

from bnstudy.tracking.summaries import Histogram, summarise

NAN, INF = math.nan, math.inf


def tail(depth: int, quantity: str, value: float, x: float = NAN, x_high: float = NAN) -> dict[str, object]:
    where = {"depth": depth, "layer": f"l{depth}", "quantity": quantity, "x": x, "x_high": x_high}
    return {**where, "value": value, "low": NAN, "high": NAN}


def test_moments_are_means_of_logarithms_over_channels_as_in_figure_5() -> None:
    moments = [
        (1, "activation", 2.0, 4.0),
        (1, "activation", -8.0, 16.0),
        (1, "preactivation", 0.0, 1.0),
        (55, "activation", 1.0, 0.0),
    ]
    rows = [
        {"depth": d, "layer": "l", "site": s, "block_output": False, "channel": i, "mean": m, "variance": v}
        for i, (d, s, m, v) in enumerate(moments)
    ]
    assert summarise("activation_moments", rows) == {
        "activation_moments/depth_001/activation_ln_std": pytest.approx((math.log(2) + math.log(4)) / 2),
        "activation_moments/depth_001/activation_ln_abs_mean": pytest.approx((math.log(2) + math.log(8)) / 2),
        "activation_moments/depth_001/preactivation_ln_std": pytest.approx(0.0),  # its mean is 0: no logarithm
        "activation_moments/depth_055/activation_ln_abs_mean": pytest.approx(0.0),  # a dead channel: no logarithm
    }


def test_rows_that_a_text_tells_apart_are_numbers_of_their_own() -> None:
    losses = {"train": 0.25, "held_out": 0.5}
    rows = [{"split": split, "loss": loss, "accuracy": 1 - loss} for split, loss in losses.items()]
    assert summarise("splits", rows) == {
        "splits/train_loss": 0.25, "splits/train_accuracy": 0.75,
        "splits/held_out_loss": 0.5, "splits/held_out_accuracy": 0.5,
    }  # fmt: skip


def test_tails_give_a_number_a_quantity_and_a_histogram_a_layer() -> None:
    rows = [
        tail(55, "std", 0.5),
        tail(55, "kurtosis", INF),
        tail(56, "std", NAN),
        tail(55, "hill", 2.0, x=0.01),
        tail(55, "hill", 4.0, x=0.10),
        tail(55, "quantile", 0.7, x=0.99),
        tail(55, "histogram_linear", 7, x=0.0, x_high=1.0),
        tail(55, "histogram_linear", 3, x=-1.0, x_high=0.0),
    ]
    assert summarise("gradient_tails", rows) == {
        "gradient_tails/depth_055/std": 0.5,
        "gradient_tails/depth_055/kurtosis": INF,
        "gradient_tails/depth_055/hill": 3.0,
        "gradient_tails/depth_055/histogram_linear": Histogram((3, 7), (-1.0, 0.0, 1.0)),
    }


def test_bins_without_edges_make_no_histogram() -> None:
    rows = [tail(1, "histogram_log", 0, x=NAN, x_high=NAN), tail(2, "histogram_log", 1, x=0.0, x_high=1.0)]
    rows.append(tail(2, "histogram_log", 1, x=5.0, x_high=6.0))
    assert summarise("gradient_tails", rows) == {}


def test_the_loss_along_a_step_is_its_lowest_point() -> None:
    losses = [(0.001, 0.9), (0.01, 0.4), (0.1, INF), (0.2, NAN)]
    rows = [{"step_size": s, "loss": 2 * r, "relative_loss": r} for s, r in losses]
    assert summarise("loss_along_step", rows) == {
        "loss_along_step/best_relative_loss": 0.4,
        "loss_along_step/best_step_size": 0.01,
    }
    assert summarise("loss_along_step", rows[3:]) == {}


def test_indexed_entries_are_left_to_the_tables() -> None:
    shares = {"quantity": "top_column_share", "example": -1, "label": -1, "column": 3, "value": 0.8}
    entry = {"quantity": "entry", "example": 0, "label": 1, "column": 3, "value": 0.1}
    assert summarise("logit_gradient", [shares, entry]) == {"logit_gradient/top_column_share": 0.8}


def test_a_probe_that_nobody_has_described_gives_its_real_columns_by_depth_and_batch_size() -> None:
    rows = [
        {"depth": 1, "layer": "a", "batch_size": 32, "num_pairs": 28, "cosine_mean": 0.25, "defined": True},
        {"depth": 1, "layer": "a", "batch_size": 128, "num_pairs": 28, "cosine_mean": 0.5, "defined": True},
        {"depth": 2, "layer": "b", "batch_size": 32, "num_pairs": 0, "cosine_mean": NAN, "defined": False},
    ]
    assert summarise("gradient_correlation", rows) == {
        "gradient_correlation/depth_001/batch_32_cosine_mean": 0.25,
        "gradient_correlation/depth_001/batch_128_cosine_mean": 0.5,
    }
    assert summarise("new_probe", [{"roughness": 1.0}, {"roughness": 3.0}]) == {"new_probe/roughness": 2.0}


def test_no_rows_give_nothing() -> None:
    assert summarise("activation_moments", []) == summarise("loss_along_step", []) == summarise("weights", []) == {}
