"""Print how far the sweeps are that were begun, named or published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bnstudy.config import compose, errors
from bnstudy.store import index, paths
from bnstudy.store.runs import Store
from bnstudy.sweep import searched
from bnstudy.sweep.specs import RunSpec, SweepSpec, of_sweep, remembered
from bnstudy.sweep.survey import Survey
from bnstudy.tracking.console import Progress


def status(names: Sequence[str], preset: str | None, overrides: Sequence[str], results: Path) -> int:
    """Print a line for each of these sweeps, or for each that was begun or published: its runs by state, the time left.

    Sweeps that were begun with overrides have their own lines, and runs that belong to none are counted at the end.
    Raises ValueError for a name that no sweep has.
    """
    Store(results)  # refuses what is no folder before anything is composed
    headers = compose.headers()
    if unknown := [name for name in names if name not in {*headers, compose.AD_HOC}]:
        raise ValueError(f"there is no sweep {unknown[0]!r}; {errors.suggestions(unknown[0], headers)}")
    known = _known(names, [preset] if preset else paths.PRESETS, results)
    runs, reasons = _composed(known, overrides, results)
    survey = Survey.of(results, (run for each in runs.values() for run in each))
    begun = {spec: each for spec, each in runs.items() if names or survey.tally(spec.sweep, each).begun}
    following = searched.add(begun, overrides, results)
    runs |= begun
    survey = Survey.of(results, (run for each in runs.values() for run in each))
    shown = set[str]()
    for spec in sorted(known, key=_order):
        label = f"{spec.named or spec.sweep:24} {spec.preset:6}"
        if spec in reasons:
            print(f"{label} {reasons[spec]}; {_counted(survey, spec.sweep)}")
        elif (tally := survey.tally(spec.sweep, runs[spec])).begun or names:
            print(" ".join([label, f"{tally}{following.get(spec, '')}", *spec.overrides]))
        else:
            continue
        shown.add(spec.sweep)
    if not names:
        _print_published(survey, shown)
        _print_rest(survey, {run.run_id for each in runs.values() for run in each}, results)
        _print_not_begun(survey, shown, headers)
    if size := sum(entry.weights for entry in survey.entries.values()):
        print(f"kept weights: {size / 1e6:.1f} MB (runtime.keep_weights=false keeps none)")
    return 0


def _order(spec: SweepSpec) -> tuple[str, str, tuple[str, ...], int]:
    return spec.sweep, spec.named or "", spec.overrides, paths.PRESETS.index(spec.preset)


def _known(names: Sequence[str], presets: Sequence[str], results: Path) -> dict[SweepSpec, list[RunSpec] | None]:
    """Every sweep that was begun or is named, of these presets; its runs, or None where they are to be composed."""
    sweeps = compose.headers()
    known = {spec: runs for spec, runs in remembered(results).items() if spec.sweep in {*sweeps, compose.AD_HOC}}
    named = (SweepSpec.of(name, preset) for name in names for preset in presets)
    known |= {spec: None for spec in named if not known.get(spec)}
    run_ids = {run.run_id for runs in known.values() for run in runs or ()}
    entries = index.entries(results, Store(results).run_ids())
    begun = {entry.sweep for run_id, entry in entries.items() if run_id not in run_ids}
    known |= {SweepSpec.of(name, preset): None for name in sweeps if name in begun for preset in presets}
    names = names or [spec.sweep for spec in known]
    return {spec: runs for spec, runs in known.items() if spec.preset in presets and spec.sweep in names}


def _composed(
    known: Mapping[SweepSpec, list[RunSpec] | None], overrides: Sequence[str], results: Path
) -> tuple[dict[SweepSpec, list[RunSpec]], dict[SweepSpec, str]]:
    """The runs of each sweep; for one that cannot be composed, the reason."""
    runs, reasons = {spec: each for spec, each in known.items() if each is not None}, dict[SweepSpec, str]()
    if len(runs) == len(known):
        return runs, reasons
    with Progress("status", len(known) - len(runs), "sweeps composed") as progress:
        for number, spec in enumerate([spec for spec in known if spec not in runs]):
            given = [*overrides, "runtime.download=false", *spec.overrides]
            try:
                runs[spec] = of_sweep(spec.sweep, spec.preset, given, results)
            except ValueError as error:  # no data, or overrides of another version
                reasons[spec] = str(error).splitlines()[0]
            progress.update(number + 1, spec.sweep)
    return runs, reasons


def _counted(survey: Survey, sweep: str) -> str:
    """Counts of the runs that were trained for a sweep whose own list of runs is not known."""
    counts = Counter(str(entry.state) for entry in survey.entries.values() if entry.sweep == sweep)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none of its runs is here"


def _print_published(survey: Survey, shown: Collection[str]) -> None:
    for name, rows in sorted(survey.published.items()):
        if rows and name not in shown:
            print(f"{name:24}        {len(rows):4} runs published, none here")


def _print_not_begun(survey: Survey, shown: Collection[str], sweeps: Collection[str]) -> None:
    if names := sorted(name for name in sweeps if name not in shown and not survey.published.get(name)):
        print(f"not begun (bnstudy status NAME counts its runs): {', '.join(names)}")


def _print_rest(survey: Survey, shown: Collection[str], results: Path) -> None:
    """Print the count of runs that belong to no printed sweep, such as those of `bnstudy run`."""
    runs = [run_id for run_id in Store(results).run_ids() if run_id not in shown]
    if runs:
        states = {run_id: "running" if run_id in survey.holders else survey.entries[run_id].state for run_id in runs}
        counts = ", ".join(f"{count} {state}" for state, count in sorted(Counter(states.values()).items()))
        print(f"{'other runs':24}        {len(runs):4} runs: {counts} (bnstudy ls lists them)")
