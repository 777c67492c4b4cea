"""Without BN the summands of a convolution's gradient agree in sign (Bjorck et al. 2018, section 3.2, Table 1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, arms, by_arm, number
from bnstudy.analysis.stats import Scale

LAYERS = (18, 54, 90)
# The paper's table as recalled, not read in a copy; a and b per summand. Ratios as printed there.
RECALLED = {
    "batch": {"sum_abs": (7.5e-5, 1.9e-5, 6.6e-6), "abs_sum": (3.0e-7, 1.7e-7, 1.6e-7), "ratio": (251.8, 112.8, 40.7)},
    "none": {"sum_abs": (6.3e-5, 2.2e-4, 2.6e-4), "abs_sum": (3.6e-5, 8.4e-5, 1.2e-4), "ratio": (1.7, 2.6, 2.1)},
}
NEAR = 1.35  # a factor
NUM_SUMMANDS = {18: 131072, 54: 32768, 90: 8192}  # images and positions of a mini-batch of 128
AS_RECALLED = {
    (arm, layer): Part(f"a/b over the published one {'with' if arm == 'batch' else 'without'} BN", above=1 / NEAR,
                       below=NEAR, scale=Scale.log, at=f"layer {layer}")
    for arm in ARMS for layer, ratio in zip(LAYERS, RECALLED[arm]["ratio"], strict=True)
}  # fmt: skip
APART = {
    layer: Part("a/b with BN over that without", above=10, scale=Scale.log, at=f"layer {layer}") for layer in LAYERS
}
RANDOM = {
    layer: Part("a/b over the root of the number of summands with BN", above=0.5, scale=Scale.log, at=f"layer {layer}")
    for layer in LAYERS
}
AGREE = {
    layer: Part("a/b over the root of the number of summands without BN", below=0.1, scale=Scale.log,
                at=f"layer {layer}")
    for layer in LAYERS
}  # fmt: skip
FACTOR = 4
SHARE = Part(
    f"share of the convolutions with a/b below {FACTOR} without BN and at least 10 times larger with BN", above=0.9
)

TITLE = "Do the summands of a kernel's gradient agree in sign?"
CAPTION = (
    "A kernel entry's gradient is a sum over images and positions. a: mean over kernel entries of the sum of "
    "absolute summands; b: of the absolute value of the sum; both divided by the number N of summands, |B|·H·W. (b) If "
    "all summands had one sign, a/b would be 1. (c) If their signs were independent, a/b would be about the root of N, "
    "which falls from stage to stage (131,072, 32,768, 8,192): divided by it, the layer's size drops out. Geometric "
    "mean (line) over seeds and 95 % interval (band), every convolution. Hollow diamonds: the paper's Table 1 as "
    "recalled."
)
SWEEP = "init"
NEEDS = {"conv_gradient_sums": "step == 0 and run_depth == 110"}
SIZE = (12.2, 4.2)
CALIBRATED = "Table 1: the configuration was chosen by its values with BN"
CLAIMS = (
    Claim(
        id="12",
        origin="paper",
        calibrated=CALIBRATED,
        where="Section 3.2, Table 1",
        scale="init",
        says="Without BN the summands of a convolution's gradient nearly share one sign; with BN they cancel.",
        criterion=Criterion(
            tuple(AS_RECALLED.values()),
            partial=tuple(APART.values()),
            remark="A factor of 1.35 either way, as before; in both arms.",
        ),
        published="with BN 252, 113, 41; without BN 1.7, 2.6, 2.1 (recalled)",
    ),
    Claim(
        id="12-root",
        calibrated=CALIBRATED,
        where="Section 3.2, Table 1",
        scale="init",
        says="With BN the signs are as good as independent, without BN far from it, whatever the layer's size.",
        criterion=Criterion(
            (*RANDOM.values(), *AGREE.values()),
            partial=tuple(AGREE.values()),
            remark="Laid down when the ratios of five seeds were known.",
        ),
        published="0.70, 0.62, 0.45 with BN; 0.005, 0.014, 0.023 without (recalled, divided by the root)",
    ),
    Claim(
        id="12-layers",
        where="Section 3.2, Table 1",
        scale="init",
        says="This holds at every depth: without BN, a is within a factor of 4 of b.",
        criterion=Criterion((SHARE,), partial=(Part(SHARE.of, above=0.5),)),
        published="three layers are shown",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    sums = frames["conv_gradient_sums"]
    left, right, third = fig.subplots(1, 3)
    for arm, part in arms(sums).items():
        for quantity, dashes in (("sum_abs", "-"), ("abs_sum", (0, (4, 1.6)))):
            rows = stats.over_seeds(part, ["depth"], quantity, Scale.log)
            figures.band(left, rows, "depth", arm, ls=dashes)
            figures.diamonds(left, LAYERS, RECALLED[arm][quantity], arm)
        figures.band(right, stats.over_seeds(part, ["depth"], "ratio", Scale.log), "depth", arm)
        figures.diamonds(right, LAYERS, RECALLED[arm]["ratio"], arm)
        figures.band(third, stats.over_seeds(_by_root(part), ["depth"], "root", Scale.log), "depth", arm)
        paper = [r / NUM_SUMMANDS[layer] ** 0.5 for r, layer in zip(RECALLED[arm]["ratio"], LAYERS, strict=True)]
        figures.diamonds(third, LAYERS, paper, arm)
    right.axhline(1, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)))
    right.axhline(FACTOR, color=figures.COLOURS["none"], lw=0.9, ls=(0, (3, 2)))
    share = stats.interval(_share(sums), Scale.plain).mean
    text = f"12-layers: below without BN, ten times that with BN: {100 * share:.3g} %"
    right.text(2, 1.03 * FACTOR, text, fontsize=7, color=figures.COLOURS["none"], va="bottom")
    right.text(2, 1.03, "all summands of one sign", fontsize=7, color=figures.MUTED, va="bottom")
    for ax, letter, title, label in (
        (left, "a", "sums per summand", "a and b: mean over kernel entries"),
        (right, "b", "cancellation a/b", "a/b"),
        (third, "c", "beside independent signs", "(a/b) / √N"),
    ):
        ax.set_ylabel(label)
        figures.panel(ax, letter, title)
        figures.stages(ax)
    left.set_yscale("log")
    figures.plain_log(right)
    figures.plain_log(third)
    third.axhline(1, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)))
    third.text(109, 0.93, "independent signs", fontsize=7, color=figures.MUTED, ha="right", va="top")
    right.set_ylim(bottom=0.8)
    kinds = [figures.entry("sum of |summands| (a)", lw=1.6), figures.entry("|sum| (a)", ls=(0, (4, 1.6)), lw=1.6)]
    recalled = figures.entry("Table 1, as recalled", "D", filled=False, ms=4.6)
    handles = [*figures.arm_entries(arms(sums), lw=1.6), *kinds, recalled]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    sums = frames["conv_gradient_sums"]
    at = {
        (arm, layer): sums[(sums["norm"] == arm) & (sums["depth"] == layer)].set_index("seed")["ratio"]
        for arm in ARMS for layer in LAYERS
    }  # fmt: skip
    recalled = {(arm, layer): r for arm in ARMS for layer, r in zip(LAYERS, RECALLED[arm]["ratio"], strict=True)}
    near = {part.key: criteria.single(at[place] / recalled[place]) for place, part in AS_RECALLED.items()}
    apart = {
        part.key: criteria.compared(sums[sums["depth"] == layer], "ratio", Scale.log, of="batch")
        for layer, part in APART.items()
    }
    root = {
        part.key: criteria.single(at[arm, layer] / NUM_SUMMANDS[layer] ** 0.5)
        for arm, parts in (("batch", RANDOM), ("none", AGREE)) for layer, part in parts.items()
    }  # fmt: skip
    return {
        "12": {**near, **apart},
        "12-root": root,
        "12-layers": {SHARE.key: criteria.single(_share(sums))},
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    sums = frames["conv_gradient_sums"]
    rows = []
    for quantity, label in (("sum_abs", "a"), ("abs_sum", "b"), ("ratio", "a/b")):
        for position, layer in enumerate(LAYERS):
            ours = by_arm(sums[sums["depth"] == layer], quantity)
            paper = [number(RECALLED[arm][quantity][position]) for arm in ARMS]
            name = f"{label}, layer {layer}"
            rows.append(Comparison(name, paper[0], paper[1], str(ours["batch"]), str(ours["none"])))
    for layer in LAYERS:
        ours = by_arm(_by_root(sums[sums["depth"] == layer]), "root")
        position = LAYERS.index(layer)
        paper = [number(RECALLED[arm]["ratio"][position] / NUM_SUMMANDS[layer] ** 0.5) for arm in ARMS]
        name = f"a/b over the root of {NUM_SUMMANDS[layer]:,}, layer {layer}"
        rows.append(Comparison(name, paper[0], paper[1], str(ours["batch"]), str(ours["none"])))
    return rows


def _share(sums: pd.DataFrame) -> pd.Series:
    """By seed, the share of the convolutions where the claim holds."""
    wide = sums.pivot(index=["depth", "seed"], columns="norm", values="ratio").reindex(columns=list(ARMS)).dropna()
    holds = (wide["none"] < FACTOR) & (wide["batch"] >= 10 * wide["none"])
    return holds.groupby("seed").mean()


def _by_root(sums: pd.DataFrame) -> pd.DataFrame:
    """With `root`: a/b over the root of the number of summands."""
    return sums.assign(root=sums["ratio"] / sums["num_summands"] ** 0.5)
