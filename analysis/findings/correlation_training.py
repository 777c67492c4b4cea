"""Do gradients of different mini-batches, and of different examples, agree during training as at initialisation?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, arms, by_arm, number
from bnstudy.analysis.stats import Scale

MATCHED = 0.01
OWN = {"batch": 0.1, "none": 0.01}  # learning rates
LAST = 80  # updates
LARGEST = 128  # the paper's mini-batch
STYLES = {0.01: (0, (4, 1.6)), 0.1: "-"}  # of the lines, by learning rate
WHAT = "Mean cosine between mini-batches of 128, median over layers"
MORE = Part("mean cosine without BN less with BN", above=0.1)
FALLS = {
    arm: Part(f"change of the cosine in 80 updates {'with' if arm == 'batch' else 'without'} BN", below=0)
    for arm in ARMS
}
EXAMPLES = Part("mean cosine between single examples without BN after 80 updates", above=0.2)

TITLE = "Agreement of gradients along training (ResNet-20, 2,560 images)"
CAPTION = (
    "Mean cosine between the gradients of a layer on disjoint sets of training images, at the same weights, over the "
    "pairs in which neither gradient is zero; median over the layers. (a, b) Between mini-batches of 128, against the "
    "number of updates. (c) Between single examples without BN; with BN an example has no gradient of its own. (d) "
    "Against the size of the sets, each arm at its own rate: before training (hollow) and after 80 updates (filled). "
    "(e) The same two moments layer by layer, mini-batches of 128, means alone. (f) The difference of the arms, mean "
    "of the looks after 5, 20 and 80 updates, one dot a seed; dashed: the bound of the claims. Line: mean over seeds, "
    "bar: 95 % interval. A network of reduced depth on few images: it says nothing about ResNet-110 trained as in the "
    "paper."
)
SWEEP = "correlation_training"
NEEDS = {"gradient_correlation": "defined"}
SIZE = (11.4, 6.6)
CLAIMS = (
    Claim(
        id="gradient-correlation-matched",
        where="Section 3.1, beside Figure 6",
        scale="reduced",
        says="At one learning rate the gradients of different mini-batches agree more without BN along training, too.",
        criterion=Criterion(
            (MORE,),
            partial=(Part(MORE.of, above=0),),
            remark=f"{WHAT}, at learning rate {MATCHED}, mean over the looks after 5, 20 and 80 updates, paired by "
            "seed.",
        ),
        published="no number; the text is about initialisation",
    ),
    Claim(
        id="gradient-correlation-own",
        where="Section 3.1, beside Figure 6",
        scale="reduced",
        says="The same holds with each arm at its own learning rate.",
        criterion=Criterion(
            (MORE,), partial=(Part(MORE.of, above=0),), remark="The same, with BN at 0.1 and without at 0.01."
        ),
        published="no number; the text is about initialisation",
    ),
    Claim(
        id="gradient-correlation-falls",
        where="Section 3.1, beside Figure 6",
        scale="reduced",
        says="Training takes the agreement away.",
        criterion=Criterion(tuple(FALLS.values()), partial=1, remark=f"{WHAT}, each arm at its own rate."),
        published="no number",
    ),
    Claim(
        id="gradient-correlation-examples",
        where="Section 3.1, beside Figure 6",
        scale="reduced",
        says="Without BN single examples' gradients still agree after some training.",
        criterion=Criterion(
            (EXAMPLES,), partial=(Part(EXAMPLES.of, above=0.1),), remark="Median over layers, at 0.01."
        ),
        published="no number",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = frames["gradient_correlation"]
    medians = _over_layers(rows)
    panels = fig.subplot_mosaic([list("abc"), list("def")])
    first, second, single, third, fourth, fifth = (panels[letter] for letter in "abcdef")
    large = medians[medians["batch_size"] == LARGEST]
    for ax, arm, letter in ((first, "batch", "a"), (second, "none", "b")):
        _along(ax, large[large["norm"] == arm])
        figures.panel(ax, letter, f"mini-batches of {LARGEST}, {figures.LABELS[arm]}")
    _along(single, medians[(medians["batch_size"] == 1) & (medians["norm"] == "none")])
    figures.panel(single, "c", "single examples, without BN")
    ends = rows[rows["step"].isin([0, LAST])]
    own = ends[ends["lr"] == ends["norm"].map(OWN)]
    for side, (arm, part) in figures.beside(own, 0.06):
        for step, fill in ((0, "white"), (LAST, figures.COLOURS[arm])):
            here = part[part["step"] == step]
            style: dict[str, Any] = {"marker": "o", "ms": 4.2, "mfc": fill, "mew": 1.0, "lw": 1.2 if step else 0.7}
            by_size = stats.over_seeds(_over_layers(here), ["batch_size"], "cosine")
            factor = 1 + side + (0.06 if step else -0.06)
            figures.whiskers(third, by_size, "batch_size", arm, label="", factor=factor, **style)
            depths = stats.over_seeds(here[here["batch_size"] == LARGEST], ["depth"], "cosine_mean")
            fourth.plot(depths["depth"], depths["mean"], color=figures.COLOURS[arm], **style)
    third.set_xscale("log", base=2)
    sizes = sorted(rows["batch_size"].unique())
    third.set_xticks(sizes, [str(size) for size in sizes])
    third.minorticks_off()
    third.set_xlabel("images a gradient is taken over")
    figures.panel(third, "d", "by mini-batch size")
    fourth.xaxis.set_major_locator(MaxNLocator(integer=True))
    fourth.set_xlabel("weight layer")
    figures.panel(fourth, "e", f"by depth, mini-batches of {LARGEST}")
    _compared(fifth, large)
    figures.panel(fifth, "f", "without BN less with BN, updates 5 to 80")
    moments = [
        figures.entry("before training (d, e)", "o", filled=False, ls="-", lw=0.7),
        figures.entry(f"after {LAST} updates (d, e)", "o", ls="-", lw=1.2),
    ]
    rates = [figures.entry(f"rate {rate:g} (a, b, c)", ls=dashes) for rate, dashes in STYLES.items()]
    handles = [*figures.arm_entries(arms(rows), lw=1.6), *rates, *moments]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    for ax in (first, second, single, third, fourth):
        ax.axhline(0, color=figures.MUTED, lw=0.7, zorder=1)
        ax.set_ylim(-0.2, 1.02)
        ax.set_ylabel("mean cosine")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    medians = _over_layers(frames["gradient_correlation"])
    large = medians[medians["batch_size"] == LARGEST]
    own = large[large["lr"] == large["norm"].map(OWN)]
    changes = _change(own)
    falls = {
        part.key: criteria.single(changes[changes["norm"] == arm].set_index("seed")["change"])
        for arm, part in FALLS.items()
    }
    single = medians[(medians["batch_size"] == 1) & (medians["lr"] == MATCHED) & (medians["norm"] == "none")]
    after = single[single["step"] == LAST].set_index("seed")["cosine"]
    return {
        "gradient-correlation-matched": {MORE.key: _higher(large[large["lr"] == MATCHED])},
        "gradient-correlation-own": {MORE.key: _higher(own)},
        "gradient-correlation-falls": falls,
        "gradient-correlation-examples": {EXAMPLES.key: criteria.single(after)},
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    medians = _over_layers(frames["gradient_correlation"])
    lines = []
    for size in sorted(medians["batch_size"].unique()):
        for step in sorted(medians["step"].unique()):
            for rate in sorted(medians["lr"].unique()):
                rows = medians[(medians["batch_size"] == size) & (medians["step"] == step) & (medians["lr"] == rate)]
                ours = by_arm(rows, "cosine")
                what = "single examples" if size == 1 else f"mini-batches of {size}"
                name = f"cosine, {what}, {step} updates at {number(rate)}"
                lines.append(Comparison(name, "", "", *(str(ours[arm]) if ours[arm].n else DASH for arm in ARMS)))
    return lines


def _over_layers(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run, look and size: `cosine`, the median over layers of the mean cosine."""
    grouped = rows.groupby(["norm", "seed", "lr", "step", "batch_size"])["cosine_mean"].median()
    return grouped.rename("cosine").reset_index()


def _change(medians: pd.DataFrame) -> pd.DataFrame:
    """One row per run that has both ends: `change`, the cosine after the last update less that before the first."""
    wide = medians.pivot(index=["norm", "seed"], columns="step", values="cosine").reindex(columns=[0, LAST])
    return (wide[LAST] - wide[0]).rename("change").dropna().reset_index()


def _higher(medians: pd.DataFrame) -> Sample:
    """The cosine averaged over the looks after the first updates, without BN against with BN."""
    every = medians[(medians["step"] > 0) & (medians["step"] <= LAST)]
    looks = every.groupby(["norm", "seed"])["cosine"].agg(["mean", "size"]).reset_index()
    whole = looks[looks["size"] == looks["size"].max()]  # a run that diverged between two looks has fewer
    return criteria.compared(whole, "mean")


def _compared(ax: Axes, large: pd.DataFrame) -> None:
    """What the first two claims are judged by: one dot per seed, bar: mean with 95 % interval."""
    each = {f"both at {MATCHED:g}": large[large["lr"] == MATCHED]}
    each[f"{OWN['batch']:g} with BN,\n{OWN['none']:g} without"] = large[large["lr"] == large["norm"].map(OWN)]
    for place, rows in enumerate(each.values()):
        figures.seeds(ax, place, _higher(rows).values, "batch", scale=Scale.plain, spacing=0.06, colour=figures.INK)
    ax.axhline(0, color=figures.MUTED, lw=0.7, zorder=1)
    ax.axhline(MORE.above or 0, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    ax.set_xticks(range(len(each)), list(each))
    ax.set_xlim(-0.6, len(each) - 0.4)
    ax.set_ylabel("difference of mean cosines")
    ax.grid(False, axis="x")


def _along(ax: Axes, medians: pd.DataFrame) -> None:
    """Against the number of updates, one line per arm and rate."""
    steps = sorted(medians["step"].unique())
    for place, ((arm, rate), part) in enumerate(medians.groupby(["norm", "lr"])):
        lines = stats.over_seeds(part.assign(look=part["step"].map(steps.index)), ["look"], "cosine")
        shift = 0.07 * (place - 0.5)
        figures.whiskers(ax, lines, "look", str(arm), label="", shift=shift, ls=STYLES[float(str(rate))])
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
    ax.set_xlabel("updates")
