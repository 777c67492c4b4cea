"""The tables of a sweep: reduced from its runs into a workspace, and published from there."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from bnstudy.config import compose
from bnstudy.config.identity import canonical
from bnstudy.config.schema import Config, resolved
from bnstudy.store import files, locks, paths, publishing, reduction, status
from bnstudy.store.jobs import Job, jobs
from bnstudy.store.publishing import NOTHING, Published
from bnstudy.store.runs import Store
from bnstudy.sweep import search


def reduce(
    name: str,
    workspace: Path,
    configs: Sequence[Config],
    grid: Sequence[Job],
    results: Path,
    published: Published = NOTHING,
) -> Path:
    """Write the sweep's tables into a workspace, including rows that are only published; return the folder.

    All of them change as one, whenever a kill may come, and by one process at a time.
    """
    folder, store = paths.tables(workspace, name), Store(results)
    here = {job.run_id for job in grid if status.of(job, store).done}
    known = published.ids(grid) - here
    ours = [job for job in grid if job.run_id not in known]
    with locks.alone(paths.lock(results, f"tables-{name}")), files.replacing_all(folder) as staged:
        _reduce(configs[0], ours, staged, store, published.rows(known))
    return folder


def _reduce(like: Config, grid: Sequence[Job], folder: Path, store: Store, published: Mapping[str, pa.Table]) -> None:
    """Reduce these jobs' raw runs, as the sweep of the configuration says, and add what is published of others."""
    expected = {job.run_id: resolved(job.config) for job in grid}
    settings = like.sweep
    reduction.reduce(
        store,
        list(expected),
        folder,
        tables=settings.tables,
        rows=settings.rows,
        expected=expected,
        outcome_by=settings.outcome_by,
        looks={job.run_id: status.tables(job.config, store, job.run_id) for job in grid},
        published=published,
    )


def publish(name: str, overrides: Sequence[str], results: Path, *, replace: bool = False) -> int:
    """Add the seeds of a sweep that are whole, every run of them done, to its published tables, and draw those anew.

    Runs that are published already keep their rows, also where their raw runs are gone; `replace` takes the raw run
    instead where there is one. Raises ValueError for synthetic data, where no seed is whole, for overrides that make
    other runs than the preset full, where that lacks a published run, and where a raw run differs from what was
    published of it; locks.Locked where another process publishes the sweep.
    """
    from bnstudy.analysis import readme, report  # and with them scipy and matplotlib, which no run needs

    configs = compose.expand(name, paths.FULL, overrides)
    workspace = workspace_for(results, paths.FULL, {name: configs})
    if workspace.name == paths.CUSTOM:
        raise ValueError(f"{name}: only the preset {paths.FULL} is published, without overrides")
    with locks.hold(results, [f"publish-{name}"]):
        message = _publish(name, configs, workspace, results, replace=replace)
    print(message)
    code = report.write(paths.workspace(results, None), html=True)
    if paths.workspace(results, None).resolve() == (readme.README.parent / "results").resolve():
        readme.update(paths.workspace(results, None) / "claims.json")
    return code


def _publish(name: str, configs: Sequence[Config], workspace: Path, results: Path, *, replace: bool) -> str:
    """Publish, and return a message about it."""
    target, store = paths.tables(paths.workspace(results, None), name), Store(results)
    files.settle(target)
    published = publishing.load(results, name, settings=configs[0].sweep)
    grid = search.reach(jobs(configs), store, published).jobs
    synthetic = [job.source.name for job in grid if job.source.synthetic]
    if synthetic:
        raise ValueError(f"{name} ran on synthetic data ({synthetic[0]}): only real data is published")
    states = {job.run_id: status.of(job, store) for job in grid}
    done = {run_id for run_id, now in states.items() if now.done}
    choice = publishing.choose(grid, done, published, replace=replace)
    if not choice.earlier | choice.new:
        counted = Counter(" ".join((now.state, now.reason)).strip() for now in states.values())
        counts = ", ".join(f"{count} {text}" for text, count in counted.items())
        raise ValueError(f"{name} is not finished ({counts}); run: make sweep-{name} PRESET={paths.FULL}")
    if both := set() if replace else choice.published & done:
        with tempfile.TemporaryDirectory() as scratch:
            _reduce(configs[0], [job for job in grid if job.run_id in both], Path(scratch), store, {})
            ours = publishing.tables_in(Path(scratch))
        if other := publishing.differences(ours, published.keeping(configs[0].sweep.rows), both):
            lines = "\n".join(f"  {run_id}: {what}" for run_id, what in other.items())
            raise ValueError(f"{name}: raw runs differ from published ones; REPLACE=1 (--replace) takes them:\n{lines}")
    with files.replacing_all(target) as staged:
        new = [job for job in grid if job.run_id in choice.new]
        _reduce(configs[0], new, staged, store, published.rows(choice.earlier))
    reduce(name, workspace, configs, grid, results, published)
    missing = ", ".join(f"{seed} ({count} runs)" for seed, count in choice.missing.items())
    seeds, staying = ", ".join(map(str, choice.seeds)), Counter(choice.other.values())
    return (
        f"published {name} ({len(choice.earlier | choice.new)} runs): {target}\n"
        f"published seeds: {seeds} (n = {len(choice.seeds)}), {len(choice.new)} runs of them new"
        + (f"; missing, because some of their runs are not done: {missing}" if missing else "")
        + "".join(f"\n{count} runs stay as they are published: {why}" for why, count in staying.items())
    )


def workspace_for(results: Path, preset: str, sweeps: Mapping[str, Sequence[Config]], named: str | None = None) -> Path:
    """The workspace of the results named so, or the preset's if these are its runs, however they are trained; else the
    custom one, with a line about it.

    So trying other values never touches the tables that a preset's figures are drawn from.
    """
    if named:
        return paths.named(results, named)
    if all(_is_preset(name, preset, configs) for name, configs in sweeps.items()):
        return paths.workspace(results, preset)
    custom = paths.workspace(results, paths.CUSTOM)
    if compose.AD_HOC not in sweeps:
        print(f"the overrides ask for other runs than the preset {preset}: its tables stay, these go to {custom}")
    return custom


def workspace_of(name: str, preset: str, overrides: Sequence[str], results: Path) -> Path:
    """The workspace of a sweep with these overrides; prints nothing."""
    same = _is_preset(name, preset, compose.expand(name, preset, overrides))
    return paths.workspace(results, preset if same else paths.CUSTOM)


def _is_preset(name: str, preset: str, configs: Sequence[Config]) -> bool:
    """Whether these are the preset's runs, with the same tables."""
    if name == compose.AD_HOC:
        return False

    def essentials(configs: Sequence[Config]) -> tuple[object, ...]:
        identities = {f"{canonical(config, {})} {sorted(status.plan_keys(config))}" for config in configs}
        sweep = configs[0].sweep
        return identities, sweep.tables, sweep.rows, sweep.runs_of, sweep.search, sweep.outcome_by

    return essentials(configs) == essentials(compose.expand(name, preset, []))
