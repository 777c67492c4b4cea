"""A narrow convolution, batch normalization and 2x2 max-pooling as one, forward and backward, on the CPU.

With z the convolution's output and m, v its mean and variance over batch and space, normalization is the affine map
z' = s z + t with s = gamma / sqrt(v + eps), t = beta - s m (Ioffe and Szegedy, 2015). Only the pooled maximum of z' is
written. With g a pooled place's gradient at its winner, M places in a channel and z^ = (z - m) / sqrt(v + eps),
    dz = s (g - sum(g) / M - z^ sum(g z^) / M),   dgamma = sum(g z^),   dbeta = sum(g),
which are sums over the pooled places. Of places that share the maximum the first has the gradient, as with torch;
where they see the same pixels, rounding may choose another, which changes no gradient but that of the input.
R networks side by side are R groups of C channels. Rows are convolved with fewer products than direct convolution takes
(pooled_conv.c).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.training.engine.kernels import bf16, build
from bnstudy.training.engine.kernels.build import pointers

REALS = {torch.float32: "float", torch.float64: "double"}
MAX_KERNEL, MAX_IN, MAX_OUT = 7, 16, 32  # beyond, torch's convolutions have enough to do
POINTS = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))  # and infinity: where the rows are multiplied


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
        call = _Call.of(conv, x_NCHW, self.num_runs, norm)
        if call is None:
            z_NCHW = bf16.convolve(conv, x_NCHW)
            return nn.functional.max_pool2d(z_NCHW if norm is None else norm(z_NCHW), 2)
        bias_C = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
        x_NCHW = x_NCHW.contiguous()
        if norm is None:
            pooled: Tensor = _Plain.apply(x_NCHW, conv.weight, bias_C, call)
        elif norm.training:
            pooled = _Normed.apply(x_NCHW, conv.weight, bias_C, norm.weight, norm.bias, norm, call)
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
    def of(conv: nn.Conv2d, x_NCHW: Tensor, num_runs: int, norm: nn.BatchNorm2d | None = None) -> _Call | None:
        """The compiled kernel; None where there is none, or the images are too small or not real numbers."""
        kernel, padding = conv.kernel_size[0], int(conv.padding[0])
        if x_NCHW.dim() != 4:
            return None
        height, width = (int(side) + 2 * padding - kernel + 1 for side in x_NCHW.shape[2:])
        here = x_NCHW.device.type == "cpu" and x_NCHW.dtype in REALS and x_NCHW.dtype == conv.weight.dtype
        fits = x_NCHW.shape[1] == conv.in_channels and (norm is None or norm.num_features == conv.out_channels)
        if not here or not fits or min(height, width) < 2 or torch.is_autocast_enabled("cpu"):
            return None
        entering, leaving = conv.in_channels // conv.groups, conv.out_channels // num_runs
        sizes = entering, leaving, kernel, *x_NCHW.shape[2:], padding
        library = _library(REALS[x_NCHW.dtype], *sizes, **build.of_norm(norm))
        build.count_use("pooled_conv", library)
        shared = conv.groups == 1 and num_runs > 1
        return None if library is None else _Call(library, num_runs, shared, leaving, (height, width))

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled maximum of the convolution (N, C, H, W), and which of the four it was."""
        pooled = x.new_empty(len(x), self._channels, *self._pooled)
        code = self._packs(x, math.prod(self._pooled), torch.uint8)
        self._library.plain(*pointers(x, weight, bias, pooled, code), *self._sizes(x))
        return pooled, code

    def normed(
        self, x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, norm: nn.BatchNorm2d
    ) -> tuple[Tensor, ...]:
        """The pooled maximum of the normalized convolution, and what its gradient takes; running statistics move.

        That is the convolution's output z, the z that won, which of the four it was, and, by channel and in float64,
        mean and biased variance of z.
        """
        z, winner = self._packs(x, self.places, x.dtype), self._packs(x, math.prod(self._pooled), x.dtype)
        pooled, code = x.new_empty(len(x), self._channels, *self._pooled), torch.empty_like(winner, dtype=torch.uint8)
        mean, variance = (torch.empty(self._channels, dtype=torch.float64) for _ in range(2))
        self._library.convolve(*pointers(x, weight, bias, z, mean, variance), *self._sizes(x))
        arrays = pointers(z, mean, variance, gamma, beta, pooled, winner, code, *build.tracked(norm))
        self._library.pool(*arrays, *self._sizes(x, shared=False))
        return pooled, z, winner, code, mean, variance

    def backward(
        self,
        x: Tensor,
        weight: Tensor,
        code: Tensor,
        grad: Tensor,
        through: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None,
        wants_x: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor]:
        """Gradients of x (if wanted), weight, gamma and beta, `through` a norm: z, winner, mean, variance and gamma.

        Without a norm there is none of gamma, and that of the bias takes beta's place.
        """
        z, winner, mean, variance, gamma = through or (None,) * 5
        grad_x = torch.empty_like(x) if wants_x else None
        grad_weight, grad_beta = torch.empty_like(weight), x.new_empty(self._channels)
        grad_gamma = None if gamma is None else torch.empty_like(gamma)
        arrays = pointers(x, weight, z, winner, code, grad, mean, variance, gamma)
        gradients = pointers(grad_x, grad_weight, grad_gamma, grad_beta)
        self._library.backward(*arrays, *gradients, *self._sizes(x))
        return grad_x, grad_weight, grad_gamma, grad_beta

    def _packs(self, x: Tensor, places: int, dtype: torch.dtype) -> Tensor:
        """Room for `places` numbers by channel and image, the last pack of images filled up."""
        lanes = _lanes(REALS[x.dtype])
        return torch.empty(-(-len(x) // lanes) * lanes * self._channels * places, dtype=dtype)

    def _sizes(self, x: Tensor, *, shared: bool = True) -> list[Any]:
        more = [build.long(self._shared)] if shared else []
        return [build.long(len(x)), build.long(self._groups), *more, torch.get_num_threads()]


class _Plain(torch.autograd.Function):
    """Convolution and pool: x (N, C, H, W), weight, bias -> (N, C, H', W')."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, call: _Call) -> Tensor:
        weight = weight.contiguous()
        pooled, code = call.plain(x, weight, bias)
        ctx.save_for_backward(x, weight, code)
        ctx.call = call
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        build.check_once()
        x, weight, code = ctx.saved_tensors
        grad = gradients[0].contiguous()
        grad_x, grad_weight, _, grad_bias = ctx.call.backward(
            x, weight, code, grad, None, wants_x=ctx.needs_input_grad[0]
        )
        return grad_x, grad_weight, grad_bias, None


class _Normed(torch.autograd.Function):
    """Convolution, norm and pool in training; the norm's running statistics move."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        gamma: Tensor,
        beta: Tensor,
        norm: nn.BatchNorm2d,
        call: _Call,
    ) -> Tensor:
        weight = weight.contiguous()
        pooled, z, winner, code, mean, variance = call.normed(x, weight, bias, gamma, beta, norm)
        ctx.save_for_backward(x, weight, code, z, winner, mean, variance, gamma)
        ctx.call = call
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        build.check_once()
        x, weight, code, *through = ctx.saved_tensors
        grad = gradients[0].contiguous()
        grad_x, grad_weight, grad_gamma, grad_beta = ctx.call.backward(
            x, weight, code, grad, tuple(through), wants_x=ctx.needs_input_grad[0]
        )
        # A norm takes away what is added before it.
        return grad_x, grad_weight, torch.zeros_like(grad_beta), grad_gamma, grad_beta, None, None


@functools.cache
def _library(
    real: str, entering: int, leaving: int, kernel: int, height: int, width: int, padding: int, **of_norm: str
) -> Any:
    """Compiled for a layer of this shape, with blocks that fill the registers."""
    points, tile = _points(kernel)
    row = width + 2 * padding - kernel + 1
    tiles, rows = -(-row // tile), height + 2 * padding - kernel + 1
    (outputs, of_tiles), (inputs, of_rows) = _block(leaving, tiles), _block(entering, rows * tiles)
    return build.library(
        "pooled_conv",
        LANES=_lanes(real),
        REAL=real,
        CIN=entering,
        COUT=leaving,
        K=kernel,
        IH=height,
        IW=width,
        PAD=padding,
        **of_norm,
        TILE=tile,
        **{f"POINT_{name}": _initializer(rows) for name, rows in _matrices(points, tile, kernel).items()},
        CB=outputs,
        TB=of_tiles,
        IB=inputs,
        SB=of_rows,
        WB=max(b for b in _divisors(leaving) if b == 1 or b * kernel + b < _registers()),
    )


def _lanes(real: str) -> int:
    """Numbers in a register."""
    return build.lanes() // (2 if real == "double" else 1)


def _registers() -> int:
    return 2 * build.lanes()  # as x86 and Arm have them


def _block(channels: int, places: int) -> tuple[int, int]:
    """Of channels by places, divisors of both, the block with the fewest numbers to be read for each product.

    Registers hold its sums, its places, and one number of the kernel.
    """
    fits = [(c, p) for c in _divisors(channels) for p in _divisors(places) if c == p == 1 or c * p + p < _registers()]
    return min(fits, key=lambda block: (1 / block[0] + 1 / block[1], -block[0] * block[1]))


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _points(kernel: int) -> tuple[int, int]:
    """An even number of points, eight at most, and how many outputs of a row they give at a time."""
    points = min(len(POINTS) + 1, 2 * -(-kernel // 2) + 2)
    return points, points + 1 - kernel


def _matrices(points: int, tile: int, kernel: int) -> dict[str, list[list[Fraction]]]:
    """A, B and G, a row for each point, of Winograd's F(tile, kernel) at these `points`, the last of them infinity.

    With f(x) the product of x - p over the finite points p, and f'(p) its derivative there (Cook and Toom; Lavin and
    Gray, 2016), a row of A is the powers of p, a row of G those over f'(p), a row of B the coefficients of
    f(x) / (x - p).
    """
    finite = [Fraction(p) for p in POINTS[: points - 1]]
    a = [[p**i for i in range(tile)] for p in finite]
    others = [[q for q in finite if q != p] for p in finite]
    g = [[p**i / math.prod(p - q for q in rest) for i in range(kernel)] for p, rest in zip(finite, others, strict=True)]
    b = [[*_polynomial(rest), Fraction(0)] for rest in others]
    last = [[Fraction(i == length - 1) for i in range(length)] for length in (tile, kernel)]
    return {"A": [*a, last[0]], "B": [*b, _polynomial(finite)], "G": [*g, last[1]]}


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, from the lowest power, of the product of x - root."""
    coefficients = [Fraction(1)]
    for root in roots:
        raised, same = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [low - root * high for low, high in zip(raised, same, strict=True)]
    return coefficients


def _initializer(rows: Sequence[Sequence[Fraction]]) -> str:
    """A matrix as C writes it."""
    return "{" + ", ".join("{" + ", ".join(repr(float(value)) for value in row) + "}" for row in rows) + "}"
