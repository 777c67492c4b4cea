"""Does BN train faster at a matched learning rate, or only at its own best one? Epochs to a test accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import figures
from bnstudy.analysis.findings import Comparison, Evidence, Verdict, claim, judge
from bnstudy.analysis.frames import ARMS, DASH, arms, number

TARGETS = (85, 70)  # percent of the test images: the textbook's level, and one that networks without BN reach, too
NEVER = math.inf

TITLE = "Epochs to a test accuracy, by learning rate"
CAPTION = (
    "LeNet on Fashion-MNIST, plain SGD, constant learning rate, ten epochs (preset quick: two). First epoch after "
    "which the test accuracy is at least {} % (a) and {} % (b); one dot a run, lines: median over seeds. Dots above "
    "the dashed line: not within the epochs that the runs have."
).format(*TARGETS)
SWEEP = "lenet_lr_grid"
NEEDS = {"epochs": "model == 'lenet'", "runs": "model == 'lenet' and status in ('completed', 'diverged')"}
SIZE = (9.6, 4.0)
WHERE = "Dive into Deep Learning, Batch Normalization: 'accelerates the convergence of deep nets'"


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    axes = fig.subplots(1, 2, sharey=True)
    for ax, target, letter in zip(axes, TARGETS, "ab", strict=True):
        _needed(ax, reached(frames, target), int(frames["epochs"]["epoch"].max()))
        figures.panel(ax, letter, f"epochs to {target} % of the test images")
    axes[0].set_ylabel("epochs")
    axes[0].legend(loc="lower left")


@claim(
    id="textbook-faster-1",
    origin="course",
    where=WHERE,
    scale="textbook",
    says="At a matched learning rate the network with BN needs fewer epochs.",
    criterion=f"Median epochs to {TARGETS[0]} %, and to {TARGETS[1]} % (not reached: infinitely many), at each "
    "rate at which either arm's median reaches them: fewer with BN at all such rates (reproduced), at more than "
    "half (partly). No such rate: undecided. (Laid down when the last epoch's accuracies were known.)",
)
def at_matched_rates(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    n, medians = _judged(frames)
    fewer = {
        t: [at["batch"] < at["none"] for at in each.values() if min(at.values()) < NEVER] for t, each in medians.items()
    }
    every = [one for each in fewer.values() for one in each]
    return Evidence(
        "; ".join(f"to {t} %: fewer with BN at {sum(each)} of {len(each)} rates" for t, each in fewer.items()),
        _told(medians[TARGETS[0]], TARGETS[0]),
        n,
        judge(n, full=all(every), partial=2 * sum(every) > len(every)) if every else Verdict.undecided,
    )


@claim(
    id="textbook-faster-2",
    origin="course",
    where=WHERE,
    scale="textbook",
    says="Each at its own best learning rate, the network with BN needs fewer epochs.",
    criterion=f"Smallest median over the rates of the epochs to {TARGETS[0]} %: smaller with BN, and to "
    f"{TARGETS[1]} % too (reproduced); one of the two, the other not larger (partly). Neither arm ever: undecided.",
)
def at_own_rates(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    n, medians = _judged(frames)
    best, low = {t: _fewest(each) for t, each in medians.items()}, medians[TARGETS[1]]
    ahead = [each["batch"] < each["none"] for each in best.values()]
    behind = [each["batch"] > each["none"] for each in best.values()]
    some = any(min(each.values()) < NEVER for each in best.values())
    return Evidence(
        "; ".join(f"to {t} %: {_both(each)}" for t, each in best.items()),
        f"best rates to {TARGETS[1]} %: "
        + ", ".join(f"{number(min(low, key=lambda lr: low[lr][arm]))} {figures.LABELS[arm]}" for arm in ARMS),
        n,
        judge(n, full=all(ahead), partial=any(ahead) and not any(behind)) if some else Verdict.undecided,
    )


@claim(
    id="textbook-faster-3",
    where=WHERE,
    scale="textbook",
    says="It is larger learning rates that make BN faster: at matched rates it is not.",
    criterion=f"Epochs to {TARGETS[1]} %: at the best rate of the network without BN, the median with BN is not "
    "smaller than without, while it is at BN's own best rate (reproduced); smaller at both: not reproduced.",
    published="on ResNet-110, section 2: at matched rates no advantage in test accuracy",
)
def by_larger_rates(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    n, medians = _judged(frames)
    low = medians[TARGETS[1]]
    best = _fewest(low)
    rate = min(low, key=lambda lr: low[lr]["none"], default=math.nan)  # the best one without BN
    if best["none"] == NEVER:
        return Evidence(f"without BN no rate gives {TARGETS[1]} %", _told(low, TARGETS[1]), n, Verdict.undecided)
    slower = low[rate]["batch"] >= low[rate]["none"]
    return Evidence(
        f"at {number(rate)}: {_both(low[rate])}",
        _told(low, TARGETS[1]),
        n,
        judge(n, full=slower and best["batch"] < best["none"], partial=False),
    )


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    lines = []
    for target in TARGETS:
        for lr, at in _medians(reached(frames, target)).items():
            ours = (_epochs(at[arm]) for arm in ARMS)
            lines.append(Comparison(f"median epochs to {target} % at {number(lr)}", DASH, DASH, *ours))
    return lines


def reached(frames: Mapping[str, pd.DataFrame], target: float) -> pd.DataFrame:
    """One row per run, `needed`: the first epoch with that test accuracy (percent), infinite where none has it."""
    epochs = frames["epochs"]
    first = epochs[100 * epochs["test_accuracy"] >= target].groupby("run_id")["epoch"].min()
    runs = frames["runs"]
    needed = runs["run_id"].map(first).astype(float).fillna(NEVER)
    return runs.assign(needed=needed.where(runs["outcome"] != "diverged", NEVER))


def _needed(ax: Axes, runs: pd.DataFrame, num_epochs: int) -> None:
    roof = num_epochs + 1  # where the runs stand that never got there
    ax.axhline(num_epochs + 0.5, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)))
    for arm, part in arms(runs).items():
        side = 1.1 if arm == "none" else 1 / 1.1
        medians = part.groupby("lr")["needed"].median().clip(upper=roof)
        ax.plot(medians.index * side, medians, color=figures.COLOURS[arm], lw=1.4, label=figures.LABELS[arm])
        equal = part.groupby(["lr", "needed"])["needed"]  # they stand above each other, around their epoch
        y = part["needed"].clip(upper=roof) + 0.09 * (equal.cumcount() - (equal.transform("size") - 1) / 2)
        ax.plot(part["lr"] * side, y, "o", color=figures.COLOURS[arm], ms=3.6, mew=0, alpha=0.85)
    rates = sorted(runs["lr"].unique())
    ax.set_xscale("log")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.set_xlabel("learning rate")
    ax.set_ylim(0.4, roof + 0.5)
    ax.set_yticks([*range(1, num_epochs + 1), roof], [*map(str, range(1, num_epochs + 1)), "never"])


Medians = dict[float, dict[str, float]]  # by rate, then by arm


def _medians(runs: pd.DataFrame) -> Medians:
    """Of the epochs needed; an arm that was not run at a rate counts as one that never arrives."""
    wide = runs.pivot_table(index="lr", columns="norm", values="needed", aggfunc="median")
    wide = wide.reindex(columns=list(ARMS)).fillna(NEVER)
    rows = zip(wide.index.tolist(), wide.to_numpy().tolist(), strict=True)
    return {float(lr): dict(zip(ARMS, row, strict=True)) for lr, row in rows}


def _judged(frames: Mapping[str, pd.DataFrame]) -> tuple[int, dict[int, Medians]]:
    """Number of seeds, and the medians by target."""
    runs = {target: reached(frames, target) for target in TARGETS}
    return _seeds(runs[TARGETS[0]]), {target: _medians(found) for target, found in runs.items()}


def _fewest(medians: Medians) -> dict[str, float]:
    """By arm: the smallest median over the rates."""
    return {arm: min((at[arm] for at in medians.values()), default=NEVER) for arm in ARMS}


def _seeds(runs: pd.DataFrame) -> int:
    counts = runs.groupby(["norm", "lr"])["seed"].nunique()
    return int(counts.min()) if set(runs["norm"]) >= set(ARMS) else 0


def _told(medians: Medians, target: int) -> str:
    reached_at = {lr: m for lr, m in medians.items() if min(m.values()) < NEVER}
    at = [f"{number(lr)}: {_epochs(m['batch'])}, {_epochs(m['none'])}" for lr, m in reached_at.items()]
    return f"to {target} % with BN, without, at " + "; ".join(at) if at else f"{target} % never"


def _both(at: Mapping[str, float]) -> str:
    return f"{_epochs(at['batch'])} with BN, {_epochs(at['none'])} without"


def _epochs(value: float) -> str:
    return "never" if value == NEVER else number(value)
