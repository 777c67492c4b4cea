"""The norms' statistics: estimated anew over many images, or held constant as of one pass.

A norm written here says in a method `held` how its statistics are held constant, and, where these are not mean and
variance, in a method `statistics` what they are for one mini-batch. torch's norms are known to this module.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

RUNNING = "running_"  # begins the names of the buffers that evaluation uses
SAME = 1e-6  # how far apart, relative to the largest, logits in float64 may lie and still count as the same


def keeping(network: nn.Module) -> dict[str, nn.Module]:
    """The modules that keep running statistics, by name."""
    named = {name: module for name, module in network.named_modules()}
    return {n: m for n, m in named.items() if any(k.startswith(RUNNING) for k, _ in m.named_buffers(recurse=False))}


# --- over many images ----------------------------------------------------------------------------------------------


class _Moments:
    """Mean and central second moments over everything but the channel, in float64, block by block (Chan et al. 1983).

    The second moments are those of every channel (C,), or, `whole`, of every pair (C, C).
    """

    def __init__(self, whole: bool) -> None:
        self._whole, self.count, self.mean, self.m2 = whole, 0, torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        values_CM = x.detach().transpose(0, 1).flatten(1).double()
        more, mean_C = values_CM.shape[1], values_CM.mean(1)
        centred_CM = values_CM - mean_C[:, None]
        apart_C = mean_C - self.mean.to(mean_C)
        total = self.count + more
        within = centred_CM @ centred_CM.T if self._whole else centred_CM.square().sum(1)
        between = torch.outer(apart_C, apart_C) if self._whole else apart_C.square()
        self.m2 = self.m2.to(within) + within + between * (self.count * more / total)
        self.mean = self.mean.to(mean_C) + apart_C * (more / total)
        self.count = total


class _Averages:
    """Means over mini-batches of a norm's `statistics`, weighted by the number of values per channel."""

    def __init__(self, norm: Any) -> None:
        self._norm, self._sums, self.count = norm, dict[str, Tensor](), 0

    def add(self, x: Tensor) -> None:
        more = x.numel() // x.shape[1]
        for name, value in self._norm.statistics(x.detach()).items():
            self._sums[name] = self._sums.get(name, 0) + value.double() * more
        self.count += more

    def means(self) -> dict[str, Tensor]:
        return {name: value / self.count for name, value in self._sums.items()}


@torch.no_grad()
def reestimated(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
    """A copy in evaluation mode whose running statistics are those over all of these images, at these weights.

    Every mini-batch passes with its own statistics, as in training; labels are not looked at. What a norm is given
    there is pooled: mean and (unbiased) variance are those of all values of a channel, however they were divided into
    mini-batches. (`torch.optim.swa_utils.update_bn` averages over mini-batches, one of 2 images like one of 500.)

    Raises ValueError where there is no image, a norm refuses a mini-batch, or keeps statistics of an unknown kind.
    """
    network = copy.deepcopy(network).train()
    pools: dict[str, _Moments | _Averages] = {}
    hooks = []
    norms = keeping(network)
    for name, norm in norms.items():
        if hasattr(norm, "statistics"):
            pool: _Moments | _Averages = _Averages(norm)
        elif hasattr(norm, "running_mean") and (hasattr(norm, "running_var") or hasattr(norm, "running_cov")):
            pool = _Moments(whole=hasattr(norm, "running_cov"))
        else:
            raise ValueError(f"{name}: {type(norm).__name__} keeps statistics of its own kind; give it `statistics(x)`")
        pools[name] = pool
        hooks.append(norm.register_forward_pre_hook(lambda _, inputs, pool=pool: pool.add(inputs[0])))
    for images_NCHW, _ in batches:
        network(images_NCHW)
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        pool = pools[name]
        if pool.count < 2:
            raise ValueError(f"{name}: statistics need two values or more a channel, and were given {pool.count}")
        if isinstance(pool, _Averages):
            found = pool.means()
        else:
            biased = getattr(norm, "biased_running_variance", False)
            second = "running_cov" if hasattr(norm, "running_cov") else "running_var"
            found = {"running_mean": pool.mean, second: pool.m2 / (pool.count if biased else pool.count - 1)}
        for key, value in found.items():
            norm.get_buffer(key).copy_(value)
    return network.eval()


# --- as one pass of training has them ------------------------------------------------------------------------------


class Held(nn.Module):
    """y = (x - centre) * scale + shift with constants of one pass of training, by channel, or by example and channel.

    Constants are (1 or N, C, ...) for a mini-batch of N examples; `examples` says which of these N x consists of.
    """

    centre: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, centre: Tensor, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        for name, value in (("centre", centre), ("scale", scale), ("shift", shift)):
            self.register_buffer(name, value.detach())
        self.examples: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        constants = []
        for value in (self.centre, self.scale, self.shift):
            if len(value) > 1 and self.examples is not None:
                value = value[self.examples]
            constants.append(value.reshape(*value.shape, *[1] * (x.dim() - value.dim())))
        centre, scale, shift = constants
        return (x - centre) * scale + shift


class _Holding(nn.Module):
    """A norm that computes a first pass as in training, and from then on with what it had there."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.held = norm, list[nn.Module]()  # a list: what is in it is no module of the network yet

    def forward(self, x: Tensor) -> Tensor:
        if not self.held:
            self.held.append(_hold(self.norm, x))
        found: Tensor = self.held[0](x)
        return found


@torch.no_grad()
def frozen(network: nn.Module, images_NCHW: Tensor) -> nn.Module:
    """A copy in evaluation mode that computes for each of these images what training computes for the whole mini-batch.

    What norms take from the mini-batch (statistics), and what is drawn at random, are constants of that one pass, so
    that no image has a part in another's logits. Where a constant belongs to an example, an image has those of the
    example whose image is nearest to it. Raises ValueError for a network whose norms cannot be held.
    """
    network = copy.deepcopy(network).train()
    devices = [images_NCHW.device] if images_NCHW.is_cuda else []
    with torch.random.fork_rng(devices):
        logits_NK = copy.deepcopy(network)(images_NCHW)
    holding = {name: _Holding(module) for name, module in _outermost(network).items()}
    for name, module in holding.items():
        _replace(network, name, module)
    with torch.random.fork_rng(devices):
        network(images_NCHW)
    for name, module in holding.items():
        if module.held:  # else the network did not come by it
            _replace(network, name, module.held[0])
    network.eval()
    held = [module for module in network.modules() if isinstance(module, Held)]
    if any(len(each.scale) > 1 for each in held):
        known_NP = images_NCHW.flatten(1)

        def choose(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            examples = _nearest(inputs[0].detach().flatten(1), known_NP)
            for each in held:
                each.examples = examples

        network.register_forward_pre_hook(choose)
    apart = (network(images_NCHW) - logits_NK).abs().max()
    if not apart <= SAME * logits_NK.abs().max() and logits_NK.isfinite().all():
        raise ValueError(
            f"{', '.join(sorted(_kinds(network))) or 'the network'}: with its statistics held constant the network "
            f"computes something else than in training (logits {apart:.2g} apart); a norm that takes them from the "
            "mini-batch, or draws at random, says what is constant in a method `held(x)`"
        )
    return network


def _nearest(images_BP: Tensor, known_NP: Tensor) -> Tensor:
    """For each image the index of the known one that is nearest."""
    return torch.cdist(images_BP, known_NP, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


def _kinds(network: nn.Module) -> set[str]:
    known = (nn.Conv2d, nn.Linear, Held)
    return {
        type(m).__name__
        for m in network.modules()
        if not isinstance(m, known) and [*m.named_parameters(recurse=False), *m.named_buffers(recurse=False)]
    }


def _outermost(network: nn.Module) -> dict[str, nn.Module]:
    """The modules that can be held; what lies within one is held with it."""
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        known = hasattr(module, "held") or isinstance(module, _BatchNorm | _DropoutNd)
        if name and known and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _hold(norm: Any, x: Tensor) -> nn.Module:
    if hasattr(norm, "held"):
        own: nn.Module = norm.held(x)
        return own
    if isinstance(norm, _BatchNorm):
        return affine(norm, *moments(x))
    return Held(torch.zeros_like(x[:1]), norm(torch.ones_like(x)), torch.zeros_like(x[:1]))  # dropout's mask


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of a mini-batch: (1, C) each."""
    over = [d for d in range(x.dim()) if d != 1]
    mean = x.mean(over, keepdim=True)
    return mean.reshape(1, -1), (x - mean).square().mean(over)[None]


def affine(norm: Any, mean_1C: Tensor, variance_1C: Tensor) -> Held:
    """gamma (x - mean) / sqrt(variance + eps) + beta, with gamma and beta of the norm where it has them."""
    scale = (variance_1C + norm.eps).rsqrt()
    gamma, beta = (None if value is None else value.detach() for value in (norm.weight, norm.bias))
    shift = torch.zeros_like(scale[:1]) if beta is None else beta[None]
    return Held(mean_1C, scale if gamma is None else scale * gamma, shift)
