"""Extend a sweep's grid by the runs of its search, which narrows down in each cell where training ends.

A cell is the runs that differ in the searched value alone. The runs that it asks for follow from the runs that are
done, and from nothing else: a search resumes by asking the store again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bnstudy.analysis import bracket
from bnstudy.config.identity import canonical, network
from bnstudy.config.schema import Config, from_dict, to_dict
from bnstudy.store import reduction, status
from bnstudy.store.jobs import Job
from bnstudy.store.publishing import NOTHING, Published
from bnstudy.store.runs import Store


@dataclass(frozen=True)
class Reach:
    """The jobs that a sweep asks for so far, and how many more will follow, at least and at most."""

    jobs: tuple[Job, ...]
    at_least: int = 0
    at_most: int = 0
    largest: tuple[tuple[str, bracket.Bracket], ...] = ()  # searched values that train, of the cells that are done

    @property
    def more(self) -> str:
        """The number of jobs that are not known yet, in words; empty where all are."""
        if not self.at_most:
            return ""
        return f"{self.at_most}" if self.at_least == self.at_most else f"{self.at_least} to {self.at_most}"


def reach(grid: Sequence[Job], store: Store, published: Published = NOTHING) -> Reach:
    """The jobs that a sweep asks for: its grid and, where it searches, what follows from outcomes that are known.

    These are the outcomes in the store, and those that are published.
    """
    search = grid[0].config.sweep.search
    axis, factor = search.axis, search.factor
    if axis is None:
        return Reach(tuple(grid))
    lowest = min(value_at(job.config, axis) for job in grid)
    cells: dict[str, list[Job]] = {}
    for job in grid:
        alike = _with(job, axis, lowest)
        cells.setdefault(canonical(alike.config, alike.source.identity), []).append(job)
    jobs, at_least, at_most, largest = list(grid), 0, 0, []
    for cell in cells.values():
        outcomes = _Cell({value_at(job.config, axis): job for job in cell}, axis, store, published)
        tried = bracket.search(tuple(outcomes.jobs), factor, outcomes.outcome)
        jobs += list(outcomes.jobs.values())[len(cell) :]
        least, most = bracket.still(tried, factor)
        at_least, at_most = at_least + least, at_most + most
        ended = {value: outcome for value, outcome in tried.items() if outcome is not None}
        if len(ended) == len(tried):
            works = "learns" if grid[0].config.sweep.outcome_by == "losses" else "trains"
            largest.append((f"{_name(cell[0].config)}, largest {axis} that {works}", bracket.of(ended)))
    return Reach(tuple(jobs), at_least, at_most, tuple(largest))


@dataclass(frozen=True)
class _Cell:
    """The jobs of one cell by searched value; `outcome` adds those that the search asks for."""

    jobs: dict[float, Job]
    axis: str
    store: Store
    published: Published

    def outcome(self, value: float) -> str | None:
        if value not in self.jobs:
            self.jobs[value] = _with(next(iter(self.jobs.values())), self.axis, value)
        job = self.jobs[value]
        now = status.of(job, self.store, verify=False)
        if now.state.done and not now.changed:
            manifest = self.store.manifest(job.run_id)
            return reduction.outcome(self.store, job.run_id, manifest, job.config.sweep.outcome_by)
        return self.published.outcome(job)


def _name(config: Config) -> str:
    return f"{network(config)}-{config.norm['name']}-s{config.seed}"


def value_at(config: Config, axis: str) -> float:
    """The number that a run has at a key, such as optim.lr."""
    values: Any = to_dict(config)
    for key in axis.split("."):
        values = values[key]
    return float(values)


def _with(job: Job, axis: str, value: float) -> Job:
    values = to_dict(job.config)
    *path, leaf = axis.split(".")
    inner = values
    for key in path:
        inner = inner[key]
    inner[leaf] = value
    return replace(job, config=from_dict(values))
