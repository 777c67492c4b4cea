"""The commands: what they print, what they return, and that bad input gets a sentence and no traceback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from small_runs import launch_here, names, quadrants, torch_as_it_was

from bnstudy import cli
from bnstudy.analysis import frames, report
from bnstudy.config import compose
from bnstudy.data import sources, synthetic
from bnstudy.store import files, paths, status
from bnstudy.store.runs import RunEnded, State, Store
from bnstudy.sweep import pool, preview, specs, study, survey, tables
from bnstudy.sweep.specs import kind
from bnstudy.sweep.tally import Speeds
from bnstudy.tracking.console import Progress
from bnstudy.training import construct, runner, trainer

TINY = ["model=mlp", "model.hidden='16'", "data.name=quadrants", "data.batch_size=25", "data.augment=false"]
TINY += ["train.steps=3", "probes=none", "tracking.mode=off", "runtime.device=cpu"]
SMALL = ["norm=batch,none", "seed=0", "train.steps=2", "train.epochs=1", "optim.lr=0.1", "probes=none"]
SMALL += ["data.num_train=64", "data.batch_size=32", "tracking.mode=off", "runtime.device=cpu"]


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    """Sweeps run in this process, reports are not drawn, and the folder is nobody's results."""
    monkeypatch.setattr(pool, "launch", launch_here)
    monkeypatch.setattr(report, "write", lambda workspace, **options: 0)
    monkeypatch.setattr(study, "log_figures", lambda *arguments, **options: None)
    monkeypatch.chdir(tmp_path)
    with torch_as_it_was():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


def main(*arguments):
    """The exit status."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in arguments])
    return ended.value.code or 0


def test_help_is_quick_and_names_every_command():
    script = (
        "import sys; from bnstudy.cli import main\ntry: main(['--help'])\nexcept SystemExit as end: code = end.code"
    )
    check = "assert not {'torch', 'hydra', 'numpy', 'pandas'} & set(sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", f"{script}\n{check}"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    for command in ("run", "sweep", "reproduce", "status", "figures", "report", "publish", "data", "dashboard", "sync"):
        assert re.search(rf"\n    {command}\b", done.stdout)
    assert done.stderr == ""


def test_every_command_has_help(capsys):
    for command in ("run", "sweep", "reproduce", "status", "figures", "report", "publish", "data", "sync"):
        assert main(command, "--help") == 0
        assert f"usage: bnstudy {command}" in capsys.readouterr().out
    assert main("--version") == 0


def test_usage_has_what_a_command_is_of_before_the_overrides(capsys):
    for command, what in (("sweep", "SWEEP"), ("suite", "SUITE"), ("wandb-sweep", "SWEEP")):
        assert main(command, "--help") == 0
        assert f"{what} [KEY=VALUE ...]" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["fly"], ["fly"]),
        (["run", "model=mlp", "runtime.results=elsewhere"], ["runtime.results", "--results=FOLDER"]),
        (["sweep", "init", "+runtime={results: elsewhere}"], ["runtime.results", "--results=FOLDER"]),
        (["run", "model=mlp", "--preset", "full"], ["--preset full", "leave it out"]),
        (["run", "-m", "optim.lr=1,2", "--preset", "full"], ["--preset full", "leave it out"]),
        (["run", "-m", "optim.lr=1,2", "--sweep", "init"], ["-m and --sweep init", "give one"]),
        (["sweep", "optim.lr=1,2", "--preset", "full"], ["--preset full", "leave it out"]),
        (["report", "--preset", "quick", "--name", "mine"], ["--preset quick --name mine", "give one"]),
        (["run", "--fast"], ["unknown option --fast", "run --help"]),
        (["run", "--lr=0.1"], ["unknown option --lr=0.1", "without dashes, as optim.lr=0.1"]),
        (["run", "lr=0.1"], ["lr: there is no such key; did you mean optim.lr?"]),
        (["status", "seed=1"], ["no sweep 'seed=1'"]),
        (["run", "optim.lrr=1"], ["optim.lrr"]),
        (["run", "optim.lr=-1"], ["optim.lr = -1"]),
        (["run", "norm=bach"], ["bach", "batch_scratch"]),
        (["run", "optim.lr"], ["optim.lr"]),
        (["sweep", "nonsense"], ["nonsense", "lenet_lr_grid"]),
        (["sweep", "init", "--preset", "huge"], ["invalid choice: 'huge'", "'quick', 'full'"]),
        (["sweep", "init", "--jobs", "0"], ["'0' is not a number of 1 or more"]),
        (["sweep", "init", "--jobs", "many"], ["many"]),
        (["publish", "nonsense"], ["nonsense"]),
        (["publish", "init", "seed=0"], ["unknown arguments: seed=0"]),
        (["sweep", "init", "--preset", "custom"], ["invalid choice: 'custom'"]),
        *(([name, "--preset", "huge"], ["invalid choice: 'huge'"]) for name in ("figures", "report", "status")),
        *(([name, "--preset", "huge"], ["invalid choice: 'huge'"]) for name in ("reproduce", "sweep")),
        (["run", "data.name=nowhere", "runtime.download=false"], ["'nowhere' is not available", "Tried:"]),
        (["sweep", "init", "runtime.download=false"], ["'cifar10' is not available"]),
    ],
)
def test_bad_input_gets_a_sentence(arguments, words, capsys, tmp_path):
    places = ["--data-root", tmp_path / "empty", "--results", tmp_path / "results"]
    assert main(*arguments, *(places if arguments and arguments[0] in ("run", "sweep") else [])) == cli.EXIT_USAGE
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and captured.err.strip()
    for word in words:
        assert word in captured.err
    assert not (tmp_path / "results").exists()


def test_a_run_is_made_once(root, tmp_path, capsys):
    command = ["run", *TINY, "--data-root", root, "--results", tmp_path / "with space, and 'quotes'"]
    assert main(*command) == 0
    first = capsys.readouterr()
    assert "completed, in" in first.out and "test accuracy" in first.out
    assert main(*command) == 0
    again = capsys.readouterr()
    assert "completed already, in" in again.out and again.err == ""


def test_a_diverged_run_is_a_result(root, tmp_path, capsys):
    wild = ["norm=none", "optim.lr=1e9", "train.steps=5"]
    assert main("run", *TINY, *wild, "--data-root", root, "--results", tmp_path) == 0
    assert "diverged" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [0, 3])
def test_what_is_shown_of_one_run_is_a_share_that_ends_whole(root, tmp_path, capsys, steps):
    once = [text for text in TINY if not text.startswith("train.steps")]  # what is given twice is said
    assert main("run", *once, f"train.steps={steps}", "--data-root", root, "--results", tmp_path) == 0
    first, *_, last = capsys.readouterr().err.splitlines()
    (name,) = Store(tmp_path).run_ids()
    assert first == f"{name}: 0 %" and last.startswith(f"{name}: 100 %, took ") and last.endswith(", completed")


def test_what_a_checkpoint_had_is_not_counted_as_this_sessions_pace(root, tmp_path, monkeypatch, capsys):
    def half_done(group, results, *, threads, report, stop):
        report(50, 100)
        return [RunEnded("", State.completed)]

    told = []
    monkeypatch.setattr(runner, "train_group", half_done)
    monkeypatch.setattr(study, "_outcome", lambda *_: "")
    monkeypatch.setattr(Progress, "resumed", lambda self, part: told.append(part))
    assert main("run", *TINY, "--data-root", root, "--results", tmp_path) == 0
    assert told == [0.5]


def test_a_damaged_run_is_named_and_made_again(root, tmp_path, capsys):
    command = ["run", *TINY, "--data-root", root, "--results", tmp_path]
    assert main(*command) == 0
    (name,) = Store(tmp_path).run_ids()
    (paths.run(tmp_path, name) / "steps.parquet").write_bytes(b"")
    capsys.readouterr()
    assert main("show", name, "--results", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "steps.parquet" in shown and "run its sweep again" in shown
    assert main(*command) == 0
    assert f"{name}: its files are not what was written" in capsys.readouterr().out
    assert Store(tmp_path).state(name) == State.completed


def test_every_command_that_composes_or_draws_takes_own_components():
    """All that have a place for images or a sweep, but for the download and what only reads a run."""
    takes = {name for name, command in cli.COMMANDS.items() if cli.COMPONENTS in command.options}
    assert takes >= {name for name, command in cli.COMMANDS.items() if cli.DATA in command.options} - {"data"}
    assert takes >= {"figures", "report", "publish", "wandb-sweep", "wandb-agent"}


def test_a_data_set_that_cannot_be_fetched_does_not_keep_back_the_next(tmp_path, capsys, monkeypatch, root):
    there = sources.locate("quadrants", root, download=False)

    def locate(name, *_):
        if name == sources.NAMES[0]:
            raise sources.DataError(f"{name}: no network")
        return there

    monkeypatch.setattr(sources, "locate", locate)
    assert main("data", "--data-root", tmp_path) == cli.EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out.startswith("quadrants: ") and f"{sources.NAMES[0]}: no network" in captured.err


@pytest.fixture
def stumbling(monkeypatch):
    """Networks with BN on mini-batches of 50 images cannot be built."""
    build = construct.build_network

    def stumble(config, shape, num_classes):
        if config.norm["name"] == "batch" and config.data.batch_size == 50:
            raise RuntimeError("a layer stumbled")
        return build(config, shape, num_classes)

    monkeypatch.setattr(trainer, "build_network", stumble)


def test_a_failed_run_exits_1_and_is_tried_again(root, tmp_path, capsys, stumbling):
    command = ["run", *TINY, "norm=batch", "data.batch_size=50", "--data-root", root, "--results", tmp_path]
    for _ in range(2):
        assert main(*command) == cli.EXIT_FAILED
        captured = capsys.readouterr()
        assert "failed" in captured.out and "a layer stumbled" in captured.err


def test_a_last_mini_batch_of_one_image_is_bad_input(root, tmp_path, capsys):
    """BN has no statistics of it; the update that would meet it is the fourth."""
    command = ["run", *TINY, "norm=batch", "data.batch_size=33", "--data-root", root, "--results", tmp_path]
    assert main(*command) == 0
    assert main(*command, "train.steps=4") == cli.EXIT_USAGE
    assert "data.num_train = 100 in mini-batches of 33 leaves one image" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_results_that_cannot_be_written_get_a_sentence(root, data_root, tmp_path, capsys, command):
    (tmp_path / "runs").write_text("a file where a folder belongs")
    what = ["run", *TINY] if command == "run" else ["sweep", "lenet_lr_grid", "--preset", "quick", *SMALL]
    data = root if command == "run" else data_root
    assert main(*what, "--data-root", data, "--results", tmp_path) == cli.EXIT_FAILED
    error = capsys.readouterr().err
    assert "Traceback" not in error and str(tmp_path / "runs") in error and "Not a directory" in error


@pytest.mark.parametrize("command", ["run", "sweep", "status"])
@pytest.mark.parametrize("below", ["", "deep/down"])
def test_results_that_are_a_file_are_bad_input(root, data_root, tmp_path, capsys, command, below):
    (tmp_path / "report.html").write_text("a file where a folder belongs")
    what = {"run": ["run", *TINY], "sweep": ["sweep", "lenet_lr_grid", *SMALL], "status": ["status"]}[command]
    places = ["--data-root", root if command == "run" else data_root, "--results", tmp_path / "report.html" / below]
    assert main(*what, *places) == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert f"--results {places[-1]}: {tmp_path / 'report.html'} is a file; name a folder" in error


def test_results_that_cannot_be_made_are_named_before_a_process_starts(data_root, capsys):
    """/proc takes no folder, although root may write to it as far as its rights say."""
    nowhere = "/proc/nowhere"
    assert main("sweep", "lenet_lr_grid", *SMALL, "--data-root", data_root, "--results", nowhere) == cli.EXIT_FAILED
    captured = capsys.readouterr()
    assert "/proc" in captured.err and "ended" not in captured.out + captured.err


def test_results_of_a_name_that_is_none_are_refused(tmp_path, capsys):
    (tmp_path / "custom" / "mine" / "tables").mkdir(parents=True)
    assert main("report", "--name", "nope", "--results", tmp_path) == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert "--name nope" in error and "there are: mine" in error
    assert not (tmp_path / "custom" / "nope").exists()


def test_nothing_is_said_to_a_reader_who_has_left(tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "bnstudy", "status", "--results", str(tmp_path)]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (cli.EXIT_FAILED, "")


def test_images_of_ones_own_are_named_where_a_data_set_is_none(capsys):
    assert main("run", "data=mine", "--dry-run") == cli.EXIT_USAGE
    assert "data.name=mine" in capsys.readouterr().err


REFUSED = [
    (["model=resnet", "model.depth=21"], "model.depth = 21: a CIFAR ResNet has 6n + 2 layers"),
    (["model=lenet", "model.pooling=foo"], "model.pooling = 'foo': choose one of max, average"),
    (["norm.eps=-1"], "norm.eps = -1: added to the variance, it must be above 0"),
    (["norm.where='nowhere*'"], "norm.where = 'nowhere*': 'nowhere*' matches none of"),
    (
        ["probes.gradient_tails.options.num_bins=0"],
        "probes.gradient_tails.options: num_bins = 0, num_bootstrap = 100: give",
    ),
    (
        ["probes.gradient_correlation.options.batch_sizes=[x]"],
        "batch_sizes = ['x']: give such values as [1, 16, 32, 128]",
    ),
    (["probes.weights.batch_size=60000"], "probes.weights.batch_size = 60000: give 1 to"),
    (["data.num_train=60000"], "data.num_train = 60000: give 1 to"),
    (["runtime.device=cudax"], "runtime.device = 'cudax': give auto, cpu, cuda or cuda:N"),
    (["runtime.device=cuda:77"], "runtime.device = 'cuda:77': torch sees"),
    (["runtime.engine=stacked", "optim.lr=0.1"], "runtime.engine = 'stacked': "),
    (["precision=tf32", "runtime.device=cpu"], "precision = 'tf32': the CPU has no such unit"),
]


@pytest.mark.parametrize(("bad", "words"), REFUSED)
def test_what_makes_no_run_is_bad_input(root, tmp_path, capsys, bad, words):
    given = [text for text in TINY if not text.startswith("model") or not bad[0].startswith("model=")]
    assert main("run", *given, *bad, "--data-root", root, "--results", tmp_path / "results") == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not (tmp_path / "results").exists()


def test_one_bad_value_of_an_axis_is_found_before_the_good_ones_are_made(data_root, tmp_path, capsys):
    for axis in ("data.num_train=64,60000", "norm.eps=1e-5,0", "model.padding=0,2,-1"):
        what = ["sweep", "lenet_lr_grid", *SMALL, "model=lenet", "norm=batch", axis]
        assert main(*what, "--data-root", data_root, "--results", tmp_path / "results") == cli.EXIT_USAGE
        key, bad = axis.partition("=")[0], axis.rpartition(",")[2]
        assert f"bnstudy: {key} = {bad}: " in capsys.readouterr().err
        assert not (tmp_path / "results").exists()


def test_ctrl_c_is_130(root, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "train_one", interrupted)
    assert main("run", *TINY, "--data-root", root, "--results", tmp_path) == cli.EXIT_INTERRUPTED
    assert "the same command resumes there" in capsys.readouterr().err


@pytest.fixture
def small(monkeypatch):
    """Every sweep with few and short runs, as if its presets said so."""
    expand = compose.expand
    monkeypatch.setattr(
        compose, "expand", lambda name, preset, overrides: expand(name, preset, [*SMALL, "model=lenet", *overrides])
    )


@pytest.mark.slow
def test_a_sweep_is_made_once_and_reduced(data_root, tmp_path, capsys, small):
    command = ["sweep", "lenet_lr_grid", "--preset", "quick", "--data-root", data_root, "--results", tmp_path]
    assert main(*command) == 0
    assert "lenet_lr_grid: 2 runs, 0 done, 2 to train" in capsys.readouterr().out
    tables = paths.tables(paths.workspace(tmp_path, "quick"), "lenet_lr_grid")
    before = {path.name: path.read_bytes() for path in tables.iterdir()}
    assert set(before) == {"runs.parquet", "epochs.parquet"}  # what the sweep keeps
    assert main(*command) == 0
    captured = capsys.readouterr()
    assert "lenet_lr_grid: 2 runs, 2 done, 0 to train" in captured.out and str(tables) in captured.out
    assert {path.name: path.read_bytes() for path in tables.iterdir()} == before


@pytest.fixture
def sweep(data_root, tmp_path, capsys, small):
    """What a sweep at preset quick prints, and the bytes of every table there is afterwards, by workspace."""

    def run(*overrides):
        command = ["sweep", "lenet_lr_grid", "--preset", "quick", "--data-root", data_root, "--results", tmp_path]
        assert main(*command, *overrides) == 0
        found = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.glob("*/tables/*/*.parquet")}
        return capsys.readouterr().out, {
            name: {path.name: content for path, content in found.items() if path.parts[0] == name}
            for name in {path.parts[0] for path in found}
        }

    return run


@pytest.mark.slow
def test_overrides_that_make_other_runs_leave_the_presets_tables_alone(sweep, tmp_path):
    _, before = sweep()
    assert set(before) == {"quick"}
    told, after = sweep("optim.lr=0.2,0.3")
    assert after["quick"] == before["quick"] and set(after["custom"]) == {"runs.parquet", "epochs.parquet"}
    custom = paths.workspace(tmp_path, paths.CUSTOM)
    assert f"other runs than the preset quick: its tables stay, these go to {custom}\n" in told
    assert f"tables: {paths.tables(custom, 'lenet_lr_grid')}\nto draw them: make report PRESET=custom" in told
    assert sorted(frames.runs(custom, "lenet_lr_grid")["lr"].unique()) == [0.2, 0.3]
    assert len(Store(tmp_path).run_ids()) == 6  # all are kept


@pytest.mark.slow
@pytest.mark.parametrize("other", ["norm=batch", "sweep.tables=[steps]", "+probes.weights.at=[0]"])
def test_whatever_changes_the_presets_tables_is_not_written_among_them(sweep, other):
    _, before = sweep()
    _, after = sweep(other)
    assert after["quick"] == before["quick"] and "custom" in after


@pytest.mark.slow
@pytest.mark.parametrize("how", ["runtime.threads=1", "tracking.tags=[mine]", "norm=none,batch", "norm=batch,none"])
def test_overrides_that_make_the_same_runs_are_the_preset(sweep, how):
    told, after = sweep(how)
    assert set(after) == {"quick"}
    assert "other runs" not in told and "to draw them: make report PRESET=quick" in told


SEARCH = ("sweep.search.axis=optim.lr", "sweep.search.factor=2")


def test_the_runs_of_a_search_are_counted(root, tmp_path, capsys, monkeypatch):
    def outcome(store, run_id):  # up to 1 the runs shall train, beyond they shall not
        manifest = read(store, run_id)
        return manifest | {"outcome": "trained" if manifest["config"]["optim"]["lr"] <= 1 else "diverged"}

    def printed(*arguments):
        assert main(*arguments, "--data-root", root, "--results", tmp_path) == 0
        return capsys.readouterr().out

    read, announced = Store.manifest, []
    monkeypatch.setattr(Store, "manifest", outcome)
    asked = ["sweep", *TINY, "norm=batch", "optim.lr=0.1,1,10", *SEARCH, "--name", "mine"]
    assert re.search("3 runs: 3 to train; 225 images .*0 to 2 more runs follow", printed(*asked, "--dry-run"))
    printed(*asked)
    counted = printed("status")
    assert re.search("^mine .* 5 runs: 5 completed", counted, re.MULTILINE)
    assert "search follows" not in counted and "other runs" not in counted
    assert "5 runs: 5 completed; 0 images to train on\n" in printed(*asked, "--dry-run")
    store = Store(tmp_path)
    (searched,) = (run_id for run_id in store.run_ids() if 3 < read(store, run_id)["config"]["optim"]["lr"] < 4)
    assert main("clean-run", searched, "--results", tmp_path) == 0
    assert re.search("4 runs: 3 completed, 1 to train; 75 images", printed(*asked, "--dry-run"))
    assert re.search("^mine .* 4 runs: 3 completed, 1 pending.*; its search follows", printed("status"), re.MULTILINE)
    monkeypatch.setattr(preview, "announce", lambda _, jobs, *places, **how: announced.append(len(jobs)))
    printed(*asked)
    assert announced == [4]


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_cut(sweep, data_root, tmp_path, capsys, monkeypatch):
    class Cut(Exception):
        pass

    def cut(*arguments, **options):
        if rounds.pop() == "cut":
            raise Cut
        return launch_here(*arguments, **options)

    def outcome(store, run_id):  # two updates tell nothing: up to 3 the runs shall train, beyond they shall not
        manifest = read(store, run_id)
        return manifest | {"outcome": "trained" if manifest["config"]["optim"]["lr"] <= 3 else "diverged"}

    read = Store.manifest
    monkeypatch.setattr(Store, "manifest", outcome)
    monkeypatch.setattr(pool, "launch", cut)
    rounds = ["cut", "made"]
    with pytest.raises(Cut):
        sweep(*SEARCH, "optim.lr=0.1,1,10,100")
    captured = capsys.readouterr().out
    assert "of its search 0 to 4 more runs follow these\nlenet_lr_grid: 8 runs, 0 done, 8 to train" in captured
    assert "of its search 2 more runs follow these\nlenet_lr_grid: 10 runs, 8 done, 2 to train" in captured
    rounds = ["made"] * 3
    told, tables = sweep(*SEARCH, "optim.lr=0.1,1,10,100")
    assert "lenet_lr_grid: 8 runs" not in told and "lenet_lr_grid: 10 runs, 8 done, 2 to train" in told
    assert "lenet-none-s0, largest optim.lr that trains: 1.78 to 3.16" in told
    rates = frames.runs(paths.workspace(tmp_path, paths.CUSTOM), "lenet_lr_grid")["lr"]
    assert set(tables) == {"custom"} and sorted(rates.unique()) == [0.1, 1.0, 1.78, 3.16, 10.0, 100.0]


@pytest.mark.slow
def test_reproducing_with_other_values_leaves_the_preset_alone(data_root, tmp_path, capsys, small):
    places = ["--data-root", data_root, "--results", tmp_path]
    assert main("reproduce", *places, "optim.lr=0.2") == 0
    assert "these go to" in capsys.readouterr().out
    assert paths.workspace(tmp_path, "custom").exists() and not paths.workspace(tmp_path, "quick").exists()
    assert main("reproduce", *places, "tracking.tags=[mine]") == 0
    assert paths.workspace(tmp_path, "quick").exists()


@pytest.mark.parametrize("command", ["figures", "report"])
def test_figures_are_drawn_where_they_belong(command, tmp_path, monkeypatch):
    drawn = []

    def make(workspace, **options):
        drawn.append((workspace, options))
        return 0

    monkeypatch.setattr(report, "write", make)
    options = {"html": command == "report", "strict": False}
    for preset in ("quick", "full", "custom"):
        assert main(command, "--preset", preset, "--results", tmp_path) == 0
        assert drawn.pop() == (tmp_path / preset, {"into": tmp_path / preset, **options})
    assert main(command, "--results", tmp_path) == 0
    assert drawn.pop() == (tmp_path, {"into": tmp_path / "redrawn", **options})


@pytest.mark.slow
def test_a_sweep_with_a_failed_run_exits_1_and_keeps_the_others(data_root, tmp_path, capsys, stumbling):
    mixed = [*SMALL, "data.batch_size=32,64,65"]  # the last of which is no configuration
    places = ["--data-root", data_root, "--results", tmp_path]
    assert main("sweep", "lenet_lr_grid", "--preset", "quick", *mixed, *places) == cli.EXIT_USAGE
    mixed = [*SMALL, "model.padding=0,-1"]  # the network refuses
    assert main("sweep", "lenet_lr_grid", "--preset", "quick", *mixed, *places) == cli.EXIT_USAGE
    assert "bnstudy: model.padding = -1" in capsys.readouterr().err and not Store(tmp_path).run_ids()
    mixed = [*SMALL, "data.batch_size=32,50"]
    assert main("sweep", "lenet_lr_grid", "--preset", "quick", *mixed, *places) == cli.EXIT_FAILED
    error = capsys.readouterr().err
    assert "failed: RuntimeError: a layer stumbled" in error and "Traceback" not in error
    states = [Store(tmp_path).state(name) for name in Store(tmp_path).run_ids()]
    assert sorted(states) == [State.completed] * 3 + [State.failed]


@pytest.mark.slow
def test_status_counts_what_was_begun_and_works_without_data(data_root, tmp_path, capsys, monkeypatch):
    """Of the preset, of a sweep with overrides, of single runs; what was not begun is not composed."""
    monkeypatch.setattr(compose, "sweeps", lambda: ["init", "precision", "random_products"])
    configs = compose.expand("init", "quick", [f"runtime.data_root='{data_root}'"])
    one, other, third = names(configs)[:3]
    store, places = Store(tmp_path), ["--results", tmp_path, "--data-root", data_root]
    looks = {table: look.record for table, look in status.looks(configs[0]).items()}
    store.writer(one).finish({"status": "completed", "looks": looks, "sweep": "init"})
    store.writer(other)
    store.writer(third).finish({"status": "failed", "sweep": "init"})
    store.writer("lenet-alone")
    custom = ["seed=7", f"runtime.data_root='{data_root}'"]
    specs.of_sweep("precision", "quick", custom, tmp_path)
    store.writer(names(compose.expand("precision", "quick", custom))[0])

    def lines(*options):
        assert main("status", *options) == 0
        return {" ".join(line.split()[:2]): line for line in capsys.readouterr().out.splitlines()}

    first = lines(*places)
    assert "10 runs: 1 completed, 1 failed, 1 interrupted, 7 pending" in first["init quick"]
    assert first["precision quick"].endswith(" seed=7") and "1 interrupted" in first["precision quick"]
    assert "1 runs: 1 partial" in first["other runs"] and "random_products" in first["not begun"]
    monkeypatch.setattr(compose, "expand", lambda *_: pytest.fail("it is remembered"))
    assert lines(*places) == first
    nowhere = ["--results", tmp_path, "--data-root", tmp_path / "none"]
    assert lines(*nowhere) == first
    monkeypatch.undo()
    assert "not available" in lines("random_products", "--preset", "quick", *nowhere)["random_products quick"]


def test_a_sweep_of_values_alone_has_results_under_its_name(root, tmp_path, capsys):
    """Looked at first; then trained, and another one beside it."""
    places = ["--data-root", root, "--results", tmp_path]
    asked = ["sweep", *TINY, "norm=batch,none", "optim.lr=0.1,0.2", *places]
    assert main(*asked, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.count(" 3 steps ") == 4 and "75 images" in shown
    assert "4 runs: 4 to train; 300 images" in shown and not paths.runs(tmp_path).exists()
    assert main(*asked, "norm.where=nowhere", "--dry-run") == cli.EXIT_USAGE
    assert "norm.where" in capsys.readouterr().err
    assert main(*asked, "--name", "mine") == 0
    (folder,) = (path for path in paths.sweeps(paths.named(tmp_path, "mine")))
    runs = pd.read_parquet(folder / "runs.parquet")
    assert sorted(zip(runs["norm"], runs["lr"], strict=True)) == [(n, r) for n in ("batch", "none") for r in (0.1, 0.2)]
    assert "make report NAME=mine" in capsys.readouterr().out
    before = files.sha256(folder / "runs.parquet")
    assert main("run", "-m", *TINY, "norm=batch", "optim.lr=0.1,0.3", *places) == 0
    assert len(pd.read_parquet(paths.tables(tmp_path / paths.CUSTOM, compose.AD_HOC) / "runs.parquet")) == 2
    assert files.sha256(folder / "runs.parquet") == before
    capsys.readouterr()
    assert main(*asked, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "4 runs: 4 completed; 0 images" in shown
    assert main("status", "--results", tmp_path) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if "optim.lr" in line] == ["adhoc", "mine"]
    for name in ("tables", "a/b", ""):
        assert main(*asked, "--name", name) == cli.EXIT_USAGE


def test_the_configuration_that_would_train_is_printed_whole(root, tmp_path, capsys):
    places = ["--data-root", root, "--results", tmp_path]
    assert main("run", *TINY, "optim.lr=0.3", "--cfg", "job", *places) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["optim"]["lr"], config["norm"]["name"], config["norm"]["eps"]) == (0.3, "batch", 1e-5)
    assert main("sweep", *TINY, "seed=0,1", "--cfg", "job", *places) == 0
    assert [each["seed"] for each in yaml.safe_load_all(capsys.readouterr().out)] == [0, 1]
    assert not paths.runs(tmp_path).exists()


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_what_takes_more_than_a_day_is_trained_only_if_that_is_said(root, tmp_path, capsys, monkeypatch, command):
    speeds = Speeds()
    speeds.add(kind("mlp", "fp32", "elsewhere", "none", 1, (), 1), images=1, sec=10_000.0)
    monkeypatch.setattr(survey, "_speeds", lambda published: speeds)
    long = [command, *TINY, "seed=0", "--data-root", root, "--results", tmp_path]
    assert main(*long) == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert "about 8 d 16 h" in error and "--yes (make: YES=1)" in error and not paths.runs(tmp_path).exists()
    assert main(*long, "--yes") == 0 and len(Store(tmp_path).run_ids()) == 1


def test_publishing_what_is_not_finished_is_refused(data_root, tmp_path, capsys):
    assert main("publish", "init", "--data-root", data_root, "--results", tmp_path) == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert "init is not finished (60 absent)" in error and "make sweep-init PRESET=full" in error
    assert not (tmp_path / "tables").exists()


def made_up(data_root, folder):
    """A data root whose images say that they are synthetic data."""
    shutil.copytree(data_root, folder)
    for name in ("cifar10", "fashion_mnist"):
        (folder / name / sources.SOURCE_FILE).write_text('{"source": "synthetic"}')
    return folder


@pytest.mark.slow
def test_publishing_made_images_is_refused(data_root, tmp_path, capsys):
    folder = made_up(data_root, tmp_path / "data")
    assert main("publish", "init", "--data-root", folder, "--results", tmp_path) == cli.EXIT_USAGE
    assert "images are synthetic" in capsys.readouterr().err
    overrides = [f"runtime.data_root='{folder}'", "runtime.synthetic=true"]
    with pytest.raises(ValueError, match=r"init ran on synthetic data .*: only real data is published"):
        tables.publish("init", overrides, tmp_path)
    assert not (tmp_path / "tables").exists()


@pytest.mark.slow
def test_publishing_copies_a_finished_sweep(data_root, tmp_path, capsys, small):
    overrides = [f"runtime.data_root='{data_root}'"]
    assert study.sweep("lenet_lr_grid", "full", overrides, tmp_path, 1) == 0
    published = paths.tables(paths.workspace(tmp_path, None), "lenet_lr_grid")
    published.mkdir(parents=True)
    pd.DataFrame({"run_id": ["a"]}).to_parquet(published / "old.parquet")  # of an earlier release
    with pytest.raises(ValueError, match="only the preset full is published, without overrides"):
        tables.publish("lenet_lr_grid", [*overrides, "norm=batch"], tmp_path)
    assert tables.publish("lenet_lr_grid", overrides, tmp_path) == 0
    made = paths.tables(paths.workspace(tmp_path, "full"), "lenet_lr_grid")
    assert {p.name: files.sha256(p) for p in published.iterdir()} == {p.name: files.sha256(p) for p in made.iterdir()}
    assert "published lenet_lr_grid (2 runs)" in capsys.readouterr().out


def few_images(shape, num_classes, num_train, num_test):
    draw = np.random.default_rng(0)
    found = {}
    for split, count in (("train", 64), ("test", 20)):
        found[f"{split}_images"] = draw.integers(0, 256, (count, *shape[1:], shape[0]), dtype=np.uint8)
        found[f"{split}_labels"] = np.arange(count, dtype=np.int64) % num_classes
    return found


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_only_reproduce_goes_on_without_data_and_says_so(tmp_path, data_root, capsys, monkeypatch, there):
    monkeypatch.setattr(synthetic, "images", few_images)
    data = data_root if there else tmp_path / "data"
    places = ["--data-root", data, "--results", tmp_path / "results"]
    one = [*SMALL, "model=lenet", "norm=batch", "runtime.download=false"]
    with monkeypatch.context() as patch:
        expand = compose.expand
        patch.setattr(compose, "expand", lambda name, preset, overrides: expand(name, preset, [*overrides, *one]))
        if not there:
            assert main("sweep", "init", *places) == cli.EXIT_USAGE
            assert "'cifar10' is not available" in capsys.readouterr().err
            assert not data.exists() or not list(data.iterdir())
        assert main("reproduce", *places) == 0
    captured = capsys.readouterr()
    assert captured.out.count("SYNTHETIC DATA in place of cifar10") == (0 if there else 3)
    assert ("SYNTHETIC DATA in place of cifar10, fashion_mnist" in captured.out) != there
    store = Store(tmp_path / "results")
    kinds = {store.manifest(name)["data"]["source"] for name in store.run_ids()}
    assert kinds == {"arrays" if there else "synthetic"} and len(store.run_ids()) == len(study.REPRODUCE)
