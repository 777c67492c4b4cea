"""What constant statistics leave out of a Jacobian: against whole derivatives by autograd, and how it fades."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from probe_networks import features_of, look, make_loader, make_network, rows_by

from bnstudy import probes
from bnstudy.probes import jacobian_singular_values as jsv


def run(seen, **options):
    """Rows by mini-batch size and number of examples whose features are meant."""
    return rows_by(("size", "num_examples"), "jacobian_coupling", seen, options)


def test_coupled_is_the_whole_derivative_in_training_mode():
    network, loader = make_network("batch"), make_loader(8)
    found = run(look(network, loader, reads=[], batch_size=8), sizes=[4], whole_sizes=[3])
    assert list(found) == [(4, 1), (3, 3)]
    images, _ = loader.probe_batch(8)
    for (size, num_examples), rows in found.items():
        twin = copy.deepcopy(network).double().train()
        whole = torch.autograd.functional.jacobian(
            lambda x, twin=twin, n=num_examples: features_of(twin, x)[:n].flatten(), images[:size].double()
        ).flatten(1)
        assert [row["index"] for row in rows] == list(range(len(whole))) and rows[0]["count"] == len(whole)
        expected = np.linalg.svd(whole.numpy(), compute_uv=False)
        np.testing.assert_allclose([row["coupled"] for row in rows], expected, rtol=1e-5, atol=1e-7)


def test_frozen_is_what_the_other_probe_takes_example_by_example():
    network, loader = make_network("batch"), make_loader(8)
    seen = look(network, loader, reads=[], batch_size=4)
    found = run(seen, sizes=[4], whole_sizes=[4])
    alone = [
        row["value"]
        for row in probes.rows("jacobian_singular_values", {"starts": [0], "num_examples": 4}, seen)
        if row["stretch"] == "to_features"
    ]
    num_features = len(found[4, 1])
    assert [row["frozen"] for row in found[4, 1]] == pytest.approx(alone[:num_features], rel=1e-5)
    assert [row["frozen"] for row in found[4, 4]] == pytest.approx(sorted(alone, reverse=True), rel=1e-5)


def test_without_batch_statistics_nothing_is_left_out():
    for row in probes.rows(
        "jacobian_coupling", {}, look(make_network("none"), make_loader(16), reads=[], batch_size=16)
    ):
        assert row["difference"] == pytest.approx(0, abs=1e-12)
        assert row["coupled"] == pytest.approx(row["frozen"], rel=1e-5, abs=1e-9)


def test_what_is_left_out_fades_with_the_size_of_the_mini_batch():
    loader = make_loader(64)
    seen = look(make_network("batch"), loader, reads=[], batch_size=64)
    differences = [rows[0]["difference"] for rows in run(seen, sizes=[2, 8, 64], whole_sizes=[]).values()]
    assert differences[0] > 1.5 * differences[1] > 3 * differences[2] > 0


def test_few_values_keep_both_ends():
    rows = run(look(make_network("batch"), make_loader(), reads=[]), sizes=[], whole_sizes=[4], num_values=3)[4, 4]
    assert [row["index"] for row in rows] == jsv.kept(rows[0]["count"], 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": [1]}, r"sizes = \[1\]: give sizes from 2 to the mini-batch's, 6"),
        ({"whole_sizes": [7]}, r"whole_sizes = \[7\]: give sizes from 2"),
        ({"num_values": 1}, "num_values = 1: give 2"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=f"jacobian_coupling: {words}"):
        run(look(make_network("batch"), make_loader(), reads=[]), **({"sizes": [], "whole_sizes": []} | options))
