"""How a run that failed is written down: its error beside what identifies it. What it had saved stays."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from bnstudy.config.schema import resolved
from bnstudy.store import provenance
from bnstudy.store.jobs import Job
from bnstudy.store.runs import Store
from bnstudy.store.status import code, looks


def record(job: Job, results: Path, error: str, traceback: str = "") -> None:
    """Writes the manifest of a failed run; made again it goes on from its checkpoint, if it has one."""
    manifest = {
        "status": "failed",
        "outcome": None,
        "diverged_step": None,
        "error": error,
        "traceback": traceback,
        "config": resolved(job.config),
        "how": {"runtime": asdict(job.config.runtime), "tracking": asdict(job.config.tracking)},  # for `retry`
        "looks": {table: look.record for table, look in looks(job.config).items()},
        "code": code(job.config),
        "sweep": job.config.sweep.name,
        "data": job.source.record,
        "provenance": {**provenance.code(), **provenance.machine()},
        "num_steps": None,
        "final": {},
        "wall_sec": None,
        "probe_share": None,
    }
    Store(results).writer(job.run_id).finish(manifest)
