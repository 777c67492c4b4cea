"""A network's first convolution, its batch normalization and its max-pooling as one: the images' patches say it all.

The input needs no gradient and is the same for all R runs, so the layer is a matrix product with the images' patches,
and what BN needs of its output z = w.p + b follows from the patches' own mean m and covariance S, computed once:
    mean(z) = w.m + b,   var(z) = w' S w   (Ioffe and Szegedy's mean and variance, by linearity).
BN is then an affine map folded into w and b, and only the pooled maximum is ever written to memory: a quarter of the
output, in blocks that stay in the cache. The backward pass recomputes the product. Gradients with respect to w, gamma
and beta, through mean and variance too, follow by autograd on tensors of the size of w.
Shapes: N images, C = R * channels outputs, P = entries of a patch, Q = 4 positions under a 2x2 pool, L pooled places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 8  # images at a time: patches, product and mask stay in a core's own cache


def patches(images_NCHW: Tensor, kernel: int) -> Tensor:
    """The patches under a kernel x kernel convolution, sorted for a 2x2 pool: shape (N, Q, L, P), L in row order.

    As with the pool itself, a last row or column that fills no 2x2 place is left out.
    """
    num, channels, height, width = images_NCHW.shape
    rows, columns = (height - kernel + 1) // 2, (width - kernel + 1) // 2
    windows = images_NCHW.unfold(2, kernel, 1).unfold(3, kernel, 1)  # N, C, H', W', k, k
    found = images_NCHW.new_empty(num, 4, rows, columns, channels, kernel, kernel)
    for q, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        quarter = windows[:, :, i : i + 2 * rows : 2, j : j + 2 * columns : 2]
        found[:, q].copy_(quarter.permute(0, 2, 3, 1, 4, 5))
    return found.view(num, 4, rows * columns, channels * kernel * kernel)


class _PooledProduct(torch.autograd.Function):
    """max over Q of patches . weight + bias: (N, Q, L, P), (C, P), (C,) -> (N, L, C); gradients of the last two."""

    @staticmethod
    def forward(ctx: Any, patches_NQLP: Tensor, weight_CP: Tensor, bias_C: Tensor) -> Tensor:
        num, _, places, _ = patches_NQLP.shape
        pooled_NLC = weight_CP.new_empty(num, places, len(weight_CP))
        for block in _blocks(num):
            product = _product(patches_NQLP[block], weight_CP, bias_C)
            torch.amax(product, 1, out=pooled_NLC[block])
        ctx.save_for_backward(patches_NQLP, weight_CP, bias_C, pooled_NLC)
        return pooled_NLC

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        patches_NQLP, weight_CP, bias_C, pooled_NLC = ctx.saved_tensors
        (grad_NLC,) = gradients
        grad_weight = torch.zeros_like(weight_CP)
        for block in _blocks(len(patches_NQLP)):
            some = patches_NQLP[block]
            product = _product(some, weight_CP, bias_C)
            winners = torch.eq(product, pooled_NLC[block].unsqueeze(1), out=product)
            # Places that share the maximum (a constant patch of background) share the gradient.
            winners.mul_((grad_NLC[block] / winners.sum(1)).unsqueeze(1))
            grad_weight.addmm_(winners.flatten(0, 2).T, some.flatten(0, 2))
        return None, grad_weight, grad_NLC.sum((0, 1))


def _blocks(num: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, num)) for start in range(0, num, BLOCK)]


def _product(patches_NQLP: Tensor, weight_CP: Tensor, bias_C: Tensor) -> Tensor:
    flat = torch.addmm(bias_C, patches_NQLP.flatten(0, 2), weight_CP.T)
    return flat.view(*patches_NQLP.shape[:3], len(weight_CP))


class FirstBlock:
    """What takes the place of convolution, norm and 2x2 max-pool at a network's input (see `install`)."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> None:
        self.conv, self.norm = conv, norm

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        kernel = self.conv.kernel_size[0]
        down, across = (int(side) for side in self.conv.padding)
        images_NCHW = nn.functional.pad(images_NCHW, (across, across, down, down))
        if any((side - kernel + 1) % 2 for side in images_NCHW.shape[2:]):
            return self._plain(images_NCHW)
        found = patches(images_NCHW, kernel)
        weight_CP = self.conv.weight.flatten(1)
        bias_C = self.conv.bias if self.conv.bias is not None else weight_CP.new_zeros(len(weight_CP))
        if self.norm is not None:
            weight_CP, bias_C = self._fold(self.norm, found.flatten(0, 2), weight_CP, bias_C)
        pooled_NLC = _PooledProduct.apply(found, weight_CP, bias_C)
        rows = (images_NCHW.shape[2] - kernel + 1) // 2
        return pooled_NLC.unflatten(1, (rows, -1)).permute(0, 3, 1, 2)

    def _plain(self, images_NCHW: Tensor) -> Tensor:
        """One after the other: a last row or column that the pool leaves out still counts for the norm."""
        z_NCHW = nn.functional.conv2d(images_NCHW, self.conv.weight, self.conv.bias)
        normed_NCHW = z_NCHW if self.norm is None else type(self.norm).forward(self.norm, z_NCHW)
        return nn.functional.max_pool2d(normed_NCHW, 2)

    def _fold(self, norm: nn.BatchNorm2d, flat: Tensor, weight_CP: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of convolution and normalization together; in training the running statistics move on."""
        mean_C, var_C = norm.running_mean, norm.running_var
        assert mean_C is not None and var_C is not None and norm.momentum is not None
        if norm.training:
            centre_P = flat.mean(0)
            deviations = flat - centre_P
            covariance_PP = deviations.T @ deviations / len(flat)
            now_mean, now_var = weight_CP @ centre_P + bias_C, ((weight_CP @ covariance_PP) * weight_CP).sum(1)
            with torch.no_grad():
                mean_C.lerp_(now_mean, norm.momentum)
                var_C.lerp_(now_var * (len(flat) / (len(flat) - 1)), norm.momentum)
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.add_(1)
            mean_C, var_C = now_mean, now_var
        scale_C = norm.weight * torch.rsqrt(var_C + norm.eps)
        return weight_CP * scale_C[:, None], norm.bias + (bias_C - mean_C) * scale_C


def install(network: nn.Module) -> bool:
    """Has the network's first convolution compute for its norm and its pool too, which pass on; whether it applies.

    A network names the three in `first_block`. They keep their parameters and their names.
    """
    names: tuple[str, ...] = getattr(network, "first_block", ())
    if not names:
        return False
    conv, norm, pool = (network.get_submodule(name) for name in names)
    if not _applies(conv, norm, pool):
        return False
    conv.forward = _first_block(conv, norm)
    norm.forward = pool.forward = _pass_on
    return True


def _applies(conv: nn.Module, norm: nn.Module, pool: nn.Module) -> bool:
    """A square kernel at stride 1, torch's BN or none, 2x2 max-pooling."""
    if not (isinstance(conv, nn.Conv2d) and isinstance(pool, nn.MaxPool2d) and isinstance(conv.padding, tuple)):
        return False
    plain = conv.kernel_size[0] == conv.kernel_size[1] and conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    known = isinstance(norm, nn.Identity) or type(norm) is nn.BatchNorm2d
    return plain and known and pool.kernel_size == pool.stride == 2


def _first_block(conv: nn.Module, norm: nn.Module) -> FirstBlock:
    assert isinstance(conv, nn.Conv2d)
    return FirstBlock(conv, norm if isinstance(norm, nn.BatchNorm2d) else None)


def _pass_on(x: Tensor) -> Tensor:
    return x
