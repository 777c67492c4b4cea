"""Channel moments against loops over channels in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from probe_networks import look, make_loader, make_network

from bnstudy import probes
from bnstudy.probes.activation_moments import moments


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_rows_are_mean_and_biased_variance_of_each_channel(norm):
    network, loader = make_network(norm), make_loader()
    seen = look(network, loader)
    rows = iter(probes.rows("activation_moments", {}, seen))
    for layer in network.layers:
        for site, values in (("preactivation", seen.preactivations), ("activation", seen.activations)):
            act = values[layer.depth].double().numpy()
            for channel in range(act.shape[1]):
                row = next(rows)
                assert [row[k] for k in ("depth", "layer")] == [layer.depth, layer.name]
                assert row["block_output"] == layer.block_output
                assert (row["site"], row["channel"]) == (site, channel)
                numbers = act[:, channel].ravel()
                assert row["mean"] == pytest.approx(np.mean(numbers), rel=1e-12, abs=1e-15)
                assert row["variance"] == pytest.approx(np.var(numbers), rel=1e-12, abs=1e-15)
    assert next(rows, None) is None


def test_one_site_alone_has_the_rows_it_has_among_both():
    seen = look(make_network(), make_loader())
    both = probes.rows("activation_moments", {}, seen)
    alone = probes.rows("activation_moments", {"sites": ["activation"]}, seen)
    assert alone == [row for row in both if row["site"] == "activation"]
    for sites in ([], ["activations"]):
        with pytest.raises(ValueError, match="give one or both of preactivation, activation"):
            probes.rows("activation_moments", {"sites": sites}, seen)


def test_batch_norm_gives_half_normal_moments_after_relu():
    """Normalised values of mean 0 and variance 1 that are normal have mean sqrt(1 / 2 pi) after ReLU."""
    network, loader = make_network(), make_loader(512, 16)
    loader.images.normal_(generator=torch.Generator().manual_seed(0))
    rows = probes.rows("activation_moments", {}, look(network, loader, batch_size=512))
    stem = [row for row in rows if row["layer"] == "stem" and row["site"] == "activation"]
    for row in stem:
        assert row["mean"] == pytest.approx((2 * np.pi) ** -0.5, rel=0.02)
        assert row["variance"] == pytest.approx(0.5 - 0.5 / np.pi, rel=0.02)


def test_a_large_mean_does_not_drown_the_variance():
    act = 1e6 + torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    _, variance = moments(act)
    assert variance.tolist() == pytest.approx(act.double().numpy().var((0, 2, 3)), rel=1e-9)


def test_squares_beyond_float32_are_finite():
    mean, variance = moments(torch.tensor([[1e30], [-1e30]]))
    assert mean.item() == 0 and variance.item() == pytest.approx(1e60, rel=1e-6)
