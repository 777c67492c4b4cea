"""Compare a run on the disk with a job: done as asked, or what it still lacks.

A run is done as asked if it trained what is asked for (identity), with the code that its components have now, and if
every probe of the configuration has looked as planned. What looked is no part of what was trained, so a finished run
that lacks a look is completed: without training where the look is at the start or at the end, else by training again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from bnstudy.config import code_checksums, identity, plugins, project
from bnstudy.config.schema import Config, ProbePlan, resolved_plan
from bnstudy.store.jobs import Job
from bnstudy.store.runs import State, Store, StoreError, looks_of

Manifest = Mapping[str, Any]
KEEPS = "(--accept-code keeps what there is)"


@dataclass(frozen=True)
class Status:
    """The state of a run, and for one that has ended what it lacks to be the one asked for."""

    state: State
    lacking: tuple[str, ...] = ()  # probes that have not looked as planned
    changed: tuple[str, ...] = ()  # files of its components that have changed since
    outdated: tuple[str, ...] = ()  # files of lacking probes that did look, but with other code

    @property
    def done(self) -> bool:
        return self.state.done and not self.lacking and not self.changed

    @property
    def why(self) -> str:
        """Why a run that has ended is not done."""
        if self.changed:
            return f"{', '.join(self.changed)} changed since it was trained"
        if self.outdated:
            return f"{', '.join(self.outdated)} changed since it was looked at"
        return f"it has no {', '.join(self.lacking)} as asked for" if self.lacking else ""

    @property
    def reason(self) -> str:
        """Why a run that has ended is not done, and what is done about it."""
        if self.changed:
            return f"{self.why}: it is trained anew {KEEPS}"
        if self.outdated:
            return f"{self.why}: {', '.join(self.lacking)} taken anew {KEEPS}"
        return f"{self.why}: added" if self.lacking else ""


def of(job: Job, store: Store, *, verify: bool = True) -> Status:
    """Compare the run on the disk with the job. With `verify` the checksums of its files are compared, too.

    Raises StoreError where the run of this name was trained with another configuration.
    """
    state = store.state(job.run_id, verify=verify)
    if not state.done:
        return Status(state)
    manifest = store.manifest(job.run_id)
    _check_configuration(job, manifest)
    changed, lacks = changed_code(job.config, manifest.get("code") or {}), lacking(job.config, manifest)
    return Status(state, lacks, changed, _outdated(job.config, manifest, lacks))


def lacking(config: Config, manifest: Manifest) -> tuple[str, ...]:
    """The probes of the configuration that have not looked at the run as they are planned to."""
    return tuple(name for name, plan in config.probes.items() if table_of(config, manifest, name, plan) is None)


def table_of(config: Config, manifest: Manifest, probe: str, plan: ProbePlan) -> str | None:
    """The name of the run's table that holds this look, with the probe's code as it is now; None where none does.

    A look that found nothing (at the end of a run that diverged before) has a name and no table.
    """
    looked = looks_of(manifest).items()
    return next((table for table, record in looked if holds(record, Look(probe, plan), config)), None)


def holds(record: Mapping[str, Any], look: Look, config: Config) -> bool:
    """Whether this record is one of the look, taken with the probe's code as it is now or as it is accepted."""
    same_code = record["code"] is None or config.runtime.accept_code or record["code"] == _probe_code(look.probe)
    return same_code and record["probe"] == look.probe and _same_plan(look.probe, record["plan"], look.plan)


def _outdated(config: Config, manifest: Manifest, lacks: Iterable[str]) -> tuple[str, ...]:
    """The files that have changed since lacking probes looked as planned."""
    files = list[str]()
    for name in lacks:
        for record in looks_of(manifest).values():
            if record["probe"] == name and _same_plan(name, record["plan"], config.probes[name]):
                own, now = f"probes/{name}.py", plugins.sources("probes", name)
                then = {**record.get("imports", {}), own: record["code"]}
                files += [file for file in now if file != own and then.get(file, now[file]) != now[file]]
                files += _changed_itself(own, now, then)
    return tuple(dict.fromkeys(files))


def tables(config: Config, store: Store, run_id: str) -> dict[str, str]:
    """By probe of the configuration, the name of the table of a finished run that holds its look."""
    if not store.state(run_id, verify=False).done:
        return {}
    manifest = store.manifest(run_id)
    by_probe = {name: table_of(config, manifest, name, plan) for name, plan in config.probes.items()}
    return {name: table for name, table in by_probe.items() if table is not None}


def component_code(config: Config, of: Callable[[str, str], dict[str, str]] = plugins.loaded) -> dict[str, str]:
    """Checksums of the files that define the run's network, norm and initial weights, by their names.

    The checksum of the network's and of the norm's own file covers the files that they import, too; these also have
    their own. `of`: the code as this process imported it, or, with `plugins.sources`, as it is on the disk.
    """
    code = dict[str, str]()
    for key, kind in identity.COMPONENTS:
        name = getattr(config, key)["name"]
        code |= _with_imports(f"{kind}/{name}.py", of(kind, name))
    return code | {"models/init.py": code_checksums.of_file(project.PACKAGE / "models" / "init.py")}


def changed_code(config: Config, then: Mapping[str, str]) -> tuple[str, ...]:
    """The files that have changed since `then`; none where changes are accepted or nothing was recorded."""
    if config.runtime.accept_code:
        return ()
    now = component_code(config, plugins.sources)
    owns = {f"{kind}/{(name := getattr(config, key)['name'])}.py": (kind, name) for key, kind in identity.COMPONENTS}
    changed = list[str]()
    for file, checksum in then.items():
        if file in now and checksum != now[file]:
            changed += _changed_itself(file, plugins.sources(*owns[file]), then) if file in owns else [file]
    return tuple(changed)


def changed_probes(
    config: Config, records: Mapping[str, Mapping[str, Any]], looked: Collection[str]
) -> tuple[str, ...]:
    """The files of probes that have changed since these looks of a checkpoint, by table, were planned, or have gone.

    One whose table is not among those of which there are rows, `looked`, may change, as long as it takes the options
    that it was given: all of its looks are still ahead.
    """
    known = set(plugins.names("probes"))
    gone = {r["probe"] for r in records.values() if r["probe"] not in known}
    begun = {table: r for table, r in records.items() if table in looked and r["probe"] in known}
    changed = gone | {r["probe"] for r in begun.values() if not holds(r, Look.of(r), config)}
    for record in (r for table, r in records.items() if table not in looked and r["probe"] in known):
        if record["plan"]["options"].keys() - plugins.defaults("probes", record["probe"]).keys():
            changed.add(record["probe"])  # it has no such option any more
    return tuple(f"probes/{name}.py" for name in sorted(changed))


def _with_imports(own: str, sources: Mapping[str, str]) -> dict[str, str]:
    """The recorded checksums of a component: of all its code, under its file's name, and of each imported file."""
    return {**sources, own: code_checksums.of_sources(sources)}


def _changed_itself(own: str, sources: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    """The component's own file, if it has changed since `_with_imports` recorded it.

    Earlier releases did not record the files that a component imports: then the change may be in one of these.
    """
    if then[own] == code_checksums.of_sources(sources):
        return []
    if not then.keys() >= sources.keys():
        return [f"{own} (or what it imports)"]
    imported_then = {file: sources[own] if file == own else then[file] for file in sources}
    return [] if then[own] == code_checksums.of_sources(imported_then) else [own]


@dataclass(frozen=True)
class Look:
    """One probe and when it looks: what a table of a run holds."""

    probe: str
    plan: ProbePlan

    @property
    def record(self) -> dict[str, Any]:
        """The look as a manifest holds it: with every default, and with checksums of the probe's code and of its
        imports.
        """
        imports, own = plugins.loaded("probes", self.probe), f"probes/{self.probe}.py"
        code = code_checksums.of_sources(imports)
        del imports[own]
        return {"probe": self.probe, "plan": resolved_plan(self.probe, self.plan), "code": code, "imports": imports}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Look:
        """The look that a manifest, or a checkpoint, has recorded."""
        known = asdict(ProbePlan())
        return cls(record["probe"], ProbePlan(**{k: v for k, v in record["plan"].items() if k in known}))


def looks(config: Config, manifests: Iterable[Manifest] = ()) -> dict[str, Look]:
    """By table, the looks of the configuration together with those that these runs have already.

    A probe's table has its name; the table of a second plan of it is named after the plan, too.
    """
    by_table: dict[str, Look] = {}
    for manifest in manifests:
        for record in looks_of(manifest).values():
            if record["probe"] in plugins.names("probes"):
                _add(by_table, Look.of(record))
    for name, plan in config.probes.items():
        _add(by_table, Look(name, plan))
    return by_table


def table_name(look: Look, taken: Iterable[str]) -> str:
    """The probe's name; where another plan has taken it, with eight digits of this plan."""
    if look.probe not in set(taken):
        return look.probe
    return look_key(look.probe, resolved_plan(look.probe, look.plan))


def _add(by_table: dict[str, Look], look: Look) -> None:
    same_probe = [each for each in by_table.values() if each.probe == look.probe]
    if not any(_same_plan(look.probe, asdict(each.plan), look.plan) for each in same_probe):
        by_table[table_name(look, by_table)] = look


def look_key(probe: str, plan: Mapping[str, Any]) -> str:
    """The probe and eight digits of its plan, with the reference of each option that the plan does not name."""
    options = identity.reference()["probes"].get(probe, {}) | plan.get("options", {})
    return f"{probe}@{identity.digest(identity.reference()['plan'] | dict(plan) | {'options': options})}"


def plan_keys(config: Config) -> tuple[str, ...]:
    """The key of every look that the configuration plans."""
    return tuple(look_key(name, resolved_plan(name, plan)) for name, plan in config.probes.items())


def has_changed_default(probe: str, plan: ProbePlan) -> bool:
    """Whether an option of the probe is planned at a default that no longer equals its reference."""
    each = identity.reference()["probes"].get(probe, {}), plugins.defaults("probes", probe)
    reference, now, planned = map(identity.flat, (*each, resolved_plan(probe, plan)["options"]))
    return any(planned[name] == now[name] != value for name, value in reference.items() if name in now)


def former(job: Job) -> dict[str, str]:
    """The runs that the same overrides described before defaults changed, all or each alone, and the changed keys."""
    changed = identity.changed_defaults(job.config)
    sets = [changed, *([each] for each in changed)] if changed else []
    configs = [identity.with_former_defaults(job.config, each) for each in sets]
    return {
        replace(job, config=config).run_id: "; ".join(map(str, each))
        for config, each in zip(configs, sets, strict=True)
    }


def _same_plan(probe: str, then: Mapping[str, Any], plan: ProbePlan) -> bool:
    """Whether a look had this plan; an option that was not known then had its reference."""
    return look_key(probe, then) == look_key(probe, resolved_plan(probe, plan))


def _probe_code(probe: str) -> str:
    return plugins.checksum("probes", probe)


def _check_configuration(job: Job, manifest: Manifest) -> None:
    if different := identity.differences(manifest["config"], job.config):
        keys = "; ".join(map(str, different))
        raise StoreError(
            f"{job.run_id} is the name of another run ({keys}): the reference of a default was edited; "
            "restore src/bnstudy/config/reference.json and list the new default under its `changed`"
        )
