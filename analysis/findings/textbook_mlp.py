"""BN in a perceptron of 784-256-10: weights that drift, units that saturate, gradients, and how it is started."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison, Evidence, claim, judge
from bnstudy.analysis.frames import ARMS, CHANCE, DASH, Spread, number, spread
from bnstudy.analysis.stats import Scale

ACTIVATIONS = {"sigmoid": ("sigmoid", "-"), "relu": ("ReLU", "--")}
CELLS = tuple(itertools.product(ARMS, ACTIVATIONS))
SCALES = (0.1, 1.0, 10.0)
SHAPES = {"sigmoid": "o", "relu": "s"}  # of the marks of runs
RATE = 0.1  # at which the claims compare; the others show where training ends
RIBBONS = {(0.01, 0.99): 0.9, (0.25, 0.75): 1.7}  # quantiles, with the widths of their lines
EPOCHS = 10

TITLE = "A perceptron with BN and without: weights, units and gradients along training"
CAPTION = (
    "784-256-10 on Fashion-MNIST, plain SGD, batches of 256. Mean (line; in d geometric) over seeds, 95 % interval "
    "(band). (a) Wasserstein distance of the hidden layer's weights from their start, in standard deviations of the "
    "start. (b) Quantiles of these weights with sigmoids: 25 to 75 % (thick), 1 to 99 % (thin), means over seeds. (c) "
    "Hidden units that pass on less than a tenth of the largest derivative, before training (thin) and after it "
    "(thick). (d) Norm of the gradient in the hidden layer's weights before training. (e) Test accuracy after "
    "training; diverged: at chance. (a, b) Xavier's scale; (a to e) learning rate 0.1. (f) Runs at each rate and scale "
    "of the initial weights, a mark each: filled where it diverged (loss above 1000 or not finite)."
)
SWEEP = "textbook_mlp"
NEEDS = {
    "runs": "status in ('completed', 'diverged')",
    "weights": "depth == 1 and init_scale == 1 and lr == 0.1",
    "saturation": "depth == 1 and lr == 0.1",
    "gradient_norms": "depth == 1 and step == 0 and lr == 0.1",
}
SIZE = (10.8, 7.2)
WHERE = "a course page on BN in a perceptron"
MOMENTS = {"before": False, "after": True}  # training
STABLE = {
    act: Part("drift of the weights with BN over that without", below=1, scale=Scale.log, at=name)
    for act, (name, _) in ACTIVATIONS.items()
}
CARELESS = {
    act: Part("a seed's range of test accuracies over the scales without BN less with BN", above=0, unit="points",
              at=name)
    for act, (name, _) in ACTIVATIONS.items()
}  # fmt: skip
UNSATURATED = {
    moment: Part("saturated units with BN over those without", below=0.5, scale=Scale.log, at=f"{moment} training")
    for moment in MOMENTS
}
EVEN = {
    act: Part("a seed's largest over smallest gradient norm with BN over that without", below=0.1, scale=Scale.log,
              at=name)
    for act, (name, _) in ACTIVATIONS.items()
}  # fmt: skip
CLAIMS = (
    Claim(
        id="textbook-mlp-1",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="With BN the distribution of a layer's weights is more stable over training.",
        criterion=Criterion(
            tuple(STABLE.values()), partial=1, remark="Hidden layer, Xavier's scale, rate 0.1, Wasserstein."
        ),
    ),
    Claim(
        id="textbook-mlp-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="With BN one can be less careful about initialisation.",
        criterion=Criterion(
            tuple(CARELESS.values()), partial=1, remark="Rate 0.1, weights times 0.1, 1, 10; diverged: 10 %."
        ),
    ),
    Claim(
        id="textbook-mlp-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="BN keeps units from saturating.",
        criterion=Criterion(
            tuple(UNSATURATED.values()), partial=1, remark="Sigmoids, initial weights times 10, rate 0.1."
        ),
    ),
    Claim(
        id="textbook-mlp-4",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="BN keeps gradients from vanishing or exploding with the scale of the weights.",
        criterion=Criterion(
            tuple(EVEN.values()),
            partial=1,
            remark="Hidden layer before training; all weights, the classifier's too, times 0.1, 1, 10.",
        ),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    axes = fig.subplots(2, 3).ravel()
    _drift(axes[0], frames["weights"])
    _ribbons(axes[1], frames["weights"])
    _by_scale(axes[2], _saturated(frames, last=False), lw=0.9, alpha=0.8)
    _by_scale(axes[2], _saturated(frames, last=True))
    axes[2].set_ylim(-2, 102)
    axes[2].legend(handles=[figures.entry("before training", lw=0.9), figures.entry("after it")], loc="upper left")
    axes[2].set_ylabel("hidden units x images (%)")
    _by_scale(axes[3], frames["gradient_norms"].rename(columns={"gradient": "value"}), Scale.log)
    axes[3].set_yscale("log")
    axes[3].set_ylabel("norm of the gradient")
    _by_scale(axes[4], _tested(frames["runs"]))
    axes[4].set_ylabel("test accuracy (%)")
    _diverged(axes[5], frames["runs"])
    titles = (
        "drift of the weights", "quantiles of the weights", "saturated units",
        "hidden layer's gradient at the start", "accuracy", "runs: filled where they diverged",
    )  # fmt: skip
    for ax, title, letter in zip(axes, titles, "abcdef", strict=True):
        figures.panel(ax, letter, title)
    handles = [
        figures.entry(_where((arm, act)), colour=figures.COLOURS[arm], ls=ACTIVATIONS[act][1]) for arm, act in CELLS
    ]
    marks = [figures.entry(f"{name} (f)", SHAPES[act], filled=False) for act, (name, _) in ACTIVATIONS.items()]
    fig.legend(handles=[*handles, *marks], loc="outside lower center", ncols=6, handlelength=2.4)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    full = frames["runs"]["epochs"].min() >= EPOCHS
    moved = _latest(_wasserstein(frames["weights"]))
    saturated = {m: _at(_saturated(frames, last=last), SCALES[-1]) for m, last in MOMENTS.items()}
    saturated = saturated if full else {m: rows.iloc[:0] for m, rows in saturated.items()}
    norms = frames["gradient_norms"].rename(columns={"gradient": "value"})
    reach, uneven = _over_scales(_tested(frames["runs"]), np.subtract), _over_scales(norms, np.divide)

    def parts(rows: pd.DataFrame, of: Mapping[str, Part], scale: Scale, arm: str) -> dict[str, Sample]:
        rows = rows if full else rows.iloc[:0]
        return {part.key: criteria.compared(_active(rows, act), "value", scale, of=arm) for act, part in of.items()}

    return {
        "textbook-mlp-1": parts(moved, STABLE, Scale.log, "batch"),
        "textbook-mlp-2": parts(reach, CARELESS, Scale.plain, "none"),
        "textbook-mlp-3": {
            part.key: criteria.compared(_active(saturated[m], "sigmoid"), "value", Scale.log, of="batch")
            for m, part in UNSATURATED.items()
        },
        "textbook-mlp-4": parts(uneven, EVEN, Scale.log, "batch"),
    }


@claim(
    id="textbook-mlp-5",
    origin="course",
    where=WHERE,
    scale="textbook",
    says="BN keeps training from ending in infinity.",
    criterion="Runs that diverge over all rates and scales: none with BN and some without (reproduced), fewer with "
    "BN (partly). None in either arm: not reproduced.",
)
def does_not_diverge(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    runs = frames["runs"]
    n, lost = _seeds(runs), {arm: runs.query("norm == @arm and outcome == 'diverged'") for arm in ARMS}
    num = {arm: len(lost[arm]) for arm in ARMS}
    counts = runs["norm"].value_counts()
    onset = {figures.LABELS[arm]: spread(lost[arm]["diverged_step"]).range for arm in ARMS if num[arm]}
    return Evidence(
        ", ".join(f"{num[arm]} of {counts.get(arm, 0)} {figures.LABELS[arm]}" for arm in ARMS),
        "; ".join(f"{label}: after {steps} updates" for label, steps in onset.items()),
        n,
        judge(n, full=num["batch"] == 0 < num["none"], partial=num["batch"] < num["none"]),
    )


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    lines = []
    tested = _tested(frames["runs"])
    shares = _saturated(frames, last=True)
    for (act, (name, _)), scale in itertools.product(ACTIVATIONS.items(), SCALES):
        for what, rows in ((f"test accuracy (%), {name}", tested), (f"saturated hidden units (%), {name}", shares)):
            cells = _cells(_at(rows, scale))
            ours = (str(cells[arm, act]) for arm in ARMS)
            lines.append(Comparison(f"{what}, initial weights x {number(scale)}", DASH, DASH, *ours))
    return lines


def _wasserstein(weights: pd.DataFrame) -> pd.DataFrame:
    """`value`: distance from the start over the standard deviation at the start."""
    start = weights[(weights["quantity"] == "std") & (weights["step"] == 0)].set_index("run_id")["value"]
    rows = weights[weights["quantity"] == "wasserstein"]
    return rows.assign(value=rows["value"] / rows["run_id"].map(start))


def _saturated(frames: Mapping[str, pd.DataFrame], *, last: bool) -> pd.DataFrame:
    """`value`: percent, before training or at the last look of runs that did not diverge."""
    rows = frames["saturation"].assign(value=100 * frames["saturation"]["saturated"])
    return _latest(rows[rows["outcome"] != "diverged"]) if last else rows[rows["step"] == 0]


def _tested(runs: pd.DataFrame) -> pd.DataFrame:
    """`value`: percent after the last epoch at RATE; chance where a run diverged."""
    rows = runs[runs["lr"] == RATE]
    return rows.assign(value=(100 * rows["final_test_accuracy"]).where(rows["outcome"] != "diverged", CHANCE))


def _latest(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["step"] == rows.groupby("run_id")["step"].transform("max")]


def _at(rows: pd.DataFrame, scale: float) -> pd.DataFrame:
    return rows[rows["init_scale"] == scale]


def _active(rows: pd.DataFrame, act: str) -> pd.DataFrame:
    column = "run_activation" if "run_activation" in rows else "activation"  # the probe's own, or the network's
    return rows[rows[column] == act]


def _cell(rows: pd.DataFrame, arm: str, act: str) -> pd.DataFrame:
    return _active(rows[rows["norm"] == arm], act)


def _over_scales(rows: pd.DataFrame, compare: np.ufunc) -> pd.DataFrame:
    """One row per network and seed: `value`, the largest compared with the smallest over the scales."""
    ends = rows.groupby(["norm", "activation", "seed"])["value"].agg(["min", "max"])
    return compare(ends["max"], ends["min"]).rename("value").reset_index()


def _cells(rows: pd.DataFrame) -> dict[tuple[str, str], Spread]:
    return {(arm, act): spread(_cell(rows, arm, act)["value"]) for arm, act in CELLS}


def _seeds(runs: pd.DataFrame) -> int:
    """Seeds of the cell that has fewest, trained for all epochs."""
    whole = runs[runs["epochs"] >= EPOCHS]
    counts = whole.groupby(["norm", "activation", "init_scale", "lr"])["seed"].nunique()
    return int(counts.min()) if len(counts) == len(CELLS) * len(SCALES) * runs["lr"].nunique() else 0


def _where(cell: tuple[str, str]) -> str:
    return f"{figures.LABELS[cell[0]]}, {ACTIVATIONS[cell[1]][0]}"


def _drift(ax: Axes, weights: pd.DataFrame) -> None:
    rows = _wasserstein(weights)
    per_epoch = rows["step"].max() / rows["epochs"].max()
    for arm, act in CELLS:
        part = _cell(rows, arm, act)
        part = stats.over_seeds(part.assign(epoch=part["step"] / per_epoch), ["epoch"], "value")
        figures.band(ax, part, "epoch", arm, label="", ls=ACTIVATIONS[act][1])
    ax.set_xlabel("epoch")
    ax.set_ylabel("distance (initial standard deviations)")
    ax.set_ylim(bottom=0)


def _ribbons(ax: Axes, weights: pd.DataFrame) -> None:
    rows = weights[weights["quantity"] == "quantile"]
    per_epoch = rows["step"].max() / rows["epochs"].max()
    for arm in ARMS:
        part = _cell(rows, arm, "sigmoid").assign(epoch=lambda r: r["step"] / per_epoch)
        wide = part.groupby(["epoch", "x"])["value"].mean().unstack("x")
        for (low, high), width in RIBBONS.items():
            if low in wide:
                ax.fill_between(wide.index, wide[low], wide[high], color=figures.COLOURS[arm], alpha=0.1, lw=0)
                ax.plot(wide.index, wide[[low, high]], color=figures.COLOURS[arm], lw=width)
    ax.set_xlabel("epoch")
    ax.set_ylabel("weight of the hidden layer")
    figures.headroom(ax, 0.1)
    entries = [figures.entry(f"{100 * low:.0f} to {100 * high:.0f} %", lw=w) for (low, high), w in RIBBONS.items()]
    ax.legend(handles=entries, loc="upper center", ncols=2)


def _by_scale(ax: Axes, rows: pd.DataFrame, scale: Scale = Scale.plain, **line: float) -> None:
    for arm, act in CELLS:
        part = stats.over_seeds(_cell(rows, arm, act), ["init_scale"], "value", scale)
        figures.band(ax, part, "init_scale", arm, label="", ls=ACTIVATIONS[act][1], **{"marker": "o", "ms": 3, **line})
    ax.set_xscale("log")
    ax.set_xticks(SCALES, [f"{scale:g}" for scale in SCALES])
    ax.minorticks_off()
    ax.set_xlabel("factor on the initial weights")


def _diverged(ax: Axes, runs: pd.DataFrame) -> None:
    """A cell per rate and scale, with a row of marks per arm and activation, one per seed: filled where it diverged."""
    rates = sorted(runs["lr"].unique())
    for (x, rate), (y, scale) in itertools.product(enumerate(rates), enumerate(SCALES)):
        part = _at(runs[runs["lr"] == rate], scale)
        for row, (arm, act) in enumerate(CELLS):
            lost = sorted(_cell(part, arm, act)["outcome"] == "diverged", reverse=True)
            for place, diverged in enumerate(lost):
                ax.plot(
                    x - 0.3 + 0.6 * place / max(1, len(lost) - 1), y - 0.27 + 0.18 * row, SHAPES[act], ms=4, mew=0.8,
                    color=figures.COLOURS[arm], mfc=figures.COLOURS[arm] if diverged else "white",
                )  # fmt: skip
    ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    ax.set_yticks(range(len(SCALES)), [f"{scale:g}" for scale in SCALES])
    ax.set_xlim(-0.5, len(rates) - 0.5)
    ax.set_ylim(len(SCALES) - 0.5, -0.5)
    ax.set_xticks(np.arange(len(rates) - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(len(SCALES) - 1) + 0.5, minor=True)
    ax.grid(False)
    ax.grid(True, which="minor")
    ax.tick_params(which="minor", length=0)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("factor on the initial weights")
