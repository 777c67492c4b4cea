"""The generated parts of README.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnstudy.analysis import findings
from bnstudy.analysis.findings import Verdict
from bnstudy.store import files

README = Path(__file__).resolve().parents[3] / "README.md"
REDUCED = "\\*"  # Markdown's asterisk, as a mark
PAPER, NO_TEST, COURSE, OWN = (findings.GROUPS[name] for name in ("paper", "calibrated", "course", "ours"))
GROUPS: tuple[tuple[str, Callable[[Mapping[str, Any]], bool]], ...] = (  # a claim is of the first that it belongs to
    (f"{PAPER} as they stand there ({REDUCED}: judged at a reduced scale)",
     lambda row: row["id"].isdigit() and row["origin"] == "paper" and not row["calibrated"]),
    (NO_TEST, lambda row: bool(row["calibrated"])),
    ("What the paper says in detail", lambda row: row["origin"] == "paper"),
    (COURSE, lambda row: row["origin"] == "course"),
    (OWN, lambda row: True),
)  # fmt: skip


def replace(name: str, text: str, readme: Path = README) -> None:
    """Puts `text` between the markers of `name`. Raises ValueError where the file has no such pair."""
    before = readme.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(before):
        raise ValueError(f"{readme.name}: there is no {begin} ... {end} to fill")
    files.write_text(readme, pattern.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", before))


def claims_table(claims_json: Path) -> str:
    """The paper's own claims in a table, what else was judged in folded ones, each with a line on what was not run."""
    rows = json.loads(claims_json.read_text(encoding="utf-8"))
    left = rows
    parts: list[str] = []
    for title, belongs in GROUPS:
        chosen, left = [row for row in left if belongs(row)], [row for row in left if not belongs(row)]
        if not chosen:
            continue
        counts = Counter(row["verdict"] for row in chosen)
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
        if parts:
            summary = f"<details><summary>{title}: {told}</summary>"
            parts.append(f"{summary}\n\n{_table(chosen)}\n\n</details>")
        else:
            parts.append(f"{title}: {told}.\n\n{_table(chosen)}")
    return "\n\n".join(parts)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| claim | | measured | n | verdict |", "|---|---|---|---|---|"]
    for row in rows:
        if row["verdict"] == Verdict.not_run:
            continue
        mark = REDUCED if row["id"].isdigit() and row["scale"] == "reduced" else ""
        verdict = f"**{row['verdict']}**" + (f": {row['reason']}" if row["reason"] else "")
        cells = (row["id"] + mark, row["says"], row["measured"], str(row["n"]), verdict)
        lines.append("| " + " | ".join(re.sub(r"([|<>])", r"\\\1", cell.replace("\n", " ")) for cell in cells) + " |")
    waiting = [row["id"] for row in rows if row["verdict"] == Verdict.not_run]
    if waiting:
        lines += ["", f"Not run yet: claims {', '.join(waiting)}; `results/claims.md` says what would run each."]
    return "\n".join(lines if len(waiting) < len(rows) else lines[-1:])
