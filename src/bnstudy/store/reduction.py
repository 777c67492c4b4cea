"""Reduce a sweep's raw runs for analysis: one row per run, and one file per table with the rows of all runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bnstudy.config import plugins
from bnstudy.store import files, outcomes
from bnstudy.store.runs import ARROW, State, Store, looks_of
from bnstudy.store.status import look_key

if TYPE_CHECKING:
    import pandas as pd

RUNS = "runs"  # the name of the table with one row per run
SYNTHETIC = ("synthetic", "stand-in")  # data that was generated; the second is what manifests said before

# Columns every `runs` table has, in this order; options of networks and norms stand between, as far as there are any.
_FIRST = {"run_id": "string", "model": "string", "network": "string", "norm": "string", "init": "string"}
_LAST = {
    "data": "string",
    "batch_size": "int64",
    "normalise": "string",
    "augment": "bool",
    "num_train": "int64",
    "num_test": "int64",
    "lr": "float64",
    "momentum": "float64",
    "weight_decay": "float64",
    "milestones": "string",
    "decay": "float64",
    "epochs": "int64",
    "steps": "int64",
    "precision": "string",
    "seed": "int64",
    "status": "string",
    "outcome": "string",
    "diverged_step": "int64",
    "error": "string",
    "num_steps": "int64",
    "final_train_loss": "float64",
    "final_train_accuracy": "float64",
    "final_test_loss": "float64",
    "final_test_accuracy": "float64",
    "data_source": "string",
    "data_sha256": "string",
    "data_title": "string",
    "stand_in": "bool",
    "commit": "string",
    "commits": "string",
    "dirty": "string",
    "code": "string",  # JSON: the components' files and the checksums of their code
    "looks": "string",  # JSON: probes with their plans, as `look_key` has them
    "device": "string",
    "threads": "int64",
    "num_runs": "int64",
    "kernels": "bool",  # whether kernels of the project's own computed any part of it; empty: not known
    "wall_sec": "float64",
    "probe_share": "float64",
}


def reduce(
    store: Store,
    run_ids: Iterable[str],
    folder: Path,
    *,
    tables: Sequence[str] | None = None,
    rows: Mapping[str, str] | None = None,
    expected: Mapping[str, Mapping[str, Any]] | None = None,
    outcome_by: str = "accuracy",
    looks: Mapping[str, Mapping[str, str]] | None = None,
    published: Mapping[str, pa.Table] | None = None,
) -> None:
    """Write `runs.parquet` and one file per table into `folder`; files of tables that are no longer there are removed.

    `looks` maps run ids to the probes that are wanted and the run's tables that hold them (None: every table, by its
    own name). `published` are reduced tables of further runs, which join those of the raw ones, as far as `rows` keeps
    them.

    `expected` maps run ids to nested configurations, so that runs which do not exist still have their row, with their
    status. Only completed and diverged runs give rows to the other tables, of which `rows` (table -> pandas query) may
    keep a part. `outcome_by` (see `outcome`) says what the runs' column `outcome` is judged by; by losses, `last_loss`
    stands beside it. The bytes depend on the runs alone: rows are sorted by run id, then step, and keep the order of
    their probe. Raises ValueError if two runs disagree on a table's columns or a query does not fit them, and
    StoreError if a run's table is damaged.
    """
    expected, queries = expected or {}, rows or {}
    every = sorted({*run_ids, *expected})
    states = {run_id: store.state(run_id) for run_id in every}
    manifests = {
        run_id: store.manifest(run_id) for run_id in every if states[run_id].done or states[run_id] == State.failed
    }
    done = [run_id for run_id in every if states[run_id].done]
    tables_by_probe = {run_id: None if looks is None else looks.get(run_id, {}) for run_id in every}
    held = {run_id: _held(manifests[run_id], tables_by_probe[run_id]) for run_id in done}
    names = sorted({name for run_id in done for name in held[run_id]} if tables is None else set(tables))

    runs = [
        _run_row(run_id, states[run_id], manifests.get(run_id), expected.get(run_id, {}), tables_by_probe[run_id])
        for run_id in every
    ]
    if outcome_by == "losses":
        for row in runs:
            if row.get("outcome") is not None:
                steps = store.rows(row["run_id"], manifests[row["run_id"]], "steps")
                row["outcome"], row["last_loss"] = by_losses(row["outcome"], steps)
    published = dict(published or {})
    runs += published.pop(RUNS).to_pylist() if RUNS in published else []
    names = sorted({*names, *published}) if tables is None else names
    reduced = {RUNS: runs_table(sorted(runs, key=lambda row: row["run_id"]))}
    for name in names:
        having = {run_id: held[run_id][name] for run_id in done if name in held[run_id]}
        parts = _parts(store, name, having, manifests, queries.get(name))
        if parts or name in published:
            earlier = by_run(filtered(published[name], name, queries.get(name))) if name in published else {}
            reduced[name] = _joined(name, parts, earlier)
    for name, table in reduced.items():
        _write(table, folder / f"{name}.parquet")
    for path in folder.glob("*.parquet"):
        if path.stem not in reduced:
            path.unlink()


def overview(store: Store) -> pd.DataFrame:
    """One row a raw run, with the columns of the table `runs`; tables are not read, only their sizes compared."""
    states = {run_id: store.state(run_id, verify=False) for run_id in store.run_ids()}
    ended = [run_id for run_id, state in states.items() if state.done or state == State.failed]
    manifests = {run_id: store.manifest(run_id) for run_id in ended}
    rows = [_run_row(run_id, state, manifests.get(run_id), {}, None) for run_id, state in states.items()]
    frame: pd.DataFrame = runs_table(rows).to_pandas()
    return frame


def outcome(store: Store, run_id: str, manifest: Mapping[str, Any], by: str) -> str | None:
    """What became of a done run: by "accuracy" as its manifest has it, by "losses" as `outcomes` says.

    None for a run without an update. Raises StoreError if the losses are asked for and its table `steps` is damaged.
    """
    by_accuracy: str | None = manifest["outcome"]
    if by == "accuracy" or by_accuracy is None:
        return by_accuracy
    return by_losses(by_accuracy, store.rows(run_id, manifest, "steps"))[0]


def by_losses(outcome: str, steps: pa.Table) -> tuple[str, float]:
    """The outcome by the losses of a run's table `steps`, and their last mean; `outcome`: the one by accuracy."""
    losses = steps["loss"].to_numpy()[np.argsort(steps["step"].to_numpy(), kind="stable")]
    diverged = outcome == outcomes.DIVERGED  # by the bound that the run was given, which may be another
    return outcomes.DIVERGED if diverged else outcomes.of_losses(losses), outcomes.last_loss(losses)


def config_columns(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested configuration as flat columns: `model`, `network` (name with depth), `norm`, `lr`, `seed`, ...

    The network's options keep their names (`depth`, `padding`), those of the norm get the prefix `norm_`. A budget in
    steps leaves `epochs` empty. Keys that are absent stay absent.
    """
    columns: dict[str, Any] = {}
    model, norm = dict(config.get("model", {})), dict(config.get("norm", {}))
    if model:
        name = model.pop("name")
        options = _defaults("models", name) | model
        columns |= {"model": name, "network": f"{name}{options.get('depth', '')}", **options}
    if norm:
        name = norm.pop("name")
        columns |= {
            "norm": name,
            **{f"norm_{k}": v for k, v in ({"where": "*"} | _defaults("norms", name) | norm).items()},
        }
    data = dict(config.get("data", {}))
    if data:
        columns |= {"data": data.pop("name", None), **data}
    columns |= config.get("optim", {})
    train = config.get("train", {})
    if train:
        in_steps = train.get("steps") is not None
        columns |= {"epochs": None if in_steps else train.get("epochs"), "steps": train.get("steps")}
    columns |= {key: config[key] for key in ("init", "init_scale", "precision", "seed") if key in config}
    return {key: json.dumps(value) if isinstance(value, list | tuple) else value for key, value in columns.items()}


@cache  # which components there are is looked up on the disk
def _defaults(kind: str, name: str) -> dict[str, Any]:
    """The component's defaults; a component that has since been removed leaves what its run recorded."""
    return plugins.defaults(kind, name) if name in plugins.names(kind) else {}


def _run_row(
    run_id: str,
    state: State,
    manifest: dict[str, Any] | None,
    config: Mapping[str, Any],
    table_by_probe: Mapping[str, str] | None,
) -> dict[str, Any]:
    if manifest is None:  # absent, partial or damaged: only what was asked for is known
        return {"run_id": run_id, **config_columns(config), "status": str(state)}
    data, code = manifest.get("data") or {}, manifest.get("provenance") or {}
    row = {"run_id": run_id, **config_columns(manifest["config"]), "status": str(state)}
    row |= {
        key: manifest.get(key) for key in ("outcome", "diverged_step", "error", "num_steps", "wall_sec", "probe_share")
    }
    row |= {f"final_{key}": value for key, value in (manifest.get("final") or {}).items()}
    row |= {
        "data_source": data.get("source"),
        "data_sha256": data.get("sha256"),
        "data_title": data.get("title") or None,  # manifests of earlier releases have none
        "stand_in": data.get("source") in SYNTHETIC,  # the column has the name that published tables have
    }
    row |= {key: code.get(key) for key in ("commit", "dirty", "device", "threads", "num_runs")}
    parts = [part for part in (*(code.get("earlier") or []), code) if "kernels" in part]
    row["kernels"] = any(part.get("kernels_used", part["kernels"]) for part in parts) if parts else None
    if "code" in manifest:
        row["code"] = json.dumps(manifest["code"])
        looks = looks_of(manifest)
        tables = looks if table_by_probe is None else looks.keys() & table_by_probe.values()
        row["looks"] = json.dumps(sorted(look_key(looks[table]["probe"], looks[table]["plan"]) for table in tables))
    row["commits"] = " ".join(code.get("commits") or []) or code.get("commit")  # several: resumed with other code
    return row


def runs_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The table `runs` of these rows."""
    options = sorted({key for row in rows for key in row} - set(_FIRST) - set(_LAST))
    columns = {}
    for name in [*_FIRST, *options, *_LAST]:
        kind = _FIRST.get(name) or _LAST.get(name)
        values = [row.get(name) for row in rows]
        columns[name] = pa.array(values, type=ARROW[kind] if kind else _common_type(values))
    return pa.table(columns)


def _common_type(values: list[Any]) -> pa.DataType:
    """Numbers 1 and 1.0 in one column are floating point; values of several kinds, or none at all, become text."""
    given = {type(v) for v in values if v is not None}
    if given == {bool}:
        return pa.bool_()
    if given == {int}:
        return pa.int64()
    if given and given <= {int, float}:
        return pa.float64()
    for index, value in enumerate(values):
        values[index] = None if value is None else str(value)
    return pa.string()


def run_ids_of(table: pa.Table) -> set[str]:
    """The runs that have rows in a reduced table."""
    return set(table["run_id"].cast(pa.string()).unique().to_pylist())


def chosen(tables: Mapping[str, pa.Table], run_ids: Iterable[str]) -> dict[str, pa.Table]:
    """The rows of these runs; a table in which none has any is left out."""
    ids = pa.array(sorted(run_ids), type=pa.string())
    parts = {name: table.filter(pc.is_in(table["run_id"].cast(pa.string()), ids)) for name, table in tables.items()}
    return {name: part for name, part in parts.items() if part.num_rows}


def by_run(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each run of a reduced table, in their order, without the column `run_id`."""
    run_ids = table["run_id"].cast(pa.string()).to_numpy(zero_copy_only=False)
    rows = table.drop_columns(["run_id"])
    starts = [0, *(np.flatnonzero(run_ids[1:] != run_ids[:-1]) + 1), len(run_ids)] if len(run_ids) else []
    return {
        str(run_ids[start]): rows.slice(start, stop - start).combine_chunks()
        for start, stop in itertools.pairwise(starts)
    }


def _held(manifest: Mapping[str, Any], table_by_probe: Mapping[str, str] | None) -> dict[str, str]:
    """The run's tables that the sweep keeps, by the name that they have there."""
    there = manifest["tables"]
    if table_by_probe is None:
        return {name: name for name in there}
    others = {name: name for name in there if name not in looks_of(manifest)}
    return others | {probe: table for probe, table in table_by_probe.items() if table in there}


def _parts(
    store: Store,
    name: str,
    tables: Mapping[str, str],
    manifests: Mapping[str, Mapping[str, Any]],
    query: str | None,
) -> dict[str, pa.Table]:
    """The rows that each raw run has in its table, or that the query keeps of them, by step."""
    columns_of = {run_id: manifests[run_id]["tables"][table]["columns"] for run_id, table in tables.items()}
    parts = {}
    for run_id, table in tables.items():
        first, *_ = columns_of
        columns = columns_of[run_id]
        if columns != columns_of[first]:
            raise ValueError(
                f"table {name!r}: runs {first} and {run_id} have other columns "
                f"({', '.join(columns_of[first])} against {', '.join(columns)}); run the older one again"
            )
        rows = store.rows(run_id, manifests[run_id], table)
        if "step" in columns and np.any(np.diff(steps := rows["step"].to_numpy()) < 0):
            rows = rows.take(np.argsort(steps, kind="stable"))
        parts[run_id] = filtered(rows.select(list(columns)), name, query)
    return parts


def _joined(name: str, own: Mapping[str, pa.Table], published: Mapping[str, pa.Table]) -> pa.Table:
    """One table of all runs, by run id. A column that only some have is empty for the others; own columns come first.

    Raises ValueError where a column has values of two kinds that cannot be one.
    """
    schemas = [part.schema.remove_metadata() for parts in (own, published) for part in parts.values()]
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        message = f"table {name!r}: published rows do not fit new ones ({error})"
        raise ValueError(f"{message}; REPLACE=1 takes the raw runs instead") from None
    run_ids = sorted({*own, *published})
    parts = [own[run_id] if run_id in own else published[run_id] for run_id in run_ids]
    lengths = [part.num_rows for part in parts]
    whole = pa.concat_tables([schema.empty_table(), *parts], promote_options="permissive").combine_chunks()
    given = [run_id for run_id, length in zip(run_ids, lengths, strict=True) if length]
    index = pa.array(np.repeat(np.arange(len(given), dtype=np.int32), [n for n in lengths if n]))
    return whole.add_column(0, "run_id", pa.DictionaryArray.from_arrays(index, pa.array(given, type=pa.string())))


def check_query(name: str, columns: Mapping[str, str], query: str) -> None:
    """Raises ValueError where the query that `sweep.rows` has for this table does not fit its columns."""
    filtered(pa.schema([(column, ARROW[kind]) for column, kind in columns.items()]).empty_table(), name, query)


def filtered(rows: pa.Table, name: str, query: str | None) -> pa.Table:
    """The rows of the table `name` that the query of `sweep.rows` keeps; all where there is none.

    Raises ValueError as `check_query`.
    """
    if query is None:
        return rows
    try:
        index = rows.to_pandas().query(query).index
    except Exception as error:  # whatever the text provokes: it is the user's
        message = f"sweep.rows.{name} = {query!r} is no query of its columns {', '.join(rows.column_names)}"
        raise ValueError(f"{message} ({error})") from error
    return rows.take(pa.array(index, type=pa.int64()))


def _write(table: pa.Table, path: Path) -> None:
    """Text is kept once and then by number; measured numbers seldom repeat, and are packed byte by byte instead."""
    measured = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    with files.writing(path) as file:
        pq.write_table(
            table, file, compression="zstd", row_group_size=max(1, table.num_rows), write_page_checksum=True,
            use_dictionary=[name for name in table.column_names if name not in measured],
            column_encoding=dict.fromkeys(measured, "BYTE_STREAM_SPLIT"),
        )  # fmt: skip
