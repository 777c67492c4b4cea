"""The page of a sweep that no finding draws: its runs during training, their ends by what differs, and a list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnstudy.analysis import figure_cache, figures, frames, stats
from bnstudy.analysis.findings import Finding
from bnstudy.analysis.frames import CHANCE, DASH, OF_TEN_CLASSES, arms, number
from bnstudy.config import project
from bnstudy.store import paths

PREFIX = "sweep-"  # of the figure's name, which is no finding's
MAX_AXES = 3
ALL = "all"  # of the training images
MAX_MARKS = 12  # of a scale whose values are names
LISTED = {
    "outcome": "outcome", "final_train_accuracy": "training accuracy (%)", "final_test_accuracy": "test accuracy (%)",
    "final_train_loss": "training loss", "wall_sec": "seconds",
}  # fmt: skip


def finding(workspace: Path, sweep: str) -> Finding:
    """A finding without claims. Raises MissingTable where the sweep has no tables."""
    runs = frames.runs(workspace, sweep)
    trained = runs["final_test_accuracy"].notna().any()
    with_epochs = trained and "epochs" in frames.tables(workspace, sweep)
    shown = "Accuracy and loss during training, a line per run; final test accuracy by what differs between runs, "
    shown += "a mark per run, lines: means over seeds where all else is equal, crosses at the bottom: diverged."
    caption = f"{shown} {_images(runs)}" if trained else "Runs by norm and status: none of them has an accuracy."
    return Finding(
        name=f"{PREFIX}{sweep}",
        title=f"Sweep {workspace.name if workspace.parent.name == paths.CUSTOM else sweep}",
        caption=f"{_asks(sweep)}{caption}",
        sweep=sweep,
        needs={"runs": None} | ({"epochs": None} if with_epochs else {}),
        published=None,
        size=(10.8, 6.4 if with_epochs else 3.6),
        claims=(),
        plot=plot if trained else _states,
        numbers=lambda frames: [],
    )


def _asks(sweep: str) -> str:
    """What the sweep's file says of it; nothing where it has none, as one made of values alone."""
    file = project.sweep_file(sweep)
    text = " ".join(project.opening_comment(figure_cache.record(file)).split()) if file else ""
    return f"{text} " if text else ""


def _images(runs: pd.DataFrame) -> str:
    """How many images were trained on; figures name the data set as a whole."""
    counts = sorted({ALL if pd.isna(num) else f"{int(num):,}" for num in runs["num_train"]})
    chance = f" Dashed at {CHANCE:g} %: chance." if _of_ten_classes(runs) else ""
    return f"Trained on {' or '.join(counts)} of the training images.{chance}"


def axes_of(runs: pd.DataFrame) -> list[str]:
    """The settings that differ between runs of one norm, apart from the seed; the learning rate first."""
    columns = list(runs.columns)
    settings = columns[columns.index("norm") + 1 : columns.index("seed")]
    most = runs.groupby("norm", observed=True)[settings].nunique(dropna=False).max()
    differ = [name for name in settings if most[name] > 1]
    return sorted(differ, key=lambda name: name != "lr")


def plot(fig: Figure, data: Mapping[str, pd.DataFrame]) -> None:
    runs = data["runs"]
    names = axes_of(runs)[:MAX_AXES] or ["norm"]
    letters = iter("abcdef")
    parts = fig.subfigures(2 if "epochs" in data else 1, 1, squeeze=False).ravel().tolist()
    above, below = parts[0], parts[-1]
    if "epochs" in data:
        for ax, value in zip(above.subplots(1, 2), ("accuracy", "loss"), strict=True):
            _along(ax, data["epochs"], value)
            figures.panel(ax, next(letters), f"{value} along training")
    for ax, name in zip(below.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        _ends(ax, runs, name)
        figures.panel(ax, next(letters), f"final test accuracy by {name}")
        ax.set_ylabel("test accuracy (%)" if name == names[0] else "")
    handles = figures.arm_entries(arms(runs), lw=1.4)
    if "epochs" in data:
        if data["epochs"]["epoch"].nunique() == 1:
            handles += [figures.entry("test", "o"), figures.entry("training", "o", filled=False)]
        else:
            handles += [figures.entry("test"), figures.entry("training", ls=figures.DASHED)]
    fig.legend(handles=handles, loc="outside lower center", ncols=6)


def table(runs: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """A row per run, by arm, settings and seed, under a row of headings."""
    names = axes_of(runs)
    named = {name: runs[name].astype(str) for name in names if not pd.api.types.is_numeric_dtype(runs[name])}
    rows = runs.assign(**named).sort_values(["norm", *names, "seed"], kind="stable")
    rows = rows.assign(outcome=rows["outcome"].where(rows["outcome"].notna(), rows["status"]))
    shown = [*names, "seed", *LISTED]
    for side in ("train", "test"):
        rows[f"final_{side}_accuracy"] *= 100
    lines = [(figures.LABELS[str(row["norm"])], *(_cell(row[name]) for name in shown)) for _, row in rows.iterrows()]
    return (("arm", *names, "seed", *LISTED.values()), *lines)


def _cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        return number(float(value))
    return DASH if value is None or value is pd.NA else str(value)


def _along(ax: Axes, epochs: pd.DataFrame, value: str) -> None:
    factor = 100 if value == "accuracy" else 1
    for arm, rows in arms(epochs).items():
        for side, dashes in (("test", "-"), ("train", figures.DASHED)):
            for _, run in rows.dropna(subset=[f"{side}_{value}"]).groupby("run_id", observed=True):
                run, colour = run.sort_values("epoch", kind="stable"), figures.COLOURS[arm]
                marker, face = "o" if len(run) == 1 else "", colour if side == "test" else "none"
                ax.plot(run["epoch"], factor * run[f"{side}_{value}"], color=colour, ls=dashes, lw=0.8, alpha=0.7,
                        marker=marker, ms=4, mfc=face)  # fmt: skip
    if value == "loss":
        ax.set_yscale("log")
    ax.set_xlim(0, 1.05 * epochs["epoch"].max())  # also where there is one epoch
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    ax.set_ylabel("accuracy (%)" if factor == 100 else "mean cross-entropy")


def _of_ten_classes(runs: pd.DataFrame) -> bool:
    return set(runs["data"].dropna()) <= OF_TEN_CLASSES


def _ends(ax: Axes, runs: pd.DataFrame, name: str) -> None:
    """Final accuracies by one setting; a run that diverged stands at the bottom."""
    lost, others = runs["outcome"] == "diverged", ["network", *(each for each in axes_of(runs) if each != name)]
    runs = runs.assign(percent=(100 * runs["final_test_accuracy"]).mask(lost, 0.0)).dropna(subset=["percent"])
    known = sorted(runs[name].dropna().unique())
    every = len(known) and runs[name].notna().all()
    numeric = every and pd.api.types.is_numeric_dtype(runs[name]) and not pd.api.types.is_bool_dtype(runs[name])
    if not numeric:  # a mark has a place also where the setting is null
        texts = {value: _cell(value) for value in known}
        values = [*texts.values(), *(() if runs[name].notna().all() else (ALL if name == "num_train" else DASH,))]
        runs = runs.assign(**{name: runs[name].map(texts).fillna(values[-1]).astype(str)})
    else:
        values = known
    place = {value: float(value) if numeric else at for at, value in enumerate(values)}
    for arm, rows in arms(runs).items():
        rows = rows.assign(x=rows[name].map(place))
        alive = rows[rows["outcome"] != "diverged"]
        colour = figures.COLOURS[arm]
        for _, alike in alive.groupby(others, observed=True, dropna=False) if numeric else ():
            means = stats.over_seeds(alike, ["x"], "percent")
            ax.plot(means["x"], means["mean"], color=colour, lw=1.2)
        ax.plot(alive["x"], alive["percent"], "o", color=colour, ms=4, mew=0, alpha=0.8)
        dead = rows[rows["outcome"] == "diverged"]
        ax.plot(dead["x"], dead["percent"], "x", color=colour, ms=4.5, mew=1.2)
    if _of_ten_classes(runs):
        ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    if numeric and len(values) > 2 and min(values) > 0 and max(values) / min(values) > 20:
        ax.set_xscale("log")
    elif not numeric:
        names = [figures.LABELS[value] if name == "norm" else value for value in values]
        ax.set_xticks(range(len(names)), names if len(names) <= MAX_MARKS else [""] * len(names))
        ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_ylim(-3, 100)
    ax.set_xlabel("" if name == "norm" else name)


def _states(fig: Figure, data: Mapping[str, pd.DataFrame]) -> None:
    ax = fig.subplots()
    there = arms(data["runs"])
    for place, (arm, rows) in enumerate(there.items()):
        counts = rows["status"].value_counts().sort_index()
        ax.barh(place, len(rows), color=figures.TINTS[arm])
        label = ", ".join(f"{count} {status}" for status, count in counts.items())
        ax.text(0.02, place, f" {label}", va="center", fontsize=8)
    ax.set_yticks(range(len(there)), [figures.LABELS[arm] for arm in there])
    ax.invert_yaxis()
    ax.set_xlabel("runs")
    ax.grid(False, axis="y")
