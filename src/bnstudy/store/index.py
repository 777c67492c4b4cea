"""What each run's manifest says, remembered, so that looking at 100,000 runs opens only those that changed.

A cache and nothing more: an entry holds as long as the run's folder and manifest are the files it was read from, so
that no writer has to keep it up to date, and one that is missing or damaged is made anew.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bnstudy.store import files, paths
from bnstudy.store.runs import State, Store, StoreError, looks_of
from bnstudy.store.status import look_key

SCHEMA = 2


@dataclass(frozen=True)
class Entry:
    """A run's state, the seconds one process spent on it, the sweep it was trained for (None: not known), and more.

    `weights`: bytes of its kept weights; `looks`: what looked at it, as `status.Look.key` has it.
    """

    state: State
    sec: float | None = None
    sweep: str | None = None
    weights: int = 0
    looks: tuple[str, ...] = ()


def entries(results: Path, run_ids: Iterable[str]) -> dict[str, Entry]:
    """The state of each of these runs now, as `Store.state` tells it where tables are not read."""
    store, path = Store(results), paths.index(results) / "runs.json"
    known, found, fresh = _read(path), dict[str, Entry](), False
    for run_id in run_ids:
        seen = _stamp(store, run_id)
        if seen is None:
            found[run_id] = Entry(State.absent)
            continue
        if (kept := known.get(run_id)) is None or kept[0] != seen:
            kept, fresh = (seen, _look(store, run_id)), True
            known[run_id] = kept
        found[run_id] = kept[1]
    if fresh:
        _write(path, known)
    return found


Known = dict[str, tuple[list[int], Entry]]  # run id -> what its files were like when they were read, and what they said


def _stamp(store: Store, run_id: str) -> list[int] | None:
    """Changes whenever a file of the run is added, replaced or removed; None where there is no run."""
    try:
        folder = paths.run(store.results, run_id).stat()
    except OSError:
        return None
    return [folder.st_mtime_ns, *(store.ending(run_id) or ())]


def _look(store: Store, run_id: str) -> Entry:
    state = store.state(run_id, verify=False)
    try:
        manifest = store.manifest(run_id)
    except StoreError:
        return Entry(state)
    sec, beside = manifest.get("wall_sec"), (manifest.get("provenance") or {}).get("num_runs", 1)
    weights = (manifest.get("weights") or {}).get("bytes", 0)
    looks = tuple(sorted(look_key(look["probe"], look["plan"]) for look in looks_of(manifest).values()))
    return Entry(state, sec / beside if sec is not None else None, manifest.get("sweep"), weights, looks)


def _read(path: Path) -> Known:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            return {}
        return {
            run_id: (
                list(map(int, stamp)),
                Entry(State(state), None if sec is None else float(sec), sweep, int(weights), tuple(looks)),
            )
            for run_id, (stamp, state, sec, sweep, weights, looks) in content["runs"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write(path: Path, known: Known) -> None:
    runs = {
        run_id: (stamp, entry.state, entry.sec, entry.sweep, entry.weights, entry.looks)
        for run_id, (stamp, entry) in known.items()
    }
    with contextlib.suppress(OSError):  # where it cannot be kept, the next look takes longer
        files.write_text(path, json.dumps({"schema": SCHEMA, "runs": runs}, separators=(",", ":")))
