"""Cancellation entry by entry, against the averages of Table 1 and against loops over every summand."""

from __future__ import annotations

import math
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from probe_networks import Layer, look, make_loader, make_network

from bnstudy import probes
from bnstudy.probes.conv_gradient_entries import FACTORS, QUANTILES


def told(rows, quantity):
    return {row["x"]: row["value"] for row in rows if row["quantity"] == quantity}


def convolve(image, grad):
    """The probe's rows for a convolution with this input and gradient at its output."""
    conv = torch.nn.Conv2d(image.shape[1], grad.shape[1], 3, padding=1, bias=False, dtype=image.dtype)
    loss = (conv(image) * grad).sum()
    (weight,) = torch.autograd.grad(loss, [conv.weight])
    seen: Any = SimpleNamespace(
        layers=(Layer(1, "conv", "conv", "relu"),), inputs={1: image}, output_gradients={1: grad},
        gradients={1: weight}, module=lambda layer: conv,
    )  # fmt: skip
    return probes.rows("conv_gradient_entries", {}, seen)


def loop(image, grad):
    """sum |d| and |sum d| of every kernel entry, one summand at a time."""
    both = []
    for co, ci, ky, kx in product(range(grad.shape[1]), range(image.shape[1]), range(3), range(3)):
        summands = []
        for b, y, x in product(range(grad.shape[0]), range(grad.shape[2]), range(grad.shape[3])):
            row, column = y + ky - 1, x + kx - 1
            if 0 <= row < image.shape[2] and 0 <= column < image.shape[3]:
                summands.append(grad[b, co, y, x].item() * image[b, ci, row, column].item())
        both.append((sum(map(abs, summands)), abs(sum(summands))))
    return np.array(both).T


@pytest.mark.parametrize("seed", [0, 1])
def test_quantiles_are_those_of_a_loop_over_every_summand(seed):
    source = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, 4, 4, generator=source, dtype=torch.float64)
    grad = torch.randn(2, 2, 4, 4, generator=source, dtype=torch.float64) + seed
    rows = convolve(image, grad)
    sum_abs, abs_sum = loop(image, grad)
    assert {row["num_entries"] for row in rows} == {sum_abs.size}
    num_summands = 2 * 4 * 4
    slow = {"sum_abs": sum_abs / num_summands, "abs_sum": abs_sum / num_summands, "ratio": sum_abs / abs_sum}
    for quantity, values in slow.items():
        expected = np.quantile(values, QUANTILES, method="nearest")
        assert list(told(rows, quantity)) == list(QUANTILES)
        assert list(told(rows, quantity).values()) == pytest.approx(expected)
    shares = [(sum_abs / abs_sum < factor).mean() for factor in FACTORS]
    assert list(told(rows, "share_below").values()) == pytest.approx(shares)


def test_one_sign_everywhere_has_ratio_1():
    rows = convolve(torch.rand(3, 2, 5, 5) + 0.1, torch.rand(3, 4, 5, 5))
    assert list(told(rows, "ratio").values()) == pytest.approx([1.0] * len(QUANTILES), abs=1e-5)
    assert min(told(rows, "ratio").values()) >= 1
    assert set(told(rows, "share_below").values()) == {1.0}


def test_summands_that_cancel_have_no_finite_ratio():
    grad = torch.ones(2, 1, 4, 4)
    grad[1] = -1
    rows = convolve(torch.ones(2, 1, 4, 4), grad)
    assert set(told(rows, "ratio").values()) == {math.inf}
    assert set(told(rows, "share_below").values()) == {0.0}


def test_entries_without_a_summand_are_left_out():
    image = torch.rand(2, 3, 4, 4) + 0.1
    image[:, 1] = 0
    rows = convolve(image, torch.ones(2, 2, 4, 4))
    assert {row["num_entries"] for row in rows} == {2 * 2 * 9}
    assert min(told(rows, "sum_abs").values()) > 0
    dead = convolve(image, torch.zeros(2, 2, 4, 4))
    assert {row["num_entries"] for row in dead} == {0} and all(math.isnan(row["value"]) for row in dead)


def test_a_gradient_that_is_not_finite_has_no_numbers():
    grad = torch.ones(2, 2, 4, 4)
    grad[0, 0, 0, 0] = math.nan
    rows = convolve(torch.rand(2, 3, 4, 4) + 0.1, grad)
    assert all(math.isnan(row["value"]) for row in rows)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_network_has_its_convolutions_and_their_averages_between_the_quantiles(norm):
    network = make_network(norm)
    seen = look(network, make_loader())
    rows = probes.rows("conv_gradient_entries", {}, seen)
    averages = {row["depth"]: row for row in probes.rows("conv_gradient_sums", {}, seen)}
    assert {row["depth"] for row in rows} == set(averages)
    for depth, average in averages.items():
        here = [row for row in rows if row["depth"] == depth]
        for quantity in ("sum_abs", "abs_sum"):
            values = told(here, quantity)
            assert values[QUANTILES[0]] <= average[quantity] <= max(values.values()) * 2
