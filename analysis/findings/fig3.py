"""With BN the loss falls along the gradient over a far wider range of step sizes (Bjorck et al. 2018, Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, arms, number, spread
from bnstudy.analysis.stats import Scale

MINI_BATCHES = (1, 4, 7)  # the paper's, counted from 1: mini-batch k makes update k
NUM_BATCHES = 7
WIDER = 30
RISEN = 1.02  # of the relative loss: 2 % more than 1, as the published curves were read off to about 1 %
EXPLOSION, EXPLODES_BELOW = 1e6, 0.01  # relative loss; step size
LEAVES_AXIS = (0.0028, 0.0044, 0.0072)  # where the published curves without BN reach it
PUBLISHED_DASHES = (0, (3, 1.6))
AXES = {"batch": (0.25, 12.0), "none": (0.02, EXPLOSION)}  # of the relative loss

WIDENING = {
    batch: Part("usable range with BN over that without", above=WIDER, scale=Scale.log, at=f"mini-batch {batch}")
    for batch in range(1, NUM_BATCHES + 1)
}
EXPLOSIONS = {
    batch: Part("step size of a million-fold loss without BN", below=EXPLODES_BELOW, scale=Scale.log,
                at=f"mini-batch {batch}")
    for batch in MINI_BATCHES
}  # fmt: skip
CROSSING = (
    f"The usable range is the step size at which the relative loss first rises above {RISEN}; where it lies beyond the "
    "step sizes looked at, it counts as the last of them. Laid down when the five seeds of "
    "first_steps were known; before, it was the largest step whose relative loss is at most 1, and a network that dies "
    "at a larger step counted as usable."
)

TITLE = "The loss along the gradient in the first updates"
CAPTION = (
    "Loss after a step against the gradient, divided by the loss before it, on the same mini-batch and at the weights "
    "at which training met it (with BN at learning rate 0.1, without at 0.0001). With BN the first update, at 0.1, "
    "raises the loss itself. (a to f) One thin line a seed, thick: geometric mean; dashed: read off "
    "the published figure; a loss that is not finite has left the axis. (g) Usable range: the step size at which the "
    "relative loss first rises above 1.02 (a network that dies at a larger step has a loss of 2.3, lower than before, "
    "and does not count as usable); one dot a seed, bar: geometric mean, 95 % interval. The step sizes are a factor "
    "of 1.49 apart, and the range is interpolated, linearly in both logarithms. Grey: ends of what was looked at; "
    "triangles: the range goes beyond, and counts as that step size. Hollow: published curves, in the same way, which "
    "below 0.001 the figure does not resolve. On top: how many times wider the range is with BN (geometric mean; claim "
    "7 asks for more than 30)."
)
SWEEP = "first_steps"
NEEDS = {"loss_along_step": f"step < {NUM_BATCHES}"}
PUBLISHED = "fig3"
SIZE = (11.4, 5.6)
CLAIMS = (
    Claim(
        id="7",
        origin="paper",
        where="Section 3, Figure 3",
        scale="init",
        says="With BN the loss falls along the gradient over a far wider range of step sizes.",
        criterion=Criterion(tuple(WIDENING[batch] for batch in MINI_BATCHES), partial=1, remark=CROSSING),
        published="0.06, 0.11 and beyond 0.2 with BN; below 0.001 without; above 1e6 at 0.0028, 0.0044, 0.0072 without",
    ),
    Claim(
        id="7-batches",
        where="Section 3, Figure 3",
        scale="init",
        says="The same holds at each of the first seven mini-batches.",
        criterion=Criterion(tuple(WIDENING.values()), partial=4, remark=CROSSING),
        published="mini-batches 1, 4, 7 are shown",
    ),
    Claim(
        id="7-explosion",
        origin="paper",
        where="Section 3, Figure 3",
        scale="init",
        says="Without BN a step of less than 0.01 makes the loss more than a million times larger.",
        criterion=Criterion(
            tuple(EXPLOSIONS.values()), remark="A loss that is not finite counts as above a million-fold."
        ),
        published="0.0028, 0.0044, 0.0072",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    panels = fig.subplot_mosaic([["a", "b", "c", "g"], ["d", "e", "f", "g"]], width_ratios=(1, 1, 1, 1.3))
    losses, published = _losses(frames), frames["published"]
    letters = iter("abcdef")
    for arm in ARMS:
        for batch in MINI_BATCHES:
            letter = next(letters)
            ax = panels[letter]
            _curves(ax, losses[losses["mini_batch"] == batch], published[published["mini_batch"] == batch], arm)
            figures.panel(ax, letter, f"mini-batch {batch}, {figures.LABELS[arm]}")
            ax.set_xlim(losses["step_size"].min(), losses["step_size"].max())
            if batch == MINI_BATCHES[0]:
                ax.set_ylabel("relative loss")
            if arm == ARMS[-1]:
                ax.set_xlabel("step size")
    _ranges(panels["g"], _usable(losses), _usable(published.assign(seed=0)), losses)
    figures.panel(panels["g"], "g", "usable range of step sizes\n")
    handles = [
        *figures.arm_entries(ARMS, "o", ls="-"),
        figures.entry("published (a to f)", colour=figures.INK, lw=1.1, ls=PUBLISHED_DASHES),
        figures.entry("published (g)", "D", filled=False),
        figures.entry("range goes beyond (g)", "^"),
        figures.entry("ends of what was looked at (g)", colour=figures.FAINT, lw=1.2),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    losses = _losses(frames)
    usable, explosion = _usable(losses), _explosions(losses)
    wider = {
        part.key: criteria.compared(usable[usable["mini_batch"] == batch], "usable", Scale.log, of="batch")
        for batch, part in WIDENING.items()
    }
    explodes = {
        part.key: criteria.single(explosion[explosion["mini_batch"] == batch].set_index("seed")["explosion"])
        for batch, part in EXPLOSIONS.items()
    }
    shown = {WIDENING[batch].key: wider[WIDENING[batch].key] for batch in MINI_BATCHES}
    return {"7": shown, "7-batches": wider, "7-explosion": explodes}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    losses, published = _losses(frames), frames["published"].assign(seed=0)
    lines = []
    for table, column, label in (
        (_usable, "usable", f"step size at which the relative loss first rises above {RISEN}"),
        (_lowest, "step_size", "step size of the smallest loss"),
        (_lowest, "relative_loss", "smallest relative loss"),
    ):
        paper, ours = table(published), table(losses)
        for batch in MINI_BATCHES:
            cells = [_cell(rows, batch, arm, column) for rows in (paper, ours) for arm in ARMS]
            lines.append(Comparison(f"{label}, mini-batch {batch}", *cells))
    explosion = _explosions(losses)
    for batch, step_size in zip(MINI_BATCHES, LEAVES_AXIS, strict=True):
        cells = [DASH, number(step_size), *(_cell(explosion, batch, arm, "explosion") for arm in ARMS)]
        lines.append(Comparison(f"step size with relative loss {number(EXPLOSION)}, mini-batch {batch}", *cells))
    return lines


def _losses(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Columns norm, seed, mini_batch, step_size, relative_loss; what is not finite is infinite."""
    rows = frames["loss_along_step"]
    relative = rows["relative_loss"].where(np.isfinite(rows["relative_loss"]), math.inf)
    rows = rows.assign(relative_loss=relative, mini_batch=rows["step"] + 1)
    return rows[["norm", "seed", "mini_batch", "step_size", "relative_loss"]]


def _usable(losses: pd.DataFrame) -> pd.DataFrame:
    """Column usable: the first upcrossing of RISEN; `bound`: at least ("≥") or at most ("≤") that."""
    rows = []
    for key, x, r in _each(losses):
        above = np.flatnonzero(r > RISEN)
        if len(above) == 0:
            rows.append((*key, x[-1], "≥"))
        elif above[0] == 0:
            rows.append((*key, x[0], "≤"))
        else:
            rows.append((*key, _crossing(x, r, int(above[0]) - 1, RISEN), ""))
    return pd.DataFrame(rows, columns=["norm", "seed", "mini_batch", "usable", "bound"])


def _explosions(losses: pd.DataFrame) -> pd.DataFrame:
    """Column explosion: the first crossing of EXPLOSION, infinite where there is none; without BN alone."""
    rows = []
    for key, x, r in _each(losses[losses["norm"] == "none"]):
        above = np.flatnonzero(r > EXPLOSION)
        at = math.inf if len(above) == 0 else x[0] if above[0] == 0 else _crossing(x, r, int(above[0]) - 1, EXPLOSION)
        rows.append((*key, at))
    return pd.DataFrame(rows, columns=["norm", "seed", "mini_batch", "explosion"])


def _lowest(losses: pd.DataFrame) -> pd.DataFrame:
    rows = [(*key, x[r.argmin()], r.min()) for key, x, r in _each(losses)]
    return pd.DataFrame(rows, columns=["norm", "seed", "mini_batch", "step_size", "relative_loss"])


def _each(losses: pd.DataFrame) -> list[tuple[Any, np.ndarray, np.ndarray]]:
    """Each curve: (norm, seed, mini-batch), step sizes in rising order, relative losses."""
    return [
        (key, part["step_size"].to_numpy(), part["relative_loss"].to_numpy())
        for key, part in losses.sort_values("step_size", kind="stable").groupby(["norm", "seed", "mini_batch"])
    ]


def _crossing(x: np.ndarray, r: np.ndarray, i: int, level: float) -> float:
    """The x at which r, at most `level` at i and above it at i + 1, passes the level: linear in both logarithms.

    Next to an infinite value that is x[i], next to zero x[i + 1], as it is in the limit.
    """
    if r[i] == 0 or math.isinf(r[i + 1]):
        return float(x[i + 1] if r[i] == 0 else x[i])
    share = math.log(level / r[i]) / math.log(r[i + 1] / r[i])
    return float(x[i] * (x[i + 1] / x[i]) ** share)


def _curves(ax: Axes, losses: pd.DataFrame, published: pd.DataFrame, arm: str) -> None:
    low, high = AXES[arm]
    of = losses[losses["norm"] == arm]
    of = of.assign(relative_loss=of["relative_loss"].clip(lower=low / 1e6, upper=high * 1e6))  # infinity, on paper
    for _, line in of.groupby("seed"):
        ax.plot(line["step_size"], line["relative_loss"], color=figures.COLOURS[arm], lw=0.7, alpha=0.4)
    rows = stats.over_seeds(of, ["step_size"], "relative_loss", Scale.log)
    ax.plot(rows["step_size"], rows["mean"], color=figures.COLOURS[arm], lw=1.7)
    paper = published[published["norm"] == arm]
    ax.plot(paper["step_size"], paper["relative_loss"], color=figures.INK, lw=1.1, ls=PUBLISHED_DASHES, zorder=5)
    ax.axhline(1, color=figures.MUTED, lw=0.8, zorder=1)
    ax.set_xscale("log")
    if arm == "batch":
        figures.plain_log(ax)
    else:
        ax.set_yscale("log")
    ax.set_ylim(low, high)


def _ranges(ax: Axes, ours: pd.DataFrame, published: pd.DataFrame, losses: pd.DataFrame) -> None:
    for end in (losses["step_size"].min(), losses["step_size"].max()):
        ax.axhline(end, color=figures.FAINT, lw=1.2, zorder=1)
    markers = {"": "o", "≥": "^", "≤": "v"}
    for arm, part in arms(ours).items():
        colour, side = figures.COLOURS[arm], -0.16 if arm == "batch" else 0.16
        count = part["seed"].nunique()
        spacing = min(0.05, 0.35 / max(1, count))
        place = part["mini_batch"] + side + spacing * (part["seed"].rank(method="dense") - (count + 1) / 2)
        for bound, marker in markers.items():
            at = part["bound"] == bound
            ax.plot(place[at], part["usable"][at], marker, color=colour, ms=4, mew=0, alpha=0.85, zorder=4)
        for row in stats.over_seeds(part, ["mini_batch"], "usable", Scale.log).itertuples():
            x = float(str(row.mini_batch)) + side
            low, high, mean = (float(str(value)) for value in (row.low, row.high, row.mean))
            ax.fill_between([x - 0.15, x + 0.15], low, high, color=colour, alpha=0.25, lw=0)
            ax.plot([x - 0.15, x + 0.15], [mean] * 2, color=colour, lw=2, solid_capstyle="butt")
    for arm, part in arms(published).items():
        for bound, marker in markers.items():
            rows = part[part["bound"] == bound]
            ax.plot(
                rows["mini_batch"] + (-0.38 if arm == "batch" else 0.38), rows["usable"],
                "D" if bound == "" else marker, color=figures.COLOURS[arm], mfc="white", ms=4.6, mew=1.2, zorder=5,
            )  # fmt: skip
    ax.set_yscale("log")
    low, high = losses["step_size"].min(), losses["step_size"].max()
    ax.set_ylim(low / 1.6, high * 1.6)
    ax.set_xticks(sorted(ours["mini_batch"].unique()))
    for batch, rows in ours.groupby("mini_batch"):
        ratio = stats.interval(criteria.compared(rows, "usable", Scale.log, of="batch").values, Scale.log).mean
        ax.text(float(str(batch)), 1.005, f"{number(ratio, 2)}\N{MULTIPLICATION SIGN}", fontsize=7.5, ha="center",
                va="bottom", transform=ax.get_xaxis_transform())  # fmt: skip
    ax.grid(False, axis="x")
    ax.set_xlabel("mini-batch")
    ax.set_ylabel(f"step size at which the relative loss first rises above {RISEN}")


def _cell(rows: pd.DataFrame, batch: int, arm: str, column: str) -> str:
    rows = rows[(rows["mini_batch"] == batch) & (rows["norm"] == arm)]
    of = spread(rows[column])
    low, median, high = (_marked(rows, column, value) for value in (of.low, of.median, of.high))
    return median if of.n < 2 else f"{median} [{low} to {high}]"


def _marked(rows: pd.DataFrame, column: str, value: float) -> str:
    """A number, marked where it is no more than a bound."""
    marks = rows.loc[rows[column] == value, "bound"] if "bound" in rows else ()
    return f"{next((mark for mark in marks if mark), '')}{number(value)}"
