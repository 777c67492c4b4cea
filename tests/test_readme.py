"""README.md: its generated parts are replaced between their markers, and what it says how to add works as written."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bnstudy.analysis import readme

ROOT = readme.README.parent
MARKED = "before <!-- x -->\n<!-- claims:begin -->\nold\n<!-- claims:end -->\nafter\n"


def test_replace_changes_only_what_is_between_the_markers(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(MARKED)
    readme.replace("claims", r"new \1 | text", page)
    assert page.read_text() == MARKED.replace("old", r"new \1 | text")


@pytest.mark.parametrize("text", ["", "<!-- claims:begin -->", "<!-- claims:end --> <!-- claims:begin -->"])
def test_missing_markers_are_named(tmp_path, text):
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="claims:begin"):
        readme.replace("claims", "new", page)
    assert page.read_text() == text


def test_the_paper_s_claims_stand_open_and_the_others_folded(tmp_path):
    path = tmp_path / "claims.json"
    judged = {"id": "6", "says": "a | b", "measured": "<3", "n": 5, "verdict": "reproduced", "scale": "init",
              "origin": "paper", "calibrated": "", "reason": ""}  # fmt: skip
    others = [judged | {"id": "6-layers"}, judged | {"id": "x", "origin": "course", "verdict": "not run"}]
    others.append(judged | {"id": "9", "calibrated": "Figure 5", "verdict": "undecided", "reason": "why"})
    small = judged | {"id": "5", "scale": "reduced"}
    path.write_text(json.dumps([judged, small, judged | {"id": "1", "verdict": "not run", "scale": "paper"}, *others]))
    before, *folded = readme.claims_table(path).split("<details>")
    assert before.startswith(r"The paper's claims as they stand there (\*: judged at a reduced scale): 2 reproduced, ")
    assert r"| 5\* |" in before
    assert r"| 6 | a \| b | \<3 | 5 | **reproduced** |" in before and "Not run yet: claims 1;" in before
    assert len(folded) == 3 and all(part.strip().endswith("</details>") for part in folded)
    assert "No test" in folded[0] and "**undecided**: why" in folded[0] and "| 9 |" not in before
    assert "| 6-layers |" in folded[1] and "not run" not in folded[1]
    assert "What courses teach: 1 not run" in folded[2] and "| x |" not in folded[2] and "claims x;" in folded[2]


def test_the_readme_has_both_places():
    text = readme.README.read_text(encoding="utf-8")
    for name in ("claims", "bench"):
        assert f"<!-- {name}:begin -->" in text and f"<!-- {name}:end -->" in text


RECIPES = {
    "src/bnstudy/norms/response.py",
    "src/bnstudy/models/perceptron.py",
    "src/bnstudy/probes/zeros.py",
    "sweeps/resnet20_lr.yaml",
    "analysis/findings/zeros.py",
}
SMALL = ["data.num_train=64", "data.num_test=64", "data.batch_size=32", "tracking.mode=off", "runtime.device=cpu"]

# The commands in one process, which imports torch once; sweeps in it, too.
FOLLOW = """
import json, sys
from bnstudy import cli
from bnstudy.config import compose
from bnstudy.sweep import launch
from small_runs import launch_here
launch.launch = launch_here
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
    """A copy of the repository with every file that README.md shows how to add, its finding the only one."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("src/bnstudy", "conf", "sweeps", "analysis"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "findings"))
    (copy / "analysis/findings").mkdir()
    shutil.copy(ROOT / "pyproject.toml", copy)
    text = readme.README.read_text(encoding="utf-8")
    recipes = dict(re.findall(r"(?s)\*\*an? \w+\*\*: `([\w/]+\.\w+)`.*?```\w+\n(.*?)```", text))
    assert set(recipes) == RECIPES
    for name, content in recipes.items():
        assert not (copy / name).exists()
        (copy / name).write_text(content, encoding="utf-8")
    line, file = "zeros: {at: [0], at_end: true}", copy / "conf/probes/init.yaml"
    assert f"`{line}`" in text and "`init.yaml`" in text
    file.write_text(f"{file.read_text(encoding='utf-8')}{line}\n", encoding="utf-8")
    return copy


def test_what_the_readme_shows_is_as_clean_as_the_rest(followed: Path) -> None:
    added = [name for name in sorted(RECIPES) if name.endswith(".py")]
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--no-cache", *added]
        done = subprocess.run(command, cwd=followed, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


def test_what_the_readme_says_how_to_add_works_as_written(followed: Path, data_root: Path) -> None:
    text = readme.README.read_text(encoding="utf-8")
    found = re.findall(r"(?m)\.venv/bin/python -m bnstudy (run [^`\n]+)", text)
    runs = [[*shlex.split(command), *SMALL, "train.steps=1"] for command in found]
    assert len(runs) == 4  # any run, and one with the norm, the network, the probe
    axes = ["model=perceptron", "norm=batch,none", "seed=0,1,2", "probes=none", "probes.zeros.at=[0]"]
    sweep = ["sweep", "init", "--preset", "quick", *axes, *SMALL]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(followed / "src"), str(ROOT / "tests")]),
        "BNSTUDY_DATA_ROOT": str(data_root),
    }
    commands = json.dumps([*runs, sweep, ["figures", "--preset", "custom"]])
    command = [sys.executable, "-c", FOLLOW, commands]
    done = subprocess.run(command, cwd=followed, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results = followed / "results"
    made = [path.name for path in (results / "runs").iterdir()]
    assert len(made) == len(runs) + 6 and any(name.startswith("resnet20-response-") for name in made)
    for name in (name for name in made if name.startswith("resnet20-batch")):
        assert len(pd.read_parquet(results / "runs" / name / "zeros.parquet")) == 20  # a row a layer
    claims = {row["id"]: row for row in json.loads((results / "custom/claims.json").read_text(encoding="utf-8"))}
    assert claims["zeros"]["n"] == 3 and claims["zeros"]["verdict"] in ("reproduced", "not reproduced", "undecided")
    assert (results / "custom/figures/zeros.png").exists()
