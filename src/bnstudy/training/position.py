"""The state of the training loop, which a checkpoint keeps beside the engine's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

LOOKS = DUE, AT_DIVERGENCE = "due", "at divergence"
Leavable = Callable[[str], AbstractContextManager[str | None]]  # takes a description of what happens within


@dataclass(frozen=True, slots=True)
class Mark:
    """A safe point: every row up to `step` has been yielded, and the state may be saved or the loop left."""

    step: int


@dataclass(slots=True)
class Position:
    """The loop's state: with the engine's, enough to resume to the bit. Lists have one entry per run."""

    step: int = 0
    diverged_step: list[int | None] = field(default_factory=list)
    loss_sum: list[float] = field(default_factory=list)  # over this epoch's images so far
    correct: list[float] = field(default_factory=list)
    num_images: int = 0
    final: list[dict[str, float]] = field(default_factory=list)  # the last epoch's losses and accuracies
    looks: list[str | None] = field(default_factory=list)  # the look that a run still awaits at this step, of LOOKS
    epoch_sec: float = 0.0
    train_sec: float = 0.0
    probe_sec: float = 0.0
