"""The part of a probe's table that a dashboard shows: a few numbers and histograms by depth. The tables hold all of it.

A number's name is `<probe>/depth_055/<statistic>`, without the middle part for a probe that has no depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Rows = Sequence[Mapping[str, Any]]
LEFT_TO_TABLES = ("entry", "quantile")  # quantities with an index of their own: a mean over it would say nothing

NAMES = ("layer", "quantity")  # texts that the rest of a number's name says


@dataclass(frozen=True)
class Histogram:
    """Counts of adjoining bins: `len(edges) == len(counts) + 1`."""

    counts: tuple[int, ...]
    edges: tuple[float, ...]


def summarise(name: str, rows: Rows) -> dict[str, float | Histogram]:
    """Numbers and histograms by name. What is not defined (NaN) is left out, infinities are kept."""
    special = {"activation_moments": _moments, "loss_along_step": _best_step}
    numbers = special.get(name, _means)(rows)
    summary: dict[str, float | Histogram] = {f"{name}/{label}": v for label, v in numbers.items() if not math.isnan(v)}
    return summary | {f"{name}/{label}": histogram for label, histogram in _histograms(rows)}


def _moments(rows: Rows) -> dict[str, float]:
    """Means over channels of ln(standard deviation) and of ln|mean|, as in Figure 5; dead channels (0) left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        label = f"{_depth(row)}{row['site']}"
        values.setdefault(f"{label}_ln_std", []).append(0.5 * _ln(row["variance"]))
        values.setdefault(f"{label}_ln_abs_mean", []).append(_ln(abs(row["mean"])))
    return {label: _mean(v) for label, v in values.items()}


def _best_step(rows: Rows) -> dict[str, float]:
    """The lowest point of the curve."""
    defined = [row for row in rows if not math.isnan(row["relative_loss"])]
    if not defined:
        return {}
    best = min(defined, key=lambda row: row["relative_loss"])
    return {"best_relative_loss": float(best["relative_loss"]), "best_step_size": float(best["step_size"])}


def _means(rows: Rows) -> dict[str, float]:
    """The mean of each quantity over its rows (Hill estimates: over k); without quantities, of every real column.

    Rows that a text tells apart (split, mode, order, law, ...) are numbers of their own, under its value.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        kind = "".join(f"{v}_" for name, v in row.items() if isinstance(v, str) and v and name not in NAMES)
        if "quantity" in row:
            if row["quantity"] not in LEFT_TO_TABLES and "histogram" not in row["quantity"]:
                values.setdefault(f"{_depth(row)}{kind}{row['quantity']}", []).append(float(row["value"]))
            continue
        size = f"batch_{row['batch_size']}_" if "batch_size" in row else ""
        for column, value in row.items():
            if isinstance(value, float | np.floating):
                values.setdefault(f"{_depth(row)}{kind}{size}{column}", []).append(float(value))
    return {label: _mean(v) for label, v in values.items()}


def _histograms(rows: Rows) -> Iterator[tuple[str, Histogram]]:
    """Bins from `x` to `x_high` that hold `value` numbers; where bins do not adjoin (NaN gradients) there is none."""
    bins: dict[str, list[tuple[float, float, int]]] = {}
    for row in rows:
        if "histogram" in row.get("quantity", "") and math.isfinite(row["value"]):
            bin_ = (float(row["x"]), float(row["x_high"]), int(row["value"]))
            bins.setdefault(f"{_depth(row)}{row['quantity']}", []).append(bin_)
    for label, parts in bins.items():
        parts.sort()
        edges = (*(low for low, _, _ in parts), parts[-1][1])
        adjoining = all(math.isclose(parts[i][1], parts[i + 1][0]) for i in range(len(parts) - 1))
        if adjoining and np.isfinite(edges).all():
            yield label, Histogram(tuple(count for _, _, count in parts), edges)


def _depth(row: Mapping[str, Any]) -> str:
    return f"depth_{row['depth']:03d}/" if "depth" in row else ""


def _ln(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _mean(values: Iterable[float]) -> float:
    defined = [v for v in values if not math.isnan(v)]
    return float(np.mean(defined)) if defined else math.nan
