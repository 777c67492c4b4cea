"""The report: every finding's figure and verdicts from the reduced tables, the claims, and one page that shows all."""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from bnstudy.analysis import figures, findings, frames
from bnstudy.analysis.findings import Comparison, Finding, Row, Verdict
from bnstudy.config import project
from bnstudy.store import files, paths

Progress = Callable[[str], None]
FINDINGS = project.ROOT / "analysis" / "findings"
STYLE = "bnstudy.mplstyle"  # these two lie in the folder that holds the findings' folder
CURVES = "paper_curves"


class ReportError(RuntimeError):
    """Something failed, after everything else was made. `paths` are the files made, `failures` what failed and why."""

    def __init__(self, failures: Mapping[str, str], made: list[Path]) -> None:
        self.failures, self.paths = dict(failures), made
        super().__init__("; ".join(f"{name}: {why}" for name, why in failures.items()))


@dataclass(frozen=True)
class Section:
    """A finding as the page shows it: `setting` is what was measured, `counts` on how many seeds and runs.

    `problem` says why there is no figure.
    """

    finding: Finding
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...] = ()
    setting: str = ""
    counts: str = ""
    origin: frames.Origin | None = None
    problem: str = ""
    crashed: bool = False


def make(
    workspace: Path, *, html: bool, into: Path | None = None, findings_dir: Path = FINDINGS, strict: bool = False
) -> int:
    """`build`, with the paths of what it made or what failed told to the user; returns the exit code."""
    try:
        made, failures = build(workspace, findings_dir, into=into, html=html, strict=strict), {}
    except ReportError as error:
        made, failures = error.paths, error.failures
    for path in made:
        print(path)
    for name, why in failures.items():
        print(f"{name}: {why}", file=sys.stderr)
    return int(bool(failures))


def build(
    workspace: Path,
    findings_dir: Path,
    *,
    into: Path | None = None,
    progress: Progress = print,
    html: bool = True,
    strict: bool = False,
) -> list[Path]:
    """Makes `figures/`, `claims.{md,json}` and (`html`) `report.html` from a workspace's tables; returns the files.

    They go to the folder `into`, by default to the workspace itself. The same tables give the same bytes.
    A finding whose table is missing is `not run`, which is reported to `progress` and shown; figures that an earlier
    build made for it are removed. Raises ReportError, after finishing the rest, if a finding crashed, or, with
    `strict`, if runs of several commits stand behind one. Raises ValueError if a claim stands twice.
    """
    begun = time.perf_counter()
    failures: dict[str, str] = {}
    found, waiting = _load(findings_dir, failures, progress), findings.open_claims(findings_dir)
    findings.check_ids(found, waiting)
    known = findings.notes(findings_dir)
    analysis, into = findings_dir.parent, into or workspace
    paths.figures(into).mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    sections = []
    with figures.style(analysis / STYLE):
        for number, finding in enumerate(found, start=1):
            section, written = _section(finding, workspace, paths.figures(into), analysis, failures, progress)
            sections.append(section)
            made += written
            mixed = section.origin.commits if section.origin else ()
            if strict and len(mixed) > 1:
                failures[finding.name] = (
                    f"runs of several commits ({', '.join(mixed)}); run the sweep again at one commit"
                )
            progress(_told(section, number, len(found), time.perf_counter() - begun))
    rows = [row for section in sections for row in section.rows]
    rows += [findings.row_not_run(claim, claim.to_run) for claim in waiting]
    if not failures.keys() & {path.stem for path in findings.discover(findings_dir)} - {f.name for f in found}:
        rows = findings.noted(rows, known)  # unless claims are missing with a finding that cannot be loaded
    by_id = {row.id: row for row in rows}
    sections = [replace(section, rows=tuple(by_id[row.id] for row in section.rows)) for section in sections]
    made += findings.write(rows, into)
    if html:
        page = into / "report.html"
        files.write_text(page, _page(workspace, paths.figures(into), sections, rows, failures))
        made.append(page)
    progress(f"{findings.counted(rows)} ({time.perf_counter() - begun:.0f} s in all)")
    if failures:
        raise ReportError(failures, made)
    return made


def _load(folder: Path, failures: dict[str, str], progress: Progress) -> list[Finding]:
    """Every finding that can be loaded; the others are failures."""
    found = []
    for path in findings.discover(folder):
        try:
            found.append(findings.load(path))
        except Exception as error:  # a finding is anyone's file
            failures[path.stem] = f"{type(error).__name__}: {error}"
            progress("".join(traceback.format_exception(error)))
    return found


def _section(
    finding: Finding, workspace: Path, folder: Path, analysis: Path, failures: dict[str, str], progress: Progress
) -> tuple[Section, list[Path]]:
    try:
        data, origin = seen(finding, workspace, analysis)
        rows = judged(finding, data, origin)
        comparisons = tuple(finding.numbers(data))
        setting, counts = _setting(data, images=finding.images), _counts(data, images=finding.images)
        written = figures.save(draw(finding, data, origin), folder, finding.name, finding.title, origin)
    except frames.MissingTable as missing:
        return _without_figure(finding, folder, str(missing), crashed=False), []
    except Exception as error:  # a finding is anyone's file: its crash must not take the others with it
        failures[finding.name] = f"{type(error).__name__}: {error}"
        progress("".join(traceback.format_exception(error)))
        return _without_figure(finding, folder, failures[finding.name], crashed=True), []
    return Section(finding, rows, comparisons, setting, counts, origin), written


def seen(finding: Finding, workspace: Path, analysis: Path) -> tuple[dict[str, pd.DataFrame], frames.Origin]:
    """The frames that a finding draws and judges, and where they come from. Raises MissingTable."""
    data = frames.needed(workspace, finding.sweep, finding.needs)
    origin = frames.origin(data.values())
    if not finding.images:
        origin = replace(origin, data=(), synthetic=False)
    if finding.published is not None:
        data["published"] = frames.published(analysis / CURVES, finding.published)
    return data, origin


def judged(finding: Finding, data: Mapping[str, pd.DataFrame], origin: frames.Origin) -> tuple[Row, ...]:
    """A row for each claim of the finding."""
    evidence = finding.evidence(data)
    given = f"{_setting(data, images=finding.images)}; {_counts(data, images=finding.images)}"
    told = {"data": origin.data_label, "commit": origin.commit_label, "finding": finding.name, "given": given}
    return tuple(findings.row(claim, evidence[claim.id], **told) for claim in finding.claims)


def draw(finding: Finding, data: Mapping[str, pd.DataFrame], origin: frames.Origin) -> Figure:
    """The finding's figure under its header, to be made within `figures.style`."""
    header = f"{_setting(data, images=finding.images)}, {_counts(data, images=finding.images)}"
    fig = figures.new(finding.size, finding.title, header, synthetic=origin.synthetic)
    finding.plot(fig, data)
    return fig


def _without_figure(finding: Finding, folder: Path, why: str, *, crashed: bool) -> Section:
    for name in figures.names(finding.name):
        (folder / name).unlink(missing_ok=True)  # made from tables that are gone, or by another version of the finding
    short = f"the finding {finding.name} crashed" if crashed else why
    rows = tuple(findings.row_not_run(claim, short, finding=finding.name) for claim in finding.claims)
    return Section(finding, rows, problem=why, crashed=crashed)


def _setting(data: Mapping[str, pd.DataFrame], *, images: bool) -> str:
    """What was measured: network, data where its images play a part, budget."""
    frame = _first(data)
    networks = frame["network"].dropna().astype(str).unique()
    data_names = frames.data_names(frame).dropna().astype(str).unique()
    epochs = frame["epochs"].dropna().unique()
    counted = "1 epoch" if list(epochs) == [1] else f"{epochs[0]:g} epochs" if len(epochs) else ""
    budget = f", {counted}" if len(epochs) == 1 and epochs[0] else ""
    return f"{_in_prose(networks)}{f' on {_in_prose(data_names)}' if images else ''}{budget}"


def _counts(data: Mapping[str, pd.DataFrame], *, images: bool = True) -> str:
    """On how many seeds and runs; what is not shown images has no arms."""
    frame = _first(data)
    if not set(frame["norm"].unique()) <= set(frames.ARMS):
        counted = frame.groupby("norm", observed=True)["seed"].nunique()
        return f"n = {_range(counted.min(), counted.max())} seeds an arm, {frame['run_id'].nunique()} runs"
    nowhere = frames.placed(frame)["place"] == "none"  # BN behind none of the layers is no BN
    by_arm = frames.arms(frame.assign(norm=frame["norm"].astype(str).mask(nowhere, "none")))
    seeds = {figures.LABELS[arm]: part["seed"].nunique() for arm, part in by_arm.items()}
    if len(seeds) == 1:
        each = "".join(f"{count} seeds{f', all {arm}' if images else ''}" for arm, count in seeds.items())
    elif len(set(seeds.values())) == 1:
        each = f"{min(seeds.values())} seeds an arm"
    else:
        each = ", ".join(f"{count} {arm}" for arm, count in seeds.items())
    return f"n = {each}, {frame['run_id'].nunique()} runs"


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _first(data: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return next(frame for name, frame in data.items() if name != "published")


def _in_prose(names: Iterable[str]) -> str:
    """Names as they are written in prose, in order; unknown ones as they are."""
    spelling = {
        "cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST", "lenet": "LeNet", "mlp": "perceptron",
        "matrix_product": "products of matrices", "tutorial_cnn": "a tutorial's network",
    }  # fmt: skip
    ordered = sorted(
        names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )
    told = [spelling.get(name, re.sub(r"^resnet(\d+)$", r"ResNet-\1", name)) for name in ordered]
    if len(told) > 3 and all(name.startswith("ResNet-") for name in told):
        return f"{told[0]} to {told[-1].removeprefix('ResNet')}"
    return ", ".join(told)


def _told(section: Section, number: int, total: int, elapsed_sec: float) -> str:
    """One line of progress: what, how far, how long still."""
    left = elapsed_sec / number * (total - number)
    head = f"figure {number}/{total} {section.finding.name}"
    if section.problem:
        return f"{head}: {'CRASHED' if section.crashed else 'not run'}: {section.problem.strip()}"
    verdicts = ", ".join(f"{row.id} {row.verdict}" for row in section.rows)
    return f"{head}: {verdicts} ({elapsed_sec:.0f} s, about {left:.0f} s left)"


def _page(workspace: Path, drawn: Path, sections: list[Section], rows: list[Row], failures: Mapping[str, str]) -> str:
    environment = Environment(
        loader=PackageLoader("bnstudy.analysis.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["anchor"] = lambda text: re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-")
    ordered = findings.in_order(rows)
    sweeps = [_sweep(workspace, name) for name in sorted({section.finding.sweep for section in sections})]
    crashed = {section.finding.name for section in sections if section.crashed}
    waiting = [row for row in ordered if row.verdict == Verdict.not_run and row.finding not in crashed]
    return environment.get_template("page.html.jinja").render(
        unloaded={name: why for name, why in failures.items() if name not in {s.finding.name for s in sections}},
        sections=[(s, _svg(drawn, s)) for s in _by_first_claim(sections, ordered) if s.crashed or not s.problem],
        how_judged=findings.HOW_JUDGED,
        rows=[row for row in ordered if row not in waiting],
        misses=[row for row in ordered if row.explanation],
        disputes=[row for row in ordered if row.disputed],
        waiting=waiting,
        groups={
            findings.GROUPS[name]: findings.tallied(of) for name, of in findings.grouped(ordered).items()
        },
        sweeps=sweeps,
        synthetic=any(s.origin.synthetic for s in sections if s.origin),
        num_runs=sum(s["num_done"] for s in sweeps),
        colours=figures.COLOURS,
        tints=figures.TINTS,
    )


def _by_first_claim(sections: list[Section], ordered: list[Row]) -> list[Section]:
    """In the order in which their claims stand."""
    place = {row.id: position for position, row in enumerate(ordered)}
    return sorted(sections, key=lambda section: min(place[row.id] for row in section.rows))


def _svg(drawn: Path, section: Section) -> Markup:
    """The figure for the page: without prolog and metadata, as wide as its column, its ids its own.

    Several drawings in one page would otherwise share the ids that their clip paths and glyphs are named by.
    """
    if section.problem:
        return Markup("")
    name = section.finding.name
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
        "wall": f"{'at most ' if beside.isna().any() else ''}{_duration(frames.process_sec(done).sum())}",
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
