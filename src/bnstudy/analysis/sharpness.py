"""Sharpness at the end of training against the learning rate: how it is drawn, and when it falls (section 2.1)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Need, Part, Sample
from bnstudy.analysis.findings import Comparison
from bnstudy.analysis.frames import ARMS, Spread, arms, number, spread
from bnstudy.analysis.stats import Scale


def looks(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `hessian_top_eigenvalue` with `ended`: after training, not before; an eigenvalue that did not converge is
    none."""
    return table.assign(ended=table["step"] > 0, eigenvalue=table["eigenvalue"].where(table["converged"]))


def figure(fig: Figure, rows: pd.DataFrame, *, momentum: float) -> None:
    """Three panels: sharpness and loss after training by rate, and one by the other.

    With the line 2 (1 + momentum) / rate, above which heavy-ball descent on a quadratic loss diverges.
    """
    ended, rates = rows[rows["ended"]], sorted(rows["lr"].unique())
    left, middle, right = fig.subplots(1, 3, width_ratios=(1.15, 1, 1))
    for ax, column, title, label, letter in (
        (left, "eigenvalue", "sharpness after training", "largest eigenvalue of the Hessian", "a"),
        (middle, "loss", "loss after training", "mean cross-entropy", "b"),
    ):
        by_rate(ax, rows, column)
        figures.plain_log(ax)
        ax.set_ylabel(label)
        figures.panel(ax, letter, title)
    before_training(left, rows)
    height = left.get_ylim()
    left.plot(rates, [2 * (1 + momentum) / rate for rate in rates], color=figures.MUTED, lw=0.9, zorder=1)
    left.set_ylim(height)
    for arm, part in arms(ended).items():
        _marks(right, part["loss"], part, "eigenvalue", arm)
    figures.plain_log(right, "x")
    figures.plain_log(right, "y")
    right.set_xlabel("mean cross-entropy")
    right.set_ylabel("largest eigenvalue of the Hessian")
    figures.panel(right, "c", "sharpness and loss")
    handles = figures.arm_entries(arms(rows), "o", ls="-", ms=4, mew=1, lw=1.5)
    handles += [Line2D([], [], color=figures.MUTED, lw=1, ls=(0, (2, 2)), label="before training")]
    line = f"{number(2 * (1 + momentum))}/rate"
    handles += [Line2D([], [], color=figures.MUTED, lw=0.9, label=line)]
    handles += [Line2D([], [], ls="", marker="o", ms=4.4, mec=figures.MUTED, mfc="none", label="stalled")]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def by_rate(ax: Axes, rows: pd.DataFrame, column: str) -> None:
    """After training, by rate: a mark a run, and the geometric mean of those that trained."""
    rates = sorted(rows["lr"].unique())
    for shift, (arm, part) in figures.beside(rows[rows["ended"]], 1):
        side = 1.06**shift
        means = stats.over_seeds(part[part["outcome"] == "trained"], ["lr"], column, Scale.log)
        ax.plot(means["lr"] * side, means["mean"], color=figures.COLOURS[arm], lw=1.4)
        _marks(ax, part["lr"] * side, part, column, arm)
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set_xlabel("learning rate")
    ax.set_xlim(min(rates) / 1.6, max(rates) * 1.6)
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])


def before_training(ax: Axes, rows: pd.DataFrame) -> None:
    """The sharpness of each arm's networks as they are at first: a level."""
    for arm, part in arms(rows[~rows["ended"]]).items():
        start = stats.interval(part["eigenvalue"], Scale.log).mean
        ax.axhline(start, color=figures.COLOURS[arm], lw=1, ls=(0, (2, 2)), zorder=1)


TRAINED = Need("number of the seed's runs at these rates that did not train", "not every seed trains at these rates",
               below=1)  # fmt: skip


def steps(rates: Sequence[float]) -> tuple[Part, ...]:
    """The parts of a criterion that sharpness falls from each rate to the next."""
    return tuple(
        Part("sharpness over that at the next smaller rate", below=1, scale=Scale.log, at=f"rate {high:g}")
        for _, high in itertools.pairwise(rates)
    )


def ends(rates: Sequence[float]) -> Part:
    """The part of a criterion that sharpness is smaller at the largest rate than at the smallest."""
    return Part(f"sharpness at {rates[-1]:g} over that at {rates[0]:g}", below=1, scale=Scale.log)


def measure(rows: pd.DataFrame, rates: Sequence[float]) -> dict[str, Sample]:
    """The values that `steps`, `ends` and `TRAINED` ask for, of one arm; a run that did not train has no sharpness
    after it.
    """
    trained = rows[rows["ended"] & (rows["outcome"] == "trained")]
    at = {rate: trained[trained["lr"] == rate].set_index("seed")["eigenvalue"] for rate in rates}
    samples = {
        part.key: criteria.single(stats.effect(at[high], at[low], Scale.log))
        for part, (low, high) in zip(steps(rates), itertools.pairwise(rates), strict=True)
    }
    begun = rows[~rows["ended"] & rows["lr"].isin(rates)].groupby("seed")["lr"].nunique()  # every run looks then
    lost = begun - pd.concat(list(at.values())).groupby(level=0).size().reindex(begun.index, fill_value=0)
    samples[TRAINED.of] = criteria.single(lost)
    return samples | {ends(rates).key: criteria.single(stats.effect(at[rates[-1]], at[rates[0]], Scale.log))}


def numbers(rows: pd.DataFrame) -> list[Comparison]:
    """Eigenvalues and losses by rate, and how many products the iteration took."""
    lines = [
        Comparison("largest eigenvalue before training", "", "", *(str(_at(rows, arm, None)) for arm in ARMS)),
    ]
    for rate in sorted(rows["lr"].unique()):
        label = f"after training at {number(rate)}"
        lines.append(Comparison(f"largest eigenvalue {label}", "", "", *(_cell(rows, arm, rate) for arm in ARMS)))
        losses = (str(_at(rows, arm, rate, "loss")) for arm in ARMS)
        lines.append(Comparison(f"loss {label}", "", "", *losses))
    iterations = (str(spread(rows.loc[rows["norm"] == arm, "num_iterations"])) for arm in ARMS)
    lines.append(Comparison("products of Hessian and vector", "", "", *iterations))
    return lines


def _at(rows: pd.DataFrame, arm: str, rate: float | None, column: str = "eigenvalue") -> Spread:
    """After training at a rate, or with None before training at any."""
    part = rows[rows["norm"] == arm]
    part = part[~part["ended"]].drop_duplicates("seed") if rate is None else part[part["ended"] & (part["lr"] == rate)]
    return spread(part[column])


def _cell(rows: pd.DataFrame, arm: str, rate: float) -> str:
    part = rows[(rows["norm"] == arm) & (rows["lr"] == rate)]
    parts = [str(_at(rows, arm, rate))]
    for outcome in ("stalled", "diverged"):
        count = part.loc[part["outcome"] == outcome, "seed"].nunique()
        parts += [f"{count} {outcome}"] if count else []
    return "; ".join(parts)


def _marks(ax: Axes, x: pd.Series, rows: pd.DataFrame, column: str, arm: str) -> None:
    colour = figures.COLOURS[arm]
    for outcome, face in (("trained", colour), ("stalled", "none")):
        at = rows["outcome"] == outcome
        ax.plot(x[at], rows.loc[at, column], "o", color=colour, mfc=face, ms=4.2, mew=1.1, alpha=0.85, zorder=4)
