"""Where a run's rows go besides its tables: the W&B mirror. (Progress on the console is `console`.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bnstudy.config.identity import network
from bnstudy.config.schema import Config


class Tracker(Protocol):
    """A mirror of one run. Nothing is ever read back from it, and its troubles never reach the training."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves at `step`; within a run these steps never fall."""

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of the probe `name` at `step`."""

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """The run's end, with its status (completed, diverged, failed, interrupted) and final numbers."""


class NoTracker:
    """The tracker of `tracking.mode: off`."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Drop the values."""

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Drop the rows."""

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """End nothing."""


def tracker_of(config: Config, run_id: str, results: Path, facts: Mapping[str, Any]) -> Tracker:
    """The mirror that `config.tracking` asks for, opened meanwhile; `facts`, nested, become the W&B run's config."""
    if config.tracking.mode == "off":
        return NoTracker()
    from bnstudy.tracking.background import Background
    from bnstudy.tracking.wandb import Wandb

    tags = [network(config), config.norm["name"], config.data.name, *config.tracking.tags]
    return Background(
        lambda: Wandb(
            results,
            mode=config.tracking.mode,
            project=config.tracking.project,
            run_id=run_id,
            group=config.sweep.name,
            tags=list(dict.fromkeys(tags)),
            config=facts,
        )
    )
