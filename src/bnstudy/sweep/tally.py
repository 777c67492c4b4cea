"""How many runs of a sweep are in which state, and how long the others still take: the one estimate of time.

Nothing is presumed of a machine: speeds are those of runs that were trained, of this results folder first, then of the
published ones. Where there is none of a kind of run, its time is not known.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bnstudy.store import paths
from bnstudy.store.index import Entry
from bnstudy.store.jobs import under_way
from bnstudy.store.locks import Holder
from bnstudy.store.runs import State
from bnstudy.store.words import duration
from bnstudy.sweep.specs import BATCH_SIZE, Kind, RunSpec, kind

NETWORK_AND_PRECISION = 2  # of a kind: what a speed must share with a run to say something of it


class Speeds:
    """Seconds that one image takes, by kind of run; for a kind without runs, those of the most similar known kind.

    From a similar kind the probes' time is left out: the time of one probe says nothing of another's, and can be many
    times that of training.
    """

    def __init__(self) -> None:
        self._sums: defaultdict[Kind, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(
        self, of: Kind, images: float, sec: float, probe_share: float | None = None, *, for_similar: bool = True
    ) -> None:
        """Count images that a run of this kind trained on in so many seconds.

        `probe_share`: the probes' share of the seconds. `for_similar`: whether the speed counts for similar kinds, too;
        not where that share is unknown.
        """
        for length in range(NETWORK_AND_PRECISION if for_similar else len(of), len(of) + 1):
            sums = self._sums[of[:length]]
            counted = sec if length == len(of) else sec * (1 - (probe_share or 0.0))
            sums[0], sums[1] = sums[0] + images, sums[1] + counted

    def sec_per_image(self, of: Kind) -> float | None:
        for length in range(len(of), NETWORK_AND_PRECISION - 1, -1):
            images, sec = self._sums.get(of[:length], (0.0, 0.0))
            if images:
                return sec / images
        return None


@dataclass(frozen=True)
class Pace:
    """The speeds of runs here and of published ones, and the images that runs which have a checkpoint have seen."""

    here: Speeds
    published: Speeds
    images_done: Mapping[str, float] = field(default_factory=dict)

    def sec_left(self, run: RunSpec) -> tuple[float | None, bool]:
        """The seconds that a run still takes (None: not known), and whether by a published speed."""
        left = max(0.0, run.work - self.images_done.get(run.run_id, 0.0))
        for speeds in (self.here, self.published):
            if (sec := speeds.sec_per_image(run.kind)) is not None:
                return left * sec, speeds is self.published
        return None, False


def measured(
    runs: Iterable[RunSpec], entries: Mapping[str, Entry], results: Path, published: Speeds | None = None
) -> Pace:
    """The speeds of the completed runs in `entries`, and of those of `runs` that have a checkpoint."""
    here, images_done = Speeds(), dict[str, float]()
    for entry in entries.values():
        if entry.state == State.completed and entry.sec is not None and entry.facts:
            facts, probes = entry.facts, {look.partition("@")[0] for look in entry.looks}
            steps, batch = facts["steps"] or 0, facts["batch_size"] or 1
            of = kind(facts["network"], facts["precision"], facts["data"], facts["norm"], batch, probes, steps)
            here.add(of, max(1, steps * batch), entry.sec, entry.probe_share if steps else None)
    begun = _begun(results)
    for run in runs:
        if run.run_id in begun and not entries[run.run_id].state.done:
            steps, sec = begun[run.run_id]
            images_done[run.run_id] = steps * int(run.kind[BATCH_SIZE])
            here.add(run.kind, images_done[run.run_id], sec, for_similar=False)
    return Pace(here, published or Speeds(), images_done)


@dataclass
class Tally:
    """Runs by state, and the time that is left for those that are not done."""

    counts: Counter[str] = field(default_factory=Counter)
    sec: float = 0.0  # of one process
    unknown: int = 0  # runs of a kind whose speed is not known
    by_published_speed: bool = False
    processes: int = 1

    @property
    def pending(self) -> int:
        return sum(count for word, count in self.counts.items() if word not in _DONE)

    @property
    def begun(self) -> bool:
        return self.counts.total() > self.counts["pending"]

    @property
    def time_left(self) -> str:
        """The time left, as in `about 3 min left for 2 processes`; empty where it is not known."""
        if self.pending <= self.unknown:
            return ""
        who = f"{self.processes} processes" if self.processes > 1 else "one process"
        text = f"about {duration(self.sec / self.processes)} left for {who}"
        text += " at the speed of published runs" if self.by_published_speed else ""
        return text + (f", and {self.unknown} of a kind whose speed is not known yet" if self.unknown else "")

    def __str__(self) -> str:
        counted = ", ".join(f"{self.counts[word]} {word}" for word in _ORDER if self.counts[word])
        return f"{self.counts.total():4} runs: {counted}{'; ' if self.time_left else ''}{self.time_left}"


def tally(
    runs: Sequence[RunSpec],
    entries: Mapping[str, Entry],
    pace: Pace,
    holders: Mapping[str, Holder],
    processes: int | None = None,
    published: Collection[str] = (),
) -> Tally:
    """How far these runs are; `published` ones that are not done here count as that.

    `processes` share what is left; None: as many as are at it, or one.
    """
    result, at_work = Tally(), set[Holder]()
    for run in runs:
        entry, holder = entries[run.run_id], holders.get(run.run_id)
        if entry.state.done and set(run.looks) <= set(entry.looks):
            result.counts[entry.state] += 1
            continue
        if holder is not None:
            at_work.add(holder)
        elif run.run_id in published:
            result.counts["published"] += 1
            continue
        result.counts["running" if holder is not None else _WORD.get(entry.state, entry.state)] += 1
        sec, by_published = pace.sec_left(run)
        result.sec, result.unknown = result.sec + (sec or 0.0), result.unknown + (sec is None)
        result.by_published_speed |= by_published
    result.processes = max(1, min(processes or len(at_work), result.pending))
    return result


_WORD = {State.absent: "pending", State.partial: "interrupted"} | dict.fromkeys(
    (State.completed, State.diverged), "to look at"
)  # a run that has ended and lacks a look
_DONE = ("completed", "diverged", "published")
_ORDER = (*_DONE, "to look at", "failed", "damaged", "running", "interrupted", "pending")


def _begun(results: Path) -> dict[str, tuple[float, float]]:
    """The updates of each run that a checkpoint holds, and its share of the seconds they took."""
    by_run: dict[str, tuple[float, float]] = {}
    for group, members in under_way(results).items():
        try:
            pace = json.loads((paths.groups(results) / group / paths.PACE).read_text(encoding="utf-8"))
            steps, share = float(pace["step"]), float(pace["wall_sec"]) / len(members)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of another version, or cut short: its speed is not known
        by_run |= dict.fromkeys(members, (steps, share))
    return by_run
