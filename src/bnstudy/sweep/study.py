"""What the commands do: train runs, reduce them to tables, publish tables. Composes the modules, decides little."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bnstudy.analysis import readme
from bnstudy.config import compose, project
from bnstudy.config.identity import canonical, changed_defaults, with_former_defaults
from bnstudy.config.schema import Config, Search, resolved
from bnstudy.store import devices, files, locks, paths, publishing, reduction, status
from bnstudy.store.jobs import Job, jobs
from bnstudy.store.publishing import NOTHING, Published
from bnstudy.store.runs import State, Store
from bnstudy.store.status import Status
from bnstudy.sweep import pool, preview, search, slurm
from bnstudy.sweep.launchers import LOCAL, Launcher
from bnstudy.sweep.plan import plan
from bnstudy.sweep.pool import Ended
from bnstudy.sweep.survey import Survey
from bnstudy.sweep.wanted import remember, wanted
from bnstudy.tracking.console import Progress
from bnstudy.tracking.sync import log_figures
from bnstudy.training import signals

REPRODUCE = ("init", "lenet_lr_grid")  # what `make reproduce` runs, in this order


class Look(StrEnum):
    """What a command shows in place of training."""

    no = "no"
    runs = "runs"
    configurations = "configurations"


def single(config: Config, results: Path, *, look: Look = Look.no, yes: bool = False) -> int:
    """Train one run in this process, with all cores. Exit status 0, also for a run that diverged.

    Raises ValueError for more than a day of work, unless `yes`.
    """
    (job,) = jobs([config])
    if look == Look.configurations:
        return preview.print_configurations([job])
    if look == Look.runs:
        return preview.dry_run("", [job], results)
    store = Store(results)
    now = status.of(job, store)
    _explain([job], {job.run_id: now}, store)
    if now.done:
        print(f"{job.run_id}: {now.state} already, in {paths.run(results, job.run_id)}{_outcome(store, job.run_id)}")
        return 0
    before = preview.progress_of("", [job], results)
    preview.check_length(before.sec, yes=yes)
    if before.time_left:
        print(f"{job.run_id}: {before.time_left}")
    (group,) = plan([job], {job.run_id}, results, workers=1)
    threads = config.runtime.threads or pool.cores()
    pool.prepare(threads)
    from bnstudy.training import preflight, runner  # and with it torch, which reads the environment

    preflight.check([job])
    stop = signals.Stop(ends_process=True)
    try:
        with stop.listening(), Progress(job.run_id) as progress:
            resumed = False

            def step_done(done: int, total: int) -> None:
                nonlocal resumed
                if not resumed:  # what a checkpoint had, if there was one
                    progress.resumed(done / total)
                    resumed = True
                progress.update(done / total, f"step {done} of {total}")

            (ended,) = runner.run(group, results, threads=threads, report=step_done, stop=stop)
            if ended.state.done:  # without an update, or before the last one
                progress.update(1)
            progress.close(f"{ended.state} {ended.note}".strip())
    except runner.Interrupted:
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
    look: Look = Look.no,
    yes: bool = False,
) -> int:
    """Train every run of a sweep that is not done, then reduce it. Exit status 1 if a run failed or did not end.

    Runs that are published are done, unless they are to be trained `again`. The tables go to the preset's workspace,
    or, where these are other runs, to the custom one, or to that of the results that are `named` so.
    Where the time is limited it goes seed by seed, all arms of a seed together, so that what is done then can be
    compared; when it is spent, raises signals.Spent, which says what is left.
    Raises ValueError for more than a day of work on this machine, unless `yes`.
    """
    configs = compose.expand(name, preset, overrides)
    grid = with_threads(jobs(configs), results, workers, launcher)
    published = NOTHING if again else publishing.load(results, name)
    if look == Look.configurations:
        return preview.print_configurations(grid)
    if look == Look.runs:
        return preview.dry_run(name, grid, results, workers or _processes(grid), published)
    workspace = _workspace(results, preset, {name: configs}, named)
    Store(results)  # refuses what is no folder
    files.check_writable(paths.tables(workspace, name))
    print(compose.describe(name))
    remember(name, preset, overrides, grid, results)
    if launcher == LOCAL:
        progress = preview.progress_of(name, grid, results, workers or _processes(grid), again=again)
        preview.check_length(progress.sec / progress.processes, yes=yes)
        if progress.time_left:
            print(f"{name}: {progress.time_left}")
    failed = False
    try:
        for title, part in _seed_by_seed(name, grid) if signals.limited() and launcher == LOCAL else [(name, grid)]:
            at_once = workers or _at_once(part, results)
            failed |= train_all(title, part, results, at_once, launcher, published=published)[1]
    except signals.Spent as spent:
        waiting = left([name], preset, overrides, results, workers, again=again)
        raise signals.Spent(f"{spent}{waiting}") from None
    finally:
        remember(name, preset, overrides, grid, results)  # of a new folder, too
    if not launcher.wait:
        return 0
    every = search.reach(grid, Store(results), published).jobs
    print(f"tables: {reduce(name, workspace, configs, every, results, published)}")
    options = shlex.quote(f"--results={shlex.quote(str(results))}".replace("$", "$$"))
    elsewhere = "" if results == project.results() else f" ARGS={options}"
    how = f"NAME={named}" if named else f"PRESET={workspace.name}"
    print(f"to draw them: make report {how}{elsewhere}")
    return int(failed)


def left(
    names: Sequence[str],
    preset: str,
    overrides: Sequence[str],
    results: Path,
    workers: int | None,
    *,
    again: bool = False,
) -> str:
    """A line for each of these sweeps that is not done: how far it is, and how long it still takes."""
    runs = {name: wanted(name, preset, overrides, results) for name in names}
    survey, headers, lines = Survey.of(results, (run for each in runs.values() for run in each)), compose.headers(), []
    for name in names:
        progress = survey.progress(name, runs[name], processes=workers, again=again)
        if progress.pending:
            then = "; its search follows" if headers.get(name, {}).get("search") else ""
            lines.append(f"\n{name:24} {progress}{then}")
    return "".join(lines)


def _seed_by_seed(name: str, grid: Sequence[Job]) -> list[tuple[str, list[Job]]]:
    seeds = sorted({job.config.seed for job in grid})
    return [(f"{name}, seed {seed}", [job for job in grid if job.config.seed == seed]) for seed in seeds]


def with_threads(
    grid: Sequence[Job], results: Path, workers: int | None = None, launcher: Launcher = LOCAL
) -> list[Job]:
    """The jobs, each with its number of CPU threads: the cores shared out among the processes that a whole grid has.

    Bits depend on that number, so that it must not depend on what is left of the grid. It stays as it is where
    runtime.threads says it, and on a cluster, whose launcher does.
    """
    if launcher != LOCAL:
        return list(grid)
    processes = min(workers or _at_once(grid, results) or _processes(grid), len(grid))
    threads = max(1, pool.cores() // processes)
    return [
        job
        if job.config.runtime.threads
        else replace(job, config=replace(job.config, runtime=replace(job.config.runtime, threads=threads)))
        for job in grid
    ]


def _processes(jobs: Sequence[Job]) -> int:
    """How many processes train at a time on this machine, where --jobs is not given."""
    on_gpu = devices.on_gpu(jobs[0].config.runtime.device)
    return max(1, devices.gpus()) if on_gpu else pool.cores()


def _at_once(part: Sequence[Job], results: Path) -> int | None:
    """How many processes, where --jobs is not given and time is limited: on a GPU so many that all arms train."""
    if not signals.limited() or not devices.on_gpu(part[0].config.runtime.device):
        return None
    return max(devices.gpus(), len(plan(part, {job.run_id for job in part}, results, workers=1)))


def train_all(
    name: str,
    grid: Sequence[Job],
    results: Path,
    workers: int | None,
    launcher: Launcher = LOCAL,
    *,
    published: Published = NOTHING,
) -> tuple[tuple[Job, ...], bool]:
    """Train what the sweep asks for: its grid and, where it searches, what follows from what is done, round by round.

    Returns all the jobs that were asked for, and whether any failed or stayed unfinished; no round follows such a one,
    nor one whose end is not waited for.
    """
    store = Store(results)
    reached = search.reach(grid, store, published)
    while True:
        asked = reached.jobs
        if reached.more:
            print(f"{name}: of its search {reached.more} more runs follow these")
        failed = train(name, asked, results, workers, launcher, published=published)
        reached = search.reach(grid, store, published)
        if failed or not launcher.wait or len(reached.jobs) == len(asked):
            break
    for cell, largest in reached.found:
        print(f"{cell}: {largest}")
    return reached.jobs, failed


def train(
    title: str,
    wanted: Sequence[Job],
    results: Path,
    workers: int | None,
    launcher: Launcher = LOCAL,
    *,
    published: Published = NOTHING,
) -> bool:
    """Train the jobs that are not done, nor published, with progress; whether any failed or stayed unfinished."""
    store = Store(results)
    found = {job.run_id: status.of(job, store) for job in wanted}
    pending = {run_id for run_id, now in found.items() if not now.done}
    num_done, known = len(wanted) - len(pending), pending & published.ids(wanted)
    pending -= known
    _explain([job for job in wanted if job.run_id in pending], found, store)
    counted = f"{len(known)} published, " if known else ""
    print(f"{title}: {len(wanted)} runs, {counted}{num_done} done, {len(pending)} to train")
    if known:
        print(f"{title}: AGAIN=1 (--again) trains those that are published, too")
    if not pending:
        return False
    try:
        ended = _train(title, wanted, pending, results, workers, launcher)
    except signals.Spent:
        num_done = sum(status.of(job, store).done or job.run_id in known for job in wanted)
        raise signals.Spent(f"{title}: {num_done} of {len(wanted)} runs done") from None
    if elsewhere := sum(locks.ELSEWHERE in note for _, _, note in ended):
        print(f"{title}: {len(ended) - elsewhere} of these were trained here, {elsewhere} by other processes")
    bad = [(run_id, state, note) for run_id, state, note in ended if state not in (State.completed, State.diverged)]
    for run_id, how, note in bad:
        print(f"{run_id}: {how}: {note}", file=sys.stderr)
    return bool(bad)


def _train(
    title: str, wanted: Sequence[Job], pending: set[str], results: Path, workers: int | None, launcher: Launcher
) -> list[Ended]:
    """How each pending run ended."""
    if launcher != LOCAL:
        return slurm.run(title, wanted, pending, results, launcher, workers)
    workers = workers or _processes(wanted)
    with Progress(title, len(pending), "runs ended") as progress:
        ended = pool.run(wanted, pending, results, workers, progress)
        counts = Counter(state for _, state, _ in ended)
        progress.close(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    return ended


def reduce(
    name: str,
    workspace: Path,
    configs: Sequence[Config],
    wanted: Sequence[Job],
    results: Path,
    published: Published = NOTHING,
) -> Path:
    """Writes the sweep's tables into a workspace, those rows that are only published among them; returns the folder."""
    folder, store = paths.tables(workspace, name), Store(results)
    here = {job.run_id for job in wanted if status.of(job, store).done}
    known = published.ids(wanted) - here
    _reduce(configs[0], [job for job in wanted if job.run_id not in known], folder, store, published.rows(known))
    return folder


def _reduce(
    like: Config, wanted: Sequence[Job], folder: Path, store: Store, published: Mapping[str, pa.Table]
) -> None:
    """Reduces these jobs' raw runs, as the sweep of the configuration says, and adds what is published of others."""
    expected = {job.run_id: resolved(job.config) for job in wanted}
    kept = like.sweep
    reduction.reduce(
        store,
        list(expected),
        folder,
        tables=kept.tables,
        rows=kept.rows,
        expected=expected,
        outcome_by=kept.outcome_by,
        looks={job.run_id: status.tables(job.config, store, job.run_id) for job in wanted},
        published=published,
    )


def reproduce(preset: str, overrides: Sequence[str], results: Path, workers: int | None) -> int:
    """Run the main job, on synthetic images where a data set cannot be had: its results are then marked."""
    from bnstudy.analysis import report  # and with it matplotlib, which takes half a second that no run needs

    failed = False
    synthetic = set()
    sweeps = {name: compose.expand(name, preset, [*overrides, "runtime.synthetic=true"]) for name in REPRODUCE}
    workspace = _workspace(results, preset, sweeps)
    Store(results)  # refuses what is no folder
    for name in sweeps:
        files.check_writable(paths.tables(workspace, name))
    for name, configs in sweeps.items():
        grid = with_threads(jobs(configs), results, workers)
        synthetic |= {job.source.name for job in grid if job.source.synthetic}
        if synthetic:
            print(_loud(synthetic))
        wanted, bad = train_all(name, grid, results, workers)
        failed |= bad
        reduce(name, workspace, configs, wanted, results)
    failed |= bool(report.make(workspace, html=True))
    log_figures(workspace, results, mode=configs[0].tracking.mode, project=configs[0].tracking.project)
    if synthetic:
        print(_loud(synthetic))
    return int(failed)


def publish(name: str, preset: str, overrides: Sequence[str], results: Path, *, replace: bool = False) -> int:
    """Adds the seeds of a sweep that are whole, every run of them done, to its published tables, and draws those anew.

    Runs that are published already keep their rows, also where their raw runs are gone; `replace` takes the raw run
    instead where there is one. Raises ValueError for synthetic data, where no seed is whole, for overrides that make
    other runs than the preset, where the preset does not ask for what is published, and where a raw run is not what was
    published of it; locks.Locked where another process publishes the sweep.
    """
    from bnstudy.analysis import report

    configs = compose.expand(name, preset, overrides)
    workspace = _workspace(results, preset, {name: configs})
    if workspace.name == paths.CUSTOM:
        raise ValueError(f"{name}: what is published is the preset {preset} as it is, without overrides")
    with locks.hold(results, [f"publish-{name}"]):
        message = _publish(name, preset, configs, workspace, results, replace=replace)
    print(message)
    code = report.make(paths.workspace(results, None), html=True)
    if paths.workspace(results, None).resolve() == (readme.README.parent / "results").resolve():
        readme.update(paths.workspace(results, None) / "claims.json")
    return code


def _publish(
    name: str, preset: str, configs: Sequence[Config], workspace: Path, results: Path, *, replace: bool
) -> str:
    """What was published, in words."""
    target, store = paths.tables(paths.workspace(results, None), name), Store(results)
    files.settle(target)
    published = publishing.load(results, name)
    wanted = search.reach(jobs(configs), store, published).jobs
    synthetic = [job.source.name for job in wanted if job.source.synthetic]
    if synthetic:
        raise ValueError(f"{name} ran on synthetic data ({synthetic[0]}): only real data is published")
    states = {job.run_id: status.of(job, store) for job in wanted}
    done = {run_id for run_id, now in states.items() if now.done}
    choice = publishing.choose(wanted, done, published, replace=replace)
    if not choice.earlier | choice.new:
        counted = Counter(" ".join((now.state, now.reason)).strip() for now in states.values())
        counts = ", ".join(f"{count} {text}" for text, count in counted.items())
        raise ValueError(f"{name} is not finished ({counts}); run: make sweep-{name} PRESET={preset}")
    if both := choice.earlier & done:
        with tempfile.TemporaryDirectory() as scratch:
            _reduce(configs[0], [job for job in wanted if job.run_id in both], Path(scratch), store, {})
            ours = {path.stem: pq.read_table(path) for path in Path(scratch).glob("*.parquet")}
        if other := publishing.differences(ours, published, both):
            lines = "\n".join(f"  {run_id}: {what}" for run_id, what in other.items())
            raise ValueError(f"{name}: raw runs are not what is published; REPLACE=1 (--replace) takes them:\n{lines}")
    with files.replacing_all(target) as staged:
        new = [job for job in wanted if job.run_id in choice.new]
        _reduce(configs[0], new, staged, store, published.rows(choice.earlier))
    reduce(name, workspace, configs, wanted, results, published)
    missing = ", ".join(f"{seed} ({count} runs)" for seed, count in choice.missing.items())
    seeds = ", ".join(map(str, choice.seeds))
    return (
        f"published {name} ({preset}, {len(choice.earlier | choice.new)} runs): {target}\n"
        f"seeds that are in: {seeds} (n = {len(choice.seeds)}), {len(choice.new)} runs of them new"
        + (f"; missing, as not every run of theirs is done: {missing}" if missing else "")
    )


def _workspace(
    results: Path, preset: str, sweeps: Mapping[str, Sequence[Config]], named: str | None = None
) -> Path:
    """The workspace of the results named so, or the preset's if these are its runs, however they are trained; else the
    custom one, with a line about it.

    So trying other values never touches the tables that a preset's figures are drawn from.
    """
    if named:
        return paths.named(results, named)
    if all(_is_preset(name, preset, configs) for name, configs in sweeps.items()):
        return paths.workspace(results, preset)
    custom = paths.workspace(results, paths.CUSTOM)
    print(f"the overrides ask for other runs than the preset {preset}: its tables stay, these go to {custom}")
    return custom


def _explain(wanted: Sequence[Job], found: Mapping[str, Status], store: Store) -> None:
    """Logs why runs that have ended are not done, each reason once, and where a changed default renamed one."""
    reasons: dict[str, list[str]] = {}
    for job in wanted:
        now = found[job.run_id]
        if now.state == State.damaged:
            reason = "its files are not what was written; it is trained again"
        elif not now.state.done:
            reason = _former(job, store)
        else:
            reason = now.reason
        if reason:
            reasons.setdefault(reason, []).append(job.run_id)
    for reason, names in reasons.items():
        print(f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}")


def _former(job: Job, store: Store) -> str:
    """A message where the same words described another run before a default changed, and that run is there."""
    if not (changed := changed_defaults(job.config)):
        return ""
    former = replace(job, config=with_former_defaults(job.config)).run_id
    if not store.state(former, verify=False).done:
        return ""
    return f"not the run {former}, which is there, as a default changed ({'; '.join(map(str, changed))}): it is trained"
def workspace_of(name: str, preset: str, overrides: Sequence[str], results: Path) -> Path:
    """Where a sweep of these overrides has its tables, without a word about it."""
    same = _is_preset(name, preset, compose.expand(name, preset, overrides))
    return paths.workspace(results, preset if same else paths.CUSTOM)


def _is_preset(name: str, preset: str, configs: Sequence[Config]) -> bool:
    """Whether these are the preset's runs, with the same tables."""
    if name == compose.AD_HOC:
        return False

    def kept(configs: Sequence[Config]) -> tuple[set[str], list[str] | None, Search, str]:
        asked = {f"{canonical(config, {})} {sorted(status.plan_keys(config))}" for config in configs}
        sweep = configs[0].sweep
        return asked, sweep.tables, sweep.search, sweep.outcome_by

    return kept(configs) == kept(compose.expand(name, preset, []))


def _outcome(store: Store, run_id: str) -> str:
    final = store.manifest(run_id)["final"]
    accuracy = final.get("test_accuracy")
    return f"; test accuracy {100 * accuracy:.2f} %" if accuracy is not None else ""


def _loud(names: set[str]) -> str:
    bar = "!" * 100
    text = f"SYNTHETIC DATA: {', '.join(sorted(names))} could not be had; synthetic images replace it."
    return f"{bar}\n{text}\n{bar}"
