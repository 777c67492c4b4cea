"""Which norms, networks and probes there are, and which options each takes: one file each, found by its name.

A component's options are the keyword-only parameters of its one function (`build`, for a probe `probe`). They are read
from the source text, so composing and checking a configuration does not import torch.
"""

from __future__ import annotations

import ast
import copy
import importlib
import os
import sys
import weakref
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from bnstudy.config import code_checksums, component_files, project

# Modules of these packages that serve the components and are no components themselves.
SUPPORT = {"norms": set(), "models": {"layers", "init", "folding", "tracing"}, "probes": {"snapshot"}}


class Changed(ValueError):
    """A component's code is no longer what this process has imported."""


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
    text = _text(_path(kind, _known(kind, name)))
    return copy.deepcopy(component_files.options(kind, name, text))


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
    """Import the component. Raises Changed where its code has changed since this process imported it before."""
    load(kind, name)
    then, now = loaded(kind, name), sources(kind, name)
    if changed := sorted(file for file in then.keys() | now.keys() if then.get(file) != now.get(file)):
        raise Changed(
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
            text = _text(path)
            checksums[stem] = code_checksums.of_text(text)
            inside = "/__init__" if path.name == "__init__.py" else ""
            files[stem] = f"{kind}/{stem.replace('.', '/')}{inside}.py"
            left += code_checksums.imported(text, f"bnstudy.{kind}", stem, is_package=path.name == "__init__.py")
    return {files[stem]: checksums[stem] for stem in sorted(checksums)}


def checksum(kind: str, name: str) -> str:
    """Twelve hex digits over the code of a component's file, and of those of its own folder that it imports."""
    return code_checksums.of_sources(sources(kind, name))


def _path(kind: str, name: str) -> Path:
    """A component's file: the project's, or that of a folder of own components."""
    place = name.replace(".", "/")
    paths = [folder / file for folder in _folders(kind) for file in (f"{place}.py", f"{place}/__init__.py")]
    return next((path for path in paths if path.is_file()), paths[0])


def component(path: Path) -> str | None:
    """The name of a component's file for messages, as in norms/batch.py; None for a file that is no component."""
    none = {kind: {*support, "__init__"} for kind, support in SUPPORT.items()}
    kinds = (kind for kind in SUPPORT if path.parent in _folders(kind) and path.stem not in none[kind])
    return next((f"{kind}/{path.name}" for kind in kinds), None)


def _text(path: Path) -> str:
    """Raises ValueError for a file in another encoding."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.parent.name}/{path.name}: it is not UTF-8 ({error}): save it as that") from None


def _folders(kind: str) -> list[Path]:
    return [project.PACKAGE / kind, *project.own(kind)]


def _known(kind: str, name: str) -> str:
    if name not in names(kind):
        raise ValueError(f"{kind}: there is no {name!r}; there are {', '.join(names(kind))}")
    return name


def _tree(kind: str, name: str) -> ast.Module:
    return component_files.tree(kind, name, _text(_path(kind, name)))
