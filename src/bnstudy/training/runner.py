"""Train one group of runs to its end: runs that are left, looks that are lacking, and what follows an exception."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnstudy.config import plugins
from bnstudy.store import checkpoint, failures, files, locks, status
from bnstudy.store.jobs import Group, Job, let_go
from bnstudy.store.runs import Ending, RunEnded, State, Store, StoreError
from bnstudy.store.status import Look
from bnstudy.training import completion
from bnstudy.training.engine import host
from bnstudy.training.engine.stacked import unstack
from bnstudy.training.signals import Stop
from bnstudy.training.trainer import ProgressCallback, Trainer, Work


class Refused(ValueError):
    """Bad input, with which nothing can be trained. The message names key, value and remedy."""


def train_group(
    group: Group,
    results: Path,
    *,
    threads: int,
    report: ProgressCallback,
    stop: Stop,
    endings: Mapping[str, Ending | None] | None = None,
) -> list[RunEnded]:
    """Train the group's runs. An exception marks a run failed; in a group of several each then trains alone.

    This process locks them meanwhile; runs that other processes have ended since these `endings` are left alone.
    Whatever is raised or marked, a checkpoint stays: once the cause is gone the runs resume from it. Raises Refused
    (bad input; nothing was written), Interrupted (after a checkpoint), KeyboardInterrupt (where there was nothing to
    save), or OSError (the disk's fault and not a run's; locks.Locked: another process trains one).
    """
    with locks.hold(results, [job.run_id for job in group.jobs]) as held:
        work = Work(threads, report, stop, held)
        ended = _train_rest(group, results, endings or {}, work)
        # A resumed run takes the looks that it was begun with; looks requested since are added here.
        again = Group(tuple(job for job in group.jobs if _lacks(job, results)))
        if again.jobs and not any(one.state == State.failed for one in ended):
            ended = [one for one in ended if one.run_id not in {job.run_id for job in again.jobs}]
            ended += _train_rest(again, results, {}, work)
        return ended


def _train_rest(group: Group, results: Path, endings: Mapping[str, Ending | None], work: Work) -> list[RunEnded]:
    """Train the runs of the group that are not done here and were not ended elsewhere."""
    ended = _add_looks(group, results, work)
    ended += _ended_elsewhere(group, results, endings, {one.run_id for one in ended})
    left = tuple(job for job in group.jobs if job.run_id not in {one.run_id for one in ended})
    if left and checkpoint.exists(results, group):  # it resumes whole
        left, ended = group.jobs, []
    if left:
        ended += _train(Group(left), results, work)
    elif all(one.done for one in ended):
        checkpoint.remove(results, group)
    return ended


def _lacks(job: Job, results: Path) -> bool:
    return bool(status.of(job, Store(results), verify=False).lacking)


def _add_looks(group: Group, results: Path, work: Work) -> list[RunEnded]:
    """Take the looks that finished runs lack and that need no training; return the runs that then lack nothing."""
    store, ended = Store(results), []
    for job in group.jobs:
        before = status.of(job, store)
        if not before.lacking or before.changed:
            continue
        host.prepare(work.threads)
        try:
            with work.stop.leavable(f"the probes of {job.run_id}"):
                looked = completion.complete(job, store)
        except (OSError, StoreError):
            raise
        except plugins.Changed as error:
            raise Refused(str(error)) from error
        except Exception as error:
            path = failures.write_traceback(results, job.run_id, error)
            text = f"{failures.in_words(error)}; the run stays as it was; the whole traceback: {path}"
            ended.append(RunEnded(job.run_id, State.failed, text))
            continue
        if looked:
            print(f"{job.run_id}: {', '.join(looked)} looked at it without training it again", flush=True)
        if status.of(job, store).done:
            ended.append(RunEnded(job.run_id, before.state, "trained before"))
    return ended


def _ended_elsewhere(
    group: Group, results: Path, endings: Mapping[str, Ending | None], known: set[str]
) -> list[RunEnded]:
    """The group's other runs that are done, or that failed in another process since they had these endings."""
    store, ended = Store(results), []
    for job in group.jobs:
        if job.run_id in known:
            continue
        now = status.of(job, store)
        failed_since = now.state == State.failed and job.run_id in endings
        if now.done or (failed_since and store.ending(job.run_id) != endings[job.run_id]):
            error = store.manifest(job.run_id)["error"]
            note = f"{error} ({locks.ELSEWHERE})" if error else locks.ELSEWHERE
            ended.append(RunEnded(job.run_id, now.state, note))
    return ended


def _train(group: Group, results: Path, work: Work) -> list[RunEnded]:
    """Train a group; where it raises, each of its runs alone; a run that raises alone has failed."""
    waiting, ended = deque([group]), list[RunEnded]()
    while waiting:
        now = waiting.popleft()
        try:
            ended += _run(now, results, work)
            continue
        except (OSError, Refused):
            raise
        except Exception as error:
            if (fault := files.fault_of_the_disk(error)) is not None:
                raise fault from None
            if len(now.jobs) == 1:
                ended.append(_fail(now.jobs[0], now, results, error))
                continue
            names = ", ".join(job.run_id for job in now.jobs)
            print(f"{names}: {type(error).__name__}: {error}; each trains by itself now", flush=True)
        # Past the handler, where the exception no longer keeps alive the memory that may have been too little.
        done, apart = _take_apart(now, results, work)
        ended += done
        waiting.extend(apart)
    return ended


def _run(group: Group, results: Path, work: Work) -> list[RunEnded]:
    saved = checkpoint.load(results, group)
    if saved is not None:
        config = group.jobs[0].config
        looked = {table for writer in saved["writers"] for table in writer["columns"]}
        changed = status.changed_code(config, saved["code"])
        changed += status.changed_probes(config, saved["looks"], looked)
        if changed:
            checkpoint.of_no_use(group, f"{', '.join(changed)} changed since")
            checkpoint.remove(results, group)
            saved = None
    try:
        trainer = Trainer(group, results, saved["threads"] if saved else work.threads, _looks(group, results, saved))
    except ValueError as error:
        raise Refused(str(error)) from error
    work.held.check()
    let_go(results, {job.run_id for job in group.jobs}, keep=group)  # what is there of them is written anew
    if saved is None or not trainer.resume(saved):
        trainer.begin()
    del saved  # its tensors have been copied
    with trainer.mirrored() as mirrors, work.stop.deferred(trainer.training.total_steps > 0):
        trainer.train(mirrors, work)
    work.held.check()
    return [RunEnded(run_id, state) for run_id, state in trainer.end(mirrors).items()]


def _looks(group: Group, results: Path, saved: dict[str, Any] | None) -> dict[str, Look]:
    """The looks along training: a checkpoint's, else those of the configuration and of the finished runs."""
    if saved is not None:
        return {table: Look.of(record) for table, record in saved["looks"].items()}
    store = Store(results)
    ended = [store.manifest(job.run_id) for job in group.jobs if store.state(job.run_id).done]
    return status.looks(group.jobs[0].config, ended)


def _take_apart(group: Group, results: Path, work: Work) -> tuple[list[RunEnded], list[Group]]:
    """Split a group that raised: return the runs that are done, and for each of the others a group of its own.

    One run may be at fault (a probe stumbles over its weights): then only that run fails. Or the group needed too much
    memory, of which a run alone needs a part. Each run takes its part of the group's checkpoint along, so that nothing
    saved is lost. With runtime.engine=stacked the runs are rounded from here on as runs alone are, which the manifest's
    `groups` record. Where not even one run can be built, the cause lies elsewhere: the group stays whole, to be resumed
    later, and its runs are marked failed.
    """
    states = {job.run_id: status.of(job, Store(results)) for job in group.jobs}
    ended = [RunEnded(run_id, now.state) for run_id, now in states.items() if now.done]  # by a manifest written before
    left = [job for job in group.jobs if not states[job.run_id].done]
    gc.collect()  # the attempt that raised left its networks behind
    try:
        for job in left[:1]:
            Trainer(Group((job,)), results, work.threads, {})
        work.held.check()
        _divide_checkpoint(group, left, results)
    except OSError:
        raise
    except Exception as error:
        if (fault := files.fault_of_the_disk(error)) is not None:
            raise fault from None
        return ended + [_fail(job, group, results, error) for job in left], []
    return ended, [Group((job,)) for job in left]


def _divide_checkpoint(group: Group, left: Sequence[Job], results: Path) -> None:
    """Replace a group's checkpoint, if it has one, by one for each of the runs that are `left`."""
    saved, num_runs = checkpoint.load(results, group), len(group.jobs)
    for run, job in enumerate(group.jobs):
        if saved is None or job not in left:
            continue
        part = {
            "engine": {name: unstack(values, run, num_runs).clone() for name, values in saved["engine"].items()},
            "position": {k: [v[run]] if isinstance(v, list) else v for k, v in saved["position"].items()},
            "writers": [saved["writers"][run]],
        }
        checkpoint.save(results, Group((job,)), saved | part)
    checkpoint.remove(results, group)


def _fail(job: Job, group: Group, results: Path, error: Exception) -> RunEnded:
    """Record a run that raised. Its checkpoint and segments stay: tried again, it resumes from them."""
    text = failures.in_words(error)
    if Store(results).state(job.run_id).done:  # it was trained again, for a look
        written = failures.write_traceback(results, job.run_id, error)
        return RunEnded(job.run_id, State.failed, f"{text}; the run stays as it was; the whole traceback: {written}")
    path = failures.record(job, results, text, error)
    note = "; what was saved is kept" if checkpoint.exists(results, group) else ""
    return RunEnded(job.run_id, State.failed, f"{text}{note}; the whole traceback: {path}")
