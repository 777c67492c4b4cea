"""Table 1's sums against loops over every summand of equation 5."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_networks import look, make_loader, make_network

from bnstudy import probes


@dataclass
class Pass:
    """What the probe reads, of one convolution alone."""

    layers: tuple
    conv: torch.nn.Module
    inputs: dict
    output_gradients: dict
    gradients: dict

    def module(self, layer):
        return self.conv


def loop(seen, layer):
    """(number of summands, mean of sum |d| / number, mean of |sum d| / number), one summand at a time."""
    conv = seen.module(layer)
    image, grad = seen.inputs[layer.depth], seen.output_gradients[layer.depth]
    (stride, _), (pad, _) = conv.stride, conv.padding
    num, _, height, width = grad.shape
    sums_abs, abs_sums = [], []
    for co, ci, ky, kx in product(*map(range, conv.weight.shape)):
        total = total_abs = 0.0
        for b, y, x in product(range(num), range(height), range(width)):
            row, column = y * stride + ky - pad, x * stride + kx - pad
            inside = 0 <= row < image.shape[2] and 0 <= column < image.shape[3]
            d = grad[b, co, y, x].item() * image[b, ci, row, column].item() if inside else 0.0
            total += d
            total_abs += abs(d)
        sums_abs.append(total_abs)
        abs_sums.append(abs(total))
    count = num * height * width
    return count, sum(sums_abs) / len(sums_abs) / count, sum(abs_sums) / len(abs_sums) / count


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_sums_are_those_of_a_loop_over_every_summand(norm):
    network, loader = make_network(norm, widths=(2, 3)).double(), make_loader(size=4)
    seen = look(network, loader, batch_size=3)
    rows = probes.rows("conv_gradient_sums", {}, seen)
    convs = [layer for layer in network.layers if layer.kind == "conv"]
    assert [(row["depth"], row["layer"]) for row in rows] == [(layer.depth, layer.name) for layer in convs]
    assert {seen.module(layer).stride for layer in convs} == {(1, 1), (2, 2)}
    for layer, row in zip(convs, rows, strict=True):
        count, sum_abs, abs_sum = loop(seen, layer)
        assert row["num_summands"] == count
        assert row["sum_abs"] == pytest.approx(sum_abs, rel=1e-10)
        assert row["abs_sum"] == pytest.approx(abs_sum, rel=1e-10)
        assert row["ratio"] == pytest.approx(sum_abs / abs_sum, rel=1e-10)


def convolve(image, grad, **options):
    """The probe's row for a convolution with this input and gradient at its output."""
    conv = torch.nn.Conv2d(image.shape[1], grad.shape[1], 3, padding=1, bias=False, dtype=image.dtype, **options)
    conv(image).backward(grad)
    layer = make_network().layers[0]
    seen = Pass((layer,), conv, {1: image}, {1: grad}, {1: conv.weight.grad})
    (row,) = probes.rows("conv_gradient_sums", {}, seen)  # type: ignore[arg-type]
    return row


@given(st.integers(0, 2**31), st.floats(-3, 3))
@settings(max_examples=25, deadline=None)
def test_the_sum_of_absolute_summands_is_never_the_smaller(seed, shift):
    source = torch.Generator().manual_seed(seed)
    image, grad = (torch.randn(2, 3, 4, 4, generator=source, dtype=torch.float64) + shift for _ in range(2))
    assert convolve(image, grad)["ratio"] >= 1 - 1e-12


def test_summands_of_one_sign_have_ratio_1():
    source = torch.Generator().manual_seed(0)
    image, grad = (torch.rand(2, 3, 4, 4, generator=source, dtype=torch.float64) for _ in range(2))
    assert convolve(image, grad)["ratio"] == pytest.approx(1)
    assert convolve(image, -grad)["ratio"] == pytest.approx(1)


def test_independent_signs_have_a_ratio_of_the_square_root_of_their_number():
    """Of m independent normal products, sum |d| is m (2 / pi) and |sum d| has mean sqrt(m) sqrt(2 / pi)."""
    source = torch.Generator().manual_seed(0)
    image, grad = (torch.randn(32, 8, 16, 16, generator=source) for _ in range(2))
    num = 32 * 16 * 16
    assert convolve(image, grad)["ratio"] == pytest.approx((num * 2 / torch.pi) ** 0.5, rel=0.1)
