"""An index of what the manifests say, so that looking at 100,000 runs opens only those that changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bnstudy.store import paths
from bnstudy.store.cache import Cache
from bnstudy.store.runs import State, Store, StoreError, looks_of
from bnstudy.store.status import look_key


@dataclass(frozen=True)
class Entry:
    """A run's state and what its manifest says: the seconds that one process spent on it, the probes' share of them,
    the sweep it was trained for (None: not known), the bytes of its kept weights, what looked at it (see
    `status.look_key`), and facts to list."""

    state: State
    sec: float | None = None
    probe_share: float | None = None
    sweep: str | None = None
    weights: int = 0
    looks: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    ended: float | None = None  # when, in seconds since 1970


def entries(results: Path, run_ids: Iterable[str]) -> dict[str, Entry]:
    """The state of each of these runs now, as `Store.state` has it where tables are not read."""
    store, cache = Store(results), Cache(results)
    known, entries, fresh = cache.read("run"), dict[str, Entry](), dict[str, tuple[str, Any]]()
    for run_id in run_ids:
        stamp = _stamp(store, run_id)
        if stamp is None:
            entries[run_id] = Entry(State.absent)
            continue
        before, value = known.get(run_id, ("", ""))
        entry = _parsed(value) if before == stamp else None
        if entry is None:
            entry = _read(store, run_id)
            fresh[run_id] = stamp, asdict(entry)
        entries[run_id] = entry
    if fresh:
        cache.write("run", fresh)
    return entries


def _stamp(store: Store, run_id: str) -> str | None:
    """A stamp that changes whenever a file of the run is added, replaced or removed; None where there is no run."""
    try:
        folder = paths.run(store.results, run_id).stat()
    except OSError:
        return None
    return f"{folder.st_mtime_ns} {store.ending(run_id)}"


def _parsed(text: str) -> Entry | None:
    try:
        values = json.loads(text)
        return Entry(**values | {"state": State(values["state"]), "looks": tuple(values["looks"])})
    except (ValueError, KeyError, TypeError):  # of another version
        return None


def _read(store: Store, run_id: str) -> Entry:
    state, ending = store.state(run_id, verify=False), store.ending(run_id)
    try:
        manifest = store.manifest(run_id)
    except StoreError:
        return Entry(state)
    return Entry(
        state,
        sec=None if manifest.get("wall_sec") is None else manifest["wall_sec"] / _beside(manifest),
        probe_share=manifest.get("probe_share"),
        sweep=manifest.get("sweep"),
        weights=(manifest.get("weights") or {}).get("bytes", 0),
        looks=tuple(sorted(look_key(look["probe"], look["plan"]) for look in looks_of(manifest).values())),
        facts=_facts(manifest),
        ended=ending[1] / 1e9 if ending else None,
    )


def _beside(manifest: Mapping[str, Any]) -> int:
    """The number of runs that shared the seconds of its process."""
    return int((manifest.get("provenance") or {}).get("num_runs", 1))


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    config, final = manifest.get("config") or {}, manifest.get("final") or {}
    model, norm, train = config.get("model") or {}, config.get("norm") or {}, config.get("train") or {}
    return {
        "network": f"{model.get('name', '')}{model.get('depth', '')}",
        "norm": norm.get("name"),
        "data": (config.get("data") or {}).get("name"),
        "lr": (config.get("optim") or {}).get("lr"),
        "batch_size": (config.get("data") or {}).get("batch_size"),
        "epochs": train.get("epochs") if train.get("steps") is None else None,
        "steps": manifest.get("num_steps"),
        "precision": config.get("precision"),
        "seed": config.get("seed"),
        "outcome": manifest.get("outcome"),
        "diverged_step": manifest.get("diverged_step"),
        "test_accuracy": final.get("test_accuracy"),
        "train_accuracy": final.get("train_accuracy"),
        "error": manifest.get("error"),
        "device": (manifest.get("provenance") or {}).get("device"),
    }


FACTS = tuple(_facts({}))  # their names
