"""What a command would train, and how long that would take, before it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from bnstudy.config.schema import Config, resolved, resolved_plan
from bnstudy.store import status
from bnstudy.store.jobs import Job
from bnstudy.store.publishing import NOTHING, Published
from bnstudy.store.runs import Store
from bnstudy.store.words import duration
from bnstudy.sweep import wanted
from bnstudy.sweep.progress import Progress
from bnstudy.sweep.survey import Survey
from bnstudy.training import signals

DAY_SEC = 86400.0
UNKNOWN = "how long is not known: no run here or published is like them"


def check_length(sec: float, *, yes: bool) -> None:
    """Raises ValueError for more than a day of work, unless `yes`, or the time of this command is limited."""
    if sec > DAY_SEC and not yes and not signals.limited():
        raise ValueError(
            f"this would take about {duration(sec)}: add --yes (make: YES=1) to train it all the "
            "same, --budget-min N (make: BUDGET_MIN=N) to train a sweep in slices, or ask for less: fewer epochs, a "
            "smaller network, one seed; --dry-run lists the runs"
        )


def progress_of(
    sweep: str, jobs: Sequence[Job], results: Path, processes: int | None = None, *, again: bool = False
) -> Progress:
    """How far these runs are, and the time that is left for them."""
    runs = [wanted.of(job) for job in jobs]
    return Survey.of(results, runs).progress(sweep, runs, processes=processes, again=again)


def dry_run(
    sweep: str, jobs: Sequence[Job], results: Path, processes: int | None = None, published: Published = NOTHING
) -> int:
    """Print the runs with their states, steps and images, and the time that the pending ones take. Train nothing."""
    store, known, images = Store(results), published.ids(jobs), 0
    states = Counter[str]()
    for job in jobs:
        now = status.of(job, store, verify=False)
        state = str(now.state) if now.done else "published" if job.run_id in known else "to train"
        states[state] += 1
        seen = job.num_steps * job.config.data.batch_size
        images += seen if state == "to train" else 0
        reason = f"  {now.reason}" if now.reason and state == "to train" else ""
        print(f"{job.run_id:40}  {state:10}  {job.num_steps:8} steps  {seen:11,} images{reason}")
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    left = progress_of(sweep, jobs, results, processes, again=published is NOTHING).time_left
    end = f"; {left or UNKNOWN}" if states["to train"] else ""
    print(f"{len(jobs)} runs: {counts}; {images:,} images to train on{end}")
    return 0


def print_configurations(jobs: Sequence[Job]) -> int:
    """Print the resolved configuration of each run, as YAML, one document each. Train nothing."""
    for job in jobs:
        print(f"---\n# {job.run_id}\n{yaml.safe_dump(_whole(job.config), sort_keys=False, allow_unicode=True)}", end="")
    return 0


def _whole(config: Config) -> Mapping[str, object]:
    return resolved(config) | {"probes": {name: resolved_plan(name, plan) for name, plan in config.probes.items()}}
