"""An engine that records its update once and replays it, which saves a GPU thousands of kernel launches.

A CUDA graph repeats the same kernels on the same addresses. So mini-batch and learning rates are copied to where they
lay when the update was recorded, and what it saw is copied away before the next replay writes over it. Each shape of
mini-batch has a recording: an epoch's last one may be smaller.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnstudy.training.engine.base import Batch, Engine, StepResult

WARM_UP = 3  # updates made as they are before one is recorded: libraries choose and allocate in the first ones
Act = Callable[[], StepResult]
# Records an act without performing it; gives a function that performs it and returns the same tensors, with new values.
Recorder = Callable[[Act], Act]


@dataclass
class _Shape:
    """The buffers for mini-batches of one shape, and the recorded update that reads them."""

    images: Tensor
    labels: Tensor
    num_updates: int = 0
    replay: Act | None = None


class Captured:
    """Engine around another one (see `base.Engine`). `record`: how an update is recorded; default a CUDA graph."""

    def __init__(self, engine: Engine, device: torch.device, record: Recorder | None = None) -> None:
        self.num_runs = engine.num_runs
        self._engine, self._device = engine, device
        self._record: Recorder | None = record or CudaGraphs(device)
        self._shapes: dict[torch.Size, _Shape] = {}
        self._lr_R = torch.zeros(self.num_runs, dtype=torch.float64, device=device)
        self._lrs: list[float] = []

    def step(self, batch: Batch, lrs: Sequence[float]) -> StepResult:
        if self._lrs != list(lrs):
            self._lrs = list(lrs)
            self._lr_R.copy_(torch.tensor(self._lrs, dtype=torch.float64))
        return self.step_on_device(batch, self._lr_R)

    def step_on_device(self, batch: Batch, lr_R: Tensor) -> StepResult:
        """`lr_R` is the same tensor in every call."""
        images, labels = batch
        shape = self._shapes.get(images.shape)
        if shape is None:
            shape = self._shapes[images.shape] = _Shape(torch.empty_like(images), torch.empty_like(labels))
        shape.images.copy_(images)
        shape.labels.copy_(labels)
        shape.num_updates += 1

        def act() -> StepResult:
            return self._engine.step_on_device((shape.images, shape.labels), lr_R)

        if shape.num_updates > WARM_UP and shape.replay is None and self._record is not None:
            try:
                shape.replay = self._record(act)
            except RuntimeError as error:  # not everything that a network may do can be recorded
                self._record = None
                warnings.warn(
                    f"updates are launched one by one, more slowly, for they cannot be recorded: {error}", stacklevel=2
                )
        if shape.replay is None:
            return act()
        return StepResult(*(value.clone() for value in shape.replay()))

    def evaluate(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        return self._engine.evaluate(batches)

    def network(self, run: int) -> nn.Module:
        return self._engine.network(run)

    def state(self) -> dict[str, Tensor]:
        return self._engine.state()

    def load(self, state: dict[str, Tensor]) -> None:
        self._engine.load(state)  # in place: what is recorded stays valid


class CudaGraphs:
    """Records as CUDA graphs that share one pool of memory: they are never replayed at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, act: Act) -> Act:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool):
            results = act()

        def replay() -> StepResult:
            graph.replay()
            return results

        return replay
