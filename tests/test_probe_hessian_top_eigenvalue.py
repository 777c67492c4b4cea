"""The largest eigenvalue of the Hessian against dense Hessians, finite differences, and closed forms."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from probe_networks import Layer, look, make_loader, make_network
from torch import nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from bnstudy import models, norms, probes
from bnstudy.config import plugins
from bnstudy.probes import _hessian, _lanczos
from bnstudy.probes import hessian_top_eigenvalue as hessian
from bnstudy.probes._hessian import _Parts, hessian_product

TINY = {"widths": (2, 3), "num_classes": 3}


def double_feed(num=12, size=4, num_classes=3):
    loader = make_loader(num, size, num_classes)
    loader.images = loader.images.double()
    return loader


def run(network, loader, batch_size=12, **options):
    (row,) = probes.rows("hessian_top_eigenvalue", options, look(network, loader, reads=[], batch_size=batch_size))
    return row


def gradient(network, images, labels):
    loss = functional.cross_entropy(network.train()(images), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


def dense(network, images, labels):
    """The whole Hessian in float64, one row after the other by backward through backward."""
    copied = copy.deepcopy(network).double().train()
    parameters = list(copied.parameters())
    loss = functional.cross_entropy(copied(images.double()), labels)
    first = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [torch.autograd.grad(g, parameters, retain_graph=True, materialize_grads=True) for g in first]
    return torch.stack([torch.cat([each.flatten() for each in row]) for row in rows])


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_it_is_the_largest_eigenvalue_of_the_dense_hessian(norm):
    network, loader = make_network(norm, **TINY).double(), double_feed()
    matrix = dense(network, *loader.probe_batch(12))
    torch.testing.assert_close(matrix, matrix.T)
    expected = torch.linalg.eigvalsh(matrix)[-1].item()
    row = run(network, loader, tolerance=1e-6)
    assert row["eigenvalue"] == pytest.approx(expected, rel=1e-9)
    assert row["converged"] and row["residual"] <= 1e-6 * row["eigenvalue"]
    assert row["num_iterations"] < row["num_parameters"] == len(matrix)
    assert (row["num_examples"], row["loss"]) == (12, pytest.approx(look(network, loader, batch_size=12).loss))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_dense_hessian_is_that_of_finite_differences(norm):
    """Through the statistics of the mini-batch too, at a smooth network: sigmoids instead of ReLU."""
    options = plugins.defaults("models", "mlp") | {"hidden": "3", "activation": "sigmoid"}
    network = models.build("mlp", options, norms.Factory(norm, {}), "xavier_uniform", (3, 2, 2), 3, 0).double()
    images, labels = double_feed(size=2).probe_batch(12)
    times = hessian_product(copy.deepcopy(network).train(), images, labels)
    theta, step, columns = parameters_to_vector(network.parameters()).detach(), 1e-5, []
    moved = copy.deepcopy(network)
    for unit in torch.eye(len(theta), dtype=torch.float64):
        ends = []
        for sign in (1, -1):
            vector_to_parameters(theta + sign * step * unit, moved.parameters())
            ends.append(gradient(moved, images, labels))
        columns.append((ends[0] - ends[1]) / (2 * step))
        torch.testing.assert_close(times(unit), columns[-1], rtol=1e-5, atol=1e-8)
    expected = torch.linalg.eigvalsh(torch.stack(columns, 1))[-1].item()
    row = run(network, double_feed(size=2), tolerance=1e-6)
    assert row["eigenvalue"] == pytest.approx(expected, rel=1e-6)


class Softmax(nn.Module):
    """Softmax regression from zero weights."""

    def __init__(self, num_inputs, num_classes):
        super().__init__()
        self.classifier = nn.Linear(num_inputs, num_classes, bias=False)
        nn.init.zeros_(self.classifier.weight)
        self.layers = (Layer(1, "classifier", "linear", "classifier"),)

    def forward(self, images_NCHW):
        return self.classifier(images_NCHW.flatten(1))


def test_of_softmax_regression_it_is_known():
    """With uniform probabilities H = mean(x x^T) (x) (I/K - 1/K^2), whose second factor has the eigenvalue 1/K."""
    loader = double_feed(12, 4, 3)
    inputs_NI = loader.images.flatten(1)
    expected = torch.linalg.eigvalsh(inputs_NI.T @ inputs_NI / 12)[-1].item() / 3
    assert run(Softmax(48, 3).double(), loader, tolerance=1e-6)["eigenvalue"] == pytest.approx(expected, rel=1e-9)


def test_in_float32_it_is_the_same_to_the_tolerance():
    network, loader = make_network("batch", **TINY), double_feed()
    assert run(network, loader)["eigenvalue"] == pytest.approx(run(network.double(), loader)["eigenvalue"], rel=2e-3)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("name, options", [("resnet", {"depth": 8}), ("lenet", {}), ("mlp", {"hidden": "8-8"})])
def test_the_studys_networks_can_be_differentiated_twice(name, options, norm):
    every = plugins.defaults("models", name) | options
    network = models.build(name, every, norms.Factory(norm, {}), "xavier_uniform", (3, 32, 32), 10, 0)
    row = run(network, make_loader(8, 32, 10), batch_size=8, max_iterations=200)
    assert row["converged"] and row["eigenvalue"] > 0
    assert row["num_parameters"] == sum(p.numel() for p in network.parameters())


# --- Lanczos -------------------------------------------------------------------------------------------------------


def random_symmetric(num, seed=0):
    matrix = torch.randn(num, num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (matrix + matrix.T) / 2


def lanczos(matrix, tolerance=1e-8, max_iterations=100):
    start = torch.randn(len(matrix), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return hessian.largest_eigenvalue(lambda v: matrix @ v, start, tolerance, max_iterations)


@pytest.mark.parametrize("shift", [0.0, 20.0, -20.0])
def test_the_largest_not_the_largest_absolute(shift):
    matrix = random_symmetric(60) + shift * torch.eye(60, dtype=torch.float64)
    value, residual, _ = lanczos(matrix)
    expected = torch.linalg.eigvalsh(matrix)[-1].item()
    assert value == pytest.approx(expected, abs=1e-9)
    assert residual <= 1e-8 * abs(value)


def test_the_estimate_rises_towards_it_and_the_residual_bounds_the_distance():
    matrix = random_symmetric(60)
    every = torch.linalg.eigvalsh(matrix)
    estimates = [lanczos(matrix, tolerance=1e-12, max_iterations=k) for k in range(1, 40)]
    values = [value for value, _, _ in estimates]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values)) and values[-1] <= every[-1] + 1e-12
    for value, residual, count in estimates:
        assert (every - value).abs().min() <= residual + 1e-12
        assert count <= 40


def test_the_residual_is_that_of_the_vector():
    matrix = random_symmetric(30)
    start = torch.randn(30, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    space, _ = torch.linalg.qr(torch.stack([torch.linalg.matrix_power(matrix, k) @ start for k in range(6)], 1))
    values, vectors = torch.linalg.eigh(space.T @ matrix @ space)
    vector = space @ vectors[:, -1]
    value, residual, _ = lanczos(matrix, max_iterations=6)
    assert value == pytest.approx(values[-1].item(), rel=1e-9)
    assert residual == pytest.approx((matrix @ vector - value * vector).norm().item(), rel=1e-6)


def test_few_eigenvalues_end_the_iteration_early():
    matrix = torch.diag(torch.tensor([5.0, 2.0] + [0.0] * 38, dtype=torch.float64))
    value, residual, count = lanczos(matrix)
    assert (value, count) == (pytest.approx(5.0), 3) and residual < 1e-8
    assert lanczos(torch.zeros(5, 5, dtype=torch.float64)) == (0.0, 0.0, 1)


def test_too_few_iterations_are_told():
    network, loader = make_network("none", **TINY).double(), double_feed()
    whole, short = run(network, loader), run(network, loader, max_iterations=2)
    assert whole["converged"] and not short["converged"]
    assert short["num_iterations"] == 2 and short["eigenvalue"] < whole["eigenvalue"]
    assert short["residual"] > 1e-3 * short["eigenvalue"]


def test_a_hessian_that_is_not_finite_has_none():
    network, loader = make_network("none", **TINY), double_feed()
    with torch.no_grad():
        network.classifier.weight.fill_(math.inf)
    row = run(network, loader)
    assert math.isnan(row["eigenvalue"]) and math.isnan(row["residual"])
    assert row["converged"] is False and row["num_iterations"] == 1


def test_tridiagonal():
    np.testing.assert_array_equal(_lanczos.tridiagonal([1.0, 2.0, 3.0], [4.0, 5.0]), [[1, 4, 0], [4, 2, 5], [0, 5, 3]])
    np.testing.assert_array_equal(_lanczos.tridiagonal([7.0], []), [[7]])


# --- in parts ------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """One layer used twice, weights used by themselves, a random draw, and a parameter that is idle."""

    def __init__(self):
        super().__init__()
        self.layer, self.end = nn.Linear(8, 8), nn.Linear(8, 3)
        self.scale, self.idle = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor(1.0))
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        x = torch.sigmoid(self.layer(x.flatten(1)))
        return self.end(self.drop(self.scale * self.layer(x) + x))


class Moving(nn.Module):
    """A norm whose output depends on what it has seen before, which it keeps in place or in a new tensor."""

    seen: torch.Tensor

    def __init__(self, anew):
        super().__init__()
        self.anew = anew
        self.register_buffer("seen", torch.ones(()))

    def forward(self, x):
        y = torch.sigmoid(x) * self.seen.clone()
        scale = 1 + x.detach().square().mean()
        if self.anew:
            self.seen = self.seen * scale
        else:
            self.seen *= scale
        return y


class Odd(nn.Module):
    """Operations in place, also as the first and the last, a norm with a state that is used twice, several outputs of
    one operation, whole numbers, a layer without a gradient to what was before it."""

    def __init__(self):
        super().__init__()
        self.frozen, self.layer, self.end = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.relu, self.norms = nn.ReLU(inplace=True), nn.ModuleList([Moving(anew=True), Moving(anew=False)])

    def forward(self, x):
        x = torch.sigmoid(self.frozen(x.flatten(1).mul_(0.5)).detach())
        x = self.norms[0](self.norms[1](self.layer(x)))
        left, right = x.chunk(2, 1)
        x = self.norms[0](self.norms[1](self.layer(torch.cat([left * right, right - 0.3], 1))))
        x = self.relu(x - x.mean()) + x.topk(6, 1)[0]
        y = self.end(x)
        y.mul_(2)
        return y


IN_PARTS = [
    *(("mlp", {"hidden": "6-5-4", "activation": "sigmoid"}, norm) for norm in plugins.names("norms")),
    ("resnet", {"depth": 8}, "batch"),
    ("resnet", {"depth": 8, "shortcut": "identity"}, "none"),
    ("lenet", {}, "batch"),
    ("tied", {}, "none"),
    ("odd", {}, "none"),
]
WHOLE = {"batch_renorm", "noisy_batch"}  # the one has no Hessian; the other's file asks for values while it is traced


@pytest.mark.parametrize("name, options, norm", [each for each in IN_PARTS if each[2] not in WHOLE])
def test_in_parts_the_products_are_those_of_the_whole(name, options, norm, monkeypatch):
    """The twin keeps the whole graph; both see the same random draws."""
    side = {"mlp": 2, "tied": 2, "odd": 2}.get(name, 32 if name == "lenet" else 8)
    torch.manual_seed(0)
    if name in ("tied", "odd"):
        network: nn.Module = (Tied if name == "tied" else Odd)().double()
        images = torch.randn(12, 2, 2, 2, dtype=torch.float64)
    else:
        every = plugins.defaults("models", name) | options
        network = models.build(name, every, norms.Factory(norm, {}), "xavier_uniform", (3, side, side), 3, 0).double()
        images = torch.randn(6 if name != "mlp" else 12, 3, side, side, dtype=torch.float64)
    labels = torch.arange(len(images)) % 3
    products = []
    for memory in (2**60, 0):
        monkeypatch.setattr(_hessian, "MEMORY", memory)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            products.append(hessian_product(copy.deepcopy(network).train(), images, labels))
    whole, parts = products
    assert isinstance(parts, _Parts) and not isinstance(whole, _Parts)
    for _ in range(2):
        vector = torch.randn(sum(p.numel() for p in network.parameters()), dtype=torch.float64)
        expected = whole(vector)
        torch.testing.assert_close(parts(vector), expected, rtol=1e-8, atol=1e-9 * expected.abs().max().item())


def test_a_network_that_cannot_be_traced_stays_whole(monkeypatch):
    class Asking(nn.Sequential):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    monkeypatch.setattr(_hessian, "MEMORY", 0)
    network = Asking(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 3)).double()
    assert not isinstance(hessian_product(network, torch.rand(6, 1, 2, 2).double(), torch.arange(6) % 3), _Parts)


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"tolerance": 1.0}, {"max_iterations": 0}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=f"hessian_top_eigenvalue: .*{next(iter(options))} = .*give"):
        run(make_network("none"), make_loader(), **options)


def finite_differences(network, images, labels, step=1e-5):
    """The Hessian as the gradient's central differences, what is random drawn alike every time."""
    theta, columns = parameters_to_vector(network.parameters()).detach(), []
    moved = copy.deepcopy(network)
    for unit in torch.eye(len(theta), dtype=torch.float64):
        ends = []
        for sign in (1, -1):
            vector_to_parameters(theta + sign * step * unit, moved.parameters())
            with torch.random.fork_rng():
                torch.manual_seed(5)
                ends.append(gradient(moved, images, labels))
        columns.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("norm", [name for name in plugins.names("norms") if name != "batch_renorm"])
def test_of_every_norm_it_is_the_hessian_of_finite_differences(norm):
    """Whitening's inverse root could be differentiated once, and the rest was taken for 0."""
    options = plugins.defaults("models", "mlp") | {"hidden": "6-5", "activation": "sigmoid"}
    network = models.build("mlp", options, norms.Factory(norm, {}), "xavier_uniform", (1, 2, 2), 3, 0).double()
    images = torch.randn(12, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(12) % 3
    with torch.random.fork_rng():
        torch.manual_seed(5)
        times = hessian_product(copy.deepcopy(network).train(), images, labels)
    expected = finite_differences(network, images, labels)
    found = torch.stack([times(unit) for unit in torch.eye(len(expected), dtype=torch.float64)], 1)
    far = 1e-2 if norm == "probability_integral" else 1e-6  # whose distribution has corners
    assert (found - expected).abs().max() < far * expected.abs().max()


def test_a_norm_that_stops_gradients_is_refused():
    options = plugins.defaults("models", "mlp") | {"hidden": "6"}
    network = models.build("mlp", options, norms.Factory("batch_renorm", {}), "xavier_uniform", (3, 4, 4), 3, 0)
    with pytest.raises(ValueError, match=r"hidden\.0\.norm is BatchRenorm.*take another norm"):
        run(network, double_feed())


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class DetachedSquare(Square):
    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0].detach() * grad.detach()


@pytest.mark.parametrize("memory", [_hessian.MEMORY, 0], ids=["whole", "in parts"])
@pytest.mark.parametrize("function", [Square, DetachedSquare])
@pytest.mark.parametrize("place", [1, 3])
def test_what_cannot_be_differentiated_twice_is_refused(function, place, memory, monkeypatch):
    monkeypatch.setattr(_hessian, "MEMORY", memory)

    class Apply(nn.Module):
        def forward(self, x):
            return function.apply(x)

    torch.manual_seed(0)
    layers = [nn.Linear(16, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.Linear(5, 3)]
    network = nn.Sequential(nn.Flatten(), *layers[:place], Apply(), *layers[place:]).double()
    images, labels = torch.randn(12, 1, 4, 4, dtype=torch.float64), torch.arange(12) % 3
    with pytest.raises(ValueError, match="cannot be differentiated again"):
        times = hessian_product(network, images, labels)
        start = torch.randn(sum(p.numel() for p in network.parameters()), dtype=torch.float64)
        hessian.largest_eigenvalue(times, start, 1e-3, 50)
