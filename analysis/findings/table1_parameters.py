"""Do the summands agree in sign parameter by parameter, or only on average? (Bjorck et al. 2018, appendix J)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, arms, by_arm
from bnstudy.analysis.stats import Scale

LAYERS = (18, 54, 90)  # those of Table 1
AGREE, APART = 4.0, 10.0  # a/b without BN; how many times larger it is with BN
MEDIAN = 0.5
ONE_SIGN = {
    layer: Part("median a/b of the entries without BN", below=AGREE, scale=Scale.log, at=f"layer {layer}")
    for layer in LAYERS
}
LARGER = {
    layer: Part("that with BN over that without", above=APART, scale=Scale.log, at=f"layer {layer}") for layer in LAYERS
}
SHARE = Part("share of the convolutions with it below 4 without BN and at least 10 times larger with BN", above=0.9)
QUARTILES, OUTER = (0.25, 0.75), (0.05, 0.95)

TITLE = "Do the summands of a kernel entry's gradient agree in sign, entry by entry?"
CAPTION = (
    "Of every single kernel entry: a, the sum of its absolute summands, over b, the absolute value of their sum, where "
    "Table 1 has averages over the kernel; 1 if all summands have one sign. (a) By depth: median over the layer's "
    "entries (line: geometric mean over seeds, band: 95 % interval), and its 5 and 95 % quantiles (dashed). "
    "(b) The three layers of Table 1: quartiles (thick) and 5 to 95 % (thin); dots: the median of each seed, "
    f"bar: geometric mean. (c) Share of a layer's entries with a/b below {AGREE:g}. The paper's own "
    "numbers for single parameters are not known."
)
SWEEP = "gradient_statistics"
NEEDS = {"conv_gradient_entries": "step == 0 and run_depth == 110"}
SIZE = (10.4, 3.9)
CLAIMS = (
    Claim(
        id="12-parameters",
        origin="paper",
        where="Appendix J",
        scale="init",
        says="Without BN the summands nearly share one sign also parameter by parameter.",
        criterion=Criterion(
            (*ONE_SIGN.values(), *LARGER.values()),
            partial=tuple(LARGER.values()),
            remark="Medians go with Table 1's averages, by whose values with BN the configuration was chosen.",
        ),
        published="reported for single parameters; its numbers are not known",
    ),
    Claim(
        id="12-parameters-layers",
        where="Appendix J",
        scale="init",
        says="The same holds at every depth.",
        criterion=Criterion((SHARE,), partial=(Part(SHARE.of, above=0.5),)),
        published="its numbers are not known",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    entries = frames["conv_gradient_entries"]
    left, middle, right = fig.subplots(1, 3, width_ratios=(1.5, 1, 1.5))
    for arm, part in arms(_ratios(entries)).items():
        figures.band(left, stats.over_seeds(_at(part, MEDIAN), ["depth"], "value", Scale.log), "depth", arm)
        for p in OUTER:
            outer = stats.over_seeds(_at(part, p), ["depth"], "value", Scale.log)
            left.plot(outer["depth"], outer["mean"], color=figures.COLOURS[arm], lw=0.8, ls=figures.DASHED)
    figures.plain_log(left)
    left.set_ylim(bottom=0.8)
    figures.headroom(left, 0.08)
    left.set_ylabel("a/b of single entries")
    figures.stages(left)
    outer_entry = figures.entry("5 and 95 %", ls=figures.DASHED, lw=0.8)
    left.legend(handles=[*left.get_legend_handles_labels()[0], outer_entry], loc="upper right", ncols=3)
    figures.panel(left, "a", "quantiles over entries, by depth")
    _boxes(middle, _ratios(entries))
    figures.panel(middle, "b", "layers of Table 1")
    for arm, part in arms(_below(entries)).items():
        figures.band(right, stats.over_seeds(part, ["depth"], "percent"), "depth", arm)
    right.set_ylim(0, 102)
    right.set_ylabel(f"entries with a/b below {AGREE:g} (%)")
    figures.stages(right)
    figures.panel(right, "c", "entries that agree, by depth")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    medians = _at(_ratios(frames["conv_gradient_entries"]), MEDIAN)
    here = {layer: medians[medians["depth"] == layer] for layer in LAYERS}
    alone = {
        part.key: criteria.single(here[layer][here[layer]["norm"] == "none"].set_index("seed")["value"])
        for layer, part in ONE_SIGN.items()
    }
    larger = {
        part.key: criteria.compared(here[layer], "value", Scale.log, of="batch") for layer, part in LARGER.items()
    }
    wide = medians.pivot(index=["depth", "seed"], columns="norm", values="value").reindex(columns=list(ARMS)).dropna()
    holds = (wide["none"] < AGREE) & (wide["batch"] >= APART * wide["none"])
    return {
        "12-parameters": {**alone, **larger},
        "12-parameters-layers": {SHARE.key: criteria.single(holds.groupby("seed").mean())},
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    ratios, below = _ratios(frames["conv_gradient_entries"]), _below(frames["conv_gradient_entries"])
    lines = []
    for layer in LAYERS:
        for p, name in ((OUTER[0], "5 % quantile"), (MEDIAN, "median"), (OUTER[1], "95 % quantile")):
            ours = by_arm(_at(ratios[ratios["depth"] == layer], p), "value")
            lines.append(Comparison(f"a/b of entries, {name}, layer {layer}", "", "", *(str(ours[a]) for a in ARMS)))
        ours = by_arm(below[below["depth"] == layer], "percent")
        name = f"entries with a/b below {AGREE:g} (%), layer {layer}"
        lines.append(Comparison(name, "", "", *(str(ours[a]) for a in ARMS)))
    return lines


def _ratios(entries: pd.DataFrame) -> pd.DataFrame:
    return entries[entries["quantity"] == "ratio"]


def _at(rows: pd.DataFrame, p: float) -> pd.DataFrame:
    return rows[rows["x"] == p]


def _below(entries: pd.DataFrame) -> pd.DataFrame:
    """One row per run and layer: `percent` of the entries that agree."""
    rows = entries[(entries["quantity"] == "share_below") & (entries["x"] == AGREE)]
    return rows.assign(percent=100 * rows["value"])


def _boxes(ax: Axes, ratios: pd.DataFrame) -> None:
    for position, layer in enumerate(LAYERS):
        for arm, shift in zip(ARMS, (-0.2, 0.2), strict=True):
            here = ratios[(ratios["depth"] == layer) & (ratios["norm"] == arm)]
            for (low, high), width in ((OUTER, 1.0), (QUARTILES, 5.0)):
                ends = [stats.interval(_at(here, p)["value"], Scale.log).mean for p in (low, high)]
                ax.plot([position + shift] * 2, ends, color=figures.TINTS[arm] if width > 1 else figures.COLOURS[arm],
                        lw=width, solid_capstyle="butt", zorder=1 if width > 1 else 2)  # fmt: skip
            figures.seeds(ax, position + shift, _at(here, MEDIAN)["value"], arm, spacing=0.03,
                          scale=Scale.log)  # fmt: skip
    figures.plain_log(ax)
    ax.axhline(1, color=figures.MUTED, lw=0.9, ls=figures.DASHED)
    ax.set_ylim(bottom=0.8)
    ax.set_xticks(range(len(LAYERS)), [str(layer) for layer in LAYERS])
    ax.set_xlim(-0.5, len(LAYERS) - 0.5)
    ax.set_xlabel("weight layer")
    ax.set_ylabel("a/b of single entries")
    ax.grid(False, axis="x")
    ax.legend(
        handles=[
            figures.entry("quartiles", colour=figures.FAINT, lw=5),
            figures.entry("5 to 95 %", lw=1),
            figures.entry("one sign", ls=figures.DASHED, lw=0.9),
        ],
        loc="upper right",
    )
