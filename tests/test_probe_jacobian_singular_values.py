"""Singular values of Jacobians against explicit products, finite differences, and known maps; norms held constant."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from probe_networks import ResidualNetwork, features_of, look, make_loader, make_network, rows_by
from torch import nn
from torch.func import functional_call

from bnstudy import models, norms, probes
from bnstudy.config import plugins
from bnstudy.probes import jacobian_singular_values as jsv


def run(seen, **options):
    """Singular values, largest first, by stretch, start and example."""
    found = rows_by(("stretch", "start", "example"), "jacobian_singular_values", seen, options)
    assert all(row["count"] >= len(rows) for rows in found.values() for row in rows)
    return {key: [row["value"] for row in rows] for key, rows in found.items()}


def make_product(num_factors=4, width=6, norm="none", seed=0):
    options = {"width": width, "num_factors": num_factors}
    return models.build("matrix_product", options, norms.Factory(norm, {}), "xavier_normal", (3, 8, 8), 5, seed)


class Held(nn.Module):
    """What a norm does to a mini-batch whose statistics are constants."""

    def __init__(self, like):
        super().__init__()
        self.like = like

    def forward(self, x):
        over = [d for d in range(x.dim()) if d != 1]
        mean, variance = (s.detach() for s in (x.mean(over, keepdim=True), x.var(over, correction=0, keepdim=True)))
        shape = [1, -1] + [1] * (x.dim() - 2)
        weight, bias = self.like.weight.view(shape), self.like.bias.view(shape)
        return (x - mean) / (variance + self.like.eps).sqrt() * weight + bias


def held(network):
    network = copy.deepcopy(network).double().train()
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, Held(module))
    return network


def shaken(network):
    """Scales and shifts of norms that are not one and zero."""
    source = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.weight.data += 0.3 * torch.randn(module.weight.shape, generator=source)
            module.bias.data += 0.3 * torch.randn(module.bias.shape, generator=source)
    return network


# --- linear networks -----------------------------------------------------------------------------------------------


def test_of_a_linear_network_they_are_those_of_the_product_of_its_matrices():
    network = make_product()
    found = run(look(network, make_loader(), reads=[]), num_examples=2)
    matrices = [network.factors[i].dense.weight.detach().double().numpy() for i in range(4)]
    for start in range(5):
        product = np.eye(6)
        for matrix in matrices[start:]:
            product = matrix @ product
        expected = np.linalg.svd(product, compute_uv=False)
        for example in (0, 1):
            np.testing.assert_allclose(found["to_features", start, example], expected, rtol=1e-6)  # kept in float32
    assert len(found) == 10


def test_one_factor_by_itself_is_the_stretch_to_the_next():
    network = make_product()
    found = run(look(network, make_loader(), reads=[]), starts=[0], starts_to_next=[0, 2], num_examples=1)
    assert set(found) == {("to_features", 0, 0), ("to_next", 0, 0), ("to_next", 2, 0)}
    for start in (0, 2):
        expected = np.linalg.svd(network.factors[start].dense.weight.detach().double().numpy(), compute_uv=False)
        np.testing.assert_allclose(found["to_next", start, 0][:6], expected, rtol=1e-6)
        assert not any(found["to_next", start, 0][6:])  # what an image has beyond the width reaches nothing


def test_orthogonal_matrices_have_ones_and_the_smallest_are_resolved_in_float64():
    network = make_product(num_factors=3)
    for factor in network.factors:
        nn.init.orthogonal_(factor.dense.weight, generator=torch.Generator().manual_seed(1))
    found = run(look(network, make_loader(), reads=[]), num_examples=1)
    assert all(values == pytest.approx([1.0] * 6, abs=1e-6) for values in found.values())
    with torch.no_grad():
        for factor in network.factors:
            factor.dense.weight.copy_(torch.diag(torch.tensor([10.0, 1.0, 1.0, 1.0, 1.0, 2.0**-14])))
    found = run(look(network, make_loader(), reads=[]), num_examples=1)
    assert found["to_features", 0, 0] == pytest.approx([1000.0, 1, 1, 1, 1, 2.0**-42], rel=1e-6)


# --- residual networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_from_the_image_they_are_those_of_finite_differences(norm):
    network = shaken(make_network(norm)).double()
    loader = make_loader(size=4)
    loader.images = loader.images.double()
    found = run(look(network, loader, reads=[]), starts=[0], num_examples=1)["to_features", 0, 0]
    images, _ = loader.probe_batch(6)
    seen = look(network, loader, reads=[])
    fixed = jsv.frozen(seen, seen.images_NCHW)
    columns, step = [], 1e-6
    for pixel in np.ndindex(3, 4, 4):
        ends = []
        for sign in (1, -1):
            moved = images[:1].clone()
            moved[(0, *pixel)] += sign * step
            ends.append(features_of(fixed, moved)[0])
        columns.append((ends[0] - ends[1]) / (2 * step))
    expected = np.linalg.svd(torch.stack(columns, 1).numpy(), compute_uv=False)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_with_constant_statistics_they_are_those_of_the_whole_mini_batch_passed_at_once(norm):
    """Every example, every start: a pass of all examples through norms whose statistics are constants, by autograd."""
    network = shaken(make_network(norm, num_blocks=2))
    loader = make_loader()
    found = run(look(network, loader, reads=[], batch_size=4), starts_to_next=[3, 5], num_examples=2)
    images, _ = loader.probe_batch(4)
    twin = held(network)
    kept = {0: images.double().requires_grad_()}
    for layer in network.layers[:-1]:
        twin.get_submodule(layer.activation).register_forward_hook(
            lambda _, __, output, depth=layer.depth: kept.__setitem__(depth, output)
        )
    features = features_of(twin, kept[0])
    starts = [0, 3, 5, 7, 9]
    assert {start for _, start, _ in found} == set(starts)
    ends = [("to_features", start, features) for start in starts]
    ends += [("to_next", start, kept[start + 2]) for start in (3, 5)]
    for stretch, start, end in ends:
        for example in range(2):
            gradients = [
                torch.autograd.grad(value, kept[start], retain_graph=True)[0] for value in end[example].flatten()
            ]
            assert not any(g[other].any() for g in gradients for other in range(4) if other != example)
            jacobian = torch.stack([g[example].flatten() for g in gradients])
            expected = np.linalg.svd(jacobian.numpy(), compute_uv=False)
            np.testing.assert_allclose(found[stretch, start, example], expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("norm", plugins.names("norms"))
@pytest.mark.parametrize("name, options", [("resnet", {"depth": 8}), ("lenet", {}), ("mlp", {"hidden": "8-8"})])
def test_the_frozen_network_computes_what_training_does(name, options, norm):
    """Of every norm: what each takes from the mini-batch, or draws, is in its logits."""
    every = plugins.defaults("models", name) | options
    made = norms.Factory(norm, {"size": 6} if norm == "ghost_batch" else {})
    network = models.build(name, every, made, "xavier_uniform", (3, 32, 32), 10, 0).double()
    loader = make_loader(32, size=32, num_classes=10)
    network.train()(loader.probe_batch(16, 1)[0].double())  # batch renormalization looks at the running statistics
    seen = look(network, loader, reads=[], batch_size=16)
    fixed = jsv.frozen(seen, seen.images_NCHW)
    images = seen.images_NCHW.double()
    with torch.random.fork_rng():  # what it draws, too, in the snapshot's layout of memory
        together = seen.network().double()(images)
    one_by_one = torch.cat([fixed(image[None]) for image in images])
    torch.testing.assert_close(one_by_one, together, rtol=1e-9, atol=1e-9)


def test_the_statistics_own_derivative_fades_with_the_size_of_the_mini_batch():
    """Against the whole derivative of one example's features in training mode, in which it moves the statistics too."""
    network = shaken(make_network("batch")).double()
    loader = make_loader(64)
    loader.images = loader.images.double()
    apart = {}
    for size in (4, 16, 64):
        images = loader.probe_batch(size)[0].clone().requires_grad_()
        coupled = copy.deepcopy(network).train()
        features = features_of(coupled, images)[0]
        whole = torch.stack([torch.autograd.grad(f, images, retain_graph=True)[0][0].flatten() for f in features])
        seen = look(network, loader, reads=[], batch_size=size)
        at, end = jsv.passed(jsv.frozen(seen, seen.images_NCHW), seen, loader.images[:1].clone())
        (alone,) = jsv.jacobians(end, at, [0])
        apart[size] = ((whole - alone).norm() / whole.norm()).item()
    assert apart[4] > 2 * apart[16] > 4 * apart[64] > 0
    assert apart[64] < 0.1


def test_batch_norms_own_jacobian_in_closed_form():
    """With constant statistics it is weight / std in every channel; in truth it also loses the mean and the scale."""
    network = make_product(num_factors=1, norm="batch")
    with torch.no_grad():
        network.factors[0].dense.weight.copy_(torch.eye(6))
        network.factors[0].norm.weight.copy_(torch.arange(1.0, 7.0))
    loader = make_loader()
    found = run(look(network, loader, reads=[]), starts=[0], num_examples=1)["to_features", 0, 0]
    values = loader.probe_batch(6)[0].flatten(1)[:, :6].double()
    expected = torch.arange(1.0, 7.0) / (values.var(0, correction=0) + 1e-5).sqrt()
    assert found == pytest.approx(expected.sort(descending=True).values.tolist(), rel=1e-5)


# --- what is kept --------------------------------------------------------------------------------------------------


def test_where_a_stretch_can_begin():
    loader = make_loader()
    assert jsv.possible_starts(look(make_network(num_blocks=2), loader, reads=[])) == [0, 3, 5, 7, 9]
    assert jsv.possible_starts(look(make_product(3), loader, reads=[])) == [0, 1, 2, 3]


def test_values_are_kept_evenly_spaced_with_both_ends():
    seen = look(make_product(width=10), make_loader(), reads=[])
    every = probes.rows("jacobian_singular_values", {"starts": [1], "num_examples": 1}, seen)
    some = probes.rows("jacobian_singular_values", {"starts": [1], "num_examples": 1, "num_values": 4}, seen)
    assert [row["index"] for row in every] == list(range(10)) and {row["count"] for row in every} == {10}
    assert some == [every[i] for i in (0, 3, 6, 9)]
    assert jsv.kept(3, 5) == [0, 1, 2] and jsv.kept(4096, 2) == [0, 4095]
    assert all(a["value"] >= b["value"] for a, b in pairwise(every))


def test_no_more_examples_than_the_mini_batch_has():
    found = run(look(make_product(), make_loader(), reads=[], batch_size=3), starts=[0], num_examples=7)
    assert {example for _, _, example in found} == {0, 1, 2}


def test_rows_in_parts_are_rows_at_once(monkeypatch):
    seen = look(make_network(), make_loader(), reads=[])
    whole = run(seen, starts_to_next=[3], num_examples=1)
    monkeypatch.setattr(jsv, "AT_ONCE", 5)
    parts = run(seen, starts_to_next=[3], num_examples=1)
    assert whole.keys() == parts.keys()
    for key in whole:
        np.testing.assert_allclose(parts[key], whole[key], rtol=1e-6, atol=1e-12)


def test_a_jacobian_that_is_not_finite_has_no_singular_values():
    network = make_product()
    with torch.no_grad():
        network.factors[2].dense.weight[0, 0] = math.inf
    found = run(look(network, make_loader(), reads=[]), num_examples=1)
    assert all(math.isnan(v) for start in (0, 1, 2) for v in found["to_features", start, 0])
    assert all(math.isfinite(v) for start in (3, 4) for v in found["to_features", start, 0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"starts": [2]}, r"starts = \[2\]: give some of \[0, 3, 5\]"),
        ({"starts_to_next": [5]}, r"starts_to_next = \[5\]: give some of \[0, 3\]"),
        ({"num_examples": 0}, "num_examples = 0, .*give 1 or more"),
        ({"num_values": 1}, "num_values = 1: give .* 2 or more values, or 0 for all"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=f"jacobian_singular_values: .*{message}"):
        run(look(make_network(), make_loader(), reads=[]), **options)


def test_the_network_of_a_snapshot_is_a_copy_at_its_weights():
    network, loader = make_network(), make_loader()
    seen = look(network, loader)
    moved = seen.displaced(0.1)
    for snapshot in (seen, moved):
        copied = snapshot.network()
        assert copied.training
        for layer in network.layers:
            assert torch.equal(copied.get_submodule(layer.name).weight, snapshot.weights[layer.depth])
    assert not torch.equal(seen.weights[2], moved.weights[2])
    copied = seen.network()
    before = seen.weights[2].clone()
    with torch.no_grad():
        for tensor in [*copied.parameters(), *copied.buffers()]:
            tensor.zero_()
    assert torch.equal(seen.weights[2], before) and seen.displaced(0.0).loss == pytest.approx(seen.loss)
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    again = functional_call(copy.deepcopy(network).train(), state, (seen.images_NCHW,))
    torch.testing.assert_close(seen.network()(seen.images_NCHW), again)


def test_a_norm_that_does_not_say_how_it_is_held_is_refused():
    """It would compute another function than the pass that is meant, as evaluation does."""

    class Own(nn.Module):
        def __init__(self, num_features):
            super().__init__()
            self.register_buffer("running_middle", torch.zeros(num_features))

        def forward(self, x):
            middle = x.mean((0, 2, 3)) if self.training else self.running_middle
            return x - middle[:, None, None]  # type: ignore[index]

    network, loader = ResidualNetwork(Own), make_loader()
    with pytest.raises(ValueError, match=r"Own: .*constant in a method `held\(x\)`"):
        run(look(network, loader, reads=[]), starts=[0], num_examples=1)
