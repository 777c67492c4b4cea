"""README.md and docs/: recipes work as written, and every command, target and file that they name exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import bnstudy
from bnstudy import cli
from bnstudy.config import compose
from bnstudy.store import paths

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
RECIPE = re.compile(r"(?m)^`((?:src|sweeps|analysis)/[\w/]+\.\w+)`[^`]*?:\n\n```\w+\n((?:.*\n)*?)```$")
SMALL = ["data.num_train=64", "data.num_test=64", "data.batch_size=32", "tracking.mode=off", "runtime.device=cpu"]
GENERATED = {"claims.md", "gallery.md", "sweeps.md", "options.md", "changes.md", "api.md"}  # by docs/hooks.py


def texts() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        yield page.name, page.read_text(encoding="utf-8")


def code(text: str) -> Iterator[str]:
    """The lines of shell blocks, and inline code."""
    parts = re.split(r"(?m)^```(\w*)\n((?:.*\n)*?)```$", text)
    for language, block in zip(parts[1::3], parts[2::3], strict=True):
        if language == "sh":
            yield from (line.split(" #")[0].strip() for line in block.splitlines())
    for prose in parts[::3]:
        yield from re.findall(r"`([^`]+)`", prose)


def commands(program: str) -> list[str]:
    return sorted({found for _, text in texts() for found in code(text) if found.startswith(program)})


def targets() -> set[str]:
    return set(re.findall(r"(?m)^([a-z][a-z%-]*):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8")))


def called(command: str) -> list[str]:
    """The commands of ours that a command line of make runs."""
    words = [re.sub("(?<=[-=])NAME$", "lenet_lr_grid", word) for word in shlex.split(command)]
    if missing := [word for word in words[1:2] if not targets() & {word, re.sub("(sweep-).*", r"\1%", word)}]:
        raise AssertionError(f"{command}: there is no target {missing[0]}")
    done = subprocess.run([words[0], "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return re.findall(r"(?m)^\S*python -m bnstudy (.*)$", done.stdout)


@pytest.mark.slow
def test_every_command_is_accepted_as_typed() -> None:
    """Of make: by its target, whose command is then read like one of ours; sweeps and runs down to their values."""
    ours = [command.partition("-m bnstudy ")[2] for command in commands(".venv/bin/python -m bnstudy")]
    for command in commands("make "):
        ours += called(command)
    assert len(ours) > 20
    for command in sorted(set(ours) - {""}):
        known, rest = cli._parser().parse_known_args(shlex.split(command))
        assert not rest or cli.COMMANDS[known.command].overrides, f"{command}: {rest}"
        values = [*getattr(known, "overrides", []), *rest]
        if known.command == "sweep" and known.name != "resnet20_lr" and known.launcher == "local":
            name, first = (compose.AD_HOC, [known.name]) if "=" in known.name else (known.name, [])
            assert compose.expand(name, known.preset or paths.QUICK, [*first, *values]), command
        if known.command == "run" and not re.search("response|perceptron|zeros", command):
            compose.one(values)


def test_every_target_is_explained_on_a_page() -> None:
    named = {word for _, text in texts() for word in re.findall(r"make ([a-z][\w-]*)", text)}
    named |= {re.sub("^(wandb-)?(sweep-).*", r"\1\2%", name) for name in named}
    assert targets() - named == set()


def test_every_link_leads_somewhere() -> None:
    for name, text in texts():
        folder = ROOT if name == "README.md" else ROOT / "docs"
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            made = link in GENERATED or (ROOT / "analysis" / Path(link).with_suffix(".py")).exists()
            assert made or (folder / link).exists(), f"{name}: {link}"
        for path in re.findall(r"`((?:conf|sweeps|src|analysis|tests|docs)/[\w./]+)`", text):
            recipe = path in dict(RECIPE.findall(EXTENDING)) or path == "sweeps/resnet20_lr.yaml"
            assert recipe or (ROOT / path).exists(), f"{name}: {path}"


# The commands in one process, which imports torch once; sweeps in it, too.
FOLLOW = """
import json, sys
import bnstudy
from bnstudy import cli
from bnstudy.config import compose
from bnstudy.sweep import pool
from small_runs import launch_here
pool.launch = launch_here
for preset in ("quick", "full"):
    assert len(compose.expand("resnet20_lr", preset)) == 8
    assert all("zeros" in config.probes for config in compose.expand("init", preset))
for command in json.loads(sys.argv[1]):
    try:
        cli.main(command)
    except SystemExit as ended:
        assert not ended.code, command
"""


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with every file that docs/extending.md shows how to add, its finding the only one."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("src/bnstudy", "conf", "sweeps", "analysis"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "findings"))
    (copy / "analysis/findings").mkdir()
    shutil.copy(ROOT / "pyproject.toml", copy)
    recipes = dict(RECIPE.findall(EXTENDING))
    assert {Path(name).parent.name for name in recipes} == {"norms", "models", "probes", "sweeps", "findings"}
    for name, content in recipes.items():
        assert not (copy / name).exists()
        (copy / name).write_text(content, encoding="utf-8")
    (line,) = re.findall(r"The line `([^`]+)` in\s+`conf/probes/init.yaml`", EXTENDING)
    with (copy / "conf/probes/init.yaml").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    return copy


def test_the_recipe_of_the_readme_is_that_of_the_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert dict(RECIPE.findall(EXTENDING))["src/bnstudy/probes/zeros.py"] in text


def test_recipes_are_as_clean_as_the_rest(followed: Path) -> None:
    added = [name for name, _ in RECIPE.findall(EXTENDING) if name.endswith(".py")]
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--no-cache", *added]
        done = subprocess.run(command, cwd=followed, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_recipes_work_as_written(followed: Path, data_root: Path) -> None:
    shown = [command for command in code(EXTENDING) if command.startswith(".venv/bin/python -m bnstudy run ")]
    assert len(shown) == 3  # the norm, the network, the probe
    runs = [["run", "probes=none", *shlex.split(command)[4:], *SMALL, "train.steps=1"] for command in shown]
    axes = ["model=perceptron", "norm=batch,none", "seed=0,1,2", "probes=none", "probes.zeros.at=[0]"]
    sweep = ["sweep", "init", "--preset", "quick", *axes, *SMALL]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(followed / "src"), str(ROOT / "tests")]),
        "BNSTUDY_DATA_ROOT": str(data_root),
        "BNSTUDY_KERNELS": "0",  # which would be compiled for these shapes alone
    }
    commands = json.dumps([*runs, sweep, ["figures", "--preset", "custom"]])
    command = [sys.executable, "-c", FOLLOW, commands]
    done = subprocess.run(command, cwd=followed, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results = followed / "results"
    there = [path.name for path in (results / "runs").iterdir()]
    assert len(there) == len(runs) + 6 and any(name.startswith("resnet20-response-") for name in there)
    (looked,) = (name for name in there if name.startswith("resnet20-batch"))
    assert len(pd.read_parquet(results / "runs" / looked / "zeros.parquet")) == 20  # a row a layer
    claims = {row["id"]: row for row in json.loads((results / "custom/claims.json").read_text(encoding="utf-8"))}
    assert claims["zeros"]["n"] == 3 and claims["zeros"]["verdict"] in ("reproduced", "not reproduced", "undecided")
    assert (results / "custom/figures/zeros.png").exists()


@pytest.mark.slow
def test_the_site_is_built_without_a_network_and_needs_none(tmp_path: Path) -> None:
    """Strictly: a link or an anchor that leads nowhere, or a name without documentation, fails."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://localhost:9")
    environment = {**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in tmp_path.rglob("*.html")}
    assert {"index.html", "api.html", "claims.html", "gallery.html", "options.html", "notebooks/lesson.html"} <= set(
        pages
    )
    loaded = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//[^"]+"')
    assert {name: found for name, text in pages.items() if (found := loaded.findall(text))} == {}
    assert {name for name in bnstudy.__all__ if name not in pages["api.html"]} == {"__version__"}
    rows = json.loads((ROOT / "results" / "claims.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in rows if row["id"] not in pages["claims.html"]] == []
    assert "--budget-min" in pages["options.html"] and "figures/fig5.svg" in pages["gallery.html"]
