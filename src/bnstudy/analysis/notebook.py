"""What the notebooks show: a finding's figure and verdicts, drawn from tables when the cell is run; and their making.

A notebook is a script in percent format under `analysis/notebooks`: prose and calls of `show`, no computation. Only
`python`, which shows the interface for Python, computes.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bnstudy.analysis import figures, findings, frames, report
from bnstudy.analysis.findings import Row
from bnstudy.store import files, paths

NOTEBOOKS = report.FINDINGS.parent / "notebooks"
RESULTS = "BNSTUDY_RESULTS"  # environment variable: where the tables are, by default those of the repository
DPI = 110
TIMEOUT_SEC = 600  # of a cell


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
        names = ("claim", "criterion", "measured", "95 % interval", "n", "verdict", "given")
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(
            f"<tr><td><b>{escape(r.id)}</b> {escape(r.says)}</td><td>{escape(r.criterion)}</td>"
            f"<td>{escape(r.measured)}</td><td>{escape(r.spread)}</td><td>{r.n}</td><td><b>{escape(r.verdict)}</b>"
            f"{'<br>' + escape(r.reason) if r.reason else ''}"
            f"{'<br>' + escape(r.explanation) if r.explanation else ''}</td>"
            f"<td>{escape('; '.join(part for part in (r.given, r.calibrated) if part))}</td></tr>"
            for r in self.rows
        )
        return (
            f'<img alt="{escape(self.title)}" src="data:image/png;base64,{image}" style="max-width: 100%">'
            f"<p><small>{escape(self.caption)}</small></p>"
            f"<table style='text-align: left'><tr>{head}</tr>{body}</table>"
        )

    def __repr__(self) -> str:
        if self.problem:
            return f"{self.title}: not run ({self.problem})"
        return "\n".join([self.title, *(f"  {r.id} {r.verdict}, n = {r.n}: {r.measured}" for r in self.rows)])


def show(name: str) -> Exhibit:
    """The finding `name` of `analysis/findings`, drawn and judged from the published tables.

    Raises ValueError for a name that is none; what was not run says so in its place.
    """
    known = {path.stem: path for path in findings.discover(report.FINDINGS)}
    if name not in known:
        raise ValueError(f"show({name!r}): there is no such finding; there are {', '.join(known)}")
    finding = findings.load(known[name])
    workspace = Path(os.environ.get(RESULTS, report.FINDINGS.parents[1] / "results"))
    try:
        data, origin = report.seen(finding, workspace, report.FINDINGS.parent)
    except frames.MissingTable:
        problem = f"make sweep-{finding.sweep} makes its runs"
        return Exhibit(finding.title, finding.caption, b"", (), problem)
    notes = findings.notes(report.FINDINGS)
    rows = report.judged(finding, data, origin)
    rows = tuple(findings.noted(rows, {row.id: notes[row.id] for row in rows if row.id in notes}))
    drawn = io.BytesIO()
    with figures.style(report.FINDINGS.parent / report.STYLE):
        report.draw(finding, data, origin).savefig(drawn, format="png", dpi=DPI)
    return Exhibit(finding.title, finding.caption, drawn.getvalue(), rows)


def make(names: Sequence[str], results: Path) -> int:
    """Runs the notebooks named (none: all) on the tables of `results`, and keeps each as .ipynb and as .html.

    Raises ValueError for a name that is none, or where the packages that run notebooks are not installed.
    """
    known = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.py"))}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"notebooks: there is no {unknown[0]!r}; there are {', '.join(known)}")
    try:
        import jupytext
        import nbformat
        from nbclient import NotebookClient
        from nbconvert import HTMLExporter
    except ImportError as error:
        raise ValueError(f"notebooks need {error.name}: make setup installs it") from None
    into = paths.notebooks(results)
    os.environ[RESULTS] = str(results.resolve())  # the kernel is a child
    for number, name in enumerate(names or known, start=1):
        print(f"notebook {number}/{len(names or known)} {name}", flush=True)
        made = jupytext.read(known[name])
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        NotebookClient(made, timeout=TIMEOUT_SEC, kernel_name="python3").execute()
        page, _ = HTMLExporter().from_notebook_node(made)
        files.write_text(into / f"{name}.ipynb", nbformat.writes(made))
        files.write_text(into / f"{name}.html", page)
        print(into / f"{name}.html", flush=True)
    return 0
