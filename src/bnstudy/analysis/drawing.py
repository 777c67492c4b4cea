"""Findings, drawn and judged: side by side in processes, and only those for which something has changed."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import captions, figure_cache, figures, findings, frames, stats, sweep_page
from bnstudy.analysis.findings import Comparison, Finding, Row
from bnstudy.store import devices, paths

STYLE = "bnstudy.mplstyle"  # these two lie in the folder that holds the findings' folder
CURVES = "paper_curves"
FEW = 3  # drawings that a further process would not have finished sooner: to start one takes a second


@dataclass(frozen=True, kw_only=True)
class Section:
    """A finding as the page shows it: `setting` is what was measured, `counts` on how many seeds and runs.

    `problem` says why there is no figure, and `trace` how it crashed, if it did; of one that cannot be loaded nothing
    else is known.
    """

    name: str
    title: str = ""
    caption: str = ""
    sweep: str = ""
    rows: tuple[Row, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    setting: str = ""
    counts: str = ""
    origin: frames.Origin | None = None
    problem: str = ""
    trace: str = ""
    sweeps: tuple[str, ...] = ()  # whose tables it is drawn from
    table: tuple[tuple[str, ...], ...] = ()  # its runs, under a row of headings


@dataclass(frozen=True)
class Task:
    """A finding's file, or the folder of a sweep's tables, to be drawn into the figures of the folder `into`.

    `analysis`: the folder of the style and of the published curves.
    """

    path: Path
    analysis: Path
    workspace: Path
    into: Path

    @property
    def of_sweep(self) -> bool:
        return self.path.suffix != ".py"

    @property
    def name(self) -> str:
        return f"{sweep_page.PREFIX}{self.path.name}" if self.of_sweep else self.path.stem

    def load(self) -> Finding:
        return sweep_page.finding(self.workspace, self.path.name) if self.of_sweep else findings.load(self.path)


DIED = "the process that drew it died: killed, as where memory runs out, or ended by the finding itself"


def sections(tasks: Sequence[Task]) -> Iterator[tuple[Section, bool]]:
    """Each task's section, in order of ending, and whether it was drawn anew.

    It is not drawn where its inputs and its drawing are unchanged (see `figure_cache`).
    """
    sums: dict[Path, str | None] = {}
    stale = []
    for task in tasks:
        cached = figure_cache.get(task.into, task.name, sums)
        if cached is None:
            stale.append(task)
        else:
            yield _from_json(cached), False
    if not stale:
        return
    num_processes = max(1, min(devices.cores(), len(stale) // FEW))  # never in this one, which a finding could end
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    left = list(stale)
    pool = ProcessPoolExecutor(num_processes, context, initializer=_begin)
    try:
        futures = {pool.submit(section, task): task for task in stale}
        for future in as_completed(futures):
            drawn = future.result()
            left.remove(futures[future])
            yield drawn, True
    except (KeyboardInterrupt, GeneratorExit):  # nobody waits for what is being drawn, and its files are written whole
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    except BrokenProcessPool:  # one process died, and which finding's it was is not told
        yield from ((_alone(task, context), True) for task in left)
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(task: Task, context: Any) -> Section:
    """The task's section from a process of its own: one that dies is this task's, and is reported as its crash."""
    for act in (section, _undrawn):
        with ProcessPoolExecutor(1, context, initializer=_begin) as pool, contextlib.suppress(BrokenProcessPool):
            return pool.submit(act, task).result()
    return Section(name=task.name, problem=DIED, trace=DIED)


def _undrawn(task: Task) -> Section:
    """The section of a finding whose drawing kills its process: its claims are not run."""
    remove(task.into, task.name)
    finding = task.load()
    rows = _not_run(finding, f"the finding {task.name} crashed")
    return Section(**_head(finding), rows=rows, problem=DIED, trace=DIED)


def _head(finding: Finding) -> dict[str, Any]:
    return {key: getattr(finding, key) for key in ("name", "title", "caption", "sweep")}


def section(task: Task) -> Section:
    """A finding, drawn and judged. It may be anyone's file: a crash is reported in its section and affects no other."""
    name, analysis = task.name, task.analysis
    figure_cache.remove(task.into, name)
    with figure_cache.recording() as reads, figures.style(figure_cache.record(analysis / STYLE)):
        try:
            finding = task.load()
        except (Exception, SystemExit) as error:
            return Section(name=name, problem=_named(error), trace="".join(traceback.format_exception(error)))
        head = _head(finding)
        drawn: list[Path] = []
        try:
            data, origin = load(finding, task.workspace, analysis)
            result = Section(
                **head,
                rows=judge(finding, data, origin),
                comparisons=tuple(finding.numbers(data)),
                setting=captions.setting(data, images=finding.images),
                counts=captions.counts(data, images=finding.images),
                origin=origin,
                sweeps=tuple(sorted({frames.source(finding.sweep, table)[0] for table in finding.needs})),
                table=sweep_page.table(data["runs"]) if task.of_sweep else (),
            )
            drawn = figures.save(draw(finding, data, origin), paths.figures(task.into), name, finding.title, origin)
        except (frames.MissingTable, stats.SeedTwice) as missing:
            result = Section(**head, rows=_not_run(finding, str(missing)), problem=str(missing))
        except (Exception, SystemExit) as error:
            rows, trace = _not_run(finding, f"the finding {name} crashed"), "".join(traceback.format_exception(error))
            result = Section(**head, rows=rows, problem=_named(error), trace=trace)
    if result.problem:
        remove(task.into, name)
    if not result.trace:
        figure_cache.put(task.into, name, reads, drawn, asdict(result))
    return result


def remove(into: Path, name: str) -> None:
    """Figures of tables that are gone, or of another version of the finding."""
    for each in figures.names(name):
        (paths.figures(into) / each).unlink(missing_ok=True)


def load(finding: Finding, workspace: Path, analysis: Path) -> tuple[dict[str, pd.DataFrame], frames.Origin]:
    """The frames that a finding draws and judges, and where they come from. Raises MissingTable."""
    data = frames.needed(workspace, finding.sweep, finding.needs)
    for table, frame in data.items() if finding.claims else ():  # a page of a sweep shows whatever it varies
        _check_axes(frame, workspace, analysis.parent / "results", frames.source(finding.sweep, table)[0])
    origin = frames.origin(data.values())
    if not finding.images:
        origin = replace(origin, data=(), synthetic=False)
    if finding.published is not None:
        data["published"] = frames.published(analysis / CURVES, finding.published)
    return data, origin


def _check_axes(frame: pd.DataFrame, workspace: Path, published: Path, sweep: str) -> None:
    """Raises MissingTable where runs differ in a setting in which those that are published of this sweep do not.

    A finding knows what its sweep varies; two weight decays beside that would be averaged, or count as seeds.
    """
    if workspace.resolve() == published.resolve() or not paths.tables(published, sweep).is_dir():
        return
    runs = frames.runs(workspace, sweep)
    runs = runs[runs["run_id"].isin(frame["run_id"].astype(str).unique())]
    further = set(sweep_page.axes_of(runs)) - set(sweep_page.axes_of(frames.runs(published, sweep)))
    if further:
        raise frames.MissingTable(
            f"the runs of {sweep} differ in {', '.join(sorted(further))}, too, and this finding does not compare that: "
            "keep one value (results of such a sweep have a page of their own)"
        )


def judge(finding: Finding, data: Mapping[str, pd.DataFrame], origin: frames.Origin) -> tuple[Row, ...]:
    """A row for each claim of the finding."""
    evidence = finding.evidence(data)
    given = f"{captions.setting(data, images=finding.images)}; {captions.counts(data, images=finding.images)}"
    facts = {"data": origin.data_label, "commit": origin.commit_label, "finding": finding.name, "given": given}
    return tuple(findings.row(claim, evidence[claim.id], **facts) for claim in finding.claims)


def draw(finding: Finding, data: Mapping[str, pd.DataFrame], origin: frames.Origin) -> Figure:
    """The finding's figure under its header, to be made within `figures.style`."""
    header = f"{captions.setting(data, images=finding.images)}, {captions.counts(data, images=finding.images)}"
    fig = figures.new(finding.size, finding.title, header, synthetic=origin.synthetic)
    finding.plot(fig, data)
    return fig


def _not_run(finding: Finding, why: str) -> tuple[Row, ...]:
    return tuple(findings.row_not_run(claim, why, finding=finding.name) for claim in finding.claims)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _begin() -> None:
    """Ctrl-C is the parent's to handle; where it is gone, nobody asks for more. What is imported stays."""
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _from_json(stored: dict[str, Any]) -> Section:
    origin = stored["origin"]
    if origin is not None:
        origin = frames.Origin(**origin | {"data": tuple(origin["data"]), "commits": tuple(origin["commits"])})
    rows = tuple(Row(**row) for row in stored["rows"])
    comparisons = tuple(Comparison(**line) for line in stored["comparisons"])
    values = {"rows": rows, "comparisons": comparisons, "origin": origin, "sweeps": tuple(stored["sweeps"])}
    return Section(**stored | values | {"table": tuple(tuple(line) for line in stored["table"])})
