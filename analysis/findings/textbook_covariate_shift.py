"""Internal covariate shift with BN, without, and with BN and noise: does it predict how training goes?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, number, spread
from bnstudy.analysis.stats import Scale

ARMS = {
    "batch": (figures.COLOURS["batch"], "with BN"),
    "noisy_batch": (figures.NORMS["noisy_batch"], "with BN and noise after it"),
    "none": (figures.COLOURS["none"], "without BN"),
}
MARKS = {0.1: "o", 0.3: "s", 1.0: "D"}  # by learning rate
SHOWN = 1.0  # the learning rate whose course is drawn
EPOCHS = 10
TICKS = (0.02, 0.05, 0.1, 0.2, 0.3)  # of panel (d)

TITLE = "Internal covariate shift, with BN, without, and with noise after BN"
CAPTION = (
    "LeNet on Fashion-MNIST, plain SGD. (a) How far one update moves the distribution of a layer's inputs: Wasserstein "
    "distance over their standard deviation, geometric mean over layers 2 to 5, on a fixed mini-batch; (b) the same "
    "since training began; (c) how much a layer's gradient changes when the layers before it make their update. "
    "Learning rate 1, geometric mean over seeds (line) and 95 % interval (band), after so many updates. (d) Each run: "
    "geometric mean of (a) over its looks in training against its training loss in the last epoch. (e) By rate, the "
    "ratios that the claims on drift and on the gradient's change are judged by: geometric mean with 95 % interval."
)
SWEEP = "textbook_covariate_shift"
NEEDS = {"covariate_shift": None, "runs": "status in ('completed', 'diverged')"}
SIZE = (12.6, 7.0)
IOFFE = "Ioffe and Szegedy (2015); the textbook and two course pages"
SANTURKAR = "Santurkar et al. (2018), section 2"
RATES = (0.1, 0.3, 1.0)
MOVE_LESS = {
    rate: Part("drift without BN over that with BN", above=1, scale=Scale.log, at=f"rate {rate:g}") for rate in RATES
}
MOVE_MORE = {
    rate: Part("drift with noise over that without BN", above=1, scale=Scale.log, at=f"rate {rate:g}") for rate in RATES
}
UNHARMED = {
    rate: Part("training accuracy with noise: distance to that without BN less that to BN's", above=0, unit="points",
               at=f"rate {rate:g}")
    for rate in RATES
}  # fmt: skip
CHANGES = {
    rate: Part("relative change of the gradient with BN over that without", above=1, scale=Scale.log,
               at=f"rate {rate:g}")
    for rate in RATES
}  # fmt: skip
PREDICTS = {
    arm: Part(f"rank correlation of drift and training loss over the runs of a seed{where}", above=bound)
    for arm, where, bound in (("all", "", 0.5), *((a, f", {label}", 0) for a, (_, label) in ARMS.items()))
}
LOOKS = (
    "Geometric means over layers and looks. Changed after a look at the data: of arithmetic means without BN at "
    "0.1 98 % came from the updates in which the network had not begun to learn."
)
CLAIMS = (
    Claim(
        id="textbook-covariate-bn",
        origin="course",
        where=IOFFE,
        scale="textbook",
        says="BN reduces internal covariate shift: layers' inputs move less while the layers before them learn.",
        criterion=Criterion(tuple(MOVE_LESS.values()), partial=2, remark=LOOKS),
    ),
    Claim(
        id="textbook-covariate-noise",
        origin="course",
        where=SANTURKAR,
        scale="textbook",
        says="Noise after BN that moves the inputs more than they do without BN hardly harms training.",
        criterion=Criterion((*MOVE_MORE.values(), *UNHARMED.values()), remark=LOOKS),
    ),
    Claim(
        id="textbook-covariate-gradient",
        origin="course",
        where=SANTURKAR,
        scale="textbook",
        says="By its effect on the gradient, BN does not reduce internal covariate shift.",
        criterion=Criterion(tuple(CHANGES.values()), partial=2, remark=LOOKS),
    ),
    Claim(
        id="textbook-covariate-predicts",
        origin="course",
        where=IOFFE,
        scale="textbook",
        says="The more layers' inputs move, the worse a network trains.",
        criterion=Criterion(tuple(PREDICTS.values()), partial=(PREDICTS["all"],), remark=f"Spearman's. {LOOKS}"),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    panels = fig.subplot_mosaic([list("abe"), list("cde")], width_ratios=(1, 1, 0.75))
    axes = [panels[letter] for letter in "abcd"]
    rows = frames["covariate_shift"]
    shown = rows[rows["lr"] == (SHOWN if (rows["lr"] == SHOWN).any() else rows["lr"].max())]
    for ax, (column, title, unit), letter in zip(
        axes,
        (
            ("step_drift", "drift of the inputs in one update", "distance / standard deviation"),
            ("start_drift", "drift of the inputs since the start", "distance / standard deviation"),
            ("gradient_change", "change of a layer's gradient", "change / norm of the gradient"),
        ),
        "abc",
        strict=False,
    ):
        _course(ax, shown, column)
        ax.set_ylabel(unit)
        figures.panel(ax, letter, title)
    _runs(axes[3], _by_run(frames))
    figures.panel(axes[3], "d", "drift and training, run by run")
    _ratios(panels["e"], measure(frames))
    figures.panel(panels["e"], "e", "judged: ratios of means")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(ARMS))


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _by_run(frames)
    runs = runs[runs["epochs"] >= EPOCHS]

    def of(rate: float, arm: str, column: str) -> pd.Series[float]:
        return runs[(runs["lr"] == rate) & (runs["norm"] == arm)].set_index("seed")[column]

    def ratio(rate: float, one: str, other: str, column: str) -> pd.Series[float]:
        return stats.effect(of(rate, one, column), of(rate, other, column), Scale.log)

    nearer = {}
    for rate, part in UNHARMED.items():
        noisy, bn, none = (100 * of(rate, arm, "accuracy") for arm in ("noisy_batch", "batch", "none"))
        nearer[part.key] = stats.effect((noisy - none).abs(), (noisy - bn).abs())
    alive = runs.dropna(subset=["loss"])
    parts = {"all": alive} | {arm: alive[alive["norm"] == arm] for arm in ARMS}
    predicts = {
        PREDICTS[name].key: pd.Series({s: _rank_correlation(rows) for s, rows in part.groupby("seed")}, dtype=float)
        for name, part in parts.items()
    }
    values = {
        "textbook-covariate-bn": {p.key: ratio(r, "none", "batch", "step_drift") for r, p in MOVE_LESS.items()},
        "textbook-covariate-noise": {
            **{p.key: ratio(r, "noisy_batch", "none", "step_drift") for r, p in MOVE_MORE.items()}, **nearer,
        },
        "textbook-covariate-gradient": {
            p.key: ratio(r, "batch", "none", "gradient_change") for r, p in CHANGES.items()
        },
        "textbook-covariate-predicts": predicts,
    }  # fmt: skip
    return {claim: {key: criteria.single(each) for key, each in of_.items()} for claim, of_ in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _by_run(frames)
    lines = []
    for rate in sorted(runs["lr"].unique()):
        for column, name in (
            ("step_drift", "drift of the inputs in an update"),
            ("gradient_change", "change of the gradient"),
            ("loss", "training loss in the last epoch"),
        ):
            cells = {arm: str(spread(runs[(runs["lr"] == rate) & (runs["norm"] == arm)][column])) for arm in ARMS}
            batch = f"{cells['batch']}; with noise {cells['noisy_batch']}"
            lines.append(Comparison(f"{name} at {number(rate)}", DASH, DASH, batch, cells["none"]))
    return lines


def _ratios(ax: Axes, measured: Mapping[str, Mapping[str, Sample]]) -> None:
    """What the claims on drift and on the gradient's change are judged by, at every rate."""
    for claim, parts, filled, label, side in (
        ("textbook-covariate-bn", MOVE_LESS, True, "drift, without BN / with", -0.1),
        ("textbook-covariate-gradient", CHANGES, False, "change, with BN / without", 0.1),
    ):
        for place, part in enumerate(parts.values()):
            of = stats.interval(measured[claim][part.key].values, Scale.log)
            figures.estimate(ax, place + side, of, figures.INK, filled=filled)
        ax.plot([], [], "o", color=figures.INK, mfc=figures.INK if filled else "white", label=label)
    ax.axhline(1, color=figures.MUTED, lw=0.9)
    ax.set_yscale("log")
    ax.set_xticks(range(len(RATES)), [f"{rate:g}" for rate in RATES])
    ax.set_xlim(-0.5, len(RATES) - 0.5)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("ratio")
    figures.headroom(ax, 0.15)
    ax.legend(loc="upper right")


def _by_run(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per run: norm, lr, seed, means over layers and looks in training, and how it ended (NaN where diverged).

    Means are geometric.
    """
    looks = frames["covariate_shift"].query("step > 0")
    sizes = looks[["step_drift", "gradient_change"]]
    logs = pd.DataFrame(np.log(sizes.where(sizes > 0)))
    means = pd.DataFrame(np.exp(logs.groupby(looks["run_id"]).mean()))
    runs = frames["runs"].assign(
        loss=frames["runs"]["final_train_loss"], accuracy=frames["runs"]["final_train_accuracy"]
    )
    return runs[["run_id", "norm", "lr", "seed", "epochs", "loss", "accuracy"]].join(means, on="run_id")


def _rank_correlation(runs: pd.DataFrame) -> float:
    return float(runs["step_drift"].rank().corr(runs["loss"].rank()))


def _course(ax: Axes, rows: pd.DataFrame, column: str) -> None:
    for arm, (colour, label) in ARMS.items():
        part = rows[(rows["norm"] == arm) & (rows["step"] > 0)]
        logs = part.assign(**{column: np.log(part[column].where(part[column] > 0))})
        means = logs.groupby(["seed", "step"])[column].mean().reset_index()  # over layers
        means[column] = np.exp(means[column])
        values = stats.over_seeds(means, ["step"], column, Scale.log)
        ax.fill_between(values["step"], values["low"], values["high"], color=colour, alpha=0.18, lw=0)
        ax.plot(values["step"], values["mean"], color=colour, marker="o", ms=2.5, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("updates")


def _runs(ax: Axes, runs: pd.DataFrame) -> None:
    for arm, (colour, _) in ARMS.items():
        for rate, mark in MARKS.items():
            part = runs[(runs["norm"] == arm) & (runs["lr"] == rate)]
            ax.plot(part["step_drift"], part["loss"], mark, color=colour, ms=4.5, mew=0, alpha=0.85)
    for rate, mark in MARKS.items():
        ax.plot([], [], mark, color=figures.MUTED, ms=4.5, mew=0, label=number(rate))
    ax.legend(title="learning rate", loc="upper left")
    ax.set_xscale("log")
    ax.set_xticks(TICKS, [number(tick) for tick in TICKS])
    ax.minorticks_off()
    ax.set_xlabel("mean drift of the inputs in an update (standard deviations)")
    ax.set_ylabel("training loss in the last epoch")
