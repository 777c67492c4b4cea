"""One group of runs as a job of a cluster: the file that describes it, and what the job does with that.

It trains its runs as a sweep on one machine does, with one worker process. A cluster signals a job before it ends it:
SIGUSR2 (or SIGUSR1) ahead of its time limit and of preemption, after which the job is to be queued again; SIGTERM where
it is cancelled, and with some preemptions. Either way what was trained is saved. After SIGTERM alone the job trains on
until it is killed, since Slurm queues again what it preempts only if it has not ended by itself.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bnstudy.config.schema import from_dict, to_dict
from bnstudy.data.sources import Source
from bnstudy.store import files, status
from bnstudy.store.jobs import Group, Job
from bnstudy.store.runs import State, Store
from bnstudy.sweep import pool
from bnstudy.tracking.console import Progress
from bnstudy.training import signals
from bnstudy.training.signals import ClusterJob

OWN = "bnstudy: "  # begins a job's own lines in its log, among those of others


def write_group(path: Path, group: Group, threads: int) -> None:
    """Describe a group, to be trained with `threads` threads per run, in a file that can be read from any folder."""
    described = []
    for job in group.jobs:
        runtime = replace(job.config.runtime, threads=threads)
        source = asdict(job.source) | {"folder": str(job.source.folder.resolve())}
        described.append({"config": to_dict(replace(job.config, runtime=runtime)), "source": source})
    files.write_text(path, json.dumps(described))


def read_group(path: Path) -> Group:
    """The group that `write_group` described. Raises ValueError where the file holds something else."""
    return Group(tuple(_job(**each) for each in json.loads(path.read_text(encoding="utf-8"))))


def _job(config: dict[str, Any], source: dict[str, Any]) -> Job:
    whole = source | {"folder": Path(source["folder"]), "shape": tuple(source["shape"])}
    return Job(from_dict(config), Source(**whole))


def train_cluster_job(group: Group, results: Path) -> dict[str, str]:
    """Train the runs that are not done. Print and return, by run, why any did not end well, and raise nothing.

    On SIGUSR1 or SIGUSR2, once all is saved, the job is queued again (`signals.cluster_job`).
    """
    with signals.cluster_job() as cluster:
        troubles = _train(group, results, cluster)
    for run_id, text in troubles.items():
        print(f"{OWN}{run_id}: {text}", file=sys.stderr, flush=True)
    return troubles


def _train(group: Group, results: Path, cluster: ClusterJob) -> dict[str, str]:
    """Why runs did not end well, by run. After a SIGTERM all is saved, and training goes on until a kill."""
    store = Store(results)
    while pending := {job.run_id for job in group.jobs if not status.of(job, store).done}:
        cluster.warned = False
        try:
            with Progress("job", len(pending), "runs ended") as progress:
                ended = pool.train_on_this_machine(group.jobs, pending, results, 1, progress)
        except KeyboardInterrupt:
            if not cluster.requeue:
                raise
            return {}
        except (ValueError, OSError) as error:
            return dict.fromkeys(sorted(pending), str(error))
        if not (cluster.warned and any(end.state == State.partial for end in ended)):
            return {end.run_id: f"{end.state}: {end.note}" for end in ended if not end.done}
    return {}
