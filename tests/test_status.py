"""Whether a run on the disk is the one asked for, what it lacks, and how that is added."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
import torch
from small_runs import config, job, make, quadrants, torch_as_it_was, written

from bnstudy.config import code_checksums, identity, plugins
from bnstudy.config.schema import Optim, ProbePlan, Train, from_dict, to_dict
from bnstudy.store import paths, publishing, runs, status, weights
from bnstudy.store.runs import Store, StoreError, sealed
from bnstudy.sweep import rounds
from bnstudy.training import construct, signals
from bnstudy.training.train import Training

START = {"weights": {"at": [0]}}
ENDS = {"weights": {"at": [0], "at_end": True, "at_divergence": True}}
ALONG = {"weights": {"every_steps": 3}}


@pytest.fixture(autouse=True)
def _process():
    with torch_as_it_was():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


@pytest.fixture
def no_training(monkeypatch):
    """From here on whoever trains fails."""

    def refuse(*_):
        raise AssertionError("it was trained")

    monkeypatch.setattr(Training, "rows", refuse)


def run(root, results, probes=None, **changes):
    made = config(root, probes=probes or {}, **changes)
    (ended,) = make([made], results)
    return made, ended


def change_default(monkeypatch, key, value):
    """The default of a key of the schema, or of an option as in `norms/batch.eps`, is another from here on."""
    section, _, option = key.partition(".")
    if "/" not in section:
        parts: dict[str, Any] = {"optim": Optim, "train": Train}
        monkeypatch.setitem(parts[section].__init__.__kwdefaults__, option, value)
        return
    before, (kind, name) = plugins.defaults, section.split("/")

    def defaults(k, n):
        return before(k, n) | ({option: value} if (k, n) == (kind, name) else {})

    monkeypatch.setattr(plugins, "defaults", defaults)


CHANGED = [
    ("optim.weight_decay", "optim.weight_decay: 0.0001 then, 0.25 now", 0.25),
    ("train.divergence_loss", "train.divergence_loss: 1000.0 then, 10000.0 now", 1e4),
    ("norms/batch.eps", "norm.eps: 1e-05 then, 0.001 now", 1e-3),
    ("models/mlp.activation", "model.activation: relu then, sigmoid now", "sigmoid"),
]


@pytest.mark.parametrize(("key", "difference", "value"), CHANGED)
def test_a_changed_default_serves_no_old_run_and_is_named(root, tmp_path, key, difference, value, monkeypatch, capsys):
    _, ended = run(root, tmp_path, norm={"name": "batch"})
    store = Store(tmp_path)
    before = written(tmp_path, [ended.run_id])
    change_default(monkeypatch, key, value)
    wanted = job(config(root, norm={"name": "batch"}))
    now = status.of(wanted, store)
    assert now.state == "absent" and wanted.run_id != ended.run_id
    capsys.readouterr()
    rounds.explain([wanted], {wanted.run_id: now}, store)
    log = capsys.readouterr().out
    assert difference in log and ended.run_id in log
    _, anew = run(root, tmp_path, norm={"name": "batch"})
    assert anew.run_id == wanted.run_id and written(tmp_path, [ended.run_id]) == before
    assert written(tmp_path, [anew.run_id]) != before


def test_of_two_changed_defaults_the_one_since_the_old_run_is_named(root, tmp_path, monkeypatch):
    change_default(monkeypatch, "optim.weight_decay", 0.25)
    _, ended = run(root, tmp_path)
    change_default(monkeypatch, "train.divergence_loss", 1e4)
    why = publishing.missed(job(config(root)), Store(tmp_path), publishing.NOTHING)
    assert ended.run_id in why and "divergence_loss" in why and "weight_decay" not in why


def test_a_changed_default_of_a_probe_serves_no_old_table(root, tmp_path, monkeypatch):
    """Also where the changed code is accepted: that is about how, and this about what."""
    tails = {"gradient_tails": {"at": [0]}}
    _, ended = run(root, tmp_path, tails)
    change_default(monkeypatch, "probes/gradient_tails.num_bins", 8)
    asked = job(config(root, probes=tails, runtime__accept_code=True))
    assert status.of(asked, Store(tmp_path)).lacking == ("gradient_tails",)
    run(root, tmp_path, tails)
    assert status.of(asked, Store(tmp_path)).done
    options = [look["plan"]["options"]["num_bins"] for look in Store(tmp_path).manifest(ended.run_id)["looks"].values()]
    assert options == [64, 8]


def test_what_looks_does_not_rename(root):
    assert job(config(root, probes=ENDS)).run_id == job(config(root)).run_id


@pytest.mark.parametrize("probes", [START, ENDS])
def test_a_look_at_an_end_is_added_without_training(root, tmp_path, probes, request, capsys):
    run(root, tmp_path / "whole", probes)
    run(root, tmp_path / "later")
    request.getfixturevalue("no_training")
    made, ended = run(root, tmp_path / "later", probes)
    assert ended.state == "completed" and "without training" in capsys.readouterr().out
    assert status.of(job(made), Store(tmp_path / "later")).done
    assert written(tmp_path / "later", [ended.run_id]) == written(tmp_path / "whole", [ended.run_id])


@pytest.mark.parametrize("lr", [0.5, 1e9])
def test_a_look_at_the_end_of_a_run_that_diverged(root, tmp_path, lr, request):
    wild = {"norm": {"name": "none"}, "optim__lr": lr}
    run(root, tmp_path / "whole", ENDS, **wild)
    run(root, tmp_path / "later", **wild)
    request.getfixturevalue("no_training")
    _, ended = run(root, tmp_path / "later", ENDS, **wild)
    assert ended.state == ("completed" if lr < 1 else "diverged")
    assert written(tmp_path / "later", [ended.run_id]) == written(tmp_path / "whole", [ended.run_id])


@pytest.mark.parametrize("norm", ["batch", "dropout"])
def test_a_look_along_training_trains_again_and_ends_in_the_same_bits(root, tmp_path, norm, capsys):
    run(root, tmp_path / "whole", ALONG, norm={"name": norm})
    run(root, tmp_path / "later", norm={"name": norm})
    _, ended = run(root, tmp_path / "later", ALONG, norm={"name": norm})
    assert "same bits" in capsys.readouterr().out
    assert written(tmp_path / "later", [ended.run_id]) == written(tmp_path / "whole", [ended.run_id])


def test_other_bits_are_said(root, tmp_path, capsys, monkeypatch):
    run(root, tmp_path)
    stored = Store(tmp_path)
    before = stored.manifest(stored.run_ids()[0])
    tables = before.pop("tables")
    before["weights"] = before["weights"] | {"sha256": "0" * 64}
    monkeypatch.setattr(Store, "_check_weights", lambda *_, **__: None)
    path = paths.run(tmp_path, stored.run_ids()[0]) / paths.MANIFEST
    path.write_text(sealed(before, stored.run_ids()[0], tables))
    run(root, tmp_path, ALONG)
    said = capsys.readouterr().out
    assert "other bits" in said and "weights" in said


def test_a_second_plan_of_a_probe_has_a_table_of_its_own(root, tmp_path):
    run(root, tmp_path, START)
    made, ended = run(root, tmp_path, ALONG)
    manifest = Store(tmp_path).manifest(ended.run_id)
    plans = [ProbePlan(**plan["weights"]) for plan in (START, ALONG)]
    first, second = (status.table_of(made, manifest, "weights", plan) for plan in plans)
    assert first == "weights" and second is not None and second.startswith("weights@")
    assert set(Store(tmp_path).table(ended.run_id, first)["step"]) == {0}
    assert set(Store(tmp_path).table(ended.run_id, second)["step"]) == {0, 3, 6, 9}


def test_a_look_without_rows_is_not_missed_for_ever(root, tmp_path, request):
    wild = {"norm": {"name": "none"}, "optim__lr": 1e9}
    made, ended = run(root, tmp_path, {"weights": {"at_end": True}}, **wild)
    assert ended.state == "diverged" and "weights" not in Store(tmp_path).manifest(ended.run_id)["tables"]
    assert status.of(job(made), Store(tmp_path)).done


def test_without_kept_weights_the_end_is_reached_by_training(root, tmp_path, capsys):
    run(root, tmp_path, runtime__keep_weights=False)
    _made, ended = run(root, tmp_path, ENDS, runtime__keep_weights=False)
    assert "trained again" in capsys.readouterr().out
    with pytest.raises(StoreError, match="keep_weights"):
        Store(tmp_path).weights(ended.run_id)


def test_a_probe_that_raises_leaves_a_finished_run_as_it_was(root, tmp_path, monkeypatch):
    _made, ended = run(root, tmp_path)
    before = written(tmp_path, [ended.run_id])

    def raises(*_, **__):
        raise RuntimeError("stumbles")

    monkeypatch.setattr("bnstudy.probes.rows", raises)
    _, again = run(root, tmp_path, START)
    assert again.state == "failed" and "stumbles" in again.note
    assert written(tmp_path, [ended.run_id]) == before and Store(tmp_path).state(ended.run_id).done


def test_the_weights_are_those_of_the_plain_network(root, tmp_path):
    made, ended = run(root, tmp_path)
    loader = construct.make_loader(job(made), torch.device("cpu"))
    network = construct.build_network(made, loader.shape, loader.num_classes)
    network.load_state_dict(Store(tmp_path).weights(ended.run_id))
    correct = total = 0
    with torch.no_grad():
        for images, labels in loader.test_batches(1000):
            correct += int((network.eval()(images).argmax(1) == labels).sum())
            total += len(labels)
    final = Store(tmp_path).manifest(ended.run_id)["final"]
    assert correct / total == pytest.approx(final["test_accuracy"], abs=1e-12)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_exported_for_plain_torch(root, tmp_path, suffix):
    from safetensors.torch import load_file

    _, ended = run(root, tmp_path / "results")
    to = tmp_path / f"weights{suffix}"
    assert weights.export(ended.run_id, to, tmp_path / "results") == 0
    loaded = torch.load(to, weights_only=True) if suffix == ".pt" else load_file(to)
    kept = Store(tmp_path / "results").weights(ended.run_id)
    assert loaded.keys() == kept.keys() and all(torch.equal(loaded[name], kept[name]) for name in kept)
    with pytest.raises(ValueError, match="there already"):
        weights.export(ended.run_id, to, tmp_path / "results")


def test_weights_that_are_not_what_was_written_are_damage(root, tmp_path):
    _made, ended = run(root, tmp_path)
    file = paths.run(tmp_path, ended.run_id) / paths.WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert Store(tmp_path).state(ended.run_id) == "damaged"


@pytest.fixture
def changed_file(monkeypatch):
    """Files of components that say something else than they did."""

    def change(*changed):
        before = plugins.sources

        def sources(kind, name):
            return {file: "changed" if file in changed else checksum for file, checksum in before(kind, name).items()}

        monkeypatch.setattr(plugins, "sources", sources)
        monkeypatch.setattr(plugins, "_at_import", {})  # as in a process that has not imported it yet

    return change


CHANGES = [
    ("norms/batch.py",), ("models/mlp.py",), ("norms/_checks.py",), ("models/layers.py",),
    ("models/layers.py", "models/mlp.py"), ("models/_choices.py", "models/layers.py", "norms/batch.py"),
]  # fmt: skip


@pytest.mark.parametrize("files", CHANGES, ids=" ".join)
def test_a_component_whose_file_changed_is_trained_anew_unless_accepted(root, tmp_path, files, changed_file):
    """It is that file which is named, also where another imports it."""
    made, ended = run(root, tmp_path)
    store = Store(tmp_path)
    changed_file(*files)
    now = status.of(job(made), store)
    assert not now.done and now.changed == files and "--accept-code" in now.reason
    accepting = from_dict(to_dict(made) | {"runtime": to_dict(made)["runtime"] | {"accept_code": True}})
    assert status.of(job(accepting), store).done
    before = store.ending(ended.run_id)
    run(root, tmp_path)
    assert store.ending(ended.run_id) != before and status.of(job(made), store).done


def test_what_an_earlier_release_did_not_record_of_imports_is_not_made_up(root, tmp_path, changed_file):
    made, ended = run(root, tmp_path, START)
    code = Store(tmp_path).manifest(ended.run_id)["code"]
    then = {file: code[file] for file in ("models/mlp.py", "norms/batch.py", "models/init.py")}
    assert status.changed_code(made, then) == ()
    changed_file("models/layers.py")
    (named,) = status.changed_code(made, then)
    assert "models/mlp.py" in named and "imports" in named


@pytest.mark.parametrize("file", ["probes/weights.py", "probes/snapshot.py"])
def test_a_probe_whose_file_changed_looks_again_and_nothing_is_trained(root, tmp_path, file, changed_file, request):
    made, ended = run(root, tmp_path, ENDS)
    before = Store(tmp_path).manifest(ended.run_id)["looks"]["weights"]["code"]
    changed_file(file)
    now = status.of(job(made), Store(tmp_path))
    assert now.lacking == ("weights",) and now.outdated == (file,)
    assert file in now.reason and "--accept-code" in now.reason
    request.getfixturevalue("no_training")
    accepting = config(root, probes=ENDS, runtime__accept_code=True)
    assert status.of(job(accepting), Store(tmp_path)).done
    run(root, tmp_path, ENDS)
    assert status.of(job(made), Store(tmp_path)).done
    assert Store(tmp_path).manifest(ended.run_id)["looks"]["weights"]["code"] != before


def test_a_disk_that_fills_while_looks_are_replaced_costs_the_looks_alone(
    root, tmp_path, changed_file, request, monkeypatch
):
    probes = ENDS | {"gradient_norms": {"at": [0]}}
    made, ended = run(root, tmp_path, probes)
    changed_file("probes/weights.py", "probes/gradient_norms.py")
    request.getfixturevalue("no_training")
    write, calls = runs._write_table, []

    def full(path, table):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, table.slice(1))  # what looks now sees something else

    monkeypatch.setattr(runs, "_write_table", full)
    with pytest.raises(OSError, match="No space"):
        run(root, tmp_path, probes)
    now = status.of(job(made), Store(tmp_path))
    assert now.state == "completed" and set(now.lacking) == set(probes)
    run(root, tmp_path, probes)
    assert status.of(job(made), Store(tmp_path)).done
    assert set(Store(tmp_path).manifest(ended.run_id)["tables"]) >= set(probes)


def test_what_is_accepted_stays_where_a_second_plan_of_its_probe_is_asked_for(root, tmp_path, changed_file):
    _, ended = run(root, tmp_path, START)
    before = Store(tmp_path).manifest(ended.run_id)
    changed_file("probes/weights.py")
    run(root, tmp_path, {"weights": {"at": [0], "at_end": True}}, runtime__accept_code=True)
    after = Store(tmp_path).manifest(ended.run_id)
    assert after["looks"]["weights"] == before["looks"]["weights"] and len(after["looks"]) == 2


def test_a_look_that_was_never_taken_is_no_changed_file(root, tmp_path):
    run(root, tmp_path, START)
    made = config(root, probes={"gradient_norms": {"at": [0]}})
    now = status.of(job(made), Store(tmp_path))
    assert now.outdated == () and "gradient_norms" in now.reason and ".py" not in now.reason


def test_comments_and_docstrings_change_nothing(tmp_path):
    first, second, third = (tmp_path / f"{n}.py" for n in "abc")
    first.write_text('"""Says."""\nX = 1  # one\n\n\ndef f():\n    """Does."""\n    return "# no comment"\n')
    second.write_text('"""Says\nmore."""\n\nX = 1\ndef f():\n    return "# no comment"\n')
    third.write_text('X = 1\ndef f():\n    return "# another"\n')
    assert code_checksums.of_file(first) == code_checksums.of_file(second) != code_checksums.of_file(third)


@pytest.mark.parametrize("changed", [False, True])
def test_a_checkpoint_of_other_code_is_of_no_use(root, tmp_path, changed, changed_file, capsys):
    made = config(root, runtime__checkpoint_every_sec=0.0)
    stop = signals.Stop()

    def ask(done, total):
        stop.requested = done >= 4

    with pytest.raises(signals.Interrupted):
        make([made], tmp_path, report=ask, stop=stop)
    if changed:
        changed_file("norms/batch.py")
    first = []
    make([made], tmp_path, report=lambda done, total: first.append(done))
    assert ("norms/batch.py changed" in capsys.readouterr().out) == changed
    assert (first[0] < 4) == changed


def test_a_resumed_run_gets_what_was_asked_for_since_it_began(root, tmp_path):
    """It goes on as it was begun, and the looks that were missed are added."""
    stop = signals.Stop()

    def ask(done, total):
        stop.requested = done >= 4

    with pytest.raises(signals.Interrupted):
        make([config(root, runtime__checkpoint_every_sec=0.0)], tmp_path / "later", report=ask, stop=stop)
    _, ended = run(root, tmp_path / "later", ENDS)
    run(root, tmp_path / "whole", ENDS)
    assert written(tmp_path / "later", [ended.run_id]) == written(tmp_path / "whole", [ended.run_id])


def test_a_manifest_with_another_configuration_is_refused(root, tmp_path):
    """Names cannot lie unless somebody edits the reference; then it is said which key was what."""
    made, ended = run(root, tmp_path)
    manifest = Store(tmp_path).manifest(ended.run_id)
    manifest["config"]["optim"]["weight_decay"] = 0.25
    path = paths.run(tmp_path, ended.run_id) / paths.MANIFEST
    path.write_text(sealed(manifest, ended.run_id, manifest.pop("tables")))
    with pytest.raises(StoreError, match=r"optim.weight_decay: 0.25 then, 0.0001 now"):
        status.of(job(made), Store(tmp_path))


def test_manifests_of_earlier_releases_are_understood(root, tmp_path):
    """Their probes stand in the configuration, and neither code nor weights were kept."""
    made, ended = run(root, tmp_path, START)
    manifest = Store(tmp_path).manifest(ended.run_id)
    tables = manifest.pop("tables")
    for key in ("looks", "code", "weights"):
        del manifest[key]
    manifest["config"]["probes"] = {"weights": to_dict(made)["probes"]["weights"]}
    path = paths.run(tmp_path, ended.run_id) / paths.MANIFEST
    old = json.loads(sealed(manifest, ended.run_id, tables))
    assert identity.differences(old["config"], made) == []
    path.write_text(sealed(manifest, ended.run_id, tables))
    assert status.of(job(made), Store(tmp_path)).done
