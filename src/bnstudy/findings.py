"""What a claim, its evidence and its verdict are, which findings there are, and how the claims are written down."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from bnstudy import effects, files
from bnstudy.effects import Arms
from bnstudy.frames import MINUS

MIN_SEEDS = 3  # fewer than this in either arm and no verdict is given
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
DASH = "\u2013"  # where there is no value
OPEN_CLAIMS = "open.toml"  # beside the findings: claims that nothing measures yet
NOTES = "notes.toml"  # beside the findings: why a claim was missed, and who disagrees
PROTOCOL = ("TITLE", "CAPTION", "SWEEP", "NEEDS", "CLAIMS", "SIZE", "plot", "check", "numbers")


class Verdict(StrEnum):
    reproduced = "reproduced"
    partly = "partly"
    not_reproduced = "not reproduced"
    undecided = "undecided"  # too few runs, or none that could tell
    not_run = "not run"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is claimed, and the rule by which it is judged, laid down before the measurement.

    `criterion` is a sentence that a reader can check by hand; `published` the paper's own numbers, as text; `to_run`,
    for claims that nothing measures yet, what would. Raises ValueError for an unknown scale or an empty text.
    """

    id: str
    where: str
    says: str
    criterion: str
    scale: str
    published: str = ""
    to_run: str = ""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"claim {self.id}: scale = {self.scale!r}: choose one of {', '.join(SCALES)}")
        for key in ("id", "where", "says", "criterion"):
            if not getattr(self, key).strip():
                raise ValueError(f"claim {self.id!r}: {key} is empty: a claim needs it")


@dataclass(frozen=True)
class Evidence:
    """What was measured, as text with its spread, over how many runs of the smaller arm, and the verdict.

    `arms`: the values behind it, where the claim compares the arms, of one quantity or several; from them come
    intervals and an effect size of each.
    """

    measured: str
    spread: str
    n: int
    verdict: Verdict
    arms: Arms | tuple[Arms, ...] = ()


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
    that name joins them under the key "published". `images`: whether those of a data set play a part. `plot(fig,
    frames)` draws, `check(frames)` gives Evidence for every claim, `numbers(frames)` the comparison with the paper.
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
    check: Callable[[Mapping[str, Any]], Mapping[str, Evidence]]
    numbers: Callable[[Mapping[str, Any]], Sequence[Comparison]]
    images: bool = True

    def evidence(self, frames: Mapping[str, Any]) -> dict[str, Evidence]:
        """Raises ValueError unless `check` answers exactly the finding's claims."""
        found = dict(self.check(frames))
        asked = {claim.id for claim in self.claims}
        if set(found) != asked:
            raise ValueError(f"{self.name}: check answers {sorted(found)}, the claims are {sorted(asked)}")
        return found


def discover(folder: Path) -> list[Path]:
    """Every finding's file: each `*.py` of the folder that does not begin with `_`, by name."""
    if not folder.is_dir():
        raise ValueError(f"findings folder {folder} is not there: give the repository's analysis/findings")
    return [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]


def load(path: Path) -> Finding:
    """The finding in a file. Raises ValueError if it lacks a part, and whatever executing it raises."""
    return _finding(_module(path))


def check_ids(found: Iterable[Finding], waiting: Iterable[Claim]) -> None:
    """Raises ValueError for a claim that stands twice, in two findings or in one and in `open.toml`."""
    owners: dict[str, str] = {}
    for owner, claim in [(f.name, c) for f in found for c in f.claims] + [(OPEN_CLAIMS, c) for c in waiting]:
        if claim.id in owners:
            raise ValueError(f"claim {claim.id} is in {owners[claim.id]} and in {owner}: each stands once, remove one")
        owners[claim.id] = owner


def open_claims(folder: Path) -> tuple[Claim, ...]:
    """The claims of `open.toml`. Raises ValueError for one that does not say what would run it."""
    path = folder / OPEN_CLAIMS
    if not path.exists():
        return ()
    claims = tuple(Claim(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["claim"])
    for claim in claims:
        if not claim.to_run:
            raise ValueError(f"{path.name}: claim {claim.id} does not say what would run it (to_run)")
    return claims


def notes(folder: Path) -> dict[str, Note]:
    """The notes of `notes.toml`, by claim. Raises ValueError for a key that a note does not have."""
    path = folder / NOTES
    if not path.exists():
        return {}
    known = {field.name for field in fields(Note)}
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    for claim, entry in found.items():
        if unknown := sorted(set(entry) - known):
            raise ValueError(f"{NOTES}: claim {claim} has {', '.join(unknown)}; a note has {', '.join(sorted(known))}")
    return {claim: Note(**entry) for claim, entry in found.items()}


def noted(rows: Iterable[Row], known: Mapping[str, Note]) -> list[Row]:
    """Rows with their notes; of one that is no miss, or not measured, only what disputes it.

    Raises ValueError for a note on a claim that is none of them.
    """
    rows = list(rows)
    if strangers := sorted(set(known) - {r.id for r in rows}):
        raise ValueError(f"{NOTES}: there is no claim {', '.join(strangers)}")
    found = []
    for r in rows:
        note = known.get(r.id, Note())
        shown = note if r.missed else Note()
        found.append(replace(r, disputed=note.disputed, explanation=shown.explanation, test=shown.test))
    return found


def judge(n: int, *, whole: bool, part: bool) -> Verdict:
    """The rule all findings share: too few seeds, no verdict; the whole criterion: reproduced; a part of it: partly."""
    if n < MIN_SEEDS:
        return Verdict.undecided
    if whole:
        return Verdict.reproduced
    return Verdict.partly if part else Verdict.not_reproduced


def row(claim: Claim, evidence: Evidence, *, data: str, commit: str, finding: str = "") -> Row:
    """A claim that was judged."""
    return Row(
        **asdict(claim),
        measured=_signed(evidence.measured),
        spread=_signed(evidence.spread),
        n=evidence.n,
        verdict=str(evidence.verdict),
        data=data,
        commit=commit,
        finding=finding,
        effect=effects.told(evidence.arms),
    )


def _signed(text: str) -> str:
    """With a minus sign for every hyphen that stands for one."""
    return re.sub(r"(?<!\w)-(?=\d)", MINUS, text)


def row_not_run(claim: Claim, why: str, *, finding: str = "") -> Row:
    """A claim that was not judged, and why, or what would judge it."""
    told = asdict(claim) | {"to_run": why}
    return Row(**told, measured="", spread="", n=0, verdict=str(Verdict.not_run), data="", commit="", finding=finding)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By number first (2 before 10), then by name."""

    def key(r: Row) -> tuple[int, str]:
        number = re.match(r"\d+", r.id)
        return (int(number.group()) if number else sys.maxsize, r.id)

    return sorted(rows, key=key)


def write(rows: Iterable[Row], workspace: Path) -> list[Path]:
    """`claims.json` and `claims.md` in the workspace, in the order of the claims."""
    ordered = in_order(rows)
    as_json, as_markdown = workspace / "claims.json", workspace / "claims.md"
    files.write_text(as_json, json.dumps([asdict(r) for r in ordered], indent=1, ensure_ascii=False) + "\n")
    files.write_text(as_markdown, markdown(ordered))
    return [as_markdown, as_json]


def markdown(rows: Sequence[Row]) -> str:
    """The claims as one table, headed by a warning where any was measured on a stand-in."""
    head = ["id", "where", "claim", "criterion", "scale", "measured", "spread", "n", "verdict", "data", "commit"]
    lines = ["# Claims", ""]
    if any(r.data.startswith("stand-in") for r in rows):
        lines += ["**stand-in data**: rows so marked were measured on made images and say nothing about the paper.", ""]
    tally = ", ".join(f"{count} {verdict}" for verdict, count in tallied(rows).items())
    lines += [f"{len(rows)} claims: {tally}.", "", _line(head), _line(["---"] * len(head))]
    for r in rows:
        why = r.to_run if r.finding else f"would run it: {r.to_run}"
        measured = f"*{why}*" if r.verdict == Verdict.not_run else r.measured
        n = str(r.n) if r.n else DASH
        cells = [r.id, r.where, r.says, r.criterion, r.scale, measured, r.spread or DASH, n]
        lines.append(_line([*cells, f"**{r.verdict}**", r.data or DASH, r.commit or DASH]))
    lines += _apart(rows) + _misses(rows) + _disputes(rows)
    return "\n".join(lines) + "\n"


def _apart(rows: Sequence[Row]) -> list[str]:
    told = [f"- **{r.id}**: {_plain(r.effect)}" for r in rows if r.effect]
    head = (
        "Means over seeds with Student's 95 % intervals (geometric where arms are compared as ratios), their "
        "difference with Welch's, and Cliff's delta: 1 where every value without BN is larger, -1 where every one is "
        "smaller. Verdicts go by the criteria, not by these."
    )
    return ["", "## The two arms", "", head, "", *told] if told else []


def _misses(rows: Sequence[Row]) -> list[str]:
    told = [
        f"- **{r.id}**, {r.verdict}: {_plain(r.explanation)} *What would test it:* {_plain(r.test)}"
        for r in rows
        if r.explanation
    ]
    head = "The best explanation of each so far, and what would test it."
    return ["", "## Misses", "", head, "", *told] if told else []


def _disputes(rows: Sequence[Row]) -> list[str]:
    told = [f"- **{r.id}**: {_plain(r.disputed)}" for r in rows if r.disputed]
    return ["", "## Where others disagree", "", *told] if told else []


def tallied(rows: Iterable[Row]) -> dict[str, int]:
    """How many claims have each verdict, in the order of `Verdict`; verdicts nobody has are left out."""
    given = [r.verdict for r in rows]
    return {str(verdict): given.count(verdict) for verdict in Verdict if verdict in given}


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """What would break a table (bars, line ends) or be read as markup is escaped."""
    return re.sub(r"([|<>])", r"\\\1", text.replace("\n", " "))


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
        claims=tuple(module.CLAIMS),
        plot=module.plot,
        check=module.check,
        numbers=module.numbers,
        images=getattr(module, "IMAGES", True),
    )
