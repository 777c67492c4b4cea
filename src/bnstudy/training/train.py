"""The training loop: updates, evaluations and observations in their order; it yields rows and knows no experiment.

Steps count updates already made. At step s the probes that are due look at the weights, then the engine makes update s.
A run whose mini-batch loss exceeds the bound or is not finite has diverged at that step: it keeps its weights, and
yields nothing after the probes that ask for that moment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from bnstudy.config.schema import Config, total_steps
from bnstudy.data.loader import Loader
from bnstudy.store.status import Look
from bnstudy.training.engine.base import Engine, StepResult
from bnstudy.training.observer import Observer, Rows
from bnstudy.training.optim import lr_at
from bnstudy.training.position import AT_DIVERGENCE, DUE, Leavable, Mark, Position

STEPS = {"step": "int64", "loss": "float64", "accuracy": "float64", "lr": "float64", "gradient_norm": "float64"}
EPOCHS = {
    "epoch": "int32", "step": "int64", "lr": "float64",
    "train_loss": "float64", "train_accuracy": "float64", "test_loss": "float64", "test_accuracy": "float64",
}  # fmt: skip
FINAL = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
NOT_REACHED = dict.fromkeys(FINAL, math.nan)
THROUGHPUT = {"epoch": "int32", "seconds": "float64", "examples_per_sec": "float64", "num_runs": "int32"}
FLUSH_STEPS = 64  # updates whose results stay on the device before the host looks at them
EVALUATION_BATCH = 1000  # images at a time, of 32 x 32


class Training:
    """Runs that differ in `optim.lr` alone, trained in lockstep from `position` to the end of the budget."""

    def __init__(self, configs: Sequence[Config], engine: Engine, loader: Loader, observer: Observer) -> None:
        self.position = Position()
        self.total_steps = total_steps(configs[0], loader.steps_per_epoch)
        self._configs, self._engine, self._loader, self._observer = configs, engine, loader, observer
        self._runs = range(engine.num_runs)
        self._pending: list[tuple[int, int, StepResult]] = []  # step, images, what it saw
        self.position.diverged_step, self.position.looks = [None for _ in self._runs], [None for _ in self._runs]
        self.position.final = [dict(NOT_REACHED) for _ in self._runs]
        self._leavable: Leavable = nullcontext
        self._begin_epoch()
        self._ask_for_looks(self._due())  # where training resumes, its position says who was looked at

    @property
    def finished(self) -> bool:
        return self.position.step == self.total_steps or None not in self.position.diverged_step

    def rows(self, mark_due: Callable[[], bool], leavable: Leavable = nullcontext) -> Iterator[Rows | Mark]:
        """Train, and yield rows. Where `mark_due` says so after an update, all pending rows and a `Mark` follow.

        Probes look within `leavable`: what is raised there leaves a state that may be saved, and training resumes from
        it with the same look.
        """
        position, self._leavable = self.position, leavable
        yield from self._look()
        while not self.finished:
            self._advance()
            looks = self._due()
            epoch_ended = position.step % self._loader.steps_per_epoch == 0 or position.step == self.total_steps
            marking = mark_due() or epoch_ended
            if marking or looks or len(self._pending) == FLUSH_STEPS or self._sees_divergence():
                yield from self._flush()
            if epoch_ended:
                yield from self._close_epoch()
            self._ask_for_looks(looks)
            yield from self._look()
            if marking:
                yield Mark(position.step)

    def _advance(self) -> None:
        began = time.perf_counter()
        step = self.position.step
        batch = self._loader.batch(step)
        result = self._engine.step(batch, [lr_at(step, self.total_steps, c.optim) for c in self._configs])
        self._pending.append((step, len(batch[1]), result))
        self.position.step = step + 1
        self._count_time(began)

    def _sees_divergence(self) -> bool:
        """Whether a run has just diverged; False on a GPU, which would have to be waited for."""
        alive_R = self._pending[-1][2].alive_R
        return alive_R.device.type == "cpu" and int(alive_R.sum()) < self.position.diverged_step.count(None)

    def _flush(self) -> Iterator[Rows]:
        began = time.perf_counter()
        position, pending = self.position, self._pending
        self._pending = []
        results = zip(*(result for _, _, result in pending), strict=True)
        loss, correct, norm, alive = (torch.stack(values).tolist() for values in results)
        self._count_time(began)  # the line above waits for the device
        for run in self._runs:
            if position.diverged_step[run] is not None:
                continue
            values: dict[str, list[Any]] = {name: [] for name in STEPS}
            for i, (step, num_images, _) in enumerate(pending):
                lr = lr_at(step, self.total_steps, self._configs[run].optim)
                row = (step, loss[i][run], correct[i][run] / num_images, lr, norm[i][run])
                for name, value in zip(STEPS, row, strict=True):
                    values[name].append(value)
                if not alive[i][run]:
                    position.diverged_step[run], position.final[run] = step, dict(NOT_REACHED)
                    break
                position.loss_sum[run] += loss[i][run] * num_images
                position.correct[run] += correct[i][run]
            yield Rows(run, "steps", pending[-1][0], STEPS, values)
            if position.diverged_step[run] is not None:
                position.looks[run] = AT_DIVERGENCE
        position.num_images += sum(p[1] for p in pending)

    def _close_epoch(self) -> Iterator[Rows]:
        position, steps_per_epoch = self.position, self._loader.steps_per_epoch
        epoch = -(-position.step // steps_per_epoch)
        every = self._configs[0].train.evaluate_every_epochs
        test_loss = test_accuracy = [math.nan] * len(self._runs)
        if position.step == self.total_steps or epoch % every == 0:
            size = self._loader.fitting(EVALUATION_BATCH, self._configs[0].data.batch_size)
            loss_R, accuracy_R = self._engine.evaluate(self._loader.test_batches(size))
            test_loss, test_accuracy = loss_R.tolist(), accuracy_R.tolist()
        speed = position.num_images * len(self._runs) / position.epoch_sec
        for run in self._runs:
            if position.diverged_step[run] is not None:
                continue
            lr = lr_at(position.step - 1, self.total_steps, self._configs[run].optim)
            train = (position.loss_sum[run] / position.num_images, position.correct[run] / position.num_images)
            row = (epoch, position.step, lr, *train, test_loss[run], test_accuracy[run])
            position.final[run] = dict(zip(FINAL, row[3:], strict=True))
            yield Rows(run, "epochs", position.step, EPOCHS, {k: [v] for k, v in zip(EPOCHS, row, strict=True)})
            pace = (epoch, position.epoch_sec, speed, len(self._runs))
            values = {k: [v] for k, v in zip(THROUGHPUT, pace, strict=True)}
            yield Rows(run, "throughput", position.step, THROUGHPUT, values)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        position = self.position
        position.loss_sum, position.correct = [0.0 for _ in self._runs], [0.0 for _ in self._runs]
        position.num_images, position.epoch_sec = 0, 0.0

    def _due(self) -> dict[str, Look]:
        return self._observer.due(self.position.step, last=self.position.step == self.total_steps)

    def _ask_for_looks(self, looks: Mapping[str, Look]) -> None:
        for run in self._runs if looks else ():
            if self.position.diverged_step[run] is None:
                self.position.looks[run] = DUE

    def _look(self) -> Iterator[Rows]:
        """Take the looks that are due, one run after the other; a run's rows follow once all its looks are taken."""
        position = self.position
        for run in self._runs:
            if (awaited := position.looks[run]) is None:
                continue
            step, looks = position.step, self._due()
            if awaited == AT_DIVERGENCE:
                step = position.diverged_step[run] or 0
                looks = self._observer.due_at_divergence(step)
            began, random = time.perf_counter(), torch.get_rng_state()
            try:
                with self._leavable(f"the probes at step {step} ({', '.join(looks)})"):
                    rows = list(self._observer.look(run, self._engine.network(run), step, looks)) if looks else []
            except BaseException:
                torch.set_rng_state(random)  # wherever a probe was left
                raise
            finally:
                position.probe_sec += time.perf_counter() - began
            position.looks[run] = None  # only here, where nothing comes between it and the rows
            yield from rows

    def _count_time(self, began: float) -> None:
        seconds = time.perf_counter() - began
        self.position.epoch_sec += seconds
        self.position.train_sec += seconds
