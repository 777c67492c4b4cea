"""Evaluating a copy of a network on batches: with which statistics, and how well."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, Tensor]


class Score(NamedTuple):
    """Mean cross-entropy and share of correct answers."""

    loss: float
    accuracy: float


@torch.no_grad()
def score(network: nn.Module, batches: Iterable[Batch]) -> Score:
    """What the network gives in the mode that it is in; NaN where its norms refuse a batch (too few values)."""
    loss = correct = count = 0.0
    for images_NCHW, labels_N in batches:
        try:
            logits_NK = network(images_NCHW).double()
        except ValueError:
            return Score(math.nan, math.nan)
        loss += functional.cross_entropy(logits_NK, labels_N, reduction="sum").item()
        correct += (logits_NK.argmax(1) == labels_N).sum().item()
        count += len(labels_N)
    return Score(loss / count, correct / count)


def keeping(network: nn.Module) -> list[nn.Module]:
    """The norms that keep running statistics."""
    return [module for module in network.modules() if getattr(module, "running_mean", None) is not None]


@torch.no_grad()
def reestimated(network: nn.Module, batches: Iterable[Batch]) -> nn.Module:
    """A copy in evaluation mode whose running statistics are the means over these batches, at the weights as they are.

    Weighing the k-th new value by 1/k makes a running average the mean of all. Every batch passes with its own
    statistics, as in training; labels are not looked at.
    """
    network = copy.deepcopy(network).train()
    norms = keeping(network)
    for index, (images_NCHW, _) in enumerate(batches):
        for norm in norms:
            norm.momentum = 1 / (index + 1)  # type: ignore[assignment]
        network(images_NCHW)
    return network.eval()
