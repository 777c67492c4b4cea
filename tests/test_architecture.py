"""What is imported where and when, and what no file of the repository may hold; `make lint` holds the rooms' order."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "bnstudy"

HEAVY = ("torch", "torchvision", "wandb", "hydra", "omegaconf")
COMPOSING = {"config.compose", "config.errors", "config.overrides"}
ALLOWED = {
    "hydra": COMPOSING,
    "omegaconf": COMPOSING,
    "wandb": {"tracking.wandb", "tracking.workspace"},
    "torchvision": {"data"},
}
TRAIN_LINES = 150


@dataclass(frozen=True)
class Import:
    """One imported name: `target` is dotted, `bnstudy.` taken off our own; `lazy`: inside a function."""

    module: str
    target: str
    own: bool
    lazy: bool
    line: int

    def __str__(self) -> str:
        return f"{self.module} (line {self.line}) imports {self.target}"


@cache
def modules() -> dict[str, Path]:
    """Our modules by dotted name without `bnstudy.`; a package goes by its folder's name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for name, path in modules().items() for found in _imports(name, path))


def _imports(module: str, path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}, line {node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            own = name.split(".")[0] == "bnstudy"
            target = _own_module(name) if own else name
            yield Import(module, target, own, id(node) in inside, getattr(node, "lineno", 0))


def _own_module(name: str) -> str:
    """The module that `bnstudy.a.b.name` lies in, or is."""
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in modules():
        parts.pop()
    return ".".join(parts) or "__init__"


def top(module: str) -> str:
    return module.split(".")[0]


def test_no_cycles_within_a_package() -> None:
    edges: dict[str, set[str]] = {module: set() for module in modules()}
    for i in imports():
        if i.own and i.target != i.module:
            edges[i.module].add(i.target)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"cycle: {' -> '.join((*trail, module))}"
        if module not in done:
            for target in edges[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_services_are_imported_in_one_place(package: str) -> None:
    found = [i for i in imports() if not i.own and top(i.target) == package]
    assert [str(i) for i in found if not {i.module, top(i.module)} & ALLOWED[package]] == []


@pytest.mark.parametrize("package", ["wandb", "torchvision"])
def test_costly_services_are_imported_when_they_are_used(package: str) -> None:
    assert [str(i) for i in imports() if not i.own and top(i.target) == package and not i.lazy] == []


def loaded(script: str) -> set[str]:
    """The heavy packages that a fresh interpreter holds after the script."""
    report = f"\nimport sys; print('loaded:', *(name for name in {HEAVY!r} if name in sys.modules))"
    command = [sys.executable, "-c", script + report]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_figures_and_report_load_nothing_heavy() -> None:
    script = "import bnstudy.store.reduction, bnstudy.analysis.report\nfrom pathlib import Path\n"
    script += "from bnstudy.analysis import findings\n"
    assert (
        loaded(script + "assert [findings.load(path) for path in findings.discover(Path('analysis/findings'))]")
        == set()
    )


def test_help_loads_nothing_heavy() -> None:
    assert loaded("from bnstudy.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass") == set()


def test_importing_the_package_loads_nothing_but_what_is_asked_for() -> None:
    script = "import bnstudy, sys\nassert not {'numpy', 'pandas', 'pyarrow', 'yaml', 'scipy'} & set(sys.modules)"
    assert loaded(script) == set()
    assert loaded("import bnstudy; bnstudy.table('init'); bnstudy.claims()") == set()
    assert loaded("import bnstudy; bnstudy.configure(); bnstudy.sweeps()") == {"hydra", "omegaconf"}


def test_composing_a_run_does_not_load_torch() -> None:
    script = "from bnstudy.config import compose\nfrom bnstudy.sweep import study\ncompose.one([])"
    assert loaded(script) == {"hydra", "omegaconf"}


@cache
def tracked() -> tuple[Path, ...]:
    """What git has or would have; in an unpacked archive, the folders that hold sources."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if (ROOT / ".git").exists():
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        return tuple(ROOT / name for name in listed if name and (ROOT / name).is_file())
    folders = [ROOT / name for name in ("src", "tests", "analysis", "conf", "sweeps")]
    return tuple(p for folder in folders for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc")


def test_no_file_names_a_machine_or_a_registry() -> None:
    machine = rb"(?<![\w./-])/(?:work|farm|root|home|Users)/\w"
    registry = rb"(?:pypi|pythonhosted|pytorch)\.(?:org|io)/(?:simple|packages|whl)|files\.pythonhosted"
    pattern = re.compile(machine + b"|" + registry + rb"|index-url\s+http")
    found = {str(path.relative_to(ROOT)): pattern.findall(path.read_bytes()) for path in tracked()}
    assert {name: matches for name, matches in found.items() if matches} == {}
    assert len(tracked()) > 50


def test_no_tracked_file_is_large() -> None:
    assert [str(path) for path in tracked() if path.stat().st_size > 2 * 2**20] == []


@pytest.mark.parametrize("name", ["requirements.lock", "bootstrap.lock"])
def test_every_locked_package_is_pinned_and_hashed_and_no_host_is_named(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//|@ |--(?:extra-)?index|--find-links|\w\.(?:org|com|io)\b", text)
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", text).strip())
    assert len(entries) > 1
    for entry in entries:
        pin, hashes = r"[\w.-]+==[\w.+!-]+(?: ; [^\\]+)?", r"(?: \\\n    --hash=sha256:[0-9a-f]{64})+"
        assert re.fullmatch(pin + hashes, entry.strip()), entry[:200]


def named(extra: str | None = None) -> set[str]:
    """The packages that pyproject.toml names: those needed to use the project, or those of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {re.split(r"[<>=!~ ;\[]", requirement)[0].lower() for requirement in requirements}


def test_the_lock_has_every_package_that_the_project_names() -> None:
    locked = set(re.findall(r"(?m)^([\w.-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8")))
    assert (named() | named("dev") | named("notebooks") | named("docs")) - locked == set()


@pytest.mark.parametrize(
    ("extra", "folders", "otherwise"),
    [
        (None, ("src", "analysis"), set()),
        # commands, types, a plugin of pytest's
        (
            "dev",
            ("tests",),
            {"ruff", "mypy", "pandas-stubs", "types-pyyaml", "setuptools", "uv"}
            | {"pytest-xdist", "pytest-timeout", "import-linter"},
        ),
        ("notebooks", ("src",), {"ipykernel", "jupyterlab"}),  # which nbclient starts; `make lab`
    ],
)
def test_every_package_that_the_project_names_is_used(
    extra: str | None, folders: tuple[str, ...], otherwise: set[str]
) -> None:
    """Where it is named: what only tests import is not needed to use the project."""
    texts = [path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py")]
    imported = re.findall(r'(?m)^\s*(?:import|from) (\w+)|importorskip\("(\w+)"', "\n".join(texts))
    modules = {(first or second).lower().replace("_", "-") for first, second in imported}
    modules |= {"pillow"} if "pil" in modules else set()  # the one package whose module has another name
    assert {name for name in named(extra) - otherwise if name.removesuffix("-core") not in modules} == set()


def test_the_bootstrap_agrees_with_the_lock() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"(?m)^[\w.-]+==[\w.]+", (ROOT / name).read_text(encoding="utf-8")))

    assert pins("bootstrap.lock") <= pins("requirements.lock")


def test_every_module_says_what_it_decides() -> None:
    """But a notebook, which says it in its first cell."""
    folders = ("src", "tests", "analysis/findings")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert [str(path) for path in sources if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def test_what_is_drawn_or_judged_is_sorted_alike_on_every_processor() -> None:
    """pandas' default sort leaves equal values in an order that depends on the width of vectors."""
    files = [*(SOURCE / "analysis").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    sorts = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "sort_values"]
    stable = [call for call in sorts if any(ast.unparse(word) == "kind='stable'" for word in call.keywords)]
    assert sorts and [ast.unparse(call) for call in sorts if call not in stable] == []


def test_the_loop_is_short() -> None:
    assert len(code_lines((SOURCE / "training" / "train.py").read_text(encoding="utf-8"))) < TRAIN_LINES


def code_lines(text: str) -> set[int]:
    """The numbers of lines that hold code: no blank lines, comments or docstrings."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    docstrings = {
        (node.body[0].lineno, node.body[0].col_offset)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped and token.start not in docstrings:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def test_code_lines_are_counted_without_blanks_comments_and_docstrings() -> None:
    text = '"""Says\nsomething."""\n\n# comment\nx = """\ntext"""\n\n\n'
    text += 'def f():\n    """Doc."""\n    return (\n        1  # one\n    )\n'
    assert code_lines(text) == {5, 6, 9, 11, 12, 13}


def targets() -> dict[str, str]:
    """The Makefile's targets with their one line of help ("" where there is none)."""
    found = re.findall(r"(?m)^([a-z][a-z%-]*):(?!=)(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"))
    return {name: rest.partition("## ")[2] for name, rest in found}


def test_help_lists_every_target_with_one_line() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name, line in targets().items():
        assert line, f"{name} has no line of help"
        assert re.search(rf"(?m)^  make {name.replace('%', 'NAME')} +{re.escape(line)}$", shown)


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert re.search(r"(?m)^make test$", script.read_text(encoding="utf-8"))
