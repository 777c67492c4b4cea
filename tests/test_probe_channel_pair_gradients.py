"""Channel-pair matrices against loops, and rank-one shares known in closed form."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_networks import Layer, look, make_loader, make_network

from bnstudy import probes
from bnstudy.probes.channel_pair_gradients import rank1_share


def rows_of(gradient, **options):
    seen = SimpleNamespace(layers=(Layer(45, "conv", "conv", "relu"),), gradients={45: torch.as_tensor(gradient)})
    return probes.rows("channel_pair_gradients", options, seen)  # type: ignore[arg-type]


def test_entries_are_sums_over_taps_by_a_loop():
    network, loader = make_network(), make_loader()
    seen = look(network, loader)
    rows = probes.rows("channel_pair_gradients", {"entry_depths": [2, 4]}, seen)
    shares = [row for row in rows if row["quantity"] == "rank1_share"]
    assert [row["layer"] for row in shares] == [layer.name for layer in network.layers if layer.kind == "conv"]
    assert {(row["in_channel"], row["out_channel"]) for row in shares} == {(-1, -1)}
    entries = {(r["depth"], r["in_channel"], r["out_channel"]): r["value"] for r in rows if r["quantity"] == "entry"}
    assert {depth for depth, _, _ in entries} == {2, 4}
    for depth in (2, 4):
        grad = seen.gradients[depth].double()
        for o, i in np.ndindex(*grad.shape[:2]):
            assert entries[depth, i, o] == pytest.approx(sum(abs(g) for g in grad[o, i].flatten().tolist()))
    assert len(entries) == seen.gradients[2].shape[:2].numel() + seen.gradients[4].shape[:2].numel()


def test_the_share_is_that_of_numpys_singular_values():
    grad = np.random.default_rng(0).standard_normal((6, 4, 3, 3))
    (row,) = rows_of(grad, entry_depths=[])
    s = np.linalg.svd(np.abs(grad).sum((2, 3)).T, compute_uv=False)
    assert row["value"] == pytest.approx(s[0] ** 2 / (s**2).sum())


def test_known_shares():
    source = np.random.default_rng(0)
    outer = np.multiply.outer(source.random(8), source.random(5))
    assert rank1_share(torch.tensor(outer)) == pytest.approx(1)
    assert rank1_share(torch.eye(7)) == pytest.approx(1 / 7)
    assert rank1_share(torch.diag(torch.tensor([3.0, 4.0]))) == pytest.approx(16 / 25)
    assert math.isnan(rank1_share(torch.zeros(3, 3)))
    assert math.isnan(rank1_share(torch.tensor([[1.0, math.inf]])))


def test_independent_normal_gradients_have_the_documented_share():
    """mean^2 / (mean^2 + variance) of a sum of nine half-normals is 0.94; finite size adds less than 0.01."""
    grad = np.random.default_rng(0).standard_normal((64, 64, 3, 3))
    assert rows_of(grad)[0]["value"] == pytest.approx(0.94, abs=0.01)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31), st.floats(1e-150, 1e150))
@settings(max_examples=50, deadline=None)
def test_the_share_lies_between_one_over_rank_and_one_at_any_scale(rows, columns, seed, scale):
    matrix = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01
    share = rank1_share(matrix * scale)
    assert 1 / min(rows, columns) - 1e-12 <= share <= 1 + 1e-12
    assert share == pytest.approx(rank1_share(matrix.T))
