"""Horizontal fusion: R networks of one architecture as one, channels side by side (HFTA, Wang et al., MLSys 2021).

Every convolution becomes one with R times the output channels and R groups, every dense layer a batched product, every
norm that treats channels independently a norm of R times the channels. The first layer, whose input the runs
share, needs no groups: it is a plain convolution (or product) with R times the outputs. No operation mixes channels of
two runs, so one that goes to infinity leaves its neighbours' numbers untouched.
Shapes: N images, R runs, K classes, F features.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """R dense layers on inputs (N, R * F), or on one shared input (N, F); outputs (N, R * outputs)."""

    def __init__(self, layers: Sequence[nn.Linear], *, shared_input: bool) -> None:
        super().__init__()
        self.num_runs = len(layers)
        self.shared_input = shared_input
        self.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))  # (R * outputs, F)
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self.bias = nn.Parameter(torch.cat(biases)) if biases else None

    def forward(self, input: Tensor) -> Tensor:
        if self.shared_input or self.num_runs == 1:
            return nn.functional.linear(input, self.weight, self.bias)
        runs = self.num_runs
        input_RNF = input.unflatten(1, (runs, -1)).transpose(0, 1)
        weight_RFO = self.weight.unflatten(0, (runs, -1)).transpose(1, 2)
        if self.bias is None:
            output_RNO = torch.bmm(input_RNF, weight_RFO)
        else:
            output_RNO = torch.baddbmm(self.bias.unflatten(0, (runs, 1, -1)), input_RNF, weight_RFO)
        return output_RNO.transpose(0, 1).flatten(1)


def stack(networks: Sequence[nn.Module]) -> nn.Module:
    """One network that computes what `networks` compute: images (N, C, H, W) -> logits (N, R * K), run by run.

    The networks have `layers` in depth order (the first one sees the images) and consist of convolutions, dense layers,
    stackable norms and modules without parameters.
    """
    wide = copy.deepcopy(networks[0])
    first = networks[0].layers[0].name  # type: ignore[union-attr,index]
    modules = [dict(network.named_modules()) for network in networks]
    for name, module in list(wide.named_modules()):
        if not list(module.parameters(recurse=False)) and not list(module.buffers(recurse=False)):
            continue
        parent, _, child = name.rpartition(".")
        widened = side_by_side([each[name] for each in modules], shared_input=name == first)
        setattr(wide.get_submodule(parent), child, widened)
    return wide


def unstack(values: Tensor, run: int, num_runs: int) -> Tensor:
    """One run's part of a stacked tensor; what has no dimension (a count of batches) is shared."""
    return values.unflatten(0, (num_runs, -1))[run] if values.dim() else values


def side_by_side(modules: Sequence[nn.Module], *, shared_input: bool) -> nn.Module:
    """One layer for these, which are alike, side by side: channels of all, one after the other."""
    one = modules[0]
    if isinstance(one, nn.Linear):
        return StackedLinear([m for m in modules if isinstance(m, nn.Linear)], shared_input=shared_input)
    wide = copy.deepcopy(one)
    if isinstance(wide, nn.Conv2d):
        wide.out_channels *= len(modules)
        if not shared_input:
            wide.in_channels *= len(modules)
            wide.groups *= len(modules)
    elif hasattr(wide, "num_features"):
        wide.num_features = one.num_features * len(modules)  # type: ignore[assignment,operator]
    for name, value in one.named_parameters(recurse=False):
        setattr(wide, name, nn.Parameter(torch.cat([getattr(m, name).detach() for m in modules]), value.requires_grad))
    for name, buffer in one.named_buffers(recurse=False):
        if buffer.dim():
            setattr(wide, name, torch.cat([getattr(m, name) for m in modules]))
    return wide
