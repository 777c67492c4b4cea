"""Probes are found by file name, are due when their plan says, fit their columns, and leave no trace in training."""

from __future__ import annotations

import copy
import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from probe_networks import look, make_loader, make_network
from torch import nn
from torch.nn import functional

from bnstudy import models, norms, probes
from bnstudy.config import plugins
from bnstudy.config.schema import ProbePlan
from bnstudy.probes.snapshot import READABLE

NAMES = plugins.names("probes")
SMALL: dict[str, dict[str, Any]] = {
    "gradient_correlation": {"batch_sizes": [1, 4], "num_batches": 3},
    "gradient_noise": {"sizes": [2, 4], "num_divided": [1, 1], "large_size": 8, "num_large": 2},
    "gradient_tails": {"num_bootstrap": 5},
    "hessian_top_eigenvalue": {"max_iterations": 3},
    "relative_sharpness": {"max_iterations": 3},
    "jacobian_singular_values": {"starts": [0], "num_examples": 1, "num_values": 5},
    "jacobian_density": {"num_examples": 1, "num_steps": 4, "num_shares": 3},
    "jacobian_coupling": {"sizes": [4], "whole_sizes": [], "num_values": 3},
    "loss_along_step": {"num": 4},
    "channel_pair_gradients": {"entry_depths": [2]},
    "batch_variance": {"batch_sizes": [2, 4]},
}
# Without BN, and without sigmoids, there is nothing to see.
EMPTY = {
    ("norm_parameters", "none"), ("batch_variance", "none"), ("linear_region", "none"), ("linear_region", "batch"),
}  # fmt: skip


def run_all(snapshot):
    return {name: probes.rows(name, SMALL.get(name, {}), snapshot) for name in NAMES}


def test_the_small_options_are_options():
    for name in NAMES:
        assert set(SMALL.get(name, {})) <= set(plugins.defaults("probes", name))


def test_reads_are_what_the_probes_need_together():
    assert probes.reads([]) == frozenset()
    assert probes.reads(["logit_gradient", "loss_along_step"]) == {"logits", "gradients"}
    assert probes.reads(NAMES) == READABLE


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_every_probe_makes_do_with_what_it_reads(name, norm):
    network, loader = make_network(norm), make_loader()
    seen = look(network, loader, reads=probes.reads([name]), initial=network.state_dict())
    rows = probes.rows(name, SMALL.get(name, {}), seen)
    assert rows or (name, norm) in EMPTY
    assert all(list(row) == list(probes.columns(name)) for row in rows)
    everything = look(network, loader, initial=network.state_dict())
    assert repr(probes.rows(name, SMALL.get(name, {}), everything)) == repr(rows)  # repr: NaN equals NaN


# Steps at which a plan is due, of 13 with 4 updates an epoch.
@pytest.mark.parametrize(
    "plan, steps",
    [
        (ProbePlan(), []),
        (ProbePlan(at=[0, 5]), [0, 5]),
        (ProbePlan(every_steps=6), [0, 6, 12]),
        (ProbePlan(every_epochs=1), [0, 4, 8, 12]),
        (ProbePlan(every_epochs=2), [0, 8]),
        (ProbePlan(at_end=True), [13]),
        (ProbePlan(at=[1], every_epochs=3, at_end=True), [0, 1, 12, 13]),
        (ProbePlan(at_divergence=True), []),
    ],
)
def test_a_probe_is_due_when_its_plan_says(plan, steps):
    assert [step for step in range(14) if probes.due(plan, step, 4, step == 13)] == steps


COLUMNS = {"depth": "int16", "layer": "string", "value": "float64", "defined": "bool"}


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"depth": 40_000}, "depth = 40000 is no int16"),
        ({"depth": True}, "depth = True is no int16"),
        ({"value": "1"}, "value = '1' is no float64"),
        ({"value": True}, "value = True is no float64"),
        ({"value": torch.tensor(1.0)}, r"is no float64; write \.item\(\)"),
        ({"layer": None}, "layer = None is no string"),
        ({"defined": 1}, "defined = 1 is no bool"),
        ({"extra": 1}, "a row has depth, layer, value, defined, extra"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(changed, message, monkeypatch):
    good = {"depth": 1, "layer": "stem", "value": math.nan, "defined": True}
    made_up = SimpleNamespace(READS=set(), COLUMNS=COLUMNS, probe=lambda snapshot: iter([good, good | changed]))
    monkeypatch.setattr(plugins, "load", lambda kind, name: made_up)
    monkeypatch.setattr(plugins, "defaults", lambda kind, name: {})
    with pytest.raises(ValueError, match=message):
        probes.rows("made_up", {}, None)  # type: ignore[arg-type]
    made_up.probe = lambda snapshot: iter([good])
    assert probes.rows("made_up", {}, None) == [good]  # type: ignore[arg-type]


def test_a_probe_that_reads_what_there_is_not_is_refused(monkeypatch):
    monkeypatch.setattr(plugins, "load", lambda kind, name: SimpleNamespace(READS={"hessian"}))
    with pytest.raises(ValueError, match=r"probes/made_up.py: READS = \['hessian'\]"):
        probes.reads(["made_up"])


SIZES = {"examples": 32, "num_train": 200}


@pytest.mark.parametrize(
    "name, options",
    [
        ("loss_along_step", {"num": 51}),
        ("loss_along_step", {"num": 0}),
        ("loss_along_step", {"low": 0.0}),
        ("loss_along_step", {"low": 1.0, "high": 0.1}),
        ("gradient_tails", {"num_bins": 0}),
        ("gradient_tails", {"num_bootstrap": 0}),
        ("gradient_correlation", {"num_batches": 1}),
        ("gradient_correlation", {"batch_sizes": []}),
        ("gradient_correlation", {"batch_sizes": [0, 4]}),
        ("jacobian_coupling", {"sizes": [999]}),
        ("gradient_noise", {"num_large": 30}),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options):
    network = make_network()
    seen = look(network, make_loader(), reads=probes.reads([name]))
    with pytest.raises(ValueError, match=rf"{name}: .*{next(iter(options))} = .*give"):
        probes.rows(name, options, seen)
    with pytest.raises(ValueError, match=rf"^probes\.{name}\.options: .*{next(iter(options))} = .*give"):
        probes.check_options(name, options, seen.layers, **SIZES)


@pytest.mark.parametrize("name", plugins.names("probes"))
def test_options_that_make_sense_are_found_so_without_a_snapshot(name):
    probes.check_options(name, SMALL.get(name, {}), make_network().layers, **SIZES)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("conv_gradient_sums", {"padding_mode": "circular"}, "plain convolution"),
        ("conv_gradient_entries", {"padding": "same"}, "plain convolution"),
        ("channel_pair_gradients", {"groups": 2}, "without groups"),
        ("linear_region", nn.Sequential(nn.Sigmoid(), nn.AvgPool2d(2, 1, 0)), "not averaged"),
        ("saturation", nn.Sequential(nn.ReLU(), nn.AvgPool2d(2, 1, 0)), "not averaged"),
    ],
)
def test_a_probe_refuses_layers_of_which_its_formula_is_not(name, change, words):
    network = make_network("none", widths=(4, 4))
    if isinstance(change, nn.Module):
        network.stem_relu = change
    else:
        block = network.blocks[0]
        block.conv1 = nn.Conv2d(4, 4, 3, **{"padding": 1} | change)
    seen = look(network, make_loader())
    with pytest.raises(ValueError, match=rf"^probes\.{name}: .*{words}.*~probes\.{name}"):
        probes.rows(name, {}, seen)


def test_a_probe_may_refuse_what_does_not_fit_the_layers(monkeypatch):
    def probe(snapshot, *, depth=1):
        if depth > len(snapshot.layers):
            raise ValueError(f"made_up: depth = {depth}: give 1 to {len(snapshot.layers)}")
        yield {"value": snapshot.loss}

    monkeypatch.setattr(plugins, "load", lambda kind, name: SimpleNamespace(probe=probe))
    monkeypatch.setattr(plugins, "defaults", lambda kind, name: {"depth": 1})
    layers = make_network().layers
    probes.check_options("made_up", {"depth": len(layers)}, layers, **SIZES)
    with pytest.raises(ValueError, match=r"^probes\.made_up\.options: depth = 99: give 1 to"):
        probes.check_options("made_up", {"depth": 99}, layers, **SIZES)


# --- diverged and dead networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(
    "weight", [float("nan"), 0.0, *(pytest.param(of, marks=pytest.mark.slow) for of in (float("inf"), 1e19, 1e-30))]
)
@pytest.mark.parametrize("where", ["stem", "classifier"])
def test_no_probe_stumbles_over_a_network_that_has_diverged_or_died(norm, weight, where):
    network, loader = make_network(norm), make_loader()
    initial = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        getattr(network, where).weight.fill_(weight)
    rows = run_all(look(network, loader, initial=initial))
    assert rows.keys() == set(NAMES)
    assert {name: len(found) for name, found in rows.items()} == num_rows(norm), "the shape of a sound run's"


@cache
def num_rows(norm):
    """How many rows each probe has of a network that is sound."""
    network, loader = make_network(norm), make_loader()
    rows = run_all(look(network, loader, initial=copy.deepcopy(network.state_dict())))
    return {name: len(found) for name, found in rows.items()}


def test_non_finite_numbers_arrive_in_the_tables():
    network, loader = make_network("none"), make_loader()
    with torch.no_grad():
        network.classifier.weight.fill_(float("inf"))
    rows = run_all(look(network, loader))
    assert math.isnan(rows["loss_along_step"][0]["loss"])
    assert {r["mean"] for r in rows["activation_moments"] if r["layer"] == "classifier"} & {math.inf, -math.inf} or all(
        math.isnan(r["mean"]) for r in rows["activation_moments"] if r["layer"] == "classifier"
    )
    assert all(math.isnan(r["value"]) for r in rows["logit_gradient"] if r["quantity"] == "cosine")
    counts = {r["layer"]: r["value"] for r in rows["gradient_tails"] if r["quantity"] == "count"}
    assert counts["stem"] == 0  # of finite entries


# --- no trace ------------------------------------------------------------------------------------------------------


def train(network, loader, num_steps, before_step):
    """Plain SGD with momentum and dropout on the input, so that random state matters; returns every bit of its end."""
    torch.manual_seed(0)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    losses = []
    for step in range(num_steps):
        before_step(network, step)
        images, labels = loader.probe_batch(8, step)
        loss = functional.cross_entropy(network(functional.dropout(images, 0.1)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    velocities = [state["momentum_buffer"] for state in optimiser.state.values()]
    return network.state_dict(), velocities, losses, torch.get_rng_state()


@pytest.mark.parametrize("name, options, size", [("resnet", {"depth": 8}, 12), ("lenet", {}, 32)])
@pytest.mark.parametrize("norm", ["none", "batch", "batch_scratch"])
def test_training_with_every_probe_on_is_training_without_to_the_bit(name, options, size, norm):
    def build():
        every_option = plugins.defaults("models", name) | options
        return models.build(name, every_option, norms.Factory(norm, {}), "xavier_uniform", (3, size, size), 10, seed=0)

    observed: list = []

    def observe_all(network, step):
        seen = look(network, loader, step=step, initial=initial)
        observed.append(run_all(seen))

    loader = make_loader(32, size=size, num_classes=10)
    initial = build().state_dict()
    alone = train(build(), loader, 3, lambda network, step: None)
    watched = train(build(), loader, 3, observe_all)
    torch.testing.assert_close(watched, alone, rtol=0, atol=0)
    drifts = [r["value"] for rows in observed for r in rows["weights"] if r["quantity"] == "l2_drift_relative"]
    assert len(observed) == 3 and drifts[0] == 0.0 and drifts[-1] > 0.0
