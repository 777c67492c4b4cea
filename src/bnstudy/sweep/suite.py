"""Which sweeps make up a study of several, what they will cost together, and making them one after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bnstudy.analysis import report
from bnstudy.config import compose
from bnstudy.store import publishing, status
from bnstudy.store.jobs import jobs
from bnstudy.store.runs import Store
from bnstudy.sweep import budget, study


def members(suite: str) -> list[str]:
    """The sweeps that say they belong to the suite (`sweep.suites`), in its order. Raises ValueError for none."""
    suites = {name: said.get("suites", {}) for name, said in compose.headers().items()}
    found = {name: places[suite] for name, places in suites.items() if suite in places}
    if not found:
        known = ", ".join(sorted({name for places in suites.values() for name in places}))
        raise ValueError(f"suite {suite!r}: no sweep belongs to it; there are {known}")
    return sorted(found, key=lambda name: (found[name], name))


def run(
    suite: str, preset: str, overrides: Sequence[str], results: Path, workers: int | None, *, again: bool = False
) -> int:
    """Says what is to be made and about how long it takes, makes it, draws the report. Exit status 1 if a run failed.

    Overrides that ask for other runs than the preset have their tables, and so their report, in the custom workspace;
    where that is so for some of the sweeps only, both are drawn.

    A sweep in which a run failed does not keep the next from being made; one that was interrupted goes on where it was.
    Where the time is spent, says what is left of the suite, too.
    """
    names = members(suite)
    print(estimate(suite, names, preset, overrides, results, again=again), flush=True)
    codes = []
    for place, name in enumerate(names):
        try:
            codes.append(study.sweep(name, preset, overrides, results, workers, again=again))
        except budget.Spent as spent:
            waiting = study.left(names[place + 1 :], names, preset, overrides, results, workers, again=again)
            raise budget.Spent(f"{spent}{waiting}") from None
    workspaces = [study.workspace_of(name, preset, overrides, results) for name in names]
    return max(*codes, *(report.make(workspace, html=True) for workspace in dict.fromkeys(workspaces)))


def estimate(
    suite: str, names: Sequence[str], preset: str, overrides: Sequence[str], results: Path, *, again: bool = False
) -> str:
    """A line a sweep and their sum: runs in all and to make, minutes on two CPU cores as the sweeps' files say.

    What is published is not to make, unless it is trained `again`; a run that several sweeps ask for is to make in the
    first alone.
    """
    store = Store(results)
    lines, total, untold = [], 0.0, []
    counted: set[str] = set()
    for name in names:
        configs = compose.expand(name, preset, overrides)
        wanted = jobs(configs)
        waiting = {job.run_id for job in wanted if not status.of(job, store, verify=False).done} - counted
        waiting -= set() if again else publishing.load(results, name).ids(wanted)
        counted |= waiting
        pending = len(waiting)
        minutes = configs[0].sweep.minutes.get(preset)
        if minutes is None:
            untold.append(name)
        else:
            total += minutes * pending / len(wanted)
        told = "unknown" if minutes is None else f"{minutes * pending / len(wanted):.1f} min"
        lines.append(f"  {name:32} {len(wanted):4} runs, {pending:4} to make {told:>10}")
    also = f", and what {', '.join(untold)} takes" if untold else ""
    head = f"{suite} ({preset}): {len(names)} sweeps, about {total:.0f} minutes on two CPU cores{also}"
    return "\n".join([head, *lines])
