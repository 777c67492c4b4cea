"""How a bench is shown: one Markdown table per machine, the same on the console and in docs/speed.md."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import OURS, Report
from bnstudy.analysis import readme
from bnstudy.analysis.frames import DASH

NAMES = {OURS: "bnstudy", "tutorial": "tutorial loop", "careful": "careful loop"}
DIGITS = 3  # that are shown of a measurement


def number(value: float) -> str:
    """Three significant digits, thousands with commas: 0.0123, 4.50, 21,300."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = DIGITS - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def result(row: dict[str, Any]) -> str:
    """A row in a line."""
    ours, others = _sides(row)
    against = "; ".join(
        f"{ratio_and_range(side['ratio'])} times {NAMES[name]} ({number(side['median'])})"
        for name, side in others.items()
    )
    return f"{number(ours['median'])} {row['unit']}" + (f": {against}" if against else "")


def progress(unit: str) -> Report:
    """Print each turn."""

    def report(repeat: int, repeats: int, turn: Mapping[str, float]) -> None:
        shown = ", ".join(f"{NAMES[name]} {number(value)}" for name, value in turn.items())
        print(f"  {repeat} of {repeats}: {shown} {unit}", flush=True)

    return report


def table(record: dict[str, Any]) -> str:
    """One machine's rows, its name and what they were measured with."""
    rows = record["rows"].values()
    baselines = [name for name in NAMES if name != OURS and any(name in row["sides"] for row in rows)]
    head = ["what", "unit", NAMES[OURS]]
    for name in baselines:
        head += [NAMES[name], f"times better than the {NAMES[name]} (range)"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    notes: dict[str, int] = {}
    for row in rows:
        ours, others = _sides(row)
        mark = f" [{notes.setdefault(row['note'], len(notes) + 1)}]" if row["note"] else ""
        cells = [row["what"] + mark, row["unit"], number(ours["median"])]
        for name in baselines:
            side = others.get(name)
            cells += [number(side["median"]), ratio_and_range(side["ratio"])] if side else [DASH, DASH]
        lines.append(f"| {' | '.join(cells)} |")
    if notes:
        lines += ["", *(f"[{mark}] {note}  " for note, mark in notes.items())]
    lines += ["", _made_with(record)]
    if record["limits"]:
        lines += ["", "Limits measured here: " + ", ".join(f"{k} {number(v)}" for k, v in record["limits"].items())]
    return "\n".join(lines)


def write(records: Sequence[dict[str, Any]], path: Path = readme.SPEED) -> None:
    """Put the machines' tables into docs/speed.md. Raises ValueError where it has no place for them."""
    readme.replace("bench", "\n\n".join(table(record) for record in records) or "Not measured yet.", path)


def ratio_and_range(ratio: dict[str, float]) -> str:
    return f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _sides(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Ours, and the others by name."""
    return row["sides"][OURS], {name: side for name, side in row["sides"].items() if name != OURS}


def _made_with(record: dict[str, Any]) -> str:
    machine = record["machine"]
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    units = f" with {' and '.join(units)}" if (units := machine.get("units")) else ""
    commits = Counter(f"{r['commit'][:7]}{' with changes' if r['dirty'] else ''}" for r in record["rows"].values())
    loops = [side["facts"] for row in record["rows"].values() if (side := row["sides"].get("tutorial"))]
    workers = {facts["num_workers"] for facts in loops if "num_workers" in facts}
    synthetic = [name for name, kind in record["data"].items() if kind == "synthetic"]
    return (
        f"{gpu}{machine['processor']}{units}, {machine['cores']} cores, {machine['threads']} threads, torch "
        f"{machine['versions']['torch']}; commit {', '.join(commits) or 'unknown'}. Medians of turns taken one after "
        f"the other; in brackets the range of the single turns' ratios. The tutorial loop's DataLoader had "
        f"{' or '.join(map(str, sorted(workers))) or 'no'} workers, whichever was faster"
        f"{'; synthetic data: ' + ', '.join(synthetic) if synthetic else ''}."
    )
