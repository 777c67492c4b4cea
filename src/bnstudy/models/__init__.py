"""The one place that turns `model: resnet / lenet / ...` and an initialiser's name into a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

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
    initialisers.apply(network, init, seed, as_torch, init_scale, factors)
    return network


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
