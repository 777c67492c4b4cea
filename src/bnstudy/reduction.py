"""What of a sweep's raw runs is kept for analysis: one row a run, and one file a table with the rows of all runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bnstudy import files, outcomes, plugins
from bnstudy.store import ARROW, State, Store

RUNS = "runs"  # the name of the table with one row a run
STAND_IN = "stand-in"  # the kind of data source that was made, not measured

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
    "device": "string",
    "threads": "int64",
    "num_runs": "int64",
    "wall_sec": "float64",
    "probe_share": "float64",
}


@dataclass(frozen=True)
class Reduction:
    """What was written: rows a table; for each table the done runs that have none; runs by state."""

    folder: Path
    rows: dict[str, int]
    without: dict[str, list[str]] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)


def reduce(
    store: Store,
    run_ids: Iterable[str],
    folder: Path,
    *,
    tables: Sequence[str] | None = None,
    rows: Mapping[str, str] | None = None,
    expected: Mapping[str, Mapping[str, Any]] | None = None,
    outcome_by: str = "accuracy",
) -> Reduction:
    """Writes `runs.parquet` and one file a table into `folder`; files of tables that are no longer there are removed.

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
    names = sorted({name for run_id in done for name in manifests[run_id]["tables"]} if tables is None else set(tables))

    runs = [_run_row(run_id, states[run_id], manifests.get(run_id), expected.get(run_id, {})) for run_id in every]
    if outcome_by == "losses":
        for row in runs:
            if row.get("outcome") is not None:
                row["outcome"], row["last_loss"] = _by_losses(store, row["run_id"], manifests[row["run_id"]])
    counts = {RUNS: len(runs)}
    _write(_runs_table(runs), folder / f"{RUNS}.parquet")
    without: dict[str, list[str]] = {}
    for name in names:
        having = [run_id for run_id in done if name in manifests[run_id]["tables"]]
        lacking = [run_id for run_id in done if name not in manifests[run_id]["tables"]]
        if lacking:
            without[name] = lacking
        if having:
            table = _joined(store, name, {run_id: manifests[run_id] for run_id in having}, queries.get(name))
            _write(table, folder / f"{name}.parquet")
            counts[name] = table.num_rows
    for path in folder.glob("*.parquet"):
        if path.stem not in counts:
            path.unlink()
    tally = {str(state): sum(s == state for s in states.values()) for state in State if state in states.values()}
    return Reduction(folder=folder, rows=counts, without=without, states=tally)


def outcome(store: Store, run_id: str, manifest: Mapping[str, Any], by: str) -> str | None:
    """What became of a done run: by "accuracy" as its manifest has it, by "losses" as `outcomes` says.

    None for a run without an update. Raises StoreError if the losses are asked for and its table `steps` is damaged.
    """
    by_accuracy: str | None = manifest["outcome"]
    return by_accuracy if by == "accuracy" or by_accuracy is None else _by_losses(store, run_id, manifest)[0]


def _by_losses(store: Store, run_id: str, manifest: Mapping[str, Any]) -> tuple[str, float]:
    steps = store.rows(run_id, manifest, "steps")
    losses = steps["loss"].to_numpy()[np.argsort(steps["step"].to_numpy(), kind="stable")]
    return outcomes.of_losses(losses), outcomes.last_loss(losses)


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


def _run_row(run_id: str, state: State, manifest: dict[str, Any] | None, config: Mapping[str, Any]) -> dict[str, Any]:
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
        "stand_in": data.get("source") == STAND_IN,
    }
    row |= {key: code.get(key) for key in ("commit", "dirty", "device", "threads", "num_runs")}
    row["commits"] = " ".join(code.get("commits") or []) or code.get("commit")  # several: resumed with other code
    return row


def _runs_table(rows: list[dict[str, Any]]) -> pa.Table:
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


def _joined(store: Store, name: str, manifests: Mapping[str, Mapping[str, Any]], query: str | None) -> pa.Table:
    columns_of = {run_id: manifest["tables"][name]["columns"] for run_id, manifest in manifests.items()}
    first, *others = columns_of
    columns = columns_of[first]
    for run_id in others:
        if columns_of[run_id] != columns:
            raise ValueError(
                f"table {name!r}: runs {first} and {run_id} have other columns "
                f"({', '.join(columns)} against {', '.join(columns_of[run_id])}); run the older one again"
            )
    parts = list[pa.Table]()
    for run_id, manifest in manifests.items():
        rows = store.rows(run_id, manifest, name)
        if "step" in columns and np.any(np.diff(steps := rows["step"].to_numpy()) < 0):
            rows = rows.take(np.argsort(steps, kind="stable"))
        parts.append(_kept(rows.select(list(columns)), name, query))
    lengths = [part.num_rows for part in parts]
    index = pa.array(np.repeat(np.arange(len(parts), dtype=np.int32), lengths))
    run_id_column = pa.DictionaryArray.from_arrays(index, pa.array(list(columns_of), type=pa.string()))
    whole = pa.concat_tables(parts).combine_chunks()
    return whole.add_column(0, "run_id", run_id_column)


def _kept(rows: pa.Table, name: str, query: str | None) -> pa.Table:
    if query is None:
        return rows
    try:
        kept = rows.to_pandas().query(query).index
    except Exception as error:  # whatever the text provokes: it is the user's
        told = f"sweep.rows.{name} = {query!r} is no query of its columns {', '.join(rows.column_names)}"
        raise ValueError(f"{told} ({error})") from error
    return rows.take(pa.array(kept, type=pa.int64()))


def _write(table: pa.Table, path: Path) -> None:
    """Text is kept once and then by number; measured numbers seldom repeat, and are packed byte by byte instead."""
    measured = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    with files.replacing(path) as part:
        pq.write_table(
            table, part, compression="zstd", row_group_size=max(1, table.num_rows), write_page_checksum=True,
            use_dictionary=[name for name in table.column_names if name not in measured],
            column_encoding=dict.fromkeys(measured, "BYTE_STREAM_SPLIT"),
        )  # fmt: skip
