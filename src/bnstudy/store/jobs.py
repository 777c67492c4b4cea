"""A job, which is one run to train, and the groups in which runs train and are saved."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bnstudy.config.identity import run_id
from bnstudy.config.schema import Config, total_steps
from bnstudy.data import sources
from bnstudy.data.sources import Source
from bnstudy.store import paths


@dataclass(frozen=True)
class Job:
    """One run to train: its configuration and the bytes it sees."""

    config: Config
    source: Source

    @property
    def run_id(self) -> str:
        return run_id(self.config, self.source.identity)

    @property
    def num_steps(self) -> int:
        """The run's budget in updates; the last mini-batch of an epoch may be a smaller one."""
        data = self.config.data
        return total_steps(self.config, -(-(data.num_train or self.source.num_train) // data.batch_size))


@dataclass(frozen=True)
class Group:
    """Jobs that train in lockstep; one job for itself is a group of one."""

    jobs: tuple[Job, ...]

    @property
    def id(self) -> str:
        """Named after its members, so that an interrupted group is found again."""
        return hashlib.sha256("\n".join(job.run_id for job in self.jobs).encode()).hexdigest()[:12]


def jobs(configs: Iterable[Config]) -> list[Job]:
    """The jobs of these configurations, in their order, each identity once. Raises DataError for missing data."""
    located: dict[tuple[str, str, bool, bool], Source] = {}
    by_id: dict[str, Job] = {}
    for config in configs:
        name, runtime = config.data.name, config.runtime
        place = name, runtime.data_root, runtime.synthetic, runtime.download
        if place not in located:
            located[place] = sources.locate(
                name, Path(runtime.data_root), allow_synthetic=runtime.synthetic, download=runtime.download
            )
        job = Job(config, located[place])
        by_id.setdefault(job.run_id, job)
    return list(by_id.values())


def under_way(results: Path) -> dict[str, list[str]]:
    """The members of every group that has a checkpoint, by the group's id."""
    files = sorted(paths.groups(results).glob(f"*/{paths.MEMBERS}"))
    return {file.parent.name: file.read_text(encoding="utf-8", errors="replace").split() for file in files}


def let_go(results: Path, run_ids: set[str], keep: Group | None = None) -> None:
    """Remove the checkpoints of groups, but for `keep`, that hold one of these runs; print whose work is lost."""
    for group_id, members in under_way(results).items():
        if (keep is None or group_id != keep.id) and run_ids.intersection(members):
            shutil.rmtree(paths.groups(results) / group_id, ignore_errors=True)
            if left := [member for member in members if member not in run_ids]:
                names = ", ".join(left)
                print(f"{names}: to start again, since the checkpoint of their group is gone", flush=True)
