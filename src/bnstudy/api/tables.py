"""Published and own results as DataFrames: tables with their runs' columns, sweeps, raw runs, claims."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from bnstudy.analysis import frames
from bnstudy.api import _places
from bnstudy.config import project
from bnstudy.store import paths, reduction
from bnstudy.store.runs import Store

PRESETS = (*paths.PRESETS, paths.CUSTOM)
Folder = str | PathLike[str]


def table(
    sweep: str,
    name: str = "runs",
    *,
    results: Folder | None = None,
    preset: str | None = None,
    query: str | None = None,
) -> pd.DataFrame:
    """One table of a sweep, each row with the columns of its run.

    `sweep` is one of `bnstudy.sweeps()`. `name` is a table: `runs` (one row per run: its configuration, status, final
    losses and accuracies as shares of 1), `epochs` (the curves), or a probe's name, with the columns that the probe's
    docstring explains. Where the table and the runs have a column of the same name (the `depth` of a layer and of a
    network, the `lr` of an epoch and of a run) the run's becomes `run_<name>`.

    By default the table is the published one. `results` names another results folder, and `preset` (`quick`, `full`,
    `custom`) takes the tables that a sweep of that preset last wrote there. `query` keeps the rows for which it holds,
    in the syntax of `DataFrame.query`, as in `"norm == 'batch' and lr < @largest"`, where `largest` is a variable of
    the caller; the result may be empty.

    Raises ValueError for an unknown sweep, table or preset, an invalid query, and a table that does not exist.
    """
    if preset is not None and preset not in PRESETS:
        raise _places.unknown("preset", preset, PRESETS)
    workspace = paths.workspace(_places.results(results), preset)
    folder = paths.tables(workspace, sweep)
    if not folder.is_dir() and sweep not in (known := _sweep_names(workspace)):
        raise _places.unknown("sweep", sweep, known)
    if name not in (there := _table_names(folder)) and there:
        raise _places.unknown(f"table of {sweep}", name, there)
    try:
        frame = frames.load(workspace, sweep, name)
    except frames.MissingTable as error:
        if results is None:
            raise
        message = f"results = {str(results)!r}: {error}; make takes the folder as ARGS=--results=FOLDER"
        raise frames.MissingTable(message) from None
    if query is None:
        return frame
    try:
        return frame.query(query, level=1).reset_index(drop=True)  # @name is the caller's
    except Exception as error:  # whatever the text provokes: it is the user's
        raise ValueError(
            f"query = {query!r}: {error}; give a condition on the columns {', '.join(map(str, frame))}"
        ) from None


def sweeps() -> pd.DataFrame:
    """One row per sweep: its question, what it costs, and what of it is published.

    Columns: `sweep`, its name; `about`, why it exists; `minutes_quick` and `minutes_full`, how long its presets take on
    two CPU cores (NaN: not measured); `suites`; `published_runs`, the number of runs behind the published tables (0:
    not published), and `published_tables`, their names.
    """
    from bnstudy.config import compose  # loads Hydra

    workspace = paths.workspace(_places.results(), None)
    rows = []
    for name, header in compose.headers().items():
        folder = paths.tables(workspace, name)
        there = _table_names(folder)
        minutes = header.get("minutes") or {}
        row = {
            "sweep": name,
            "about": " ".join(compose.describe(name).split()),
            "minutes_quick": minutes.get("quick"),
            "minutes_full": minutes.get("full"),
            "suites": ", ".join(header.get("suites") or ()),
            "published_runs": pq.read_metadata(folder / "runs.parquet").num_rows if "runs" in there else 0,
            "published_tables": ", ".join(there),
        }
        rows.append(row)
    return pd.DataFrame(rows).astype({"minutes_quick": "float64", "minutes_full": "float64"})


def runs(results: Folder | None = None) -> pd.DataFrame:
    """One row a raw run in a results folder (default: the project's), with the columns of the table `runs`.

    Among them `run_id`, by which `bnstudy.run` opens one; `status` (completed, diverged, failed, damaged, or partial:
    not finished); the configuration (`network`, `norm`, `data`, `lr`, `seed`, ...), empty for a run that has not ended;
    `final_test_accuracy` and the like as shares of 1; `wall_sec`, seconds. The sizes of the tables are compared with
    the manifests, their checksums are not. No rows where there are no runs. Raises ValueError where `results` is a
    file.
    """
    return reduction.overview(Store(_places.results(results)))


def claims(results: Folder | None = None, *, preset: str | None = None) -> pd.DataFrame:
    """One row per claim: what is claimed, by which criterion it is judged, what was measured, and the verdict.

    `results` and `preset` as in `bnstudy.table`. By default as published; in a results folder where nothing is, as
    `make report` last judged its tables (in `redrawn/`). Columns: `id`; `where` in the paper; `says`;
    `criterion`; `scale` (init: untrained; paper: as the paper trains; others: docs/method.md); `origin` (paper, course,
    ours) with `calibrated` and `family`; `measured` and `spread` as text; `n`, runs of the smaller arm; `verdict`
    (reproduced, partly, not reproduced, undecided, not run) with its `reason`; `given`, what it is conditional on;
    `data`; `commit`; `published`, the paper's numbers; `to_run`, `finding`, `effect`, `explanation`, `test`,
    `disputed`.

    Raises ValueError where no claims were judged there.
    """
    if preset is not None and preset not in PRESETS:
        raise _places.unknown("preset", preset, PRESETS)
    folder = paths.workspace(_places.results(results), preset)
    places = [each / "claims.json" for each in (folder, *(() if preset else (paths.redrawn(folder),)))]
    path = next((each for each in places if each.is_file()), None)
    if path is None:
        raise ValueError(f"{places[0]} is missing: {_judging(folder)} judges the claims from the tables")
    try:
        return pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        remedy = f"remove it, and {_judging(folder)} writes the claims again"
        raise ValueError(f"{path} cannot be read ({error}): {remedy}") from None


def _judging(workspace: Path) -> str:
    """The command that judges the claims of the tables there."""
    folder = workspace.absolute()
    if folder.parent.name == paths.CUSTOM:
        return f"make report NAME={folder.name}{project.elsewhere(folder.parent.parent)}"
    if folder.name in PRESETS:
        return f"make report PRESET={folder.name}{project.elsewhere(folder.parent)}"
    return f"make report{project.elsewhere(folder)}"


def _sweep_names(workspace: Path) -> list[str]:
    defined = {path.stem for folder in project.sweep_folders() for path in folder.glob("*.yaml")}
    return sorted(defined | {path.name for path in (workspace / "tables").glob("*") if path.is_dir()})


def _table_names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.parquet"))
