"""Are the heavy tails of the gradients without BN a power law? (Bjorck et al. 2018, Figure 2, looked at closely.)"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, MINUS, arms, by_arm
from bnstudy.analysis.stats import Scale

LAYER = 55  # the paper's, counted from the stem
STABLE_LAYERS = (18, 55, 90)
HILL_SHARE = 0.05
QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.95]
CLEAR = 2.0  # standard deviations of a log-likelihood ratio
BEYOND = f"{CLEAR:g} std: clear"
NEAR = 0.3  # between a stable law's index and Hill's
PARTLY = 0.5
HELD = Part("share of the seeds in which the power law holds", above=0.9)
HELD_LAYERS = Part("share of the convolutions at which the power law holds", above=0.9)
SHAPES = {
    "none": Part("shape of the stretched exponential without BN", below=1),
    "batch": Part("shape of the stretched exponential with BN", above=1),
}
FLATTER = Part("shape without BN less with BN", below=0)
INFINITE = {layer: Part("index from quantiles", below=2, at=f"layer {layer}") for layer in STABLE_LAYERS}
ONE_INDEX = {
    layer: Part("Hill's index less that from quantiles", above=-NEAR, below=NEAR, at=f"layer {layer}")
    for layer in STABLE_LAYERS
}
PUBLISHED_STD = {"batch": 0.012, "none": 1.04}  # inside the published window
RIVALS = {"lognormal": "lognormal", "stretched_exponential": "stretched exponential", "half_normal": "half-normal"}

# McCulloch 1986 (Communications in Statistics 15), Table III: the index of a stable law by the width of its outer
# quantiles, (q95 - q5) / (q75 - q25), in rows, and by their asymmetry, |q95 + q5 - 2 q50| / (q95 - q5), in columns.
WIDTHS = (2.439, 2.5, 2.6, 2.7, 2.8, 3.0, 3.2, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 25.0)
ASYMMETRIES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
INDICES = np.array(
    [
        [2.000, 2.000, 2.000, 2.000, 2.000, 2.000, 2.000],
        [1.916, 1.924, 1.924, 1.924, 1.924, 1.924, 1.924],
        [1.808, 1.813, 1.829, 1.829, 1.829, 1.829, 1.829],
        [1.729, 1.730, 1.737, 1.745, 1.745, 1.745, 1.745],
        [1.664, 1.663, 1.663, 1.668, 1.676, 1.676, 1.676],
        [1.563, 1.560, 1.553, 1.548, 1.547, 1.547, 1.547],
        [1.484, 1.480, 1.471, 1.460, 1.448, 1.438, 1.438],
        [1.391, 1.386, 1.378, 1.364, 1.337, 1.318, 1.318],
        [1.279, 1.273, 1.266, 1.250, 1.210, 1.184, 1.150],
        [1.128, 1.121, 1.114, 1.101, 1.067, 1.027, 0.973],
        [1.029, 1.021, 1.014, 1.004, 0.974, 0.935, 0.874],
        [0.896, 0.892, 0.884, 0.883, 0.855, 0.823, 0.769],
        [0.818, 0.812, 0.806, 0.801, 0.780, 0.756, 0.691],
        [0.698, 0.695, 0.692, 0.689, 0.676, 0.656, 0.597],
        [0.593, 0.590, 0.588, 0.586, 0.579, 0.563, 0.513],
    ]
)

TITLE = "The tails of the gradients at initialisation"
CAPTION = (
    "Each run by itself, in units of its own standard deviation: scales differ from seed to seed. Layer 55: (a) "
    "density of the entries, one line a seed; grey: the published outlines, in units of their own std (without BN cut "
    "by the axis). (b) Share of |gradient| above x; dots: where the power law fits best from (smallest "
    "Kolmogorov-Smirnov distance, among the largest 1 to 50 %), dashed: that power law; grey: the normal law. (c) Hill "
    "estimate of the tail index from the largest share k/n; thin bars: 95 % interval of the middle seed, from "
    "resampled output channels. (d) Shape of the stretched exponential fitted to the largest tenth, one dot a seed. "
    "(e) What the verdicts rest on: whether the power law holds, by seed, and at which share of its layers. (f) How "
    "much likelier other laws are than the power law, in standard deviations over output channels, one dot a seed: "
    "filled above the best threshold, hollow for the largest tenth. Lognormal and stretched exponential contain the "
    "power law, so that they are never less likely, and are given twice the ratio, which then is normal where the "
    "power law holds; beyond 2 there is no power law; above: in how many seeds none of the three speaks against it "
    "(best threshold, largest tenth). (g) The same by depth, the larger of those two, above the best threshold. (h) "
    "Index of a stable law from five quantiles (round dots, one a seed) and Hill's index of the largest 5 % (squares): "
    "a stable law has one index for both; 2 is the normal law. Lines and bars: means with their 95 % intervals. Fits "
    "are this project's own; its tests compare power law, likelihood ratio and Hill's estimate with the library "
    "powerlaw's."
)
SWEEP = "gradient_statistics"
NEEDS = {"gradient_tails": "step == 0 and depth < 110 and run_depth == 110", "tail_fits": "step == 0 and depth < 110"}
PUBLISHED = "fig2"
SIZE = (14.4, 6.8)
HOLDS = (
    "half-normal less likely than the power law by more than 2 standard deviations of the log-likelihood ratio (over "
    "output channels), and neither lognormal nor stretched exponential, which contain the power law, with twice the "
    "ratio beyond 2"
)
CLAIMS = (
    Claim(
        id="6-power-law",
        where="Section 3.1, Figure 2",
        scale="init",
        says="Without BN the tail of the gradient at layer 55 is a power law.",
        criterion=Criterion(
            (HELD,),
            partial=(Part(HELD.of, above=PARTLY),),
            remark=f"Above the threshold at which it fits best: {HOLDS}.",
        ),
        published="called heavy-tailed; no law is named",
    ),
    Claim(
        id="6-power-law-tenth",
        where="Section 3.1, Figure 2",
        scale="init",
        says="That power law describes the largest tenth of the entries.",
        criterion=Criterion((HELD,), partial=(Part(HELD.of, above=PARTLY),), remark="The same, for the largest tenth."),
        published="called heavy-tailed; no law is named",
    ),
    Claim(
        id="6-power-law-layers",
        where="Section 3.1, Figure 2",
        scale="init",
        says="Without BN the tail is a power law at every depth.",
        criterion=Criterion(
            (HELD_LAYERS,),
            partial=(Part(HELD_LAYERS.of, above=PARTLY),),
            remark="By the first criterion, seed by seed.",
        ),
        published="only layer 55 is shown",
    ),
    Claim(
        id="6-heavier",
        origin="paper",
        where="Section 3.1, Figure 2",
        scale="init",
        says="At layer 55 the tail falls more slowly than an exponential without BN, and faster with BN.",
        criterion=Criterion(
            tuple(SHAPES.values()),
            partial=(FLATTER,),
            remark="Fitted to the largest tenth; 1: exponential, 2: as a Gaussian falls.",
        ),
        published="histograms only",
    ),
    Claim(
        id="6-stable",
        where="Section 3.1, Figure 2",
        scale="init",
        says="Without BN the gradients follow a stable law of infinite variance.",
        criterion=Criterion(
            (*INFINITE.values(), *ONE_INDEX.values()), partial=4, remark="Quantiles: McCulloch 1986; Hill: largest 5 %."
        ),
        published="not in the paper",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    tails, fits = frames["gradient_tails"], _judged(frames["tail_fits"])
    panels = fig.subplot_mosaic([list("aabbccddee"), list("ffffggghhh")])
    columns = ["norm", "seed", "quantity", "x", "x_high", "value", "low", "high"]  # not to copy all with each run
    here, fits_here = tails.loc[tails["depth"] == LAYER, columns], fits[fits["depth"] == LAYER]
    _density(panels["a"], here, frames["published"])
    _survival(panels["b"], here, fits_here)
    _hill_plot(panels["c"], here)
    _shapes(panels["d"], fits_here)
    _likelihoods(panels["f"], fits_here)
    ax = panels["g"]
    for arm, part in arms(_strongest(fits[fits["chosen"]])).items():
        figures.band(ax, stats.over_seeds(part, ["depth"], "evidence"), "depth", arm)
    ax.axhline(CLEAR, color=figures.MUTED, lw=0.9, ls=figures.DASHED)
    ax.set_ylim(bottom=0)
    figures.headroom(ax, 0.08)
    ax.legend(handles=[figures.entry(BEYOND, ls=figures.DASHED, lw=0.9)], loc="upper left")
    ax.set_ylabel("against a power law (std)")
    figures.stages(ax)
    _indices(panels["h"], tails)
    _shares(panels["e"], _shares_held(fits))
    for letter, title in {
        "a": f"layer {LAYER}: density",
        "b": f"layer {LAYER}: survival",
        "c": f"layer {LAYER}: tail index",
        "d": f"layer {LAYER}: shape of the tail",
        "e": "a power law holds",
        "f": f"layer {LAYER}: laws compared",
        "g": "against a power law, by depth",
        "h": "stable law, and Hill",
    }.items():
        figures.panel(panels[letter], letter, title)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    tails, fits = frames["gradient_tails"], _judged(frames["tail_fits"])
    held = _shares_held(fits)
    tenth = _stretched(fits[fits["depth"] == LAYER])
    indices = _stable_and_hill(tails[tails["norm"] == "none"])
    of = {layer: indices[indices["depth"] == layer].set_index("seed") for layer in STABLE_LAYERS}
    shapes = {
        part.key: criteria.single(tenth[tenth["norm"] == arm].set_index("seed")["shape"])
        for arm, part in SHAPES.items()
    }
    return {
        "6-power-law": {HELD.key: criteria.single(held["best"])},
        "6-power-law-tenth": {HELD.key: criteria.single(held["tenth"])},
        "6-power-law-layers": {HELD_LAYERS.key: criteria.single(held["layers"])},
        "6-heavier": {**shapes, FLATTER.key: criteria.compared(tenth, "shape")},
        "6-stable": {
            **{part.key: criteria.single(of[layer]["stable"]) for layer, part in INFINITE.items()},
            **{part.key: criteria.single(of[layer]["hill"] - of[layer]["stable"]) for layer, part in ONE_INDEX.items()},
        },
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    tails, fits = frames["gradient_tails"], _judged(frames["tail_fits"])
    lines = []

    def line(name: str, rows: pd.DataFrame, value: str) -> None:
        ours = by_arm(rows, value)
        lines.append(Comparison(name, "", "", str(ours["batch"]), str(ours["none"])))

    here = fits[fits["depth"] == LAYER]
    line(f"tail in which a power law fits best (%), layer {LAYER}", _power(here, chosen=True), "percent")
    for chosen, where in ((True, "best threshold"), (False, "largest tenth")):
        line(f"tail index, layer {LAYER}, {where}", _power(here, chosen=chosen), "shape")
        for law, name in RIVALS.items():
            rows = here[(here["law"] == law) & (here["chosen"] == chosen)]
            line(f"ln likelihood of {name} over power law, layer {LAYER}, {where}", rows, "gain")
    indices = _stable_and_hill(tails)
    for layer in STABLE_LAYERS:
        rows = indices[indices["depth"] == layer]
        line(f"stable law's index by quantiles, layer {layer}", rows, "stable")
        line(f"Hill's index of the largest 5 %, layer {layer}", rows, "hill")
    return lines


def stable_index(width: float, asymmetry: float) -> float:
    """Index of the stable law with these quantiles (see INDICES), interpolated linearly.

    2 for widths below the normal law's; beyond 25 the index at 25.
    """
    by_width = [np.interp(width, WIDTHS, INDICES[:, column]) for column in range(len(ASYMMETRIES))]
    return float(np.interp(abs(asymmetry), ASYMMETRIES, by_width))


def _judged(fits: pd.DataFrame) -> pd.DataFrame:
    """The fits, with: percent of the entries above the threshold; gain (ln likelihood over the power law); evidence
    against the power law in standard deviations, doubled for laws that contain it."""
    gain = -fits["log_ratio"]
    doubled = np.where(fits["law"] == "half_normal", 1.0, 2.0)
    std = fits["log_ratio_std"].where(fits["log_ratio_std"] > 0)
    evidence = (doubled * gain / std).where(fits["law"] != "power_law")
    return fits.assign(percent=100 * fits["share"], gain=gain, evidence=evidence)


def _power(fits: pd.DataFrame, *, chosen: bool) -> pd.DataFrame:
    return fits[(fits["law"] == "power_law") & (fits["chosen"] == chosen)]


def _held(fits: pd.DataFrame) -> pd.DataFrame:
    """One row per run, layer and threshold at which laws could be fitted: `held`, whether the power law was."""
    wide = fits.pivot_table(index=["depth", "seed", "chosen"], columns="law", values="evidence")
    wide = wide.reindex(columns=list(RIVALS))
    held = (wide["half_normal"] < -CLEAR) & ~(wide[["lognormal", "stretched_exponential"]] > CLEAR).any(axis=1)
    keys = fits[(fits["law"] == "power_law") & fits["shape"].notna()][["depth", "seed", "chosen", "percent", "shape"]]
    return keys.merge(held.rename("held").reset_index(), on=["depth", "seed", "chosen"])


def _shares_held(fits: pd.DataFrame) -> dict[str, pd.Series]:
    """By seed, without BN, where a power law holds: 0 or 1 at the layer, for both thresholds; share of the layers."""
    without = _held(fits[fits["norm"] == "none"])
    at = without[without["depth"] == LAYER].set_index("seed")
    return {
        "best": at[at["chosen"]]["held"],
        "tenth": at[~at["chosen"]]["held"],
        "layers": without[without["chosen"]].groupby("seed")["held"].mean(),
    }


def _strongest(fits: pd.DataFrame) -> pd.DataFrame:
    """One row per run and layer: the larger evidence of the two laws that contain the power law."""
    rows = fits[fits["law"].isin(["lognormal", "stretched_exponential"])]
    return rows.groupby(["norm", "seed", "depth"])["evidence"].max().reset_index()


def _stable_and_hill(tails: pd.DataFrame) -> pd.DataFrame:
    """One row per run and layer: `stable`, the index from quantiles, and `hill`, that of the largest 5 %."""
    keys = ["norm", "seed", "depth"]
    at = tails[tails["depth"].isin(STABLE_LAYERS)]
    quantiles = at[at["quantity"] == "quantile"].pivot(index=keys, columns="x", values="value")
    low, first, middle, third, high = (quantiles.reindex(columns=QUANTILES)[p] for p in QUANTILES)
    width, asymmetry = (high - low) / (third - first), (high + low - 2 * middle) / (high - low)
    index = [stable_index(*both) for both in zip(width, asymmetry, strict=True)]
    hill = at[(at["quantity"] == "hill") & np.isclose(at["x"], HILL_SHARE)].set_index(keys)["value"]
    return pd.DataFrame({"stable": index}, index=quantiles.index).join(hill.rename("hill")).reset_index()


def _density(ax: Axes, here: pd.DataFrame, published: pd.DataFrame) -> None:
    for arm in ARMS:
        paper = published[(published["norm"] == arm) & published["count"].notna()]
        width = float(np.median(np.diff(paper["gradient"])))
        density = paper["count"] / float((paper["count"] * width).sum()) * PUBLISHED_STD[arm]
        ax.fill_between(
            paper["gradient"] / PUBLISHED_STD[arm], density, step="mid", color=figures.MUTED, alpha=0.22, lw=0
        )
    for arm, part in arms(here).items():
        for position, (_, run) in enumerate(part.groupby("seed")):
            rows = run[run["quantity"] == "histogram_linear"].sort_values("x", kind="stable")
            std = _std(run)
            wide = rows["x_high"] - rows["x"]
            density = (rows["value"] / rows["value"].sum() / wide * std).replace(0, np.nan)
            ax.plot((rows["x"] + wide / 2) / std, density, color=figures.COLOURS[arm], lw=0.9, alpha=0.8,
                    label="" if position else figures.LABELS[arm])  # fmt: skip
    ax.fill_between([], [], color=figures.MUTED, alpha=0.3, lw=0, label="published")
    ax.set_xlim(-14, 14)
    ax.set_ylim(1e-5, 60)
    ax.set_yscale("log")
    ax.set_xlabel("gradient / its standard deviation")
    ax.set_ylabel("density")
    ax.legend(loc="upper right", handlelength=1.2)


def _survival(ax: Axes, here: pd.DataFrame, fits: pd.DataFrame) -> None:
    # The normal law, from as many of its own quantiles as can be had without special functions.
    normal = np.abs(np.random.default_rng(0).standard_normal(200_000))
    ax.plot(np.sort(normal)[::-1][9::50], np.arange(10, normal.size + 1, 50) / normal.size, color=figures.MUTED,
            lw=1.1, label="normal law")  # fmt: skip
    power = _power(fits, chosen=True).dropna(subset="shape")
    for arm, part in arms(here).items():
        for position, (seed, run) in enumerate(part.groupby("seed")):
            rows = run[run["quantity"] == "histogram_log"].sort_values("x", kind="stable")
            std, above = _std(run), rows["value"][::-1].cumsum()[::-1] / rows["value"].sum()
            ax.plot(rows["x"][above > 0] / std, above[above > 0], color=figures.COLOURS[arm], lw=0.9, alpha=0.8,
                    label="" if position else figures.LABELS[arm])  # fmt: skip
            fit = power[(power["norm"] == arm) & (power["seed"] == seed)]
            for threshold, share, index in fit[["threshold", "share", "shape"]].to_numpy(dtype=float):
                start, lowest = threshold / std, 1 / float(rows["value"].sum())
                end = start * (share / lowest) ** (1 / index)
                ax.plot([start, end], [share, lowest], color=figures.COLOURS[arm], lw=0.8, ls=figures.DASHED)
                ax.plot([start], [share], "o", color=figures.COLOURS[arm], ms=3.4, mew=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(0.03, 60)
    ax.set_ylim(5e-5, 1.4)
    ax.set_xlabel("x / standard deviation")
    ax.set_ylabel("share of |gradient| above x")
    power_law = figures.entry("power law from the dot", "o", ms=3.4, mew=0, ls=figures.DASHED, lw=0.8)
    ax.legend(handles=[*ax.get_legend_handles_labels()[0], power_law], loc="lower left", handlelength=1.8)


def _std(run: pd.DataFrame) -> float:
    return float(run.loc[run["quantity"] == "std", "value"].iloc[0])


def _hill_plot(ax: Axes, here: pd.DataFrame) -> None:
    for arm, part in arms(here[here["quantity"] == "hill"]).items():
        means = stats.over_seeds(part.assign(percent=100 * part["x"]), ["percent"], "value")
        figures.band(ax, means, "percent", arm)
        order = part.groupby("seed")["value"].mean().sort_values(kind="stable")
        middle = part[part["seed"] == order.index[(len(order) - 1) // 2]].sort_values("x", kind="stable")
        errors = np.abs(middle[["low", "high"]].to_numpy().T - middle["value"].to_numpy())
        ax.errorbar(100 * middle["x"], middle["value"], yerr=errors, fmt="none", ecolor=figures.COLOURS[arm],
                    elinewidth=0.8, capsize=1.5)  # fmt: skip
    ax.set_ylim(bottom=0)
    ax.set_xlabel("k/n (%)")
    ax.set_ylabel("tail index (smaller: heavier)")
    interval = figures.entry("95 %, middle seed", "|", ms=9, mew=0.9)
    ax.legend(handles=[*ax.get_legend_handles_labels()[0], interval], loc="upper right")


def _stretched(fits: pd.DataFrame) -> pd.DataFrame:
    """One row per run and layer: the stretched exponential fitted to the largest tenth."""
    return fits[~fits["chosen"] & (fits["law"] == "stretched_exponential")]


def _shapes(ax: Axes, fits: pd.DataFrame) -> None:
    tenth = _stretched(fits)
    for place, arm in enumerate(ARMS):
        figures.seeds(ax, place, tenth.loc[tenth["norm"] == arm, "shape"], arm, scale=Scale.plain)
    for level, text in ((1, "exponential"), (2, "Gaussian")):
        ax.axhline(level, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
        ax.text(-0.97, level + 0.03, text, fontsize=7, color=figures.MUTED, va="bottom")
    ax.set_ylim(0, max(2.25, ax.get_ylim()[1]))
    ax.set_xticks(range(len(ARMS)), [figures.LABELS[arm] for arm in ARMS])
    ax.set_xlim(-1, len(ARMS) - 0.4)
    ax.set_ylabel("shape (smaller: heavier)")
    ax.grid(False, axis="x")


def _likelihoods(ax: Axes, fits: pd.DataFrame) -> None:
    for position, law in enumerate(RIVALS):
        for arm, shift in zip(ARMS, (-0.2, 0.2), strict=True):
            rows = fits[(fits["law"] == law) & (fits["norm"] == arm)]
            figures.seeds(ax, position + shift - 0.08, rows.loc[rows["chosen"], "evidence"], arm, spacing=0.02,
                          scale=Scale.plain)  # fmt: skip
            tenth = rows.loc[~rows["chosen"], "evidence"]
            ax.plot([position + shift + 0.1] * len(tenth), tenth, "o", color=figures.COLOURS[arm], ms=3.6, mfc="white",
                    mew=0.9)  # fmt: skip
    ax.axhline(0, color=figures.MUTED, lw=0.9)
    for edge in (-CLEAR, CLEAR):
        ax.axhline(edge, color=figures.MUTED, lw=0.9, ls=figures.DASHED)
    ax.set_yscale("symlog", linthresh=2)
    low, high = ax.get_ylim()
    ax.set_ylim(min(5 * low, -30 * CLEAR), max(12 * high, 6 * CLEAR))  # with room for the legend and the counts
    held = _held(fits[fits["norm"] == "none"])
    counts = {name: held.loc[held["chosen"] == best, "held"] for best, name in ((True, "best"), (False, "tenth"))}
    told = ", ".join(f"{int(each.sum())} of {len(each)} ({name})" for name, each in counts.items())
    ax.text(0.02, 0.97, f"without BN a power law holds in {told} seeds", transform=ax.transAxes, fontsize=7.5,
            color=figures.COLOURS["none"], va="top")  # fmt: skip
    ax.legend(
        handles=[
            figures.entry("above the best threshold", "o"),
            figures.entry("largest tenth", "o", filled=False),
            figures.entry(BEYOND, ls=figures.DASHED, lw=0.9),
        ],
        loc="lower left",
    )
    ax.yaxis.set_major_formatter(lambda value, position: f"{value:g}".replace("-", MINUS))
    ax.set_xticks(range(len(RIVALS)), [name.replace(" ", "\n") for name in RIVALS.values()])
    ax.set_xlim(-0.5, len(RIVALS) - 0.5)
    ax.set_ylabel("likelier than the power law (std)")
    ax.grid(False, axis="x")


def _shares(ax: Axes, held: Mapping[str, pd.Series]) -> None:
    names = {"best": "55,\nbest", "tenth": "55,\ntenth", "layers": "all\nlayers"}
    for place, name in enumerate(names):
        figures.seeds(ax, place, held[name].astype(float), "none", scale=Scale.plain)
    assert HELD.above is not None
    for level, text in ((HELD.above, "reproduced"), (PARTLY, "partly")):
        ax.axhline(level, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
        ax.text(2.45, level + 0.015, f"above: {text}", fontsize=7, color=figures.MUTED, va="bottom", ha="right")
    ax.set_ylim(-0.05, 1.1)
    ax.set_xticks(range(len(names)), list(names.values()))
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_ylabel("share of seeds, of layers")
    ax.grid(False, axis="x")


def _indices(ax: Axes, tails: pd.DataFrame) -> None:
    indices = _stable_and_hill(tails)
    for position, layer in enumerate(STABLE_LAYERS):
        for arm, shift in zip(ARMS, (-0.2, 0.2), strict=True):
            rows = indices[(indices["depth"] == layer) & (indices["norm"] == arm)]
            figures.seeds(ax, position + shift - 0.07, rows["stable"], arm, spacing=0.02, scale=Scale.plain)
            aside = np.linspace(0.04, 0.2, len(rows))
            ax.plot(position + shift + aside, rows["hill"], "s", color=figures.COLOURS[arm], ms=3, mfc="white",
                    mew=0.8)  # fmt: skip
    ax.axhline(2, color=figures.MUTED, lw=0.9, ls=figures.DASHED)
    figures.plain_log(ax)
    ax.set_ylim(top=1.6 * ax.get_ylim()[1])
    ax.set_xticks(range(len(STABLE_LAYERS)), [str(layer) for layer in STABLE_LAYERS])
    ax.set_xlim(-0.5, len(STABLE_LAYERS) - 0.5)
    ax.set_xlabel("weight layer")
    ax.set_ylabel("index (smaller: heavier)")
    ax.grid(False, axis="x")
    ax.legend(
        handles=[
            figures.entry("stable law", "o"),
            figures.entry("Hill", "s", filled=False),
            figures.entry("normal, if stable", ls=figures.DASHED, lw=0.9),
        ],
        loc="upper left",
        ncols=3,
        columnspacing=1,
    )
