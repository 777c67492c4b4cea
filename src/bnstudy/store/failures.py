"""Record a failed run: its error beside what identifies it. What it had saved stays."""

from __future__ import annotations

import traceback
from dataclasses import asdict
from pathlib import Path

from bnstudy.config import plugins
from bnstudy.config.schema import resolved
from bnstudy.store import files, paths, provenance
from bnstudy.store.jobs import Job
from bnstudy.store.runs import Store
from bnstudy.store.status import component_code, looks


def in_words(error: Exception) -> str:
    """An exception's type and message, and the last line of a norm's, network's or probe's file that it passed."""
    text = f"{type(error).__name__}: {error}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if file := plugins.component(Path(frame.filename)):
            return f"{text} ({file}, line {frame.lineno}: {frame.line})"
    return text


def record(job: Job, results: Path, error: str, raised: Exception | None = None) -> Path | None:
    """Write the manifest of a failed run, and the traceback of what it raised to a text file, whose path is returned.

    A run that is tried again resumes from its checkpoint, if it has one.
    """
    text = "".join(traceback.format_exception(raised)) if raised else ""
    manifest = {
        "status": "failed",
        "outcome": None,
        "diverged_step": None,
        "error": error,
        "traceback": text,
        "config": resolved(job.config),
        "how": {"runtime": asdict(job.config.runtime), "tracking": asdict(job.config.tracking)},  # for `retry`
        "looks": {table: look.record for table, look in looks(job.config).items()},
        "code": component_code(job.config),
        "sweep": job.config.sweep.name,
        "data": job.source.record,
        "provenance": {**provenance.code(), **provenance.machine()},
        "num_steps": None,
        "final": {},
        "wall_sec": None,
        "probe_share": None,
    }
    Store(results).writer(job.run_id).finish(manifest)
    return None if raised is None else write_traceback(results, job.run_id, raised)


def write_traceback(results: Path, run_id: str, raised: Exception) -> Path:
    """Write the traceback of what a run, or a look at it, raised into the run's folder; return the file."""
    path = paths.run(results, run_id) / paths.TRACEBACK
    files.write_text(path, "".join(traceback.format_exception(raised)))
    return path
