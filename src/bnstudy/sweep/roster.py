"""Which runs a sweep asks for: composed once, and remembered while everything that decides it stays the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bnstudy.config import compose
from bnstudy.config.identity import network
from bnstudy.config.schema import Config
from bnstudy.data import sources
from bnstudy.store import files, paths
from bnstudy.store.jobs import jobs
from bnstudy.store.status import plan_keys

PACKAGE = Path(__file__).parents[1]
# Of the package: the schema, names, options' defaults.
DECIDING = ("config/*.py", "config/reference.json", "store/jobs.py", "norms/*.py", "models/*.py", "probes/*.py")


@dataclass(frozen=True)
class Wanted:
    """One run of a sweep, the updates that it makes (1 where none), and what the time of one depends on."""

    run_id: str
    work: int
    kind: str
    looks: tuple[str, ...] = ()  # what is to look at it, as `status.look_key` has it


def wanted(sweep: str, preset: str, overrides: Sequence[str], results: Path) -> list[Wanted]:
    """The sweep's runs, in its order, on the data that are there now. Raises ValueError as composing does."""
    asked = hashlib.sha256(json.dumps(list(overrides)).encode()).hexdigest()[:8]
    path, key = paths.index(results) / f"{sweep}-{preset}-{asked}.json", _key(sweep)
    if (there := _remembered(path, key)) is not None:
        return there
    configs = compose.expand(sweep, preset, overrides)
    made = jobs(configs)
    data = {}
    for job in made:
        runtime = job.config.runtime
        data[job.source.name, runtime.data_root, runtime.synthetic] = job.source.identity
    found = [Wanted(job.run_id, max(1, job.num_steps), _kind(job.config), plan_keys(job.config)) for job in made]
    kept = {
        "key": key,
        "data": [[*asked, identity] for asked, identity in data.items()],
        "runs": [[run.run_id, run.work, run.kind, run.looks] for run in found],
    }
    with contextlib.suppress(OSError):  # where it cannot be kept, it is composed again
        files.write_text(path, json.dumps(kept, separators=(",", ":")))
    return found


def _kind(config: Config) -> str:
    parts = (network(config), config.norm["name"], config.data.batch_size, config.precision, *config.probes)
    return "-".join(map(str, parts))


def _key(sweep: str) -> str:
    """Over every file that has a say in what the sweep's runs are."""
    own = [path for pattern in DECIDING for path in PACKAGE.glob(pattern)]
    deciding = [*own, *compose.CONF.rglob("*.yaml"), compose.SWEEPS / f"{sweep}.yaml"]
    digest = hashlib.sha256(metadata.version("hydra-core").encode())
    for path in sorted(deciding):
        content = path.read_bytes() if path.exists() else b""
        digest.update(f"\n{path} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _remembered(path: Path, key: str) -> list[Wanted] | None:
    """The runs of a file that still holds: of the same configuration, and of the same bytes of data."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["key"] != key:
            return None
        for name, root, synthetic, identity in entry["data"]:
            if sources.locate(name, Path(root), allow_synthetic=synthetic, download=False).identity != identity:
                return None
        return [Wanted(str(run_id), int(work), str(kind), tuple(looks)) for run_id, work, kind, looks in entry["runs"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # what is wrong with data, composing will say
        return None
