"""How far runs are, and how long what is left of them takes at the speed that was measured so far.

Nothing is presumed of a machine: speeds are those of completed runs and of checkpoints, and where there is none of the
kind of a run that is left, nothing is said of its time.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnstudy.store import paths
from bnstudy.store.index import Entry
from bnstudy.store.jobs import under_way
from bnstudy.store.locks import Holder
from bnstudy.store.runs import State
from bnstudy.sweep.roster import Wanted
from bnstudy.tracking.sinks.console import duration


@dataclass(frozen=True)
class Pace:
    """Seconds that one update takes, by kind of run, and the updates made of each run that has a checkpoint."""

    sec: Mapping[str, float]
    made: Mapping[str, float]


def measured(runs: Iterable[Wanted], entries: Mapping[str, Entry], results: Path) -> Pace:
    """From those of the runs that are completed or under way, each with its share of the seconds of its process."""
    begun = _begun(results)
    updates, sec = defaultdict[str, float](float), defaultdict[str, float](float)
    for run in runs:
        entry = entries[run.run_id]
        if entry.state == State.completed and entry.sec is not None:
            made, took = float(run.work), entry.sec
        elif not entry.state.done and run.run_id in begun:
            made, took = begun[run.run_id]
        else:
            continue
        updates[run.kind] += made
        sec[run.kind] += took
    return Pace(
        {kind: sec[kind] / count for kind, count in updates.items() if count},
        {run_id: made for run_id, (made, _) in begun.items()},
    )


def how_far(
    runs: Sequence[Wanted],
    entries: Mapping[str, Entry],
    pace: Pace,
    holders: Mapping[str, Holder],
    processes: int | None = None,
    published: Collection[str] = (),
) -> str:
    """As in `48 runs: 20 completed, 4 running, 24 pending; about 3 min left for 2 processes`.

    Runs that are `published` and not done here are counted as that.
    `processes` shares what is left; None: as many as are at it, or one.
    """
    counts, at_work, sec, unknown = Counter[str](), set(), 0.0, 0
    for run in runs:
        entry, holder = entries[run.run_id], holders.get(run.run_id)
        if entry.state.done and set(run.looks) <= set(entry.looks):
            counts[entry.state] += 1
            continue
        if holder is not None:
            at_work.add(holder)
        if holder is None and run.run_id in published:
            counts["published"] += 1
            continue
        counts["running" if holder is not None else _WORD.get(entry.state, entry.state)] += 1
        if (each := pace.sec.get(run.kind)) is None:
            unknown += 1
        else:
            sec += each * max(0.0, run.work - pace.made.get(run.run_id, 0.0))
    told = ", ".join(f"{counts[word]} {word}" for word in _ORDER if counts[word])
    left = sum(counts[word] for word in _ORDER if word not in _DONE)
    if left > unknown:
        processes = processes or max(1, len(at_work))
        who = f"{processes} processes" if processes > 1 else "one process"
        told += f"; about {duration(sec / processes)} left for {who}"
        told += f", and {unknown} of a kind whose speed is not known yet" if unknown else ""
    return f"{len(runs):4} runs: {told}"


_WORD = {State.absent: "pending", State.partial: "interrupted"} | dict.fromkeys(
    (State.completed, State.diverged), "to look at"
)  # a run that has ended and lacks a look
_DONE = ("completed", "diverged", "published")
_ORDER = (*_DONE, "to look at", "failed", "damaged", "running", "interrupted", "pending")


def _begun(results: Path) -> dict[str, tuple[float, float]]:
    """Of each run that a checkpoint holds, the updates made, and its share of the seconds they took."""
    found: dict[str, tuple[float, float]] = {}
    for group, members in under_way(results).items():
        try:
            told = json.loads((paths.groups(results) / group / paths.PACE).read_text(encoding="utf-8"))
            made, share = float(told["step"]), float(told["wall_sec"]) / len(members)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of another version, or cut short: its speed is not known
        found |= dict.fromkeys(members, (made, share))
    return found
