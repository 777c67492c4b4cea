"""Where the project lies: conf/, sweeps/ and analysis/, folders of own components, and by default data and results.

A checkout has them all at its root, wherever a command is started. A wheel carries the first three, and data and
results are then in the current folder. A folder of own components adds to the project's: norms/, models/, probes/,
sweeps/ and conf/, each if it is there. It is named by `--components`, by the environment variable, or by an installed
package's entry point of the group `bnstudy.components`, as in `mine = "my_package"`.
"""

from __future__ import annotations

import os
import re
import shlex
from functools import cache, lru_cache
from importlib import metadata, util
from itertools import takewhile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parents[1]
SHIPPED = PACKAGE / "shipped"  # of a wheel
ROOT = CHECKOUT if (CHECKOUT / "conf" / "config.yaml").is_file() else SHIPPED
SWEEPS = ROOT / "sweeps"
RESULTS, DATA_ROOT, COMPONENTS = "BNSTUDY_RESULTS", "BNSTUDY_DATA_ROOT", "BNSTUDY_COMPONENTS"  # environment variables
PARTS = ("norms", "models", "probes", "sweeps", "conf")  # of a folder of own components
# Names that a folder of one's own may have, too: they are found neither by name nor by an import of the project's.
SHARED = {
    "models": {Path(name) for name in ("layers.py", "init.py", "folding.py", "tracing.py")},
    "probes": {Path("snapshot.py")},
    "conf": {Path("config.yaml")},
}


def results(given: str | os.PathLike[str] | None = None) -> Path:
    """The results folder: the one given, the one that BNSTUDY_RESULTS names, or the project's `results`."""
    return _place(given, RESULTS, "results")


def data_root(given: str | os.PathLike[str] | None = None) -> Path:
    """Where the images are: the folder given, the one that BNSTUDY_DATA_ROOT names, or the project's `data`."""
    return _place(given, DATA_ROOT, "data")


def _place(given: str | os.PathLike[str] | None, variable: str, name: str) -> Path:
    if given := given or os.environ.get(variable):
        return folder(given)
    return usual(name)


def usual(name: str) -> Path:
    """`data` or `results` where no other folder is named: in the checkout, without one in the current folder."""
    return (CHECKOUT if ROOT == CHECKOUT else Path.cwd()) / name


def elsewhere(given: Path) -> str:
    """The argument that a `make` command needs where the results are not in the project's folder, else nothing."""
    if given.absolute() == results().absolute():
        return ""
    return f" ARGS={shlex.quote(f'--results={shlex.quote(str(given))}'.replace('$', '$$'))}"


def folder(given: str | os.PathLike[str]) -> Path:
    """A folder of this machine; `~` at its beginning is the home, also where no shell has put it there.

    Raises ValueError for an address, for an invalid name, and for a home that does not exist.
    """
    text = os.fspath(given)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise ValueError(f"{text!r} is an address; name a folder of this machine")
    if not text or "\0" in text:
        raise ValueError("name a folder; . is the one you are in")
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError:
        raise ValueError(f"{text!r}: there is no such home; write ./{text} for a folder") from None


def own(part: str) -> list[Path]:
    """The folders of this part (norms, sweeps, ...) among own components.

    Raises ValueError for a file there that has the name of one of the project's, or of an earlier folder's: of the two
    only that one would be used.
    """
    folders = [folder / part for folder in components() if (folder / part).is_dir()]
    if folders:
        _check_names(part, tuple((str(each), each.stat().st_mtime_ns) for each in folders))
    return folders


@lru_cache(100)
def _check_names(part: str, own: tuple[tuple[str, int], ...]) -> None:
    """`own`: folders, and when each was changed, so that it is read again after that."""
    projects = {"sweeps": SWEEPS, "conf": ROOT / "conf"}.get(part, PACKAGE / part)
    taken = {path.relative_to(projects): path for path in _files(projects)}
    for place in dict.fromkeys(Path(folder).resolve() for folder, _ in own):
        for path in _files(place):
            if path.relative_to(place) in SHARED.get(part, ()):
                continue
            if (other := taken.setdefault(path.relative_to(place), path)) != path:
                raise ValueError(f"{path} and {other} have one name, and only the latter would be used: rename yours")


def _files(folder: Path) -> list[Path]:
    """Its files of code and configuration; hidden ones, as of an editor or a notebook, are none."""
    paths = (path for ending in ("*.py", "*.yaml") for path in folder.rglob(ending))
    inside = ((path, path.relative_to(folder).parts) for path in paths)
    return sorted(path for path, parts in inside if not any(part.startswith((".", "__")) for part in parts))


def sweep_folders() -> list[Path]:
    """The project's folder of sweeps, and those among own components."""
    return [SWEEPS, *own("sweeps")]


def sweep_file(name: str) -> Path | None:
    """The file of a sweep, the project's or one among own components."""
    paths = [folder / f"{name}.yaml" for folder in sweep_folders()]
    return next((path for path in paths if path.is_file()), None)


def opening_comment(file: Path) -> str:
    """The comment that opens a file of configuration: why it exists and what it costs."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    return "\n".join(line.lstrip("# ").rstrip() for line in lines)


def components() -> list[Path]:
    """The folders of own components."""
    named = os.environ.get(COMPONENTS, "")
    return [folder(each) for each in named.split(os.pathsep) if each] + _installed()


def use_components(given: str | os.PathLike[str]) -> None:
    """Find the norms, networks, probes and sweeps of this folder, too: in this process and those that it starts.

    Raises ValueError for a folder that has none of these parts.
    """
    path = folder(given).absolute()
    if not any((path / part).is_dir() for part in PARTS):
        raise ValueError(f"components = {path}: the folder has none of {', '.join(f'{part}/' for part in PARTS)}")
    if path in components():
        return
    before = os.environ.get(COMPONENTS, "")
    os.environ[COMPONENTS] = os.pathsep.join([*filter(None, before.split(os.pathsep)), str(path)])
    try:
        for part in PARTS:
            own(part)
    except ValueError:
        os.environ[COMPONENTS] = before
        raise


@cache
def _installed() -> list[Path]:
    specs = [util.find_spec(each.value) for each in metadata.entry_points(group="bnstudy.components")]
    return [Path(place) for spec in specs if spec for place in spec.submodule_search_locations or ()]
