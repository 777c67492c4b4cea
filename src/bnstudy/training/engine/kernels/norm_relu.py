"""Batch normalization, an addition and ReLU as one, forward and backward, for wide images in the layout channels_last.

y = max(0, s x + t + r) with s = gamma / sqrt(v + eps), t = beta - s m (Ioffe and Szegedy, 2015), m and v the mean and
variance of x over batch and space, r what a shortcut adds. With g = dy where y > 0, x^ = (x - m) / sqrt(v + eps) and M
rows
    dx = s (g - sum(g) / M - x^ sum(g x^) / M),   dgamma = sum(g x^),   dbeta = sum(g),   dr = g.
torch reads and writes memory once for each operation, and this is all that they cost. Wherever x enters it is x - o,
with o the mean as x's type has it: scaled by itself, x far from 0 would cancel against t.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.training.engine.kernels import build
from bnstudy.training.engine.kernels.build import pointers

LANES, MAX_CHANNELS = 16, 128


class NormReLU(nn.Module):
    """Takes the place of a norm (torch's BN, or None), an addition (if called with `added`) and ReLU."""

    def __init__(self, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.norm = norm

    @staticmethod
    def applies(norm: nn.Module | None) -> bool:
        return norm is None or build.tracks(norm)

    def forward(self, x_NCHW: Tensor, added: Tensor | None = None) -> Tensor:
        norm = self.norm
        library = _library_for(x_NCHW, added, norm)
        alone = norm is not None and norm.training and x_NCHW.numel() == x_NCHW.shape[1]  # which torch refuses
        frozen = norm is not None and not norm.training and torch.is_grad_enabled()  # the kernel has no gradient for it
        if library is None or alone or frozen:
            y_NCHW = x_NCHW if norm is None else norm(x_NCHW)
            return torch.relu(y_NCHW if added is None else y_NCHW + added)
        if norm is None:
            relu_NCHW: Tensor = _Plain.apply(x_NCHW, added, library)
        elif norm.training:
            relu_NCHW = _Normed.apply(x_NCHW, added, norm.weight, norm.bias, norm, library)
        else:
            assert norm.running_mean is not None and norm.running_var is not None
            scale_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            relu_NCHW = _forward(library, x_NCHW, added, norm.running_mean, scale_C, norm.bias)
        return relu_NCHW


class _Plain(torch.autograd.Function):
    """max(0, x + added)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, library: Any) -> Tensor:
        channels = x.shape[1]
        real = build.real(x.dtype)
        zeros = torch.zeros(channels, dtype=real)
        y = _forward(library, x, added, zeros, torch.ones(channels, dtype=real), zeros)
        ctx.save_for_backward(y)
        ctx.library, ctx.both = library, added is not None
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        build.check_once()
        (y,) = ctx.saved_tensors
        grad = gradients[0].contiguous(memory_format=torch.channels_last)
        passed = torch.empty_like(y)
        ctx.library.backward(*pointers(grad, y, None, None, None, None, None, None, passed), *_sizes(y))
        return passed, passed if ctx.both else None, None


class _Normed(torch.autograd.Function):
    """In training; the norm's running statistics move."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, gamma: Tensor, beta: Tensor, norm: nn.BatchNorm2d, library: Any
    ) -> Tensor:
        mean, variance = (torch.empty(x.shape[1], dtype=torch.float64) for _ in range(2))
        y = torch.empty_like(x)
        arrays = pointers(x, added, gamma, beta, mean, variance, y, *build.tracked(norm))
        library.normalize(*arrays, *_sizes(x))
        ctx.save_for_backward(x, y, mean, variance, gamma)
        ctx.library, ctx.both = library, added is not None
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        build.check_once()
        x, y, mean, variance, gamma = ctx.saved_tensors
        grad = gradients[0].contiguous(memory_format=torch.channels_last)
        grad_x, grad_gamma, grad_beta = torch.empty_like(x), torch.empty_like(gamma), torch.empty_like(gamma)
        grad_added = torch.empty_like(y) if ctx.both else None
        arrays = pointers(grad, y, x, mean, variance, gamma, grad_x, grad_added, grad_gamma, grad_beta)
        ctx.library.normalize_backward(*arrays, *_sizes(x))
        return grad_x, grad_added, grad_gamma, grad_beta, None, None


def _forward(library: Any, x: Tensor, added: Tensor | None, centre: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    y, o, a, b = torch.empty_like(x), *(values.to(build.real(x.dtype)) for values in (centre, scale, shift))
    library.forward(*pointers(x, added, o, a, b, y), *_sizes(x))
    return y


def _sizes(x: Tensor) -> tuple[Any, int]:
    return build.long(x.numel() // x.shape[1]), torch.get_num_threads()


def _library_for(x: Tensor, added: Tensor | None, norm: nn.BatchNorm2d | None) -> Any:
    """The kernel for these tensors; None where torch has to do it (layout, type, channels, or no compiler)."""
    channels = x.shape[1] if x.dim() == 4 else 0
    fits = x.device.type == "cpu" and x.dtype in build.TYPES and 0 < channels <= MAX_CHANNELS and channels % LANES == 0
    if not fits or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    if norm is not None and (norm.weight.dtype != build.real(x.dtype) or norm.num_features != channels):
        return None
    if added is not None and (added.dtype, added.shape, added.stride()) != (x.dtype, x.shape, x.stride()):
        return None
    library = _library(x.dtype, channels, **build.of_norm(norm))
    build.count_use("norm_relu", library)
    return library


@functools.cache
def _library(dtype: torch.dtype, channels: int, **of_norm: str) -> Any:
    return build.library("norm_relu", **build.TYPES[dtype], C=channels, **of_norm)
