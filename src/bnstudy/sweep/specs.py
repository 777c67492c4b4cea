"""The runs of a sweep in brief: composed once, and remembered while everything that decides them stays the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bnstudy.config import compose, groups, project
from bnstudy.config.identity import network
from bnstudy.data import sources
from bnstudy.store.cache import Cache
from bnstudy.store.jobs import Job, jobs
from bnstudy.store.status import plan_keys

PACKAGE = Path(__file__).parents[1]
# Of the package: the schema, names, options' defaults.
DECIDING = ("config/*.py", "config/reference.json", "store/jobs.py", "norms/*.py", "models/*.py", "probes/*.py")
HOW = ("runtime.", "tracking.")  # overrides that say how and where runs train, and not which
Kind = tuple[str, ...]  # what the time of an image depends on, the most important first
BATCH_SIZE = 4  # its place in a kind


@dataclass(frozen=True)
class RunSpec:
    """One run of a sweep, with what its time and its state are estimated from.

    `work`: the number of images that it trains on, 1 without an update. `kind`: what the time of one image depends on.
    `looks`: the keys of its looks (`status.look_key`).
    """

    run_id: str
    work: int
    kind: Kind
    looks: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepSpec:
    """A sweep with its preset and the overrides that say which runs it has."""

    sweep: str
    preset: str
    overrides: tuple[str, ...] = ()
    named: str | None = None  # of the results, where they have a name of their own

    @classmethod
    def of(cls, sweep: str, preset: str, overrides: Sequence[str] = (), named: str | None = None) -> SweepSpec:
        return cls(sweep, preset, tuple(text for text in overrides if not text.startswith(HOW)), named)

    def __str__(self) -> str:
        return " ".join([self.sweep, self.preset, *self.overrides])


def of_sweep(sweep: str, preset: str, overrides: Sequence[str], results: Path) -> list[RunSpec]:
    """The sweep's runs, in its order, on the data that are there now. Raises ValueError as composing does."""
    spec, store = SweepSpec.of(sweep, preset, overrides), Cache(results)
    stamp, value = store.read("sweep").get(_key(spec), ("", ""))
    if stamp == _stamp(sweep, overrides) and (runs := _parsed(value, check_data=True)) is not None:
        return runs
    return remember(sweep, preset, overrides, jobs(compose.expand(sweep, preset, overrides)), results)


def remember(
    sweep: str,
    preset: str,
    overrides: Sequence[str],
    grid: Sequence[Job],
    results: Path,
    named: str | None = None,
) -> list[RunSpec]:
    """Remember the sweep's runs, and return them."""
    data = {}
    for job in grid:
        runtime = job.config.runtime
        data[job.source.name, runtime.data_root, runtime.synthetic] = job.source.identity
    runs = [of_job(job) for job in grid]
    value = {"data": [[*place, identity] for place, identity in data.items()], "runs": [asdict(run) for run in runs]}
    key = _key(SweepSpec.of(sweep, preset, overrides, named))
    Cache(results).write("sweep", {key: (_stamp(sweep, overrides), value)})
    return runs


def of_job(job: Job) -> RunSpec:
    """The run of a job, in brief."""
    config = job.config
    data, norm = config.data, config.norm["name"]
    of_kind = kind(network(config), config.precision, data.name, norm, data.batch_size, config.probes, job.num_steps)
    return RunSpec(job.run_id, max(1, job.num_steps * data.batch_size), of_kind, plan_keys(config))


def remembered(results: Path) -> dict[SweepSpec, list[RunSpec] | None]:
    """Every sweep that was asked for here, with its runs as they were then; None where those may be others now."""
    by_spec = {}
    for key, (stamp, value) in Cache(results).read("sweep").items():
        try:
            sweep, preset, overrides, *named = json.loads(key)
        except ValueError:
            continue
        spec = SweepSpec(sweep, preset, tuple(overrides), *named)
        same = stamp.partition(" ")[0] == _deciding(sweep)
        by_spec[spec] = _parsed(value, check_data=False) if same else None
    return by_spec


def kind(
    network: str, precision: str, data: str, norm: str, batch_size: int, probes: Iterable[str], steps: int
) -> Kind:
    """The kind of a run. A run that is only looked at spends its time on other things than one that trains."""
    how = precision if steps else f"{precision} at initialisation"
    return network, how, data, norm, str(batch_size), *sorted(probes)


def _key(spec: SweepSpec) -> str:
    return json.dumps([spec.sweep, spec.preset, spec.overrides, *([spec.named] if spec.named else [])])


def _stamp(sweep: str, overrides: Sequence[str]) -> str:
    """A digest of every file and place of data that decides what the sweep's runs are."""
    places = [text for text in overrides if text.startswith(("runtime.data_root=", "runtime.synthetic="))]
    return f"{_deciding(sweep)} {json.dumps(places)}"


def _deciding(sweep: str) -> str:
    digest = _common().copy()
    path = project.sweep_file(sweep)
    digest.update(path.read_bytes() if path else b"")
    return digest.hexdigest()


@cache
def _common() -> Any:
    digest = hashlib.sha256(metadata.version("hydra-core").encode())
    own = [path for pattern in DECIDING for path in PACKAGE.glob(pattern)]
    for folder in (folder for part in project.PARTS for folder in project.own(part)):
        own += [path for path in folder.rglob("*") if path.suffix in (".py", ".yaml")]
    for path in sorted([*own, *groups.CONF.rglob("*.yaml")]):
        content = path.read_bytes()
        digest.update(f"\n{path} {len(content)}\n".encode() + content)
    return digest


def _parsed(text: str, *, check_data: bool) -> list[RunSpec] | None:
    """The runs of a value that still holds; with `check_data` only if the data are the same bytes now."""
    try:
        value = json.loads(text)
        for name, root, synthetic, identity in value["data"] if check_data else ():
            if sources.locate(name, Path(root), allow_synthetic=synthetic, download=False).identity != identity:
                return None
        lists = ("kind", "looks")
        return [RunSpec(**run | {key: tuple(run[key]) for key in lists}) for run in value["runs"]]
    except (OSError, ValueError, KeyError, TypeError):  # composing will say what is wrong with the data
        return None
