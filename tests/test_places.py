"""Wherever the project, its results and its data lie, and whoever owns them: the same, or a sentence beforehand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import config, launch_here, make, names, quadrants, torch_as_it_was

import bnstudy
from bnstudy import cli
from bnstudy.analysis import frames, report
from bnstudy.config import compose, groups, project
from bnstudy.config.overrides import quoted
from bnstudy.store import files, paths, provenance, publishing, reduction
from bnstudy.store.runs import Store
from bnstudy.sweep import pool

ROOT = Path(__file__).resolve().parents[1]
# A character of each kind that Hydra, OmegaConf, make, a shell, a URL or a pattern would read.
ODD = ["josé's", "Dropbox (Personal)", "a,b [c] {d}", "x=y & z", "$HOME ${e} $(f)", "#1 100% ~", 'a\\"b', "*?!;|<>`"]
TINY = ["model=mlp", "model.hidden=16", "data.name=quadrants", "data.batch_size=25", "data.augment=false"]
TINY += ["train.steps=3", "probes=none", "tracking.mode=off", "runtime.device=cpu", "seed=0", "optim.lr=0.1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


def copied(folder: Path) -> Path:
    """The project in another folder."""
    folder.mkdir(parents=True)
    for name in ("src", "conf", "sweeps"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "Makefile", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_sweeps_compose_in_any_folder(tmp_path, monkeypatch, name):
    few = "seed=0", "optim.lr=0.1"
    wanted = compose.expand("lenet_lr_grid", "quick", few)
    copy = copied(tmp_path / name)
    monkeypatch.setattr(groups, "CONF", copy / "conf")
    monkeypatch.setattr(project, "SWEEPS", copy / "sweeps")
    assert compose.expand("lenet_lr_grid", "quick", few) == wanted and len(wanted) == 2


@pytest.mark.slow
def test_the_project_trains_and_reads_its_tables_in_a_folder_of_any_name(tmp_path):
    """A process of its own: where the project lies is looked up when it is imported."""
    project = copied(tmp_path / "josé's (a,b) [c] {d} $e ${f} x=y #1% & ~")
    quadrants(project / "data")
    script = f"""
import bnstudy
from bnstudy import cli
from bnstudy.config import compose, groups
assert str(groups.CONF).startswith({str(project)!r})
for sweep in ("init", "lenet_lr_grid", "fitted"):
    assert compose.expand(sweep, "quick", ["seed=0"]), sweep
cli.main(["run", *{TINY!r}, "--results", {str(project / "out")!r}, "--data-root", {str(project / "data")!r}])
"""
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=project, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    store = Store(project / "out")
    (run_id,) = store.run_ids()
    assert store.state(run_id).done and len(store.table(run_id, "steps")) == 3
    reduction.reduce(store, [run_id], paths.tables(project / "out", "s"))
    assert len(frames.load(project / "out", "s", "steps")) == 3


@pytest.mark.parametrize("name", ODD)
def test_make_passes_any_folder_and_value_on_as_it_is(tmp_path, name, monkeypatch):
    """With a program in the place of python that prints what it is given."""
    project = copied(tmp_path / name)
    tool = project / ".venv/bin/python"
    tool.parent.mkdir(parents=True)
    show = 'import os, sys; print(repr((sys.argv[1:], os.environ["BNSTUDY_DATA_ROOT"])))'
    tool.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{show}' \"$@\"\n")
    tool.chmod(0o755)
    for needed in ("requirements.lock", "bootstrap.lock", "pyproject.toml"):
        (project / needed).touch()
    (project / ".venv/.ready").touch()
    data = f"{tmp_path}/{name}/images"

    def given(*words):
        # what a make that has called this process left for its children is not for this one
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(
            ["make", "--no-print-directory", "-s", *words], cwd=project, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return eval(done.stdout)

    monkeypatch.delenv("DATA_ROOT", raising=False)  # whoever set one for these tests
    wanted = ["-m", "bnstudy", "status"]
    assert given("status", f"DATA_ROOT={data}") == (wanted, data)
    assert given("clean-run", f"ID={name}")[0] == ["-m", "bnstudy", "clean-run", name]
    assert given("retry", f"SWEEP={name}")[0] == ["-m", "bnstudy", "retry", "--sweep", name]
    monkeypatch.setenv("BNSTUDY_DATA_ROOT", data)
    monkeypatch.setenv("NAME", "a host")  # as some shells set it
    monkeypatch.setenv("SEED", "7")
    assert given("status") == (wanted, data)
    assert given("sweep-init")[0] == ["-m", "bnstudy", "sweep", "init"]
    sweep = given("sweep-init", f"LAUNCHER={name}", "SEED=0,1", "ARGS=optim.lr=0.1 norm='a b'")[0]
    assert sweep == ["-m", "bnstudy", "sweep", "init", "--launcher", name, "seed=0,1", "optim.lr=0.1", "norm=a b"]


@pytest.mark.parametrize("name", ["~", "~root", "s3:", "file:", "http:", "a?b#c", "%41"])
def test_results_whose_path_reads_as_an_address_are_a_folder(tmp_path, root, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = Path(name) / "x"
    with torch_as_it_was():
        made = config(root, train__steps=1)
        make([made], results)
        reduction.reduce(Store(results), names([made]), paths.tables(results, "s"))
    assert list(publishing.load(results, "s").runs) == names([made]) and list(publishing.brief(results)) == ["s"]
    assert len(Store(results).table(names([made])[0], "steps")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_home_is_put_in_and_an_address_refused_before_anything_else(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli._folder("~/x") == tmp_path / "x"
    assert cli._folder("./~/x") == Path("~/x") and cli._folder("a~") == Path("a~")
    for text, words in (("s3://bucket/x", "is an address"), ("~nobody-of-that-name/x", "no such home"), ("", "name a")):
        for option in ("--results", "--data-root"):
            with pytest.raises(SystemExit) as ended:
                cli.main(["run", f"{option}={text}"])
            assert ended.value.code == cli.EXIT_USAGE and words in capsys.readouterr().err


@pytest.mark.parametrize("text", ["s3://bucket/x", "~nobody-of-that-name/x"])
@pytest.mark.parametrize("variable", ["BNSTUDY_RESULTS", "BNSTUDY_DATA_ROOT"])
def test_a_variable_that_names_no_folder_is_refused_in_words(variable, text, monkeypatch, capsys):
    monkeypatch.setenv(variable, text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "model=mlp", "--dry-run"])
    assert ended.value.code == cli.EXIT_USAGE and text in capsys.readouterr().err
    with pytest.raises(ValueError, match=text):
        bnstudy.configure("model=mlp")


def test_own_components_are_found_below_the_home_that_a_variable_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BNSTUDY_COMPONENTS", "~/mine")
    assert project.components()[0] == tmp_path / "mine"
    monkeypatch.setenv("BNSTUDY_COMPONENTS", "~nobody-of-that-name/x")
    with pytest.raises(ValueError, match="no such home"):
        project.components()


@pytest.mark.slow
@pytest.mark.parametrize("below", ["quick", "quick/tables", "quick/tables/lenet_lr_grid"])
def test_tables_that_could_not_be_written_are_refused_before_training(data_root, tmp_path, monkeypatch, capsys, below):
    monkeypatch.setattr(pool, "launch", launch_here)
    blocked = tmp_path / "results" / below
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder belongs")
    command = ["sweep", "lenet_lr_grid", "--preset", "quick", f"--data-root={data_root}", "tracking.mode=off"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, f"--results={tmp_path / 'results'}"])
    assert ended.value.code == cli.EXIT_FAILED
    assert str(blocked) in capsys.readouterr().err and not paths.runs(tmp_path / "results").exists()


def test_a_folder_without_permission_is_not_writable(tmp_path):
    files.check_writable(tmp_path / "not/there/yet")
    assert not list(tmp_path.iterdir())
    tmp_path.chmod(0o500)
    user = os.geteuid()
    try:
        if user == 0:  # to whom everything is permitted
            os.seteuid(65534)
        with pytest.raises(PermissionError):
            files.check_writable(tmp_path / "below")
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *words], cwd=folder, check=True, timeout=60)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout with one commit, which `provenance` takes for its own; the commit."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "ours")
    ours = tmp_path / "ours"
    (ours / "src").mkdir(parents=True)
    module = ours / "src/provenance.py"
    module.write_text("ours")
    monkeypatch.setattr(provenance, "__file__", str(module))
    git(ours, "init", "-q")
    git(ours, "add", ".")
    git(ours, "commit", "-qm", "x")
    monkeypatch.delenv("BNSTUDY_COMMIT", raising=False)
    provenance.code.cache_clear()
    yield subprocess.run(["git", "rev-parse", "HEAD"], cwd=ours, capture_output=True, text=True).stdout.strip()
    provenance.code.cache_clear()


def test_the_commit_is_this_codes_whatever_git_is_told_from_outside(tmp_path, repository, monkeypatch, capsys):
    (other := tmp_path / "other").mkdir()
    git(other, "init", "-q")
    git(other, "commit", "-qm", "another", "--allow-empty")
    for name, value in (("GIT_DIR", other / ".git"), ("GIT_WORK_TREE", other), ("GIT_INDEX_FILE", other / "nothing")):
        monkeypatch.setenv(name, str(value))
    assert provenance.code() == {"commit": repository, "dirty": ""} and capsys.readouterr().err == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_commit_is_known_in_a_checkout_of_another_owner(tmp_path, repository):
    for path in [tmp_path / "ours", *(tmp_path / "ours").rglob("*")]:
        os.chown(path, 12345, 12345)
    assert provenance.code() == {"commit": repository, "dirty": ""}


def test_a_commit_that_is_not_known_is_said(tmp_path, repository, monkeypatch, capsys):
    """An installed copy inside another project's checkout has no commit, above all not that project's."""
    installed = tmp_path / "ours/.venv/provenance.py"
    installed.parent.mkdir()
    installed.write_text("installed")
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance.code()["commit"] == "unknown"
    assert "the commit of the code is not known" in (said := capsys.readouterr().err) and "BNSTUDY_COMMIT" in said
    provenance.code.cache_clear()
    monkeypatch.setenv("BNSTUDY_COMMIT", "abc")
    assert provenance.code()["commit"] == "abc" and capsys.readouterr().err == ""


def test_what_is_said_to_draw_them_is_what_a_shell_makes_of_it(data_root, tmp_path, monkeypatch, capsys):
    """The command that a sweep ends with, given to a shell and to make."""
    monkeypatch.setattr(pool, "launch", launch_here)
    monkeypatch.setattr(report, "write", lambda workspace, **options: 0)
    results = tmp_path / "it's $(odd) #"
    few = ["seed=0", "norm=batch", "optim.lr=0.1", "train.steps=1", "data.num_train=64", "data.batch_size=32"]
    with torch_as_it_was(), pytest.raises(SystemExit) as ended:
        command = ["sweep", "lenet_lr_grid", "--preset", "quick", f"--data-root={data_root}", f"--results={results}"]
        cli.main([*command, *few, "tracking.mode=off", "runtime.device=cpu"])
    assert not ended.value.code
    said = capsys.readouterr().out.partition("to draw them: ")[2].strip()
    (tmp_path / "Makefile").write_text("report:\n\t@printf '%s|' $(ARGS)\n")
    done = subprocess.run(said, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"--results={results}|" in done.stdout
    assert quoted(results)
