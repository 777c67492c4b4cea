"""Derivatives of derivatives: what cannot be differentiated twice is refused, and never taken for a derivative of 0."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

END = "torch::autograd::Error"  # where torch.autograd.function.once_differentiable cuts the graph

REFUSED = (
    "an operation of this network has a gradient that cannot be differentiated again (as with once_differentiable), so "
    "that there are no second derivatives; take another norm or network, or leave the probe out"
)


def check_twice(probe: str, gradients: Iterable[Tensor]) -> None:
    """Raises ValueError where a gradient that is to be differentiated was computed by what allows that only once.

    torch raises by itself where such an operation is on the way to what is differentiated by; but the cut takes it off
    that way, and what it leaves out is silently 0.
    """
    gradients = list(gradients)
    if not all(each.requires_grad for each in gradients):
        raise ValueError(f"{probe}: {REFUSED}")
    stack: list[Any] = [each.grad_fn for each in gradients]
    visited = set(stack)
    while stack:
        node = stack.pop()
        if node is None:
            continue
        if node.name() == END:
            raise ValueError(f"{probe}: {REFUSED}")
        further = [each for each, _ in node.next_functions if each not in visited]
        visited.update(further)
        stack += further
