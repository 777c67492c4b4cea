"""The one place that turns `model: resnet / lenet / ...` and an initialiser's name into a network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from bnstudy.config import plugins
from bnstudy.models import init as initialisers
from bnstudy.norms import Factory


def build(
    name: str,
    options: Mapping[str, Any],
    norm: Factory,
    init: str,
    shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    *,
    init_scale: float = 1.0,
) -> nn.Module:
    """The network for images of `shape` (C, H, W), on the CPU, its weights a function of the seed alone.

    Raises ValueError naming the key for options that make no network. The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # for what a norm may draw; convolutions and dense layers come below
        network = outline(name, options, norm, shape, num_classes)
        as_torch, factors = getattr(network, "torch_default_layers", ()), getattr(network, "initial_factors", {})
        modules = dict(network.named_modules())
        weighted = {path: module for path, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)}
        twins = {path: _twin(module) for path, module in weighted.items() if parametrize.is_parametrized(module)}
        drawn: Any = SimpleNamespace(named_modules=(modules | twins).items)
        initialisers.apply(drawn, init, seed, as_torch, init_scale, factors)
        for path, twin in twins.items():
            if not _take(modules[path], twin) and path in factors:
                raise ValueError(
                    f"models/{name}.py: initial_factors has {path!r}, whose weight is parametrized and cannot have the "
                    "value that follows: leave it out, or the parametrization"
                )
    return network


@torch.no_grad()
def _twin(module: nn.Module) -> nn.Module:
    """The layer with parameters of its own in place of those that others make (`torch.nn.utils.parametrize`)."""
    twin = nn.Conv2d(1, 1, 1) if isinstance(module, nn.Conv2d) else nn.Linear(1, 1)
    for key in ("weight", "bias"):
        value = getattr(module, key, None)
        setattr(twin, key, None if value is None else nn.Parameter(value.detach().clone()))
    return twin


@torch.no_grad()
def _take(module: nn.Module, twin: nn.Module) -> bool:
    """Give a layer its twin's values; whether it has all of them. What cannot, as an orthogonal weight, stays as it is.

    A weight that is made of the value alone, as the one of `spectral_norm`, has taken it.
    """
    took_all = True
    for key, value in twin.named_parameters():
        if not parametrize.is_parametrized(module, key):
            getattr(module, key).copy_(value)
            continue
        before = copy.deepcopy(module.state_dict())
        try:
            setattr(module, key, value.detach())  # a Parameter would take the place of the parametrization
            parametrizations: Any = module.parametrizations
            made_of = getattr(parametrizations[key], "original", None)
            alone = made_of is not None and torch.equal(made_of, value)
            taken = alone or torch.allclose(getattr(module, key), value, rtol=1e-3, atol=1e-6)
        except (ValueError, NotImplementedError, RuntimeError):  # it has no right_inverse, or none of this value
            taken = False
        if not taken:
            module.load_state_dict(before)
            took_all = False
    return took_all


def outline(
    name: str,
    options: Mapping[str, Any],
    norm: Factory,
    shape: tuple[int, int, int],
    num_classes: int,
) -> nn.Module:
    """The network with torch's own initial weights, of the global random state. Raises ValueError as `build` does."""
    with torch.device("cpu"):
        network: nn.Module = plugins.load("models", name).build(shape, num_classes, norm, **options)
    norm.check()
    return network


def input_size(name: str) -> int | None:
    """Images smaller than this are padded to it; None: the network takes them as they are."""
    size: int | None = plugins.load("models", name).INPUT_SIZE
    return size
