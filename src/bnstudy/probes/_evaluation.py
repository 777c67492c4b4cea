"""Evaluating a copy of a network on batches: with which statistics, and how well."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnstudy.norms._statistics import reestimated

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


def even(images_NCHW: Tensor, labels_N: Tensor, size: int) -> list[Batch]:
    """The images in their order, in as few mini-batches of up to `size` as there can be, equal up to one image."""
    parts = -(-len(labels_N) // size)
    return list(zip(images_NCHW.tensor_split(parts), labels_N.tensor_split(parts), strict=True))


def score_reestimated(network: nn.Module, over: Iterable[Batch], batches: Iterable[Batch]) -> Score:
    """The score in evaluation with the statistics over `over`; NaN where there are none (too few images)."""
    try:
        used = reestimated(network, over)
    except ValueError:
        return Score(math.nan, math.nan)
    return score(used, batches)
