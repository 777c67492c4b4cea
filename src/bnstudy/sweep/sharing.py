"""Several launchers on the same runs share the work: what others make is left to them, waited for, and told as made."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnstudy.store import locks
from bnstudy.store.jobs import Group, Job
from bnstudy.store.runs import Ending, State, Store
from bnstudy.sweep import launch
from bnstudy.sweep.launch import ELSEWHERE, Ended
from bnstudy.sweep.plan import plan
from bnstudy.tracking.sinks.console import Progress

POLL_SEC = 0.5  # between looks at what others make


def make(wanted: Sequence[Job], pending: set[str], results: Path, workers: int, progress: Progress) -> list[Ended]:
    """How each pending run ended, here or elsewhere; returns once every one has.

    A run whose process dies is taken up by whichever launcher looks next; by none is it tried twice.
    """
    store, jobs = Store(results), {job.run_id: job for job in wanted}
    endings = {run_id: store.ending(run_id) for run_id in pending}
    # Of workers and not of what is left to run: a sweep that goes on rounds as it did before.
    threads = wanted[0].config.runtime.threads or max(1, launch.cores() // workers)
    left, ended, fallen = set(pending), list[Ended](), dict[str, str]()
    while True:
        holders = {run_id: holder for run_id in sorted(left) if (holder := locks.holder(results, run_id)) is not None}
        for run_id in sorted(left - holders.keys()):  # who lets go of a run has ended it, or leaves it to us
            end = launch.ended(jobs[run_id], store, endings[run_id])
            if end is not None:
                end = *end[:2], f"{end[2]} ({locks.ELSEWHERE})" if end[2] else locks.ELSEWHERE
            elif run_id in fallen:
                end = run_id, str(State.partial), fallen[run_id]
            if end is not None:
                ended.append(end)
                left.discard(run_id)
        if not left:
            progress.update(len(ended))
            return ended
        ours = left - fallen.keys()
        groups = plan(wanted, ours, results, workers) if ours - holders.keys() else []
        free = [group for group in groups if not any(job.run_id in holders for job in group.jobs)]
        if not free:
            others = ", ".join(sorted({str(holder) for holder in holders.values()}))
            progress.update(len(ended), f"{len(holders)} are trained by {others}")
            time.sleep(POLL_SEC)
            continue
        for run_id, state, note in _launch(free, results, workers, threads, progress, len(ended), endings):
            if state == State.partial:
                fallen[run_id] = note
            elif state != ELSEWHERE:
                ended.append((run_id, state, note))
                left.discard(run_id)


def _launch(
    groups: Sequence[Group],
    results: Path,
    workers: int,
    threads: int,
    progress: Progress,
    before: int,
    endings: Mapping[str, Ending | None],
) -> list[Ended]:
    workers = min(workers, len(groups))
    share = [math.nan for _ in groups]  # NaN: not begun in this process
    over = set[int]()

    def show(group: int, done: int, total: int, ended: list[Ended]) -> None:
        if ended and not any(state == ELSEWHERE for _, state, _ in ended):
            over.add(group)
        now = 1.0 if group in over else done / max(total, 1)
        if math.isnan(share[group]) and not ended:
            progress.resumed(now * len(groups[group].jobs))
        share[group] = now
        made = sum(s * len(g.jobs) for s, g in zip(share, groups, strict=True) if not math.isnan(s))
        whole = before + sum(len(groups[index].jobs) for index in over)
        progress.update(before + made, f"{workers} processes of {threads} threads", whole=whole)

    return launch.launch(groups, results, workers=workers, threads=threads, report=show, endings=endings)
