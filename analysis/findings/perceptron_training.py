"""To which depth perceptrons train, plain and with shortcuts, with BN and without (Yang et al., 2019)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures
from bnstudy.analysis.criteria import Criterion, HoldsFor, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, number
from bnstudy.store import outcomes

DEPTHS = (5, 10, 20, 50, 100)
LEARNS_ABOVE = outcomes.stalled_below(10)  # mean accuracy of the last 50 mini-batches
RATES = (1e-4, 0.001, 0.01, 0.1, 1.0, 10.0)
KINDS = {False: "plain", True: "with shortcuts"}
MARKS = {outcomes.LEARNS: "s", outcomes.DIVERGED: "x"}  # anything else stays at chance: an open square

PLAIN = Part("deepest plain network with BN that learns at some rate", above=10, below=100, holds_for=HoldsFor.every)
SHORTCUTS = Part("deepest network with shortcuts and BN that does", above=50, holds_for=HoldsFor.every)

TITLE = "To which depth perceptrons train"
CAPTION = (
    "Width 512, Fashion-MNIST, one epoch (118 updates on mini-batches of 512) at a constant rate. A mark a run, seeds "
    "side by side. Filled: it learns (in the last 50 mini-batches more than 30 % of the images are right; guessing is "
    "10 %); open: it stays at chance; cross: it diverges (a loss above 1000, or not finite)."
)
SWEEP = "perceptron_training"
NEEDS = {"steps": "model == 'deep_perceptron'"}
SIZE = (9.6, 6.4)
CLAIMS = (
    Claim(
        id="B1-trains",
        origin="ours",
        where="Yang et al. (2019), experiments on depth",
        scale="reduced",
        says="Plain networks with BN train to about 50 layers and no deeper; with shortcuts they train at 100.",
        criterion=Criterion(
            (PLAIN, SHORTCUTS),
            partial=1,
            remark="Depths 5, 10, 20, 50 and 100, six decades of rates. About 50: 20 or 50, and not 100. To learn is "
            "to have more than 30 % of the last 50 mini-batches right, by a pilot: of 100 layers with shortcuts and BN "
            "losses begin above 50.",
        ),
        published="about 50 layers",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = _runs(frames)
    axes = fig.subplots(2, 2, sharex=True, sharey=True)
    for ax, letter, ((residual, kind), arm) in zip(
        axes.flat, "abcd", itertools.product(KINDS.items(), ARMS), strict=True
    ):
        _grid(ax, runs[(runs["norm"] == arm) & (runs["residual"] == residual)], arm)
        figures.panel(ax, letter, f"{kind}, {figures.LABELS[arm]}")
    for ax in axes[-1]:
        ax.set_xlabel("learning rate")
    for ax in axes[:, 0]:
        ax.set_ylabel("layers")
    entries = [
        figures.entry("learns", "s"),
        figures.entry("at chance", "s", filled=False),
        figures.entry("diverges", "x"),
    ]
    fig.legend(handles=entries, loc="outside lower center", ncols=3)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    deepest = {residual: _deepest(_runs(frames), "batch", residual) for residual in KINDS}
    values = {PLAIN.key: deepest[False], SHORTCUTS.key: deepest[True]}
    return {"B1-trains": {key: criteria.single(of) for key, of in values.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    lines = []
    for residual, kind in KINDS.items():
        cells = []
        for arm in ARMS:
            deepest = _deepest(_runs(frames), arm, residual)
            cells.append(", ".join(number(depth) for depth in deepest))
        lines.append(Comparison(f"deepest network that learns at some rate, {kind}, by seed", "", "", *cells))
    return lines


def _runs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per run, with its outcome."""
    rows = []
    for (arm, residual, depth, lr, seed), part in frames["steps"].groupby(
        ["norm", "residual", "depth", "run_lr", "seed"], observed=True
    ):
        right = part.sort_values("step", kind="stable")["accuracy"].tail(outcomes.NUM_LAST).mean()
        outcome = outcomes.LEARNS if right > LEARNS_ABOVE else outcomes.CHANCE
        outcome = outcomes.DIVERGED if (part["status"] == "diverged").any() else outcome
        rows.append((arm, residual, depth, lr, seed, outcome))
    return pd.DataFrame(rows, columns=["norm", "residual", "depth", "lr", "seed", "outcome"])


def _deepest(runs: pd.DataFrame, arm: str, residual: bool) -> pd.Series:
    """By seed, of those with every run: the largest depth at which any rate learns; 0 where none does."""
    part = runs[(runs["norm"] == arm) & (runs["residual"] == residual)]
    learns = part.assign(learns=part["outcome"] == outcomes.LEARNS)
    cells = learns.pivot_table(index="seed", columns=["depth", "lr"], values="learns", aggfunc="max").astype(float)
    cells = cells.reindex(columns=pd.MultiIndex.from_product([DEPTHS, RATES])).dropna()
    trained = cells.T.groupby(level=0).max().T  # a column per depth
    return (trained * trained.columns.to_numpy()).max(axis=1)


def _grid(ax: Axes, runs: pd.DataFrame, arm: str) -> None:
    seeds = sorted(runs["seed"].unique())
    for row in runs.itertuples():
        x = RATES.index(row.lr) + 0.2 * (seeds.index(row.seed) - (len(seeds) - 1) / 2)
        filled = row.outcome == outcomes.LEARNS
        colour = figures.COLOURS[arm]
        mark = MARKS.get(str(row.outcome), "s")
        ax.plot(x, DEPTHS.index(row.depth), mark, ms=5, mew=1, color=colour, mfc=colour if filled else "white")
    ax.set_xticks(range(len(RATES)), [number(rate) for rate in RATES])
    ax.set_yticks(range(len(DEPTHS)), [str(depth) for depth in DEPTHS])
    ax.set_xlim(-0.5, len(RATES) - 0.5)
    ax.set_ylim(-0.5, len(DEPTHS) - 0.5)
    ax.grid(False)
