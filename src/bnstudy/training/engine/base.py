"""What an engine is: R >= 1 runs that share every mini-batch and advance in lockstep, each with its own rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]  # images_NCHW (float), labels_N (int64)


class StepResult(NamedTuple):
    """What one update saw, on the engine's device, one entry per run: at the weights before the update."""

    loss_R: Tensor  # mean cross-entropy of the mini-batch
    correct_R: Tensor  # how many of its images were classified correctly
    gradient_norm_R: Tensor  # Euclidean norm of the loss's gradient, weight decay not included
    alive_R: Tensor  # bool: finite and within the divergence bound; a run that is not was not updated


class Engine(Protocol):
    """R runs in lockstep. Runs do not influence each other, whatever becomes of any of them."""

    num_runs: int

    def step(self, batch: Batch, lrs: Sequence[float]) -> StepResult:
        """One update of every run that is alive."""

    def step_on_device(self, batch: Batch, lr_R: Tensor) -> StepResult:
        """As `step`, with the learning rates (R,), in float64, on the device."""

    def evaluate(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Mean loss and accuracy of each run over the batches, with running statistics: two tensors of shape (R,)."""

    def network(self, run: int) -> nn.Module:
        """A float32 copy of one run's network, as its model file defines it, in training mode."""

    def state(self) -> dict[str, Tensor]:
        """Everything that changes in training: weights, running statistics, velocities, who is alive."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Resume from `state`, to the bit."""
