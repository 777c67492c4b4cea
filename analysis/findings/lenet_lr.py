"""At which learning rates LeNet trains, with BN and without, and how well (section 2, on a small network)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, limits, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison, Evidence, Verdict, claim, judge
from bnstudy.analysis.frames import ARMS, CHANCE, DASH, arms, number, spread

BEST = Part("test accuracy with BN less without, each at its best rate", above=0, unit="points")
MATCHED = Part(
    "test accuracy with BN less without, at the smallest rate at which every seed of both arms trains", above=-2,
    below=2, unit="points",
)  # fmt: skip
FIT = Need(
    "training accuracy there of the arm that has the lower one", "networks do not fit their training data: speed is "
    "read as generalisation", above=95,
)  # fmt: skip
INSIDE = Need(
    "number of arms whose best rate is at an end of the grid", "a best rate at the grid's edge is no optimum", below=1
)

TITLE = "LeNet: final accuracy against the learning rate"
CAPTION = (
    "Accuracy on the test images after the last epoch (a), and on the training images during it (b); one mark a run, "
    "line: mean over seeds of the runs that did not diverge. Triangles: stalled (finite, but under 30 % on the "
    "training images). Numbers below the axis: runs that diverged (mini-batch loss above 1000, or not finite). "
    "Constant learning rate, plain SGD, ten epochs (preset quick: two)."
)
SWEEP = "lenet_lr_grid"
NEEDS = {"runs": "model == 'lenet' and status in ('completed', 'diverged')"}
SIZE = (9.6, 4.2)
CLAIMS = (
    Claim(
        id="lenet-lr-2",
        where="Section 2, carried over to LeNet",
        scale="reduced",
        says="Each at its best learning rate, the network with BN reaches the higher test accuracy.",
        criterion=Criterion(
            (BEST,),
            needs=(INSIDE,),
            remark="Of highest mean; a diverged run counts as 10 %. In pairs since the table was known; before, the "
            "worst seed against the best.",
        ),
        published="on ResNet-110: 93.2 % with BN at 0.1, 81.9 % without at 0.0001",
    ),
    Claim(
        id="lenet-lr-3",
        where="Section 2, carried over to LeNet",
        scale="reduced",
        says="At a matched small learning rate BN gives no better test accuracy.",
        criterion=Criterion((MATCHED,), needs=(FIT,)),
        published="on ResNet-110 at 0.0001: 81.3 % with BN, 81.9 % without",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = frames["runs"]
    axes = fig.subplots(1, 2, sharey=True)
    titles = {"test": "test accuracy after the last epoch", "train": "training accuracy during the last epoch"}
    for ax, (side, title), letter in zip(axes, titles.items(), "ab", strict=True):
        _accuracies(ax, runs, f"final_{side}_accuracy")
        figures.panel(ax, letter, title)
    axes[0].set_ylabel("accuracy (%)")
    fig.legend(handles=limits.legend(runs), loc="outside lower center", ncols=5)


@claim(
    id="lenet-lr-1",
    where="Section 2, carried over to LeNet",
    scale="reduced",
    says="With BN the network trains at larger learning rates than without.",
    criterion="The largest rate of the grid at which every seed ends trained is larger with BN (reproduced). "
    "Equal below the grid's top, or smaller: not reproduced. Both at the top of the grid, or an arm that trains at "
    "none: undecided.",
    published="on ResNet-110: 0.1 trains with BN, without it diverges",
)
def larger_rates(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    runs = frames["runs"]
    grid = sorted(runs["lr"].unique())
    n = _seeds(runs)
    trained = {arm: _all_trained(part) for arm, part in arms(runs).items()}
    top = {arm: max(trained.get(arm, []), default=math.nan) for arm in ARMS}
    verdict = judge(n, full=top["batch"] > top["none"], partial=False)
    if verdict is Verdict.not_reproduced and top["batch"] == top["none"] == grid[-1]:
        verdict = Verdict.undecided
    untrained = [figures.LABELS[arm] for arm in ARMS if math.isnan(top[arm])]
    verdict = Verdict.undecided if untrained else verdict
    return Evidence(
        measured=f"{number(top['batch'])} with BN, {number(top['none'])} without",
        spread=f"grid {number(grid[0])} to {number(grid[-1])}, {len(grid)} rates; outcomes {_outcomes(runs)}",
        n=n,
        verdict=verdict,
        reason=f"at no rate does every seed train {' and '.join(untrained)}" if untrained and n else "",
    )


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = frames["runs"]
    test, train = (
        (100 * runs[f"final_{side}_accuracy"]).where(runs["outcome"] != "diverged", CHANCE)
        for side in ("test", "train")
    )
    counted = runs.assign(percent=test, train=train)
    best = {arm: _best(counted[counted["norm"] == arm]) for arm in ARMS}
    chosen = counted[counted["lr"] == counted["norm"].map(best)]
    trained = [set(_all_trained(counted[counted["norm"] == arm])) for arm in ARMS]
    common = min(set.intersection(*trained), default=math.nan)
    matched = counted[counted["lr"] == common]
    lower = matched.groupby("seed")["train"].min()
    ends = sum(rate in (runs["lr"].min(), runs["lr"].max()) for rate in best.values())
    at_best = criteria.compared(chosen, "percent", of="batch")
    return {
        "lenet-lr-2": {
            BEST.key: at_best,
            INSIDE.of: criteria.single(pd.Series(float(ends), index=at_best.values.index)),
        },
        "lenet-lr-3": {MATCHED.key: criteria.compared(matched, "percent", of="batch"), FIT.of: criteria.single(lower)},
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = frames["runs"]
    return [
        Comparison(
            f"test accuracy at {number(lr)} (%)",
            "",
            "",
            *(_cell(runs[(runs["norm"] == arm) & (runs["lr"] == lr)]) for arm in ARMS),
        )
        for lr in sorted(runs["lr"].unique())
    ]


def _accuracies(ax: Axes, runs: pd.DataFrame, column: str) -> None:
    ax.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    for arm, part in arms(runs).items():
        colour, side = figures.COLOURS[arm], 1.08 if arm == "none" else 1 / 1.08  # arms side by side at each rate
        alive = part[part["outcome"] != "diverged"]
        means = stats.over_seeds(alive.assign(percent=100 * alive[column]), ["lr"], "percent")
        ax.plot(means["lr"] * side, means["mean"], color=colour, lw=1.4)
        for outcome, marker, face in (("trained", "o", colour), ("stalled", "v", "white")):
            rows = part[part["outcome"] == outcome]
            ax.plot(
                rows["lr"] * side, 100 * rows[column], marker, color=colour, mfc=face, ms=4.4, mew=1.1, ls="", zorder=4
            )
    ax.set_xscale("log")
    grid = sorted(runs["lr"].unique())
    ax.set_xticks(grid, [f"{rate:g}" for rate in grid])
    ax.minorticks_off()
    ax.set_xlabel("learning rate")
    ax.set_ylim(0, 100)
    figures.diverged(ax, runs[runs["outcome"] == "diverged"])


def _seeds(runs: pd.DataFrame) -> int:
    """Seeds of the smaller arm at the rate that has fewest."""
    counts = runs.groupby(["norm", "lr"])["seed"].nunique()
    return int(counts.min()) if set(runs["norm"]) >= set(ARMS) else 0


def _all_trained(part: pd.DataFrame) -> list[float]:
    every = part.groupby("lr")["outcome"].agg(lambda outcomes: bool((outcomes == "trained").all()))
    return [float(lr) for lr in every.index[every].to_numpy()]


def _best(part: pd.DataFrame) -> float:
    means = part.groupby("lr")["percent"].mean()
    return float(means.index.to_numpy()[means.argmax()]) if len(means) else math.nan


def _outcomes(runs: pd.DataFrame) -> str:
    parts = []
    for arm, part in arms(runs).items():
        counts = part["outcome"].value_counts()
        parts.append(f"{figures.LABELS[arm]} " + ", ".join(f"{counts[o]} {o}" for o in sorted(counts.index)))
    return "; ".join(parts)


def _cell(rows: pd.DataFrame) -> str:
    alive = rows[rows["outcome"] != "diverged"]
    values = spread(100 * alive["final_test_accuracy"])
    parts = [f"{values.median:.1f} [{values.low:.1f} to {values.high:.1f}]"] if values.n else []
    parts += [f"{count} {o}" for o in ("stalled", "diverged") if (count := int((rows["outcome"] == o).sum()))]
    return "; ".join(parts) or DASH
