"""A traced network computes what its file says in every pass, or is not traced."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from bnstudy.models import tracing
from bnstudy.training.engine.fuse import Fused


class Layer(nn.Module):
    """A container, of which the forward pass is traced; its `branch` decides what is done with its layer."""

    count: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer, self._calls, self.seen = nn.Linear(4, 4), 0, list[int]()
        self.generator = np.random.default_rng(0)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


class DrawsByTorch(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x) if torch.rand(()) < 0.5 else x  # as stochastic depth does


class DrawsByPython(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x) if random.random() < 0.5 else x


class DrawsByNumpy(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * float(np.random.rand())


class DrawsByItsOwn(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * float(self.generator.random())


class Counts(Layer):
    def forward(self, x: Tensor) -> Tensor:
        self._calls += 1
        return self.layer(x) / self._calls


class Lists(Layer):
    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(1)
        return self.layer(x) * len(self.seen)


class CountsInABuffer(Layer):
    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return self.layer(x) * self.count


class ReplacesABuffer(Layer):
    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        return self.layer(x) * self.count


class ComputesWithABuffer(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (self.scale * 2)


class WithoutGradient(Layer):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            fixed = self.layer(x)
        return x + fixed


class InBf16(Layer):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.layer(x)


def images() -> Tensor:
    return torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)


def seed() -> None:
    torch.manual_seed(0), random.seed(0), np.random.seed(0)


UNREPEATED = (
    DrawsByTorch, DrawsByPython, DrawsByNumpy, DrawsByItsOwn, Counts, Lists, CountsInABuffer, ReplacesABuffer,
    ComputesWithABuffer, WithoutGradient, InBf16,
)  # fmt: skip


@pytest.mark.parametrize("kind", UNREPEATED)
def test_what_a_graph_would_not_repeat_is_computed_as_the_file_says(kind: type[Layer]) -> None:
    seed()
    network = kind()
    twin, x = copy.deepcopy(network), torch.randn(3, 4, requires_grad=True)
    seed()
    fused = Fused(network, 1)
    found = []
    for forward in (fused, twin):
        seed()
        for owner in (network, twin):
            owner.scale.fill_(3)  # what a graph held of it as a constant would be of the past
        passes = [forward(x) for _ in range(6)]
        found.append([*passes, torch.autograd.grad(passes[-1].float().sum(), x, allow_unused=True)[0]])
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs) and mine.dtype == theirs.dtype
    assert tracing.chain(network) == [network]


@pytest.mark.parametrize("kind", UNREPEATED)
def test_tracing_leaves_everything_as_it_was(kind: type[Layer]) -> None:
    seed()
    network = kind()
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    states = torch.get_rng_state(), network.generator.bit_generator.state
    draws = random.getstate(), np.random.get_state(legacy=False)
    with pytest.raises(fx.proxy.TraceError):
        tracing.traced(network)
    assert (network._calls, network.seen) == (0, []) and network.generator.bit_generator.state == states[1]
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == draws[0]
    np.testing.assert_equal(np.random.get_state(legacy=False), draws[1])


def test_weights_that_a_hook_makes_are_made_in_every_pass() -> None:
    torch.manual_seed(0)
    conv = torch.nn.utils.spectral_norm(nn.Conv2d(16, 16, 3, padding=1, bias=False))
    network = nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU())
    x, found = images(), []
    for owner in (network, copy.deepcopy(network)):
        forward = Fused(owner, 1) if owner is network else owner
        for _ in range(3):
            y = forward(x)
            gradients = torch.autograd.grad((y * x).sum(), list(owner.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(owner.parameters(), gradients, strict=True):
                    parameter.sub_(gradient)
        found.append((y, *gradients))
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


def test_hooks_are_called_in_every_pass() -> None:
    network, called = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()), []
    network[1].register_forward_hook(lambda *_: called.append(1))
    fused = Fused(network, 1)
    for _ in range(3):
        fused(images())
    assert len(called) == 3


def test_an_ordinary_network_is_traced() -> None:
    network = nn.Sequential(Layer(), nn.BatchNorm1d(4), nn.ReLU())
    assert len(tracing.chain(network)) == 3
    assert [node.op for node in tracing.traced(network).nodes].count("call_module") == 3
