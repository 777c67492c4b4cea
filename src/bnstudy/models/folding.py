"""Batch normalization made part of the layer before it, as in evaluation: the same function, fewer operations."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from bnstudy import norms

BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d)


class _Tracer(fx.Tracer):
    """Looks into no norm: how one computes need not be traceable."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith(norms.__name__) or super().is_leaf_module(m, module_qualified_name)


def normed(network: nn.Module) -> dict[str, str]:
    """Each convolution or dense layer whose output goes to a BN and nowhere else, with that BN: their names.

    Raises torch.fx's error for a network that cannot be traced.
    """
    modules = dict(network.named_modules())
    found = {}
    for node in _Tracer().trace(network).nodes:
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        norm, layer = (modules[str(each.target)] for each in (node, before))
        if isinstance(norm, BatchNorm) and isinstance(layer, nn.Conv2d | nn.Linear) and len(before.users) == 1:
            found[str(before.target)] = str(node.target)
    return found


@torch.no_grad()
def fold_bn(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode that computes the same, each BN in the convolution or dense layer that alone feeds it.

    gamma (Wx + b - mean) / s + beta = (gamma W / s) x + gamma (b - mean) / s + beta, s = sqrt(running var + eps)
    (Jacob et al. 2018, section 3.2); a layer without a bias gets one. BN that follows anything else stays, as does one
    without running statistics. Raises torch.fx's error for a network that cannot be traced.
    """
    folded = copy.deepcopy(network).eval()
    for layer_name, norm_name in normed(folded).items():
        layer, norm = (folded.get_submodule(name) for name in (layer_name, norm_name))
        assert isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(norm, BatchNorm)
        if norm.running_var is not None and norm.running_mean is not None:
            _fold(layer, norm)
            parent, _, child = norm_name.rpartition(".")
            setattr(folded.get_submodule(parent), child, nn.Identity())
    return folded


def unbiased(network: nn.Module) -> nn.Module:
    """A copy in which no layer that BN follows has a bias.

    In training BN takes each channel's mean away, and a bias with it. In evaluation it takes away the running mean,
    which was kept while the biases were there.
    """
    bare = copy.deepcopy(network)
    for name in normed(bare):
        bare.get_submodule(name).register_parameter("bias", None)
    return bare


def _fold(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    assert norm.running_var is not None and norm.running_mean is not None
    gamma_C: torch.Tensor = norm.weight
    beta_C: torch.Tensor = norm.bias
    if not norm.affine:
        gamma_C, beta_C = torch.ones_like(norm.running_var), torch.zeros_like(norm.running_mean)
    fuse = fuse_conv_bn_weights if isinstance(layer, nn.Conv2d) else fuse_linear_bn_weights
    layer.weight, layer.bias = fuse(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, gamma_C, beta_C
    )
