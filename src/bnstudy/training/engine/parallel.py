"""Runs side by side, each a network of its own: on a GPU at the same time, for small kernels leave room for others.

Unlike networks that are stacked these do not have to be stackable, and a run's numbers are, to the bit, those it has
alone. They share the mini-batches and one thread of Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bnstudy.training.engine.base import Batch, Engine, StepResult
from bnstudy.training.engine.stacked import unstack


class Parallel:
    """Engine for R engines of one run each (see `base.Engine`)."""

    def __init__(self, engines: Sequence[Engine], device: torch.device) -> None:
        self.num_runs = len(engines)
        self._engines = list(engines)
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in engines] if device.type == "cuda" else []

    def step(self, batch: Batch, lrs: Sequence[float]) -> StepResult:
        return self.step_on_device(batch, torch.tensor(lrs, dtype=torch.float64, device=self._device))

    def step_on_device(self, batch: Batch, lr_R: Tensor) -> StepResult:
        results = []
        for run, engine in enumerate(self._engines):
            with self._beside(run):
                results.append(engine.step_on_device(batch, lr_R[run : run + 1]))
        self._join()
        return StepResult(*(torch.cat(values) for values in zip(*results, strict=True)))

    def evaluate(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        held = list(batches)
        losses, accuracies = zip(*(engine.evaluate(held) for engine in self._engines), strict=True)
        return torch.cat(losses), torch.cat(accuracies)

    def network(self, run: int) -> nn.Module:
        return self._engines[run].network(0)

    def state(self) -> dict[str, Tensor]:
        """Laid out as that of networks that are stacked: run by run along the first dimension."""
        states = [engine.state() for engine in self._engines]
        return {name: torch.cat([s[name] for s in states]) if v.dim() else v for name, v in states[0].items()}

    def load(self, state: dict[str, Tensor]) -> None:
        for run, engine in enumerate(self._engines):
            engine.load({name: unstack(values, run, self.num_runs) for name, values in state.items()})

    @contextmanager
    def _beside(self, run: int) -> Iterator[None]:
        """Within, work is queued on the run's own stream, behind what the current one holds so far."""
        if not self._streams:
            yield
            return
        stream = self._streams[run]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            yield

    def _join(self) -> None:
        for stream in self._streams:
            torch.cuda.current_stream(self._device).wait_stream(stream)
