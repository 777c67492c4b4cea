"""What an override asks for is what runs: it replaces what it contradicts, or is refused before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_runs import config, job, make, names, quadrants, torch_as_it_was

from bnstudy import cli
from bnstudy.config import compose, project
from bnstudy.config.errors import ComposeError
from bnstudy.config.overrides import quoted
from bnstudy.store import paths, reduction
from bnstudy.store.runs import Store
from bnstudy.sweep import tables
from bnstudy.training import preflight

GRID = "lenet_lr_grid"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


ODD = "josé's [a,b] (c) {d} ${e} x=y # % : \\"


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12))
@example(text=ODD)
@example(text="\\${x}")
@example(text="\\\\'\\")
@example(text="???")
@example(text="null")
def test_any_path_is_itself_in_hydras_grammar(text):
    made = compose.one(["model=mlp", f"runtime.data_root={quoted(Path(text))}"])
    assert Path(made.runtime.data_root) == Path(text)


def rates(*overrides):
    return sorted({made.optim.lr for made in compose.expand(GRID, "quick", overrides)})


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["optim={lr:0.123}"], [0.123]),
        (["optim={lr:0.123,momentum:0.5}"], [0.123]),
        (["optim={lr:0.1},{lr:0.2}"], [0.1, 0.2]),
        (["optim.lr=1", "optim={lr:2}"], [2.0]),
        (["optim={lr:2}", "optim.lr=1"], [1.0]),
        (["optim.lr=2", "optim.lr=1"], [1.0]),
        (["optim.lr=sort(3,1)"], [1.0, 3.0]),
    ],
)
def test_an_override_takes_the_place_of_an_axis_however_it_is_written(plus, overrides, wanted):
    assert rates(*(plus + text for text in overrides)) == wanted


def test_a_mapping_leaves_the_axes_that_it_does_not_name():
    configs = compose.expand(GRID, "quick", ["optim={momentum:0.5}"])
    assert len({made.optim.lr for made in configs}) == 8 and {made.optim.momentum for made in configs} == {0.5}


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("diverging_update", "sweep.rows.moments_along_step='depth == 8'"),
        ("stability_largest", "sweep.runs_of=[]"),
        ("diverging_update", "sweep.outcome_by=losses"),
    ],
)
def test_other_rows_of_the_presets_runs_have_tables_of_their_own(name, override, tmp_path):
    assert tables.workspace_of(name, "quick", [], tmp_path) == tmp_path / "quick"
    assert tables.workspace_of(name, "quick", [override], tmp_path) == tmp_path / paths.CUSTOM


@pytest.mark.parametrize("value", ["${optim.lr}", "${oc.select:optim.lr}"])
def test_a_value_that_follows_the_axis_of_a_search_is_refused(value, tmp_path, monkeypatch):
    """The runs that a search adds would have the value of the grid's first run."""
    monkeypatch.setattr(project, "SWEEPS", tmp_path)
    probe = f"probes: {{covariate_shift: {{at: [0], options: {{step_size: '{value}'}}}}}}\n"
    params = "hydra: {sweeper: {params: {optim.lr: '0.1,0.2'}}}\n"
    head = f"# Mine.\ndefaults: [config, override probes: none, _self_]\n{probe}{params}"
    (tmp_path / "mine.yaml").write_text(head + "sweep: {search: {axis: optim.lr}}\n")
    with pytest.raises(ComposeError, match=r"probes\.covariate_shift\.options.*optim\.lr.*sweep\.search\.axis=null"):
        compose.expand("mine", "full")
    assert len(compose.expand("mine", "full", ["probes.covariate_shift.options.step_size=0.1"])) == 2
    of_first, of_second = compose.expand("mine", "full", ["sweep.search.axis=null"])
    assert of_first.probes != of_second.probes
    (tmp_path / "mine.yaml").write_text(head + "sweep: {search: {axis: optim.weight_decay}}\n")
    assert len(compose.expand("mine", "full", ["optim.weight_decay=0.1"])) == 2


@pytest.mark.parametrize(
    ("overrides", "key", "remedy"),
    [
        (["optim={lr:0.1},{momentum:0.2}"], "optim.lr", "set it in each"),
        (["norm={name:none}"], "norm.name", "norm=NAME"),
        (["norm.name=none"], "norm.name", "norm=NAME"),
        (["model={name:mlp}"], "model.name", "model=NAME"),
        (["arm=batch_0.003"], "optim.lr", "arm=batch_0.003 optim.lr=0.003"),
        (["arm=batch", "optim.lr=1", "train.epochs=1"], "norm", "arm=batch norm=batch"),
        (["recipe=resnet", "optim.lr=0.1"], "train.epochs", "train.epochs=165"),
        (["seed=range(0,0)"], "seed", "range(3)"),
        (["seed=range(0,1000000000)"], "seed", "range(3)"),
        (["seed=range(999)", "optim.lr=range(1,99)"], GRID, "fewer values"),
        (["~seed"], "~seed", "give the key a value"),
        (["~norm"], "~norm", "give the key a value"),
        (["data=null"], "data", "fashion_mnist"),
        (["arm=null"], "arm", "~arm chooses none"),
        (["train.epochs=0"], "train.epochs", "1 or more"),
        (["train.steps=0"], "train.steps", "1 or more"),
        (["sweep.tables=[epochs,epochz]"], "'epochz'", "there are"),
    ],
)
def test_what_contradicts_the_sweep_is_refused_with_the_remedy(overrides, key, remedy, monkeypatch):
    monkeypatch.setattr(compose, "MAX_RUNS", 10_000)
    with pytest.raises(ValueError) as caught:
        compose.expand(GRID, "quick", overrides)
    assert key in str(caught.value) and remedy in str(caught.value), str(caught.value)
    assert "override must be" not in str(caught.value)


@pytest.mark.parametrize("override", ["train.epochs=1", "train.epochs=1,2"])
def test_epochs_in_whose_place_a_sweep_has_steps_are_refused(override):
    with pytest.raises(ComposeError, match=r"train\.epochs=1.*: train\.steps=80 takes its place; give .*steps=null"):
        compose.expand("correlation_training", "quick", [override])
    made = compose.expand("correlation_training", "quick", ["train.steps=null", override])
    assert {each.train.steps for each in made} == {None} and 1 in {each.train.epochs for each in made}
    with pytest.raises(ComposeError, match=r"train\.steps=80 takes its place"):
        compose.point("correlation_training", "quick", [override, "norm=batch", "seed=0", "optim.lr=0.1"])


def test_a_group_beside_the_values_that_it_sets_is_taken():
    given = ["arm=batch_0.003", "norm=batch", "optim.lr=0.003", "train.epochs=1"]
    (made,) = compose.expand(GRID, "quick", [*given, "seed=0"])
    assert (made.norm["name"], made.optim.lr, made.train.epochs) == ("batch", 0.003, 1)
    assert {made.optim.warmup for made in compose.expand(GRID, "quick", ["variant=warm_up"])} == {0.1}


def test_probes_that_the_user_chooses_or_drops_are_not_brought_back_by_the_preset():
    assert any("loss_along_step" in made.probes for made in compose.expand("first_steps", "quick"))
    for override in ("probes=none", "~probes.loss_along_step"):
        assert not any("loss_along_step" in made.probes for made in compose.expand("first_steps", "quick", [override]))


BEYOND = {
    "seed=9223372036854775808": "seed = 9223372036854775808: give 0 to 9223372036854775807",
    "seed=-1": "seed = -1: give 0 or more",
    f"seed={'9' * 400}": "(400 characters): give 0 to",
    f"optim.lr={'9' * 400}": "optim.lr = 9999",
    f"model.depth={'9' * 400}": "model.depth = 9999",
    "optim.lr=1e39": "optim.lr = 1e+39: training computes in float32",
    "optim.lr=1e-42": "optim.lr = 1e-42: training computes in float32",
    "optim.weight_decay=1e39": "optim.weight_decay = 1e+39: training computes in float32",
    "init_scale=1e300": "init_scale = 1e+300: training computes in float32",
    "optim.momentum=0.99999999999": "optim.momentum = 0.99999999999: a velocity decays only below 1",
    "optim.decay=1e-30": "optim.decay = 1e-30: at a milestone optim.lr becomes",
    "optim.decay=1e30": "optim.decay = 1e+30: at a milestone optim.lr becomes",
    "train.epochs=2147483648": "train.epochs = 2147483648: give 0 to 2147483647",
    "runtime.threads=1000000": "runtime.threads = 1000000: give 1 to",
    "data.name='a\0b'": "data.name = 'a\\x00b': ",
    f"data.name={'a' * 300}": "give the name of a folder",
}


@pytest.mark.parametrize("override", BEYOND)
def test_what_no_run_can_be_is_refused_with_its_key(override):
    with pytest.raises(ValueError) as caught:
        compose.one([override])
    assert BEYOND[override] in str(caught.value), str(caught.value)


def test_the_largest_seed_trains_and_has_tables(root, tmp_path):
    with torch_as_it_was():
        last = config(root, seed=2**63 - 1, train__steps=1)
        make([last], tmp_path)
        reduction.reduce(Store(tmp_path), names([last]), paths.tables(tmp_path, "s"))
    import pandas as pd

    assert list(pd.read_parquet(paths.tables(tmp_path, "s") / "runs.parquet")["seed"]) == [2**63 - 1]


def test_a_number_for_text_is_text():
    """A shell takes the quotes of model.hidden='64' away."""
    assert compose.one(["model=mlp", "model.hidden=64"]) == compose.one(["model=mlp", "model.hidden='64'"])
    (wide, narrow) = compose.expand("init", "quick", ["model=mlp", "norm=batch", "seed=0", "model.hidden=64,8"])
    assert (wide.model["hidden"], narrow.model["hidden"]) == ("64", "8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"data__batch_size": 26, "norm": {"name": "ghost_batch", "size": 5}},
            r"^data\.batch_size = 26, norm\.size = 5: ghost_batch needs two or more",
        ),
        (
            {"data__batch_size": 25, "data__num_train": 61, "norm": {"name": "ghost_batch", "size": 5}},
            r"^data\.num_train = 61 in mini-batches of 25 leaves 11 images for the last, norm\.size = 5: ",
        ),
        (
            {"probes": {"weights": {"at": [0], "batch_size": 1}}},
            r"^probes\.weights\.batch_size = 1: batch needs two or more",
        ),
    ],
)
def test_batches_that_a_norm_does_not_take_are_refused_beforehand(root, changes, words):
    with torch_as_it_was(), pytest.raises(ValueError, match=words):
        preflight.check([job(config(root, **changes))])


@pytest.mark.parametrize(
    "changes",
    [
        {"data__batch_size": 26, "norm": {"name": "ghost_batch", "size": 13}, "train__steps": 3},
        {"probes": {"weights": {"at": [0], "batch_size": 1}}, "norm": {"name": "none"}},
        {"data__batch_size": 26, "norm": {"name": "ghost_batch", "size": 5}, "train__steps": 0},
    ],
)
def test_batches_that_a_norm_takes_or_never_sees_are_not(root, changes):
    with torch_as_it_was():
        preflight.check([job(config(root, **changes))])


def test_what_is_given_twice_is_said_and_the_last_counts(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "optim.lr=0.1", "optim.lr=-2", "--results", str(tmp_path / "r")])
    error = capsys.readouterr().err
    assert "optim.lr=0.1 does not count: optim.lr=-2 follows it" in error and "optim.lr = -2" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", "init", "--jobs", "9" * 400],
        ["sweep", "init", "--jobs", "²"],
        ["sweep", "init", "--budget-min", "1e300"],
        ["sweep", "init", "--budget-min", "nan"],
    ],
)
def test_numbers_of_options_are_refused_in_words(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == cli.EXIT_USAGE
    assert re.search(r"argument --\S+: ", capsys.readouterr().err)


def test_the_refusal_is_a_compose_error_that_names_the_axis():
    with pytest.raises(ComposeError, match=r"optim\.lr=0\.003"):
        compose.expand(GRID, "quick", ["arm=batch_0.003"])
