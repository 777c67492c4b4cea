"""Looking after what was made: how far every sweep is, trying again what failed, forgetting a run."""

from __future__ import annotations

import difflib
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnstudy.config import compose
from bnstudy.config.schema import Config, Sweep, from_dict
from bnstudy.data import sources
from bnstudy.store import index, locks, paths, publishing
from bnstudy.store.jobs import jobs, let_go, under_way
from bnstudy.store.runs import State, Store, looks_of
from bnstudy.store.status import Look
from bnstudy.sweep import pace, roster, study
from bnstudy.sweep.roster import Wanted
from bnstudy.tracking.sinks.console import Progress

HOW = ("runtime.", "tracking.")  # what may be said of runs whose configuration is settled


def status(preset: str | None, overrides: Sequence[str], results: Path) -> int:
    """A line a sweep and preset: how many of its runs are in which state, and for how long there is work."""
    Store(results)  # refuses what is none before anything is composed
    offline = [*overrides, "runtime.download=false"]
    searching = {name: bool(said.get("search")) for name, said in compose.headers().items()}
    lines: list[tuple[str, str, list[Wanted] | str]] = []
    with Progress("status", len(searching), "sweeps") as progress:  # each is composed where something changed
        for looked_at, name in enumerate(searching):
            progress.update(looked_at, name)
            for each in [preset] if preset else ("quick", "full"):
                try:
                    lines.append((name, each, roster.wanted(name, each, offline, results)))
                except sources.DataError as error:
                    lines.append((name, each, str(error).splitlines()[0]))
        progress.update(len(searching))
    every = [run for _, _, runs in lines if isinstance(runs, list) for run in runs]
    entries = index.entries(results, {run.run_id for run in every})
    speed, holders = pace.measured(every, entries, results), locks.holders(results)
    for name, each, runs in lines:
        then = "; its search follows" if searching[name] and not isinstance(runs, str) else ""
        known = publishing.names(results, name)
        told = runs if isinstance(runs, str) else pace.how_far(runs, entries, speed, holders, published=known)
        print(f"{name:24} {each:6} {told}{then}")
    if size := sum(entry.weights for entry in entries.values()):
        print(f"kept weights: {size / 1e6:.1f} MB (runtime.keep_weights=false keeps none)")
    return 0


def retry(sweep: str | None, overrides: Sequence[str], results: Path, workers: int | None) -> int:
    """Makes the runs that failed, of one sweep or of all, once more, as they were. Exit status 1 if any failed.

    Raises ValueError for an override of anything but runtime and tracking: with another value it is another run.
    """
    for text in overrides:
        if not text.lstrip("+").startswith(HOW):
            raise ValueError(
                f"{text}: a retry makes the very runs that failed; only runtime.* and tracking.* can be said"
            )
    if sweep is not None and sweep not in compose.sweeps():
        raise ValueError(f"there is no sweep {sweep!r}; there are: {', '.join(compose.sweeps())}")
    store = Store(results)
    failed = {
        run_id
        for run_id, entry in index.entries(results, store.run_ids()).items()
        if entry.state == State.failed and sweep in (None, entry.sweep)
    }
    if not failed:
        print(f"no run{f' of {sweep}' if sweep else ''} has failed")
        return 0
    for members in under_way(results).values():  # runs that went side by side go on so
        if failed.intersection(members):
            failed |= {name for name in members if store.ending(name) is not None}
    how = compose.one(overrides)
    found = {run_id: _again(store.manifest(run_id), how) for run_id in sorted(failed)}
    wanted = [job for job in jobs(c for c in found.values() if isinstance(c, Config)) if job.run_id in failed]
    strangers = failed - {job.run_id for job in wanted}
    for run_id in sorted(strangers):
        why = found[run_id] if isinstance(found[run_id], str) else "its data, or an option's default, are others now"
        print(
            f"{run_id}: cannot be tried again ({why}); run its sweep, or: make clean-run ID={run_id}", file=sys.stderr
        )
    bad = study.make(f"retry{f' of {sweep}' if sweep else ''}", wanted, results, workers) if wanted else False
    names = sorted({job.config.sweep.name for job in wanted if job.config.sweep.name})
    for name in names:
        print(f"for its tables: make sweep-{name}")
    return int(bad or bool(strangers))


def _again(manifest: Mapping[str, Any], how: Config) -> Config | str:
    """The configuration of a manifest's run, or why it is none any more."""
    try:
        what = from_dict({**manifest["config"], "probes": {}})
    except ValueError as error:
        return str(error)
    plans = {look.probe: look.plan for look in map(Look.of, looks_of(manifest).values())}
    return replace(what, probes=plans, runtime=how.runtime, tracking=how.tracking, sweep=Sweep(name=manifest["sweep"]))


def forget(run_id: str, results: Path) -> int:
    """Removes one run: its tables, its manifest, what was saved of it. Raises ValueError if there is none of that name.

    Raises locks.Locked where a process trains it.
    """
    there = Store(results).run_ids()
    if run_id not in there:
        near = [name for name in there if run_id and name.startswith(run_id)][:3] or difflib.get_close_matches(
            run_id, there
        )
        hint = f"did you mean {' or '.join(near)}?" if near else f"{len(there)} runs are in {paths.runs(results)}"
        raise ValueError(f"there is no run {run_id!r}; {hint}")
    with locks.hold(results, [run_id]):
        let_go(results, {run_id})
        shutil.rmtree(paths.run(results, run_id))
    print(f"{run_id} is forgotten; tables that were made with it keep its rows until its sweep is run again")
    return 0
