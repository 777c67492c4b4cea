"""Decide which probes look at a run when and on which mini-batch, and collect their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bnstudy import probes
from bnstudy.config.schema import Config
from bnstudy.data.loader import Loader
from bnstudy.probes.snapshot import drawing, observe
from bnstudy.store.runs import by_column
from bnstudy.store.status import Look


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one run for one table, by column, taken at `step`."""

    run: int
    table: str
    step: int
    columns: Mapping[str, str]
    values: Mapping[str, Sequence[Any]]


class Observer:
    """The planned looks of runs that share their batches. `looks` are by table, `initial` are weights at step 0."""

    def __init__(
        self, looks: Mapping[str, Look], config: Config, loader: Loader, initial: Sequence[Mapping[str, Tensor]]
    ) -> None:
        self._looks, self._batch_size, self._loader, self._initial = looks, config.data.batch_size, loader, initial
        self._seed = config.seed

    def due(self, step: int, *, last: bool) -> dict[str, Look]:
        """The looks that are due at `step`; `last`: whether training ends there."""
        return {
            table: look
            for table, look in self._looks.items()
            if probes.due(look.plan, step, self._loader.steps_per_epoch, last)
        }

    def due_at_divergence(self, step: int) -> dict[str, Look]:
        """The looks that are due at a divergence and have not been taken at this very step."""
        before = self.due(step, last=False)
        return {table: look for table, look in self._looks.items() if look.plan.at_divergence and table not in before}

    def look(self, run: int, network: nn.Module, step: int, looks: Mapping[str, Look]) -> Iterator[Rows]:
        """The planned looks at the network's weights; those at the same mini-batch share one pass."""
        views = {self._view(look) for look in looks.values()}
        for on, size in sorted(views):
            tables = [table for table, look in looks.items() if self._view(look) == (on, size)]
            images_NCHW, labels_N = self._loader.batch(step) if on == "train_batch" else self._loader.probe_batch(size)
            with drawing(self._seed, step, images_NCHW.device):
                snapshot = observe(
                    network,
                    images_NCHW,
                    labels_N,
                    step=step,
                    epoch=step // self._loader.steps_per_epoch,
                    reads=probes.reads([looks[table].probe for table in tables]),
                    loader=self._loader,
                    initial=self._initial[run],
                )
            for table in tables:
                probe, options = looks[table].probe, looks[table].plan.options
                columns = {"step": "int64", **probes.columns(probe)}
                with drawing(self._seed, step, images_NCHW.device):  # whichever probes look beside it
                    rows = probes.rows(probe, options, snapshot)
                yield Rows(run, table, step, columns, by_column(({"step": step, **row} for row in rows), columns))

    def _view(self, look: Look) -> tuple[str, int]:
        return look.plan.on, look.plan.batch_size or self._batch_size
