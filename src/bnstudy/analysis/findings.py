"""What a claim, its evidence and its verdict are, and which findings there are."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from bnstudy.analysis import criteria, figure_cache, stats
from bnstudy.analysis.criteria import Criterion, Outcome, Sample
from bnstudy.analysis.frames import MINUS, number
from bnstudy.analysis.stats import ALPHA, MIN_SEEDS, Interval

ORIGINS = ("paper", "course", "ours")  # whose claim it is: the paper's, that of the course pages, an own question
SCALES = (
    "init",  # untrained
    "paper",  # as the paper trains
    "reduced",  # with less
    "textbook",  # as a textbook does
    "true depth, one epoch",  # the paper's network on all of its data: what a learning rate does at first
    "true depth, ten epochs",
    "fitted, 5,000 images",  # until the training images are fitted
    "ResNet-20, 15 epochs",  # a small network on all images
)
FEW = f"fewer than {MIN_SEEDS} seeds"
NOTES = "notes.toml"  # beside the findings: why a claim was missed, and who disagrees
PROTOCOL = ("TITLE", "CAPTION", "SWEEP", "NEEDS", "SIZE", "plot", "numbers")


class Verdict(StrEnum):
    reproduced = "reproduced"
    partly = "partly"
    not_reproduced = "not reproduced"
    undecided = "undecided"  # too few runs, or none that could tell
    not_run = "not run"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is claimed, whose claim it is, and the rule by which it is judged.

    `criterion`: a `Criterion`, or a sentence where none of its kind fits; `published` the paper's own numbers, as text;
    `origin` whose claim it is (this study's own, unless it says so); `calibrated`: why meeting the criterion is no test
    of the paper, as where the configuration was chosen by the very numbers, or where the claim is an identity; `family`
    the claims that are corrected together for their number, by default those of its finding and origin. Raises
    ValueError for an unknown scale or origin, or an empty text.
    """

    id: str
    where: str
    says: str
    criterion: Criterion | str
    scale: str
    origin: str = "ours"
    calibrated: str = ""
    family: str = ""
    published: str = ""

    def __post_init__(self) -> None:
        for key, known in (("scale", SCALES), ("origin", ORIGINS)):
            if getattr(self, key) not in known:
                raise ValueError(f"claim {self.id}: {key} = {getattr(self, key)!r}: choose one of {', '.join(known)}")
        for key in ("id", "where", "says", "criterion"):
            if not str(getattr(self, key)).strip():
                raise ValueError(f"claim {self.id!r}: {key} is empty: a claim needs it")

    @property
    def written(self) -> dict[str, str]:
        """Its texts by name, as they are written down."""
        return {field.name: str(getattr(self, field.name)) for field in fields(self)}


def claim(**texts: Any) -> Callable[[Judge], Judge]:
    """Put a claim on the function that judges it, for a criterion in words: `@claim(id=..., says=..., criterion=...)`.

    `texts`: the fields of a `Claim`. The function takes the finding's frames and gives Evidence.
    """
    attached = Claim(**texts)

    def attach(judges: Judge) -> Judge:
        judges.claim = attached  # type: ignore[attr-defined]
        return judges

    return attach


@dataclass(frozen=True)
class Evidence:
    """What was measured, as text with its spread, over how many runs of the smaller arm, and the verdict.

    `reason` says of an undecided claim why it is. `effect` tells of the two arms by themselves. `estimates` are the
    numbers that were judged, by what they are, and `shown` the means of the arms they compare: what a figure must show.
    """

    measured: str
    spread: str
    n: int
    verdict: Verdict
    reason: str = ""
    effect: str = ""
    estimates: Mapping[str, Interval] = field(default_factory=dict)
    shown: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


Judge = Callable[[Mapping[str, Any]], Evidence]  # of a finding's frames


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a reader of a verdict should know: of a miss the best explanation and what would test it; what disputes it.

    An entry of `notes.toml` under the claim's id. The explanation is shown while the claim is not reproduced in full.
    """

    explanation: str = ""
    test: str = ""
    disputed: str = ""  # where other claims or papers disagree


@dataclass(frozen=True)
class Comparison:
    """One line of the table beside a figure: the paper's numbers and ours, with and without batch normalization."""

    quantity: str
    paper_batch: str
    paper_none: str
    ours_batch: str
    ours_none: str


@dataclass(frozen=True)
class Row:
    """One claim as it is written down."""

    id: str
    where: str
    says: str
    criterion: str
    scale: str
    measured: str
    spread: str
    n: int
    verdict: str
    data: str
    commit: str
    published: str = ""
    to_run: str = ""
    finding: str = ""
    origin: str = "ours"
    calibrated: str = ""
    family: str = ""
    reason: str = ""
    given: str = ""  # what the verdict is conditional on
    effect: str = ""
    explanation: str = ""
    test: str = ""
    disputed: str = ""

    @property
    def missed(self) -> bool:
        """Whether it was measured and not reproduced in full."""
        return self.verdict in (Verdict.partly, Verdict.not_reproduced)


@dataclass(frozen=True)
class Finding:
    """One file of `analysis/findings`: a figure and the claims judged from the very frames it shows.

    `needs` maps a table of the sweep `sweep`, or "other_sweep/table", to a query on it; with `published` the curve of
    that name joins them under the key "published". `images`: whether those of a data set play a part.
    `plot(fig, frames)` draws, `numbers(frames)` gives the comparison with the paper. `measure(frames)` gives, for every
    claim whose criterion is data, the values it is judged by, and is called by `plot`, too; `judges` holds for every
    other claim the function that carries it (see `claim`).
    """

    name: str
    title: str
    caption: str
    sweep: str
    needs: Mapping[str, str | None]
    published: str | None
    size: tuple[float, float]  # inches
    claims: tuple[Claim, ...]
    plot: Callable[[Any, Mapping[str, Any]], None]
    numbers: Callable[[Mapping[str, Any]], Sequence[Comparison]]
    measure: Callable[[Mapping[str, Any]], Mapping[str, Mapping[str, Sample]]] | None = None
    judges: Mapping[str, Judge] = field(default_factory=dict)
    images: bool = True

    def evidence(self, frames: Mapping[str, Any]) -> dict[str, Evidence]:
        """Raises ValueError unless `measure` answers exactly the claims that no function carries."""
        evidence = judged(self.claims, self.measure(frames)) if self.measure is not None else {}
        evidence |= {name: judges(frames) for name, judges in self.judges.items()}
        expected = {claim.id for claim in self.claims}
        if set(evidence) != expected:
            raise ValueError(f"{self.name}: judged are {sorted(evidence)}, the claims are {sorted(expected)}")
        return evidence


def discover(folder: Path) -> list[Path]:
    """Every finding's file: each `*.py` of the folder that does not begin with `_`, by name."""
    if not folder.is_dir():
        raise ValueError(f"findings folder {folder} is not there: give the repository's analysis/findings")
    return [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]


def load(path: Path) -> Finding:
    """The finding in a file. Raises ValueError if it lacks a part, and whatever executing it raises."""
    return _finding(_module(figure_cache.record(path)))


def check_ids(rows: Iterable[Row]) -> None:
    """Raises ValueError for a claim that stands twice."""
    owners: dict[str, str] = {}
    for each in rows:
        if each.id in owners:
            first, second = owners[each.id], each.finding
            raise ValueError(f"claim {each.id} is in {first} and in {second}: each stands once, remove one")
        owners[each.id] = each.finding


def notes(folder: Path) -> dict[str, Note]:
    """The notes of `notes.toml`, by claim. Raises ValueError for a key that a note does not have."""
    path = folder / NOTES
    if not path.exists():
        return {}
    known = {field.name for field in fields(Note)}
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    for claim, entry in entries.items():
        if unknown := sorted(set(entry) - known):
            raise ValueError(f"{NOTES}: claim {claim} has {', '.join(unknown)}; a note has {', '.join(sorted(known))}")
    return {claim: Note(**entry) for claim, entry in entries.items()}


def noted(rows: Iterable[Row], known: Mapping[str, Note]) -> list[Row]:
    """Rows with their notes; a row that is no miss, or not measured, has only what disputes it.

    Raises ValueError for a note on an unknown claim.
    """
    rows = list(rows)
    if strangers := sorted(set(known) - {r.id for r in rows}):
        raise ValueError(f"{NOTES}: there is no claim {', '.join(strangers)}")
    with_notes = []
    for r in rows:
        note = known.get(r.id, Note())
        shown = note if r.missed else Note()
        with_notes.append(replace(r, disputed=note.disputed, explanation=shown.explanation, test=shown.test))
    return with_notes


def judge(n: int, *, full: bool, partial: bool) -> Verdict:
    """The rule of criteria in words: too few seeds, no verdict; the full criterion, reproduced; part of it, partly."""
    if n < MIN_SEEDS:
        return Verdict.undecided
    if full:
        return Verdict.reproduced
    return Verdict.partly if partial else Verdict.not_reproduced


def judged(claims: Iterable[Claim], measured: Mapping[str, Mapping[str, Sample]]) -> dict[str, Evidence]:
    """Evidence for each of the claims that were measured, by its criterion, Holm's correction within each family.

    Too few seeds, an unmet precondition, or an interval that holds the bound: undecided, with that reason. Raises
    ValueError where a quantity was not measured, or where a claim that was has no criterion of this kind.
    """
    known = {claim.id: claim for claim in claims}
    rules: dict[str, Criterion] = {}
    for name in measured:
        rule = known[name].criterion if name in known else ""
        if not isinstance(rule, Criterion):
            raise ValueError(f"claim {name} was measured and has no criterion that judges it: give it a Criterion")
        rules[name] = rule
    outcomes = {name: rule.judge(measured[name]) for name, rule in rules.items()}
    corrected, partly, against = (dict[str, float]() for _ in range(3))
    tested = {name: of for name, of in outcomes.items() if not of.unmet and of.n >= of.min_n}
    for family in {known[name].family for name in tested}:
        of_family = {name: of for name, of in tested.items() if known[name].family == family}
        corrected |= stats.holm({name: of.p for name, of in of_family.items()})
        partly |= stats.holm({name: of.partial_p for name, of in of_family.items() if of.partial_p is not None})
        against |= stats.holm({name: of.against_p for name, of in of_family.items()})
    ps = {name: tuple(of.get(name, 1.0) for of in (corrected, partly, against)) for name in outcomes}
    return {name: _evidence(rules[name], measured[name], of, *ps[name]) for name, of in outcomes.items()}


def _evidence(
    rule: Criterion,
    samples: Mapping[str, Sample],
    judgement: criteria.Judgement,
    full_p: float,
    partial_p: float,
    against_p: float,
) -> Evidence:
    verdict, reason = _verdict(judgement, full_p, partial_p, against_p)
    estimates = rule.estimates(samples)
    scales = {of: samples[of].arms_scale for of in estimates}
    arms = {
        of: {arm: stats.interval(values, scales[of]) for arm, values in samples[of].arms.items()} for of in estimates
    }
    left_out = sum(interval.left_out for interval in estimates.values())
    parts = {part.key: part for part in rule.parts}
    means, ends, effect = (dict[str, list[str]]() for _ in range(3))
    for key, part in parts.items():
        of, at = estimates[key], f" ({part.at})" if part.at else ""
        means.setdefault(part.of, []).append(f"{number(of.mean)}{f' {part.unit}' if part.unit else ''}{at}")
        ends.setdefault(part.of, []).append(f"[{number(of.low)}, {number(of.high)}]")
        if arms[key] and all(interval.n for interval in arms[key].values()):
            both = ", ".join(f"{criteria.formatted(each)} {criteria.LABELS[arm]}" for arm, each in arms[key].items())
            effect.setdefault(part.of, []).append(both + at)
    return Evidence(
        measured="; ".join(f"{of} {', '.join(each)}" for of, each in means.items()),
        spread="; ".join(", ".join(each) for each in ends.values())
        + (f"; without a place on the scale and left out: {left_out}" if left_out else ""),
        n=judgement.n,
        verdict=verdict,
        reason=reason,
        effect=". ".join(f"{of}: {'; '.join(each)}" for of, each in effect.items()),
        estimates=estimates,
        shown={of: tuple(interval.mean for interval in each.values()) for of, each in arms.items()},
    )


def _verdict(judgement: criteria.Judgement, full_p: float, partial_p: float, against_p: float) -> tuple[Verdict, str]:
    """By p values that are corrected for the number of claims."""
    if judgement.unmet and (judgement.n >= judgement.min_n or not judgement.n):
        return Verdict.undecided, judgement.unmet
    if judgement.n < judgement.min_n:
        return Verdict.undecided, f"fewer than {judgement.min_n} seeds"
    if judgement.full is Outcome.holds and full_p < ALPHA:
        return Verdict.reproduced, ""
    if judgement.partial and partial_p < ALPHA:  # before what is undecided, or noise would make the verdict better
        return Verdict.partly, ""
    few = f"{judgement.n} seeds are too few"
    if judgement.full is Outcome.fails and against_p < ALPHA:
        return Verdict.not_reproduced, f"whether it holds in part is open: {few}" if judgement.partial_open else ""
    if judgement.full is not Outcome.open or judgement.partial:
        p = full_p if judgement.full is Outcome.holds else partial_p if judgement.partial else against_p
        return Verdict.undecided, f"p = {number(p)} after correction: {few}"
    return Verdict.undecided, f"the interval of {judgement.undecided} holds the bound: {few}"


def row(claim: Claim, evidence: Evidence, *, data: str, commit: str, finding: str = "", given: str = "") -> Row:
    """A claim that was judged."""
    return Row(
        **claim.written,
        measured=_signed(evidence.measured),
        spread=_signed(evidence.spread),
        n=evidence.n,
        verdict=str(evidence.verdict),
        data=data,
        commit=commit,
        finding=finding,
        reason=evidence.reason or (FEW if evidence.verdict is Verdict.undecided and evidence.n < MIN_SEEDS else ""),
        given=given,
        effect=evidence.effect,
    )


def _signed(text: str) -> str:
    """The text with a minus sign for every hyphen that stands for one."""
    return re.sub(r"(?<!\w)-(?=\d)", MINUS, text)


def row_not_run(claim: Claim, why: str, *, finding: str = "") -> Row:
    """A claim that was not judged, and why, or what would judge it."""
    values = claim.written | {"to_run": why}
    return Row(**values, measured="", spread="", n=0, verdict=str(Verdict.not_run), data="", commit="", finding=finding)


def _module(path: Path) -> ModuleType:
    """The file, executed anew."""
    spec = importlib.util.spec_from_file_location(f"bnstudy_finding_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _finding(module: ModuleType) -> Finding:
    name = Path(str(module.__file__)).stem
    lacking = [part for part in PROTOCOL if not hasattr(module, part)]
    listed = tuple(getattr(module, "CLAIMS", ()))
    own = [of for of in vars(module).values() if getattr(of, "__module__", None) == module.__name__]
    carrying = [of for of in (*own, *listed) if isinstance(getattr(of, "claim", None), Claim)]
    if not (hasattr(module, "measure") or carrying):
        lacking.append("measure, or a function that carries a claim")
    claims = [of for of in listed if isinstance(of, Claim)] + [of.claim for of in carrying]
    if lacking:
        raise ValueError(f"findings/{name}.py lacks {', '.join(lacking)}; a finding has {', '.join(PROTOCOL)}")
    return Finding(
        name=name,
        title=module.TITLE,
        caption=module.CAPTION,
        sweep=module.SWEEP,
        needs=dict(module.NEEDS),
        published=getattr(module, "PUBLISHED", None),
        size=module.SIZE,
        claims=tuple(replace(claim, family=claim.family or f"{name}, {claim.origin}") for claim in claims),
        plot=module.plot,
        numbers=module.numbers,
        measure=getattr(module, "measure", None),
        judges={of.claim.id: of for of in carrying},
        images=getattr(module, "IMAGES", True),
    )
