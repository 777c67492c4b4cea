"""Contents of the notebooks: a finding's figure and verdicts, drawn when the cell is run; and notebooks as pages.

A notebook is a script in percent format under `analysis/notebooks`: prose and calls of `show`, no computation. Two
compute: `lesson`, which trains networks, and `python`, which shows the interface for Python. A page needs no network:
its formulas are MathML, its style is in it.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from bnstudy.analysis import drawing, figures, findings, frames, report
from bnstudy.analysis.findings import Row
from bnstudy.config import project
from bnstudy.store import files, paths

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOKS = report.FINDINGS.parent / "notebooks"
DPI = 110
TIMEOUT_SEC = 600  # of a cell
VERDICTS = {  # background and ink of each
    "reproduced": ("#CDE8D0", "#14532D"),
    "partly": ("#FBE7B2", "#6B4A00"),
    "not reproduced": ("#F6C9C4", "#7F1D1D"),
    "undecided": ("#DDE1E7", "#374151"),
    "not run": ("#F1F3F5", "#5B6470"),
}
CELL = "text-align: left; vertical-align: top; white-space: normal"  # Jupyter centres, and keeps lines whole
FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|(?<![\\$\w])\$(?P<inline>[^$\n]+?)\$(?!\w)", re.DOTALL)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.55 system-ui, sans-serif; max-width: 50rem; margin: 0 auto; padding: 1rem; color: #1b1f24; }}
h1, h2, h3 {{ line-height: 1.25; }} .anchor-link, .prompt {{ display: none; }}
pre {{ overflow-x: auto; font-size: .85rem; line-height: 1.4; }}
.input pre {{ background: #f4f6f8; border-radius: 6px; padding: .6rem .8rem; }}
.output_subarea {{ overflow-x: auto; }} img {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; }}
th, td {{ padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #d5d9df; }}
</style></head><body>
{body}
</body></html>
"""


@dataclass(frozen=True)
class Exhibit:
    """A finding as a notebook shows it. `png` is empty, and `problem` says why, where its sweep was not run."""

    title: str
    caption: str
    png: bytes
    rows: tuple[Row, ...]
    problem: str = ""

    def _repr_html_(self) -> str:
        """What Jupyter displays."""
        if self.problem:
            return f"<p><b>{escape(self.title)}</b>: not run ({escape(self.problem)})</p>"
        image = base64.b64encode(self.png).decode("ascii")
        names = ("claim", "verdict", "measured", "95 % interval", "n", "criterion", "given")
        head = "".join(f"<th style='{CELL}'>{name}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td style={CELL!r}>{cell}</td>' for cell in _cells(row))}</tr>" for row in self.rows
        )
        return (
            f'<img alt="{escape(self.title)}" src="data:image/png;base64,{image}" style="max-width: 100%">'
            f"<p><small>{escape(self.caption)}</small></p>"
            f"<div style='overflow-x: auto'><table><tr>{head}</tr>{body}</table></div>"
        )

    def __repr__(self) -> str:
        if self.problem:
            return f"{self.title}: not run ({self.problem})"
        return "\n".join([self.title, *(f"  {r.id} {r.verdict}, n = {r.n}: {r.measured}" for r in self.rows)])


def _cells(row: Row) -> tuple[str, ...]:
    """A claim as cells of a table."""
    background, ink = VERDICTS[row.verdict]
    badge = f"<b style='background: {background}; color: {ink}; padding: 0 .4em'>{escape(row.verdict)}</b>"
    why = "".join(f"<br>{escape(text)}" for text in (row.reason, row.explanation) if text)
    given = escape("; ".join(part for part in (row.given, row.calibrated) if part))
    says = f"<b>{escape(row.id)}</b> {escape(row.says)}"
    return says, badge + why, escape(row.measured), escape(row.spread), str(row.n), escape(row.criterion), given


def show(name: str) -> Exhibit:
    """The finding `name` of `analysis/findings`, drawn and judged from the published tables, or those of the folder
    that BNSTUDY_RESULTS names.

    Raises ValueError for an unknown name; in place of a finding that was not run a message says so.
    """
    known = {path.stem: path for path in findings.discover(report.FINDINGS)}
    if name not in known:
        raise ValueError(f"show({name!r}): there is no such finding; there are {', '.join(known)}")
    finding = findings.load(known[name])
    workspace = project.results()
    try:
        data, origin = drawing.load(finding, workspace, report.FINDINGS.parent)
    except frames.MissingTable:
        problem = f"make sweep-{finding.sweep} PRESET={paths.FULL} trains its runs"
        return Exhibit(finding.title, finding.caption, b"", (), problem)
    notes = findings.notes(report.FINDINGS)
    rows = drawing.judge(finding, data, origin)
    rows = tuple(findings.noted(rows, {row.id: notes[row.id] for row in rows if row.id in notes}))
    drawn = io.BytesIO()
    with figures.style(report.FINDINGS.parent / drawing.STYLE):
        drawing.draw(finding, data, origin).savefig(drawn, format="png", dpi=DPI)
    return Exhibit(finding.title, finding.caption, drawn.getvalue(), rows)


def names() -> dict[str, Path]:
    """The notebooks' scripts by name."""
    return {path.stem: path for path in sorted(NOTEBOOKS.glob("*.py"))}


def write(chosen: Sequence[str], results: Path) -> int:
    """Run the notebooks named (none: all) on the tables of `results`, and keep each as .ipynb and as .html.

    Raises ValueError for an unknown name, where the packages that run notebooks are not installed, and for a notebook
    that fails, which is kept as NAME.failed.ipynb.
    """
    known = names()
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"notebooks: there is no {unknown[0]!r}; there are {', '.join(known)}")
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    except ImportError as error:
        raise ValueError(f"notebooks need {error.name}: make setup installs it") from None
    into = paths.notebooks(results)
    os.environ[project.RESULTS] = str(results.resolve())  # the kernel is a child
    for number, name in enumerate(chosen or known, start=1):
        print(f"notebook {number}/{len(chosen or known)} {name}", flush=True)
        executed = _script(known[name])
        failed = into / f"{name}.failed.ipynb"
        try:
            NotebookClient(executed, timeout=TIMEOUT_SEC, kernel_name="python3").execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            files.write_text(failed, nbformat.writes(executed))
            if isinstance(error, CellExecutionError):  # whose text is the traceback, in a terminal's colours
                why = f"{error.ename}: {next(iter(error.evalue.splitlines()), '')}"
            elif isinstance(error, CellTimeoutError):
                why = f"a cell ran for more than {TIMEOUT_SEC} seconds"
            else:
                why = "its kernel died, as where memory runs out"
            raise ValueError(f"notebook {name}: {why}; {failed} shows the cell. Mend it, then run this again") from None
        failed.unlink(missing_ok=True)
        files.write_text(into / f"{name}.ipynb", nbformat.writes(executed))
        files.write_text(into / f"{name}.html", _page(name, executed))
        print(into / f"{name}.html", flush=True)
    return 0


def page(name: str, results: Path) -> str:
    """A notebook as a page: with its output if it was run with these results, else the script alone."""
    import nbformat

    executed = paths.notebooks(results) / f"{name}.ipynb"
    return _page(name, nbformat.read(executed, as_version=4) if executed.exists() else _script(names()[name]))


def _script(path: Path) -> NotebookNode:
    import jupytext

    notebook = jupytext.read(path)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook


def _page(name: str, notebook: NotebookNode) -> str:
    from nbconvert import HTMLExporter

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(_mathml, cell.source)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    return PAGE.format(title=escape(name), body=body)


def _mathml(match: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    formula: str = convert(match["block"] or match["inline"], display="block" if match["block"] else "inline")
    return formula
