"""Loss and activations of the untrained network under four initialisers (Bjorck et al. 2018, section 4, appendix F)."""

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
from bnstudy.analysis.frames import ARMS, Spread, spread
from bnstudy.analysis.stats import Scale

INITS = {
    "kaiming_normal": ("Kaiming normal", "-"),
    "xavier_uniform": ("Xavier uniform", (0, (5, 1.6))),
    "xavier_normal": ("Xavier normal", (0, (1.2, 1.2))),
    "torch_default": ("torch's default", (0, (6, 1.6, 1.2, 1.6))),
}
XAVIER = ("xavier_uniform", "xavier_normal")
FIRST, LAST = 2, 108  # the first convolutions of the first and the last block
DIVERGED = 1000  # the mini-batch loss at which the paper calls a run diverged

EXPLODES = Part("first loss with Kaiming normal over the larger of both Xavier, without BN", above=1000,
                scale=Scale.log)  # fmt: skip
GROWS = Part("ln of the growth from layer 2 to 108 with Kaiming normal, without BN", above=math.log(1000))
ORDER = (
    Part("that growth less the larger of both Xavier's", above=0),
    Part("the smaller of both Xavier's less that with torch's default", above=0),
)
APART = Part("largest first loss over the smallest of the four initialisers, with BN", below=2, scale=Scale.log)

TITLE = "The untrained ResNet-110 under four initialisers"
CAPTION = (
    "On one mini-batch of 128 images. (a) Loss; one dot a seed, bar: geometric mean; grey: the loss of a guess among "
    "ten classes, and the loss at which a run counts as diverged. (b, c) Standard deviation of what the first "
    "convolution of each block puts out, before any BN, over mini-batch and space, in the channel where it is largest. "
    "Geometric mean (line) over seeds and 95 % interval (band). Variances of the weights: Xavier 2/(fan-in + fan-out), "
    "Kaiming 2/fan-in, torch's default 1/(3 fan-in); the classifier's are torch's default in all."
)
SWEEP = "init_schemes"
NEEDS = {"moments_along_step": "step == 0 and fraction == 0 and run_depth == 110"}
SIZE = (11.0, 4.6)
WHERE = "Section 4, appendix F"
CLAIMS = (
    Claim(
        id="16-loss",
        where=WHERE,
        scale="init",
        says="Without BN it depends on the initialiser whether the untrained network's loss explodes.",
        criterion=Criterion((EXPLODES,), partial=(Part(EXPLODES.of, above=10, scale=Scale.log),)),
        published="values not known",
    ),
    Claim(
        id="16-depth",
        origin="paper",
        where=WHERE,
        scale="init",
        says="Keeping the variance from layer to layer is too weak a condition: over many residual blocks it is not "
        "kept.",
        criterion=Criterion(
            (GROWS, *ORDER),
            partial=1,
            remark="Of the standard deviation of the most variable channel. Kaiming's law is made to keep it in a "
            "plain stack of layers. An addition adds variances: where branch and shortcut have the same, each block "
            "doubles it.",
        ),
        published="values not known",
    ),
    Claim(
        id="16-bn",
        where=WHERE,
        scale="init",
        says="With BN the initialiser hardly matters to the untrained network's loss.",
        criterion=Criterion((APART,), partial=(Part(APART.of, below=10, scale=Scale.log),)),
        published="values not known",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = _rows(frames)
    panels = dict(zip("abc", fig.subplots(1, 3, width_ratios=(1.25, 1, 1)), strict=True))
    _losses(panels["a"], _runs(rows))
    figures.panel(panels["a"], "a", "loss before training")
    blocks = rows[(rows["depth"] % 2 == 0) & rows["depth"].between(FIRST, LAST)]
    for letter, arm in zip("bc", ("none", "batch"), strict=True):
        ax = panels[letter]
        for init, (label, dashes) in INITS.items():
            part = blocks[(blocks["norm"] == arm) & (blocks["init"] == init)]
            if len(part):
                rows_of = stats.over_seeds(part, ["depth"], "std", Scale.log)
                figures.band(ax, rows_of, "depth", arm, label=label, ls=dashes)
        if arm == "batch":
            figures.plain_log(ax)
        else:
            ax.set_yscale("log")
        figures.stages(ax)
        ax.set_ylabel("standard deviation, largest of the channels")
        figures.panel(ax, letter, f"by depth, {figures.LABELS[arm]}")
    handles = [figures.entry(label, ls=dashes) for label, dashes in INITS.values()]
    fig.legend(handles=handles, title="initialiser (b, c)", loc="outside lower right", ncols=4, handlelength=2.6)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _runs(_rows(frames))
    loss, growth = (
        {arm: part.pivot(index="seed", columns="init", values=column).reindex(columns=list(INITS))
         for arm, part in _each_arm(runs)}
        for column in ("loss", "growth")
    )  # fmt: skip
    without, with_bn, grown = loss["none"], loss["batch"], growth["none"]
    xavier = grown[list(XAVIER)]
    values = {
        "16-loss": {EXPLODES.key: without["kaiming_normal"] / without[list(XAVIER)].max(axis=1, skipna=False)},
        "16-depth": {
            GROWS.key: grown["kaiming_normal"],
            ORDER[0].key: grown["kaiming_normal"] - xavier.max(axis=1, skipna=False),
            ORDER[1].key: xavier.min(axis=1, skipna=False) - grown["torch_default"],
        },
        "16-bn": {APART.key: with_bn.max(axis=1, skipna=False) / with_bn.min(axis=1, skipna=False)},
    }
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _runs(_rows(frames))
    lines = []
    for column, label in (
        ("loss", "loss"),
        ("growth", f"ln growth of the standard deviation, layers {FIRST} to {LAST}"),
    ):
        of = {arm: _by_init(part, column) for arm, part in _each_arm(runs)}
        for init, (name, _) in INITS.items():
            lines.append(Comparison(f"{label}, {name}", "", "", *(str(of[arm][init]) for arm in ARMS)))
    return lines


def _rows(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per run and layer, with the standard deviation of its most variable channel."""
    rows = frames["moments_along_step"]
    return rows.assign(std=np.sqrt(rows["variance"]))


def _runs(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run: loss, and growth, the ln of the last block's standard deviation over the first's."""
    key = ["norm", "init", "seed"]
    first, last = (rows[rows["depth"] == depth].set_index(key)["std"] for depth in (FIRST, LAST))
    with np.errstate(divide="ignore", invalid="ignore"):  # a dead network's are 0
        growth = np.log(last / first)
    return rows.groupby(key)[["loss"]].first().assign(growth=growth).reset_index()


def _each_arm(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(arm, runs[runs["norm"] == arm]) for arm in ARMS]


def _by_init(runs: pd.DataFrame, column: str) -> dict[str, Spread]:
    return {init: spread(runs.loc[runs["init"] == init, column]) for init in INITS}


def _losses(ax: Axes, runs: pd.DataFrame) -> None:
    for value, text in ((math.log(10), "guess"), (DIVERGED, "diverged")):
        ax.axhline(value, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)), zorder=1)
        below = text == "guess"  # above the line are losses
        ax.text(3.47, value / 1.25 if below else value * 1.15, text, fontsize=7, color=figures.MUTED, ha="right",
                va="top" if below else "bottom")  # fmt: skip
    for shift, (arm, part) in figures.beside(runs, 0.17):
        for position, init in enumerate(INITS):
            figures.seeds(ax, position + shift, part.loc[part["init"] == init, "loss"], arm, spacing=0.04,
                          scale=Scale.log)  # fmt: skip
        ax.plot([], [], "o", color=figures.COLOURS[arm], ms=4, mew=0, label=figures.LABELS[arm])
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.5)
    ax.set_xticks(range(len(INITS)), [label.replace(" ", "\n") for label, _ in INITS.values()])
    ax.set_xlim(-0.5, len(INITS) - 0.5)
    ax.set_ylabel("mean cross-entropy")
    ax.grid(False, axis="x")
    ax.legend(loc="upper right")
