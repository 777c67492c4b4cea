"""What a network says of itself: its weight layers, numbered by depth as in the paper."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer with a number of its own (projections of shortcuts have none)."""

    depth: int  # 1 is the first layer
    name: str  # path of the convolution or dense layer in the network
    kind: str  # conv or linear
    activation: str  # path of the module whose output the next layer sees; the classifier's is the classifier
    stage: int = 0  # of a ResNet: 1, 2, 3; 0 outside
    block_output: bool = False  # whether the activation is a residual block's output, after addition and ReLU
