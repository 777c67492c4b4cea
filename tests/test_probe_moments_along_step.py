"""Moments along a step against networks moved by hand, and against where the engine's first update really goes."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from probe_networks import Layer, look, make_loader, make_network
from torch.nn import functional

from bnstudy import probes
from bnstudy.config import compose, errors
from bnstudy.config.schema import Optim
from bnstudy.training.engine.lockstep import Lockstep

NAME = "moments_along_step"


def outputs_of(network, images):
    """Every weight layer's own output in training mode by depth, and the logits."""
    seen = {}
    for layer in network.layers:
        module = network.get_submodule(layer.name)
        module.register_forward_hook(lambda _, __, output, depth=layer.depth: seen.update({depth: output}))
    with torch.no_grad():
        logits = network.train()(images)
    return seen, logits


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_rows_are_the_moments_of_a_network_moved_by_hand(norm):
    network, loader = make_network(norm).double(), make_loader()
    images, labels = loader.images[:6].double(), loader.labels[:6]
    seen = look(network, loader, reads={"gradients"})
    rows = iter(probes.rows(NAME, {"step_size": 0.5, "num": 3, "depths": [2, 5]}, seen))
    functional.cross_entropy(network.train()(images), labels).backward()
    for fraction in (0.0, 0.5, 1.0):
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for there, here in zip(moved.parameters(), network.parameters(), strict=True):
                there.copy_(here - fraction * 0.5 * here.grad)
        outputs, logits = outputs_of(moved, images)
        loss = functional.cross_entropy(logits, labels).item()
        for layer in network.layers:
            act = outputs[layer.depth].numpy()
            variances = [np.var(act[:, channel]) for channel in range(act.shape[1])]
            for channel in range(act.shape[1]) if layer.depth in (2, 5) else [variances.index(max(variances))]:
                row = next(rows)
                assert (row["fraction"], row["step_size"]) == (fraction, fraction * 0.5)
                assert (row["depth"], row["layer"], row["channel"]) == (layer.depth, layer.name, channel)
                numbers = act[:, channel].ravel()
                assert row["mean"] == pytest.approx(np.mean(numbers), rel=1e-9, abs=1e-12)
                assert row["variance"] == pytest.approx(np.var(numbers), rel=1e-9, abs=1e-12)
                assert row["loss"] == pytest.approx(loss, rel=1e-10)
    assert next(rows, None) is None


def test_the_whole_step_ends_where_the_engines_first_update_does():
    """Momentum starts from rest, weight decay is too small to be seen: the update is the plain gradient step."""
    lr = 0.2
    network, loader = make_network("none"), make_loader()
    seen = look(network, loader, reads={"gradients"})
    every = [layer.depth for layer in network.layers]
    rows = [r for r in probes.rows(NAME, {"step_size": lr, "num": 2, "depths": every}, seen) if r["fraction"] == 1]
    engine = Lockstep(
        [network], Optim(lr=lr, momentum=0.9, weight_decay=1e-4), divergence_loss=1e3, device=torch.device("cpu")
    )
    engine.step((loader.images[:6], loader.labels[:6]), [lr])
    outputs, _ = outputs_of(engine.network(0), loader.images[:6])
    start, _ = outputs_of(network, loader.images[:6])
    for row in rows:
        act = outputs[row["depth"]][:, row["channel"]].double()
        assert row["mean"] == pytest.approx(act.mean().item(), rel=1e-3, abs=1e-4)
        assert row["variance"] == pytest.approx(act.var(correction=0).item(), rel=1e-3)
    moved = [abs(r["variance"] / start[r["depth"]][:, r["channel"]].var(correction=0).item() - 1) for r in rows]
    assert max(moved) > 0.05  # the step is seen


def test_a_step_on_black_images_has_a_closed_form():
    """The stem gives its bias, so all logits are W b + c, and their gradient is g = softmax - frequencies of labels."""
    network, loader = make_network("none", num_blocks=0, widths=(4,)).double(), make_loader()
    loader.images.zero_()
    with torch.no_grad():
        network.stem.bias.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    bias, weight, shift = (p.detach().numpy() for p in (network.stem.bias, *network.classifier.parameters()))
    exps = np.exp(weight @ bias + shift)
    g = exps / exps.sum() - np.bincount(loader.labels[:6].numpy(), minlength=5) / 6
    options = {"step_size": 0.1, "num": 3, "depths": []}
    for row in probes.rows(NAME, options, look(network, loader, reads={"gradients"})):
        a = row["step_size"]
        moved = bias - a * weight.T @ g
        logits = (weight - a * np.outer(g, bias)) @ moved + shift - a * g
        assert row["mean"] == pytest.approx((moved if row["depth"] == 1 else logits)[row["channel"]], rel=1e-12)
        assert row["variance"] == pytest.approx(0, abs=1e-25)


def test_moments_of_an_explosion_are_kept_and_those_beyond_it_are_undefined():
    network, loader = make_network("none", num_blocks=3), make_loader()
    seen = look(network, loader, reads={"gradients"})
    rows = [r for r in probes.rows(NAME, {"step_size": 1e4, "num": 2}, seen) if r["fraction"] == 1]
    largest = {r["depth"]: r["variance"] for r in rows}
    assert largest[14] > 1e30 * largest[1] and math.isfinite(largest[14])  # squares far beyond float32
    beyond = [r for r in probes.rows(NAME, {"step_size": 1e9, "num": 2}, seen) if r["fraction"] == 1]
    assert math.isnan(beyond[-1]["variance"]) and not math.isfinite(beyond[-1]["loss"])


def test_a_channel_that_overflowed_is_its_layers_largest():
    act_NC = torch.tensor([[0.0, 1e30, math.inf, 1.0], [1.0, -1e30, -math.inf, 3.0]])
    there = SimpleNamespace(loss=math.nan, preactivations={7: act_NC})
    seen = SimpleNamespace(layers=(Layer(7, "x", "conv", "x"),), displaced=lambda step_size, reads: there)
    (row, _) = probes.rows(NAME, {"num": 2}, seen)  # type: ignore[arg-type]
    assert row["channel"] == 2 and math.isnan(row["variance"])
    act_NC[:, 2] = 0
    (row, _) = probes.rows(NAME, {"num": 2}, seen)  # type: ignore[arg-type]
    assert row["channel"] == 1 and row["variance"] == pytest.approx(1e60)


@pytest.mark.parametrize("options", [{"step_size": 0.0}, {"step_size": math.inf}, {"num": 1}])
def test_options_that_make_no_sense_are_refused(options):
    seen = look(make_network(), make_loader(), reads={"gradients"})
    with pytest.raises(ValueError, match=rf"{NAME}: {next(iter(options))} = .*give"):
        probes.rows(NAME, options, seen)


def test_the_sweep_looks_along_the_step_that_the_run_makes():
    for given in ([], ["optim.lr=0.001,0.03"]):
        for config in compose.expand("diverging_update", "quick", given):
            plan = config.probes[NAME]
            assert plan.options["step_size"] == config.optim.lr
            assert (plan.at, plan.on) == ([0], "train_batch")
    with pytest.raises(errors.ComposeError, match=r"did you mean optim\.lr\?"):
        compose.expand("diverging_update", "quick", ["seed=0", "optim.lrr=1"])
