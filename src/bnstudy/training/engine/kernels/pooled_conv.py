"""A narrow convolution, batch normalization and 2x2 max-pooling as one, forward and backward, on the CPU.

With z the convolution's output and m, v its mean and variance over batch and space, normalization is the affine map
z' = s z + t with s = gamma / sqrt(v + eps), t = beta - s m (Ioffe and Szegedy, 2015). Only the pooled maximum of z' is
written. With g a pooled place's gradient at its winner, M places in a channel and z^ = (z - m) / sqrt(v + eps),
    dz = s (g - sum(g) / M - z^ sum(g z^) / M),   dgamma = sum(g z^),   dbeta = sum(g),
which are sums over the pooled places. Of places that share the maximum the first has the gradient, as with torch.
R networks side by side are R groups of C channels. Wherever z enters it is z - o, with o the mean as z's type has it:
scaled by itself, z far from 0 would cancel against t.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.training.engine.kernels import bf16, build
from bnstudy.training.engine.kernels.build import pointers

SLACK = 32  # how far two vectors may reach beyond the end of z
REALS = {torch.float32: "float", torch.float64: "double"}
SHARE = 1.5  # registers for sums, in units of a vector's lanes; there are twice as many registers as lanes
MAX_KERNEL, MAX_IN, MAX_OUT = 7, 16, 32  # beyond, torch's convolutions have enough to do


def narrow(layer: nn.Module) -> bool:
    """Whether torch's plain layout suits a layer: a convolution of few channels, or no convolution."""
    if not isinstance(layer, nn.Conv2d):
        return True
    return layer.in_channels <= MAX_IN and layer.out_channels <= MAX_OUT


class PooledConv(nn.Module):
    """Takes the place of a convolution, its norm (torch's BN, or None) and its pool, and uses their parameters."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, num_runs: int) -> None:
        """`num_runs` networks lie side by side; a convolution without groups then is one whose input they share."""
        super().__init__()
        self.conv, self.norm, self.num_runs = conv, norm, num_runs

    @staticmethod
    def applies(conv: nn.Module, norm: nn.Module | None, pool: nn.Module, num_runs: int) -> bool:
        """A narrow convolution with a small square kernel at stride 1, torch's BN or none, 2x2 max-pooling."""
        if not (isinstance(conv, nn.Conv2d) and isinstance(pool, nn.MaxPool2d) and isinstance(conv.padding, tuple)):
            return False
        square = conv.kernel_size[0] == conv.kernel_size[1] <= MAX_KERNEL and conv.padding[0] == conv.padding[1]
        plain = conv.stride == conv.dilation == (1, 1) and conv.padding_mode == "zeros" and conv.groups in (1, num_runs)
        narrow = conv.in_channels // conv.groups <= MAX_IN and conv.out_channels // num_runs <= MAX_OUT
        known = norm is None or build.tracks(norm)
        pooled = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) == (2, 2, 0, 1, False)
        return square and plain and narrow and known and pooled

    def forward(self, x_NCHW: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        call = _Call.of(conv, x_NCHW, self.num_runs)
        if call is None:
            z_NCHW = bf16.convolve(conv, x_NCHW)
            return nn.functional.max_pool2d(z_NCHW if norm is None else norm(z_NCHW), 2)
        bias_C = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
        x_NCHW = x_NCHW.contiguous()
        if norm is None:
            pooled: Tensor = _Plain.apply(x_NCHW, conv.weight, bias_C, call)
        elif norm.training:
            pooled, mean_C, variance_C = _Normed.apply(
                x_NCHW, conv.weight, bias_C, norm.weight, norm.bias, norm.eps, call
            )
            build.track(norm, mean_C, variance_C, len(x_NCHW) * call.places)
        else:
            assert norm.running_mean is not None and norm.running_var is not None
            scale_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            shift_C = norm.bias + (bias_C - norm.running_mean) * scale_C
            pooled = _Plain.apply(x_NCHW, conv.weight * scale_C[:, None, None, None], shift_C, call)
        return pooled


class _Call:
    """The compiled kernel, and the properties of the layer that its functions take besides arrays."""

    def __init__(self, library: Any, groups: int, shared: bool, channels: int, output: tuple[int, int]) -> None:
        self._library, self._groups, self._shared, self._channels = library, groups, shared, groups * channels
        self.places = output[0] * output[1]
        self._pooled = (output[0] // 2, output[1] // 2)

    @staticmethod
    def of(conv: nn.Conv2d, x_NCHW: Tensor, num_runs: int) -> _Call | None:
        """The compiled kernel; None where there is none, or the images are too small or not real numbers."""
        kernel, padding = conv.kernel_size[0], int(conv.padding[0])
        height, width = (int(side) + 2 * padding - kernel + 1 for side in x_NCHW.shape[2:])
        here = x_NCHW.device.type == "cpu" and x_NCHW.dtype in REALS
        if not here or min(height, width) < 2 or torch.is_autocast_enabled("cpu"):
            return None
        entering, leaving = conv.in_channels // conv.groups, conv.out_channels // num_runs
        library = _library(REALS[x_NCHW.dtype], entering, leaving, kernel, *x_NCHW.shape[2:], padding)
        build.count_use("pooled_conv", library)
        shared = conv.groups == 1 and num_runs > 1
        return None if library is None else _Call(library, num_runs, shared, leaving, (height, width))

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor, *, moments: bool) -> tuple[Tensor, Tensor, Tensor]:
        """z in the kernel's layout; float64 mean and variance of its channels, empty unless asked for."""
        z = x.new_empty(len(x) * self._channels * self.places + SLACK)
        mean, variance = (torch.empty(self._channels if moments else 0, dtype=torch.float64) for _ in range(2))
        arrays = pointers(x, weight, bias, z, mean if moments else None, variance if moments else None)
        self._library.convolve(*arrays, *self._sizes(len(x), self._shared))
        return z, mean, variance

    def pool(
        self, z: Tensor, centre: Tensor, scale: Tensor, shift: Tensor, num: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The pooled maximum of scale * (z - centre) + shift (N, C, H, W), the z that won, and which it was."""
        pooled = z.new_empty(num, self._channels, *self._pooled)
        winner, code = torch.empty_like(pooled), torch.empty(pooled.shape, dtype=torch.uint8)
        self._library.pool(*pointers(z, centre, scale, shift, pooled, winner, code), *self._sizes(num))
        return pooled, winner, code

    def sums(self, grad: Tensor, winner: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """By channel, in float64, the sum of the gradient and of its product with the z that won, less `centre`."""
        total, product = (torch.empty(self._channels, dtype=torch.float64) for _ in range(2))
        self._library.sums(*pointers(grad, winner, centre, total, product), *self._sizes(len(grad)))
        return total, product

    def backward(
        self,
        x: Tensor,
        weight: Tensor,
        z: Tensor,
        code: Tensor,
        grad: Tensor,
        coefficients: tuple[Tensor, Tensor, Tensor, Tensor],
        *,
        dense: bool,
        wants_x: bool,
    ) -> tuple[Tensor | None, Tensor]:
        """Gradients of x (if wanted) and weight, where dz = a * gradient at the winner + b * (z - o) + d.

        `coefficients` are o, a, b and d by channel.
        """
        grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        grad_x = torch.empty_like(x) if wants_x else None
        arrays = pointers(x, weight, z, code, grad, *coefficients)
        sizes = self._sizes(len(x), self._shared)
        self._library.backward(*arrays, int(dense), *pointers(grad_x, grad_weight), *sizes)
        return grad_x, grad_weight

    def _sizes(self, num: int, *shared: bool) -> list[Any]:
        return [build.long(num), build.long(self._groups), *map(build.long, shared), torch.get_num_threads()]


class _Plain(torch.autograd.Function):
    """Convolution and pool: x (N, C, H, W), weight, bias -> (N, C, H', W')."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, call: _Call) -> Tensor:
        weight = weight.contiguous()
        z, _, _ = call.convolve(x, weight, bias, moments=False)
        ones, zeros = torch.ones_like(bias), torch.zeros_like(bias)
        pooled, _, code = call.pool(z, zeros, ones, zeros, len(x))
        ctx.save_for_backward(x, weight, code, ones)
        ctx.call = call
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        build.check_once()
        x, weight, code, ones = ctx.saved_tensors
        grad = gradients[0].contiguous()
        # z has no part in it: any array serves.
        grad_x_weight = ctx.call.backward(
            x, weight, grad, code, grad, (ones, ones, ones, ones), dense=False, wants_x=ctx.needs_input_grad[0]
        )
        return *grad_x_weight, grad.sum((0, 2, 3)), None


class _Normed(torch.autograd.Function):
    """Convolution, norm and pool in training: also returns mean and biased variance (float64), without gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, eps: float, call: _Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        weight = weight.contiguous()
        z, mean, variance = call.convolve(x, weight, bias, moments=True)
        rstd = torch.rsqrt(variance + eps)
        scale, centre = gamma * rstd, mean.to(z.dtype)
        shift = beta - scale * (mean - centre)
        pooled, winner, code = call.pool(z, centre, scale.to(z.dtype), shift.to(z.dtype), len(x))
        ctx.save_for_backward(x, weight, z, winner, code, mean, rstd, scale)
        ctx.call = call
        ctx.mark_non_differentiable(mean, variance)
        return pooled, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        build.check_once()
        x, weight, z, winner, code, mean, rstd, scale = ctx.saved_tensors
        grad = gradients[0].contiguous()
        centre = mean.to(z.dtype)
        grad_beta, product = ctx.call.sums(grad, winner, centre)
        grad_gamma = (product - (mean - centre) * grad_beta) * rstd
        slopes = build.norm_backward(grad_beta, grad_gamma, mean - centre, rstd, scale, len(x) * ctx.call.places)
        a, b, d = (slope.to(z.dtype) for slope in slopes)
        grad_x, grad_weight = ctx.call.backward(
            x, weight, z, code, grad, (centre, a, b, d), dense=True, wants_x=ctx.needs_input_grad[0]
        )
        # A norm takes away what is added before it.
        grad_bias = torch.zeros_like(a)
        return grad_x, grad_weight, grad_bias, grad_gamma.to(a.dtype), grad_beta.to(a.dtype), None, None


@functools.cache
def _library(real: str, entering: int, leaving: int, kernel: int, height: int, width: int, padding: int) -> Any:
    """Compiled for a layer of this shape, with blocks that fill the registers."""
    lanes = build.lanes()
    registers = int(SHARE * lanes)
    across = leaving % lanes == 0
    row = width + 2 * padding - kernel + 1
    vectors = -(-row // lanes)
    return build.library(
        "pooled_conv",
        REAL=real,
        CIN=entering,
        COUT=leaving,
        K=kernel,
        IH=height,
        IW=width,
        PAD=padding,
        CB=_largest_divisor(leaving, registers // vectors),
        WB=_largest_divisor(leaving, registers // kernel),
        XB=_largest_divisor(row, registers // (leaving // lanes)) if across else 1,
    )


def _largest_divisor(number: int, at_most: int) -> int:
    return next(d for d in range(max(1, min(number, at_most)), 0, -1) if number % d == 0)
