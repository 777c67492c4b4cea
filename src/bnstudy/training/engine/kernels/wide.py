"""What the kernels for wide convolutions in channels_last share: which they take, and tensors of that layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.training.engine.kernels import build
from bnstudy.training.engine.kernels.build import long

LANES, MAX_CHANNELS = 16, 128
MIN_PIXELS = 64  # of an image; of a smaller one the tiles' edges are most of the work


def is_wide(conv: nn.Module) -> bool:
    """Whether this is a plain convolution without a bias whose channels fill vectors."""
    return (
        type(conv) is nn.Conv2d
        and (conv.dilation, conv.groups, conv.bias, conv.padding_mode) == ((1, 1), 1, None, "zeros")
        and all(0 < c <= MAX_CHANNELS and c % LANES == 0 for c in (conv.in_channels, conv.out_channels))
    )


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels take these tensors: channels_last, one type, the weights' channels, enough pixels.

    Of bf16 only in autocast, and not where the processor has a matrix unit other than AMX, with which torch is faster.
    """
    if x.device.type != "cpu" or x.dim() != 4 or x.dtype not in build.TYPES or build.real(x.dtype) != weight.dtype:
        return False
    if x.shape[1] != weight.shape[1]:  # as torch will say
        return False
    if torch.is_autocast_enabled("cpu") != (x.dtype == torch.bfloat16) or not x.is_contiguous(
        memory_format=torch.channels_last
    ):
        return False
    if x.dtype == torch.bfloat16 and build.has_matrix_unit() and not build.has_amx():
        return False
    return x.shape[2] * x.shape[3] >= MIN_PIXELS


def cast(x: Tensor) -> Tensor:
    """In the type to which autocast rounds, where it is on."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def rounded(weight: Tensor, x: Tensor) -> Tensor:
    """The weights as a convolution of x takes them, in the type of the kernel's sums."""
    return weight.to(x.dtype).to(build.real(x.dtype))


def empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    shape = (len(like), channels, height, width)
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def shrunk(like: Tensor, channels: int, stride: int) -> Tensor:
    """For the output of a convolution that keeps every `stride`-th row and column, from the first on."""
    return empty(like, channels, *((side + stride - 1) // stride for side in like.shape[2:]))


def sizes(x: Tensor) -> tuple[Any, int, int]:
    return long(len(x)), *x.shape[2:]


def threads() -> int:
    return torch.get_num_threads()
