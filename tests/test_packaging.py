"""What is installed elsewhere works there, and make refuses variables that would be without effect."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
USE = """
from bnstudy.config import compose, project
from bnstudy.analysis import findings, report
assert "init" in compose.sweeps() and compose.expand("init", "quick") and list(findings.discover(report.FINDINGS))
print(project.results())
"""


@pytest.mark.slow
def test_a_wheel_has_the_sweeps_and_findings_and_results_in_the_current_folder(tmp_path):
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    for name in ("src", "conf", "sweeps", "analysis"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, tmp_path], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    elsewhere.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BNSTUDY_")}
    environment["PYTHONPATH"] = str(tmp_path / "installed")
    done = subprocess.run([sys.executable, "-c", USE], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(elsewhere / "results")


@pytest.mark.parametrize(("given", "meant"), [("SEEDS=0,1", "SEED"), ("PRESETS=quick", "PRESET"), ("preset=full", "")])
def test_a_misspelt_variable_of_make_stops_with_the_right_name(given, meant):
    done = subprocess.run(["make", "-n", "help", given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and f"{given.partition('=')[0]}: there is no such variable" in done.stderr
    assert f"did you mean {meant}?" in done.stderr if meant else "PRESET" in done.stderr


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        ("reproduce BUDGET_MIN=5", "BUDGET_MIN"),
        ("textbook NAME=mine PRESET=full", "NAME"),
        ("report SEED=0", "SEED"),
        ("wandb-sweep-init JOBS=1", "JOBS"),
        ("sweep-init ID=x", "ID"),
        ("sweep-init report SEED=0 STRICT=1", ""),
        ("textbook SEED=0 YES=1 AGAIN=1 BUDGET_MIN=1 JOBS=1 DATA_ROOT=x", ""),
        ("wandb-sweep-init SEED=0", ""),
        ("retry SWEEP=init JOBS=2", ""),
        ("help", ""),
    ],
)
def test_a_variable_that_a_target_does_not_take_stops_it(words, idle):
    done = subprocess.run(["make", "-n", *words.split()], cwd=ROOT, capture_output=True, text=True)
    if not idle:
        assert done.returncode == 0 and ("SEED" not in words or "seed='0'" in done.stdout), done.stderr
    else:
        assert done.returncode == 2 and f"{idle}: make {words.split()[0]} does not take it" in done.stderr


def test_a_target_takes_what_its_line_says():
    """A variable stands in a target's line if the target's commands depend on it, and only then."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line, commands in re.findall(r"^[a-z%-]+: \$\(READY\) ## (.*)\n((?:\t.*\n)*)", text, re.MULTILINE):
        said = set(re.findall(r"\b([A-Z_]+)=", line)) - {"ARGS", "CPU"}
        used = {name.upper() for name in re.findall(r"\$\(([a-z]+)\)", commands)} - {"PYTEST"}
        used |= set(re.findall(r"(?:call (?:option|quoted),|if \$\()([A-Z_]+)", commands))
        assert said == {"BUDGET_MIN" if name == "BUDGET" else name for name in used}, line


@pytest.mark.parametrize("value", ["0", "n", "N", "no", "false", "False", "off", "OFF", "", "1", "yes"])
@pytest.mark.parametrize(
    ("words", "variable", "effect"),
    [
        ("publish SWEEP=init", "REPLACE", "--replace"),
        ("sweep-init", "AGAIN", "--again"),
        ("textbook", "YES", "--yes"),
        ("report", "STRICT", "--strict"),
        ("-B setup", "CPU", "--torch-backend cpu"),
    ],
)
def test_a_switch_of_make_is_off_where_it_says_no(words, variable, effect, value):
    """In `make -n`, so that nothing is trained, published or installed."""
    command = ["make", "-n", *words.split(), f"{variable}={value}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and (effect in done.stdout) == (value in ("1", "yes")), done.stderr


@pytest.mark.parametrize(("given", "cpu"), [([], True), (["CPU=0"], False), (["CPU="], False), (["CPU=1"], True)])
def test_an_environment_with_torch_for_cpus_stays_one_unless_told_otherwise(tmp_path, given, cpu):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "bootstrap.lock", "pyproject.toml", ".venv/cpu.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    environment = {key: value for key, value in os.environ.items() if key != "CPU"}
    command = ["make", "-n", "status", *given]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and ("--torch-backend cpu" in done.stdout) == cpu, done.stderr


def test_a_variable_of_the_shell_that_is_not_used_is_named():
    environment = os.environ | {"PRESET": "full", "NAME": "mine"}
    done = subprocess.run(["make", "-n", "sweep-init"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "full" not in done.stdout
    assert "PRESET" in done.stderr and "PRESET=full" in done.stderr and "NAME" not in done.stderr


def test_kernels_of_the_lab_find_what_is_named_from_the_project(tmp_path):
    """They run in the folder of the notebooks."""
    for name in ("requirements.lock", "bootstrap.lock", "pyproject.toml", ".venv/.ready"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    shutil.copy(ROOT / "Makefile", tmp_path)
    jupyter = tmp_path / ".venv" / "bin" / "jupyter"
    jupyter.parent.mkdir()
    jupyter.write_text('#!/bin/sh\necho "$BNSTUDY_RESULTS|$BNSTUDY_COMPONENTS"\necho "$BNSTUDY_DATA_ROOT"\n')
    jupyter.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.endswith("DATA_ROOT")}
    for results, components, seen in (
        ("", "", "|"),
        ("my r*", "own:/mnt/o:my *:~/o", f"{tmp_path}/my r*|{tmp_path}/own:/mnt/o:{tmp_path}/my *:~/o"),
        ("~/r", "", "~/r|"),
        ("/mnt/r:2", "", "/mnt/r:2|"),
    ):
        named = environment | {"BNSTUDY_RESULTS": results, "BNSTUDY_COMPONENTS": components}
        done = subprocess.run(["make", "-s", "lab"], cwd=tmp_path, env=named, capture_output=True, text=True)
        assert done.stdout.splitlines()[-2:-1] == [seen], done.stderr
    for given, found in (([], tmp_path / "data"), (["DATA_ROOT=my data"], tmp_path / "my data"),
                         (["DATA_ROOT=/mnt/x"], Path("/mnt/x"))):  # fmt: skip
        command = ["make", "-s", "lab", *given]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1:] == [str(found)], done.stderr


@pytest.mark.parametrize("folder", ["my tools", "josé's $e"])
def test_setup_takes_a_python_in_a_folder_of_any_name(tmp_path, folder):
    """One that can do all but make an environment: nothing is installed."""
    for name in ("Makefile", "requirements.lock", "bootstrap.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    tool = tmp_path / folder / "python"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\ntest "$1" = -c\n')
    tool.chmod(0o755)
    done = subprocess.run(["make", "setup", f"PYTHON={tool}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and f"'{tool}' cannot make a virtual environment" in done.stderr


def test_words_in_a_variable_of_make_are_no_variables():
    arguments = ["make", "-n", "sweep-init", "SEED=0", "ARGS=optim.lr=0.1 norm=none"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "seed='0' optim.lr=0.1 norm=none" in done.stdout
