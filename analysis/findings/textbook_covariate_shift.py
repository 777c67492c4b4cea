"""Internal covariate shift with BN, without, and with BN and noise: does it tell how training goes?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import effects, figures
from bnstudy.effects import Arms
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import DASH, number, over_seeds, spread

ARMS = {
    "batch": (figures.COLOURS["batch"], "with BN"),
    "noisy_batch": (figures.OTHER, "with BN and noise after it"),
    "none": (figures.COLOURS["none"], "without BN"),
}
MARKS = {0.1: "o", 0.3: "s", 1.0: "D"}  # by learning rate
SHOWN = 1.0  # the learning rate whose course is drawn
EPOCHS = 10

TITLE = "Internal covariate shift, with BN, without, and with noise after BN"
CAPTION = (
    "LeNet on Fashion-MNIST, plain SGD. (a) How far one update moves the distribution of a layer's inputs: "
    "Wasserstein distance over their standard deviation, mean over layers 2 to 5, on a fixed mini-batch; (b) the same "
    "since training began; (c) how much a layer's gradient changes when the layers before it make their update. "
    "Learning rate 1, median over seeds (line) and range (band), after so many updates. (d) Each run: mean of (a) "
    "over its looks in training against its training loss in the last epoch."
)
SWEEP = "textbook_covariate_shift"
NEEDS = {"covariate_shift": None, "runs": "status in ('completed', 'diverged')"}
SIZE = (10.4, 7.0)
IOFFE = "Ioffe and Szegedy (2015); the textbook and two course pages"
SANTURKAR = "Santurkar et al. (2018), section 2"
RATES = "at every rate of the grid (reproduced), at more than half (partly)."
CLAIMS = (
    Claim(
        id="textbook-covariate-bn",
        origin="course",
        where=IOFFE,
        scale="textbook",
        says="BN reduces internal covariate shift: layers' inputs move less while the layers before them learn.",
        criterion="Mean over layers and looks of how far an update moves the inputs' distribution, median over "
        "seeds: "
        f"smaller with BN than without, {RATES}",
    ),
    Claim(
        id="textbook-covariate-noise",
        origin="course",
        where=SANTURKAR,
        scale="textbook",
        says="Noise after BN that moves the inputs more than they do without BN hardly harms training.",
        criterion="Noisy BN's drift is above that without BN, and its median training accuracy in the last epoch "
        f"nearer to BN's than to that without BN, {RATES}",
    ),
    Claim(
        id="textbook-covariate-gradient",
        origin="course",
        where=SANTURKAR,
        scale="textbook",
        says="By its effect on the gradient, BN does not reduce internal covariate shift.",
        criterion="Relative change of a layer's gradient when the layers before it are updated, mean over layers "
        f"and looks, median over seeds: not smaller with BN than without, {RATES}",
    ),
    Claim(
        id="textbook-covariate-predicts",
        origin="course",
        where=IOFFE,
        scale="textbook",
        says="The more layers' inputs move, the worse a network trains.",
        criterion="Rank correlation (Spearman) of a run's mean drift with its training loss in the last epoch: at "
        "least 0.5 over all runs and positive within each arm (reproduced), at least 0.5 over all runs (partly).",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    axes = fig.subplots(2, 2).ravel()
    rows = frames["covariate_shift"]
    shown = rows[rows["lr"] == (SHOWN if (rows["lr"] == SHOWN).any() else rows["lr"].max())]
    for ax, (column, title, unit), letter in zip(
        axes,
        (
            ("step_drift", "drift of the inputs in one update", "standard deviations"),
            ("start_drift", "drift of the inputs since the start", "standard deviations"),
            ("gradient_change", "change of a layer's gradient", "of its norm"),
        ),
        "abc",
        strict=False,
    ):
        _course(ax, shown, column)
        ax.set_ylabel(unit)
        figures.panel(ax, letter, title)
    _runs(axes[3], _by_run(frames))
    figures.panel(axes[3], "d", "drift and training, run by run")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(ARMS))


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = _by_run(frames)
    n = _seeds(frames["runs"])
    rates = sorted(runs["lr"].unique())
    medians = runs.groupby(["lr", "norm"])[["step_drift", "gradient_change", "accuracy"]].median()
    drift, change, accuracy = (
        {rate: {arm: float(medians[column].get((rate, arm), float("nan"))) for arm in ARMS} for rate in rates}
        for column in ("step_drift", "gradient_change", "accuracy")
    )
    less = [at["batch"] < at["none"] for at in drift.values()]
    more = [at["batch"] >= at["none"] for at in change.values()]
    unharmed = [
        drift[rate]["noisy_batch"] > drift[rate]["none"]
        and abs(at["noisy_batch"] - at["batch"]) < abs(at["noisy_batch"] - at["none"])
        for rate, at in accuracy.items()
    ]
    alive = runs.dropna(subset=["loss"])
    whole = _rank_correlation(alive)
    within = {arm: _rank_correlation(alive[alive["norm"] == arm]) for arm in ARMS}

    def told(values: Mapping[float, Mapping[str, float]]) -> str:
        return "; ".join(
            f"at {number(rate)}: " + ", ".join(number(at[arm]) for arm in ARMS) for rate, at in values.items()
        )

    order = " (with BN, with noise, without)"

    def apart(column: str, quantity: str) -> tuple[Arms, ...]:
        at = {rate: runs[runs["lr"] == rate] for rate in rates}
        return tuple(
            effects.arms(part, column, f"{quantity} at {number(rate)}", ratio=True) for rate, part in at.items()
        )

    made = {}
    for name, holds, text, compared in (
        ("bn", less, told(drift) + order, apart("step_drift", "drift")),
        ("noise", unharmed, f"accuracy {told(accuracy)}{order}", ()),
        ("gradient", more, told(change) + order, apart("gradient_change", "relative change")),
    ):
        verdict = judge(n, whole=all(holds), part=2 * sum(holds) > len(holds))
        measured = f"at {sum(holds)} of {len(holds)} rates"
        made[f"textbook-covariate-{name}"] = Evidence(measured, text, n, verdict, compared)
    made["textbook-covariate-predicts"] = Evidence(
        f"rank correlation {number(whole)} over {len(alive)} runs",
        ", ".join(f"{ARMS[arm][1]} {number(value)}" for arm, value in within.items()),
        n,
        judge(n, whole=whole >= 0.5 and all(value > 0 for value in within.values()), part=whole >= 0.5),
    )
    return made


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _by_run(frames)
    lines = []
    for rate in sorted(runs["lr"].unique()):
        for column, name in (
            ("step_drift", "drift of the inputs in an update"),
            ("gradient_change", "change of the gradient"),
            ("loss", "training loss in the last epoch"),
        ):
            found = {arm: str(spread(runs[(runs["lr"] == rate) & (runs["norm"] == arm)][column])) for arm in ARMS}
            batch = f"{found['batch']}; with noise {found['noisy_batch']}"
            lines.append(Comparison(f"{name} at {number(rate)}", DASH, DASH, batch, found["none"]))
    return lines


def _by_run(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a run: norm, lr, seed, means over layers and looks in training, and how it ended (NaN where diverged)."""
    looks = frames["covariate_shift"].query("step > 0")
    means = looks.groupby("run_id")[["step_drift", "gradient_change"]].mean()
    runs = frames["runs"].assign(
        loss=frames["runs"]["final_train_loss"], accuracy=frames["runs"]["final_train_accuracy"]
    )
    return runs[["run_id", "norm", "lr", "seed", "epochs", "loss", "accuracy"]].join(means, on="run_id")


def _rank_correlation(runs: pd.DataFrame) -> float:
    return float(runs["step_drift"].rank().corr(runs["loss"].rank()))


def _seeds(runs: pd.DataFrame) -> int:
    counts = runs[runs["epochs"] >= EPOCHS].groupby(["norm", "lr"])["seed"].nunique()
    return int(counts.min()) if len(counts) == len(ARMS) * runs["lr"].nunique() else 0


def _course(ax: Axes, rows: pd.DataFrame, column: str) -> None:
    for arm, (colour, label) in ARMS.items():
        part = rows[(rows["norm"] == arm) & (rows["step"] > 0)]
        means = part.groupby(["seed", "step"])[column].mean().reset_index()  # over layers
        values = over_seeds(means, ["step"], column)
        ax.fill_between(values["step"], values["low"], values["high"], color=colour, alpha=0.18, lw=0)
        ax.plot(values["step"], values["median"], color=colour, marker="o", ms=2.5, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("updates made")


def _runs(ax: Axes, runs: pd.DataFrame) -> None:
    for arm, (colour, _) in ARMS.items():
        for rate, mark in MARKS.items():
            part = runs[(runs["norm"] == arm) & (runs["lr"] == rate)]
            ax.plot(part["step_drift"], part["loss"], mark, color=colour, ms=4.5, mew=0, alpha=0.85)
    for rate, mark in MARKS.items():
        ax.plot([], [], mark, color=figures.MUTED, ms=4.5, mew=0, label=number(rate))
    ax.legend(title="learning rate", loc="upper left")
    ax.set_xscale("log")
    ax.set_xlabel("mean drift of the inputs in an update (standard deviations)")
    ax.set_ylabel("training loss in the last epoch")
