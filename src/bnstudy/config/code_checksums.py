"""The checksum of a file's code, and the modules of its package that it imports; nothing is run."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import itertools
import tokenize
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

TEXTS = 256  # whose checksum is remembered: a sweep asks for those of its few components with every run


def of_file(path: Path) -> str:
    """The checksum of any Python file's code; of another file, of all its text."""
    return of_text(path.read_text(encoding="utf-8"))


@lru_cache(TEXTS)
def of_text(text: str) -> str:
    with contextlib.suppress(SyntaxError, tokenize.TokenError):
        text = _code(text)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def of_sources(sources: Mapping[str, str]) -> str:
    """The checksum of a component that has these sources."""
    return hashlib.sha256(" ".join(sources.values()).encode()).hexdigest()[:12]


@lru_cache(TEXTS)
def imported(text: str, package: str, stem: str, *, is_package: bool) -> tuple[str, ...]:
    """The modules of the package that its file `stem`, of this text, imports, by their names in it: _core, lib.core.

    `is_package`: the file is an __init__.py.
    """
    names: list[str] = []
    parents = f"{package}.{stem}".split(".") + [""] * is_package
    with contextlib.suppress(SyntaxError):
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.ImportFrom):
                base = ".".join([*parents[: -node.level], *([node.module] if node.module else [])])
                base = base if node.level else node.module or ""
                names += [f"{base}.{alias.name}" for alias in node.names] + [base]
            elif isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
    return tuple(name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}."))


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


parsed = lru_cache(TEXTS)(ast.parse)  # to be read only: the same text always gives this same tree
