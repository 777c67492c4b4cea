"""The claims as they are written down: grouped, counted, and as a page in Markdown beside the same rows as JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from bnstudy.analysis.findings import Row, Verdict
from bnstudy.analysis.frames import DASH
from bnstudy.store import files

GROUPS = {  # whose claims are counted together; a claim is of the first that it belongs to
    "calibrated": "No test: the set-up was chosen by these numbers, or it is true by construction",
    "paper": "The paper's claims",
    "course": "What courses teach",
    "ours": "Own questions, where a refutation is no miss of the paper's",
}
HOW_JUDGED = (
    "A criterion names quantities of which there is one value a seed; the two arms of a seed share initial weights and "
    "data order and are compared in pairs. Above or below a bound: the 95 % interval of the mean over seeds (Student's "
    "t) is; between two: two one-sided tests at 5 %. The claims of one origin in a finding are corrected for their "
    "number (Holm), whether they hold, hold in part, or fail, and where some parts of several would do, for how many "
    "there are to choose from. Undecided: too few seeds, an interval that holds the bound, or an empty comparison, "
    "each with its reason."
)


def write(rows: Iterable[Row], workspace: Path) -> list[Path]:
    """`claims.json` and `claims.md` in the workspace, in the order of the claims."""
    ordered = in_order(rows)
    as_json, as_markdown = workspace / "claims.json", workspace / "claims.md"
    files.write_text(as_json, json.dumps([asdict(r) for r in ordered], indent=1, ensure_ascii=False) + "\n")
    files.write_text(as_markdown, markdown(ordered))
    return [as_markdown, as_json]


def markdown(rows: Sequence[Row]) -> str:
    """The claims as one table, headed by a warning where any was measured on synthetic data."""
    head = ["id", "where", "claim", "criterion", "scale", "measured", "95 % interval", "n", "verdict", "given", "data"]
    head.append("commit")
    lines = ["# Claims", ""]
    if any(r.data.startswith("synthetic") for r in rows):
        lines += ["**synthetic data**: rows so marked were measured on generated images: no evidence on the paper.", ""]
    lines += [HOW_JUDGED, ""]
    for name, of in grouped(rows).items():
        tally = ", ".join(f"{count} {verdict}" for verdict, count in tallied(of).items())
        lines += [f"## {GROUPS[name]}", "", f"{len(of)} claims: {tally}.", "", line(head)]
        lines += [line(["---"] * len(head)), *map(_row_line, of), ""]
    del lines[-1]
    lines += _apart(rows) + _misses(rows) + _disputes(rows)
    return "\n".join(lines) + "\n"


def _row_line(r: Row) -> str:
    measured = f"*{r.to_run}*" if r.verdict == Verdict.not_run else r.measured
    verdict = f"**{r.verdict}**{f' ({r.reason})' if r.reason else ''}"
    given = "; ".join(part for part in (r.given, r.calibrated) if part)
    cells = [r.id, r.where, r.says, r.criterion, r.scale, measured, r.spread or DASH, str(r.n) if r.n else DASH]
    return line([*cells, verdict, given or DASH, r.data or DASH, r.commit or DASH])


def _apart(rows: Sequence[Row]) -> list[str]:
    lines = [f"- **{r.id}**: {escaped(r.effect)}" for r in rows if r.effect]
    head = (
        "Means over seeds of each arm by itself, with 95 % intervals; geometric where the arms are compared by their "
        "ratio. Verdicts go by the comparison seed by seed, whose interval stands above."
    )
    return ["", "## The two arms", "", head, "", *lines] if lines else []


def _misses(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"- **{r.id}**, {r.verdict}: {escaped(r.explanation)} *What would test it:* {escaped(r.test)}"
        for r in rows
        if r.explanation
    ]
    head = "The best explanation of each so far, and what would test it."
    return ["", "## Misses", "", head, "", *lines] if lines else []


def _disputes(rows: Sequence[Row]) -> list[str]:
    lines = [f"- **{r.id}**: {escaped(r.disputed)}" for r in rows if r.disputed]
    return ["", "## Where others disagree", "", *lines] if lines else []


def in_order(rows: Iterable[Row]) -> list[Row]:
    """The rows by number first (2 before 10), then by name."""

    def key(r: Row) -> tuple[int, str]:
        number = re.match(r"\d+", r.id)
        return (int(number.group()) if number else sys.maxsize, r.id)

    return sorted(rows, key=key)


def grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by group of claims (see GROUPS), the paper's first; empty groups are left out."""
    by_group: dict[str, list[Row]] = {name: [] for name in ("paper", "calibrated", "course", "ours")}
    for r in rows:
        by_group["calibrated" if r.calibrated else r.origin].append(r)
    return {name: of for name, of in by_group.items() if of}


def counted(rows: Iterable[Row]) -> str:
    """How many claims have each verdict, group by group, in words: there is no one number over all."""
    tallies = {name: tallied(of) for name, of in grouped(rows).items()}
    texts = {name: ", ".join(f"{count} {verdict}" for verdict, count in each.items()) for name, each in tallies.items()}
    return "; ".join(f"{name}: {each}" for name, each in texts.items())


def tallied(rows: Iterable[Row]) -> dict[str, int]:
    """How many claims have each verdict, in the order of `Verdict`; verdicts of no claim are left out."""
    given = [r.verdict for r in rows]
    return {str(verdict): given.count(verdict) for verdict in Verdict if verdict in given}


def line(cells: Iterable[object]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(escaped(str(cell)) for cell in cells)} |"


def escaped(text: str) -> str:
    """Markdown in which nothing breaks a table (bars, line ends) or is read as markup."""
    return re.sub(r"([|<>])", r"\\\1", text.replace("\n", " "))
