"""Batch normalization made part of the layer before it, as in evaluation: the same function, fewer operations."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d)


@torch.no_grad()
def fold_bn(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode that computes the same, each BN in the convolution or dense layer that alone feeds it.

    gamma (Wx + b - mean) / s + beta = (gamma W / s) x + gamma (b - mean) / s + beta, s = sqrt(running var + eps)
    (Jacob et al. 2018, section 3.2); a layer without a bias gets one. BN that follows anything else stays. Raises
    torch.fx's error for a network that cannot be traced.
    """
    folded = copy.deepcopy(network).eval()
    graph = fx.Tracer().trace(folded)
    modules = dict(folded.named_modules())
    for node in graph.nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        before = node.args[0] if node.args else None
        if not isinstance(norm, BatchNorm) or not isinstance(before, fx.Node) or len(before.users) != 1:
            continue
        layer = modules.get(str(before.target)) if before.op == "call_module" else None
        if isinstance(layer, nn.Conv2d | nn.Linear) and norm.running_var is not None and norm.running_mean is not None:
            _fold(layer, norm)
            parent, _, child = str(node.target).rpartition(".")
            setattr(folded.get_submodule(parent), child, nn.Identity())
    return folded


def _fold(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    assert norm.running_var is not None and norm.running_mean is not None
    scale_C = (norm.running_var + norm.eps).rsqrt() * (norm.weight if norm.affine else 1)
    shift_C = norm.bias if norm.affine else torch.zeros_like(scale_C)
    bias_C = torch.zeros_like(scale_C) if layer.bias is None else layer.bias
    layer.bias = nn.Parameter((bias_C - norm.running_mean) * scale_C + shift_C)
    layer.weight.mul_(scale_C.reshape(-1, *[1] * (layer.weight.dim() - 1)))
