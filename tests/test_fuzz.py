"""Whatever bytes or values come from outside: a sentence, or exactly what was written; no crash, no wrong data."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_runs import config, make, names, pending, quadrants, torch_as_it_was

from bnstudy.analysis import frames
from bnstudy.analysis.frames import MissingTable
from bnstudy.config import compose, identity, plugins
from bnstudy.config.schema import Config, ProbePlan, from_dict, to_dict
from bnstudy.data import sources
from bnstudy.data.sources import DataError
from bnstudy.store import checkpoint, paths, reduction
from bnstudy.store.runs import State, Store, StoreError
from bnstudy.training import signals

# The same examples every time: what is found by chance would redden other people's changes. It is pinned as an example.
settings.register_profile("pinned", derandomize=True, deadline=None)
settings.load_profile("pinned")
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def changed(content: bytes, seed: int) -> bytes:
    """The bytes with one of the faults that disks and copies make."""
    draw = random.Random(seed)
    whole, at = bytearray(content), draw.randrange(len(content))
    length = draw.choice([1, 1, 8, 512, len(content)])
    match draw.randrange(6):
        case 0:
            whole[at] ^= 1 << draw.randrange(8)
        case 1:
            whole[at : at + length] = bytes(length)
        case 2:
            whole[at : at + length] = draw.randbytes(length)
        case 3:
            del whole[at:]
        case 4:
            del whole[at : at + length]
        case 5:
            whole[at:at] = draw.randbytes(length)
    return bytes(whole)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def results(tmp_path_factory, root):
    """One run that is done, its reduced tables, and one that is under way."""
    results = tmp_path_factory.mktemp("results")
    looks = {"probes": {"weights": {"at": [0], "at_end": True}}}
    with torch_as_it_was():
        done, under_way = config(root, **looks), config(root, seed=1, **looks)
        make([done], results)
        stop = signals.Stop()
        stop.requested = True
        with pytest.raises(signals.Interrupted):
            make([under_way], results, stop=stop)
    reduction.reduce(Store(results), names([done]), paths.tables(results, "s"))
    return results, done, under_way


def restored(path):
    """For one example: writes other bytes, and what was there afterwards."""
    content = path.read_bytes()
    return content, lambda: path.write_bytes(content)


seeds = st.integers(0, 2**32)


@quick
@given(seed=seeds)
def test_a_run_with_any_file_changed_is_damaged_or_the_same(results, seed):
    folder, done, _ = results
    store, (name,) = Store(folder), names([done])
    files = sorted(paths.run(folder, name).glob("*.*"))
    path = files[seed % len(files)]
    before = store.manifest(name), store.table(name, "steps")
    content, restore = restored(path)
    path.write_bytes(changed(content, seed))
    try:
        state = store.state(name)
        assert state in (State.completed, State.damaged)
        if state == State.completed:
            assert store.manifest(name) == before[0]
            pd.testing.assert_frame_equal(store.table(name, "steps"), before[1])
        elif path.name == paths.MANIFEST:
            with pytest.raises(StoreError, match="manifest"):
                store.manifest(name)
    finally:
        restore()
    assert store.state(name) == State.completed


@quick
@given(seed=seeds)
def test_a_reduced_table_with_bytes_changed_is_missing_or_has_the_same_values(results, seed):
    """What describes the columns has no checksum in the format: there a change may show as other columns."""
    folder, *_ = results
    path = paths.tables(folder, "s") / "weights.parquet"
    before = pd.read_parquet(path)
    content, restore = restored(path)
    path.write_bytes(changed(content, seed))
    try:
        frame = frames.load(folder, "s", "weights")
    except (MissingTable, KeyError):
        return
    finally:
        restore()
    common = [name for name in before if name in frame and len(frame) == len(before) and name != "run_id"]
    pd.testing.assert_frame_equal(frame[common], before[common], check_dtype=False, check_column_type=False)


@quick
@given(seed=seeds)
@example(seed=31476)  # zip's reader finds the file whole, torch's does not
def test_a_checkpoint_with_bytes_changed_is_of_no_use_or_the_same(results, seed, capsys):
    folder, _, under_way = results
    (group,) = pending([under_way], folder)
    path = paths.groups(folder) / group.id / paths.CHECKPOINT
    before = checkpoint.load(folder, group)
    assert before is not None
    content, restore = restored(path)
    path.write_bytes(changed(content, seed))
    try:
        capsys.readouterr()
        state = checkpoint.load(folder, group)
    finally:
        restore()
    if state is None:
        assert "is of no use" in capsys.readouterr().out
        return
    for found in (state, before):
        found["plain"] = repr({k: v for k, v in found.items() if k not in ("engine", "rng", "plain")})  # with its NaN
    assert state["plain"] == before["plain"]
    assert state["engine"].keys() == before["engine"].keys() and torch.equal(state["rng"], before["rng"])
    assert all(torch.equal(value, before["engine"][name]) for name, value in state["engine"].items())


def test_a_checkpoint_that_would_run_code_is_refused(results, capsys):
    folder, _, under_way = results
    (group,) = pending([under_way], folder)
    path = paths.groups(folder) / group.id / paths.CHECKPOINT
    _, restore = restored(path)
    mark = folder / "it ran"

    class Code:
        def __reduce__(self):
            return mark.touch, ()

    checkpoint._write(path, {"schema": checkpoint.SCHEMA, "engine": Code()})
    try:
        assert checkpoint.load(folder, group) is None
    finally:
        restore()
    assert not mark.exists() and "is of no use" in capsys.readouterr().out


@settings(quick, max_examples=40)
@given(seed=seeds)
def test_images_with_bytes_changed_are_refused_or_another_data_set(tmp_path_factory, root, seed):
    folder = tmp_path_factory.mktemp("data")
    before = sources.locate("quadrants", root)
    shutil.copytree(root / "quadrants", folder / "quadrants")
    part = sources.PARTS[seed % 4]
    path = folder / "quadrants" / f"{part}.npy"
    path.write_bytes(changed(path.read_bytes(), seed))
    try:
        found = sources.locate("quadrants", folder)
        arrays = sources.load(found)
    except DataError as error:
        assert "quadrants" in str(error)
    else:
        same = all((getattr(arrays, each) == getattr(sources.load(before), each)).all() for each in sources.PARTS) and (
            found.num_train,
            found.num_test,
            found.shape,
        ) == (before.num_train, before.num_test, before.shape)
        assert same == (found.sha256 == before.sha256)
    shutil.rmtree(folder)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


def every_key():
    """Every key of the schema, of every probe's plan, and every option of every component, each with what it needs."""
    for group, value in to_dict(Config()).items():
        yield group, {}
        if dataclasses.is_dataclass(getattr(Config(), group)):
            yield from ((f"{group}.{key}", {}) for key in value)
    for probe in plugins.names("probes"):
        yield from ((f"probes.{probe}.{field.name}", {}) for field in dataclasses.fields(ProbePlan))
        yield from ((f"probes.{probe}.options.{option}", {}) for option in plugins.defaults("probes", probe))
    for group, kind in (("model", "models"), ("norm", "norms")):
        for name in plugins.names(kind):
            yield from ((f"{group}.{option}", {group: {"name": name}}) for option in plugins.defaults(kind, name))


@settings(max_examples=300)
@given(key_and_rest=st.sampled_from(list(every_key())), value=plain)
def test_every_value_of_every_key_is_a_run_or_a_sentence_with_the_key(key_and_rest, value):
    key, rest = key_and_rest
    values = inner = json.loads(json.dumps(rest))
    *path, leaf = key.split(".")
    for name in path:
        inner = inner.setdefault(name, {})
    inner[leaf] = value
    try:
        made = from_dict(values)
    except ValueError as error:
        assert key in str(error), error
    else:
        assert from_dict(to_dict(made)) == made or value != value
        data = {"name": "x", "source": "arrays", "sha256": "0"}
        assert identity.run_id(made, data).rpartition("-")[2].isalnum()


@settings(max_examples=25)
@given(key=st.sampled_from(["optim.lr", "seed", "model", "probes.weights.at", "data.name"]), text=st.text(max_size=8))
def test_any_override_is_a_run_or_a_sentence(key, text):
    try:
        made = compose.one([f"{key}={text}"])
    except ValueError as error:
        assert str(error).strip() and "Traceback" not in str(error)
    else:
        assert isinstance(made, Config)
