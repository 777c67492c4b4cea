"""The report: every finding's figure and verdicts from the reduced tables, the claims, and one page that shows all."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bnstudy.analysis import claims_page, drawing, figures, findings, frames
from bnstudy.analysis.drawing import Section, Task
from bnstudy.analysis.findings import Row, Verdict
from bnstudy.config import project
from bnstudy.store import files, paths
from bnstudy.store.words import duration

LineCallback = Callable[[str], None]
FINDINGS = project.ROOT / "analysis" / "findings"

PAPER_FIGURES = "Figures 2 to 8 and tables of the paper, on untrained networks"
FIRST = ("fig5", "fig2")  # with which the page begins
PARTS: Mapping[str, Callable[[Section], bool]] = {  # a section is of the first part that it belongs to
    PAPER_FIGURES: lambda of: bool(re.match(r"fig[2-9]|table", of.name)),
    "Trained networks": lambda of: bool(of.rows) and "init" not in _scales(of) and "course" not in _origins(of),
    "What courses teach": lambda of: "course" in _origins(of),
    "Beyond the paper": lambda of: bool(of.rows),
    "Sweeps": lambda of: True,  # that no finding draws, and findings that cannot be loaded
}
FEW = 8  # findings that are named in a line
IDS = (
    "A number is a claim of the paper, counted by this study; what follows it names a part of the claim, or the scale "
    "at which it is judged (-reduced, -epoch, -fitted, -grid: with less training than in the paper). Names that begin "
    "with textbook- are what courses teach, others own questions."
)


def _scales(section: Section) -> set[str]:
    return {row.scale for row in section.rows}


def _origins(section: Section) -> set[str]:
    return {row.origin for row in section.rows}


class ReportError(RuntimeError):
    """Something failed, after all else was written. `paths` are the files written, `failures` what failed and why."""

    def __init__(self, failures: Mapping[str, str], written: list[Path]) -> None:
        self.failures, self.paths = dict(failures), written
        super().__init__("; ".join(f"{name}: {why}" for name, why in failures.items()))


def write(
    workspace: Path, *, html: bool, into: Path | None = None, findings_dir: Path = FINDINGS, strict: bool = False
) -> int:
    """`build`, with what it wrote and what failed printed, the page last; returns the exit code."""
    try:
        written, failures = build(workspace, findings_dir, into=into, html=html, strict=strict), {}
    except ReportError as error:
        written, failures = error.paths, error.failures
    drawn = [path for path in written if path.suffix == ".svg"]
    if drawn:
        print(f"{len(drawn)} figures in {drawn[0].parent}")
    for path in written:
        if path.suffix not in (".svg", ".png"):
            print(path)
    for name, why in failures.items():
        print(f"{name}: {why}", file=sys.stderr)
    return int(bool(failures))


def build(
    workspace: Path,
    findings_dir: Path,
    *,
    into: Path | None = None,
    progress: LineCallback = print,
    html: bool = True,
    strict: bool = False,
) -> list[Path]:
    """Write `figures/`, `claims.{md,json}` and (`html`) `report.html` from a workspace's tables; return the files.

    They go to the folder `into`, by default to the workspace itself. The same tables give the same bytes.
    A finding whose table is missing is `not run`, which is reported to `progress` and shown; figures that an earlier
    build made for it are removed. Raises ReportError, after finishing the rest, if a finding crashed, or, with
    `strict`, if runs of several commits stand behind one. Raises ValueError if a claim stands twice.
    """
    begun = time.perf_counter()
    known = findings.notes(findings_dir)
    into = into or workspace
    analysis = findings_dir.parent
    sections = _drawn([Task(path, analysis, workspace, into) for path in findings.discover(findings_dir)], progress)
    drawn = {sweep for section in sections for sweep in section.sweeps}
    left = [folder for folder in paths.sweeps(workspace) if folder.name not in drawn]
    left = [folder for folder in left if "runs" in frames.tables(workspace, folder.name)]
    sections += _drawn([Task(folder, analysis, workspace, into) for folder in left], progress)
    rows = [row for section in sections for row in section.rows]
    findings.check_ids(rows)
    if all(section.title for section in sections):  # otherwise claims are missing with a finding that cannot be loaded
        rows = findings.noted(rows, known)
    by_id = {row.id: row for row in rows}
    sections = [replace(section, rows=tuple(by_id[row.id] for row in section.rows)) for section in sections]
    failures = {section.name: why for section in sections if (why := _failure(section, strict=strict))}
    written = [paths.figures(into) / name for s in sections if not s.problem for name in figures.names(s.name)]
    written += claims_page.write(rows, into)
    if html:
        page = into / "report.html"
        files.write_text(page, _page(workspace, paths.figures(into), sections, rows))
        written.append(page)
    progress(f"{claims_page.counted(rows)} ({time.perf_counter() - begun:.0f} s in all)")
    if failures:
        raise ReportError(failures, written)
    return written


def _drawn(tasks: Sequence[Task], progress: LineCallback) -> list[Section]:
    """The sections in the order of the tasks; each is reported to `progress` when it is drawn."""
    place = {task.name: position for position, task in enumerate(tasks)}
    begun, finished, num_anew = time.perf_counter(), list[Section](), 0
    for section, anew in drawing.sections(tasks):
        finished.append(section)
        num_anew += anew
        if section.problem and not section.trace:
            continue  # counted below
        left = (time.perf_counter() - begun) / max(1, num_anew) * (len(tasks) - len(finished))
        when = f"about {left:.0f} s left" if anew else "as before"
        progress(f"figure {len(finished)}/{len(tasks)} {_progress_line(section)} ({when})")
    if absent := sorted({section.name for section in finished if section.problem and not section.trace}):
        named = f" ({', '.join(absent)})" if len(absent) <= FEW else ""
        progress(f"not run: {len(absent)} findings without tables that they can compare{named}")
    return sorted(finished, key=lambda section: place[section.name])


def _failure(section: Section, *, strict: bool) -> str:
    if section.trace:
        return section.problem
    commits = section.origin.commits if section.origin else ()
    mixed = strict and len(commits) > 1
    return f"runs of several commits ({', '.join(commits)}); run the sweep again at one commit" if mixed else ""


def _progress_line(section: Section) -> str:
    """One line of progress: what, and with what outcome."""
    if section.trace:
        return f"{section.name}: CRASHED: {section.problem.strip()}\n{section.trace}"
    return f"{section.name}: {', '.join(f'{row.id} {row.verdict}' for row in section.rows) or section.counts}"


def _page(workspace: Path, drawn: Path, sections: list[Section], rows: list[Row]) -> str:
    environment = Environment(
        loader=PackageLoader("bnstudy.analysis.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    environment.filters["anchor"] = lambda text: re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-")
    ordered = claims_page.in_order(rows)
    sweeps = [_sweep(workspace, name) for name in sorted({section.sweep for section in sections if section.sweep})]
    crashed = {section.name for section in sections if section.trace}
    waiting = [row for row in ordered if row.verdict == Verdict.not_run and row.finding not in crashed]
    shown = [section for section in sections if section.trace or not section.problem]
    return environment.get_template("page.html.jinja").render(
        parts={title: [(s, _svg(drawn, s)) for s in part] for title, part in _parts(shown, ordered).items()},
        how_judged=claims_page.HOW_JUDGED,
        rows=[row for row in ordered if row not in waiting],
        ids=IDS,
        misses=[row for row in ordered if row.explanation],
        disputes=[row for row in ordered if row.disputed],
        waiting=waiting,
        groups={claims_page.GROUPS[name]: claims_page.tallied(of) for name, of in claims_page.grouped(ordered).items()},
        sweeps=sweeps,
        synthetic=any(s.origin.synthetic for s in sections if s.origin),
        num_runs=sum(s["num_done"] for s in sweeps),
        colours=figures.COLOURS,
        tints=figures.TINTS,
    )


def _prose(text: str) -> Markup:
    """Text with `code` between its backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _parts(sections: Sequence[Section], ordered: Sequence[Row]) -> dict[str, list[Section]]:
    """The sections by what they are about: the paper's figures by number, its two best known first; the others in the
    order in which their claims stand."""
    place = {row.id: position for position, row in enumerate(ordered)}

    def order(section: Section) -> tuple[int, int, str]:
        first = FIRST.index(section.name) if section.name in FIRST else len(FIRST)
        return first, min((place[row.id] for row in section.rows), default=-1), section.name

    by_part: dict[str, list[Section]] = {title: [] for title in PARTS}
    for section in sorted(sections, key=order):
        by_part[next(title for title, belongs in PARTS.items() if belongs(section))].append(section)
    by_number = by_part[PAPER_FIGURES]
    by_number.sort(key=lambda section: (order(section)[0], section.name.startswith("table"), section.name))
    return {title: part for title, part in by_part.items() if part}


def _svg(drawn: Path, section: Section) -> Markup:
    """The figure for the page: without prolog and metadata, as wide as its column, its ids its own.

    Several drawings in one page would otherwise share the ids that their clip paths and glyphs are named by.
    """
    if section.problem:
        return Markup("")
    name = section.name
    text = (drawn / f"{name}.svg").read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    if section.origin and not section.origin.synthetic:
        head = re.sub(r'viewBox="0 0 (\S+) (\S+)"', _below_header, head)  # the page has its own heading
    return Markup(f'{head} role="img" aria-labelledby="{name}-caption">{rest}')  # matplotlib escapes


def _below_header(box: re.Match[str]) -> str:
    top = figures.HEADER_IN * 72  # points
    return f'viewBox="0 {top:g} {box[1]} {float(box[2]) - top:g}"'


def _sweep(workspace: Path, name: str) -> dict[str, Any]:
    """What stands behind a sweep's tables: runs by status, those missing, data, commits, machine."""
    try:
        runs = frames.runs(workspace, name)
    except frames.MissingTable as missing:
        return {"name": name, "missing": str(missing), "num_done": 0}
    done = runs[runs["status"].isin(frames.DONE)]
    origin, beside = frames.origin([runs]), done["num_runs"]
    return {
        "name": name,
        "missing": "",
        "num_done": len(done),
        "status": ", ".join(f"{count} {status}" for status, count in sorted(runs["status"].value_counts().items())),
        "holes": [f"{run.run_id} ({run.status})" for run in frames.holes(runs).itertuples()],
        "data": origin.data_label or frames.DASH,
        "commits": ", ".join(frames.commits(done)) or frames.DASH,
        "devices": ", ".join(sorted(done["device"].dropna().astype(str).unique())) or frames.DASH,
        "wall": f"{'at most ' if beside.isna().any() else ''}{duration(frames.process_sec(done).sum())}",
    }
