"""How a bench is shown: a Markdown table a machine, the same on the console and in README.md."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Report
from bnstudy.analysis import readme
from bnstudy.analysis.frames import DASH

DIGITS = 3  # that are shown of a measurement


def number(value: float) -> str:
    """Three significant digits, thousands with commas: 0.0123, 4.50, 21,300."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = DIGITS - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def result(row: dict[str, Any]) -> str:
    """A row in a line."""
    ours = f"{number(row['ours_median'])} {row['unit']}"
    if row["ratio"] is None:
        return ours
    return f"{ours} against {number(row['textbook_median'])}: {_ratio(row)}"


def progress(unit: str) -> Report:
    """Prints each turn."""

    def report(repeat: int, repeats: int, ours: float, textbook: float | None) -> None:
        against = "" if textbook is None else f" against {number(textbook)}"
        print(f"  {repeat} of {repeats}: {number(ours)}{against} {unit}", flush=True)

    return report


def table(record: dict[str, Any]) -> str:
    """One machine's rows, its name and what they were measured with."""
    lines = [
        "| what | unit | bnstudy | textbook loop | times better (range) |",
        "|---|---|---|---|---|",
    ]
    notes: dict[str, int] = {}
    for row in record["rows"].values():
        mark = f" [{notes.setdefault(row['note'], len(notes) + 1)}]" if row["note"] else ""
        textbook = DASH if row["textbook_median"] is None else number(row["textbook_median"])
        ratio = DASH if row["ratio"] is None else _ratio(row)
        lines.append(f"| {row['what']}{mark} | {row['unit']} | {number(row['ours_median'])} | {textbook} | {ratio} |")
    if notes:
        lines += ["", *(f"[{mark}] {note}  " for note, mark in notes.items())]
    lines += ["", _made_with(record)]
    if record["limits"]:
        lines += ["", "Limits measured here: " + ", ".join(f"{k} {number(v)}" for k, v in record["limits"].items())]
    return "\n".join(lines)


def write(records: Sequence[dict[str, Any]], path: Path = readme.README) -> None:
    """Puts the machines' tables into README.md. Raises ValueError where it has no place for them."""
    readme.replace("bench", "\n\n".join(table(record) for record in records) or "Not measured yet.", path)


def _ratio(row: dict[str, Any]) -> str:
    ratio = row["ratio"]
    return f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _made_with(record: dict[str, Any]) -> str:
    machine = record["machine"]
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    commits = Counter(f"{r['commit'][:7]}{' with changes' if r['dirty'] else ''}" for r in record["rows"].values())
    workers = {f["num_workers"] for r in record["rows"].values() if (f := r["facts"].get("textbook")) and f}
    stand_in = [name for name, kind in record["data"].items() if kind == "stand-in"]
    return (
        f"{gpu}{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, torch "
        f"{machine['versions']['torch']}; commit {', '.join(commits) or 'unknown'}. Medians of turns taken one after "
        f"the other; in brackets the range of the single turns' ratios. The textbook loop's DataLoader had "
        f"{' or '.join(map(str, sorted(workers))) or 'no'} workers, whichever was faster"
        f"{'; stand-in data: ' + ', '.join(stand_in) if stand_in else ''}."
    )
