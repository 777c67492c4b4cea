"""Which norms, networks and probes there are, and which options each takes: one file each, found by its name.

A component's options are the keyword-only parameters of its one function (`build`, for a probe `probe`). They are read
from the source text, so composing and checking a configuration does not import torch.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import io
import itertools
import tokenize
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

FUNCTION = {"norms": "build", "models": "build", "probes": "probe"}
# Modules of these packages that serve the components and are none themselves.
SUPPORT = {"norms": set(), "models": {"layers", "init", "folding"}, "probes": {"snapshot"}}


def names(kind: str) -> list[str]:
    """The components of a kind ("norms", "models", "probes"), sorted."""
    folder = Path(__file__).parents[1] / kind
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_") and p.stem not in SUPPORT[kind])


@cache
def defaults(kind: str, name: str) -> dict[str, Any]:
    """Options of a component with their defaults, in the order of its function's keyword-only parameters.

    Raises ValueError for an unknown name, or for a parameter without a literal default.
    """
    function = _function(kind, _known(kind, name))
    options = {}
    for parameter, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        try:
            options[parameter.arg] = ast.literal_eval(default) if default is not None else None
        except ValueError:
            default = None
        if default is None:
            raise ValueError(f"{kind}/{name}.py: option {parameter.arg!r} needs a literal default")
    return options


@cache
def initialisers() -> tuple[str, ...]:
    """The names of the initialisers: the keys of SCHEMES in models/init.py, read from its text as options are."""
    for node in _tree("models", "init").body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "SCHEMES":
            assert isinstance(node.value, ast.Dict)
            return tuple(ast.literal_eval(key) for key in node.value.keys if key)
    raise ValueError("models/init.py: there is no SCHEMES")


def flag(kind: str, name: str, constant: str) -> bool:
    """Whether the component's file sets the module constant to True, as in `STACKABLE = True`; nothing is imported."""
    for node in _tree(kind, _known(kind, name)).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == constant for t in node.targets):
            return bool(ast.literal_eval(node.value))
    return False


def stackable(model: str, norm: str) -> bool:
    """Whether networks of this model with this norm may be made one: both treat every channel for itself."""
    return flag("models", model, "STACKABLE") and flag("norms", norm, "STACKABLE")


def load(kind: str, name: str) -> ModuleType:
    """The component's module, imported. Raises ValueError for an unknown name."""
    return importlib.import_module(f"bnstudy.{kind}.{_known(kind, name)}")


def checksum(kind: str, name: str) -> str:
    """Twelve hex digits over what a component's file says, and those of its own folder that it imports.

    Comments, docstrings and blank lines do not count.
    """
    folder, found, left = Path(__file__).parents[1] / kind, dict[str, str](), [_known(kind, name)]
    while left:
        stem = left.pop()
        if stem not in found and (path := folder / f"{stem}.py").is_file():
            found[stem] = source_checksum(path)
            left += _imported(path, f"bnstudy.{kind}")
    return hashlib.sha256(" ".join(found[stem] for stem in sorted(found)).encode()).hexdigest()[:12]


def _imported(path: Path, package: str) -> list[str]:
    """The modules of the package that a file imports, by their bare names."""
    names: list[str] = []
    with contextlib.suppress(SyntaxError):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names += [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
            elif isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
    return [name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")]


def source_checksum(path: Path) -> str:
    """The same of any Python file; of one that is none, over all its text."""
    text = path.read_text(encoding="utf-8")
    with contextlib.suppress(SyntaxError, tokenize.TokenError):
        text = _code(text)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _code(text: str) -> str:
    """The lines of a Python file without comments, docstrings, blank lines and trailing spaces."""
    lines, spans, begins = text.splitlines(), list[tuple[int, int, int, int]](), True
    for token, following in itertools.pairwise(tokenize.generate_tokens(io.StringIO(text).readline)):
        docstring = token.type == tokenize.STRING and begins and following.type == tokenize.NEWLINE
        if token.type == tokenize.COMMENT or docstring:
            spans.append((*token.start, *token.end))
        elif token.type != tokenize.NL:
            begins = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for first, start, last, end in reversed(spans):
        lines[first - 1 : last] = [lines[first - 1][:start] + lines[last - 1][end:]]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _path(kind: str, name: str) -> Path:
    return Path(__file__).parents[1] / kind / f"{name}.py"


def _known(kind: str, name: str) -> str:
    if name not in names(kind):
        raise ValueError(f"{kind}: there is no {name!r}; there are {', '.join(names(kind))}")
    return name


def _tree(kind: str, name: str) -> ast.Module:
    try:
        return ast.parse(_path(kind, name).read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{kind}/{name}.py, line {error.lineno}: {error.msg}") from None


def _function(kind: str, name: str) -> ast.FunctionDef:
    for node in _tree(kind, name).body:
        if isinstance(node, ast.FunctionDef) and node.name == FUNCTION[kind]:
            return node
    raise ValueError(f"{kind}/{name}.py: a file in {kind}/ needs a function {FUNCTION[kind]!r}")
