"""Print how far the sweeps are that were begun, asked for or published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path

from bnstudy.config import compose, errors
from bnstudy.store import index
from bnstudy.store.runs import Store
from bnstudy.sweep.specs import SweepSpec, of_sweep, remembered
from bnstudy.sweep.survey import Survey
from bnstudy.tracking.console import Progress

PRESETS = ("quick", "full")


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
    known |= {SweepSpec.of(name, each): None for name in names for each in presets if not known.get(SweepSpec.of(name, each))}
    entries = index.entries(results, Store(results).run_ids())
    in_known = {run.run_id for runs in known.values() for run in runs or ()}
    begun = {entry.sweep for run_id, entry in entries.items() if run_id not in in_known}
    known |= {SweepSpec.of(name, each): None for name in searching if name in begun for each in presets}
    known = {a: r for a, r in known.items() if a.preset in presets and (not names or a.sweep in names)}
    trouble, unread = dict[SweepSpec, str](), [asked for asked, runs in known.items() if runs is None]
    with Progress("status", max(1, len(unread)), "sweeps composed") if unread else nullcontext() as bar:
        for number, asked in enumerate(unread):
            try:
                known[asked] = of_sweep(asked.sweep, asked.preset, [*offline, *asked.overrides], results)
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


