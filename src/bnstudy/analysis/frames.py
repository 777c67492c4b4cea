"""Reduced tables as tidy frames: rows with their run's columns, spread over seeds, and where the numbers come from."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bnstudy.analysis import figure_cache
from bnstudy.store import files, paths

DONE = ("completed", "diverged")
DASH, MINUS = "\u2013", "\u2212"  # no value; a minus sign as wide as a digit
CHANCE = 10.0  # percent: one class of ten, guessed
OF_TEN_CLASSES = {"cifar10", "fashion_mnist"}  # images of one's own may have others
ARMS = ("batch", "none")  # with and without batch normalization, in the order of every legend and table


class MissingTable(ValueError):
    """A finding's data is not there; the message says which and what makes it."""


@dataclass(frozen=True)
class Spread:
    """Values over seeds: median, smallest, largest, how many. NaN values (not defined) are not among them."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 0:
            return DASH
        if self.n == 1 or self.low == self.high:
            return number(self.median)
        return f"{number(self.median)} [{self.range}]"

    @property
    def range(self) -> str:
        return DASH if self.n == 0 else f"{number(self.low)} to {number(self.high)}"


@dataclass(frozen=True)
class Origin:
    """Where the numbers of some frames come from."""

    num_runs: int
    data: tuple[str, ...]  # names of the data sets, with their source and the first digits of their checksum
    commits: tuple[str, ...]  # eight digits each, "+" where the code had uncommitted changes
    synthetic: bool

    @property
    def data_label(self) -> str:
        """The data of a claim's row: synthetic data is named first, and "none" where no images were used."""
        names = ", ".join(self.data) or ("none" if self.num_runs else "")
        return f"synthetic data ({names})" if self.synthetic else names

    @property
    def commit_label(self) -> str:
        return ", ".join(self.commits)


def runs(workspace: Path, sweep: str) -> pd.DataFrame:
    """One row per run of the sweep, those that are missing too (see `reduction`). Raises MissingTable."""
    frame = _read(workspace, sweep, "runs")
    frame["stand_in"] = frame["stand_in"].fillna(False).astype(bool)  # a run that is missing has no source
    if "data_title" not in frame:  # in tables of earlier releases
        frame = frame.assign(data_title=None)
    if "num_runs" not in frame:
        frame = frame.assign(num_runs=math.nan)
    return frame if "commits" in frame else frame.assign(commits=frame["commit"])


def tables(workspace: Path, sweep: str) -> list[str]:
    """The names of the reduced tables of a sweep."""
    return [path.stem for path in files.current(paths.tables(workspace, sweep)) if path.suffix == ".parquet"]


def load(workspace: Path, sweep: str, table: str, query: str | None = None) -> pd.DataFrame:
    """A reduced table, each row joined with its run's columns, then filtered by `query` (pandas syntax).

    Where both have a column of one name (a layer's `depth`, a network's `depth`) the table's keeps it and the run's
    becomes `run_<name>`. The table `runs` is the runs themselves. Raises MissingTable if there is no such table or no
    row matches.
    """
    run_rows = runs(workspace, sweep)
    if table == "runs":
        frame = run_rows
    else:
        rows = _read(workspace, sweep, table)
        rows["run_id"] = rows["run_id"].astype(str)
        renamed = {name: f"run_{name}" for name in run_rows.columns if name in rows.columns and name != "run_id"}
        keep = run_rows.rename(columns=renamed)
        frame = rows.merge(keep, on="run_id", how="left", validate="many_to_one")
    if query is not None and len(frame):
        num_rows = len(frame)
        try:
            frame = frame.query(query)
        except pd.errors.UndefinedVariableError as error:
            text = f"sweep {sweep!r}: table {table!r} has no column for {query!r} ({error})"
            raise MissingTable(f"{text}; it has: {', '.join(map(str, frame))}") from None
        if frame.empty:
            text = f"sweep {sweep!r}: none of the {num_rows} rows of table {table!r} is of {query!r}"
            added = f", make publish SWEEP={sweep} adds them" if _is_published(workspace) else ""
            raise MissingTable(f"{text}; make sweep-{sweep} PRESET={paths.FULL}, without overrides, trains such{added}")
    if frame.empty:
        text = f"sweep {sweep!r}: table {table!r} has no rows: its probe gave none, or none of its runs is done"
        raise MissingTable(f"{text}; {_written_by(workspace, sweep)}")
    return frame.reset_index(drop=True)


def needed(workspace: Path, sweep: str, needs: Mapping[str, str | None]) -> dict[str, pd.DataFrame]:
    """The tables that a finding needs, each by `load`: of `sweep`, or of another sweep as "that_sweep/table"."""
    return {name: load(workspace, *source(sweep, name), query) for name, query in needs.items()}


def source(sweep: str, name: str) -> tuple[str, str]:
    """The sweep of a needed table, and the table's name there."""
    other, _, table = name.rpartition("/")
    return other or sweep, table


def process_sec(run_rows: pd.DataFrame) -> pd.Series[float]:
    """Seconds of one process that each run took: its share of them where several trained side by side.

    Where the table does not say how many did (`num_runs` is NaN), as though each ran alone: an upper bound.
    """
    return run_rows["wall_sec"] / run_rows["num_runs"].fillna(1)


def holes(run_rows: pd.DataFrame) -> pd.DataFrame:
    """The runs that give no rows: absent, partial, failed or damaged."""
    return run_rows[~run_rows["status"].isin(DONE)]


def origin(frames: Iterable[pd.DataFrame]) -> Origin:
    """Where the rows of these frames come from; frames without a run (published curves) do not count."""
    columns = ["run_id", "data", "data_source", "data_sha256", "data_title", "stand_in", "commit", "commits", "dirty"]
    parts = []
    for frame in frames:
        if "run_id" in frame:
            names = {name: f"run_{name}" if f"run_{name}" in frame else name for name in columns}
            part = frame.drop_duplicates("run_id")[list(names.values())]
            parts.append(part.rename(columns={v: k for k, v in names.items()}))
    if not parts:
        return Origin(0, (), (), False)
    rows = pd.concat(parts).drop_duplicates("run_id")
    rows = rows[rows["data_source"].notna()]
    rows = rows.assign(data=data_names(rows))
    data = {f"{r.data}, {r.data_source}, sha256 {str(r.data_sha256)[:8]}" for r in rows.itertuples()}
    return Origin(len(rows), tuple(sorted(data)), commits(rows), bool(rows["stand_in"].any()))


def data_names(rows: pd.DataFrame) -> pd.Series[str]:
    """Each row's data set: by the title that its source gives, where it gives none by its name."""
    return rows["data_title"].where(rows["data_title"].notna(), rows["data"])


def commits(run_rows: pd.DataFrame) -> tuple[str, ...]:
    """The commits behind these runs, those too that a resumed one began with; "+" marks uncommitted changes."""
    given = run_rows[run_rows["commit"].notna()]
    labels = set()
    for last, every, dirty in zip(given["commit"], given["commits"].fillna(""), given["dirty"].fillna(""), strict=True):
        labels |= {each[:8] for each in str(every).split() if each != last}
        labels.add(f"{str(last)[:8]}{'+' if dirty else ''}")
    return tuple(sorted(labels))


def spread(values: Iterable[float]) -> Spread:
    """Median and range of the values that are defined; infinities count."""
    array = np.asarray(list(values), dtype=np.float64)
    array = array[~np.isnan(array)]
    if array.size == 0:
        return Spread(math.nan, math.nan, math.nan, 0)
    return Spread(float(np.median(array)), float(array.min()), float(array.max()), int(array.size))


def by_arm(frame: pd.DataFrame, value: str) -> dict[str, Spread]:
    """Spread of `value` in each arm; an arm without rows has n = 0."""
    return {arm: spread(frame.loc[frame["norm"] == arm, value]) for arm in ARMS}


def accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows with `train` and `test` (last epoch's, in percent) and `gap`, points by which training is ahead.

    A run that diverged guesses.
    """
    lost = runs["outcome"] == "diverged"
    train, test = ((100 * runs[f"final_{side}_accuracy"]).mask(lost, CHANCE) for side in ("train", "test"))
    return runs.assign(train=train, test=test, gap=train - test)


def placed(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with `place`, where BN sits: the norm's `where`, or none."""
    return frame.assign(place=frame["norm_where"].where(frame["norm"] != "none", "none"))


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, without superfluous zeros; powers of ten outside 0.001 to 100,000."""
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", MINUS)


def published(folder: Path, name: str) -> pd.DataFrame:
    """A curve read off the published figures (`NaN`: hidden). Raises MissingTable."""
    path = figure_cache.record(folder / f"{name}.csv")
    if not path.exists():
        raise MissingTable(f"{path.name} is missing in {folder.name}: the published curve belongs to the repository")
    with path.open(encoding="utf-8", newline="") as file:
        return pd.read_csv(file)


def _read(workspace: Path, sweep: str, table: str) -> pd.DataFrame:
    path = paths.tables(workspace, sweep) / f"{table}.parquet"
    path = figure_cache.record(next((each for each in files.current(path.parent) if each.name == path.name), path))
    if not path.exists():
        raise MissingTable(f"{path.relative_to(workspace)} is missing: {_written_by(workspace, sweep)}")
    try:
        # Text as Python's objects: findings take rows again and again, for which Arrow's copies all of it.
        with pd.option_context("mode.string_storage", "python"), path.open("rb") as file:  # a path would be an address
            frame: Any = pd.read_parquet(file, page_checksum_verification=True)
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:  # whatever the bytes provoke
        text = f"{path.relative_to(workspace)} cannot be read ({type(error).__name__})"
        remedy = "git restores it" if _is_published(workspace) else _written_by(workspace, sweep)
        raise MissingTable(f"{text}: {remedy}") from error
    return pd.DataFrame(frame)


def _written_by(workspace: Path, sweep: str) -> str:
    """What writes a table of the sweep in this workspace, in words."""
    command = f"make sweep-{sweep}"
    if _is_published(workspace):
        return f"{command} PRESET={paths.FULL} trains it, make publish SWEEP={sweep} adds it"
    if workspace.name in paths.PRESETS:
        return f"{command}{'' if workspace.name == paths.QUICK else f' PRESET={workspace.name}'} writes it"
    named = "" if workspace.name == paths.CUSTOM else f" NAME={shlex.quote(workspace.name)}"
    return f"{command}{named} writes it, with the overrides (ARGS) of these results"


def _is_published(workspace: Path) -> bool:
    """Whether this is the results folder itself, whose tables are published, and no preset's or custom one in it."""
    return paths.CUSTOM not in (workspace.name, workspace.parent.name) and workspace.name not in paths.PRESETS


def arms(frame: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    """The rows of each arm that has any: with BN, without, then other norms by name."""
    there = set(frame["norm"].dropna().unique().astype(str))
    return {arm: frame[frame["norm"] == arm] for arm in [*ARMS, *sorted(there - set(ARMS))] if arm in there}
