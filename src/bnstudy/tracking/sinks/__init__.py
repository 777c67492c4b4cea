"""Where a run's rows go besides its tables: the W&B mirror. (Progress on the console is `sinks.console`.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bnstudy.config.identity import network
from bnstudy.config.schema import Config


class Sink(Protocol):
    """A mirror of one run. Nothing is ever read back from it, and its troubles never reach the training."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves at `step`; within a run these steps never fall."""

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """What the probe `name` found at `step`."""

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """The run's end, with its status (completed, diverged, failed, interrupted) and final numbers."""


class Nothing:
    """The sink of `tracking.mode: off`."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Drops the values."""

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Drops the rows."""

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Ends nothing."""


def make(config: Config, run_id: str, results: Path, facts: Mapping[str, Any]) -> Sink:
    """The mirror that `config.tracking` asks for; `facts`, nested, become the W&B run's config."""
    if config.tracking.mode == "off":
        return Nothing()
    from bnstudy.tracking.sinks.wandb import Wandb

    tags = [network(config), config.norm["name"], config.data.name, *config.tracking.tags]
    return Wandb(
        results,
        mode=config.tracking.mode,
        project=config.tracking.project,
        run_id=run_id,
        group=config.sweep.name,
        tags=list(dict.fromkeys(tags)),
        config=facts,
    )
