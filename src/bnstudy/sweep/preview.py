"""Show what a command would train and how long that would take."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import yaml

from bnstudy.config import compose
from bnstudy.config.schema import Config, resolved, resolved_plan
from bnstudy.store import devices, publishing, status
from bnstudy.store.jobs import Job
from bnstudy.store.publishing import NOTHING, Published
from bnstudy.store.runs import Store
from bnstudy.store.words import duration
from bnstudy.sweep import searched, specs
from bnstudy.sweep.survey import Survey
from bnstudy.sweep.tally import Tally
from bnstudy.training import signals

DAY_SEC = 86400.0
UNKNOWN = "how long is not known: no run here or published is like them"


class Show(StrEnum):
    """What a command shows in place of training."""

    nothing = "nothing"
    runs = "runs"
    configurations = "configurations"


def check_length(sec: float, *, yes: bool) -> None:
    """Raises ValueError for more than a day of work, unless `yes`, or the time of this command is limited."""
    if sec > DAY_SEC and not yes and not signals.limited():
        raise ValueError(
            f"this would take about {duration(sec)}: add --yes (make: YES=1) to train it all the "
            "same, --budget-min N (make: BUDGET_MIN=N) to train a sweep in slices, or ask for less: fewer epochs, a "
            "smaller network, one seed; --dry-run lists the runs"
        )


def tally_of(
    sweep: str, jobs: Sequence[Job], results: Path, processes: int | None = None, published: Published = NOTHING
) -> Tally:
    """How far these runs are, of which those that are published count as done, and the time that is left for them."""
    runs = [specs.of_job(job) for job in jobs]
    return Survey.of(results, runs).tally(sweep, runs, processes=processes, known=published.ids(jobs))


def announce(
    sweep: str,
    jobs: Sequence[Job],
    results: Path,
    processes: int | None = None,
    published: Published = NOTHING,
    *,
    yes: bool,
) -> None:
    """Print the time that is left for these runs. Raises ValueError as `check_length`."""
    tally = tally_of(sweep, jobs, results, processes, published)
    check_length(tally.sec / tally.processes, yes=yes)
    if tally.time_left:
        print(f"{sweep or jobs[0].run_id}: {tally.time_left}")


def suite_time(
    suite: str,
    names: Sequence[str],
    preset: str,
    overrides: Sequence[str],
    results: Path,
    workers: int | None = None,
    *,
    again: bool = False,
) -> tuple[str, float]:
    """A line per sweep, and one for their sum, with runs, runs to train and minutes; and the sum in seconds.

    The minutes follow from the known speeds and the number of processes (`workers`; None: one per core or GPU), or else
    from the sweeps' files, which give them for two cores. Published runs are not to train, unless `again`; a run of
    several sweeps counts for the first alone. Runs that searches have asked for count, and what follows them is named.
    """
    runs = _runs(names, preset, overrides, results)
    following = searched.add(runs, _how(overrides), results)
    survey, headers = Survey.of(results, (run for each in runs.values() for run in each)), compose.headers()
    lines, total, unknown, counted = [], 0.0, list[str](), set[str]()
    device = next((text.partition("=")[2] for text in overrides[::-1] if text.startswith("runtime.device=")), "auto")
    at_once = workers or (max(1, devices.gpus()) if devices.on_gpu(device) else devices.cores())
    for spec, each in runs.items():
        name, left = spec.sweep, [run for run in each if run.run_id not in counted]
        tally = survey.tally(name, left, again=again)
        counted |= {run.run_id for run in left}
        minutes = headers.get(name, {}).get("minutes", {}).get(preset)
        if not tally.unknown:
            sec = tally.sec / max(1, min(at_once, tally.pending))
        elif minutes is not None:
            sec = 60 * minutes * tally.pending / len(each)
        else:
            unknown.append(name)
            sec = math.nan
        total += 0.0 if math.isnan(sec) else sec
        time = "unknown" if math.isnan(sec) else f"{sec / 60:.1f} min"
        more = following.get(spec, "")
        lines.append(f"  {name:32} {len(each):4} runs, {tally.pending:4} to train {time:>10}{more}")
    unknown += [f"the search of {spec.sweep}" for spec in following if spec.sweep not in unknown]
    also = f", and what {', '.join(unknown)} takes" if unknown else ""
    head = f"{suite} ({preset}): {len(names)} sweeps, about {total / 60:.0f} minutes{also}"
    return "\n".join([head, *lines]), total


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
    runs = _runs(names, preset, overrides, results)
    following, lines = searched.add(runs, _how(overrides), results), []
    survey = Survey.of(results, (run for each in runs.values() for run in each))
    for spec, each in runs.items():
        tally = survey.tally(spec.sweep, each, processes=workers, again=again)
        if tally.pending or spec in following:
            lines.append(f"\n{spec.sweep:24} {tally}{following.get(spec, '')}")
    return "".join(lines)


def _runs(
    names: Sequence[str], preset: str, overrides: Sequence[str], results: Path
) -> dict[specs.SweepSpec, list[specs.RunSpec]]:
    return {
        specs.SweepSpec.of(name, preset, overrides): specs.of_sweep(name, preset, overrides, results) for name in names
    }


def _how(overrides: Sequence[str]) -> list[str]:
    """Those that say how runs are trained, and not which."""
    return [text for text in overrides if text.startswith(specs.HOW)]


def dry_run(
    sweep: str,
    jobs: Sequence[Job],
    results: Path,
    processes: int | None = None,
    published: Published = NOTHING,
    *,
    more: str = "",
) -> int:
    """Print the runs with their states, steps and images, and the time that the pending ones take. Train nothing.

    `more`: how many runs of the sweep's search follow these (`search.Reach.more`).

    Raises ValueError for runs that components or data refuse.
    """
    from bnstudy.training import preflight  # and with it torch

    preflight.check(jobs, device=False)
    store, known, images = Store(results), published.ids(jobs), 0
    states = Counter[str]()
    for job in jobs:
        now = status.of(job, store, verify=False)
        state = str(now.state) if now.done else "published" if job.run_id in known else "to train"
        states[state] += 1
        num_images = job.num_steps * job.config.data.batch_size
        images += num_images if state == "to train" else 0
        why = (now.reason or publishing.missed(job, store, published)) if state == "to train" else ""
        reason = f"  {why}" if why else ""
        print(f"{job.run_id:40}  {state:10}  {job.num_steps:8} steps  {num_images:11,} images{reason}")
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    left = tally_of(sweep, jobs, results, processes, published).time_left
    end = f"; {left or UNKNOWN}" if states["to train"] else ""
    end += f"; of its search {more} more runs follow" if more else ""
    print(f"{len(jobs)} runs: {counts}; {images:,} images to train on{end}")
    return 0


def print_configurations(jobs: Sequence[Job]) -> int:
    """Print the resolved configuration of each run, as YAML, one document each. Train nothing."""
    for job in jobs:
        print(f"---\n# {job.run_id}\n{yaml.safe_dump(_whole(job.config), sort_keys=False, allow_unicode=True)}", end="")
    return 0


def _whole(config: Config) -> Mapping[str, object]:
    return resolved(config) | {"probes": {name: resolved_plan(name, plan) for name, plan in config.probes.items()}}
