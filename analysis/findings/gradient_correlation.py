"""Do gradients point the same way whatever the input? Between mini-batches, and between examples, at initialisation."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import arms, by_arm
from bnstudy.analysis.stats import Scale

BATCHES = Part("mean cosine between the largest mini-batches, median over layers, without BN less with BN", above=0.2)
LOGITS = {
    "none": Part("mean pairwise cosine of the examples' logit gradients without BN", above=0.3),
    "batch": Part("mean pairwise cosine of the examples' logit gradients with BN", below=0.15),
}
LOGITS_MORE = Part("without BN less with BN", above=0)
SINGLE = Part("mean cosine between single examples without BN, median over layers", above=0.2)
POSITIVE = Part("share of the layers at which it is positive", above=0.95)

TITLE = "Agreement of gradients between mini-batches and between examples at initialisation"
CAPTION = (
    "Mean cosine between the gradients of a layer on disjoint sets of images, at the same weights, over the pairs in "
    "which neither gradient is zero. (a) Between the largest mini-batches, by depth. (b) Median over all layers "
    "against the size of the sets; size 1 compares single examples, which under BN have no gradient of their own. (c) "
    "Between examples at the classifier's outputs, where both arms are defined: whole gradient, and with the terms of "
    "the examples' own labels removed. Mean over seeds (line, bar) and 95 % interval (band), one dot a seed."
)
SWEEP = "init"
NEEDS = {
    "gradient_correlation": "step == 0 and defined and run_depth == 110",
    "logit_gradient": "step == 0 and depth == 110 and quantity in ('cosine', 'cosine_without_label')",
}
SIZE = (10.4, 4.0)
CLAIMS = (
    Claim(
        id="gradient-correlation-1",
        origin="paper",
        where="Section 3.1, beside Figure 6",
        scale="init",
        says="Without BN the gradient hardly depends on the input: those of different mini-batches point the same way.",
        criterion=Criterion((BATCHES,), partial=(Part(BATCHES.of, above=0),), remark="Paired by seed."),
        published="no number; the text calls unnormalised gradients larger and input-independent",
    ),
    Claim(
        id="gradient-correlation-2",
        where="Section 3.1, beside Figure 6",
        scale="init",
        says="Without BN the examples' gradients at the classifier's outputs agree, with BN hardly.",
        criterion=Criterion((*LOGITS.values(), LOGITS_MORE), partial=(LOGITS_MORE,), remark="Paired by seed."),
        published="no number",
    ),
    Claim(
        id="gradient-correlation-3",
        where="Section 3.1, beside Figure 6",
        scale="init",
        says="Without BN even the weight gradients of single examples agree, at every depth.",
        criterion=Criterion(
            (SINGLE, POSITIVE),
            partial=(Part(SINGLE.of, above=0.1),),
            remark="Over the pairs of which neither gradient is zero, as it is where the softmax is certain of the "
            "right class.",
        ),
        published="no number; with BN a single example has no gradient of its own",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    correlation, logits = frames["gradient_correlation"], frames["logit_gradient"]
    left, middle, right = fig.subplots(1, 3, width_ratios=(1.45, 1, 1))
    size = _largest(correlation)
    for arm, part in arms(correlation).items():
        at = part[part["batch_size"] == size]
        figures.band(left, stats.over_seeds(at, ["depth"], "cosine_mean"), "depth", arm)
        rows = stats.over_seeds(_over_layers(part), ["batch_size"], "cosine")
        figures.band(middle, rows, "batch_size", arm, marker="o", ms=3.5)
    left.set_ylabel("mean cosine")
    figures.stages(left)
    left.legend(loc="best")
    figures.panel(left, "a", f"between mini-batches of {size}")
    middle.set_xscale("log", base=2)
    sizes = sorted(correlation["batch_size"].unique())
    middle.set_xticks(sizes, [str(s) for s in sizes])
    middle.minorticks_off()
    middle.set_xlabel("images a gradient is taken over")
    middle.set_ylabel("mean cosine, median over layers")
    figures.panel(middle, "b", "by mini-batch size")
    if sizes[0] == 1 and not (correlation.query("norm == 'batch'")["batch_size"] == 1).any():
        middle.text(1.1, 0.04, "with BN:\nnot defined", transform=middle.get_xaxis_transform(), fontsize=7,
                    color=figures.COLOURS["batch"], ha="left", va="bottom")  # fmt: skip
    for position, quantity in enumerate(("cosine", "cosine_without_label")):
        part = logits[logits["quantity"] == quantity]
        for shift, (arm, of) in figures.beside(part, 0.18):
            figures.seeds(right, position + shift, of["value"], arm, spacing=0.045, scale=Scale.plain)
    right.set_xticks([0, 1], ["whole gradient", "labels' own\nterms removed"])
    right.set_xlim(-0.5, 1.5)
    right.set_ylabel("mean pairwise cosine")
    right.grid(False, axis="x")
    right.legend(handles=figures.arm_entries(arms(logits), "o", ms=4, mew=1), loc="upper left")
    figures.panel(right, "c", "between examples, at the logits")
    for ax in (left, middle, right):
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, -0.02), max(high, 0.1) * 1.04)
        ax.axhline(0, color="#8A929C", lw=0.7, zorder=1)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    correlation, logits = frames["gradient_correlation"], frames["logit_gradient"]
    medians = _over_layers(correlation)
    largest = medians[medians["batch_size"] == _largest(correlation)]
    examples = logits[logits["quantity"] == "cosine"]
    at_logits = {
        part.key: criteria.single(examples[examples["norm"] == arm].set_index("seed")["value"])
        for arm, part in LOGITS.items()
    }
    alone = medians[(medians["batch_size"] == 1) & (medians["norm"] == "none")].set_index("seed")["cosine"]
    single = correlation[(correlation["batch_size"] == 1) & (correlation["norm"] == "none")]
    positive = (single["cosine_mean"] > 0).groupby(single["seed"]).mean()
    return {
        "gradient-correlation-1": {BATCHES.key: criteria.compared(largest, "cosine")},
        "gradient-correlation-2": {**at_logits, LOGITS_MORE.key: criteria.compared(examples, "value")},
        "gradient-correlation-3": {SINGLE.key: criteria.single(alone), POSITIVE.key: criteria.single(positive)},
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    correlation, logits = frames["gradient_correlation"], frames["logit_gradient"]
    medians = _over_layers(correlation)
    rows = []
    for size in sorted(medians["batch_size"].unique()):
        ours = by_arm(medians[medians["batch_size"] == size], "cosine")
        label = "single examples" if size == 1 else f"mini-batches of {size}"
        with_bn = str(ours["batch"]) if ours["batch"].n else "not defined"
        rows.append(Comparison(f"cosine, {label} (median over layers)", "", "", with_bn, str(ours["none"])))
    for quantity, label in (
        ("cosine", "logit gradients, whole"),
        ("cosine_without_label", "logit gradients, own label removed"),
    ):
        ours = by_arm(logits[logits["quantity"] == quantity], "value")
        rows.append(Comparison(f"cosine between examples, {label}", "", "", str(ours["batch"]), str(ours["none"])))
    return rows


def _largest(correlation: pd.DataFrame) -> int:
    """The largest mini-batch size that every arm has."""
    common = set.intersection(*(set(part["batch_size"]) for part in arms(correlation).values()))
    return int(max(common))


def _over_layers(correlation: pd.DataFrame) -> pd.DataFrame:
    """One row per run and size: the median over layers of the mean cosine."""
    grouped = correlation.groupby(["run_id", "norm", "seed", "batch_size"])["cosine_mean"].median()
    return grouped.rename("cosine").reset_index()
