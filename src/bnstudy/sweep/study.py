"""The commands that train: one run, a sweep, a suite of sweeps, the main job, what failed before."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bnstudy.config import compose, errors, project
from bnstudy.config.schema import Config, Sweep, from_dict
from bnstudy.store import devices, files, index, paths, publishing, status
from bnstudy.store.jobs import Job, jobs, under_way
from bnstudy.store.publishing import NOTHING
from bnstudy.store.runs import State, Store, looks_of
from bnstudy.store.status import Look
from bnstudy.sweep import pool, preview, rounds, search, tables
from bnstudy.sweep.launchers import LOCAL, Launcher
from bnstudy.sweep.plan import plan
from bnstudy.sweep.preview import Show
from bnstudy.sweep.specs import HOW, remember, remembered
from bnstudy.tracking.console import Progress
from bnstudy.tracking.sync import log_figures
from bnstudy.training import imports, signals

REPRODUCE = ("init", "lenet_lr_grid")  # what `make reproduce` trains, in this order


def train_one(config: Config, results: Path, *, show: Show = Show.nothing, yes: bool = False) -> int:
    """Train one run in this process, with all cores. Exit status 0, also for a run that diverged.

    Raises ValueError for more than a day of work, unless `yes`.
    """
    (job,) = jobs([config])
    if show == Show.configurations:
        return preview.print_configurations([job])
    if show == Show.runs:
        return preview.dry_run("", [job], results)
    store = Store(results)
    now = status.of(job, store)
    rounds.explain([job], {job.run_id: now}, store)
    if now.done:
        print(f"{job.run_id}: {now.state} already, in {paths.run(results, job.run_id)}{_outcome(store, job.run_id)}")
        return 0
    preview.announce("", [job], results, yes=yes)
    if now.state == State.partial:
        print(f"{job.run_id}: begun before; it resumes from its last checkpoint, if it came to one")
    (group,) = plan([job], {job.run_id}, results, workers=1)
    threads = config.runtime.threads or devices.cores()
    pool.use_threads(threads)
    imports.load()  # and with it torch, which reads the environment
    from bnstudy.training import preflight, runner

    preflight.check([job])
    stop = signals.Stop(ends_process=True)
    try:
        with stop.listening(), Progress(job.run_id) as progress:
            (ended,) = runner.train_group(group, results, threads=threads, report=progress.step, stop=stop)
            if ended.done:  # without an update, or before the last one
                progress.update(1)
            progress.close(f"{ended.state} {ended.note}".strip())
    except signals.Interrupted:
        raise KeyboardInterrupt from None
    print(f"{job.run_id}: {ended.state}, in {paths.run(results, job.run_id)}{_outcome(store, ended.run_id)}")
    return int(ended.state == State.failed)


def sweep(
    name: str,
    preset: str,
    overrides: Sequence[str],
    results: Path,
    workers: int | None,
    launcher: Launcher = LOCAL,
    *,
    again: bool = False,
    named: str | None = None,
    show: Show = Show.nothing,
    yes: bool = False,
) -> int:
    """Train every run of a sweep that is not done, then reduce it. Exit status 1 if a run failed or did not end.

    Runs that are published are done, unless they are to be trained `again`. The tables go to the preset's workspace,
    or, where the overrides ask for other runs, to the custom one or to the one of the name `named`. Where the time is
    limited the sweep trains seed by seed, all arms of a seed together, so that finished seeds can be compared; when the
    time is spent, raises signals.Spent, which says what is left. Raises ValueError for more than a day of work on this
    machine, unless `yes`.
    """
    configs = compose.expand(name, preset, overrides)
    grid = rounds.with_threads(jobs(configs), results, workers, launcher)
    published = NOTHING if again else publishing.load(results, name, overrides, configs[0].sweep)
    if show == Show.configurations:
        return preview.print_configurations(grid)
    reached = search.reach(grid, Store(results), published)
    if show == Show.runs:
        processes = workers or rounds.processes(grid)
        return preview.dry_run(name, reached.jobs, results, processes, published, more=reached.more)
    workspace = tables.workspace_for(results, preset, {name: configs}, named)
    _check_folders(results, workspace, [name])
    print(compose.describe(name))
    remember(name, preset, overrides, grid, results, named)
    if launcher == LOCAL:
        preview.announce(name, reached.jobs, results, workers or rounds.processes(grid), published, yes=yes)
    failed = False
    try:
        for title, part in rounds.by_seed(named or name, grid, launcher):
            at_once = workers or rounds.at_once(part, results)
            failed |= rounds.train_sweep(title, part, results, at_once, launcher, published=published)[1]
    except signals.Spent as spent:
        waiting = preview.left([name], preset, overrides, results, workers, again=again)
        raise signals.Spent(f"{spent}{waiting}") from None
    finally:
        remember(name, preset, overrides, grid, results, named)  # of a new folder, too
    if not launcher.wait:
        return 0
    every = search.reach(grid, Store(results), published).jobs
    print(f"tables: {tables.reduce(name, workspace, configs, every, results, published)}")
    chosen = f"NAME={named}" if named else f"PRESET={workspace.name}"
    print(f"to draw them: make report {chosen}{project.elsewhere(results)}")
    return int(failed)


def _check_folders(results: Path, workspace: Path, sweeps: Iterable[str]) -> None:
    """Raises, before anything is trained, where results or tables could not be written."""
    Store(results)  # refuses what is no folder
    for name in sweeps:
        files.check_writable(paths.tables(workspace, name))


def members(suite: str) -> list[str]:
    """The sweeps that say they belong to the suite (`sweep.suites`), in its order. Raises ValueError for none."""
    suites = {name: header.get("suites", {}) for name, header in compose.headers().items()}
    places_in_suite = {name: places[suite] for name, places in suites.items() if suite in places}
    if not places_in_suite:
        known = ", ".join(sorted({name for places in suites.values() for name in places}))
        raise ValueError(f"suite {suite!r}: no sweep belongs to it; there are {known}")
    return sorted(places_in_suite, key=lambda name: (places_in_suite[name], name))


def suite(
    name: str,
    preset: str,
    overrides: Sequence[str],
    results: Path,
    workers: int | None,
    *,
    again: bool = False,
    show: Show = Show.nothing,
    yes: bool = False,
) -> int:
    """Print what is to be trained and about how long that takes, train it, draw the report. Exit status 1 if a run
    failed; the sweeps after it are trained all the same.

    Overrides that ask for other runs than the preset have their tables, and so their report, in the custom workspace;
    where that is so for some of the sweeps only, both are drawn. Raises ValueError for more than a day of work, unless
    `yes`; where the time is spent, signals.Spent with what is left of the suite.
    """
    from bnstudy.analysis import report

    names = members(name)
    text, sec = preview.suite_time(name, names, preset, overrides, results, workers, again=again)
    print(text, flush=True)
    if show != Show.nothing:
        return 0
    preview.check_length(sec, yes=yes)
    codes = []
    for place, member in enumerate(names):
        try:
            codes.append(sweep(member, preset, overrides, results, workers, again=again, yes=True))
        except signals.Spent as spent:
            waiting = preview.left(names[place + 1 :], preset, overrides, results, workers, again=again)
            raise signals.Spent(f"{spent}{waiting}") from None
    workspaces = [tables.workspace_of(member, preset, overrides, results) for member in names]
    return max(*codes, *(report.write(workspace, html=True) for workspace in dict.fromkeys(workspaces)))


def reproduce(preset: str, overrides: Sequence[str], results: Path, workers: int | None) -> int:
    """Run the main job, on synthetic images where a data set is not available: its results are then marked."""
    from bnstudy.analysis import report  # and with it matplotlib, which takes half a second that no run needs

    failed = False
    synthetic = set()
    sweeps = {name: compose.expand(name, preset, [*overrides, "runtime.synthetic=true"]) for name in REPRODUCE}
    workspace = tables.workspace_for(results, preset, sweeps)
    _check_folders(results, workspace, sweeps)
    for name, configs in sweeps.items():
        grid = rounds.with_threads(jobs(configs), results, workers)
        synthetic |= {job.source.name for job in grid if job.source.synthetic}
        if synthetic:
            print(_loud(synthetic))
        every, bad = rounds.train_sweep(name, grid, results, workers)
        failed |= bad
        tables.reduce(name, workspace, configs, every, results)
    failed |= bool(report.write(workspace, html=True))
    log_figures(workspace, results, mode=configs[0].tracking.mode, project=configs[0].tracking.project)
    if synthetic:
        print(_loud(synthetic))
    return int(failed)


def retry(sweep: str | None, overrides: Sequence[str], results: Path, workers: int | None) -> int:
    """Train the runs that failed, of one sweep or of all, once more, as they were, with the `runtime` and `tracking`
    that they had; the overrides change those. Exit status 1 if any failed.

    Raises ValueError for an override of anything else (with another value it is another run), and for a wrong one.
    """
    for text in overrides:
        if not text.lstrip("+").startswith(HOW):
            raise ValueError(f"{text}: a retry trains the very runs that failed; give only runtime.* and tracking.*")
    compose.one(overrides)  # raises for a wrong one, once
    failed = _failed(sweep, results)
    if not failed:
        print(f"no run{f' of {sweep}' if sweep else ''} has failed")
        return 0
    grid = _jobs_again(failed, overrides, results)
    bad = rounds.train_pending(f"retry{f' of {sweep}' if sweep else ''}", grid, results, workers) if grid else False
    trained = {job.run_id for job in grid}
    for spec, runs in remembered(results).items():
        if trained.intersection(run.run_id for run in runs or ()):
            file = [] if spec.sweep == compose.AD_HOC else [spec.sweep, "--preset", spec.preset]
            named = ["--name", spec.named] if spec.named else []
            place = [] if results == project.results() else ["--results", str(results)]
            own = [folder for folder in os.environ.get(project.COMPONENTS, "").split(os.pathsep) if folder]
            place += [word for folder in own for word in ("--components", folder)]
            print(f"for its tables: bnstudy sweep {shlex.join([*file, *named, *place, *spec.overrides])}")
    return int(bad or len(grid) < len(failed))


def _failed(sweep: str | None, results: Path) -> set[str]:
    """The runs that failed, of one sweep or of all, with those that ended beside them: they resume together."""
    store = Store(results)
    entries = index.entries(results, store.run_ids())
    failed = {run_id for run_id, entry in entries.items() if entry.state == State.failed}
    if sweep is not None:
        names = {*compose.sweeps(), *(entry.sweep for entry in entries.values() if entry.sweep)}
        if sweep not in names:
            raise ValueError(f"there is no sweep {sweep!r}; {errors.suggestions(sweep, sorted(names))}")
        failed = {run_id for run_id in failed if entries[run_id].sweep == sweep}
    for group in under_way(results).values():
        if failed.intersection(group):
            failed |= {run_id for run_id in group if store.ending(run_id) is not None}
    return failed


def _jobs_again(run_ids: Collection[str], overrides: Sequence[str], results: Path) -> list[Job]:
    """The jobs of runs that failed, with their data where they are looked for now, or else where they were; what cannot
    be trained any more is named with its reason.
    """
    again, reasons = list[Job](), dict[str, str]()
    missing: dict[tuple[str, str, bool, bool], str] = {}  # what `jobs` locates data by -> why there are none
    elsewhere = [text for text in overrides if not text.lstrip("+").startswith("runtime.data_root=")]
    for run_id in sorted(run_ids):
        try:
            manifest = Store(results).manifest(run_id)
            now, before = _again(manifest, overrides), _again(manifest, elsewhere)
        except ValueError as error:
            reasons[run_id] = str(error)
            continue
        there = [replace(each, runtime=replace(each.runtime, download=False)) for each in (now, before)]
        for config in (*there, now):  # nothing is downloaded that lies in either folder
            runtime = config.runtime
            place = config.data.name, runtime.data_root, runtime.synthetic, runtime.download
            same: list[Job] = []
            if place not in missing:
                try:
                    same = [job for job in jobs([config]) if job.run_id == run_id]
                except ValueError as error:
                    missing[place] = str(error)
            if same:
                here = replace(config, runtime=replace(runtime, download=now.runtime.download))
                again += [replace(job, config=here) for job in same]
                reasons.pop(run_id, None)
                break
            reasons.setdefault(run_id, missing.get(place, ""))
    for run_id in sorted(set(run_ids) - {job.run_id for job in again}):
        reason = reasons.get(run_id) or "its data, or an option's default, have changed"
        print(f"{run_id}: cannot be trained ({reason}); run its sweep, or: make clean-run ID={run_id}", file=sys.stderr)
    return again


def _again(manifest: Mapping[str, Any], overrides: Sequence[str]) -> Config:
    """The configuration of a manifest's run. Raises ValueError where it is no longer valid."""
    given = compose.one(overrides)
    how = manifest.get("how") or {"runtime": asdict(given.runtime), "tracking": asdict(given.tracking)}
    how = {section: dict(values) for section, values in how.items()}
    for text in overrides:
        section, _, key = text.lstrip("+").partition("=")[0].partition(".")
        how[section][key] = getattr(getattr(given, section), key)
    plans = {look.probe: look.plan for look in map(Look.of, looks_of(manifest).values())}
    config = from_dict({**manifest["config"], **how, "probes": {}})
    return replace(config, probes=plans, sweep=Sweep(name=manifest["sweep"]))


def _outcome(store: Store, run_id: str) -> str:
    final = store.manifest(run_id)["final"]
    accuracy = final.get("test_accuracy")
    return f"; test accuracy {100 * accuracy:.2f} %" if accuracy is not None else ""


def _loud(names: set[str]) -> str:
    bar = "!" * 100
    text = f"SYNTHETIC DATA in place of {', '.join(sorted(names))}, which could not be found or downloaded."
    return f"{bar}\n{text}\n{bar}"
