"""How far sweeps are: the runs they ask for, compared with those that are here, published, or in training."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnstudy.config import compose
from bnstudy.store import devices, index, locks, publishing
from bnstudy.store.index import Entry
from bnstudy.store.locks import Holder
from bnstudy.store.runs import Store
from bnstudy.sweep.specs import RunSpec, kind
from bnstudy.sweep.tally import Pace, Speeds, Tally, measured, tally


@dataclass(frozen=True)
class Survey:
    """What is known of the runs in a results folder at one moment."""

    entries: Mapping[str, Entry]  # of every run that is here or was asked for
    published: Mapping[str, Mapping[str, Mapping[str, Any]]]  # by sweep and run id
    holders: Mapping[str, Holder]
    pace: Pace

    @classmethod
    def of(cls, results: Path, runs: Iterable[RunSpec]) -> Survey:
        runs = list(runs)
        entries = index.entries(results, {*Store(results).run_ids(), *(run.run_id for run in runs)})
        published = publishing.brief(results)
        pace = measured(runs, entries, results, _speeds(published))
        return cls(entries, published, locks.holders(results), pace)

    def tally(
        self,
        sweep: str,
        runs: Sequence[RunSpec],
        *,
        processes: int | None = None,
        again: bool = False,
        known: Collection[str] | None = None,
    ) -> Tally:
        """How far the sweep's runs are; with `again`, published runs do not count as done. `known`: those that do."""
        if known is None:
            rows: dict[str, Mapping[str, Any]] = {}
            for each in () if again else (*compose.header(sweep).get("runs_of", ()), sweep):
                rows |= self.published.get(each, {})
            known = {run.run_id for run in runs if run.run_id in rows and _has_looks(run, rows[run.run_id])}
        return tally(runs, self.entries, self.pace, self.holders, processes, known)


def _has_looks(run: RunSpec, row: Mapping[str, Any]) -> bool:
    """Whether the published run has every planned look; true where its table names probes without their plans."""
    looks = set(json.loads(row["looks"] or "[]"))
    return set(run.looks) <= looks or not any("@" in look for look in looks)


def _speeds(published: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Speeds:
    """The speeds of published runs that were trained on a device like this machine's."""
    speeds, gpu = Speeds(), devices.on_gpu("auto")
    for row in (row for rows in published.values() for row in rows.values()):
        there = row["device"] not in (None, "cpu")  # a GPU has the name of its kind
        if row["status"] != "completed" or not row["wall_sec"] or there != gpu:
            continue
        steps, batch = row["num_steps"] or 0, row["batch_size"]
        probes = {look.partition("@")[0] for look in json.loads(row["looks"] or "[]")}
        of = kind(row["network"], row["precision"], row["data"], row["norm"], batch, probes, steps)
        sec, share = row["wall_sec"] / (row["num_runs"] or 1), row["probe_share"] if steps else None
        speeds.add(of, max(1, steps * batch), sec, share)
    return speeds
