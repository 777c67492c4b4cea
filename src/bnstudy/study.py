"""What the commands do: make runs, reduce them to tables, publish tables. Composes the modules, decides little."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnstudy import (
    budget,
    compose,
    devices,
    files,
    index,
    launch,
    launchers,
    lease,
    pace,
    paths,
    readme,
    reduction,
    roster,
    search,
    sharing,
    slurm,
)
from bnstudy.config import Config, Search, to_dict
from bnstudy.identity import canonical
from bnstudy.jobs import Job, jobs, plan
from bnstudy.launch import Ended
from bnstudy.launchers import LOCAL, Launcher
from bnstudy.sinks.console import Progress
from bnstudy.store import State, Store
from bnstudy.tracking import log_figures

REPRODUCE = ("init", "lenet_lr_grid")  # what `make reproduce` runs, in this order


def single(config: Config, results: Path) -> int:
    """Makes one run in this process, with all cores. Exit status 0, also for a run that diverged."""
    (job,) = jobs([config])
    store = Store(results)
    state = store.state(job.run_id)
    if state == State.damaged:
        print(_damaged(job.run_id))
    if state.done:
        print(f"{job.run_id}: {state} already, in {paths.run(results, job.run_id)}")
        return 0
    (group,) = plan([job], {job.run_id}, results, workers=1)
    from bnstudy import preflight, runner

    preflight.check([job])
    stop = runner.Stop()
    threads = config.runtime.threads or launch.cores()
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
) -> int:
    """Makes every run of a sweep that is not done, then reduces it. Exit status 1 if a run failed or did not end.

    Where the time is limited it goes seed by seed, all arms of a seed together, so that what is done then can be
    compared; when it is spent, raises budget.Spent, which says what is left.
    """
    configs = compose.expand(name, preset, overrides)
    grid = jobs(configs)
    workspace = _workspace(results, preset, {name: configs})
    print(compose.describe(name))
    failed = False
    try:
        for title, part in _seed_by_seed(name, grid) if budget.ticking() and launcher == LOCAL else [(name, grid)]:
            failed |= make_all(title, part, results, workers or _at_once(part, results), launcher)[1]
    except budget.Spent as spent:
        raise budget.Spent(f"{spent}{left([name], [name], preset, overrides, results, workers)}") from None
    if not launcher.wait:
        return 0
    wanted = search.reach(grid, Store(results)).jobs
    print(f"tables: {reduce(name, workspace, configs, wanted, results)}")
    elsewhere = "" if results == Path("results") else f""" ARGS="--results '{results}'\""""
    print(f"to draw them: make report PRESET={workspace.name}{elsewhere}")
    return int(failed)


def left(
    names: Sequence[str],
    like: Sequence[str],
    preset: str,
    overrides: Sequence[str],
    results: Path,
    workers: int | None,
) -> str:
    """A line for each of these sweeps that is not done: how far it is, and how long it still takes.

    Their speed is that of the runs so far, of their kind, of the sweeps `like`.
    """
    runs = {name: roster.wanted(name, preset, overrides, results) for name in {*names, *like}}
    every = [run for each in runs.values() for run in each]
    entries, said = index.entries(results, {run.run_id for run in every}), compose.said()
    speed = pace.measured(every, entries, results)
    lines = []
    for name in names:
        if not all(entries[run.run_id].state.done for run in runs[name]):
            then = "; its search follows" if said[name].get("search") else ""
            lines.append(f"\n{name:24} {pace.how_far(runs[name], entries, speed, {}, workers)}{then}")
    return "".join(lines)


def _seed_by_seed(name: str, grid: Sequence[Job]) -> list[tuple[str, list[Job]]]:
    seeds = sorted({job.config.seed for job in grid})
    return [(f"{name}, seed {seed}", [job for job in grid if job.config.seed == seed]) for seed in seeds]


def _at_once(part: Sequence[Job], results: Path) -> int | None:
    """How many processes, where nothing was said and time is limited: on a GPU so many that all arms go on."""
    if not budget.ticking() or not devices.on_gpu(part[0].config.runtime.device):
        return None
    return max(devices.gpus(), len(plan(part, {job.run_id for job in part}, results, workers=1)))


def make_all(
    name: str, grid: Sequence[Job], results: Path, workers: int | None, launcher: Launcher = LOCAL
) -> tuple[tuple[Job, ...], bool]:
    """Makes what the sweep asks for: its grid and, where it searches, what follows from what is done, round by round.

    Returns all the jobs that were asked for, and whether any failed or stayed unfinished; no round follows such a one,
    nor one whose end is not waited for.
    """
    store = Store(results)
    reached = search.reach(grid, store)
    while True:
        asked = reached.jobs
        if reached.more:
            print(f"{name}: of its search {reached.more} more runs follow these")
        failed = make(name, asked, results, workers, launcher)
        reached = search.reach(grid, store)
        if failed or not launcher.wait or len(reached.jobs) == len(asked):
            break
    for cell, largest in reached.found:
        print(f"{cell}: {largest}")
    return reached.jobs, failed


def make(title: str, wanted: Sequence[Job], results: Path, workers: int | None, launcher: Launcher = LOCAL) -> bool:
    """Makes the jobs that are not done, with progress; whether any failed or stayed unfinished."""
    store = Store(results)
    states = {job.run_id: store.state(job.run_id) for job in wanted}
    for run_id, state in states.items():
        if state == State.damaged:
            print(_damaged(run_id))
    pending = {run_id for run_id, state in states.items() if not state.done}
    print(f"{title}: {len(wanted)} runs, {len(wanted) - len(pending)} done, {len(pending)} to make")
    if not pending:
        return False
    try:
        ended = _make(title, wanted, pending, results, workers, launcher)
    except budget.Spent:
        made = sum(store.state(job.run_id).done for job in wanted)
        raise budget.Spent(f"{title}: {made} of {len(wanted)} runs done") from None
    if elsewhere := sum(lease.MADE in note for _, _, note in ended):
        print(f"{title}: {len(ended) - elsewhere} of these were made here, {elsewhere} by other processes")
    bad = [(run_id, state, note) for run_id, state, note in ended if state not in (State.completed, State.diverged)]
    for run_id, how, note in bad:
        print(f"{run_id}: {how}: {note}", file=sys.stderr)
    return bool(bad)


def _make(
    title: str, wanted: Sequence[Job], pending: set[str], results: Path, workers: int | None, launcher: Launcher
) -> list[Ended]:
    """How each pending run ended."""
    if launcher != LOCAL and launchers.is_slurm(launcher, results):
        return slurm.make(title, wanted, pending, results, launcher, workers)
    on_gpu = devices.on_gpu(wanted[0].config.runtime.device)
    workers = workers or (max(1, devices.gpus()) if on_gpu else launch.cores())
    if launcher != LOCAL:
        return launchers.make(title, wanted, pending, results, launcher, workers)
    with Progress(title, len(pending), "runs ended") as progress:
        ended = sharing.make(wanted, pending, results, workers, progress)
        counts = Counter(state for _, state, _ in ended)
        progress.close(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    return ended


def reduce(name: str, workspace: Path, configs: Sequence[Config], wanted: Sequence[Job], results: Path) -> Path:
    """Writes the sweep's tables into a workspace; returns their folder."""
    folder = paths.tables(workspace, name)
    expected = {job.run_id: to_dict(job.config, identity_only=True) for job in wanted}
    kept = configs[0].sweep
    reduction.reduce(
        Store(results), list(expected), folder,
        tables=kept.tables, rows=kept.rows, expected=expected, outcome_by=kept.outcome_by,
    )  # fmt: skip
    return folder


def reproduce(preset: str, overrides: Sequence[str], results: Path, workers: int | None) -> int:
    """The main job. Where a data set cannot be had it goes on with made images, says so, and marks what it makes."""
    from bnstudy import report  # and with it matplotlib, which takes half a second that no run needs

    failed = False
    stand_ins = set()
    sweeps = {name: compose.expand(name, preset, [*overrides, "runtime.stand_in=true"]) for name in REPRODUCE}
    workspace = _workspace(results, preset, sweeps)
    for name, configs in sweeps.items():
        grid = jobs(configs)
        stand_ins |= {job.source.name for job in grid if job.source.stand_in}
        if stand_ins:
            print(_loud(stand_ins))
        wanted, bad = make_all(name, grid, results, workers)
        failed |= bad
        reduce(name, workspace, configs, wanted, results)
    failed |= bool(report.make(workspace, html=True))
    log_figures(workspace, results, mode=configs[0].tracking.mode, project=configs[0].tracking.project)
    if stand_ins:
        print(_loud(stand_ins))
    return int(failed)


def publish(name: str, preset: str, overrides: Sequence[str], results: Path) -> int:
    """Copies a preset's tables of a finished sweep to the committed ones.

    Raises ValueError for stand-in data, for missing runs, and for overrides that make other runs than the preset.
    """
    from bnstudy import report

    configs = compose.expand(name, preset, overrides)
    workspace = _workspace(results, preset, {name: configs})
    if workspace.name == paths.CUSTOM:
        raise ValueError(f"{name}: what is published is the preset {preset} as it is, without overrides")
    wanted = search.reach(jobs(configs), Store(results)).jobs
    made = [job.source.name for job in wanted if job.source.stand_in]
    if made:
        raise ValueError(f"{name} ran on stand-in data ({made[0]}): only real data is published")
    states = Counter(Store(results).state(job.run_id) for job in wanted)
    if not all(state.done for state in states):
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        raise ValueError(f"{name} is not finished ({counts}); run: make sweep-{name} PRESET={preset}")
    target = paths.tables(paths.workspace(results, None), name)
    source = reduce(name, workspace, configs, wanted, results)
    for path in target.glob("*.parquet"):
        path.unlink()
    for path in sorted(source.glob("*.parquet")):
        with files.replacing(target / path.name) as part:
            part.write_bytes(path.read_bytes())
    print(f"published {name} ({preset}, {len(wanted)} runs): {target}")
    code = report.make(paths.workspace(results, None), html=True)
    if paths.workspace(results, None).resolve() == (readme.README.parent / "results").resolve():
        readme.replace("claims", readme.claims_table(paths.workspace(results, None) / "claims.json"))
    return code


def _workspace(results: Path, preset: str, sweeps: Mapping[str, Sequence[Config]]) -> Path:
    """The preset's workspace if these are its runs, whatever was said of how they are made; else the custom one.

    So trying other values never touches the tables that a preset's figures are drawn from. Says so where it is custom.
    """

    def kept(configs: Sequence[Config]) -> tuple[set[str], list[str] | None, Search, str]:
        told = configs[0].sweep
        return {canonical(config, {}) for config in configs}, told.tables, told.search, told.outcome_by

    if all(kept(configs) == kept(compose.expand(name, preset, [])) for name, configs in sweeps.items()):
        return paths.workspace(results, preset)
    custom = paths.workspace(results, paths.CUSTOM)
    print(f"the overrides ask for other runs than the preset {preset}: its tables stay, these go to {custom}")
    return custom


def _damaged(run_id: str) -> str:
    return f"{run_id}: its files are not what was written; it is made again"


def _outcome(store: Store, run_id: str) -> str:
    final = store.manifest(run_id)["final"]
    accuracy = final.get("test_accuracy")
    return f"; test accuracy {100 * accuracy:.2f} %" if accuracy is not None else ""


def _loud(names: set[str]) -> str:
    bar = "!" * 100
    text = f"STAND-IN DATA: {', '.join(sorted(names))} could not be had; made images take its place."
    return f"{bar}\n{text}\n{bar}"
