"""Do the summands agree in sign parameter by parameter, or only on average? (Bjorck et al. 2018, appendix J)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import effects, figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import ARMS, Spread, arms, by_arm, number, over_seeds

LAYERS = (18, 54, 90)  # those of Table 1
AGREE, APART = 4.0, 10.0  # a/b without BN; how many times larger it is with BN
MEDIAN = 0.5
QUARTILES, OUTER = (0.25, 0.75), (0.05, 0.95)

TITLE = "Do the summands of a kernel entry's gradient agree in sign, entry by entry?"
CAPTION = (
    "Of every single kernel entry: a, the sum of its absolute summands, over b, the absolute value of their sum, where "
    "Table 1 has averages over the kernel; 1 if all summands have one sign. (a) By depth: median over the layer's "
    "entries (line: median over seeds, band: their range), and its 5 and 95 % quantiles (dashed, medians over seeds). "
    "(b) The three layers of Table 1: quartiles (thick) and 5 to 95 % (thin), medians over seeds; dots: the median of "
    f"each seed. (c) Share of a layer's entries with a/b below {AGREE:g}: median and range over seeds. The paper's own "
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
        criterion=f"Median of a/b over the kernel's entries at layers 18, 54, 90, medians over seeds: below {AGREE:g} "
        f"without BN and at least {APART:g} times larger with BN at all three: reproduced. At least {APART:g} times "
        "larger at all three: partly.",
        published="reported for single parameters; its numbers are not known",
    ),
    Claim(
        id="12-parameters-layers",
        where="Appendix J",
        scale="init",
        says="The same holds at every depth.",
        criterion=f"Share of the 109 convolutions with such a median below {AGREE:g} without BN and at least "
        f"{APART:g} times larger with BN: 0.9 or more reproduces, 0.5 or more does partly.",
        published="its numbers are not known",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    entries = frames["conv_gradient_entries"]
    left, middle, right = fig.subplots(1, 3, width_ratios=(1.5, 1, 1.5))
    for arm, part in arms(_ratios(entries)).items():
        figures.band(left, over_seeds(_at(part, MEDIAN), ["depth"], "value"), "depth", arm)
        for p in OUTER:
            outer = over_seeds(_at(part, p), ["depth"], "value")
            left.plot(outer["depth"], outer["median"], color=figures.COLOURS[arm], lw=0.8, ls=figures.DASHED)
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
        figures.band(right, over_seeds(part, ["depth"], "percent"), "depth", arm)
    right.set_ylim(0, 102)
    right.set_ylabel(f"entries with a/b below {AGREE:g} (%)")
    figures.stages(right)
    figures.panel(right, "c", "entries that agree, by depth")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    medians = _at(_ratios(frames["conv_gradient_entries"]), MEDIAN)
    at = {arm: [by_arm(medians[medians["depth"] == layer], "value")[arm] for layer in LAYERS] for arm in ARMS}
    n = min(s.n for arm in ARMS for s in at[arm])
    agree = all(s.median < AGREE for s in at["none"])
    apart = all(b.median >= APART * u.median for b, u in zip(at["batch"], at["none"], strict=True))
    by_depth = medians.groupby(["norm", "depth"])["value"].median().unstack("norm")
    by_depth = by_depth.reindex(columns=list(ARMS)).dropna()
    holds = (by_depth["none"] < AGREE) & (by_depth["batch"] >= APART * by_depth["none"])
    share = float(holds.mean()) if len(holds) else float("nan")
    return {
        "12-parameters": Evidence(
            measured=f"with BN {_list(at['batch'])}; without BN {_list(at['none'])}",
            spread=f"with BN {_ranges(at['batch'])}; without BN {_ranges(at['none'])}",
            n=n,
            verdict=judge(n, whole=agree and apart, part=apart),
            arms=tuple(
                effects.arms(medians[medians["depth"] == layer], "value", f"median a/b at layer {layer}", ratio=True)
                for layer in LAYERS
            ),
        ),
        "12-parameters-layers": Evidence(
            measured=f"{100 * share:.0f} % of the convolutions",
            spread=f"medians over layers: {number(by_depth['none'].min())} to {number(by_depth['none'].max())} without "
            f"BN, {number(by_depth['batch'].min())} to {number(by_depth['batch'].max())} with BN",
            n=n,
            verdict=judge(n, whole=share >= 0.9, part=share >= 0.5),
        ),
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
    """One row a run and layer: `percent` of the entries that agree."""
    rows = entries[(entries["quantity"] == "share_below") & (entries["x"] == AGREE)]
    return rows.assign(percent=100 * rows["value"])


def _boxes(ax: Axes, ratios: pd.DataFrame) -> None:
    for position, layer in enumerate(LAYERS):
        for arm, shift in zip(ARMS, (-0.2, 0.2), strict=True):
            here = ratios[(ratios["depth"] == layer) & (ratios["norm"] == arm)]
            for (low, high), width in ((OUTER, 1.0), (QUARTILES, 5.0)):
                ends = [_at(here, p)["value"].median() for p in (low, high)]
                ax.plot([position + shift] * 2, ends, color=figures.TINTS[arm] if width > 1 else figures.COLOURS[arm],
                        lw=width, solid_capstyle="butt", zorder=1 if width > 1 else 2)  # fmt: skip
            figures.seeds(ax, position + shift, _at(here, MEDIAN)["value"], arm, spacing=0.03)
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


def _list(spreads: list[Spread]) -> str:
    return ", ".join(number(s.median) for s in spreads)


def _ranges(spreads: list[Spread]) -> str:
    return ", ".join(s.range for s in spreads)
