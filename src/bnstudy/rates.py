"""What a search of learning rates shows: the largest that trains in each cell, and how figures draw it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy import bracket, effects, figures
from bnstudy.findings import Comparison, Evidence, Verdict, judge
from bnstudy.frames import ARMS, DASH, arms, number, over_seeds, spread

FACTOR = 1.25  # to which the searches of the sweeps narrow a bracket
CHANCE = 10.0  # accuracy (%) of guessing among ten classes
OUTCOMES = ("trained", "stalled", "diverged")


def edges(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row a cell, the runs that share the columns `by`: its bracket of the largest learning rate that trains.

    `low`: the largest rate up to which every tried one trains; NaN where there is none, which decides nothing about the
    cell. `high`: the next, which does not train, infinite where none is known. `islands`: how many rates above `high`
    train. `finite`: none learns, and the bracket is that of the rates which stay finite (outcomes by losses). `told`:
    the same in words.
    """
    rows = []
    for key, cell in runs[runs["outcome"].notna()].groupby(list(by)):
        found = bracket.of(dict(zip(cell["lr"], cell["outcome"], strict=True)))
        low = math.nan if found.low is None else found.low
        high = math.inf if found.high is None else found.high
        rows.append((*key, low, high, len(found.islands), found.finite, str(found)))
    return pd.DataFrame(rows, columns=[*by, "low", "high", "islands", "finite", "told"])


def apart(cells: pd.DataFrame) -> tuple[int, bool, float]:
    """How many seeds have a rate that trains in both arms; whether in each of them the bracket without BN lies wholly
    below that with BN; how many times larger the median `low` with BN is than that without."""
    wide = cells.pivot(index="seed", columns="norm", values=["low", "high"])
    wide = wide.reindex(columns=pd.MultiIndex.from_product([["low", "high"], ARMS])).dropna()
    below = wide["high", "none"] <= wide["low", "batch"]
    ratio = wide["low", "batch"].median() / wide["low", "none"].median()
    return len(wide), bool(len(wide)) and bool(below.all()), float(ratio)


def empty(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of which no rate is known up to which training works."""
    return cells[cells["low"].isna()]


def evidence(cells: pd.DataFrame, factor: float = 10) -> Evidence:
    """Whether in every seed training ends earlier without BN, and by this `factor` (the whole criterion).

    Undecided where a cell has no rate that trains: it may be too small a grid, or a network that cannot learn at all.
    """
    n, below, ratio = apart(cells)
    brackets = [cells[cells["norm"] == arm] for arm in ARMS]
    return Evidence(
        measured=f"{told(brackets[0])} with BN, {told(brackets[1])} without",
        spread=f"medians a factor of {number(ratio)} apart",
        n=n,
        verdict=Verdict.undecided if len(empty(cells)) else judge(n, whole=below and ratio >= factor, part=below),
        arms=effects.arms(cells, "low", "largest rate that trains", ratio=True),
    )


def depth_evidence(cells: pd.DataFrame) -> Evidence:
    """Whether the largest rate at which every seed trains falls from the shallowest network to the deepest (a part of
    the criterion), and from none to the next rises by more than what the search resolves (the whole). Undecided where
    a network has no rate that trains."""
    worst = cells.groupby("depth")["low"].min()
    values = worst.to_numpy()
    falls = len(values) > 1 and values[-1] * FACTOR < values[0]
    rises = any(after > FACTOR * before for before, after in itertools.pairwise(values))
    by_depth = cells.groupby("depth")["low"].agg(["min", "max"])
    return Evidence(
        measured=", ".join(number(value) for value in values)
        + f" at depth {', '.join(str(depth) for depth in worst.index)}"
        + _none(cells),
        spread="single seeds " + ", ".join(f"{number(low)} to {number(high)}" for low, high in by_depth.to_numpy()),
        n=seeds(cells),
        verdict=Verdict.undecided if len(empty(cells)) else judge(seeds(cells), whole=falls and not rises, part=falls),
    )


def told(cells: pd.DataFrame) -> str:
    """The largest rates that train over some cells: median and range of `low`; which brackets are open, torn, empty."""
    low = spread(cells["low"])
    words = [str(low)] if low.n else []
    open_ended = int((cells["high"].eq(math.inf) & cells["low"].notna()).sum())
    words += [f"{open_ended} at or above"] if open_ended else []
    words += [f"{count} not monotone" for count in [int(cells["islands"].gt(0).sum())] if count]
    return ("; ".join(words) + _none(cells)).removeprefix("; ") or DASH


def _none(cells: pd.DataFrame) -> str:
    """How many cells have no rate that trains, as the end of a sentence."""
    count = len(empty(cells))
    return f"; no rate trains in {count} of {len(cells)} cells" if count else ""


def seeds(cells: pd.DataFrame) -> int:
    """Seeds of the arm or network that has fewest."""
    keys = [name for name in ("norm", "depth") if name in cells]
    return int(cells.groupby(keys)["seed"].nunique().min()) if len(cells) else 0


def accuracies(ax: Axes, runs: pd.DataFrame) -> None:
    """Final test accuracy by rate, a mark a run by its outcome; line: on the grid, median of those that last.

    Those that diverged have none: their numbers stand below the axis.
    """
    ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    for arm, part in arms(runs.assign(percent=100 * runs["final_test_accuracy"])).items():
        colour = figures.COLOURS[arm]
        alive = part[(part["outcome"] != "diverged") & part["lr"].isin(grid(part)["lr"])]
        medians = over_seeds(alive, ["lr"], "percent")
        ax.plot(medians["lr"], medians["median"], color=colour, lw=1.2)
        for outcome, marker, face in (("trained", "o", colour), ("stalled", "v", "white")):
            rows = part[part["outcome"] == outcome]
            ax.plot(rows["lr"], rows["percent"], marker, color=colour, mfc=face, ms=4, mew=1, ls="")
    figures.diverged(ax, runs[runs["outcome"] == "diverged"])
    ax.set_ylabel("test accuracy (%)")
    _axis(ax, runs)


def gaps(ax: Axes, runs: pd.DataFrame) -> None:
    """Training accuracy during the last epoch minus final test accuracy, by rate, of the runs that trained."""
    ax.axhline(0, color=figures.MUTED, lw=0.9, zorder=1)
    trained = runs[runs["outcome"] == "trained"]
    trained = trained.assign(gap=100 * (trained["final_train_accuracy"] - trained["final_test_accuracy"]))
    for arm, part in arms(trained).items():
        medians = over_seeds(part[part["lr"].isin(grid(runs)["lr"])], ["lr"], "gap")
        ax.plot(medians["lr"], medians["median"], color=figures.COLOURS[arm], lw=1.2)
        ax.plot(part["lr"], part["gap"], "o", color=figures.COLOURS[arm], ms=4, mew=0, ls="")
    ax.set_ylabel("training minus test accuracy (points)")
    _axis(ax, runs)


def divergences(ax: Axes, runs: pd.DataFrame) -> None:
    """The update at which runs diverge, by rate."""
    for arm, part in arms(runs[runs["outcome"] == "diverged"]).items():
        ax.plot(part["lr"], part["diverged_step"] + 1, "x", color=figures.COLOURS[arm], ms=4.5, mew=1.3, ls="")
    if (runs["outcome"] == "diverged").any():
        ax.set_yscale("log")
    else:
        ax.text(0.5, 0.5, "no run diverged", transform=ax.transAxes, ha="center", color=figures.MUTED)
    ax.set_ylabel("update that diverged (1: the first)")
    _axis(ax, runs)


def grid(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs at the rates that every cell (arm and seed) was run at; what a search adds differs from cell to cell."""
    num_cells = len(runs[["norm", "seed"]].drop_duplicates())
    return runs[runs.groupby("lr")["run_id"].transform("count") == num_cells]


def shares(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a rate of the grid: which share of the seeds has each outcome (first level) in each arm (second level)."""
    rows = grid(runs)
    table = pd.crosstab(rows["lr"], [rows["outcome"], rows["norm"]])
    table = table.reindex(columns=pd.MultiIndex.from_product([list(OUTCOMES), ARMS]), fill_value=0)
    return table / table.T.groupby(level=1).transform("sum").T


def best(runs: pd.DataFrame) -> float:
    """The rate of highest median test accuracy in one arm, among those that all its seeds were run at; a diverged run
    counts as guessing. NaN without runs."""
    percent = (100 * runs["final_test_accuracy"]).where(runs["outcome"] != "diverged", CHANCE)
    every = runs.groupby("lr")["seed"].transform("nunique") == runs["seed"].nunique()
    medians = percent[every].groupby(runs["lr"]).median()
    return float(medians.index.to_numpy()[medians.argmax()]) if len(medians) else math.nan


def grid_figure(fig: Figure, runs: pd.DataFrame) -> None:
    """Four panels: accuracies, gaps, divergences, and the bracket of each seed."""
    axes = fig.subplots(2, 2).flat
    draw: dict[str, Callable[[Axes], None]] = {
        "test accuracy after the last epoch": lambda ax: accuracies(ax, runs),
        "how far training is ahead of test accuracy": lambda ax: gaps(ax, runs),
        "when training diverges": lambda ax: divergences(ax, runs),
        "where training ends, a bar a seed": lambda ax: brackets(ax, edges(runs, ["norm", "seed"]), "norm"),
    }
    for ax, letter, (title, panel) in zip(axes, "abcd", draw.items(), strict=True):
        panel(ax)
        figures.panel(ax, letter, title)
    fig.legend(handles=legend(), loc="outside lower center", ncols=5)


def depth_figure(fig: Figure, runs: pd.DataFrame) -> None:
    """Two panels: training accuracies by rate, and the bracket of each seed, both by depth."""
    left, right = fig.subplots(1, 2)
    depths = sorted(runs["depth"].unique())
    left.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    for depth, shade in zip(depths, mpl.colormaps["Oranges"](np.linspace(0.4, 1, len(depths))), strict=True):
        part = runs[runs["depth"] == depth]
        part = part.assign(percent=(100 * part["final_train_accuracy"]).where(part["outcome"] != "diverged", 0.0))
        medians = over_seeds(grid(part), ["lr"], "percent")
        left.plot(medians["lr"], medians["median"], color=shade, lw=1.3, label=f"{depth} layers")
        left.plot(part["lr"], part["percent"], "o", color=shade, ms=2.6, mew=0)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(depths))
    left.set_ylabel("training accuracy (%), diverged: 0")
    left.set_ylim(-2, 100)
    _axis(left, runs)
    figures.panel(left, "a", "training accuracy in the last epoch")
    brackets(right, edges(runs, ["norm", "depth", "seed"]), "depth")
    right.set_xlabel("weight layers")
    figures.panel(right, "b", "where training ends, a bar a seed")


def depth_numbers(runs: pd.DataFrame) -> list[Comparison]:
    """The largest rates that train by depth."""
    cells = edges(runs, ["norm", "depth", "seed"])
    return [
        Comparison(f"largest learning rate that trains, {depth} layers", DASH, DASH, DASH, told(part))
        for depth, part in cells.groupby("depth")
    ]


def grid_numbers(runs: pd.DataFrame) -> list[Comparison]:
    """The largest rates that train, and the test accuracies at each rate that every cell was run at, the grid's."""
    cells = edges(runs, ["norm", "seed"])
    largest = [told(cells[cells["norm"] == arm]) for arm in ARMS]
    lines = [Comparison("largest learning rate that trains", DASH, DASH, largest[0], largest[1])]
    for lr, part in grid(runs).groupby("lr"):
        ours = [_accuracy(part[part["norm"] == arm]) for arm in ARMS]
        lines.append(Comparison(f"test accuracy at {number(float(str(lr)))} (%)", DASH, DASH, ours[0], ours[1]))
    return lines


def _accuracy(runs: pd.DataFrame) -> str:
    alive = spread(100 * runs[runs["outcome"] != "diverged"]["final_test_accuracy"])
    words = [f"{alive.median:.1f} [{alive.low:.1f} to {alive.high:.1f}]"] if alive.n else []
    words += [f"{n} {o}" for o in ("stalled", "diverged") if (n := int((runs["outcome"] == o).sum()))]
    return "; ".join(words) or DASH


def brackets(ax: Axes, cells: pd.DataFrame, column: str, *, spacing: float = 0.11) -> None:
    """A bar a seed from the largest rate that trains to the next, which does not; an arrow where none is known.

    Side by side for each value of `column`. With a white dot: rates above the bar train again. No bar: no rate is known
    to train.
    """
    order = [arm for arm in ARMS if arm in set(cells[column])] if column == "norm" else sorted(cells[column].unique())
    for position, value in enumerate(order):
        part = cells[cells[column] == value].sort_values("seed")
        colour = figures.COLOURS[part["norm"].iloc[0]]
        ends = zip(part["low"], part["high"], part["islands"], strict=True)
        for place, (low, high, islands) in enumerate(ends):
            x = position + (place - (len(part) - 1) / 2) * spacing
            if math.isnan(low):
                continue
            if math.isinf(high):
                ax.plot([x], [low], "^", color=colour, ms=6, mew=0)
            else:
                ax.plot([x, x], [low, high], color=colour, lw=5, solid_capstyle="butt", zorder=3)
                if islands:
                    ax.plot([x], [math.sqrt(low * high)], "o", color="white", ms=3, mew=0, zorder=4)
        if not math.isnan(median := part["low"].median()):
            ax.plot([position - 0.36, position + 0.36], [median, median], color=colour, lw=1)
    ax.set_xticks(range(len(order)), [figures.LABELS.get(str(value), str(value)) for value in order])
    ax.set_xlim(-0.5, len(order) - 0.5)
    figures.plain_log(ax)
    ax.grid(False, axis="x")
    ax.set_ylabel("largest learning rate that trains")


def legend() -> list[Line2D]:
    """Entries for the arms, for the outcomes that have marks, and for the line at chance."""
    return [
        *figures.arm_entries("o", ls="-"),
        figures.entry("trained", "o"),
        figures.entry("stalled", "v", filled=False),
        figures.entry("chance", ls=figures.DASHED, lw=0.9),
    ]


def _axis(ax: Axes, runs: pd.DataFrame) -> None:
    ax.set_xscale("log")
    ax.set_xlim(0.7 * runs["lr"].min(), 1.4 * runs["lr"].max())
    ax.set_xlabel("learning rate")
