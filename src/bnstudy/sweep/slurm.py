"""A sweep's runs as jobs of a Slurm cluster: submitted, unless they are queued already, and waited for.

Slurm's queue, which needs no accounting, says whether a job is still there. The store says how its runs ended: to Slurm
a job whose run failed has completed. Submitted jobs are written down, so that a later command finds them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnstudy.store import files, locks, paths
from bnstudy.store.jobs import Job
from bnstudy.store.runs import Ending, RunEnded, State, Store
from bnstudy.sweep import pool, task
from bnstudy.sweep.launchers import Launcher
from bnstudy.sweep.plan import plan
from bnstudy.tracking.console import Progress
from bnstudy.training import signals

if TYPE_CHECKING:
    import submitit

ARRAY = 1000  # jobs submitted at once; a cluster takes arrays of 1001 unless it says otherwise (MaxArraySize)
POLL_SEC = 5.0  # between looks at the queue
ASK_SEC = 60.0  # for one answer of it
LOOKS = 6  # a job is gone when so many in a row have not shown it: one that is requeued may be out of sight for some


@dataclass(frozen=True)
class Submitted:
    """A job that was given to Slurm."""

    id: str  # 123, or 123_4 in an array
    run_ids: tuple[str, ...]
    log: str
    user: int  # whose it is


def train_on_cluster(
    title: str, grid: Sequence[Job], pending: set[str], results: Path, launcher: Launcher, at_a_time: int | None
) -> list[RunEnded]:
    """Submit the pending runs and wait for them; how each ended. Without waiting, an empty list.

    Raises ValueError where Slurm refuses, or is not there. On Ctrl-C, or a spent budget, the jobs stay in the queue.
    """
    if shutil.which("sbatch") is None:
        raise ValueError(f"LAUNCHER={launcher.name}: there is no sbatch here; use it where the cluster's commands are")
    for pattern in ("%", "\\", "${"):
        if pattern in str(results.resolve()):
            raise ValueError(f"--results {results}: Slurm reads {pattern} in paths as a pattern; name another folder")
    store = Store(results)
    endings = {run_id: store.ending(run_id) for run_id in pending}
    with locks.alone(paths.cluster(results) / "submitting"):  # two commands would submit the same runs
        jobs = _earlier(results, pending)
        queued = {run_id for job in jobs for run_id in job.run_ids}
        if queued:
            print(f"{title}: {len(queued & pending)} runs are in the queue already, as {_ids(jobs)}")
        if pending - queued:
            new = _submit(title, grid, pending - queued, results, launcher, at_a_time)
            print(f"{title}: {len(new)} jobs are submitted, as {_ids(new)}; their logs are in {paths.cluster(results)}")
            jobs += new
    if not launcher.wait:
        print(f"the same command waits for them and writes the tables{_to_end(jobs)}")
        return []
    try:
        return _wait(title, {job.run_id: job for job in grid}, jobs, pending, endings, results)
    except (KeyboardInterrupt, signals.Spent):
        print(f"\n{title}: the jobs stay; the same command waits for them again{_to_end(jobs)}")
        raise


class _Work:
    """What a job does; queued again after its time limit or a preemption it does the same, from the checkpoint."""

    def __init__(self, described: Path, results: Path) -> None:
        self._described, self._results = described, results

    def __call__(self, group_id: str) -> dict[str, str]:
        return task.train_cluster_job(task.read_group(self._described / f"{group_id}.json"), self._results)

    def checkpoint(self, group_id: str) -> submitit.helpers.DelayedSubmission:
        import submitit

        return submitit.helpers.DelayedSubmission(self, group_id)


def _submit(
    title: str, grid: Sequence[Job], pending: set[str], results: Path, launcher: Launcher, at_a_time: int | None
) -> list[Submitted]:
    from submitit.core.utils import FailedJobError

    folder, submitted_jobs = paths.cluster(results).resolve(), list[Submitted]()
    at_once: dict[str, Any] = {"array_parallelism": at_a_time} if at_a_time else {}
    executor = launcher.executor(folder / "%j", name=f"bnstudy-{title}", **at_once)
    groups = plan(grid, pending, results, at_a_time or 1)
    for group in groups:
        threads = group.jobs[0].config.runtime.threads or executor.parameters["cpus_per_task"]
        task.write_group(folder / "groups" / f"{group.id}.json", group, threads)
    for part in (groups[first : first + ARRAY] for first in range(0, len(groups), ARRAY)):
        try:
            jobs = executor.map_array(_Work(folder / "groups", results.resolve()), [group.id for group in part])
        except FailedJobError as error:
            raise ValueError(f"Slurm refused the jobs: {_message(str(error))}") from None
        submitted = [
            Submitted(job.job_id, tuple(each.run_id for each in group.jobs), str(job.paths.stdout), os.getuid())
            for job, group in zip(jobs, part, strict=True)
        ]
        record = paths.cluster(results) / f"{submitted[0].id.partition('_')[0]}.json"
        described = [{"id": job.id, "run_ids": job.run_ids, "log": job.log} for job in submitted]
        files.write_text(record, json.dumps(described))
        submitted_jobs += submitted
    return submitted_jobs


def _wait(
    title: str,
    job_by_run: Mapping[str, Job],
    jobs: Sequence[Submitted],
    pending: Collection[str],
    endings: dict[str, Ending | None],
    results: Path,
) -> list[RunEnded]:
    store = Store(results)
    job_of = {run_id: job for job in jobs for run_id in job.run_ids}
    unseen: Counter[str] = Counter()
    left, ended = sorted(pending), list[RunEnded]()
    with Progress(title, len(left), "runs ended") as progress:
        while True:
            if (queue := _queue({job.user for job in jobs})) is not None:
                for job in jobs:
                    unseen[job.id] = 0 if job.id in queue else unseen[job.id] + 1
            for run_id in list(left):
                end, job = pool.ended(job_by_run[run_id], store, endings[run_id]), job_of[run_id]
                held = job.user == os.getuid() and locks.holder(results, run_id)  # of another's lock none can tell
                if end is None and unseen[job.id] >= LOOKS and not held:
                    note = f"job {job.id} ended first ({_last_words(Path(job.log))}); its log: {job.log}"
                    end = RunEnded(run_id, State.partial, note)
                if end is not None:
                    left.remove(run_id)
                    ended.append(end)
            progress.update(len(ended), _shown(jobs, queue))
            if not left:
                counts = Counter(end.state for end in ended)
                progress.close(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
                return ended
            time.sleep(POLL_SEC)


def _shown(jobs: Sequence[Submitted], queue: dict[str, str] | None) -> str:
    if queue is None:
        return "Slurm's queue does not answer"
    states = Counter(queue[job.id].lower() for job in jobs if job.id in queue)
    return f"jobs: {', '.join(f'{count} {state}' for state, count in sorted(states.items())) or 'none left'}"


def _earlier(results: Path, pending: set[str]) -> list[Submitted]:
    """The queued jobs that train any of these runs, other users' among them; records of one's own that are over go."""
    recorded = dict[Path, list[Submitted]]()
    for record in sorted(paths.cluster(results).glob("*.json")):
        user = record.stat().st_uid
        jobs = [Submitted(job["id"], tuple(job["run_ids"]), job["log"], user) for job in json.loads(record.read_text())]
        if user == os.getuid() or pending.intersection(run_id for job in jobs for run_id in job.run_ids):
            recorded[record] = jobs
    queue = _queue({jobs[0].user for jobs in recorded.values()}) if recorded else {}
    if queue is None:
        raise ValueError("Slurm's queue does not answer (squeue): jobs may be in it already; try again later")
    queued_jobs = []
    for record, jobs in recorded.items():
        if queued := [job for job in jobs if job.id in queue]:
            queued_jobs += [job for job in queued if pending.intersection(job.run_ids)]
        elif jobs[0].user == os.getuid():
            record.unlink(missing_ok=True)
    return queued_jobs


def _queue(users: Collection[int]) -> dict[str, str] | None:
    """The state of each job of these users that is not over, by id; None where the queue gives no answer."""
    whose = f"--user={','.join(map(str, sorted(users)))}"
    command = ["squeue", whose, "--noheader", "--array", "--format=%i %T"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SEC, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split(maxsplit=1) for line in answer.splitlines() if " " in line.strip())


def _to_end(jobs: Iterable[Submitted]) -> str:
    ours = [job for job in jobs if job.user == os.getuid()]
    return f"; scancel {_ids(ours)} ends them" if ours else ""


def _ids(jobs: Iterable[Submitted]) -> str:
    return " ".join(sorted({job.id.partition("_")[0] for job in jobs}, key=int))


def _message(error: str) -> str:
    """Slurm's own message within submitit's."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in error.splitlines() if "sbatch:" in line]
    return " ".join(lines) or error.strip().splitlines()[-1]


def _last_words(log: Path) -> str:
    """The last of a job's own lines in its log, or else its last line."""
    try:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return "it left no log"
    own = [line.removeprefix(task.OWN) for line in lines if line.startswith(task.OWN)]
    return (own or lines or ["its log is empty"])[-1]
