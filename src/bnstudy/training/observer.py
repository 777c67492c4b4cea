"""Decide which probes look at a run when and on which mini-batch, and collect their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bnstudy import probes
from bnstudy.config.schema import Config
from bnstudy.data.loader import Loader
from bnstudy.probes.snapshot import Snapshot, drawing, observe
from bnstudy.store.runs import by_column
from bnstudy.store.status import Look
from bnstudy.training.engine import host

SMALL = frozenset({"gradients", "logits"})  # what a probe reads that does not grow with images and layers alike


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
        """The planned looks at the network's weights; those of one view share a pass."""
        views = {self._view(look) for look in looks.values()}
        for on, size, large in sorted(views):
            sharing = {table: look for table, look in looks.items() if self._view(look) == (on, size, large)}
            batch = self._loader.batch(step) if on == "train_batch" else self._loader.probe_batch(size)
            with host.large_blocks_returned():
                yield from self._look(run, network, step, batch, sharing)  # its snapshot ends before the next is taken

    def _look(
        self, run: int, network: nn.Module, step: int, batch: tuple[Tensor, Tensor], sharing: Mapping[str, Look]
    ) -> Iterator[Rows]:
        """The rows of looks that share a pass of this mini-batch."""
        images_NCHW, labels_N = batch
        # The other kernels of attention have no second derivatives.
        with sdpa_kernel(SDPBackend.MATH), drawing(self._seed, step, images_NCHW.device):
            snapshot = observe(
                network,
                images_NCHW,
                labels_N,
                step=step,
                epoch=step // self._loader.steps_per_epoch,
                reads=probes.reads([look.probe for look in sharing.values()]),
                loader=self._loader,
                initial=self._initial[run],
            )
        written = _written(snapshot)
        for table, look in sharing.items():
            columns = {"step": "int64", **probes.columns(look.probe)}
            # Whichever probes look beside it.
            with sdpa_kernel(SDPBackend.MATH), drawing(self._seed, step, images_NCHW.device):
                rows = probes.rows(look.probe, look.plan.options, snapshot)
            if _written(snapshot) != written:
                raise ValueError(
                    f"probes/{look.probe}.py: it writes over what other probes look at, too: write x = x / 2 in place "
                    "of x /= 2, or change x.clone()"
                )
            yield Rows(run, table, step, columns, by_column(({"step": step, **row} for row in rows), columns))

    def _view(self, look: Look) -> tuple[str, int, tuple[str, ...]]:
        """What looks have in common that share a pass: the mini-batch, and what they read of it that is large.

        Probes that read other tensors of the layers look one after the other: 128 images take half a gigabyte of each
        kind in a ResNet-110, all kinds more than its training, and a pass less time than what most probes compute.
        """
        large = probes.reads([look.probe]) - SMALL
        return look.plan.on, look.plan.batch_size or self._batch_size, tuple(sorted(large))


def _written(snapshot: Snapshot) -> list[int]:
    """How often each tensor of a snapshot has been written to, as torch counts."""
    observed = [tensor for by_key in snapshot._values.values() for tensor in by_key.values()]
    tensors = snapshot.images_NCHW, snapshot.labels_N, *snapshot._parameters.values(), *observed
    return [tensor._version for tensor in tensors]
