"""Loss and activations of the untrained network under four initialisers (Bjorck et al. 2018, section 4, appendix F)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import effects, figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import ARMS, Spread, arms, number, over_seeds, spread

INITS = {
    "kaiming_normal": ("Kaiming normal", "-"),
    "xavier_uniform": ("Xavier uniform", (0, (5, 1.6))),
    "xavier_normal": ("Xavier normal", (0, (1.2, 1.2))),
    "torch_default": ("torch's default", (0, (6, 1.6, 1.2, 1.6))),
}
XAVIER = ("xavier_uniform", "xavier_normal")
FIRST, LAST = 2, 108  # the first convolutions of the first and the last block
DIVERGED = 1000  # the mini-batch loss at which the paper calls a run diverged

TITLE = "The untrained ResNet-110 under four initialisers"
CAPTION = (
    "On one mini-batch of 128 images. (a) Loss; one dot a seed, bar: median; grey: the loss of a guess among ten "
    "classes, and the loss at which a run counts as diverged. (b, c) Standard deviation of what the first convolution "
    "of each block puts out, before any BN, over mini-batch and space, in the channel where it is largest. Median "
    "(line) and range over seeds (band). Variances of the weights: Xavier 2/(fan-in + fan-out), Kaiming 2/fan-in, "
    "torch's default 1/(3 fan-in); the classifier's are torch's default in all."
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
        criterion="Without BN, initial losses, medians over seeds: with Kaiming normal at least 1000 times that with "
        "either Xavier reproduces, at least 10 times does partly.",
        published="values not known",
    ),
    Claim(
        id="16-depth",
        origin="paper",
        where=WHERE,
        scale="init",
        says="Keeping the variance from layer to layer is too weak a condition: over many layers it is not kept.",
        criterion=f"Without BN, ln of the standard deviation at layer {LAST} over that at layer {FIRST}, with Kaiming "
        "normal, made to keep it: at least ln 1000, median over seeds; and larger with Kaiming normal than with either "
        "Xavier, and with these than with torch's default, in every seed. Both: reproduced, one: partly.",
        published="values not known",
    ),
    Claim(
        id="16-bn",
        where=WHERE,
        scale="init",
        says="With BN the initialiser hardly matters to the untrained network's loss.",
        criterion="With BN, initial losses, medians over seeds: largest over smallest of the four initialisers at most "
        "2 reproduces, at most 10 does partly.",
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
                figures.band(ax, over_seeds(part, ["depth"], "std"), "depth", arm, label=label, ls=dashes)
        if arm == "batch":
            figures.plain_log(ax)
        else:
            ax.set_yscale("log")
        figures.stages(ax)
        ax.set_ylabel("standard deviation, largest of the channels")
        figures.panel(ax, letter, f"by depth, {figures.LABELS[arm]}")
    handles = [figures.entry(label, ls=dashes) for label, dashes in INITS.values()]
    fig.legend(handles=handles, title="initialiser (b, c)", loc="outside lower right", ncols=4, handlelength=2.6)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = _runs(_rows(frames))
    loss = {arm: _by_init(part, "loss") for arm, part in _each_arm(runs)}
    growth = _by_init(runs[runs["norm"] == "none"], "growth")
    kaiming = loss["none"]["kaiming_normal"].median
    ratio = kaiming / max(loss["none"][init].median for init in XAVIER)
    wide = runs[runs["norm"] == "none"].pivot(index="seed", columns="init", values="growth")
    wide = wide.reindex(columns=list(INITS)).dropna()
    xavier = wide[list(XAVIER)]
    ordered = (wide["kaiming_normal"] > xavier.max(axis=1)) & (xavier.min(axis=1) > wide["torch_default"])
    explodes = growth["kaiming_normal"].median >= math.log(1000)
    with_bn = [each.median for each in loss["batch"].values()]
    apart = max(with_bn) / min(with_bn)
    n = {arm: min(each.n for each in loss[arm].values()) for arm in ARMS}
    by_seed = runs.groupby(["norm", "seed"])["loss"].agg(["min", "max"]).reset_index()
    by_seed["apart"] = by_seed["max"] / by_seed["min"]
    return {
        "16-loss": Evidence(
            measured=f"{number(ratio)} times: {_list(loss['none'])}",
            spread=_ranges(loss["none"]),
            n=n["none"],
            verdict=judge(n["none"], whole=ratio >= 1000, part=ratio >= 10),
        ),
        "16-depth": Evidence(
            measured=f"ln of the growth: {_list(growth)}; in this order in {int(ordered.sum())} of {len(wide)} seeds",
            spread=_ranges(growth),
            n=len(wide),
            verdict=judge(
                len(wide), whole=explodes and bool(ordered.all()), part=explodes or bool(ordered.all() and len(wide))
            ),
        ),
        "16-bn": Evidence(
            measured=f"largest over smallest {number(apart)}: {_list(loss['batch'])}",
            spread=_ranges(loss["batch"]),
            n=n["batch"],
            verdict=judge(n["batch"], whole=apart <= 2, part=apart <= 10),
            arms=effects.arms(by_seed, "apart", "largest over smallest loss of a seed", ratio=True),
        ),
    }


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
    """One row a run and layer, with the standard deviation of its most variable channel."""
    rows = frames["moments_along_step"]
    return rows.assign(std=np.sqrt(rows["variance"]))


def _runs(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a run: loss, and growth, the ln of the last block's standard deviation over the first's."""
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
        ax.text(3.47, value * 1.15, text, fontsize=7, color=figures.MUTED, ha="right", va="bottom")
    for arm, part in arms(runs).items():
        for position, init in enumerate(INITS):
            shift = -0.17 if arm == "batch" else 0.17
            figures.seeds(ax, position + shift, part.loc[part["init"] == init, "loss"], arm, spacing=0.04)
        ax.plot([], [], "o", color=figures.COLOURS[arm], ms=4, mew=0, label=figures.LABELS[arm])
    ax.set_yscale("log")
    ax.set_xticks(range(len(INITS)), [label.replace(" ", "\n") for label, _ in INITS.values()])
    ax.set_xlim(-0.5, len(INITS) - 0.5)
    ax.set_ylabel("mean cross-entropy")
    ax.grid(False, axis="x")
    ax.legend(loc="upper right")


def _list(of: Mapping[str, Spread]) -> str:
    return ", ".join(f"{number(each.median)} with {INITS[init][0]}" for init, each in of.items())


def _ranges(of: Mapping[str, Spread]) -> str:
    return "; ".join(each.range for each in of.values())
