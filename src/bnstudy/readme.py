"""The generated parts of README.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bnstudy import files

README = Path(__file__).resolve().parents[2] / "README.md"


def replace(name: str, text: str, readme: Path = README) -> None:
    """Puts `text` between the markers of `name`. Raises ValueError where the file has no such pair."""
    before = readme.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(before):
        raise ValueError(f"{readme.name}: there is no {begin} ... {end} to fill")
    files.write_text(readme, pattern.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", before))


def claims_table(claims_json: Path) -> str:
    """A short table of the claims that were judged, and a line on the others."""
    rows = json.loads(claims_json.read_text(encoding="utf-8"))
    judged = [row for row in rows if row["verdict"] != "not run"]
    lines = ["| claim | | measured | n | verdict |", "|---|---|---|---|---|"]
    for row in judged:
        cells = (row["id"], row["says"], row["measured"], str(row["n"]), f"**{row['verdict']}**")
        lines.append("| " + " | ".join(re.sub(r"([|<>])", r"\\\1", cell.replace("\n", " ")) for cell in cells) + " |")
    waiting = [row["id"] for row in rows if row["verdict"] == "not run"]
    if waiting:
        lines += ["", f"Not run yet: claims {', '.join(waiting)}; `results/claims.md` says what would run each."]
    return "\n".join(lines)
