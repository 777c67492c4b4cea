"""A sweep's published tables as a source of runs: which are done, what they say, and how new seeds join them."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bnstudy.config import component_files
from bnstudy.config.schema import ProbePlan, Sweep, resolved, resolved_plan
from bnstudy.store import files, paths, reduction, status
from bnstudy.store.cache import Cache
from bnstudy.store.jobs import Job
from bnstudy.store.reduction import RUNS
from bnstudy.store.runs import State, Store
from bnstudy.store.status import Status, look_key

# What differs between two trainings of one run that end in the same bits.
CIRCUMSTANCES = {"commit", "commits", "dirty", "code", "looks", "data_title"}
CIRCUMSTANCES |= {"device", "threads", "num_runs", "kernels", "wall_sec", "probe_share"}
TIMES = ("throughput",)  # tables that tell time
UNSEEN = (RUNS, *component_files.OF_TRAINING)  # tables that are no probe's


@dataclass(frozen=True)
class Published:
    """Rows of the table `runs` by run id, and the other tables, as they are published; empty where none are."""

    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    as_planned: bool = True  # whether what does not record its looks was looked at as asked for
    elsewhere: frozenset[str] = frozenset()  # those of `runs` that other sweeps have published (`sweep.runs_of`)

    def done(self, job: Job) -> bool:
        """Whether the run that the job asks for is published, with every table that its sweep publishes of it.

        Raises ValueError where the run of this name was published with another configuration or other data.
        """
        now = self.compare(job)
        return now is not None and now.done

    def compare(self, job: Job) -> Status | None:
        """What the published run lacks to be the one that the job asks for; None where it is not published.

        Raises ValueError as `done`.
        """
        row = self.runs.get(job.run_id)
        if row is None or not _ended(row):
            return None
        _check_identity(job, row)
        tables = job.config.sweep.tables
        looked = [name for name in job.config.probes if tables is None or name in tables]
        lacking = tuple(name for name in looked if not self._holds(row, name, job.config.probes[name]))
        changed = status.changed_code(job.config, json.loads(row.get("code") or "{}"))
        return Status(State(row["status"]), lacking, changed)

    def ids(self, jobs: Iterable[Job]) -> set[str]:
        """The run ids of those of the jobs that are published."""
        return {job.run_id for job in jobs if self.done(job)}

    def outcome(self, job: Job) -> str | None:
        """What became of the run; None where it is not published, or makes no update."""
        outcome: str | None = self.runs[job.run_id]["outcome"] if self.done(job) else None
        return outcome

    def rows(self, run_ids: Collection[str]) -> dict[str, pa.Table]:
        """The tables, `runs` among them, with the rows of these runs alone."""
        runs = [row for run_id, row in self.runs.items() if run_id in run_ids]
        tables = reduction.chosen(self.tables, run_ids)
        return tables | ({RUNS: reduction.runs_table(runs)} if runs else {})

    def keeping(self, rows: Mapping[str, str]) -> Published:
        """The same with the rows alone that the sweep keeps now (`sweep.rows`), which may be fewer than it kept."""
        tables = {name: reduction.filtered(table, name, rows.get(name)) for name, table in self.tables.items()}
        return replace(self, tables=tables)

    def _holds(self, row: Mapping[str, Any], probe: str, plan: ProbePlan) -> bool:
        """Whether the probe has looked at the published run as planned."""
        if (looks := row.get("looks")) is not None:
            return look_key(probe, resolved_plan(probe, plan)) in json.loads(looks)
        # Tables of earlier releases do not record the plan: an option that it did not set had its reference.
        if not self.as_planned or status.has_changed_default(probe, plan):
            return False
        return row["status"] == State.diverged or row["run_id"] in self._with_rows(probe)

    def _with_rows(self, table: str) -> set[str]:
        return reduction.run_ids_of(self.tables[table]) if table in self.tables else set()


NOTHING = Published()


BRIEF = (
    *("network", "precision", "data", "norm", "batch_size", "num_steps", "num_runs", "wall_sec", "probe_share"),
    *("looks", "device", "status"),
)


def brief(results: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """A few facts of the published runs that are done, by sweep and run id; cached while the tables are unchanged.

    Raises ValueError where a table cannot be read.
    """
    cache, facts, fresh = Cache(results), dict[str, dict[str, dict[str, Any]]](), dict[str, tuple[str, Any]]()
    known = cache.read("published")
    for folder in paths.sweeps(paths.workspace(results, None)):
        sweep = folder.name
        path = next((path for path in files.current(folder) if path.name == f"{RUNS}.parquet"), None)
        if path is None:
            continue
        stat = path.stat()
        stamp = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino} {' '.join(BRIEF)}"
        before, value = known.get(sweep, ("", ""))
        if before == stamp:
            facts[sweep] = json.loads(value)
            continue
        rows = {row["run_id"]: row for row in _read(path, folder).to_pylist() if _ended(row)}
        # Of runs that were published without their looks, the tables tell what looked.
        looks = {"looks": json.dumps(sorted(each.stem for each in files.current(folder) if each.stem not in UNSEEN))}
        facts[sweep] = {run_id: {key: row.get(key) or looks.get(key) for key in BRIEF} for run_id, row in rows.items()}
        fresh[sweep] = stamp, facts[sweep]
    if fresh:
        cache.write("published", fresh)
    return facts


def load(results: Path, sweep: str, overrides: Sequence[str] = (), settings: Sweep | None = None) -> Published:
    """What is published of the sweep, to be compared with its jobs under these overrides.

    With `settings`, runs of the sweeps that these name (`sweep.runs_of`), too. Raises ValueError where a table cannot
    be read.
    """
    runs, tables = _published(results, sweep)
    elsewhere = {} if settings is None else _elsewhere(results, settings)
    as_planned = not any(text.lstrip("+~").startswith("probes") for text in overrides)
    every = elsewhere | runs
    return Published(every, tables, as_planned, frozenset(elsewhere.keys() - runs.keys())) if every else Published()


def _published(results: Path, sweep: str) -> tuple[dict[str, dict[str, Any]], dict[str, pa.Table]]:
    """The rows of the table `runs`, by run id, and the other tables."""
    tables = tables_in(paths.tables(paths.workspace(results, None), sweep))
    return {row["run_id"]: row for row in tables.pop(RUNS).to_pylist()} if RUNS in tables else {}, tables


def _elsewhere(results: Path, settings: Sweep) -> dict[str, dict[str, Any]]:
    """The published runs of the sweeps that this one names, their outcomes judged as it judges them."""
    elsewhere: dict[str, dict[str, Any]] = {}
    for sweep in settings.runs_of:
        runs, tables = _published(results, sweep)
        if settings.outcome_by == "losses":
            steps = reduction.by_run(tables["steps"]) if "steps" in tables else {}
            runs = {run_id: row for run_id, row in runs.items() if _has_losses(row, steps.get(run_id))}
            for run_id, row in runs.items():
                row["outcome"], row["last_loss"] = reduction.by_losses(row["outcome"], steps[run_id])
        else:  # what losses have judged has no other outcome
            runs = {run_id: row for run_id, row in runs.items() if row.get("last_loss") is None}
        elsewhere |= runs
    return elsewhere


def _has_losses(row: Mapping[str, Any], steps: pa.Table | None) -> bool:
    """Whether the published table `steps` has the loss of every update of the run, of which it may keep a part."""
    if steps is None or row["outcome"] is None:
        return False
    return row["status"] == State.diverged or steps.num_rows == row["num_steps"]


def tables_in(folder: Path) -> dict[str, pa.Table]:
    """The reduced tables of a folder, by name. Raises ValueError where one cannot be read."""
    return {path.stem: _read(path, folder) for path in files.current(folder) if path.suffix == ".parquet"}


def missed(job: Job, store: Store, published: Published) -> str:
    """Why the published run, or one of the same overrides before a default changed, does not count as the run."""
    if (there := published.compare(job)) is not None:
        keeps = f" {status.KEEPS}" if there.changed else ""
        return f"published, but {there.why}: it is trained{keeps}" if there.why else ""
    for name, changed in status.former(job).items():
        done = store.state(name, verify=False).done
        if done or name in published.runs:
            where = "there" if done else "published"
            return f"not the run {name}, which is {where}, as a default changed ({changed}): it is trained"
    return ""


def _read(path: Path, folder: Path) -> pa.Table:
    try:
        with pa.OSFile(str(path)) as file:  # a path would be read as an address
            return pq.read_table(file, page_checksum_verification=True).replace_schema_metadata(None)
    except (OSError, ValueError, pa.ArrowException) as error:
        why = f"{path} cannot be read ({type(error).__name__})"
        raise ValueError(f"{why}: git restores it; without it, remove the folder {folder}") from None


@dataclass(frozen=True)
class Choice:
    """Which of a sweep's runs are to be published, and from where."""

    earlier: frozenset[str]  # as they are published already
    new: frozenset[str]  # from their raw runs
    seeds: tuple[int, ...]  # that are in, whole
    missing: Mapping[int, int]  # seed -> how many of its runs are neither done nor published
    published: frozenset[str]  # all that are published already
    other: Mapping[str, str]  # those that stay as they are though the sweep would train them anew -> why


def choose(jobs: Sequence[Job], done: Collection[str], published: Published, *, replace: bool) -> Choice:
    """The runs to publish: published ones that the sweep asks for, and raw runs of the seeds that are whole.

    With `replace` a raw run takes the place of the published one. Raises ValueError where something is published that
    the sweep does not ask for, unless `replace` drops that.
    """
    requested = {job.run_id for job in jobs}
    if (strangers := sorted(published.runs.keys() - published.elsewhere - requested)) and not replace:
        changed = [why for job in jobs for name, why in status.former(job).items() if name in published.runs]
        why = f", as a default changed ({changed[0]})" if changed else ""
        raise ValueError(
            f"{len(strangers)} published runs, {strangers[0]} among them, are not asked for by this preset of the "
            f"sweep{why}: they would be mixed with others; REPLACE=1 (--replace) drops them"
        )
    there = {job.run_id: now for job in jobs if (now := published.compare(job)) is not None}
    missing: dict[int, int] = {job.config.seed: 0 for job in jobs}
    for job in jobs:
        missing[job.config.seed] += job.run_id not in there and job.run_id not in done
    whole = {job.run_id for job in jobs if not missing[job.config.seed]}
    new = {run_id for run_id in whole & set(done) if replace or run_id not in there or not there[run_id].done}
    seeds = tuple(sorted(seed for seed, count in missing.items() if not count))
    earlier = frozenset(name for name in there.keys() - new if name in whole or name not in published.elsewhere)
    other = {run_id: there[run_id].why for run_id in sorted(earlier) if not there[run_id].done}
    return Choice(
        earlier, frozenset(new), seeds, {s: n for s, n in sorted(missing.items()) if n}, frozenset(there), other
    )


def differences(ours: Mapping[str, pa.Table], published: Published, run_ids: Iterable[str]) -> dict[str, str]:
    """The runs whose published rows differ from those of the raw run, each with the first difference.

    `ours` are tables of the raw runs, reduced. Circumstances (commit, machine, time) do not count, nor does a table or
    a column that only one side has: a later version may have added it.
    """
    differing = dict[str, str]()
    rows = {row["run_id"]: row for row in ours[RUNS].to_pylist()}
    for run_id in sorted(run_ids):
        mine, theirs = rows[run_id], published.runs[run_id]
        columns = [name for name in theirs if name in mine and name not in CIRCUMSTANCES]
        if other := [name for name in columns if not _equal(mine[name], theirs[name])]:
            differing[run_id] = f"{other[0]}: {theirs[other[0]]} published, {mine[other[0]]} now"
    for name in sorted((ours.keys() & published.tables.keys()) - {RUNS, *TIMES}):
        mine, theirs = (reduction.by_run(tables[name]) for tables in (ours, published.tables))
        for run_id in sorted(set(run_ids) - differing.keys()):
            left, right = mine.get(run_id), theirs.get(run_id)
            if left is None or right is None:
                if left is not right:
                    differing[run_id] = f"rows of {name} {'now' if right is None else 'published'} alone"
            elif left.num_rows != right.num_rows:
                differing[run_id] = f"{name}: {right.num_rows} rows published, {left.num_rows} now"
            elif other := [c for c in right.column_names if c in left.column_names and not _same(left[c], right[c])]:
                differing[run_id] = f"values of {name}.{other[0]}"
    return differing


def _ended(row: Mapping[str, Any]) -> bool:
    return row["status"] in (State.completed, State.diverged)


def _check_identity(job: Job, row: Mapping[str, Any]) -> None:
    expected = reduction.config_columns(resolved(job.config))
    for key, value in (expected | {"data_sha256": job.source.sha256}).items():
        known = row.get(key) is not None  # an option that was introduced since has no value there
        if known and not _equal(_plain(value, row[key]), row[key]):
            raise ValueError(
                f"the published run {row['run_id']} has another configuration than the run of this name: {key} = "
                f"{row[key]} published, {value} asked for; AGAIN=1 (--again) trains it"
            )


def _plain(value: Any, like: Any) -> Any:
    """A value as its column holds it: options of several kinds are text there."""
    return str(value) if isinstance(like, str) and value is not None and not isinstance(value, str) else value


def _equal(one: Any, other: Any) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return bool(one == other) or both_nan


def _same(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """Value by value; NaN is itself, and a type that was promoted since is no difference."""
    return all(_equal(a, b) for a, b in zip(one.to_pylist(), other.to_pylist(), strict=True))
