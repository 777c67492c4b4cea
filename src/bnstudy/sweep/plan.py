"""Which of a sweep's pending runs train side by side: the groups that are handed to processes or to a cluster."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bnstudy.config import plugins
from bnstudy.config.identity import canonical
from bnstudy.config.schema import Config, resolved_plan
from bnstudy.store import devices
from bnstudy.store.jobs import Group, Job, under_way

MAX_STACK = 10  # runs side by side: more share nothing that ten do not
MAX_STACK_CPU = 5  # five share the mini-batches as well, and more groups leave no core without work at the end


def plan(jobs: Sequence[Job], pending: set[str], results: Path, workers: int) -> list[Group]:
    """Groups that train every pending job once.

    Groups that were interrupted are resumed as they were. The others train side by side where they differ in the
    learning rate alone and `can_share_a_process` allows it; where there are fewer groups than workers the largest are
    halved, unless runtime.engine=stacked. Grouping affects speed only: except with that engine, a run has the bits that
    it has alone. Raises ValueError where runtime.engine asks for something impossible.
    """
    _check_stacked(jobs)
    interrupted = _interrupted(jobs, pending, results)
    resumed = {job.run_id for group in interrupted for job in group.jobs}
    alike: dict[str, list[Job]] = {}
    for job in {job.run_id: job for job in jobs if job.run_id in pending - resumed}.values():
        alike.setdefault(_alike(job) if can_share_a_process(job.config) else job.run_id, []).append(job)
    parts = [part for group in alike.values() for part in _divided(group)]
    return interrupted + [Group(tuple(part)) for part in _halved(parts, workers)]


def _interrupted(jobs: Sequence[Job], pending: set[str], results: Path) -> list[Group]:
    """The groups that have a checkpoint, if all of their runs are among `jobs`; each pending run is in one group."""
    by_id, groups, taken = {job.run_id: job for job in jobs}, list[Group](), set[str]()
    # The largest first: after a kill while a group was taken apart, the whole one is there beside the first parts.
    for members in sorted(under_way(results).values(), key=len, reverse=True):
        waiting = pending.intersection(members)
        if waiting and by_id.keys() >= set(members) and not waiting & taken:
            groups.append(Group(tuple(by_id[member] for member in members)))
            taken |= waiting
    return groups


def _divided(alike: list[Job]) -> list[list[Job]]:
    """As few groups as may be, their sizes equal or differing by one."""
    on_cpu = not _is_stacked(alike[0]) and not devices.on_gpu(alike[0].config.runtime.device)
    num_parts = -(-len(alike) // (MAX_STACK_CPU if on_cpu else MAX_STACK))
    ends = [len(alike) * part // num_parts for part in range(num_parts + 1)]
    return [alike[begin:end] for begin, end in itertools.pairwise(ends)]


def _halved(parts: list[list[Job]], workers: int) -> list[list[Job]]:
    """Halve the largest parts until there is one per worker, as far as possible."""
    while len(parts) < workers:
        halvable = [i for i, part in enumerate(parts) if len(part) > 1 and not _is_stacked(part[0])]
        if not halvable:
            break
        largest = max(halvable, key=lambda i: len(parts[i]))
        half = (len(parts[largest]) + 1) // 2
        parts[largest : largest + 1] = [parts[largest][:half], parts[largest][half:]]
    return parts


def can_share_a_process(config: Config) -> bool:
    """Whether runs of this configuration may train side by side, in lockstep, in one process.

    They may with runtime.engine=parallel, and unless it is plain also on a GPU and where the networks can be stacked
    (`plugins.stackable`). They may not where norm or network draws random numbers in training (`DRAWS = True` in its
    file): the draws would depend on the runs beside it. Raises ValueError where runtime.engine asks for it all the
    same, or for a stack of networks that do not stack.
    """
    model, norm, runtime = config.model["name"], config.norm["name"], config.runtime
    able = plugins.stackable(model, norm)
    if runtime.engine == "stacked" and not able:
        raise ValueError(f"runtime.engine = 'stacked': {model} with norm {norm} do not stack; use auto or parallel")
    if plugins.flag("norms", norm, "DRAWS") or plugins.flag("models", model, "DRAWS"):
        if runtime.engine in ("stacked", "parallel"):
            raise ValueError(
                f"runtime.engine = {runtime.engine!r}: {model} with norm {norm} draws random numbers, "
                f"which would depend on the runs beside it; use auto"
            )
        return False
    return runtime.engine == "parallel" or (runtime.engine != "plain" and (able or devices.on_gpu(runtime.device)))


def _check_stacked(jobs: Sequence[Job]) -> None:
    """Raises ValueError where runtime.engine=stacked asks for a run that cannot be stacked, or has no other beside it.

    All jobs count, not only the pending ones: the last run that is left of a stack may train alone.
    """
    stacked = [job for job in jobs if _is_stacked(job) and can_share_a_process(job.config)]
    alike = Counter(_alike(job) for job in stacked)
    for job in stacked:
        if alike[_alike(job)] == 1:
            raise ValueError(
                f"runtime.engine = 'stacked': no other run differs from {job.run_id} in optim.lr alone; use auto"
            )


def _is_stacked(job: Job) -> bool:
    return job.config.runtime.engine == "stacked"


def _alike(job: Job) -> str:
    """A key of what the runs of a group share: their configuration but for the learning rate, and their looks."""
    config = replace(job.config, optim=replace(job.config.optim, lr=0.0))
    plans = {name: resolved_plan(name, plan) for name, plan in config.probes.items()}
    return f"{canonical(config, job.source.identity)} {plans}"
