"""Train the jobs of a sweep that are not done, here or on a cluster, round by round of its search."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bnstudy.store import devices, files, locks, paths, publishing, status
from bnstudy.store.jobs import Job
from bnstudy.store.publishing import NOTHING, Published
from bnstudy.store.runs import RunEnded, State, Store
from bnstudy.store.status import Status
from bnstudy.sweep import pool, search, slurm
from bnstudy.sweep.launchers import LOCAL, Launcher
from bnstudy.sweep.plan import plan
from bnstudy.tracking.console import Progress
from bnstudy.training import signals


def with_threads(
    grid: Sequence[Job], results: Path, workers: int | None = None, launcher: Launcher = LOCAL
) -> list[Job]:
    """The jobs, each with its number of CPU threads: the cores shared out among the processes that a whole grid has.

    Bits depend on that number, so that it must not depend on what is left of the grid. It stays as it is where
    runtime.threads says it, and on a cluster, whose launcher does.
    """
    if launcher != LOCAL:
        return list(grid)
    threads = max(1, devices.cores() // min(workers or at_once(grid, results) or processes(grid), len(grid)))
    return [
        job
        if job.config.runtime.threads
        else replace(job, config=replace(job.config, runtime=replace(job.config.runtime, threads=threads)))
        for job in grid
    ]


def processes(jobs: Sequence[Job]) -> int:
    """How many processes train at a time on this machine, where --jobs is not given."""
    on_gpu = devices.on_gpu(jobs[0].config.runtime.device)
    return max(1, devices.gpus()) if on_gpu else devices.cores()


def at_once(part: Sequence[Job], results: Path) -> int | None:
    """How many processes train where --jobs is not given and time is limited: on a GPU enough for all arms."""
    if not signals.limited() or not devices.on_gpu(part[0].config.runtime.device):
        return None
    return max(devices.gpus(), len(plan(part, {job.run_id for job in part}, results, workers=1)))


def by_seed(name: str, grid: Sequence[Job], launcher: Launcher = LOCAL) -> list[tuple[str, Sequence[Job]]]:
    """The grid with its title; where time is limited, seed by seed, so that what is done then can be compared."""
    if launcher != LOCAL or not signals.limited():
        return [(name, grid)]
    seeds = sorted({job.config.seed for job in grid})
    return [(f"{name}, seed {seed}", [job for job in grid if job.config.seed == seed]) for seed in seeds]


def train_sweep(
    name: str,
    grid: Sequence[Job],
    results: Path,
    workers: int | None,
    launcher: Launcher = LOCAL,
    *,
    published: Published = NOTHING,
) -> tuple[tuple[Job, ...], bool]:
    """Train what the sweep asks for: its grid and, where it searches, what follows from what is done, round by round.

    Returns all the jobs that were asked for, and whether any failed or stayed unfinished. No round follows one with
    such a job, nor one whose end is not waited for.
    """
    store = Store(results)
    reached = search.reach(grid, store, published)
    while True:
        jobs = reached.jobs
        if reached.more:
            print(f"{name}: of its search {reached.more} more runs follow these")
        failed = train_pending(name, jobs, results, workers, launcher, published=published)
        reached = search.reach(grid, store, published)
        if failed or not launcher.wait or len(reached.jobs) == len(jobs):
            break
    for cell, value in reached.largest:
        print(f"{cell}: {value}")
    return reached.jobs, failed


def train_pending(
    title: str,
    jobs: Sequence[Job],
    results: Path,
    workers: int | None,
    launcher: Launcher = LOCAL,
    *,
    published: Published = NOTHING,
) -> bool:
    """Train the jobs that are not done, nor published, with progress; whether any failed or stayed unfinished."""
    store = Store(results)
    statuses = {job.run_id: status.of(job, store) for job in jobs}
    pending = {run_id for run_id, now in statuses.items() if not now.done}
    num_done, known = len(jobs) - len(pending), pending & published.ids(jobs)
    pending -= known
    explain([job for job in jobs if job.run_id in pending], statuses, store, published)
    counted = f"{len(known)} published, " if known else ""
    print(f"{title}: {len(jobs)} runs, {counted}{num_done} done, {len(pending)} to train")
    if known:
        print(f"{title}: AGAIN=1 (--again) trains those that are published, too")
    if not pending:
        return False
    files.check_writable(paths.runs(results))  # before a process is started
    try:
        ended = _train(title, jobs, pending, results, workers, launcher)
    except signals.Spent:
        num_done = sum(status.of(job, store).done or job.run_id in known for job in jobs)
        raise signals.Spent(f"{title}: {num_done} of {len(jobs)} runs done") from None
    if elsewhere := sum(locks.ELSEWHERE in end.note for end in ended):
        print(f"{title}: {len(ended) - elsewhere} of these were trained here, {elsewhere} by other processes")
    bad = [end for end in ended if not end.done]
    for end in bad:
        print(f"{end.run_id}: {end.state}: {end.note}", file=sys.stderr)
    return bool(bad)


def _train(
    title: str, jobs: Sequence[Job], pending: set[str], results: Path, workers: int | None, launcher: Launcher
) -> list[RunEnded]:
    """How each pending run ended."""
    if launcher != LOCAL:
        return slurm.train_on_cluster(title, jobs, pending, results, launcher, workers)
    workers = workers or processes(jobs)
    with Progress(title, len(pending), "runs ended") as progress:
        ended = pool.train_on_this_machine(jobs, pending, results, workers, progress)
        counts = Counter(end.state for end in ended)
        progress.close(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    return ended


def explain(jobs: Sequence[Job], statuses: Mapping[str, Status], store: Store, published: Published = NOTHING) -> None:
    """Print why runs that have ended, or are published, do not count as done, each reason once, and which runs a
    changed default renamed.
    """
    reasons: dict[str, list[str]] = {}
    for job in jobs:
        now = statuses[job.run_id]
        if now.state == State.damaged:
            reason = "its files are not what was written; it is trained again"
        elif not now.state.done:
            reason = publishing.missed(job, store, published)
        else:
            reason = now.reason
        if reason:
            reasons.setdefault(reason, []).append(job.run_id)
    for reason, names in reasons.items():
        print(f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}")
