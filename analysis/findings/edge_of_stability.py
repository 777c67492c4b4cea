"""Whether full-batch gradient descent trains at the edge of stability, with BN and without (Cohen et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, number, spread
from bnstudy.analysis.stats import Scale

EDGE = {
    arm: Part("rate x sharpness / 2 over the last third of the fit", above=0.9, below=1.2, scale=Scale.log, at=label)
    for arm, label in zip(ARMS, ("with BN", "without BN"), strict=True)
}
PLAIN = Part("sharpness with BN over without, at the end, rate 0.1", below=1, scale=Scale.log)
SCALE_FREE = Part("scale-free sharpness with BN over without, at the end, rate 0.1", below=1, scale=Scale.log)
ORDER_RATE = 0.1
FITTED = 0.1  # training loss

TITLE = "Sharpness along gradient descent"
CAPTION = (
    "LeNet with ReLU, 1,000 images of Fashion-MNIST, every update on all of them, no momentum. (a, b) Learning rate "
    "times the largest eigenvalue of the loss's Hessian, over 2: above 1 (dotted) a quadratic loss diverges. "
    "Geometric mean (line) over seeds and 95 % interval (band), a shade a rate, the darkest the largest; a dot where "
    "the training loss falls below 0.1 (mean of the seeds that get there), behind which cross-entropy flattens. (c) "
    "Over the last third of the updates until then, geometric mean over the rates: a dot a seed, bar: geometric mean "
    "with 95 % interval; dashed: 0.9 and 1.2. (d) Sharpness at the end, plain and scale-free (every weight in units "
    "of its tensor's norm), against the rate, geometric means with 95 % intervals. Eigenvalues that did not converge "
    "are left out."
)
SWEEP = "edge_of_stability"
NEEDS = {
    "steps": "model == 'lenet'",
    "hessian_top_eigenvalue": "model == 'lenet'",
    "relative_sharpness": "model == 'lenet'",
}
SIZE = (14.6, 4.3)
WHERE = "Cohen et al. (2021), section 3 and appendix on BN"
CLAIMS = (
    Claim(
        id="B3-edge",
        origin="ours",
        where=WHERE,
        scale="textbook",
        says="Gradient descent ends at the edge of stability with BN as without.",
        criterion=Criterion(
            tuple(EDGE.values()),
            partial=1,
            remark="Geometric mean over the rates. The fit: the updates until the training loss is below 0.1, or all "
            "of them; the pilot (seed 0) showed that cross-entropy flattens thereafter. Runs that diverged or "
            "stalled do not count, nor eigenvalues that did not converge.",
        ),
        published="rate x sharpness / 2 near 1",
    ),
    Claim(
        id="B3-order",
        origin="ours",
        where="Bjorck et al. (2018), section 2.1, text",
        scale="textbook",
        says="At one rate BN finds the flatter minimum, whether sharpness is scale-free or not.",
        criterion=Criterion(
            (PLAIN, SCALE_FREE),
            partial=1,
            remark="After 2,000 updates, at unequal training losses; without eigenvalues that did not converge.",
        ),
        published="no values",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    looks = _looks(frames)
    *courses, judged, ends = fig.subplots(1, 4, width_ratios=(1, 1, 0.5, 1))
    for ax, arm, letter in zip(courses, ARMS, "ab", strict=True):
        part = looks[looks["norm"] == arm]
        rates = sorted(part["lr"].unique())
        for place, rate in enumerate(rates):
            rows = stats.over_seeds(part[part["lr"] == rate], ["step"], "edge", Scale.log)
            shade = 0.35 + 0.65 * place / max(1, len(rates) - 1)
            ax.plot(rows["step"], rows["mean"], color=figures.COLOURS[arm], lw=1.1, alpha=shade, label=number(rate))
            ax.fill_between(rows["step"], rows["low"], rows["high"], color=figures.COLOURS[arm], alpha=0.12, lw=0)
            if np.isfinite(end := part.loc[(part["lr"] == rate) & part["is_fitted"], "fitted"].mean()):
                height = np.interp(end, rows["step"], rows["mean"])
                ax.plot(end, height, "o", ms=4, color=figures.COLOURS[arm], alpha=shade)
        ax.axhline(1, color=figures.MUTED, lw=1, ls=":")
        ax.set_yscale("log")
        ax.set_ylim(0.02, 20)
        ax.set_xlabel("update")
        ax.set_ylabel("rate x sharpness / 2")
        ax.legend(title="rate", loc="upper right", ncols=2)
        figures.panel(ax, letter, figures.LABELS[arm])
    samples = measure(frames)["B3-edge"]
    for place, arm in enumerate(ARMS):
        figures.seeds(judged, place, samples[EDGE[arm].key].values, arm, spacing=0.1, scale=Scale.log)
    for bound in (EDGE["none"].above, EDGE["none"].below):
        judged.axhline(bound, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    judged.set_yscale("log")
    judged.minorticks_off()
    judged.set_yticks(ticks := [0.3, 0.5, 0.7, 0.9, 1.2, 1.6], [f"{tick:g}" for tick in ticks])
    judged.set_xlim(-0.6, 1.6)
    judged.set_xticks([0, 1], [figures.LABELS[arm] for arm in ARMS])
    judged.set_ylabel("rate x sharpness / 2")
    figures.panel(judged, "c", "before fitted")
    for column, label, dashes in (("plain", "plain", "-"), ("free", "scale-free", (0, (4, 1.6)))):
        final = _ends(frames)
        for arm in ARMS:
            rows = stats.over_seeds(final[final["norm"] == arm], ["lr"], column, Scale.log)
            figures.band(ends, rows, "lr", arm, ls=dashes, label=f"{figures.LABELS[arm]}, {label}")
    ends.set_xscale("log")
    ends.minorticks_off()
    rates = sorted(looks["lr"].unique())
    ends.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ends.set_yscale("log")
    ends.set_xlabel("learning rate")
    ends.set_ylabel("sharpness at the end")
    ends.legend()
    figures.panel(ends, "d", "at the end")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    late, ends = _late(_looks(frames)), _ends(frames)
    edge = {
        EDGE[arm].key: _over_rates(late[late["norm"] == arm].groupby(["seed", "lr"])["edge"].mean().reset_index())
        for arm in ARMS
    }
    at = ends[np.isclose(ends["lr"], ORDER_RATE)]
    order = {}
    for part, column in ((PLAIN, "plain"), (SCALE_FREE, "free")):
        of = {arm: at[at["norm"] == arm].set_index("seed")[column] for arm in ARMS}
        order[part.key] = stats.effect(of["batch"], of["none"], Scale.log)
    values = {"B3-edge": edge, "B3-order": order}
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    late, ends, lines = _late(_looks(frames)), _ends(frames), []
    mean = late.groupby(["norm", "lr", "seed"], observed=True)["edge"].mean().reset_index()
    for rows, column, label in (
        (mean, "edge", "rate x sharpness / 2 over the last third of the fit"),
        (ends, "plain", "sharpness at the end"),
        (ends, "free", "scale-free sharpness at the end"),
    ):
        for rate in sorted(rows["lr"].unique()):
            part = rows[rows["lr"] == rate]
            cells = [str(spread(part.loc[part["norm"] == arm, column])) for arm in ARMS]
            lines.append(Comparison(f"{label}, rate {number(rate)}", "", "", *cells))
    return lines


def _over_rates(rows: pd.DataFrame) -> pd.Series:
    """By seed, the geometric mean over the rates."""
    return rows.assign(ln=np.log(rows["edge"])).groupby("seed")["ln"].mean().map(math.exp)


def _looks(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Sharpness along the runs that trained; `edge` is rate x sharpness / 2, `fitted` the update that ends the fit."""
    looks, steps = _converged(frames["hessian_top_eigenvalue"]), frames["steps"]
    trained = looks[looks["outcome"] == "trained"]
    first = steps[steps["loss"] < FITTED].groupby("run_id", observed=True)["step"].min()
    fitted = trained["run_id"].map(first.to_dict()).astype(float)
    edge = trained["lr"] * trained["eigenvalue"] / 2
    return trained.assign(edge=edge, fitted=fitted.fillna(trained["step"].max()), is_fitted=fitted.notna())


def _late(looks: pd.DataFrame) -> pd.DataFrame:
    """The looks of the last third of the fit, or the last one before its end where there is none."""
    inside = looks[(looks["step"] > 0) & (looks["step"] <= looks["fitted"])]
    last = inside.groupby(["norm", "lr", "seed"], observed=True)["step"].transform("max")
    return inside[(inside["step"] >= 2 / 3 * inside["fitted"]) | (inside["step"] == last)]


def _ends(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per run that trained: the sharpness at its last look, plain and scale-free."""
    key = ["norm", "lr", "seed"]
    tables = {"plain": _looks(frames), "free": _converged(frames["relative_sharpness"])}
    last = {  # not `last()`, which takes an earlier look where the last one did not converge
        name: table.sort_values("step", kind="stable").groupby(key, observed=True).tail(1).set_index(key)["eigenvalue"]
        for name, table in tables.items()
    }
    return pd.DataFrame(last).dropna(subset=["plain"]).reset_index()


def _converged(table: pd.DataFrame) -> pd.DataFrame:
    """The looks; an eigenvalue that did not converge is none."""
    return table.assign(eigenvalue=table["eigenvalue"].where(table["converged"]))
