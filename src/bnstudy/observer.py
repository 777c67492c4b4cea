"""Which probes look when and at which mini-batch, and the rows they bring back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bnstudy import probes
from bnstudy.config import Config, ProbePlan
from bnstudy.data.pipeline import Feed
from bnstudy.snapshot import observe
from bnstudy.store import by_column


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one run for one table, by column; `step` is where training stood."""

    run: int
    table: str
    step: int
    columns: Mapping[str, str]
    values: Mapping[str, Sequence[Any]]


class Observer:
    """The probes of runs that share their plans and their batches. `initial`: each run's weights at step 0."""

    def __init__(self, config: Config, feed: Feed, initial: Sequence[Mapping[str, Tensor]]) -> None:
        self._plans, self._batch_size, self._feed, self._initial = config.probes, config.data.batch_size, feed, initial

    def due(self, step: int, *, last: bool) -> dict[str, ProbePlan]:
        """What looks at `step`, the end of training or not."""
        return {n: p for n, p in self._plans.items() if probes.due(p, step, self._feed.steps_per_epoch, last)}

    def due_at_divergence(self, step: int) -> dict[str, ProbePlan]:
        """What looks at a run that diverged at `step`, and has not looked at these very weights already."""
        before = self.due(step, last=False)
        return {name: plan for name, plan in self._plans.items() if plan.at_divergence and name not in before}

    def look(self, run: int, network: nn.Module, step: int, plans: Mapping[str, ProbePlan]) -> Iterator[Rows]:
        """The planned probes at the network's weights; those that look at the same mini-batch share one pass."""
        views = {(plan.on, plan.batch_size or self._batch_size) for plan in plans.values()}
        for on, size in sorted(views):
            names = [n for n, p in plans.items() if (p.on, p.batch_size or self._batch_size) == (on, size)]
            images_NCHW, labels_N = self._feed.batch(step) if on == "train_batch" else self._feed.probe_batch(size)
            seen = observe(
                network,
                images_NCHW,
                labels_N,
                step=step,
                epoch=step // self._feed.steps_per_epoch,
                reads=probes.reads(names),
                feed=self._feed,
                initial=self._initial[run],
            )
            for name in names:
                columns = {"step": "int64", **probes.columns(name)}
                found = ({"step": step, **row} for row in probes.run(name, plans[name].options, seen))
                yield Rows(run, name, step, columns, by_column(found, columns))
