"""Which runs a sweep still has to make, and which of them train in lockstep."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bnstudy import devices, lease, paths, plugins
from bnstudy.config import Config, resolved_plan, total_steps
from bnstudy.data import sources
from bnstudy.data.sources import Source
from bnstudy.identity import canonical, run_id

MAX_STACK = 10  # runs side by side: more share nothing that ten do not


@dataclass(frozen=True)
class Job:
    """One run to make: its configuration and the bytes it sees."""

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


@dataclass(frozen=True)
class Seen:
    """What a launcher saw of runs before it hands them out: how they had ended, and claims of dead processes."""

    endings: Mapping[str, tuple[int, int] | None] = field(default_factory=dict)  # see Store.ending
    expired: Mapping[str, lease.Pulse] = field(default_factory=dict)  # see lease.Watch


def jobs(configs: Iterable[Config]) -> list[Job]:
    """Configurations with the data they will see, in their order, each identity once. Raises DataError."""
    found: dict[str, Source] = {}
    made: dict[str, Job] = {}
    for config in configs:
        name, runtime = config.data.name, config.runtime
        if name not in found:
            found[name] = sources.locate(
                name, Path(runtime.data_root), allow_stand_in=runtime.stand_in, download=runtime.download
            )
        job = Job(config, found[name])
        made.setdefault(job.run_id, job)
    return list(made.values())


def plan(jobs: Sequence[Job], pending: set[str], results: Path, workers: int) -> list[Group]:
    """Groups that make every pending job once.

    Groups that were interrupted go on as they were. The others are put side by side where they differ in the learning
    rate alone and `side_by_side` says so; where there are fewer groups than workers the largest are halved, unless
    runtime.engine=stacked. How runs are grouped is a matter of speed: but for that engine a run's bits are those it has
    alone. Raises ValueError where runtime.engine asks for what cannot be.
    """
    _check_stacked(jobs)
    by_id = {job.run_id: job for job in jobs}
    left = dict.fromkeys(job.run_id for job in jobs if job.run_id in pending)
    groups = []
    # The largest first: where a kill came while one was taken apart, it is there whole beside the first of its parts.
    for members in sorted(under_way(results).values(), key=len, reverse=True):
        untaken = all(member in left or member not in pending for member in members)
        if untaken and all(member in by_id for member in members) and any(member in left for member in members):
            groups.append(Group(tuple(by_id[member] for member in members)))
            for member in members:
                left.pop(member, None)
    alike: dict[str, list[Job]] = {}
    for job in (by_id[member] for member in left):
        alike.setdefault(_alike(job) if side_by_side(job.config) else job.run_id, []).append(job)
    parts = [group[i : i + MAX_STACK] for group in alike.values() for i in range(0, len(group), MAX_STACK)]
    while halvable := [i for i, part in enumerate(parts) if len(part) > 1 and not _asked_for(part[0])]:
        if len(parts) >= workers:
            break
        largest = max(halvable, key=lambda i: len(parts[i]))
        half = (len(parts[largest]) + 1) // 2
        parts[largest : largest + 1] = [parts[largest][:half], parts[largest][half:]]
    return groups + [Group(tuple(part)) for part in parts]


def under_way(results: Path) -> dict[str, list[str]]:
    """The members of every group that has a checkpoint, by the group's id."""
    files = sorted(paths.groups(results).glob(f"*/{paths.MEMBERS}"))
    return {file.parent.name: file.read_text(encoding="utf-8", errors="replace").split() for file in files}


def let_go(results: Path, run_ids: set[str], keep: Group | None = None) -> None:
    """Drops the checkpoints of groups, but for `keep`, that hold one of these runs; says whose work goes with it."""
    for group_id, members in under_way(results).items():
        if (keep is None or group_id != keep.id) and run_ids.intersection(members):
            shutil.rmtree(paths.groups(results) / group_id, ignore_errors=True)
            if left := [member for member in members if member not in run_ids]:
                names = ", ".join(left)
                print(f"{names}: to start again, as what was under way beside them is gone", flush=True)


def side_by_side(config: Config) -> bool:
    """Whether runs of this configuration train in lockstep: small networks, all networks on a GPU, or on request.

    What draws random numbers in training (`DRAWS = True` in the norm's or the network's file) never does: the draws
    would depend on its neighbours'. Raises ValueError where runtime.engine asks for it all the same.
    """
    model, norm, runtime = config.model["name"], config.norm["name"], config.runtime
    able = plugins.stackable(model, norm)
    if runtime.engine == "stacked" and not able:
        raise ValueError(f"runtime.engine = 'stacked': {model} with norm {norm} cannot be; use auto or parallel")
    if plugins.flag("norms", norm, "DRAWS") or plugins.flag("models", model, "DRAWS"):
        if runtime.engine in ("stacked", "parallel"):
            raise ValueError(
                f"runtime.engine = {runtime.engine!r}: {model} with norm {norm} draws random numbers, "
                f"which would depend on the runs beside it; use auto"
            )
        return False
    return runtime.engine == "parallel" or (runtime.engine != "plain" and (able or devices.on_gpu(runtime.device)))


def _check_stacked(jobs: Sequence[Job]) -> None:
    """Raises ValueError where runtime.engine=stacked asks for a run that cannot lie beside another, or has no other.

    That is asked of all jobs and not of the pending ones: the last that is left of a stack may be made alone.
    """
    asked = [job for job in jobs if _asked_for(job) and side_by_side(job.config)]
    alike = Counter(_alike(job) for job in asked)
    for job in asked:
        if alike[_alike(job)] == 1:
            raise ValueError(
                f"runtime.engine = 'stacked': no other run differs from {job.run_id} in optim.lr alone; use auto"
            )


def _asked_for(job: Job) -> bool:
    return job.config.runtime.engine == "stacked"


def _alike(job: Job) -> str:
    """What runs in one group share: everything but the learning rate, and what looks at them."""
    config = replace(job.config, optim=replace(job.config.optim, lr=0.0))
    plans = {name: resolved_plan(name, plan) for name, plan in config.probes.items()}
    return f"{canonical(config, job.source.identity)} {plans}"
