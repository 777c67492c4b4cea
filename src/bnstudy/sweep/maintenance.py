"""Looking after runs: how far every sweep is, training again what failed, removing a run."""

from __future__ import annotations

import difflib
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bnstudy.config import compose, errors
from bnstudy.config.schema import Config, Sweep, from_dict
from bnstudy.store import index, locks, paths
from bnstudy.store.jobs import jobs, let_go, under_way
from bnstudy.store.runs import State, Store, looks_of
from bnstudy.store.status import Look
from bnstudy.sweep.survey import Survey
from bnstudy.sweep.wanted import Asked, remembered, wanted
from bnstudy.tracking.console import Progress

PRESETS = ("quick", "full")
HOW = ("runtime.", "tracking.")  # overrides that leave a run what it is


def status(names: Sequence[str], preset: str | None, overrides: Sequence[str], results: Path) -> int:
    """Print a line for each of these sweeps, or for each that was begun or published: its runs by state, the time left.

    Sweeps that were begun with overrides have their own lines, and runs that belong to none are counted at the end.
    """
    Store(results)  # refuses what is none before anything is composed
    offline, presets = [*overrides, "runtime.download=false"], [preset] if preset else ["quick", "full"]
    searching = {name: bool(header.get("search")) for name, header in compose.headers().items()}
    if unknown := [name for name in names if name not in searching]:
        raise ValueError(f"there is no sweep {unknown[0]!r}; {errors.suggestions(unknown[0], searching)}")
    there = {*searching, compose.AD_HOC}
    known = {asked: runs for asked, runs in remembered(results).items() if asked.sweep in there}
    known |= {Asked.of(name, each): None for name in names for each in presets if not known.get(Asked.of(name, each))}
    entries = index.entries(results, Store(results).run_ids())
    in_known = {run.run_id for runs in known.values() for run in runs or ()}
    begun = {entry.sweep for run_id, entry in entries.items() if run_id not in in_known}
    known |= {Asked.of(name, each): None for name in searching if name in begun for each in presets}
    known = {a: r for a, r in known.items() if a.preset in presets and (not names or a.sweep in names)}
    trouble, unread = dict[Asked, str](), [asked for asked, runs in known.items() if runs is None]
    with Progress("status", max(1, len(unread)), "sweeps composed") if unread else nullcontext() as bar:
        for number, asked in enumerate(unread):
            try:
                known[asked] = wanted(asked.sweep, asked.preset, [*offline, *asked.overrides], results)
            except ValueError as error:  # no data, or overrides of another version
                trouble[asked] = str(error).splitlines()[0]
            if bar:
                bar.update(number + 1, asked.sweep)
    every = [run for runs in known.values() for run in runs or ()]
    survey = Survey.of(results, every)
    shown = set[str]()
    for asked in sorted(known, key=lambda asked: (asked.sweep, asked.overrides, PRESETS.index(asked.preset))):
        label = f"{asked.sweep:24} {asked.preset:6}"
        if asked in trouble:
            print(f"{label} {trouble[asked]}; {_counted(survey, asked.sweep)}")
        else:
            progress = survey.progress(asked.sweep, known[asked] or ())
            if not (progress.begun or names):
                continue
            then = "; its search follows" if searching.get(asked.sweep) else ""
            print(" ".join([label, f"{progress}{then}", *asked.overrides]))
        shown.add(asked.sweep)
    published = {name for name, rows in survey.published.items() if rows}
    if not names:
        for name in sorted(published - shown):
            print(f"{name:24}        {len(survey.published[name]):4} runs published, none here")
        _print_rest(survey, {run.run_id for run in every}, results)
        if others := sorted(searching.keys() - shown - published):
            print(f"not begun (bnstudy status NAME counts its runs): {', '.join(others)}")
    if size := sum(entry.weights for entry in survey.entries.values()):
        print(f"kept weights: {size / 1e6:.1f} MB (runtime.keep_weights=false keeps none)")
    return 0


def _counted(survey: Survey, sweep: str) -> str:
    """The runs that were trained for a sweep, where which it asks for is not known."""
    counts = Counter(str(entry.state) for entry in survey.entries.values() if entry.sweep == sweep)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none of its runs is here"


def _print_rest(survey: Survey, shown: Collection[str], results: Path) -> None:
    """Count the runs of no sweep that has a line: single ones, those of `bnstudy run`, and others' of earlier times."""
    runs = [run_id for run_id in Store(results).run_ids() if run_id not in shown]
    if runs:
        states = {run_id: "running" if run_id in survey.holders else survey.entries[run_id].state for run_id in runs}
        counts = ", ".join(f"{count} {state}" for state, count in sorted(Counter(states.values()).items()))
        print(f"{'other runs':24}        {len(runs):4} runs: {counts} (bnstudy ls lists them)")


def retry(sweep: str | None, overrides: Sequence[str], results: Path, workers: int | None) -> int:
    """Train the runs that failed, of one sweep or of all, once more, as they were, with the `runtime` and `tracking`
    that they had; the overrides change those. Exit status 1 if any failed.

    Raises ValueError for an override of anything else: with another value it is another run.
    """
    for text in overrides:
        if not text.lstrip("+").startswith(HOW):
            raise ValueError(f"{text}: a retry trains the very runs that failed; give only runtime.* and tracking.*")
    from bnstudy.sweep import study  # and with it what draws

    store, known = Store(results), index.entries(results, Store(results).run_ids())
    failed = {run_id for run_id, entry in known.items() if entry.state == State.failed}
    if sweep is not None:
        names = {*compose.sweeps(), *(entry.sweep for entry in known.values() if entry.sweep)}
        if sweep not in names:
            raise ValueError(f"there is no sweep {sweep!r}; {errors.suggestions(sweep, sorted(names))}")
        failed = {run_id for run_id in failed if known[run_id].sweep == sweep}
    if not failed:
        print(f"no run{f' of {sweep}' if sweep else ''} has failed")
        return 0
    for members in under_way(results).values():  # runs that trained side by side resume so
        if failed.intersection(members):
            failed |= {name for name in members if store.ending(name) is not None}
    configs, reasons = list[Config](), dict[str, str]()
    for run_id in sorted(failed):
        try:
            configs.append(_again(store.manifest(run_id), overrides))
        except ValueError as error:
            reasons[run_id] = str(error)
    wanted = [job for job in jobs(configs) if job.run_id in failed]
    for run_id in sorted(failed - {job.run_id for job in wanted}):
        why = reasons.get(run_id, "its data, or an option's default, are others now")
        print(f"{run_id}: cannot be trained ({why}); run its sweep, or: make clean-run ID={run_id}", file=sys.stderr)
    bad = study.train(f"retry{f' of {sweep}' if sweep else ''}", wanted, results, workers) if wanted else False
    trained = {job.run_id for job in wanted}
    for asked, runs in remembered(results).items():
        if trained.intersection(run.run_id for run in runs or ()):
            command = shlex.join([asked.sweep, "--preset", asked.preset, *asked.overrides])
            print(f"for its tables: bnstudy sweep {command}")
    return int(bad or len(wanted) < len(failed))


def _again(manifest: Mapping[str, Any], overrides: Sequence[str]) -> Config:
    """The configuration of a manifest's run. Raises ValueError where it is none any more."""
    given = compose.one(overrides)
    how = manifest.get("how") or {"runtime": asdict(given.runtime), "tracking": asdict(given.tracking)}
    for text in overrides:
        section, _, key = text.lstrip("+").partition("=")[0].partition(".")
        how[section][key] = getattr(getattr(given, section), key)
    plans = {look.probe: look.plan for look in map(Look.of, looks_of(manifest).values())}
    config = from_dict({**manifest["config"], **how, "probes": {}})
    return replace(config, probes=plans, sweep=Sweep(name=manifest["sweep"]))


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
    print(f"{run_id} is forgotten; tables that have its rows keep them until its sweep is run again")
    return 0
