"""The record of a bench: one JSON file per machine, whose rows may be measured one at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.measure import OURS, Measured, ratio
from bnstudy.store import files, paths, provenance
from bnstudy.training.engine.kernels import build

SCHEMA = 2
Record = dict[str, Any]


def machine(threads: int) -> dict[str, Any]:
    """Processor, its units, cores, packages, GPU (None without one), and the threads that each side has."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {**provenance.machine(), "units": build.units(), "gpu": gpu, "threads": threads}


def slug(machine: dict[str, Any]) -> str:
    """The file's name for a machine: kind of device, its name without decoration, and a processor's units.

    As in cpu-intel-xeon-avx512-amx; virtual machines hide which processor of that name they have.
    """
    kind, name = ("gpu", machine["gpu"]) if machine["gpu"] else ("cpu", machine["processor"])
    plain = re.sub(r"\((?:r|tm|c)\)|\b(?:cpu|processor)\b|@.*", " ", name.lower())
    units = [] if machine["gpu"] else [unit.lower().replace("-", "") for unit in machine["units"]]
    return "-".join([kind, *re.findall(r"[a-z0-9]+", plain), *units])


def path(results: Path, name: str) -> Path:
    """The file of this name. Raises ValueError for a name that is no file's."""
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise ValueError(f"--name = {name!r}: give letters, digits, '-', '_' and '.' only, such as cpu-intel-xeon")
    return paths.bench(results) / f"{name}.json"


def begin(path: Path, machine: dict[str, Any], data: dict[str, str]) -> None:
    """Makes the file for this machine. Rows of another machine, or of other packages or data, are dropped, loudly."""
    facts = {"machine": machine, "data": data}
    before = read(path) if path.exists() else None
    if before and any(before[key] != value for key, value in facts.items()):
        print(f"{path}: measured on another machine, with other packages or data; its {len(before['rows'])} rows go")
        before = None
    _write(path, before or {"schema": SCHEMA, **facts, "limits": None, "rows": {}})


def row(what: str, unit: str, more_is_better: bool, note: str, measured: Mapping[str, Measured]) -> dict[str, Any]:
    """What the file holds of a row: every side's measurements, how often better ours is, and the code behind them."""
    ours = measured[OURS]
    sides = {
        name: {
            "values": list(side.values),
            "median": median(side.values),
            "ratio": None if name == OURS else asdict(ratio(ours.values, side.values, more_is_better)),
            "facts": side.facts,
        }
        for name, side in measured.items()
    }
    return {"what": what, "unit": unit, "more_is_better": more_is_better, "note": note, "sides": sides} | (
        provenance.code()
    )


def keep(path: Path, *, row: tuple[str, dict[str, Any]] | None = None, limits: dict[str, float] | None = None) -> None:
    """Puts a row, or a GPU's limits, into the file, in the place of an earlier one."""
    content = read(path)
    if limits is not None:
        content["limits"] = limits
    if row is not None:
        content["rows"][row[0]] = row[1]
    _write(path, content)


def read(path: Path) -> Record:
    """What a file records. Raises ValueError for a file that is not a bench's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON ({error}): restore or remove it") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no bench of schema {SCHEMA}: remove it and measure again")
    return content


def read_all(results: Path) -> dict[Path, Record]:
    """Every machine's file, in the order of their names."""
    return {file: read(file) for file in sorted(paths.bench(results).glob("*.json"))}


def _write(path: Path, content: Record) -> None:
    files.write_text(path, json.dumps(content, indent=1) + "\n")
