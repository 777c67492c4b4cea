"""Suites: several sweeps trained one after another, with an estimate of their time and a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from bnstudy.analysis import report
from bnstudy.config import compose
from bnstudy.store import devices
from bnstudy.sweep import preview, study
from bnstudy.sweep.survey import Survey
from bnstudy.sweep.wanted import wanted
from bnstudy.training import signals


def members(suite: str) -> list[str]:
    """The sweeps that say they belong to the suite (`sweep.suites`), in its order. Raises ValueError for none."""
    suites = {name: header.get("suites", {}) for name, header in compose.headers().items()}
    found = {name: places[suite] for name, places in suites.items() if suite in places}
    if not found:
        known = ", ".join(sorted({name for places in suites.values() for name in places}))
        raise ValueError(f"suite {suite!r}: no sweep belongs to it; there are {known}")
    return sorted(found, key=lambda name: (found[name], name))


def run(
    suite: str,
    preset: str,
    overrides: Sequence[str],
    results: Path,
    workers: int | None,
    *,
    again: bool = False,
    look: study.Look = study.Look.no,
    yes: bool = False,
) -> int:
    """Print what is to be trained and about how long that takes, train it, draw the report. Exit status 1 if a run
    failed; the sweeps after it are trained all the same.

    Overrides that ask for other runs than the preset have their tables, and so their report, in the custom workspace;
    where that is so for some of the sweeps only, both are drawn. Raises ValueError for more than a day of work, unless
    `yes`; where the time is spent, signals.Spent with what is left of the suite.
    """
    names = members(suite)
    text, sec = estimate(suite, names, preset, overrides, results, again=again)
    print(text, flush=True)
    if look != study.Look.no:
        return 0
    preview.check_length(sec, yes=yes)
    codes = []
    for place, name in enumerate(names):
        try:
            codes.append(study.sweep(name, preset, overrides, results, workers, again=again, yes=True))
        except signals.Spent as spent:
            waiting = study.left(names[place + 1 :], preset, overrides, results, workers, again=again)
            raise signals.Spent(f"{spent}{waiting}") from None
    workspaces = [study.workspace_of(name, preset, overrides, results) for name in names]
    return max(*codes, *(report.make(workspace, html=True) for workspace in dict.fromkeys(workspaces)))


def estimate(
    suite: str, names: Sequence[str], preset: str, overrides: Sequence[str], results: Path, *, again: bool = False
) -> tuple[str, float]:
    """A line a sweep and their sum: runs in all and to train, minutes at the speeds that are known on this machine's
    cores, or as the sweeps' files say of two; and their sum in seconds.

    What is published is not to train, unless `again`; a run that several sweeps ask for counts for the first alone.
    """
    runs = {name: wanted(name, preset, overrides, results) for name in names}
    survey, headers = Survey.of(results, (run for each in runs.values() for run in each)), compose.headers()
    lines, total, unknown, counted = [], 0.0, list[str](), set[str]()
    for name in names:
        left = [run for run in runs[name] if run.run_id not in counted]
        progress = survey.progress(name, left, again=again)
        counted |= {run.run_id for run in left}
        minutes = headers.get(name, {}).get("minutes", {}).get(preset)
        if not progress.unknown:
            sec = progress.sec / devices.cores()
        elif minutes is not None:
            sec = 60 * minutes * progress.pending / len(runs[name])
        else:
            unknown.append(name)
            sec = math.nan
        total += 0.0 if math.isnan(sec) else sec
        time = "unknown" if math.isnan(sec) else f"{sec / 60:.1f} min"
        lines.append(f"  {name:32} {len(runs[name]):4} runs, {progress.pending:4} to train {time:>10}")
    also = f", and what {', '.join(unknown)} takes" if unknown else ""
    head = f"{suite} ({preset}): {len(names)} sweeps, about {total / 60:.0f} minutes{also}"
    return "\n".join([head, *lines]), total
