"""The pages that hold numbers, made by MkDocs while it builds the site: claims, figures, sweeps, options, notebooks."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import bnstudy
from bnstudy import cli
from bnstudy.analysis import claims_page, findings, notebook, readme, report
from bnstudy.analysis.findings import Verdict

ROOT = readme.ROOT
RESULTS = ROOT / "results"
CLAIMS = RESULTS / "claims.json"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, the published figures, and the notebooks as pages of their own."""
    pages = {"claims.md": claims(), "gallery.md": gallery(), "sweeps.md": sweeps(), "options.md": options()}
    pages["changes.md"] = (ROOT / "CHANGES.md").read_text(encoding="utf-8")
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for path in sorted((RESULTS / "figures").glob("*.svg")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    for name in notebook.names():
        files.append(File.generated(config, f"notebooks/{name}.html", content=notebook.page(name, RESULTS)))
    return files


def claims() -> str:
    """Every claim by group: what was measured, its verdict, its criterion folded; at the end what was not run."""
    rows = [findings.Row(**row) for row in json.loads(CLAIMS.read_text(encoding="utf-8"))]
    parts = ["# Claims", claims_page.HOW_JUDGED]
    for name, of_it in claims_page.grouped(rows).items():
        tally = ", ".join(f"{count} {verdict}" for verdict, count in claims_page.tallied(of_it).items())
        parts += [f"## {claims_page.GROUPS[name]}", f"{len(of_it)} claims: {tally}."]
        judged = [row for row in of_it if row.verdict != Verdict.not_run]
        lines = ["| | claim | measured, with 95 % interval | scale | n | verdict |", "|---|---|---|---|---|---|"]
        parts.append("\n".join([*lines, *map(_claim, judged)]) if judged else "")
        waiting = [
            f"- **{row.id}** {escape(row.says)} <small>{escape(row.to_run)}</small>"
            for row in of_it
            if row not in judged
        ]
        parts += ["### Not run yet", "\n".join(waiting)] if waiting else []
    return "\n\n".join(parts)


def _claim(row: findings.Row) -> str:
    criterion = f"<details><summary>criterion</summary>{escape(row.criterion)}<br>{escape(row.given)}</details>"
    verdict = f"**{row.verdict}**" + (f": {escape(row.reason)}" if row.reason else "")
    says = f"{escape(row.says)} <small>{escape(row.where)}</small>{criterion}"
    cells = (row.id, says, f"{escape(row.measured)}<br>{escape(row.spread)}", row.scale, str(row.n), verdict)
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('*', '&#42;') for cell in cells[:-1])} | {cells[-1]} |"


def gallery() -> str:
    """Every published figure with its caption and the verdicts of its claims."""
    rows = json.loads(CLAIMS.read_text(encoding="utf-8"))
    shown: dict[str, list[str]] = {name: [] for name in findings.ORIGINS}
    waiting = []
    for path in findings.discover(report.FINDINGS):
        finding = findings.load(path)
        if not (RESULTS / "figures" / f"{path.stem}.svg").exists():
            waiting.append(f"- {finding.title} (`make sweep-{finding.sweep} PRESET=full`)")
            continue
        origin = min((claim.origin for claim in finding.claims), key=findings.ORIGINS.index)
        verdicts = _verdicts([row for row in rows if row["finding"] == path.stem])
        picture = f"![{finding.title}](figures/{path.stem}.svg)"
        shown[origin].append(f"### {finding.title}\n\n{picture}\n\n{finding.caption}\n\n{verdicts}")
    parts = ["# Figures", "From the published tables, each with its claims. With BN is blue, without BN orange."]
    for origin, of_it in shown.items():
        parts += [f"## {claims_page.GROUPS[origin]}", *of_it]
    return "\n\n".join([*parts, "## Not run yet", "\n".join(waiting) or "Nothing."])


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(f"- `{row['id']}` {row['says']} **{row['verdict']}** (n = {row['n']})" for row in rows)


def sweeps() -> str:
    """What each sweep is for, and what it costs."""
    lines = ["# Sweeps", "", "`make sweep-NAME` trains one. Minutes are on two CPU cores; empty: not measured.", ""]
    lines += ["| sweep | minutes: quick | full | suites | what it is for |", "|---|---|---|---|---|"]
    for row in bnstudy.sweeps().to_dict("records"):
        minutes = ["" if math.isnan(row[key]) else f"{row[key]:g}" for key in ("minutes_quick", "minutes_full")]
        about = re.sub(r"([|*<>])", r"\\\1", row["about"])
        lines.append(f"| `{row['sweep']}` | {' | '.join([*minutes, row['suites'], about])} |")
    return "\n".join(lines)


def options() -> str:
    """The help of every command."""
    os.environ["COLUMNS"] = "110"
    parts = ["# Options of every command", "Of `bnstudy`, that is `.venv/bin/python -m bnstudy`."]
    for name, text in _helps():
        parts.append(f"## {name}\n\n```text\n{text.strip()}\n```")
    return "\n\n".join(parts)


def _helps() -> Iterator[tuple[str, str]]:
    for action in cli._parser()._actions:
        if isinstance(action.choices, dict):  # the commands
            for name, sub in action.choices.items():
                folder = r"\(default:\s+/\S*/(results|data)\)"  # of the machine that builds the site
                yield name, re.sub(folder, r"(default: the project's \1)", sub.format_help())
