"""Which norms, networks and probes there are, and which options each takes: one file each, found by its name.

A component's options are the keyword-only parameters of its one function (`build`, for a probe `probe`). They are read
from the source text, so composing and checking a configuration does not import torch.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import hashlib
import importlib
import io
import itertools
import os
import sys
import tokenize
import weakref
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from bnstudy.config import project

FUNCTION = {"norms": "build", "models": "build", "probes": "probe"}
GIVEN = {"norms": ("num_features", "ndim"), "models": ("shape", "num_classes", "norm"), "probes": ("snapshot",)}
CONSTANTS: dict[str, dict[str, str]] = {  # what a file has to set, and what for
    "norms": {},
    "models": {"INPUT_SIZE": "the side to which smaller images are padded, or None"},
    "probes": {"READS": "what it reads of a snapshot, as in {'activations'}", "COLUMNS": "its columns' types by name"},
}
# Names of options that stand for something else, in an override or as a column of the table `runs`.
TAKEN = {
    "norms": frozenset({"name", "where"}),
    "models": frozenset(
        {"name", "model", "network", "norm", "data", "run_id", "status", "outcome", "epochs", "steps", "init"}
        | {"init_scale", "precision", "seed", "batch_size", "normalise", "augment", "num_train", "num_test", "balanced"}
        | {"lr", "momentum", "weight_decay", "milestones", "decay", "warmup", "diverged_step", "error", "num_steps"}
        | {"data_source", "data_sha256", "data_title", "stand_in", "commit", "commits", "dirty", "code", "looks"}
        | {"device", "threads", "num_runs", "wall_sec", "probe_share", "last_loss"}
    ),
    "probes": frozenset[str](),
}
OF_TRAINING = ("steps", "epochs", "throughput")  # tables of training: no probe's, and no run's without an update
COLUMN_TYPES = ("int16", "int32", "int64", "float32", "float64", "string", "bool")
READ_AS = {"logits_NK": "logits", "logit_gradient_NK": "logits", "displaced": "gradients", "after": "gradients"} | {
    name: name for name in ("inputs", "preactivations", "activations", "output_gradients", "gradients")
}  # attribute of a snapshot that a probe uses: what READS has to name for it
TEXTS = 256  # whose checksum is remembered: a sweep asks for those of its few components with every run
# Modules of these packages that serve the components and are no components themselves.
SUPPORT = {"norms": set(), "models": {"layers", "init", "folding", "tracing"}, "probes": {"snapshot"}}


def names(kind: str) -> list[str]:
    """The components of a kind ("norms", "models", "probes"), sorted."""
    # listdir: a sweep of a thousand runs asks for each of its runs, and glob takes twenty times as long
    files = {file for folder in _folders(kind) if folder.is_dir() for file in os.listdir(folder)}
    stems = {file.removesuffix(".py") for file in files if file.endswith(".py")}
    return sorted(stem for stem in stems if not stem.startswith("_") and stem not in SUPPORT[kind])


def files(kind: str) -> list[Path]:
    """The files of all components of a kind."""
    return [_path(kind, name) for name in names(kind)]


def defaults(kind: str, name: str) -> dict[str, Any]:
    """Options of a component with their defaults, in the order of its function's keyword-only parameters.

    They are the caller's own. Raises ValueError for an unknown name, for a parameter without a literal default, for one
    whose name is taken, and for a file that lacks what its kind needs.
    """
    return copy.deepcopy(_defaults(kind, name, _path(kind, _known(kind, name)).read_text(encoding="utf-8")))


@lru_cache(TEXTS)
def _defaults(kind: str, name: str, text: str) -> dict[str, Any]:
    """Those of a file of this text: a notebook edits it."""
    function = _function(kind, name)
    _check_signature(kind, name, function)
    _check_constants(kind, name, function)
    options = {}
    for parameter, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if parameter.arg in TAKEN[kind] or (kind == "models" and parameter.arg.startswith(("norm_", "final_"))):
            raise ValueError(f"{kind}/{name}.py: option {parameter.arg!r}: the name is taken; give it another")
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
    """Whether the component's file sets the module constant to True, as in `STACKABLE = True`; nothing is imported.

    Raises ValueError where the value is not written there.
    """
    for node in _tree(kind, _known(kind, name)).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == constant for t in node.targets):
            try:
                return bool(ast.literal_eval(node.value))
            except ValueError:
                text = f"{kind}/{name}.py, line {node.lineno}: {constant} = {ast.unparse(node.value)}"
                raise ValueError(f"{text}: the file is read and not run; write True or False") from None
    return False


def stackable(model: str, norm: str) -> bool:
    """Whether networks of this model with this norm can be stacked into one: both treat every channel by itself."""
    return flag("models", model, "STACKABLE") and flag("norms", norm, "STACKABLE")


def load(kind: str, name: str) -> ModuleType:
    """The component's module, imported. Raises ValueError for an unknown name."""
    package = importlib.import_module(f"bnstudy.{kind}")
    package.__path__ += [str(folder) for folder in _folders(kind) if str(folder) not in package.__path__]
    module = importlib.import_module(f"bnstudy.{kind}.{_known(kind, name)}")
    if module not in _at_import:
        for file, checksum in sources(kind, name).items():
            if (of := _module_of(file)) is not None:
                _at_import.setdefault(of, checksum)  # what another component imported before is as it was then
    return module


_at_import = weakref.WeakKeyDictionary[ModuleType, str]()  # the checksum of each file that was imported


def loaded(kind: str, name: str) -> dict[str, str]:
    """The `sources` of the component as this process has them, which imports a file once: later edits do not count."""
    known = sources(kind, name)
    return {
        file: checksum if (of := _module_of(file)) is None else _at_import.get(of, checksum)
        for file, checksum in known.items()
    }


def _module_of(file: str) -> ModuleType | None:
    """The module of a file, named as in norms/batch.py, if it has been imported."""
    return sys.modules.get(f"bnstudy.{file.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}")


def check_current(kind: str, name: str) -> None:
    """Import the component. Raises ValueError where its code has changed since this process imported it before."""
    load(kind, name)
    then, now = loaded(kind, name), sources(kind, name)
    if changed := sorted(file for file in then.keys() | now.keys() if then.get(file) != now.get(file)):
        raise ValueError(
            f"{', '.join(changed)} changed since this process imported it: run the command once more (in a notebook "
            "restart the kernel); what was trained with the former code is then trained anew"
        )


def sources(kind: str, name: str) -> dict[str, str]:
    """Checksums of a component's file and of those of its own folder that it imports, by names as in norms/batch.py.

    Comments, docstrings and blank lines do not count.
    """
    checksums, files, left = dict[str, str](), dict[str, str](), [_known(kind, name)]
    while left:
        stem = left.pop()
        if stem not in checksums and (path := _path(kind, stem)).is_file():
            text = path.read_text(encoding="utf-8")
            checksums[stem] = _checksum_of(text)
            inside = "/__init__" if path.name == "__init__.py" else ""
            files[stem] = f"{kind}/{stem.replace('.', '/')}{inside}.py"
            left += _imported(text, f"bnstudy.{kind}", stem, is_package=path.name == "__init__.py")
    return {files[stem]: checksums[stem] for stem in sorted(checksums)}


def checksum(kind: str, name: str) -> str:
    """Twelve hex digits over the code of a component's file, and of those of its own folder that it imports."""
    return checksum_of(sources(kind, name))


def checksum_of(sources: Mapping[str, str]) -> str:
    """The checksum of a component that has these sources."""
    return hashlib.sha256(" ".join(sources.values()).encode()).hexdigest()[:12]


@lru_cache(TEXTS)
def _imported(text: str, package: str, stem: str, *, is_package: bool) -> tuple[str, ...]:
    """The modules of the package that its file `stem`, of this text, imports, by their names in it: _core, lib.core.

    `is_package`: the file is an __init__.py.
    """
    names: list[str] = []
    parents = f"{package}.{stem}".split(".") + [""] * is_package
    with contextlib.suppress(SyntaxError):
        for node in ast.walk(_parsed(text)):
            if isinstance(node, ast.ImportFrom):
                base = ".".join([*parents[: -node.level], *([node.module] if node.module else [])])
                base = base if node.level else node.module or ""
                names += [f"{base}.{alias.name}" for alias in node.names] + [base]
            elif isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
    return tuple(name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}."))


def source_checksum(path: Path) -> str:
    """The checksum of any Python file's code; of another file, of all its text."""
    return _checksum_of(path.read_text(encoding="utf-8"))


@lru_cache(TEXTS)
def _checksum_of(text: str) -> str:
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
    """A component's file: the project's, or that of a folder of own components."""
    place = name.replace(".", "/")
    paths = [folder / file for folder in _folders(kind) for file in (f"{place}.py", f"{place}/__init__.py")]
    return next((path for path in paths if path.is_file()), paths[0])


def component(path: Path) -> str | None:
    """The name of a component's file for messages, as in norms/batch.py; None for a file that is no component."""
    kinds = (kind for kind in FUNCTION if path.parent in _folders(kind) and path.stem not in SUPPORT[kind])
    return next((f"{kind}/{path.name}" for kind in kinds), None)


def _folders(kind: str) -> list[Path]:
    return [project.PACKAGE / kind, *project.own(kind)]


def _known(kind: str, name: str) -> str:
    if name not in names(kind):
        raise ValueError(f"{kind}: there is no {name!r}; there are {', '.join(names(kind))}")
    return name


_parsed = lru_cache(TEXTS)(ast.parse)  # to be read only: the same text always gives this same tree


def _tree(kind: str, name: str) -> ast.Module:
    try:
        return _parsed(_path(kind, name).read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{kind}/{name}.py, line {error.lineno}: {error.msg}") from None


def _check_signature(kind: str, name: str, function: ast.FunctionDef) -> None:
    given, expected = [each.arg for each in (*function.args.posonlyargs, *function.args.args)], GIVEN[kind]
    call = f"def {function.name}({', '.join(expected)}"
    if len(given) > len(expected):
        option = given[len(expected)]
        raise ValueError(f"{kind}/{name}.py: option {option!r} must stand after a *, as in {call}, *, {option}=...)")
    if len(given) < len(expected) and function.args.vararg is None:
        raise ValueError(f"{kind}/{name}.py: {function.name} is given {', '.join(expected)}: write {call}, ...)")


def _check_constants(kind: str, name: str, function: ast.FunctionDef) -> None:
    values = dict[str, ast.expr | None]()
    for node in _tree(kind, name).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        values |= {each.id: getattr(node, "value", None) for each in targets if isinstance(each, ast.Name)}
        values |= {each.asname or each.name: None for each in node.names} if isinstance(node, ast.ImportFrom) else {}
    for constant, purpose in CONSTANTS[kind].items():
        if constant not in values:
            raise ValueError(f"{kind}/{name}.py: {constant} is missing: set it, {purpose}")
    if kind == "probes":
        _check_table(name, values.get("COLUMNS"))
    reads = values.get("READS")
    if isinstance(reads, ast.List | ast.Tuple | ast.Dict | ast.Constant):
        raise ValueError(f"{kind}/{name}.py: READS = {ast.unparse(reads)} is no set: write {{'gradients'}}, or set()")
    if not isinstance(reads, ast.Set):
        return
    declared = {each.value for each in reads.elts if isinstance(each, ast.Constant)}
    snapshot = function.args.args[0].arg if function.args.args else ""
    for used in ast.walk(function):
        if isinstance(used, ast.Attribute) and isinstance(used.value, ast.Name) and used.value.id == snapshot:
            needed = READ_AS.get(used.attr)
            if needed and needed not in declared:
                raise ValueError(f"{kind}/{name}.py: it uses {snapshot}.{used.attr}: add {needed!r} to READS")


def _check_table(name: str, columns: ast.expr | None) -> None:
    """Raises ValueError for a probe whose table, or one of its columns, would be another's, or has no such type."""
    if name in (*OF_TRAINING, "runs"):
        raise ValueError(f"probes/{name}.py: training has a table of this name; give the file another")
    for key, value in zip(columns.keys, columns.values, strict=True) if isinstance(columns, ast.Dict) else ():
        column, dtype = (each.value if isinstance(each, ast.Constant) else None for each in (key, value))
        if column in ("step", "run_id"):
            raise ValueError(f"probes/{name}.py: COLUMNS: every table has {column!r} already; leave it out")
        if dtype is not None and dtype not in COLUMN_TYPES:
            types = ", ".join(COLUMN_TYPES)
            raise ValueError(f"probes/{name}.py: COLUMNS: {column!r} is {dtype!r}; give one of {types}")


def _function(kind: str, name: str) -> ast.FunctionDef:
    for node in _tree(kind, name).body:
        if isinstance(node, ast.FunctionDef) and node.name == FUNCTION[kind]:
            return node
    raise ValueError(f"{kind}/{name}.py: a file in {kind}/ needs a function {FUNCTION[kind]!r}")
