"""What the file of a norm, a network or a probe must have: its function, its constants, its options, its table."""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import Any

from bnstudy.config.code_checksums import TEXTS, parsed

FUNCTION = {"norms": "build", "models": "build", "probes": "probe"}
GIVEN = {"norms": ("num_features", "ndim"), "models": ("shape", "num_classes", "norm"), "probes": ("snapshot",)}
CONSTANTS: dict[str, dict[str, str]] = {  # what a file has to set, and what for
    "norms": {},
    "models": {"INPUT_SIZE": "the side to which smaller images are padded, or None"},
    "probes": {"READS": "what it reads of a snapshot, as in {'activations'}", "COLUMNS": "its columns' types by name"},
}
# Names of options that stand for something else: in an override, as a column of the table `runs`, or as an argument of
# `bnstudy.probe` and of a run's `probe`, which would take the value.
TAKEN = {
    "norms": frozenset({"name", "where"}),
    "models": frozenset(
        {"name", "model", "network", "norm", "data", "run_id", "status", "outcome", "epochs", "steps", "init"}
        | {"init_scale", "precision", "seed", "batch_size", "normalise", "augment", "num_train", "num_test", "balanced"}
        | {"lr", "momentum", "weight_decay", "milestones", "decay", "warmup", "diverged_step", "error", "num_steps"}
        | {"data_source", "data_sha256", "data_title", "stand_in", "commit", "commits", "dirty", "code", "looks"}
        | {"device", "threads", "num_runs", "kernels", "wall_sec", "probe_share", "last_loss"}
    ),
    "probes": frozenset(
        {"module", "images", "labels", "name", "layers", "train", "test", "initial", "batch_size", "device"}
    ),
}
OF_TRAINING = ("steps", "epochs", "throughput")  # tables of training: no probe's, and no run's without an update
COLUMN_TYPES = ("int16", "int32", "int64", "float32", "float64", "string", "bool")
READ_AS = {"logits_NK": "logits", "logit_gradient_NK": "logits", "displaced": "gradients", "after": "gradients"} | {
    name: name for name in ("inputs", "preactivations", "activations", "output_gradients", "gradients")
}  # attribute of a snapshot that a probe uses: what READS has to name for it


@lru_cache(TEXTS)
def options(kind: str, name: str, text: str) -> dict[str, Any]:
    """The options of a component whose file has this text (a notebook edits it), with their defaults."""
    function = _function(kind, name, text)
    _check_signature(kind, name, function)
    _check_constants(kind, name, function, text)
    defaults = {}
    for parameter, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if parameter.arg in TAKEN[kind] or (kind == "models" and parameter.arg.startswith(("norm_", "final_"))):
            raise ValueError(f"{kind}/{name}.py: option {parameter.arg!r}: the name is taken; give it another")
        try:
            defaults[parameter.arg] = ast.literal_eval(default) if default is not None else None
        except ValueError:
            default = None
        if default is None:
            raise ValueError(f"{kind}/{name}.py: option {parameter.arg!r} needs a literal default")
    return defaults


def tree(kind: str, name: str, text: str) -> ast.Module:
    """The syntax of a component's file that has this text. Raises ValueError where it has none."""
    try:
        return parsed(text)
    except SyntaxError as error:
        raise ValueError(f"{kind}/{name}.py, line {error.lineno}: {error.msg}") from None


def _function(kind: str, name: str, text: str) -> ast.FunctionDef:
    for node in tree(kind, name, text).body:
        if isinstance(node, ast.FunctionDef) and node.name == FUNCTION[kind]:
            return node
    raise ValueError(f"{kind}/{name}.py: a file in {kind}/ needs a function {FUNCTION[kind]!r}")


def _check_signature(kind: str, name: str, function: ast.FunctionDef) -> None:
    given, expected = [each.arg for each in (*function.args.posonlyargs, *function.args.args)], GIVEN[kind]
    call = f"def {function.name}({', '.join(expected)}"
    if len(given) > len(expected):
        option = given[len(expected)]
        raise ValueError(f"{kind}/{name}.py: option {option!r} must stand after a *, as in {call}, *, {option}=...)")
    if len(given) < len(expected) and function.args.vararg is None:
        raise ValueError(f"{kind}/{name}.py: {function.name} is given {', '.join(expected)}: write {call}, ...)")


def _check_constants(kind: str, name: str, function: ast.FunctionDef, text: str) -> None:
    values = dict[str, ast.expr | None]()
    for node in tree(kind, name, text).body:
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
