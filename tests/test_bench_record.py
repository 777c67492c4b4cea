"""The bench's turns, statistics, JSON file and table."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import bench_sides
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import limits, measure, record, render
from benchmarks.measure import Measured, MeasurementError
from bnstudy.training.engine.kernels import build

MACHINE: dict[str, Any] = {
    "processor": "Intel(R) Xeon(R) Processor", "cores": 2, "threads": 2, "gpu": None, "versions": {"torch": "2.11.0"}
}  # fmt: skip
DATA = {"cifar10": "arrays", "fashion_mnist": "torchvision"}
POSITIVE = st.floats(0.01, 1e6)


def test_seconds_are_the_clocks() -> None:
    ticks = iter([10.0, 12.5])
    done: list[int] = []
    assert measure.seconds(lambda: done.append(1), lambda: next(ticks)) == 2.5
    assert done == [1]


def test_the_ratio_is_of_medians_and_its_range_of_turns() -> None:
    rates = measure.ratio([30.0, 40.0, 20.0], [10.0, 8.0, 10.0], more_is_better=True)
    assert (rates.value, rates.low, rates.high) == (3.0, 2.0, 5.0)
    times = measure.ratio([1.0, 2.0], [4.0, 4.0], more_is_better=False)
    assert (times.value, times.low, times.high) == (pytest.approx(4 / 1.5), 2.0, 4.0)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=7))
def test_the_ratio_of_rates_is_that_of_the_times_they_stand_for(pairs: list[tuple[float, float]]) -> None:
    ours, tutorial = zip(*pairs, strict=True)
    low, high = (
        sorted(a / b for a, b in pairs)[:: max(1, len(pairs) - 1)][:2]
        if len(pairs) > 1
        else [pairs[0][0] / pairs[0][1]] * 2
    )
    found = measure.ratio(ours, tutorial, more_is_better=True)
    assert (found.low, found.high) == (low, high)
    reverse = measure.ratio(tutorial, ours, more_is_better=False)
    assert reverse == found


def test_a_ratio_needs_pairs() -> None:
    for ours, tutorial in (([], []), ([1.0], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="a ratio needs pairs"):
            measure.ratio(ours, tutorial, more_is_better=True)


def test_sides_take_turns_in_processes_of_their_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    seen: list[tuple[Any, ...]] = []
    sides = {name: partial(bench_sides.logging, name, log) for name in ("ours", "tutorial", "careful")}
    measured = measure.interleaved(sides, 2, report=lambda *turn: seen.append(turn))
    assert measured == {
        "ours": Measured((1.0, 4.0), {"name": "ours"}),
        "tutorial": Measured((2.0, 5.0), {"name": "tutorial"}),
        "careful": Measured((3.0, 6.0), {"name": "careful"}),
    }
    assert seen == [
        (1, 2, {"ours": 1.0, "tutorial": 2.0, "careful": 3.0}),
        (2, 2, {"ours": 4.0, "tutorial": 5.0, "careful": 6.0}),
    ]
    lines = log.read_text().splitlines()
    assert [line.split()[0] for line in lines] == list(sides) * 2
    assert len({line.split()[1] for line in lines} | {str(os.getpid())}) == 4


@pytest.mark.parametrize(
    ("when", "text"), [("preparing", "at preparing"), ("measuring", "at measuring"), ("dying", "process died")]
)
def test_what_goes_wrong_in_a_side_is_told(when: str, text: str) -> None:
    with pytest.raises(MeasurementError, match=text):
        measure.interleaved({"ours": partial(bench_sides.failing, when)}, 1, report=lambda *_: None)


@pytest.mark.parametrize(
    ("processor", "units", "gpu", "expected"),
    [
        ("Intel(R) Xeon(R) Processor", ["AVX-512", "AMX"], None, "cpu-intel-xeon-avx512-amx"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", [], None, "cpu-intel-xeon-platinum-8481c"),
        ("AMD EPYC 9554 64-Core Processor", ["AVX2"], None, "cpu-amd-epyc-9554-64-core-avx2"),
        ("", [], None, "cpu"),
        ("Intel(R) Xeon(R) Processor", ["AVX2"], "NVIDIA H200", "gpu-nvidia-h200"),
    ],
)
def test_a_file_is_named_after_its_device(processor: str, units: list[str], gpu: str | None, expected: str) -> None:
    assert record.slug({"processor": processor, "units": units, "gpu": gpu}) == expected


@pytest.mark.parametrize(
    ("flags", "units"),
    [
        ("flags : fma avx2", ["AVX2"]),
        ("flags : avx2 avx512f avx512_bf16", ["AVX-512", "bf16"]),
        ("flags : avx2 avx512f avx512_bf16 amx_bf16 amx_tile", ["AVX-512", "AMX"]),
        ("Features : fp asimd bf16", ["Neon", "bf16"]),
        ("flags : sse2", []),
    ],
)
def test_units_are_those_that_the_processor_names(
    flags: str, units: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_machine", lambda: f"x86_64\n{flags}")
    assert build.units() == units


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_files_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--name"):
        record.path(tmp_path, name)


def _row(
    ours: float = 30.0, tutorial: float | None = 10.0, careful: float | None = None, note: str = ""
) -> dict[str, Any]:
    sides = {"ours": Measured((ours, ours + 2), {})}
    if tutorial is not None:
        sides["tutorial"] = Measured((tutorial, tutorial), {"num_workers": 2})
    if careful is not None:
        sides["careful"] = Measured((careful, careful), {})
    return record.row("Thing", "images/s", True, note, sides)


def test_the_file_has_all_that_its_table_needs(tmp_path: Path) -> None:
    path = record.path(tmp_path, "cpu-x")
    record.begin(path, MACHINE, DATA)
    record.keep(path, row=("thing", _row()))
    record.keep(path, limits={"copy bandwidth (TB/s)": 4.3})
    content = json.loads(path.read_text())
    assert set(content) == {"schema", "machine", "data", "limits", "rows"}
    row = content["rows"]["thing"]
    assert set(row) == {"what", "unit", "more_is_better", "note", "sides", "commit", "dirty"}
    assert row["sides"] == {
        "ours": {"values": [30.0, 32.0], "median": 31.0, "ratio": None, "facts": {}},
        "tutorial": {
            "values": [10.0, 10.0],
            "median": 10.0,
            "ratio": {"value": 3.1, "low": 3.0, "high": 3.2},
            "facts": {"num_workers": 2},
        },
    }
    assert record.read_all(tmp_path) == {path: content}
    assert "copy bandwidth (TB/s) 4.30" in render.table(content)


def test_a_second_bench_replaces_only_its_own_rows(tmp_path: Path) -> None:
    path = record.path(tmp_path, "cpu-x")
    record.begin(path, MACHINE, DATA)
    record.keep(path, row=("one", _row(1.0)))
    record.keep(path, row=("two", _row(2.0)))
    record.begin(path, MACHINE, DATA)
    record.keep(path, row=("two", _row(5.0)))
    assert {name: row["sides"]["ours"]["values"][0] for name, row in record.read(path)["rows"].items()} == {
        "one": 1.0,
        "two": 5.0,
    }


def test_rows_of_another_machine_go_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record.path(tmp_path, "cpu-x")
    record.begin(path, MACHINE, DATA)
    record.keep(path, row=("one", _row()))
    record.begin(path, MACHINE | {"versions": {"torch": "2.12.0"}}, DATA)
    assert record.read(path)["rows"] == {}
    assert "its 1 rows go" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}'])
def test_a_file_that_is_no_bench_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bench" / "x.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match="remove it"):
        record.read_all(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (4.5, "4.50"), (21345.6, "21,300"), (999.6, "1,000"), (0.0, "0"), (123.4, "123")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert render.number(value) == text


def _content(**rows: dict[str, Any]) -> dict[str, Any]:
    return {"schema": 2, "machine": MACHINE, "data": DATA, "limits": None, "rows": rows}


def test_the_table_has_a_line_a_row_and_names_the_machine() -> None:
    rows = {"a": _row(note="Small."), "b": _row(tutorial=None), "c": _row(careful=15.5, note="Small.")}
    shown = render.table(_content(**rows))
    lines = shown.splitlines()
    ratio = "3.10 (3.00 to 3.20)"
    assert lines[2] == f"| Thing [1] | images/s | 31.0 | 10.0 | {ratio} | \u2013 | \u2013 |"
    assert lines[3] == "| Thing | images/s | 31.0 | \u2013 | \u2013 | \u2013 | \u2013 |"
    assert lines[4] == f"| Thing [1] | images/s | 31.0 | 10.0 | {ratio} | 15.5 | 2.00 (1.94 to 2.06) |"
    assert render.table(_content(a=_row())).splitlines()[2] == f"| Thing | images/s | 31.0 | 10.0 | {ratio} |"
    assert shown.count("[1] Small.") == 1
    for fact in ("Intel(R) Xeon(R) Processor", "2 cores", "2 threads", "torch 2.11.0", "had 2 workers", "commit "):
        assert fact in shown
    assert "synthetic" not in shown
    assert "synthetic data: cifar10" in render.table(_content(a=_row()) | {"data": {"cifar10": "synthetic"}})


def test_readme_table_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n")
    render.write([_content(a=_row())], page)
    once = page.read_text()
    assert once.startswith("before\n<!-- bench:begin -->\n| what |")
    assert once.endswith("\n<!-- bench:end -->\nafter\n") and "old" not in once
    render.write([_content(a=_row())], page)
    assert page.read_text() == once


def test_limits_are_rates_of_the_device() -> None:
    device = torch.device("cpu")
    assert limits.copy_bandwidth(device, 2**12) > 0
    assert limits.matrix_rate(device, torch.float32, 16) > 0
    assert limits.launch_rate(device, 10) > 0
