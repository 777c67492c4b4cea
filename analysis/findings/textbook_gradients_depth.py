"""Does BN keep the size of gradients from changing over depth? Untrained perceptrons, as a course would put it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, spread

DEPTHS = (5, 10, 20, 50, 100)
FLAT = 0.02  # of ln of the gradient's norm a layer: 100 layers change it at most by a factor of 7
THEORY = -0.19  # ln(pi / (pi - 1)) / 2 against depth (Yang et al., 2019)
WITH = {
    depth: Part("slope of ln of the gradient's norm on the layer with BN", above=-FLAT, below=FLAT,
                at=f"{depth} layers")
    for depth in DEPTHS
}  # fmt: skip
WITHOUT = {depth: Part("size of that slope without BN", above=FLAT, at=f"{depth} layers") for depth in DEPTHS}

TITLE = "Gradients over depth, which courses say BN keeps alike"
CAPTION = (
    "Perceptrons of width 512 with ReLU and He's initialisation, plain, before training; one mini-batch of 512 images "
    "of Fashion-MNIST. (a) Norm of the gradient of each hidden layer's weights over that of the last one, 100 layers: "
    "geometric mean (line) with its 95 % interval (band, often within the line). (b) Slope of its logarithm on the "
    "layer, by the depth of the network: every seed (dots) and mean (bar); shaded: within 0.02 of 0, which the claim "
    "asks for; dotted: what theory has for plain networks with BN."
)
SWEEP = "perceptron_depths"
NEEDS = {"gradient_norms": "step == 0 and model == 'deep_perceptron' and residual == False"}
SIZE = (9.6, 4.3)
CLAIMS = (
    Claim(
        id="textbook-gradients-depth",
        origin="course",
        where="course pages: BN keeps gradients from vanishing over depth",
        scale="textbook",
        says="BN keeps the size of gradients from changing over depth.",
        criterion=Criterion(
            (*WITH.values(), *WITHOUT.values()),
            remark="Of the hidden layers of one width: the first, which sees images, and the classifier are left out.",
        ),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = _hidden(frames["gradient_norms"])
    left, right = fig.subplots(1, 2)
    _by_layer(left, rows[rows["run_depth"] == rows["run_depth"].max()])
    figures.panel(left, "a", f"by layer, {rows['run_depth'].max()} layers")
    slopes = _slopes(rows)
    depths = sorted(slopes["run_depth"].unique())
    right.axhspan(-FLAT, FLAT, color=figures.FAINT, lw=0, zorder=0)
    right.axhline(THEORY, color=figures.MUTED, lw=1, ls=":")
    for shift, (arm, part) in figures.beside(slopes, 0.17):
        for place, depth in enumerate(depths):
            values = part.loc[part["run_depth"] == depth, "slope"]
            figures.seeds(right, place + shift, values, arm, scale=stats.Scale.plain, spacing=0.03)
    right.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    right.grid(False, axis="x")
    right.set_xlabel("layers of the network")
    right.set_ylabel("slope of ln gradient on the layer")
    figures.panel(right, "b", "slope")
    fig.legend(handles=figures.arm_entries(), loc="outside lower center", ncols=2)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    slopes = _slopes(_hidden(frames["gradient_norms"]))
    of = {
        (arm, depth): slopes[(slopes["norm"] == arm) & (slopes["run_depth"] == depth)].set_index("seed")["slope"]
        for arm in ARMS
        for depth in DEPTHS
    }
    values = {part.key: of["batch", depth] for depth, part in WITH.items()}
    values |= {part.key: of["none", depth].abs() for depth, part in WITHOUT.items()}
    return {"textbook-gradients-depth": {key: criteria.single(each) for key, each in values.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    slopes = _slopes(_hidden(frames["gradient_norms"]))
    lines = []
    for depth, part in slopes.groupby("run_depth"):
        cells = [str(spread(part.loc[part["norm"] == arm, "slope"])) for arm in ARMS]
        lines.append(Comparison(f"slope of ln gradient a layer, {depth} layers", f"{THEORY}", "", *cells))
    return lines


def _hidden(table: pd.DataFrame) -> pd.DataFrame:
    """The hidden layers of one width: one row per run and layer, with ln of the gradient's norm."""
    inner = table[(table["depth"] > 1) & (table["depth"] < table["run_depth"])]
    with np.errstate(divide="ignore"):
        return inner.assign(log=np.log(inner["gradient"]))


def _slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run."""
    run = ["norm", "run_depth", "seed"]
    lines = [
        (*key, stats.slope(part["depth"].to_numpy(), part["log"].to_numpy()))
        for key, part in rows.groupby(run, observed=True)[["depth", "log"]]
    ]
    return pd.DataFrame(lines, columns=[*run, "slope"])


def _by_layer(ax: Axes, rows: pd.DataFrame) -> None:
    for arm in ARMS:
        part = rows[rows["norm"] == arm]
        if len(part):
            last = part[part["depth"] == part["depth"].max()].set_index("seed")["gradient"]
            part = part.assign(relative=part["gradient"].to_numpy() / last.loc[part["seed"]].to_numpy())
            figures.band(ax, stats.over_seeds(part, ["depth"], "relative", stats.Scale.log), "depth", arm)
    ax.axhline(1, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    ax.set_yscale("log")
    ax.set_xlabel("layer")
    ax.set_ylabel("gradient's norm over the last hidden layer's")
