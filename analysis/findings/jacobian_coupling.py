"""What does holding batch statistics constant leave out of the Jacobians? (Bjorck et al. 2018, section 4)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, spread
from bnstudy.analysis.stats import Scale

SIZE_MEANT = 128  # the mini-batch whose statistics the other Jacobians hold constant
NEAR = Part("relative difference of the coupled Jacobian from the frozen one", below=10, unit="%")
WITHIN = Part("condition number of the coupled over that of the frozen one", above=0.8, below=1.25, scale=Scale.log)

TITLE = "Jacobians with batch statistics held constant, and with their derivatives"
CAPTION = (
    "The untrained network with BN; derivatives of the 64 values that the classifier is given, in float64. Frozen: of "
    "one image's values in that image, the mini-batch's statistics held constant. Coupled: in all images of the "
    "mini-batch, which move one another's values through the statistics. (a) Norm of the difference over that of the "
    "frozen Jacobian, one image's values; dashed: the bound that it is judged by. (b) Largest over smallest singular "
    "value, one image's values. (c) Singular values of the values of all images of a mini-batch of eight. Line: mean "
    "over seeds (b, c: geometric), bar or band: 95 % interval; one dot a seed."
)
SWEEP = "jacobian_coupling"
NEEDS = {"jacobian_coupling": "step == 0"}
SIZE = (10.4, 3.8)
KINDS = {"frozen": (0, (4, 1.6)), "coupled": "-"}
CLAIMS = (
    Claim(
        id="jacobians-4",
        where="Section 4, beside Theorem 1",
        scale="init",
        says="Holding batch statistics constant hardly changes a Jacobian's conditioning.",
        criterion=Criterion(
            (NEAR, WITHIN), partial=1, remark=f"One image's values, mini-batch of {SIZE_MEANT}, Frobenius norm."
        ),
        published="a choice of ours: the paper has no norm in its products of matrices",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    axes = fig.subplots(1, 3)
    table = frames["jacobian_coupling"]
    ends = _ends(table)
    one, whole = ends[ends["num_examples"] == 1], table[table["num_examples"] > 1]
    _by_size(axes[0], one.assign(value=100 * one["difference"]), "coupled", Scale.plain, apart=1)
    axes[0].axhline(NEAR.below or 0, color=figures.MUTED, lw=0.9, ls=figures.DASHED, label="hardly: less than this")
    axes[0].legend()
    for kind, dashes in KINDS.items():
        _by_size(axes[1], one.assign(value=one[kind]), kind, Scale.log)
        rows = stats.over_seeds(whole.assign(place=whole["index"] + 1), ["place"], kind, Scale.log)
        figures.band(axes[2], rows, "place", "batch", label=kind, ls=dashes)
    for ax, letter, title, label in (
        (axes[0], "a", "difference", "relative difference (%)"),
        (axes[1], "b", "conditioning", "largest / smallest singular value"),
    ):
        ax.set_ylim(bottom=0)
        ax.set_xlabel("mini-batch size")
        ax.set_ylabel(label)
        figures.panel(ax, letter, title)
    axes[2].set_yscale("log")
    axes[2].set_xlabel("singular value, by size")
    axes[2].set_ylabel("singular value")
    figures.panel(axes[2], "c", "a whole mini-batch of eight")
    for ax in axes[1:]:
        ax.legend()


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    ends = _ends(frames["jacobian_coupling"])
    meant = ends[(ends["num_examples"] == 1) & (ends["size"] == SIZE_MEANT)].set_index("seed")
    return {
        "jacobians-4": {
            NEAR.key: criteria.single(100 * meant["difference"]),
            WITHIN.key: criteria.single(meant["coupled"] / meant["frozen"]),
        }
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    ends = _ends(frames["jacobian_coupling"])
    lines = []
    for (num_examples, size), rows in ends.groupby(["num_examples", "size"]):
        of = f"{'one image' if num_examples == 1 else 'all images'} of {size}"
        lines.append(Comparison(f"relative difference, {of}", DASH, DASH, str(spread(rows["difference"])), DASH))
        for kind in KINDS:
            lines.append(Comparison(f"condition number, {kind}, {of}", DASH, DASH, str(spread(rows[kind])), DASH))
    return lines


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    """One row per run, size and number of examples: `frozen` and `coupled` are condition numbers."""
    of = table.groupby(["run_id", "seed", "num_examples", "size"])
    conditions = {kind: of[kind].max() / of[kind].min() for kind in KINDS}
    return pd.DataFrame({"difference": of["difference"].first(), **conditions}).reset_index()


def _by_size(ax: Axes, rows: pd.DataFrame, kind: str, scale: Scale, apart: float = 1.07) -> None:
    colour, side = figures.COLOURS["batch"], apart if kind == "coupled" else 1 / apart
    frozen = kind == "frozen"
    means = stats.over_seeds(rows, ["size"], "value", scale)
    figures.whiskers(ax, means, "size", "batch", label="", factor=side, ls=KINDS[kind], marker="", lw=1.5)
    ax.plot(rows["size"] * side, rows["value"], "o", color=colour, mfc="white" if frozen else colour, ms=4, mew=1)
    ax.plot([], [], "o", color=colour, mfc="white" if frozen else colour, ms=4, mew=1, ls=KINDS[kind], label=kind)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(rows["size"].unique()), [str(size) for size in sorted(rows["size"].unique())])
    ax.minorticks_off()
