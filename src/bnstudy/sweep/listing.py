"""List, show and remove the runs that are in a results folder."""

from __future__ import annotations

import contextlib
import csv
import difflib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnstudy.store import index, locks, paths
from bnstudy.store.jobs import let_go
from bnstudy.store.runs import State, Store, StoreError
from bnstudy.store.words import duration

SHOWN = ("run", "state", "test_accuracy", "age", "sweep")  # on a terminal; a CSV file has every column
COLUMNS = ("run", "state", "sweep", *index.FACTS, "wall_sec", "ended")
WORDS = {State.partial: "interrupted"}


def ls(filters: Sequence[str], results: Path, *, as_csv: bool = False) -> int:
    """Print a line for each run, the latest last: those whose columns have the values, or whose names have the text.

    Raises ValueError for an unknown column.
    """
    rows = _rows(results)
    for text in filters:
        key, equals, value = text.partition("=")
        if equals and key not in COLUMNS:
            raise ValueError(f"{text}: there is no column {key!r}; there are: {', '.join(COLUMNS)}")
        rows = [row for row in rows if (_is(row[key], value) if equals else text in row["run"])]
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_text(row[column]) for column in COLUMNS] for row in rows)
    else:
        lines = [[_shown(row, key) for key in SHOWN] for row in rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)] if lines else []
        for line in lines:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        print(f"{len(rows)} runs in {paths.runs(results)}", file=sys.stderr)
    return 0


def _is(value: Any, wanted: str) -> bool:
    """Whether a column's value is one of those asked for, with commas between; numbers however they are written."""
    if _text(value) in (wanted, *wanted.split(",")):
        return True
    if not isinstance(value, int | float):
        return False
    with contextlib.suppress(ValueError):
        return any(float(part) == value for part in wanted.split(","))
    return False


def show(name: str, results: Path) -> int:
    """Print what is known of a run: its state, configuration, results, tables, and what it was trained with."""
    store, run_id = Store(results), whole_name(name, results)
    folder, holder = paths.run(results, run_id), locks.holder(results, run_id)
    manifest, state, damage = dict[str, Any](), State.partial, ""
    if (folder / paths.MANIFEST).exists():
        try:
            manifest = store.check(run_id)
            state = State(manifest["status"])
        except StoreError as error:
            state, damage = State.damaged, str(error)
    print(f"{run_id}: {f'running ({holder})' if holder else WORDS.get(state, state)}")
    print(f"folder: {folder}")
    if damage:
        print(f"damaged: {damage}")
    if not manifest:
        return 0
    if manifest["error"]:
        print(f"error: {manifest['error']}")
        print(manifest.get("traceback", ""))
    elif (folder / paths.TRACEBACK).exists():
        print(f"a look at it failed:\n{(folder / paths.TRACEBACK).read_text(encoding='utf-8')}")
    for title, values in {
        "trained for": {"sweep": manifest.get("sweep")},
        "results": {key: manifest.get(key) for key in ("outcome", "diverged_step", "num_steps")} | manifest["final"],
        "time": {key: manifest.get(key) for key in ("wall_sec", "probe_share")},
        "configuration": manifest["config"],
        "data": manifest["data"],
        "rows of tables": {name: table["rows"] for name, table in manifest["tables"].items()},
        "trained with": {key: value for key, value in manifest["provenance"].items() if key != "groups"},
    }.items():
        print(f"\n{title}")
        for key, value in _flat(values).items():
            if value is not None:
                print(f"  {key} = {_text(value)}")
    return 0


def remove(run_id: str, results: Path) -> int:
    """Remove one run: its tables, its manifest, what was saved of it. Raises ValueError if there is none of that name.

    Raises locks.Locked where a process trains it.
    """
    Store(results).require(run_id)
    with locks.hold(results, [run_id]):
        let_go(results, {run_id})
        shutil.rmtree(paths.run(results, run_id))
    print(f"{run_id} is forgotten; tables that have its rows keep them until its sweep is run again")
    return 0


def whole_name(name: str, results: Path) -> str:
    """The run of this name, or the only one that begins so. Raises ValueError where there is none, or several."""
    known = Store(results).run_ids()
    matches = [name] if name in known else [run_id for run_id in known if name and run_id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    count = "more than one run" if matches else "no run"
    raise ValueError(f"there is {count} {name!r}; {_hint(name, matches, known)}")


def _hint(name: str, matches: Sequence[str], known: Iterable[str]) -> str:
    near = matches[:3] or difflib.get_close_matches(name, list(known), 3)
    return f"did you mean {' or '.join(near)}?" if near else "bnstudy ls lists the runs"


def _rows(results: Path) -> list[dict[str, Any]]:
    entries, holders = index.entries(results, Store(results).run_ids()), locks.holders(results)
    rows = []
    for run_id, entry in sorted(entries.items(), key=lambda item: (item[1].ended or time.time(), item[0])):
        state = "running" if run_id in holders else WORDS.get(entry.state, str(entry.state))
        facts = {key: entry.facts.get(key) for key in index.FACTS}
        row = {"run": run_id, "state": state, "sweep": entry.sweep, **facts, "wall_sec": entry.sec}
        rows.append(row | {"ended": None if entry.ended is None else round(entry.ended)})
    return rows


def _shown(row: Mapping[str, Any], column: str) -> str:
    if column == "age":
        return "" if row["ended"] is None else f"{duration(time.time() - row['ended'])} ago"
    if column == "test_accuracy":
        accuracy = row.get(column)
        return "" if accuracy is None else f"{100 * accuracy:.2f} %"
    return _text(row[column])


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return result
