"""Gradients of untrained perceptrons by depth, plain and residual, with BN and without (Yang et al., 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, spread
from bnstudy.analysis.stats import Scale

THEORY = math.pi / (math.pi - 1)  # growth of the squared gradient a plain layer with BN and ReLU, at infinite width
DEEP = 100
KINDS = {False: ("plain", "-"), True: ("with shortcuts", (0, (4, 1.6)))}
EDGE = 3  # layers at either end that the growth leaves out: the first sees images, the last the classifier

FACTOR = Part(
    "growth of the squared gradient a layer, plain with BN, 100 layers",
    above=0.95 * THEORY,
    below=1.05 * THEORY,
    scale=Scale.log,
)
WITHOUT = Part(
    "growth of the squared gradient a layer, plain without BN, 100 layers", above=0.95, below=1.05, scale=Scale.log
)
SHORTCUTS = Part("ln of the growth over all layers with shortcuts and BN over that of the plain network", below=0.2)
POWER = Part(
    "share of the variance of ln squared gradient over 10 to 100 layers that ln depth explains, less that which depth "
    "does, with shortcuts and BN", above=0,
)  # fmt: skip

TITLE = "Gradients of untrained perceptrons by depth"
CAPTION = (
    "Width 512, one mini-batch of 512 images of Fashion-MNIST, He's initialisation, before training. (a) Squared norm "
    "of the gradient of each layer's weights over that of the last hidden layer, 100 layers. (b) Its growth a layer on "
    "the way back, by the depth of the network (slope of its logarithm; at either end three layers, or a quarter of "
    "those of a network of fewer than 12, are left out); dotted: pi / (pi - 1). Geometric mean (line) over seeds and "
    "95 % interval (band, often within the line)."
)
SWEEP = "perceptron_depths"
NEEDS = {"gradient_norms": "step == 0 and model == 'deep_perceptron'"}
SIZE = (9.6, 4.3)
WHERE = "Yang et al. (2019), theorem on gradient explosion"
CLAIMS = (
    Claim(
        id="B1-factor",
        origin="ours",
        where=WHERE,
        scale="init",
        says="BN itself makes gradients explode with depth in plain networks, by pi / (pi - 1) a layer.",
        criterion=Criterion((FACTOR,), remark="5 % on either side: the theory is for infinite width."),
        published="1.467 a layer (squared)",
    ),
    Claim(
        id="B1-without",
        origin="ours",
        where=WHERE,
        scale="init",
        says="It is BN and not depth: without BN and with He's initialisation they do not explode.",
        criterion=Criterion((WITHOUT,)),
        published="1 a layer, by He et al. (2015)",
    ),
    Claim(
        id="B1-shortcuts",
        origin="ours",
        where=WHERE,
        scale="init",
        says="With shortcuts around every layer the explosion with BN becomes polynomial in depth.",
        criterion=Criterion(
            (SHORTCUTS, POWER),
            partial=(SHORTCUTS,),
            remark="Of 100 layers, and over depths, second layer. Changed after a look: a slope between -3 and 3 on "
            "log axes was asked for, which exponentials of up to 1.08 a layer have, too.",
        ),
        published="no values",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = _rows(frames["gradient_norms"])
    left, right = fig.subplots(1, 2)
    _by_layer(left, rows[rows["run_depth"] == rows["run_depth"].max()])
    figures.panel(left, "a", f"by layer, {rows['run_depth'].max()} layers")
    growth = _growth(rows)
    for arm in ARMS:
        for residual, (_, dashes) in KINDS.items():
            part = growth[(growth["norm"] == arm) & (growth["residual"] == residual)]
            if len(part):
                figures.band(
                    right, stats.over_seeds(part, ["run_depth"], "factor", Scale.log), "run_depth", arm, ls=dashes
                )
    right.axhline(THEORY, color=figures.MUTED, lw=1, ls=":")
    right.set_xscale("log")
    depths = sorted(growth["run_depth"].unique())
    right.set_xticks(depths, [str(depth) for depth in depths])
    right.minorticks_off()
    right.set_xlabel("layers of the network")
    right.set_ylabel("growth of the squared gradient a layer")
    figures.panel(right, "b", "growth a layer")
    kinds = [figures.entry(label, ls=dashes) for label, dashes in KINDS.values()]
    fig.legend(handles=[*figures.arm_entries(), *kinds], loc="outside lower center", ncols=4, handlelength=2.6)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = _rows(frames["gradient_norms"])
    growth = _growth(rows)
    deep = growth[growth["run_depth"] == DEEP]
    factor = {
        (arm, residual): deep[(deep["norm"] == arm) & (deep["residual"] == residual)].set_index("seed")["factor"]
        for arm in ARMS
        for residual in KINDS
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        share = stats.effect(np.log(factor["batch", True]), np.log(factor["batch", False]), Scale.log)
    values = {
        "B1-factor": {FACTOR.key: factor["batch", False]},
        "B1-without": {WITHOUT.key: factor["none", False]},
        "B1-shortcuts": {SHORTCUTS.key: share, POWER.key: _power(rows)},
    }
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    growth = _growth(_rows(frames["gradient_norms"]))
    lines = []
    for residual, (kind, _) in KINDS.items():
        for depth in sorted(growth["run_depth"].unique()):
            part = growth[(growth["residual"] == residual) & (growth["run_depth"] == depth)]
            cells = [str(spread(part.loc[part["norm"] == arm, "factor"])) for arm in ARMS]
            lines.append(Comparison(f"growth of the squared gradient a layer, {kind}, {depth} layers", "", "", *cells))
    return lines


def _rows(table: pd.DataFrame) -> pd.DataFrame:
    """The hidden layers' squared gradients, one row per run and layer."""
    columns = ["norm", "residual", "run_depth", "seed", "depth", "gradient"]  # not to copy all with each group
    hidden = table.loc[table["depth"] < table["run_depth"], columns]
    return hidden.assign(square=hidden["gradient"] ** 2, residual=hidden["residual"].astype(bool))


def _growth(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run: the factor by which the squared gradient grows a layer on the way back."""
    edge = np.minimum(EDGE, rows["run_depth"] // 4)
    inner = rows[(rows["depth"] > edge) & (rows["depth"] < rows["run_depth"] - edge)]
    with np.errstate(divide="ignore"):
        inner = inner.assign(log=np.log(inner["square"]))
    run = ["norm", "residual", "run_depth", "seed"]
    lines = [
        (*key, math.exp(-stats.slope(part["depth"].to_numpy(), part["log"].to_numpy())))
        for key, part in inner.groupby(run, observed=True)[["depth", "log"]]
    ]
    return pd.DataFrame(lines, columns=[*run, "factor"])


def _power(rows: pd.DataFrame) -> pd.Series:
    """By seed, with shortcuts and BN: how much better a power of depth fits the second layer than an exponential."""
    second = rows[(rows["norm"] == "batch") & rows["residual"] & (rows["depth"] == 2) & (rows["run_depth"] >= 10)]
    return pd.Series(
        {
            seed: _explained(np.log(part["run_depth"]), part) - _explained(part["run_depth"], part)
            for seed, part in second.groupby("seed")
        },
        dtype=float,
    )


def _explained(by: pd.Series, part: pd.DataFrame) -> float:
    return float(np.corrcoef(by, np.log(part["square"]))[0, 1] ** 2)


def _by_layer(ax: Axes, rows: pd.DataFrame) -> None:
    for arm in ARMS:
        for residual, (_, dashes) in KINDS.items():
            part = rows[(rows["norm"] == arm) & (rows["residual"] == residual)]
            if len(part):
                last = part[part["depth"] == part["depth"].max()].set_index("seed")["square"]
                part = part.assign(relative=part["square"].to_numpy() / last.loc[part["seed"]].to_numpy())
                figures.band(ax, stats.over_seeds(part, ["depth"], "relative", Scale.log), "depth", arm, ls=dashes)
    ax.set_yscale("log")
    ax.set_xlabel("layer")
    ax.set_ylabel("squared gradient over the last hidden layer's")
