"""Weight statistics and drifts against numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from probe_networks import look, make_loader, make_network

from bnstudy import probes
from bnstudy.probes.weights import QUANTILES, drifts


def test_rows_are_numpys_and_scipys():
    network, loader = make_network(), make_loader()
    initial = make_network(seed=5).state_dict()
    rows = probes.rows("weights", {}, look(network, loader, reads=(), initial=initial))
    found = {(r["layer"], r["quantity"], r["x"] if r["quantity"] == "quantile" else None): r["value"] for r in rows}
    assert len(found) == len(rows) == len(network.layers) * (4 + len(QUANTILES))
    for layer in network.layers:
        w = network.get_submodule(layer.name).weight.detach().double().numpy().ravel()
        w0 = initial[f"{layer.name}.weight"].double().numpy().ravel()
        assert found[layer.name, "mean", None] == pytest.approx(w.mean(), abs=1e-15)
        assert found[layer.name, "std", None] == pytest.approx(w.std())
        for p in QUANTILES:
            assert found[layer.name, "quantile", p] == pytest.approx(np.quantile(w, p))
        drift = np.sqrt(((w - w0) ** 2).sum() / (w0**2).sum())
        assert found[layer.name, "l2_drift_relative", None] == pytest.approx(drift)
        wasserstein = scipy.stats.wasserstein_distance(w, w0)
        assert found[layer.name, "wasserstein", None] == pytest.approx(wasserstein)


def test_known_drifts():
    w0 = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    assert [x.item() for x in drifts(w0, w0)] == [0, 0]
    assert drifts(1.5 * w0, w0)[0].item() == pytest.approx(0.5)
    assert drifts(w0 + 0.25, w0)[1].item() == pytest.approx(0.25)
    assert drifts(w0.flip(0), w0)[1].item() == 0  # the same distribution, with every weight in another place
    assert drifts(w0.flip(0), w0)[0].item() > 0


def test_without_initial_weights_drifts_are_undefined():
    rows = probes.rows("weights", {}, look(make_network(), make_loader(), reads=()))
    assert all(math.isnan(r["value"]) == (r["quantity"] in ("l2_drift_relative", "wasserstein")) for r in rows)
