"""The generated parts of README.md and docs/: tables between markers, and the numbers of claims within sentences.

A table stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`. A number stands as `<!--CLAIM#N-->132<!---->`:
the Nth number that was measured for the claim (`#N%`: as a percentage); what is infinite or has no value has its place
among them, and cannot be written. `<!--verdicts CLAIM ...-->...<!---->` lists
verdicts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnstudy.analysis import zoo
from bnstudy.analysis.claims_page import line
from bnstudy.analysis.findings import Verdict
from bnstudy.analysis.frames import DASH, MINUS, number
from bnstudy.store import files

ROOT = Path(__file__).resolve().parents[3]
README = ROOT / "README.md"
SPEED = ROOT / "docs" / "speed.md"
BEYOND = ROOT / "docs" / "beyond.md"
MARK = re.compile(r"<!--(?P<what>[^<>]+?)-->(?P<text>[^<>]*)<!---->")
NONE = (DASH, "\u221e", f"{MINUS}\u221e")  # as `frames.number` writes what is no finite number
MEASURED = re.compile(
    rf"(?<![\w.(])(?:[{MINUS}-]?\d[\d,.]*(?:e[{MINUS}-]?\d+)?|{'|'.join(NONE)})(?=$|[,;]| points| %| \()"
)
NO_TEST = "\u00b9"  # a footnote's mark
SMALLER = ("reduced", "grid", "fitted", "epoch")  # claim 4-grid is claim 4 on another scale
Row = Mapping[str, Any]


def update(claims_json: Path, readme: Path = README) -> None:
    """Write everything in README.md that follows from the claims, and the norm zoo's table beside it."""
    rows = json.loads(claims_json.read_text(encoding="utf-8"))
    replace("claims", short_table(rows), readme)
    files.write_text(readme, with_numbers(readme.read_text(encoding="utf-8"), rows))
    if readme == README:
        replace("norm zoo", zoo.table(claims_json.parent), BEYOND)


def replace(name: str, text: str, page: Path = README) -> None:
    """Put `text` between the markers of `name`. Raises ValueError where the page has no such pair."""
    before = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(before):
        raise ValueError(f"{page.name}: there is no {begin} ... {end} to fill")
    files.write_text(page, pattern.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", before))


def with_numbers(text: str, rows: Sequence[Row]) -> str:
    """The text with every marked number and verdict as the claims have it.

    Raises ValueError for a mark that names a claim or a number that there is not.
    """
    by_id = {row["id"]: row for row in rows}

    def claim(name: str, mark: str) -> Row:
        if name not in by_id:
            raise ValueError(f"<!--{mark}-->: there is no claim {name}; results/claims.md lists them")
        return by_id[name]

    def fill(match: re.Match[str]) -> str:
        mark = match["what"]
        if mark.startswith("verdicts "):
            verdicts = [f"{name}: {claim(name, mark)['verdict']}" for name in mark.split()[1:]]
            return f"<!--{mark}-->claim{'s' if len(verdicts) > 1 else ''} {'; '.join(verdicts)}<!---->"
        name, _, place = mark.partition("#")
        measured, index = MEASURED.findall(claim(name, mark)["measured"]), place.removesuffix("%")
        if not index.isdigit() or not 1 <= int(index) <= len(measured):
            raise ValueError(f"<!--{mark}-->: claim {name} has the numbers {', '.join(measured) or 'none'}")
        value = measured[int(index) - 1]
        if value in NONE:
            there = ", ".join(measured)
            raise ValueError(f"<!--{mark}-->: claim {name} has the numbers {there}; {value} is none, write a sentence")
        if place.endswith("%"):
            value = f"{number(100 * float(value.replace(MINUS, '-').replace(',', '')))} %"
        return f"<!--{mark}-->{value}<!---->"

    return MARK.sub(fill, text)


def short_table(rows: Sequence[Row]) -> str:
    """A line for each of the paper's numbered claims; where it was not run, what was decided on a smaller scale, or
    that nothing was. Below, how many have each verdict, those that are no test by themselves.
    """
    numbered, by_id = [row for row in rows if row["id"].isdigit()], {row["id"]: row for row in rows}
    lines = ["| | the paper says | scale | n | verdict |", "|---|---|---|---|---|"]
    for row in numbered:
        verdict = f"**{row['verdict']}**{NO_TEST if row['calibrated'] else ''}"
        smaller = [other for suffix in SMALLER if (other := by_id.get(f"{row['id']}-{suffix}"))]
        run = [other for other in smaller if other["verdict"] != Verdict.not_run]
        decided = [other for other in run if other["verdict"] != Verdict.undecided]
        if row["verdict"] == Verdict.not_run and run:
            texts = [f"{other['scale']}, n = {other['n']}: {other['verdict']}" for other in decided or run]
            verdict += f" ({'; '.join(texts)})"
        scale = {"init": "untrained"}.get(row["scale"], row["scale"])
        lines.append(line([row["id"], row["says"].removesuffix("."), scale, row["n"], verdict]))
    tests = _counted(row for row in numbered if not row["calibrated"])
    others = _counted(row for row in numbered if row["calibrated"])
    why = "the set-up was chosen by these numbers, or it is true by construction."
    note = f" {NO_TEST} No test ({others}): {why}" if others else ""
    return "\n".join([*lines, "", f"{tests}.{note}"])


def _counted(rows: Iterable[Row]) -> str:
    counts = Counter(row["verdict"] for row in rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
