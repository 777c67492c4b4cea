"""Estimated singular values against dense ones, the quadrature's exactness, and matrices whose law is known."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch
from probe_networks import look, make_loader, make_network, rows_by
from torch import nn

from bnstudy import models, norms
from bnstudy.probes import _lanczos
from bnstudy.probes import jacobian_density as density
from bnstudy.probes import jacobian_singular_values as jsv


def run(seen, **options):
    """Rows by start and example, each in the order of shares."""
    return rows_by(("start", "example"), "jacobian_density", seen, options)


def dense(seen, start, example):
    possible = jsv.possible_starts(seen)
    at, _ = jsv.passed(jsv.frozen(seen, seen.images_NCHW), seen, seen.images_NCHW[example].double()[None])
    (jacobian,) = jsv.jacobians(at[possible[possible.index(start) + 1]].flatten(), at, [start])
    return jacobian


def make_wide(norm, size=16):
    return look(make_network(norm, widths=(6, 8), num_blocks=2), make_loader(6, size), reads=[])


# From the image (fewer columns), block to block, into a strided block.
@pytest.mark.parametrize("norm, start", [("none", 0), ("batch", 0), ("batch", 3), ("none", 5), ("batch", 7)])
def test_they_are_about_those_of_the_dense_jacobian(norm, start):
    seen = make_wide(norm)
    rows = run(seen, starts=[start], num_examples=2, num_steps=60, num_shares=9)
    assert list(rows) == [(start, 0), (start, 1)]
    found, jacobian = rows[start, 1], dense(seen, start, 1)
    if jacobian.shape[1] < jacobian.shape[0]:
        jacobian = jacobian.T
    zero = ~jacobian.any(1)
    assert {(row["count"], row["num_zero"]) for row in found} == {(len(jacobian), int(zero.sum()))}
    assert start == 0 or 0 < zero.sum() < len(jacobian)
    expected = torch.linalg.svdvals(jacobian[~zero])
    largest = expected[0].item()
    assert found[0]["share"] == 0 and found[-1]["share"] == 1
    assert found[0]["value"] == pytest.approx(largest, rel=1e-3)
    assert abs(found[0]["value"] - largest) <= found[0]["residual"] + 1e-5 * largest
    for row in found[1:-1]:
        above = (expected > row["value"]).double().mean().item()
        assert above == pytest.approx(row["share"], abs=3.5 / math.sqrt(len(expected)))


def make_gaussian(width, size):
    """A square matrix with entries of variance 1 / width, behind one that takes an image's first values."""
    options = {"width": width, "num_factors": 2}
    network = models.build("matrix_product", options, norms.Factory("none", {}), "xavier_normal", (3, size, size), 5, 0)
    draw = torch.Generator().manual_seed(3)
    nn.init.normal_(network.get_parameter("factors.1.dense.weight"), std=width**-0.5, generator=draw)
    return network


def test_a_gaussian_matrix_has_the_quarter_circle_law():
    """Singular values of a square matrix with entries of variance 1 / N: density sqrt(4 - x^2) / pi up to 2."""
    network = make_gaussian(900, 18)
    rows = run(look(network, make_loader(6, 18), reads=[]), starts=[1], num_examples=1, num_shares=5)[1, 0]
    x = np.linspace(0, 2, 20001)
    cumulative = np.cumsum(np.sqrt(4 - x**2)) / np.sqrt(4 - x**2).sum()
    for row in rows[1:-1]:
        assert row["value"] == pytest.approx(np.interp(1 - row["share"], cumulative, x), abs=0.08)
    assert rows[0]["value"] == pytest.approx(2, abs=0.1) and rows[0]["num_zero"] == 0


def test_the_product_is_that_with_the_dense_matrix():
    seen = make_wide("batch", size=8)
    jacobian = dense(seen, 3, 0)
    at, _ = jsv.passed(jsv.frozen(seen, seen.images_NCHW), seen, seen.images_NCHW[0].double()[None])
    vector = torch.randn(len(jacobian), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = density.gram_product(at[5], at[3])
    for _ in range(2):  # the graph is made once and serves every product
        torch.testing.assert_close(times(vector), jacobian @ (jacobian.T @ vector), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_steps", [1, 3, 6])
def test_the_quadrature_is_exact_for_powers_below_twice_the_number_of_products(num_steps):
    draw = np.random.default_rng(num_steps)
    matrix = torch.from_numpy(draw.normal(size=(12, 12)))
    matrix, start = matrix + matrix.T, torch.from_numpy(draw.normal(size=12))
    *_, last = islice(_lanczos.iterate(lambda v: matrix @ v, start), num_steps)
    weights, unit = last.vectors_KK[0].square(), start / start.norm()
    for power in range(2 * num_steps):
        expected = unit @ torch.linalg.matrix_power(matrix, power) @ unit
        assert (weights * last.values_K**power).sum().item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_iteration_ends_where_the_space_cannot_grow():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 5.0, 5.0], dtype=torch.float64))
    seen = list(_lanczos.iterate(lambda v: matrix @ v, torch.ones(4, dtype=torch.float64)))
    assert len(seen) == 2
    assert seen[-1].values_K.tolist() == pytest.approx([1, 5]) and seen[-1].beside == pytest.approx(0, abs=1e-12)
    assert seen[-1].vectors_KK[0].square().tolist() == pytest.approx([0.5, 0.5])


def test_between_nodes_it_is_interpolated_by_the_middles_of_their_weights():
    halves = math.sqrt(0.5)
    seen = _lanczos.Krylov(
        torch.tensor([1.0, 9.0]).double(), torch.tensor([[halves, halves], [halves, -halves]]).double(), 0.0
    )
    values, residual = density.ranked(seen, np.array([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert values.tolist() == pytest.approx([3, 3, 2, 1, 1]) and residual == 0


def test_a_jacobian_that_is_zero_has_zeros_and_one_that_is_not_finite_has_nan():
    network = make_network("none")
    with torch.no_grad():
        network.blocks[0].conv2.weight.fill_(math.nan)
    rows = run(look(network, make_loader(), reads=[]), starts=[0], num_examples=1)[0, 0]
    assert all(math.isnan(row["value"]) for row in rows)
    network = make_network("none")
    nn.init.constant_(network.stem.weight, 0)
    nn.init.constant_(network.stem.bias, -1)
    rows = run(look(network, make_loader(), reads=[]), starts=[0], num_examples=1)[0, 0]
    assert {row["value"] for row in rows} == {0.0} and rows[0]["num_zero"] == rows[0]["count"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"starts": [2]}, "starts = .* give some of"),
        ({"starts": [5]}, "starts = .* give some of"),  # nothing comes after the last block
        ({"num_examples": 0}, "num_examples = 0"),
        ({"num_steps": 1}, "num_steps = 1"),
        ({"num_shares": 1}, "num_shares = 1"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=f"jacobian_density: .*{words}"):
        run(look(make_network("none"), make_loader(), reads=[]), **options)
