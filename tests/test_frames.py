"""Tables read back: joined with their runs, spread over seeds, holes and origins told."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from bnstudy.analysis import frames


def test_rows_carry_their_run_and_a_table_s_own_column_keeps_its_name() -> None:
    sums = frames.load(synthetic.shared(), "init", "conv_gradient_sums", "depth == 18")
    assert set(sums["depth"]) == {18} and set(sums["run_depth"]) == {110}  # the layer's, the network's
    assert len(sums) == 10 and set(sums["norm"]) == {"batch", "none"}
    assert set(sums["seed"]) == set(synthetic.SEEDS) and not sums["stand_in"].any()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(frames.MissingTable, match=r"tables/init/runs\.parquet is missing: make sweep-init PRESET=full"):
        frames.runs(tmp_path, "init")
    other = "none of the 1090 rows of table 'conv_gradient_sums' is of 'depth == 999'; make sweep-init PRESET=full"
    with pytest.raises(frames.MissingTable, match=other):
        frames.load(synthetic.shared(), "init", "conv_gradient_sums", "depth == 999")
    broken = synthetic.copy(synthetic.shared(), tmp_path)
    path = broken / "tables" / "init" / "conv_gradient_sums.parquet"
    pd.read_parquet(path).iloc[:0].to_parquet(path)
    with pytest.raises(frames.MissingTable, match=r"has no rows: .* make sweep-init PRESET=full"):
        frames.load(broken, "init", "conv_gradient_sums", "depth == 999")
    (broken / "tables" / "init" / "conv_gradient_sums.parquet").write_bytes(b"PAR1")
    with pytest.raises(frames.MissingTable, match="cannot be read"):
        frames.load(broken, "init", "conv_gradient_sums")


@pytest.mark.parametrize(
    ("workspace", "commands"),
    [
        ("results", ["make sweep-init PRESET=full trains it", "make publish SWEEP=init adds it"]),
        ("results/quick", ["make sweep-init writes it"]),
        ("results/full", ["make sweep-init PRESET=full writes it"]),
        ("results/custom", ["make sweep-init writes it", "overrides"]),
        ("results/custom/my own", ["make sweep-init NAME='my own' writes it", "overrides"]),
    ],
)
def test_the_command_that_is_named_writes_to_this_workspace(
    tmp_path: Path, workspace: str, commands: list[str]
) -> None:
    with pytest.raises(frames.MissingTable) as caught:
        frames.runs(tmp_path / workspace, "init")
    message = str(caught.value)
    assert all(command in message for command in commands)
    assert ("publish" in message) == (workspace == "results")
    path = tmp_path / workspace / "tables" / "init" / "runs.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1")
    with pytest.raises(frames.MissingTable, match="git" if workspace == "results" else "make sweep-init"):
        frames.runs(tmp_path / workspace, "init")


def test_messages_name_no_folder_of_this_machine(tmp_path: Path) -> None:
    with pytest.raises(frames.MissingTable) as caught:
        frames.load(tmp_path, "init", "weights")
    assert str(tmp_path) not in str(caught.value)


def test_holes_and_origin() -> None:
    runs = frames.runs(synthetic.shared(), "lenet_lr_grid")
    assert frames.holes(runs).empty
    runs.loc[0, "status"] = "failed"
    runs.loc[1, "dirty"] = "abcd1234"
    assert frames.holes(runs)["run_id"].tolist() == [runs.loc[0, "run_id"]]
    told = frames.origin([runs])
    assert told.num_runs == 48 and told.commits == ("01234567", "01234567+")
    assert told.data_label == "fashion_mnist, arrays, sha256 1a2b3c4d" and not told.synthetic
    runs.loc[2, "commits"] = f"{'f' * 40} {runs['commit'][2]}"  # it was resumed with other code
    assert frames.origin([runs]).commits == ("01234567", "01234567+", "ffffffff")
    assert frames.origin([runs.drop(columns="commits").assign(commits=None)]).commits == ("01234567", "01234567+")
    runs.loc[5, "stand_in"] = True  # one run is enough
    assert frames.origin([runs, runs]).data_label.startswith("synthetic data")


def test_a_source_s_title_names_the_data_and_tables_without_one_still_read(tmp_path: Path) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path)
    path = workspace / "tables" / "lenet_lr_grid" / "runs.parquet"
    runs = pd.read_parquet(path)
    runs.drop(columns="data_title").to_parquet(path)
    assert frames.origin([frames.load(workspace, "lenet_lr_grid", "runs")]).data == (
        "fashion_mnist, arrays, sha256 1a2b3c4d",
    )
    runs["data_title"] = ["Fashion-MNIST (all but one)"] * 47 + [None]
    runs.to_parquet(path)
    frame = frames.load(workspace, "lenet_lr_grid", "runs")
    assert frames.data_names(frame).tolist() == ["Fashion-MNIST (all but one)"] * 47 + ["fashion_mnist"]
    assert frames.origin([frame]).data_label == (
        "Fashion-MNIST (all but one), arrays, sha256 1a2b3c4d, fashion_mnist, arrays, sha256 1a2b3c4d"
    )


@given(st.lists(st.floats(-1e150, 1e150) | st.sampled_from([math.nan, math.inf]), max_size=12))
def test_spread_is_median_and_range_of_what_is_defined(values: list[float]) -> None:
    spread = frames.spread(values)
    defined = sorted(v for v in values if not math.isnan(v))
    assert spread.n == len(defined)
    if defined:
        assert (spread.low, spread.high) == (defined[0], defined[-1])
        middle = defined[(len(defined) - 1) // 2], defined[len(defined) // 2]
        assert middle[0] <= spread.median <= middle[1] or any(map(math.isinf, middle))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (251.8, "252"),
        (7.5e-5, "7.5e\u22125"),
        (-0.25, "\u22120.25"),
        (12345.6, "12346"),
        (1e6, "1e6"),
        (1.0, "1"),
        (0.00823, "0.00823"),
        (200.0, "200"),
        (math.nan, "\u2013"),
        (math.inf, "∞"),
    ],
)
def test_numbers_as_text(value: float, text: str) -> None:
    assert frames.number(value) == text


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_a_number_s_text_is_within_half_a_per_cent(value: float) -> None:
    assert float(frames.number(value).replace("\u2212", "-")) == pytest.approx(value, rel=5.1e-3)


def test_a_published_curve_reads_its_nan() -> None:
    folder = synthetic.FINDINGS.parent / "paper_curves"
    curve = frames.published(folder, "fig5")
    at_six = curve.query("norm == 'none' and statistic == 'std' and layer == 6")
    assert at_six["ln_value"].tolist() == [-1.252] and curve["ln_low"].isna().any()
    with pytest.raises(frames.MissingTable, match="fig99"):
        frames.published(folder, "fig99")
