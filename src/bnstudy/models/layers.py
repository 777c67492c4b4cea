"""A network's weight layers, numbered by depth as in the paper, and its memory format."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

VECTOR = 8  # float32 numbers that a processor with AVX2 takes at a time


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer with a number of its own (projections of shortcuts have none)."""

    depth: int  # 1 is the first layer
    name: str  # path of the convolution or dense layer in the network
    kind: str  # conv or linear
    activation: str  # path of the module whose output the next layer sees; the classifier's is the classifier
    stage: int = 0  # of a ResNet: 1, 2, 3; 0 outside
    block_output: bool = False  # whether the activation is a residual block's output, after addition and ReLU


def memory_format(network: nn.Module) -> torch.memory_format:
    """Channels innermost, in which convolutions are a quarter faster; torch's plain layout where that is not safe.

    On processors with AVX2 alone, the weight gradient of a strided 1x1 convolution of fewer than eight input channels
    writes beyond its memory in this layout (oneDNN 3.13, torch 2.15).
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    unsafe = any(
        each.kernel_size == (1, 1) and each.stride != (1, 1) and each.in_channels // each.groups < VECTOR
        for each in convolutions
    )
    return torch.contiguous_format if unsafe else torch.channels_last
