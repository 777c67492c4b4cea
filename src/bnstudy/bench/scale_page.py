"""Writes `docs/scale.md` and its picture: what the study costs, and how the project behaves with many runs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bnstudy import compose, files
from bnstudy.bench import cost, record, scale
from bnstudy.bench.scale import STEPS, Row

DOCS = Path(__file__).resolve().parents[3] / "docs"
SHOWN = ("index", "status", "reduce", "report")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito
PAGE = """# Scale

Written by `make scale`, from the sweep files, the speeds in `results/bench/` and the measurement in `scale.json`.

## What the full study costs

Training at each sweep's preset `full`: the images that its runs see, over the images a second that `make bench`
measured ({machine}). {gpu}

{machines}

As though no run diverged, and every search took its longest course: where runs diverge, it is less. Evaluation (up to
6 % for a ResNet-110 that is evaluated every epoch) and probes come on top. `make paper-init` is nearly all probes: on
two such cores its published sweeps took {probes}. Eight GPUs, or a cluster with a GPU for every run, are never faster
than the longest run.

On the disk, the tables of single steps ("steps' rows", {bytes:.0f} bytes a row) of all sweeps take {rows}; a checkpoint
(ResNet-110: 14 MB) is there only while its run is under way. What is published of {num_published} sweeps, their probes'
tables among it, takes {published:.0f} MB.

{table}

A run that several sweeps ask for is made once. "+ n" runs are what a search asks for at most. The speeds are those of
mini-batches of 256 (LeNet) and 128 (ResNet): much smaller ones take longer (`textbook_tiny_batches`), as do norms
that no row of the bench has, such as whitening; perceptrons, taken for a LeNet here, and runs that train side by side
in one network (LeNet) are faster.

## A hundred thousand runs

Made runs of a grid of LeNets (`bnstudy.bench.scale`): a manifest each, and a table of five epochs. Every step is a
process of its own, imports included. Processor seconds, since the machine had other things to do; in the last row the
exponent k of n^k through the last decade of sizes (1: linear; below: a fixed part still shows).

![Processor time and peak memory by number of runs](scale.png)

{measured}

`status` reads one index file and asks the file system for the times of each run's folder and manifest; it opens what
changed since the last look and nothing else. An index that is missing or damaged costs one look at every manifest (the
column "without an index"). What is not measured here: `status` composes a sweep anew when a file that decides about its
runs, or the data, changed, however many of them are done (up to a minute for all sweeps; half a second where nothing
changed). Reduction opens every run's tables, checks their sums and joins them in memory; it is the largest cost, once a
sweep ends. The report reads reduced tables alone.

On a network file system each of these looks is a round trip: `status` makes two a run.
"""


def write(results: Path, sizes: Sequence[int] | None) -> int:
    """Measures (`sizes`; None: keeps what `scale.json` holds) and writes page and picture. Exit status 0.

    Raises ValueError where nothing was measured yet and nothing is to be.
    """
    path = DOCS / "scale.json"
    if sizes:
        with tempfile.TemporaryDirectory(prefix="bnstudy-scale-") as scratch:
            rows = scale.measure(Path(scratch), sizes, tell=lambda line: print(line, flush=True))
        files.write_text(path, json.dumps(rows, indent=1) + "\n")
    elif not path.exists():
        raise ValueError(f"{path} is missing: say what to measure, as in --sizes 1000,10000")
    rows = json.loads(path.read_text(encoding="utf-8"))
    files.write_text(DOCS / "scale.md", _page(results, rows))
    _draw(rows, DOCS / "scale.png")
    print(DOCS / "scale.md")
    return 0


def _page(results: Path, rows: Sequence[Row]) -> str:
    records = list(record.read_all(results).values())
    cpu = next(each for each in records if each["machine"]["gpu"] is None)
    gpu = next((each for each in records if each["machine"]["gpu"] is not None), None)
    speeds = cost.speeds(cpu), cost.speeds(gpu) if gpu else None
    works = {name: cost.of_sweep(name) for name in compose.sweeps()}
    suites = {
        suite: [name for name, said in compose.said().items() if suite in said.get("suites", {})]
        for suite in ("paper_init", "paper_train", "textbook")
    }
    parts = {
        "`make paper-train`": cost.union(works[name] for name in suites["paper_train"]),
        "`make textbook PRESET=full`": cost.union(works[name] for name in suites["textbook"]),
        "all sweeps": (whole := cost.union(works.values())),
    }
    took = [cost.measured_sec(results, name, len(works[name].grid)) for name in suites["paper_init"]]
    each_bytes = cost.bytes_per_step()
    published = [path for path in (results / "tables").rglob("*") if path.is_file()]
    return PAGE.format(
        machine=f"{cpu['machine']['processor']}, {cpu['machine']['cores']} cores",
        gpu=f"The GPU is an {gpu['machine']['gpu']}." if gpu else "No speed has been measured on a GPU yet.",
        machines=cost.machines(parts, *speeds),
        probes=cost.duration(sum(sec for sec in took if sec is not None) / 2),
        bytes=each_bytes,
        rows=f"{sum(map(cost.num_steps, whole.runs)) * each_bytes / 2**30:.1f} GiB",
        num_published=len({path.parent for path in published}),
        published=sum(path.stat().st_size for path in published) / 1e6,
        table=cost.table(works, *speeds, each_bytes, results),
        measured=_measured(rows),
    )


def _of(rows: Sequence[Row], step: str) -> list[Row]:
    return [row for row in rows if row["step"] == step]


def _measured(rows: Sequence[Row]) -> str:
    head = [STEPS[step][0] for step in SHOWN]
    lines = [f"| runs | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for size in sorted({row["num_runs"] for row in rows}):
        cells = [next(row for row in _of(rows, step) if row["num_runs"] == size) for step in SHOWN]
        told = " | ".join(f"{cell['cpu_sec']:.2f} s, {cell['peak_mib']:,.0f} MiB" for cell in cells)
        lines.append(f"| {size:,} | {told} |")
    told = " | ".join(f"{scale.exponent(_of(rows, step)[-3:], 'cpu_sec'):.2f}" for step in SHOWN)
    return "\n".join([*lines, f"| k | {told} |"])


def _draw(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    sizes = sorted({row["num_runs"] for row in rows})
    for axis, key, label in zip(
        axes, ("cpu_sec", "peak_mib"), ("processor time (s)", "peak memory (MiB)"), strict=True
    ):
        for step, colour in zip(SHOWN, COLOURS, strict=True):
            axis.plot(sizes, [row[key] for row in _of(rows, step)], "o-", color=colour, ms=4, label=STEPS[step][0])
        axis.set(xscale="log", yscale="log", xlabel="runs", ylabel=label)
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.yaxis.set_minor_formatter("")
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_yticks([100, 200, 500, 1000, 2000])
    most = max(_of(rows, "reduce")[-1]["cpu_sec"], 1.0)
    axes[0].plot(sizes, [2 * most * size / sizes[-1] for size in sizes], ":", color="0.6", lw=1, label="linear")
    axes[0].axhline(5, color="0.8", lw=0.8)
    axes[0].annotate("5 s", (sizes[0], 5), xytext=(0, 2), textcoords="offset points", fontsize=7, color="0.5")
    handles, labels = axes[0].get_legend_handles_labels()
    labels = [label.replace("`", "") for label in labels]
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8, frameon=False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
