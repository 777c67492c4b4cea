"""The only writer and reader of raw runs: a manifest and one parquet file per table; incomplete runs are recognised.

A run's folder holds `manifest.json` (written last, so its presence means the run ended) and `<table>.parquet`. While a
run is under way its rows lie in immutable segments; a checkpoint names the segments that belong to it, with their
checksums, and whatever a killed process wrote after its last checkpoint is dropped on resuming. A run that failed has
a manifest that says so and keeps its segments.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bnstudy.store import files, paths

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

SCHEMA = 3
SCHEMAS = (1, 2, SCHEMA)  # schema 1 had no checksum; before schema 3 the probes stood in the configuration
Columns = Mapping[str, str]  # column -> arrow type name
Ending = tuple[int, int]  # inode and time of a manifest: tells one ending of a run from a later one
ARROW = {
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
}


class State(StrEnum):
    """The state of a run on the disk. Completed and diverged are done; the others can be trained."""

    absent = "absent"
    partial = "partial"  # begun, not ended
    completed = "completed"
    diverged = "diverged"
    failed = "failed"
    damaged = "damaged"  # ended once, but the manifest or a table is not what was written

    @property
    def done(self) -> bool:
        return self in (State.completed, State.diverged)


@dataclass(frozen=True)
class RunEnded:
    """How a run ended; `state`: a `State`, or that another process holds it."""

    run_id: str
    state: str
    note: str = ""

    @property
    def done(self) -> bool:
        return self.state in (State.completed, State.diverged)


class StoreError(ValueError):
    """A run that cannot be read as good; the message names the file and the remedy."""


class Store:
    """Raw runs under one results root. Raises StoreError where that is a file, or below one."""

    def __init__(self, results: Path) -> None:
        self.results = Path(results)
        there = next(path for path in (self.results, *self.results.absolute().parents) if path.exists())
        if not there.is_dir():
            raise StoreError(f"--results {results}: {there} is a file; name a folder, or move the file away")

    def run_ids(self) -> list[str]:
        """Every run that has a folder, sorted."""
        folder = paths.runs(self.results)
        return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []

    def require(self, run_id: str) -> None:
        """Raises ValueError, with the names that are near, where no run has this very name."""
        there = self.run_ids()
        if run_id not in there:
            near = [name for name in there if run_id and name.startswith(run_id)][:3]
            near = near or difflib.get_close_matches(run_id, there)
            meant, folder = f"did you mean {' or '.join(near)}?", paths.runs(self.results)
            raise ValueError(f"there is no run {run_id!r}; {meant if near else f'{len(there)} runs are in {folder}'}")

    def state(self, run_id: str, *, verify: bool = True) -> State:
        """The run's state; with `verify`, checksums of all its tables are compared, otherwise only their sizes."""
        folder = paths.run(self.results, run_id)
        if not folder.is_dir():
            return State.absent
        if not (folder / paths.MANIFEST).exists():
            return State.partial
        try:
            return State(self.check(run_id, verify=verify)["status"])
        except StoreError:
            return State.damaged

    def check(self, run_id: str, *, verify: bool = True) -> dict[str, Any]:
        """The manifest of a run whose files are what was written; `verify` as in `state`. Raises StoreError."""
        manifest = self.manifest(run_id)
        for name in manifest["tables"]:
            self._check(run_id, manifest, name, verify=verify)
        if manifest.get("weights"):
            self._check_weights(run_id, manifest, verify=verify)
        return manifest

    def manifest(self, run_id: str) -> dict[str, Any]:
        """Raises StoreError if it is missing, is not what `Writer.finish` writes, or belongs to another run."""
        path = paths.run(self.results, run_id) / paths.MANIFEST
        remedy = f"run its sweep again, or remove the folder {path.parent}"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{path} is missing: the run has not ended; {remedy}") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read ({error}); {remedy}") from None
        if not isinstance(manifest, dict) or manifest.get("schema") not in SCHEMAS or manifest.get("run_id") != run_id:
            raise StoreError(f"{path} is not the manifest (schema {SCHEMA}) of run {run_id}; {remedy}")
        written = manifest.pop("sha256", None)
        if (written is not None or manifest["schema"] > 1) and written != _digest(manifest):
            raise StoreError(f"{path} is not what was written (checksum); {remedy}")
        if manifest.get("status") not in ("completed", "diverged", "failed") or not _are_tables(manifest.get("tables")):
            raise StoreError(f"{path} names no known status or no tables; {remedy}")
        return manifest

    def table(self, run_id: str, name: str) -> pd.DataFrame:
        """One table with `run_id` as its first column. Raises StoreError if it is missing or not the bytes written."""
        frame = self.rows(run_id, self.manifest(run_id), name).to_pandas()
        frame.insert(0, "run_id", run_id)
        return frame

    def rows(self, run_id: str, manifest: Mapping[str, Any], name: str) -> pa.Table:
        """One table as it was written, checked by a manifest that was read before. Raises StoreError."""
        if name not in manifest["tables"]:
            known = ", ".join(manifest["tables"])
            raise StoreError(f"run {run_id} has no table {name!r}; it has: {known}")
        path = self._check(run_id, manifest, name, verify=True)
        with pa.OSFile(str(path)) as opened, pq.ParquetFile(opened) as file:
            return file.read()  # of one small file, a quarter of what read_table takes

    def weights(self, run_id: str) -> dict[str, Tensor]:
        """The run's last parameters and running statistics, by their names in its plain network (`state_dict`).

        Raises StoreError where none were kept, or where the file is not what was written.
        """
        from safetensors.torch import load  # and with it torch

        return dict(load(self.weights_file(run_id).read_bytes()))

    def weights_file(self, run_id: str) -> Path:
        """The file of the kept weights (safetensors), checked. Raises StoreError as `weights` does."""
        manifest = self.manifest(run_id)
        if not manifest.get("weights"):
            why = "was trained with runtime.keep_weights=false, or by a version that kept none"
            remedy = f"forget it (clean-run {run_id}) and run it again"
            raise StoreError(f"run {run_id} has no weights: it failed, or {why}; {remedy}")
        return self._check_weights(run_id, manifest, verify=True)

    def extend(self, run_id: str, tables: Mapping[str, pa.Table], looks: Mapping[str, Any]) -> None:
        """Add tables, each with the look that it holds, to a finished run. The manifest, written last, decides.

        Where that breaks off, the run lacks the looks that were to be replaced, and is whole without them.
        """
        manifest, folder = self.manifest(run_id), paths.run(self.results, run_id)
        before, had = manifest.pop("tables"), looks_of(manifest)
        untouched = {name: entry for name, entry in before.items() if name not in looks}
        if untouched != before:  # no manifest may name a table that is being overwritten
            manifest["looks"] = {name: look for name, look in had.items() if name not in looks}
            files.write_text(folder / paths.MANIFEST, sealed(manifest, run_id, untouched))
        entries = {name: _write_table(folder / f"{name}.parquet", table) for name, table in tables.items()}
        manifest["looks"] = {**had, **looks}
        files.write_text(folder / paths.MANIFEST, sealed(manifest, run_id, {**untouched, **entries}))
        (folder / paths.TRACEBACK).unlink(missing_ok=True)  # of a look that failed before

    def writer(self, run_id: str) -> Writer:
        """A writer that begins the run, or resumes it after `Writer.restore`."""
        return Writer(paths.run(self.results, run_id), run_id)

    def ending(self, run_id: str) -> Ending | None:
        """A stamp that tells one ending of a run from a later one; None where the run has not ended."""
        try:
            stat = (paths.run(self.results, run_id) / paths.MANIFEST).stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def retract_failure(self, run_id: str) -> None:
        """Remove the manifest of a failed run, which is under way again."""
        if self.state(run_id, verify=False) == State.failed:
            (paths.run(self.results, run_id) / paths.MANIFEST).unlink()

    def _check(self, run_id: str, manifest: Mapping[str, Any], name: str, *, verify: bool) -> Path:
        path = paths.run(self.results, run_id) / f"{name}.parquet"
        return _checked(path, manifest["tables"][name], verify=verify)

    def _check_weights(self, run_id: str, manifest: Mapping[str, Any], *, verify: bool) -> Path:
        return _checked(paths.run(self.results, run_id) / paths.WEIGHTS, manifest["weights"], verify=verify)


def _checked(path: Path, entry: Mapping[str, Any], *, verify: bool) -> Path:
    """The file, if it is the one that the manifest's entry describes. Raises StoreError."""
    try:
        good = path.stat().st_size == entry["bytes"] and (not verify or files.sha256(path) == entry["sha256"])
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); run its sweep again") from None
    if not good:
        raise StoreError(f"{path} is not the file that was written (checksum); run its sweep again")
    return path


class Writer:
    """One run's rows: buffered, flushed to segments at each checkpoint, joined to one file per table at the end."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.run_id = run_id
        self._folder = folder
        self._segments = folder / "segments"
        self._columns: dict[str, dict[str, str]] = {}
        self._buffer: dict[str, list[pa.Table]] = {}
        self._flushed: dict[str, list[str]] = {}  # checksums of the segments
        self._segments.mkdir(parents=True, exist_ok=True)

    def add(self, table: str, columns: Columns, rows: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
        """Append rows, given by column, all of one length, to a table of the columns named."""
        self._columns.setdefault(table, dict(columns))
        self._buffer.setdefault(table, []).append(as_table(columns, rows))

    def flush(self) -> dict[str, Any]:
        """Write what is buffered; return what a checkpoint must keep for `restore`."""
        for table, parts in self._buffer.items():
            flushed = self._flushed.setdefault(table, [])
            path = self._segment(table, len(flushed))
            with files.writing(path) as file:
                pq.write_table(pa.concat_tables(parts), file)
            flushed.append(files.sha256(path))
        self._buffer.clear()
        return {"columns": self._columns, "segments": {table: list(sums) for table, sums in self._flushed.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint; what was written later is dropped.

        Raises StoreError, with everything as it was, if a segment is missing or is not what was written.
        """
        flushed = {table: list(sums) for table, sums in state["segments"].items()}
        segments = {self._segment(table, n): digest for table, sums in flushed.items() for n, digest in enumerate(sums)}
        for path, digest in segments.items():
            _check_segment(path, digest)
        self._columns = {table: dict(columns) for table, columns in state["columns"].items()}
        self._flushed = flushed
        self._buffer.clear()
        for path in self._segments.iterdir():
            if path not in segments:
                path.unlink()

    def again(self) -> None:
        """Begin anew beside what the run has, which stays until `finish` replaces it."""
        self._columns, self._buffer, self._flushed = {}, {}, {}
        shutil.rmtree(self._segments, ignore_errors=True)
        self._segments.mkdir()

    def restart(self) -> None:
        """Drop everything: the run begins anew."""
        self._columns, self._buffer, self._flushed = {}, {}, {}
        (self._folder / paths.MANIFEST).unlink(missing_ok=True)  # first: without tables it would be a damaged run's
        for path in self._folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._segments.mkdir()

    def finish(self, manifest: Mapping[str, Any], weights: bytes | None = None) -> None:
        """Join the segments, one row group per table, and write the weights and, last, the manifest.

        The bytes of a table do not depend on how often the run was interrupted.
        """
        self.flush()
        tables = {}
        for table, _columns in sorted(self._columns.items()):
            segments = {self._segment(table, n): digest for n, digest in enumerate(self._flushed[table])}
            for path, digest in segments.items():
                _check_segment(path, digest)
            whole = pa.concat_tables([_segment_table(path) for path in segments]).combine_chunks()
            tables[table] = _write_table(self._folder / f"{table}.parquet", whole)
        entry = None if weights is None else self._write_weights(weights)
        files.write_text(self._folder / paths.MANIFEST, sealed({**manifest, "weights": entry}, self.run_id, tables))

    def _write_weights(self, weights: bytes) -> dict[str, Any]:
        with files.writing(path := self._folder / paths.WEIGHTS) as file:
            file.write(weights)
        return {"bytes": len(weights), "sha256": files.sha256(path)}

    def clean(self) -> None:
        """Remove the segments, once no checkpoint names them any more."""
        shutil.rmtree(self._segments, ignore_errors=True)

    def _segment(self, table: str, number: int) -> Path:
        return self._segments / f"{table}-{number:06d}.parquet"


def by_column(rows: Iterable[Mapping[str, Any]], columns: Columns) -> dict[str, list[Any]]:
    """Rows as dictionaries, turned into columns. Raises KeyError for a row that lacks a column."""
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in columns}


def as_table(columns: Columns, rows: Mapping[str, Sequence[Any] | np.ndarray]) -> pa.Table:
    """Rows, given by column, all of one length, as a table of the columns named."""
    return pa.table({name: pa.array(rows[name], type=ARROW[kind], from_pandas=False) for name, kind in columns.items()})


def looks_of(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The look of each table: probe, plan (resolved), and the checksum of the probe's code, where known.

    Such a table need not exist: a look that found no rows has none.
    """
    if "looks" in manifest:
        return dict(manifest["looks"])
    plans = manifest.get("config", {}).get("probes", {})  # manifests of schema 1 and 2
    return {name: {"probe": name, "plan": plan, "code": None} for name, plan in plans.items()}


def sealed(manifest: Mapping[str, Any], run_id: str, tables: Mapping[str, Any]) -> str:
    """The text of a run's manifest, with its checksum."""
    whole = {**manifest, "schema": SCHEMA, "run_id": run_id, "tables": tables}
    return json.dumps(whole | {"sha256": _digest(whole)}, indent=1) + "\n"


def _write_table(path: Path, table: pa.Table) -> dict[str, Any]:
    """Write one table; return its entry in the manifest."""
    kinds = {str(kind): name for name, kind in ARROW.items()}
    with files.writing(path) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=max(1, table.num_rows))
    return {
        "rows": table.num_rows,
        "columns": {field.name: kinds[str(field.type)] for field in table.schema},
        "bytes": path.stat().st_size,
        "sha256": files.sha256(path),
    }


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _segment_table(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as opened:  # a path would be read as an address
        return pq.read_table(opened)


def _check_segment(path: Path, digest: str) -> None:
    try:
        good = files.sha256(path) == digest
    except FileNotFoundError:
        raise StoreError(f"{path} is missing") from None
    if not good:
        raise StoreError(f"{path} is not the file that was written (checksum)")


def _are_tables(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
        for entry in value.values()
    )
