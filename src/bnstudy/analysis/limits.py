"""What a search of learning rates shows: the largest that trains in each cell, and how figures draw it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy.analysis import bracket, criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Comparison
from bnstudy.analysis.frames import ARMS, CHANCE, DASH, MissingTable, arms, number, spread
from bnstudy.analysis.stats import Scale
from bnstudy.store.outcomes import stalled_below

FACTOR = 1.25  # to which the searches of the sweeps narrow a bracket
OUTCOMES = ("trained", "stalled", "diverged")


def by_cell(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row a cell, the runs that share the columns `by`: its bracket of the largest learning rate that trains.

    `low`: the largest rate up to which every tried one trains; NaN where there is none, which decides nothing about the
    cell. `high`: the next, which does not train, infinite where none is known. `non_monotone`: how many rates above it
    train. `finite`: none learns, and the bracket is that of the rates which stay finite (outcomes by losses). `text`:
    the same in words. Raises MissingTable for two runs at one rate, which differ in something else: no bracket is of
    both.
    """
    rows = []
    for key, cell in runs[runs["outcome"].notna()].groupby(list(by)):
        twice = cell.loc[cell["lr"].duplicated(), "lr"]
        if len(twice):
            of = ", ".join(f"{column} = {value}" for column, value in zip(by, key, strict=True))
            raise MissingTable(
                f"learning rate {number(twice.iloc[0])} ({of}): several runs, so the sweep varies more than this "
                "finding compares; keep the others' values out of it (results of such a sweep have a page of their own)"
            )
        limits = bracket.of(dict(zip(cell["lr"], cell["outcome"], strict=True)))
        low = math.nan if limits.low is None else limits.low
        high = math.inf if limits.high is None else limits.high
        rows.append((*key, low, high, len(limits.non_monotone), limits.finite, str(limits)))
    return pd.DataFrame(rows, columns=[*by, "low", "high", "non_monotone", "finite", "text"])


FOLD = 10  # larger, with BN
ENDS_KNOWN = Need("number of arms whose unknown end, above the rates tried, could turn the comparison",
                  "where training ends is not known", below=0.5)  # fmt: skip


def larger() -> Criterion:
    """The largest rate that trains is larger with BN, tenfold; partly: by more than the search resolves.

    Undecided where an arm trains at every rate tried, and the end that nobody has seen could turn that.
    """
    of = "largest rate that trains with BN over that without"
    return Criterion(
        (Part(of, above=FOLD, scale=Scale.log),),
        partial=(Part(of, above=FACTOR, scale=Scale.log),),
        needs=(ENDS_KNOWN,),
        remark=f"Lower ends of the brackets, seed by seed; a bracket's ends are at most a factor of {FACTOR} apart.",
    )


def ratios(cells: pd.DataFrame) -> dict[str, Sample]:
    """The values that `larger` asks for."""
    part = larger().full[0]
    ratio = criteria.compared(cells, "low", Scale.log, of="batch")
    open_ended = cells.assign(open=cells["low"].notna() & np.isinf(cells["high"]))
    with_bn, without = (
        open_ended[open_ended["norm"] == arm].set_index("seed")["open"].reindex(ratio.values.index) for arm in ARMS
    )
    # An open end makes the ratio a bound: with BN the ratio is at least what it seems, without BN at most.
    turns = (with_bn.astype(bool) & (ratio.values <= FOLD)).astype(int)
    turns += (without.astype(bool) & (ratio.values > FACTOR)).astype(int)
    return {part.key: ratio, ENDS_KNOWN.of: criteria.single(turns)}


FALLS = Part("slope of the log of the largest rate that trains on the log of depth, without BN", below=0)


def slopes(cells: pd.DataFrame) -> dict[str, Sample]:
    """The values that `FALLS` asks for: by seed that has every depth, over those at which some rate trains."""
    cells = cells[cells.groupby("seed")["depth"].transform("nunique") == cells["depth"].nunique()]
    slopes = {
        seed: stats.slope(np.log(part["depth"]), np.log(part["low"]))
        for seed, part in cells[cells["low"] > 0].groupby("seed")
    }
    return {FALLS.key: criteria.single(pd.Series(slopes, dtype=float))}


def without_limit(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells without a known rate up to which training works."""
    return cells[cells["low"].isna()]


def described(cells: pd.DataFrame) -> str:
    """The largest rates that train over some cells: median and range of `low`; which are open, non-monotone, empty."""
    low = spread(cells["low"])
    words = [str(low)] if low.n else []
    open_ended = int((cells["high"].eq(math.inf) & cells["low"].notna()).sum())
    words += [f"{open_ended} at or above"] if open_ended else []
    words += [f"{count} not monotone" for count in [int(cells["non_monotone"].gt(0).sum())] if count]
    return ("; ".join(words) + _none(cells)).removeprefix("; ") or DASH


def _none(cells: pd.DataFrame) -> str:
    """How many cells have no rate that trains, as the end of a sentence."""
    count = len(without_limit(cells))
    return f"; no rate trains in {count} of {len(cells)} cells" if count else ""


def seeds(cells: pd.DataFrame) -> int:
    """Seeds of the arm or network that has fewest."""
    keys = [name for name in ("norm", "depth") if name in cells]
    return int(cells.groupby(keys)["seed"].nunique().min()) if len(cells) else 0


def draw_accuracies(ax: Axes, runs: pd.DataFrame) -> None:
    """Final test accuracy by rate, a mark per run by its outcome; line: on the grid, mean of those that last.

    Those that diverged have none: their numbers stand below the axis.
    """
    ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    for arm, part in arms(runs.assign(percent=100 * runs["final_test_accuracy"])).items():
        colour = figures.COLOURS[arm]
        alive = part[(part["outcome"] != "diverged") & part["lr"].isin(grid(part)["lr"])]
        means = stats.over_seeds(alive, ["lr"], "percent")
        ax.plot(means["lr"], means["mean"], color=colour, lw=1.2)
        for outcome, marker, face in (("trained", "o", colour), ("stalled", "v", "white")):
            rows = part[part["outcome"] == outcome]
            ax.plot(rows["lr"], rows["percent"], marker, color=colour, mfc=face, ms=4, mew=1, ls="")
    figures.diverged(ax, runs[runs["outcome"] == "diverged"])
    ax.set_ylabel("test accuracy (%)")
    _axis(ax, runs)


def draw_gaps(ax: Axes, runs: pd.DataFrame) -> None:
    """Training accuracy during the last epoch minus final test accuracy, by rate, of the runs that trained."""
    ax.axhline(0, color=figures.MUTED, lw=0.9, zorder=1)
    trained = runs[runs["outcome"] == "trained"]
    trained = trained.assign(gap=100 * (trained["final_train_accuracy"] - trained["final_test_accuracy"]))
    for arm, part in arms(trained).items():
        means = stats.over_seeds(part[part["lr"].isin(grid(runs)["lr"])], ["lr"], "gap")
        ax.plot(means["lr"], means["mean"], color=figures.COLOURS[arm], lw=1.2)
        ax.plot(part["lr"], part["gap"], "o", color=figures.COLOURS[arm], ms=4, mew=0, ls="")
    ax.set_ylabel("training minus test accuracy (points)")
    _axis(ax, runs)


def draw_divergences(ax: Axes, runs: pd.DataFrame) -> None:
    """The update at which runs diverge, by rate; above, how many do not."""
    for arm, part in arms(runs[runs["outcome"] == "diverged"]).items():
        ax.plot(part["lr"], part["diverged_step"] + 1, "x", color=figures.COLOURS[arm], ms=4.5, mew=1.3, ls="")
    if (runs["outcome"] == "diverged").any():
        figures.plain_log(ax)
    tried = grid(runs)
    lasting = arms(tried[tried["outcome"] != "diverged"])
    figures.headroom(ax, 0.1 + 0.06 * len(lasting))
    for place, (arm, part) in enumerate(lasting.items()):
        for lr, count in part["lr"].value_counts(sort=False).items():
            ax.text(float(str(lr)), 0.96 - 0.06 * place, str(count), transform=ax.get_xaxis_transform(), fontsize=7,
                    color=figures.COLOURS[arm], ha="center", va="center")  # fmt: skip
    ax.text(0.01, 0.95 - 0.06 * len(lasting), "above: runs that last", transform=ax.transAxes, fontsize=7,
            color=figures.MUTED, va="center")  # fmt: skip
    ax.set_ylabel("update that diverged (1: the first)")
    _axis(ax, runs)


def grid(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs at the rates that every cell (arm and seed) was run at; what a search adds differs from cell to cell."""
    num_cells = len(runs[["norm", "seed"]].drop_duplicates())
    return runs[runs.groupby("lr")["run_id"].transform("count") == num_cells]


def shares(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per rate of the grid: the share of the seeds with each outcome (first level) in each arm (second level)."""
    rows = grid(runs)
    table = pd.crosstab(rows["lr"], [rows["outcome"], rows["norm"]])
    table = table.reindex(columns=pd.MultiIndex.from_product([list(OUTCOMES), ARMS]), fill_value=0)
    return table / table.T.groupby(level=1).transform("sum").T


def grid_figure(fig: Figure, runs: pd.DataFrame) -> None:
    """Four panels: accuracies, gaps, divergences, and the bracket of each seed."""
    axes = fig.subplots(2, 2).flat
    draw: dict[str, Callable[[Axes], None]] = {
        "test accuracy after the last epoch": lambda ax: draw_accuracies(ax, runs),
        "how far training is ahead of test accuracy": lambda ax: draw_gaps(ax, runs),
        "when training diverges": lambda ax: draw_divergences(ax, runs),
        "where training ends, a bar a seed": lambda ax: draw_brackets(ax, by_cell(runs, ["norm", "seed"]), "norm"),
    }
    for ax, letter, (title, panel) in zip(axes, "abcd", draw.items(), strict=True):
        panel(ax)
        figures.panel(ax, letter, title)
    fig.legend(handles=legend(runs), loc="outside lower center", ncols=5)


def depth_figure(fig: Figure, runs: pd.DataFrame) -> None:
    """Training accuracies by rate, a panel per depth, and the bracket of each seed by depth."""
    depths = sorted(runs["depth"].unique())
    rows = [depths[:3], depths[3:6]]
    layout: Any = [[str(depth) for depth in row] + [" "] * (3 - len(row)) + ["ends"] * 3 for row in rows]
    panels = fig.subplot_mosaic(layout, empty_sentinel=" ", sharex=False)
    for place, depth in enumerate(depths):
        ax, part = panels[str(depth)], runs[runs["depth"] == depth]
        ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
        ax.axhline(100 * stalled_below(10), color=figures.MUTED, lw=0.9, zorder=1)
        part = part.assign(percent=(100 * part["final_train_accuracy"]).where(part["outcome"] != "diverged", 0.0))
        for arm, of in arms(part).items():
            means = stats.over_seeds(grid(of), ["lr"], "percent")
            ax.plot(means["lr"], means["mean"], color=figures.COLOURS[arm], lw=1.3)
            ax.plot(of["lr"], of["percent"], "o", color=figures.COLOURS[arm], ms=3, mew=0, alpha=0.8)
        ax.set_ylim(-2, 100)
        _axis(ax, runs)
        ax.minorticks_off()
        if place % 3 == 0:
            ax.set_ylabel("training accuracy (%)\ndiverged: 0")
        figures.panel(ax, "abcdef"[place], f"{depth} layers")
    ends = panels["ends"]
    draw_brackets(ends, by_cell(runs, ["norm", "depth", "seed"]), "depth")
    ends.set_xlabel("weight layers")
    figures.panel(ends, "abcdefg"[len(depths)], "where training ends, a bar a seed")
    trains = figures.entry(f"trains above: {100 * stalled_below(10):g} %", lw=0.9)
    chance = figures.entry("chance", ls=figures.DASHED, lw=0.9)
    fig.legend(handles=[*figures.arm_entries(arms(runs), "o", ls="-"), trains, chance], loc="outside lower center",
               ncols=4)  # fmt: skip


def depth_numbers(runs: pd.DataFrame) -> list[Comparison]:
    """The largest rates that train by depth."""
    cells = by_cell(runs, ["norm", "depth", "seed"])
    return [
        Comparison(f"largest learning rate that trains, {depth} layers", DASH, DASH, DASH, described(part))
        for depth, part in cells.groupby("depth")
    ]


def grid_numbers(runs: pd.DataFrame) -> list[Comparison]:
    """The largest rates that train, and the test accuracies at each rate that every cell was run at, the grid's."""
    cells = by_cell(runs, ["norm", "seed"])
    largest = [described(cells[cells["norm"] == arm]) for arm in ARMS]
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


def draw_brackets(ax: Axes, cells: pd.DataFrame, column: str, *, spacing: float = 0.11) -> None:
    """A bar per seed from the largest rate that trains to the next, which does not; an arrow where none is known.

    Side by side for each value of `column`. With a white dot: rates above the bar train again. No bar: no rate is known
    to train.
    """
    order = list(arms(cells)) if column == "norm" else sorted(cells[column].unique())
    for position, value in enumerate(order):
        part = cells[cells[column] == value].sort_values("seed", kind="stable")
        colour = figures.COLOURS[part["norm"].iloc[0]]
        ends = zip(part["low"], part["high"], part["non_monotone"], strict=True)
        for place, (low, high, non_monotone) in enumerate(ends):
            x = position + (place - (len(part) - 1) / 2) * spacing
            if math.isnan(low):
                continue
            if math.isinf(high):
                ax.plot([x], [low], "^", color=colour, ms=6, mew=0)
            else:
                ax.plot([x, x], [low, high], color=colour, lw=5, solid_capstyle="butt", zorder=3)
                if non_monotone:
                    ax.plot([x], [math.sqrt(low * high)], "o", color="white", ms=3, mew=0, zorder=4)
        of = stats.interval(part["low"], Scale.log)
        if of.n:
            ax.plot([position - 0.36, position + 0.36], [of.mean, of.mean], color=colour, lw=1)
    ax.set_xticks(range(len(order)), [figures.LABELS[str(value)] for value in order])
    ax.set_xlim(-0.5, len(order) - 0.5)
    figures.plain_log(ax)
    ax.grid(False, axis="x")
    ax.set_ylabel("learning rate up to which all train")


def legend(runs: pd.DataFrame) -> list[Line2D]:
    """Entries for the arms of the runs, for the outcomes that have marks, and for the line at chance."""
    return [
        *figures.arm_entries(arms(runs), "o", ls="-"),
        figures.entry("trained", "o"),
        figures.entry("stalled", "v", filled=False),
        figures.entry("chance", ls=figures.DASHED, lw=0.9),
    ]


def _axis(ax: Axes, runs: pd.DataFrame) -> None:
    ax.set_xscale("log")
    ax.set_xlim(0.7 * runs["lr"].min(), 1.4 * runs["lr"].max())
    ax.set_xlabel("learning rate")
