"""Add looks to a finished run without training: at its start from the seed, at its end from kept weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from torch import nn

from bnstudy import probes
from bnstudy.config import plugins
from bnstudy.data.loader import Loader
from bnstudy.store.jobs import Job
from bnstudy.store.runs import Store, as_table, looks_of
from bnstudy.store.status import Look, holds, lacking, looks
from bnstudy.training import engine
from bnstudy.training.construct import build_network, make_loader
from bnstudy.training.observer import Observer, Rows


def complete(job: Job, store: Store) -> tuple[str, ...]:
    """Add the looks that the finished run lacks and that need no training; return the probes that looked.

    Raises what a probe raises, with the run as it was, and StoreError where the kept weights are damaged.
    """
    manifest = store.manifest(job.run_id)
    by_table = looks(job.config, [manifest])
    names = set(lacking(job.config, manifest))
    had = looks_of(manifest)
    has = {table for table, record in had.items() if table in by_table and holds(record, by_table[table], job.config)}
    missing = {table: look for table, look in by_table.items() if look.probe in names and table not in has}
    if not missing:
        return ()
    for look in missing.values():
        plugins.check_current("probes", look.probe)
    device = engine.device(job.config)
    loader = make_loader(job, device)
    end = int(manifest["num_steps"])
    possible = {table: look for table, look in missing.items() if _only_ends(look, manifest, end, loader)}
    if not possible:
        return ()
    initial = build_network(job.config, loader.shape, loader.num_classes)
    observer = Observer(possible, job.config, loader, [{k: v.clone() for k, v in initial.state_dict().items()}])
    tables: dict[str, list[Rows]] = {}
    for step, last in sorted({(0, end == 0), (end, True)}):
        network = _at(step, end, copy.deepcopy(initial), job, store).to(device)
        due = observer.due(step, last=last and manifest["status"] == "completed")
        if last and manifest["status"] == "diverged":
            due |= {table: look for table, look in possible.items() if look.plan.at_divergence}
        for rows in observer.look(0, network, step, due):
            tables.setdefault(rows.table, []).append(rows)
    joined = {name: _joined(parts) for name, parts in tables.items()}
    store.extend(job.run_id, joined, {table: look.record for table, look in possible.items()})
    return tuple(dict.fromkeys(look.probe for look in possible.values()))


def _at(step: int, end: int, network: nn.Module, job: Job, store: Store) -> nn.Module:
    """The network at its initial weights (`step` 0), or at its final ones."""
    if 0 < step == end:
        network.load_state_dict(store.weights(job.run_id))
    return network


def _only_ends(look: Look, manifest: Mapping[str, Any], end: int, loader: Loader) -> bool:
    """Whether the look needs no weights but the initial ones and, if they were kept, the final ones."""
    plan, steps = look.plan, loader.steps_per_epoch
    if any(probes.due(plan, step, steps, False) for step in range(1, end)):
        return False
    at_end = plan.at_end or plan.at_divergence or probes.due(plan, end, steps, False)
    return end == 0 or not at_end or bool(manifest.get("weights"))


def _joined(parts: Sequence[Rows]) -> pa.Table:
    return pa.concat_tables([as_table(rows.columns, rows.values) for rows in parts]).combine_chunks()
