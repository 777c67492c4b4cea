"""The runs that searches have asked for so far, of sweeps that are known by their grids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bnstudy.config import compose
from bnstudy.store import publishing
from bnstudy.store.jobs import jobs
from bnstudy.store.runs import Store
from bnstudy.sweep import search
from bnstudy.sweep.specs import RunSpec, SweepSpec, of_job


def add(runs: dict[SweepSpec, list[RunSpec]], overrides: Sequence[str], results: Path) -> dict[SweepSpec, str]:
    """Add to the runs of each sweep those that its search asks for so far; return what to say where more may follow.

    A sweep whose grid is another one now, or has no data, keeps its runs: what its search asks for is not known.
    """
    headers, following = compose.headers(), dict[SweepSpec, str]()
    for spec, known in runs.items():
        if not headers.get(spec.sweep, {}).get("search") and not any("search" in text for text in spec.overrides):
            continue
        try:
            configs = compose.expand(spec.sweep, spec.preset, [*overrides, "runtime.download=false", *spec.overrides])
            grid = jobs(configs)
            if {job.run_id for job in grid} != {run.run_id for run in known}:
                following[spec] = "; its grid is another one now, and the runs of its search are not known"
                continue
            published = publishing.load(results, spec.sweep, spec.overrides, configs[0].sweep)
            reached = search.reach(grid, Store(results), published)
        except ValueError as error:  # no data, or overrides of another version
            following[spec] = f"; the runs of its search are not known: {str(error).splitlines()[0]}"
            continue
        runs[spec] = [*known, *map(of_job, reached.jobs[len(grid) :])]
        if reached.more:
            following[spec] = f"; its search follows ({reached.more} more runs)"
    return following
