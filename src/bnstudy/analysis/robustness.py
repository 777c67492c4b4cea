"""Claims judged again under variants of an experiment, by their findings' own criteria: which verdicts hold?"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bnstudy.analysis import figures, frames
from bnstudy.analysis.findings import Comparison, Evidence, Finding, Judge, Verdict, claim, judge

BASE = "as studied"
LEAST = 2  # claims that have to be decided
ALIKE = 2 / 3  # the share of claims with an unchanged verdict that is still "partly"
LABELS_IN = 4.3  # inches to the left, for what the claims say
CELLS = {  # verdict -> colour of the cell
    Verdict.reproduced: "#3F7F5F",
    Verdict.partly: "#B9D8B4",
    Verdict.not_reproduced: "#C9B3D6",
    Verdict.undecided: figures.FAINT,
    Verdict.not_run: "white",
}

Judged = Mapping[str, Mapping[str, Evidence]]  # variant -> claim -> evidence


@dataclass(frozen=True)
class Study:
    """Findings to be judged again, in which variants, and the parts of a finding's protocol that follow from that.

    `base` are the columns of a run at the values that the others are compared with, which are `called` that; `variants`
    what each changes of them, by what it is called; `names` how a variant is called in the id of its claim; `curves`
    the folder of the published curves.
    """

    findings: Sequence[Finding]
    base: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, str]
    curves: Path
    called: str = BASE
    _last: list[tuple[Mapping[str, pd.DataFrame], Judged]] = field(default_factory=list, repr=False)

    @property
    def tables(self) -> dict[str, str | None]:
        """What the findings need together: whole tables, of which each takes its own rows."""
        return dict.fromkeys(table for finding in self.findings for table in finding.needs)

    @property
    def says(self) -> dict[str, str]:
        """What each claim that is judged says, in the findings' order."""
        return {claim.id: claim.says for finding in self.findings for claim in finding.claims}

    def claims(self, says: str, of: str, **fields: str) -> tuple[Judge, ...]:
        """A claim per variant, on its judge: `says` with the variant's name for {}, `of` naming the claims."""
        criterion = (
            f"{of}, judged again by their own criteria, those that are decided in this sweep {self.called}: all have "
            "the verdict that they have there (reproduced), at least two thirds (partly). Fewer than "
            f"{LEAST}: undecided."
        )
        return tuple(
            claim(id=f"sensitivity-{name}", says=says.format(variant), criterion=criterion, **fields)(
                partial(self._compared, variant)
            )
            for variant, name in self.names.items()
        )

    def plot(self, fig: Figure, tables: Mapping[str, pd.DataFrame]) -> None:
        draw(fig.subplots(), self.judged(tables), self.says)

    def _compared(self, variant: str, tables: Mapping[str, pd.DataFrame]) -> Evidence:
        return compared(self.judged(tables), variant)

    def numbers(self, tables: Mapping[str, pd.DataFrame]) -> list[Comparison]:
        """None: the figure is the table."""
        return []

    def judged(self, tables: Mapping[str, pd.DataFrame]) -> Judged:
        """Every claim in every variant, the base first; not run where the sweep lacks what it is judged by.

        Judging takes seconds, and what is drawn has just been judged: the last tables' verdicts are remembered.
        """
        if not self._last or self._last[0][0] is not tables:
            ways = {self.called: {}, **self.variants}
            self._last[:] = [(tables, {way: self._judged(tables, {**self.base, **of}) for way, of in ways.items()})]
        return self._last[0][1]

    def _judged(self, tables: Mapping[str, pd.DataFrame], values: Mapping[str, Any]) -> dict[str, Evidence]:
        evidence: dict[str, Evidence] = {}
        for finding in self.findings:
            data = {table: _rows(tables[table], values, query) for table, query in finding.needs.items()}
            if any(frame.empty for frame in data.values()):
                evidence |= {claim.id: Evidence("", "", 0, Verdict.not_run) for claim in finding.claims}
                continue
            if finding.published is not None:
                data["published"] = frames.published(self.curves, finding.published)
            evidence |= finding.evidence(data)
        return evidence


def compared(judged: Judged, variant: str) -> Evidence:
    """How many of the base's decided verdicts are the same: all of them, reproduced; the share ALIKE, partly.

    The base is the first of `judged`. One that is undecided here is another verdict: noise must not make settings look
    alike.
    """
    (called, base), here = next(iter(judged.items())), judged[variant]
    opens = (Verdict.undecided, Verdict.not_run)
    ran = [name for name in base if here[name].verdict is not Verdict.not_run]
    decided = [name for name in ran if base[name].verdict not in opens]
    changed = [name for name in decided if here[name].verdict != base[name].verdict]
    undecided = [name for name in base if base[name].verdict is Verdict.undecided]
    absent = [name for name in base if name not in ran and name not in undecided]
    alike = [name for name in decided if name not in changed]
    n = min((side[name].n for side in (base, here) for name in decided), default=0)
    changes = [f"{name}: {here[name].verdict} instead of {base[name].verdict}" for name in changed]
    if undecided:
        changes.append(f"not decided {called}: {', '.join(undecided)}")
    if absent:
        changes.append(f"not measured in this sweep: {', '.join(absent)}")
    return Evidence(
        measured=f"{len(alike)} of {len(decided)} verdicts alike",
        spread="; ".join(changes),
        n=n,
        verdict=judge(n, full=len(alike) == len(decided), partial=len(alike) >= ALIKE * len(decided))
        if len(decided) >= LEAST
        else Verdict.undecided,
        reason="" if len(decided) >= LEAST else f"fewer than {LEAST} claims are decided {called}",
    )


def draw(ax: Axes, judged: Judged, says: Mapping[str, str]) -> None:
    """One row per claim, one column per variant; framed where it was run and the verdict is not that of the base.

    Each cell tells the verdict and, of a claim that is judged by one number, that number.
    """
    (base_name, of_base), order = next(iter(judged.items())), list(CELLS)
    claims = list(of_base)
    verdicts = pd.DataFrame({name: [of[claim].verdict for claim in claims] for name, of in judged.items()})
    cells = pd.DataFrame({name: [_cell(of[claim]) for claim in claims] for name, of in judged.items()})
    seaborn.heatmap(
        verdicts.map(order.index), annot=cells, fmt="", annot_kws={"fontsize": 7}, ax=ax, cbar=False, linewidths=2,
        vmin=0, vmax=len(order) - 1, cmap=ListedColormap(list(CELLS.values())),
    )  # fmt: skip
    base = verdicts[base_name]
    for x, name in enumerate(verdicts):
        for y in verdicts.index[(verdicts[name] != base) & (verdicts[name] != Verdict.not_run)]:
            ax.add_patch(Rectangle((x + 0.02, y + 0.04), 0.96, 0.92, fill=False, edgecolor=figures.INK, lw=1.4))
    label_width = len(judged) * LABELS_IN / (ax.get_figure().get_figwidth() - LABELS_IN)  # type: ignore[union-attr]
    for y, name in enumerate(claims):
        label = "\n".join(textwrap.wrap(f"{name}: {says[name]}", 66, max_lines=3))
        ax.text(-label_width, y + 0.5, label, fontsize=7.5, va="center", label="claim")
    ax.set_xlim(-label_width, len(judged))
    ax.set_xticks([x + 0.5 for x in range(len(judged))], [textwrap.fill(name, 18) for name in judged])
    ax.xaxis.tick_top()
    ax.set_yticks([])
    ax.tick_params(length=0, labelsize=7.5)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _cell(evidence: Evidence) -> str:
    if evidence.verdict is Verdict.not_run:
        return "not measured"
    numbers = [frames.number(each.mean, 2) for each in evidence.estimates.values()]
    return f"{evidence.verdict}: {numbers[0]}" if len(numbers) == 1 else str(evidence.verdict)


def _rows(frame: pd.DataFrame, values: Mapping[str, Any], query: str | None) -> pd.DataFrame:
    """The rows of runs that have these values, and of these the ones that match a finding's query."""
    columns = [f"run_{column}" if f"run_{column}" in frame else column for column in values]
    frame = frame[(frame[columns] == list(values.values())).all(axis=1)]
    return frame if query is None else frame.query(query)
