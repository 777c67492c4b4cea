"""Whether training in 16-bit floats leads to the same results as in 32-bit floats (`precision=bf16` against `fp32`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison, Evidence, claim, judge
from bnstudy.analysis.frames import ARMS, DASH, arms, number, spread

PRECISIONS = ("fp32", "bf16")
ALIKE = {
    arm: Part("test accuracy in bf16 less in fp32, mean over the rates at which neither diverges", above=-1, below=1,
              unit="points", at=f"{'with' if arm == 'batch' else 'without'} BN")
    for arm in ARMS
}  # fmt: skip
MIDDLE = 100 / 10  # ten classes: what a guess gives, in percent

TITLE = "fp32 against bf16: final accuracy and divergence over learning rates"
CAPTION = (
    "ResNet-20 on 5,000 images, three epochs. (a) Test accuracy after the last epoch; one mark a run, lines: mean "
    "over seeds of the runs that did not diverge; filled and solid: fp32, hollow and dashed: bf16. Numbers below the "
    "axis: runs that diverged (mini-batch loss above 1000, or not finite). (b) bf16 minus fp32 of one seed, where "
    "neither diverged; at the right each seed's mean over the rates, bar: mean with 95 % interval, dotted: a point "
    "either way. In bf16 products and activations have 16 bits, weights, statistics, loss and updates 32."
)
SWEEP = "precision"
NEEDS = {
    "runs": "status in ('completed', 'diverged')",
    "activation_moments": "step == 0 and site == 'preactivation'",
}
SIZE = (9.6, 4.2)
CLAIMS = (
    Claim(
        id="precision-1",
        where="this study's own",
        scale="reduced",
        says="bf16 reaches the test accuracies of fp32.",
        criterion=Criterion(tuple(ALIKE.values()), partial=1, remark="Paired by seed and rate."),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = frames["runs"]
    left, right = fig.subplots(1, 2)
    _accuracies(left, runs)
    _differences(right, _pairs(runs))
    figures.panel(left, "a", "test accuracy after the last epoch")
    figures.panel(right, "b", "bf16 minus fp32, the same seed")
    handles = [
        figures.entry(
            f"{figures.LABELS[arm]}, {p}", "o", filled=p == "fp32", colour=figures.COLOURS[arm], ls=_line(p), lw=1.3
        )
        for arm in ARMS
        for p in PRECISIONS
    ]
    handles.append(figures.entry("chance", ls=figures.DASHED, lw=0.9))
    fig.legend(handles=handles, loc="outside lower center", ncols=5, handlelength=4)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    pairs = _pairs(frames["runs"])
    apart = _apart(pairs)
    return {"precision-1": {part.key: criteria.single(apart[arm]) for arm, part in ALIKE.items()}}


@claim(
    id="precision-2",
    where="this study's own",
    scale="reduced",
    says="In bf16 training diverges at the learning rates at which it does in fp32.",
    criterion="In each arm the smallest rate of the grid at which a seed diverges is the same in both (or none in "
    "both): reproduced. One step of the grid apart in one arm: partly.",
)
def diverges_alike(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    runs = frames["runs"]
    n = _seeds(runs)
    grid = sorted(runs["lr"].unique())
    first = {arm: {p: _first_divergence(part, p, grid) for p in PRECISIONS} for arm, part in arms(runs).items()}
    steps = [abs(onset["fp32"] - onset["bf16"]) for onset in first.values()]
    return Evidence(
        measured="; ".join(
            f"{figures.LABELS[arm]} from {_rate(grid, onset['fp32'])} in fp32, {_rate(grid, onset['bf16'])} in bf16"
            for arm, onset in first.items()
        ),
        spread=f"grid {number(grid[0])} to {number(grid[-1])}, {len(grid)} rates",
        n=n,
        verdict=judge(n, full=len(first) == len(ARMS) and not any(steps), partial=sorted(steps) == [0, 1]),
    )


@claim(
    id="precision-3",
    calibrated="true by construction: weights are drawn and probes computed in float32, and this a check of the code",
    where="this study's own",
    scale="init",
    says="What is measured at initialisation does not depend on the precision of training.",
    criterion="Means and variances of every channel before training, bf16 against fp32 of the same seed, rate and "
    "arm: no difference at all.",
)
def starts_alike(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    n = _seeds(frames["runs"])
    apart, num = _at_initialisation(frames["activation_moments"])
    return Evidence(
        measured=f"largest difference {number(apart)}",
        spread=f"{num} channel moments",
        n=n,
        verdict=judge(n, full=num > 0 and apart == 0, partial=num > 0 and apart < 1e-5),
    )


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = frames["runs"]
    return [
        Comparison(f"test accuracy at {number(lr)} in {p} (%)", "", "", *(_told(runs, arm, p, lr) for arm in ARMS))
        for lr in sorted(runs["lr"].unique())
        for p in PRECISIONS
    ]


def _accuracies(ax: Axes, runs: pd.DataFrame) -> None:
    ax.axhline(MIDDLE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    lost = []
    for arm, part in arms(runs).items():
        for index, precision in enumerate(PRECISIONS):
            rows = part[part["precision"] == precision]
            rows = rows.assign(percent=100 * rows["final_test_accuracy"], x=rows["lr"] * _shift(arm, index))
            alive = rows[rows["outcome"] != "diverged"]
            lost.append(rows[rows["outcome"] == "diverged"].assign(x=rows["lr"] * _shift(arm, 1.6 * index - 0.3)))
            colour, face = figures.COLOURS[arm], _face(precision, arm)
            means = stats.over_seeds(alive, ["x"], "percent")
            ax.plot(means["x"], means["mean"], ls=_line(precision), color=colour, lw=1.3)
            ax.plot(alive["x"], alive["percent"], "o", ls="", color=colour, mfc=face, ms=4.4, mew=1.1, zorder=4)
    _rates(ax, runs)
    figures.diverged(ax, pd.concat(lost), "x")
    ax.set_ylabel("accuracy (%)")


def _differences(ax: Axes, pairs: pd.DataFrame) -> None:
    ax.axhline(0, color=figures.MUTED, lw=0.9)
    for arm, part in arms(pairs).items():
        ax.plot(
            part["lr"] * _shift(arm, 0.5), part["apart"], "o", color=figures.COLOURS[arm], ms=4.4, mew=0, alpha=0.85
        )
    if len(pairs):
        _rates(ax, pairs)
        limit = max(2.0, 1.15 * float(pairs["apart"].abs().max()))
        ax.set_ylim(-limit, limit)
        mean_at = 3.2 * float(pairs["lr"].max())
        for arm, of in _apart(pairs).items():
            x, whole = mean_at * _shift(arm, 0.5), stats.interval(of)
            ax.plot([x] * len(of), of, "o", color=figures.COLOURS[arm], ms=4.4, mew=0, alpha=0.85)
            ax.vlines([x * 1.1], whole.low, whole.high, color=figures.COLOURS[arm], lw=1.3)
            ax.plot([x * 1.1], [whole.mean], "_", color=figures.COLOURS[arm], ms=9, mew=2)
        rates = sorted(pairs["lr"].unique())
        ax.set_xticks([*rates, mean_at], [*(f"{rate:g}" for rate in rates), "mean"])
    for bound in (-1, 1):
        ax.axhline(bound, color=figures.MUTED, lw=0.8, ls=":", zorder=1)
    ax.set_ylabel("difference in test accuracy (points)")


def _rates(ax: Axes, frame: pd.DataFrame) -> None:
    rates = sorted(frame["lr"].unique())
    ax.set_xscale("log")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.set_xlabel("learning rate")


def _shift(arm: str, index: float) -> float:
    """Arms and precisions side by side at each rate."""
    return float(1.13 ** (index - 0.5 + (1.2 if arm == "none" else -1.2)))


def _line(precision: str) -> str:
    return "-" if precision == "fp32" else "--"


def _face(precision: str, arm: str) -> str:
    return figures.COLOURS[arm] if precision == "fp32" else "white"


def _seeds(runs: pd.DataFrame) -> int:
    """Seeds of the cell that has fewest; 0 where an arm or a precision is missing."""
    counts = runs.groupby(["norm", "precision", "lr"])["seed"].nunique()
    whole = len(counts) == len(ARMS) * len(PRECISIONS) * runs["lr"].nunique()
    return int(counts.min()) if whole else 0


def _pairs(runs: pd.DataFrame) -> pd.DataFrame:
    """Columns norm, lr, seed and apart: bf16 minus fp32 (points), where neither diverged."""
    alive = runs[runs["outcome"] != "diverged"]
    keys = ["norm", "lr", "seed"]
    wide = alive.pivot(index=keys, columns="precision", values="final_test_accuracy").reindex(columns=list(PRECISIONS))
    wide = wide.dropna().reset_index()
    return wide.assign(apart=100 * (wide["bf16"] - wide["fp32"]))


def _apart(pairs: pd.DataFrame) -> dict[str, pd.Series]:
    """By arm, each seed's mean over the rates."""
    return {arm: pairs[pairs["norm"] == arm].groupby("seed")["apart"].mean() for arm in ARMS}


def _first_divergence(part: pd.DataFrame, precision: str, grid: list[float]) -> int:
    """Place in the grid of the smallest rate at which a seed diverges; beyond its end where none does."""
    rows = part[(part["precision"] == precision) & (part["outcome"] == "diverged")]
    return grid.index(rows["lr"].min()) if len(rows) else len(grid)


def _rate(grid: list[float], place: int) -> str:
    return number(grid[place]) if place < len(grid) else "no rate"


def _at_initialisation(moments: pd.DataFrame) -> tuple[float, int]:
    """The largest difference of a channel's mean or variance, and how many were compared."""
    keys = ["norm", "lr", "seed", "depth", "channel"]
    both = [moments[moments["precision"] == p].set_index(keys)[["mean", "variance"]] for p in PRECISIONS]
    apart = (both[0] - both[1]).dropna().abs().to_numpy()
    return (float(np.max(apart)), int(apart.size)) if apart.size else (0.0, 0)


def _told(runs: pd.DataFrame, arm: str, precision: str, lr: float) -> str:
    rows = runs[(runs["norm"] == arm) & (runs["precision"] == precision) & (runs["lr"] == lr)]
    alive = spread(100 * rows[rows["outcome"] != "diverged"]["final_test_accuracy"])
    parts = [f"{alive.median:.1f} [{alive.low:.1f} to {alive.high:.1f}]"] if alive.n else []
    lost = int((rows["outcome"] == "diverged").sum())
    return "; ".join([*parts, *([f"{lost} diverged"] if lost else [])]) or DASH
