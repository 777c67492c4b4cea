"""Configurations as the command line composes them; a run trained in this process is the command's, and opens again."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_runs
import torch
from torch.nn import functional

import bnstudy
from bnstudy.api import _places
from bnstudy.config import compose, schema
from bnstudy.store import devices
from bnstudy.store.runs import Store
from bnstudy.sweep import study
from bnstudy.training import runner, train, trainer
from bnstudy.training.engine import host


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_runs.quadrants(tmp_path_factory.mktemp("data"))


@pytest.fixture
def one_core(monkeypatch):
    """Bits depend on the number of threads."""
    monkeypatch.setattr(devices, "cores", lambda: 1)


PLANS = {
    "activation_moments": schema.ProbePlan(at=[0], at_end=True),
    "weights": schema.ProbePlan(at_end=True),
}


def make(data, **changes):
    return replace(small_runs.config(data, **changes), probes=PLANS)


# --- configurations -------------------------------------------------------------------------------------------------

GIVEN = ["model=lenet", "data=fashion_mnist", "recipe=lenet", "norm=batch", "optim.lr=0.1"]


def test_a_configuration_is_the_command_line_s_but_for_where_and_the_mirror(monkeypatch, tmp_path):
    monkeypatch.delenv("BNSTUDY_DATA_ROOT", raising=False)
    monkeypatch.delenv("BNSTUDY_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    found, commanded = bnstudy.configure(*GIVEN), compose.one(GIVEN)
    assert isinstance(found, bnstudy.Config)
    assert schema.resolved(found) == schema.resolved(commanded)
    assert found.runtime.data_root == str(_places.PROJECT / "data")
    assert found.runtime.results == str(_places.PROJECT / "results") and found.tracking.mode == "off"
    monkeypatch.setenv("BNSTUDY_DATA_ROOT", "/images")
    assert bnstudy.configure().runtime.data_root == "/images"
    mine = bnstudy.configure("runtime.data_root=/mine", "tracking.mode=offline")
    assert (mine.runtime.data_root, mine.tracking.mode) == ("/mine", "offline")


def test_a_point_of_a_sweep_is_one_of_its_runs():
    found = bnstudy.configure("norm=none", "seed=1", "optim.lr=0.3", sweep="lenet_lr_grid", preset="quick")
    runs = [schema.resolved(each) for each in compose.expand("lenet_lr_grid", "quick")]
    assert schema.resolved(found) in runs and found.sweep.name == "lenet_lr_grid"


@pytest.mark.parametrize(
    "given, options, parts",
    [
        (["optim.lt=0.1"], {}, ["optim.lt", "optim.lr"]),
        (["model=lnet"], {}, ["model", "'lnet'", "lenet"]),
        (["optim.lr=-1"], {}, ["optim.lr", "-1", "0.0 or more"]),
        (["norm=batch"], {"sweep": "lenet_lr_gird"}, ["lenet_lr_gird", "lenet_lr_grid"]),
        (["norm=batch"], {"sweep": "lenet_lr_grid"}, ["seed", "optim.lr"]),
        ([{"lr": 1}], {}, ["KEY=VALUE"]),
    ],
)
def test_an_override_that_does_not_fit_is_answered_as_on_the_command_line(given, options, parts):
    with pytest.raises(ValueError) as caught:
        bnstudy.configure(*given, **options)
    assert all(part in str(caught.value) for part in parts)


# --- training -------------------------------------------------------------------------------------------------------


def surroundings():
    """What training could leave behind in the process."""
    utilities = torch.utils.deterministic
    return (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        utilities.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
        os.getcwd(),
    )


def test_training_here_is_training_by_the_command_and_leaves_the_process_as_it_was(data, tmp_path, one_core, capsys):
    config = make(data)
    torch.manual_seed(3)
    torch.set_num_threads(2)
    before = surroundings()
    run = bnstudy.fit(config, tmp_path / "here")
    assert surroundings() == before
    shown = capsys.readouterr()
    assert run.id in shown.err and "100 %" in shown.err and "step 9 of 9" not in shown.out
    with small_runs.torch_as_it_was():
        study.train_one(config, tmp_path / "there")
    ours, theirs = (small_runs.written(tmp_path / place, [run.id]) for place in ("here", "there"))
    assert ours == theirs and len(ours) == 4


def test_a_run_that_is_done_is_opened_and_not_trained_again(data, tmp_path, one_core, capsys, monkeypatch):
    config = make(data)
    first = bnstudy.fit(config, tmp_path, progress=False)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(runner, "train_group", lambda *_, **__: pytest.fail("trained again"))
    assert bnstudy.fit(config, str(tmp_path)) == first == bnstudy.run(first.id, tmp_path, data_root=data)


def test_the_configuration_s_own_folder_is_where_results_go(data, tmp_path, one_core):
    run = bnstudy.fit(make(data, runtime__results=str(tmp_path / "mine")), progress=False)
    assert run.results == tmp_path / "mine" and (run.results / "runs" / run.id).is_dir()


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C comes as the run has made some updates."""
    step, made = train.Training._advance, []

    def advance(self):
        made.append(1)
        if len(made) == 3:
            signal.raise_signal(signal.SIGINT)
        step(self)

    monkeypatch.setattr(train.Training, "_advance", advance)
    return made


def test_ctrl_c_saves_says_how_to_resume_and_the_run_ends_as_if_it_had_not_been(data, tmp_path, one_core, interrupted):
    config = make(data)
    before = surroundings()
    with pytest.raises(KeyboardInterrupt, match=r"interrupted.*is saved.*resumes.*bnstudy\.fit") as caught:
        bnstudy.fit(config, tmp_path, progress=False)
    assert str(tmp_path) in str(caught.value) and surroundings() == before
    with pytest.raises(ValueError, match=r"has not ended.*bnstudy\.fit"):
        bnstudy.run(small_runs.job(config).run_id, tmp_path)
    run = bnstudy.fit(config, tmp_path, progress=False)
    assert len(interrupted) == 9  # none was made twice
    bnstudy.fit(config, tmp_path / "whole", progress=False)
    assert small_runs.written(tmp_path, [run.id]) == small_runs.written(tmp_path / "whole", [run.id])


def test_ctrl_c_before_there_is_anything_to_save_says_so(data, tmp_path, one_core, monkeypatch):
    def press(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "make_loader", press)
    with pytest.raises(KeyboardInterrupt, match=r"nothing was saved"):
        bnstudy.fit(make(data), tmp_path, progress=False)


def test_outside_of_the_main_thread_signals_are_left_alone(data, tmp_path, one_core):
    found = []
    thread = threading.Thread(target=lambda: found.append(bnstudy.fit(make(data), tmp_path, progress=False)))
    thread.start()
    thread.join()
    assert found[0].status == "completed"


def test_what_makes_no_run_is_refused_and_leaves_nothing(data, tmp_path, one_core):
    before = surroundings()
    with pytest.raises(ValueError, match=r"model\.hidden = 'no'"):
        bnstudy.fit(make(data, model={"name": "mlp", "hidden": "no"}), tmp_path / "results")
    with pytest.raises(ValueError, match=r"(?s)quadrants.*arrays"):
        bnstudy.fit(make(tmp_path), tmp_path / "results")
    for config in ("model=lenet", {"model": "lenet"}):
        with pytest.raises(ValueError, match=r"^config = .*model.*bnstudy\.configure"):
            bnstudy.fit(config, tmp_path / "results")  # type: ignore[arg-type]
    assert surroundings() == before and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optim": {"lr": -0.1}}, r"optim\.lr = -0\.1"),
        ({"precision": "fp16"}, r"precision = 'fp16'"),
        ({"optim": {"milestones": [0.9, 0.5]}}, r"optim\.milestones"),
        ({"seed": True}, r"seed = True"),
    ],
)
def test_a_changed_configuration_is_checked_as_a_composed_one(data, tmp_path, one_core, change, words):
    config = make(data)
    parts = {key: replace(getattr(config, key), **to) if isinstance(to, dict) else to for key, to in change.items()}
    with pytest.raises(ValueError, match=words):
        bnstudy.fit(replace(config, **parts), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_numpy_s_numbers_are_numbers_and_folders_outlive_a_change_of_folder(data, tmp_path, one_core, monkeypatch):
    config = replace(make(data), seed=np.int64(5))
    config = replace(config, optim=replace(config.optim, lr=np.float64(0.25), milestones=np.array([0.5])))
    monkeypatch.chdir(tmp_path)
    run = bnstudy.fit(config, "here", progress=False)
    monkeypatch.chdir("/")
    assert run.status == "completed" and (run.config.seed, run.config.optim.lr) == (5, 0.25)
    assert len(run.table("steps")) == 9 and run.images()[0].isfinite().all()
    monkeypatch.chdir(tmp_path)
    again = bnstudy.run(run.id, "here", data_root=os.path.relpath(data))
    monkeypatch.chdir("/")
    assert len(again.table("steps")) == 9 and len(again.images()[1])


BACKENDS: Any = torch.backends
SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "bf16": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "no device": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "newer precision": lambda: setattr(BACKENDS.mkldnn.conv, "fp32_precision", "bf16"),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_run_is_the_same_whatever_the_process_has_set(finished, data, tmp_path, one_core, monkeypatch, name):
    """The settings within are compared, too: which of them change the bits depends on the processor."""
    expected = small_runs.written(finished.results, [finished.id])
    within, advance = list[list[str]](), train.Training._advance

    def watched(self):
        within.append(precisions())
        return advance(self)

    monkeypatch.setattr(train.Training, "_advance", watched)
    bnstudy.fit(make(data), tmp_path / "before", progress=False)
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(torch.set_float32_matmul_precision, "highest")
        stack.callback(setattr, BACKENDS.mkldnn.conv, "fp32_precision", "none")
        if (context := SURROUNDINGS[name]()) is not None:
            stack.enter_context(context)
        before = [*precisions(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]
        run = bnstudy.fit(make(data), tmp_path / "here", progress=False)
        assert len({tuple(each) for each in within}) == 1
        shown = run.probe("activation_moments")
        outputs = run.network()(run.images()[0]).detach()
        after = [*precisions(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]
    assert after == before and small_runs.written(tmp_path / "here", [finished.id]) == expected
    pd.testing.assert_frame_equal(shown, finished.probe("activation_moments"))
    if name not in ("bf16", "no device", "precision"):  # in which a plain torch module computes, or may, otherwise
        assert torch.equal(outputs, finished.network()(finished.images()[0]))


def precisions():
    cudnn, mkldnn = BACKENDS.cudnn, BACKENDS.mkldnn
    settings = BACKENDS, BACKENDS.cuda.matmul, cudnn.conv, mkldnn.matmul, mkldnn.conv
    return [each.fp32_precision for each in settings]


def test_a_run_that_raises_says_what_and_where_the_traceback_is(data, tmp_path, one_core, monkeypatch):
    config = make(data)
    before = surroundings()
    with monkeypatch.context() as patched:
        patched.setattr(train.Training, "_advance", lambda self: 1 / 0)
        with pytest.raises(RuntimeError, match=r"failed: ZeroDivisionError.*traceback\.txt"):
            bnstudy.fit(config, tmp_path, progress=False)
    assert surroundings() == before
    with pytest.raises(ValueError, match=r"it failed \(ZeroDivisionError"):
        bnstudy.run(small_runs.job(config).run_id, tmp_path)
    assert bnstudy.fit(config, tmp_path, progress=False).status == "completed"


# --- finished runs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(devices, "cores", lambda: 1)
        yield bnstudy.fit(make(data), tmp_path_factory.mktemp("results"), progress=False)


def test_a_finished_run_opens_with_all_that_it_has(finished, data):
    run = bnstudy.run(finished.id, finished.results, data_root=data)
    assert schema.resolved(run.config) == schema.resolved(make(data))
    assert run.config.runtime.data_root == str(data) and run.config.tracking.mode == "off"
    assert (run.status, run.tables) == ("completed", ("activation_moments", "epochs", "steps", "throughput", "weights"))
    assert run.outcome in ("trained", "stalled")
    curves = run.table("epochs")
    assert isinstance(curves, pd.DataFrame) and curves["test_accuracy"].iloc[-1] == run.final["test_accuracy"]
    with pytest.raises(ValueError, match=r"epoch.*did you mean epochs\?"):
        run.table("epoch")


def test_its_network_on_its_images_has_the_accuracy_of_the_run(finished, data):
    network, (images, labels) = finished.network(), finished.images()
    assert not network.training and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert images.shape == (small_runs.TEST, 1, small_runs.SIDE, small_runs.SIDE)
    with torch.no_grad():
        logits = network(images)
    assert (logits.argmax(1) == labels).float().mean().item() == pytest.approx(finished.final["test_accuracy"])
    loss = functional.cross_entropy(logits.double(), labels).item()
    assert loss == pytest.approx(finished.final["test_loss"], rel=1e-5)
    parts = list(finished.batches(size=15))
    assert [len(part[1]) for part in parts] == [15, 15, 10]
    assert torch.equal(torch.cat([part[0] for part in parts]), images)
    assert torch.equal(finished.images(num=7)[0], images[:7])
    assert len(finished.images("train")[1]) == small_runs.TRAIN == sum(len(y) for _, y in finished.batches("train", 30))


def test_a_probe_sees_afterwards_what_it_saw_at_the_end(finished):
    last = finished.config.train.steps
    for name in PLANS:
        table = finished.table(name)
        recorded = table[table["step"] == last].drop(columns=["run_id", "step"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(finished.probe(name), recorded)
    images, labels = finished.images("train", finished.config.data.batch_size)
    found = bnstudy.probe(finished.network(), images, labels, "activation_moments")
    pd.testing.assert_frame_equal(found, finished.probe("activation_moments"))
    evaluated = finished.probe("shifted_inputs")  # further images and pixels are the run's
    stored = evaluated[(evaluated["inputs"] == "unchanged") & (evaluated["statistics"] == "stored")]
    assert stored["accuracy"].item() == pytest.approx(finished.final["test_accuracy"])
    assert len(finished.probe("gradient_correlation", batch_size=8, batch_sizes=[4])) == 2
    with pytest.raises(ValueError, match=r"sights.*there is no such option; there are: sites"):
        finished.probe("activation_moments", sights=["activation"])
    with pytest.raises(ValueError, match=r"did you mean weights\?"):
        finished.probe("weight")


@pytest.mark.parametrize("device", ["auto", torch.device("cpu")])
def test_every_part_of_a_run_takes_a_device_in_all_its_spellings(finished, device):
    places = finished.images(device=device)[0].device, next(finished.network(device).parameters()).device
    gpu = device == "auto" and torch.cuda.is_available()
    assert {place.type for place in places} == {"cuda" if gpu else "cpu"}
    assert len(next(iter(finished.batches(device=device)))[1]) and len(finished.probe("weights", device=device))


def test_an_untrained_run_needs_no_kept_weights(data, tmp_path, one_core, monkeypatch):
    run = bnstudy.fit(make(data, train__steps=0), tmp_path, progress=False)
    monkeypatch.setattr(Store, "weights", lambda *_: pytest.fail("read"), raising=False)
    pd.testing.assert_frame_equal(
        run.probe("activation_moments"), run.table("activation_moments").drop(columns=["run_id", "step"])
    )
    assert run.outcome is None and all(value is None or math.isnan(value) for value in run.final.values())


def test_what_a_run_cannot_give_is_named_with_the_remedy(finished, data, tmp_path):
    with pytest.raises(ValueError, match=r"split = 'tset'.*did you mean test\?"):
        finished.images("tset")
    with pytest.raises(ValueError, match=rf"num = 41: give 1 to {small_runs.TEST}"):
        finished.images(num=41)
    with pytest.raises(ValueError, match=r"size = 0: give 1"):
        finished.batches(size=0)
    for take in (finished.network, finished.images, finished.batches, partial(finished.probe, "weights")):
        with pytest.raises(ValueError, match=r"runtime\.device = 'gpu'"):
            take(device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"runtime\.device = 'cuda'.*cpu"):
            finished.network("cuda")
    with pytest.raises(ValueError, match=rf"did you mean {finished.id}\?"):
        bnstudy.run(finished.id[:-1], finished.results)
    for name in ("", ".", "..", f"{finished.id}/."):
        with pytest.raises(ValueError, match=rf"^run_id .*= '{name}': there is none of that name; .*{finished.id}"):
            bnstudy.run(name, finished.results)
    with pytest.raises(ValueError, match=r"there are no runs in .*bnstudy\.fit"):
        bnstudy.run(finished.id, tmp_path)
    elsewhere = shutil.copytree(data, tmp_path / "elsewhere")
    labels = elsewhere / "quadrants" / "test_labels.npy"
    content = bytearray(labels.read_bytes())
    content[-8] ^= 1
    labels.write_bytes(content)
    with pytest.raises(ValueError, match=r"data_root = .*is not what.*saw.*name the folder"):
        bnstudy.run(finished.id, finished.results, data_root=elsewhere).images()


def test_code_that_has_changed_since_training_is_named(finished, monkeypatch, capsys):
    finished.network()
    assert capsys.readouterr().err == ""
    code = finished.manifest["code"]
    monkeypatch.setitem(finished.__dict__, "manifest", {**finished.manifest, "code": code | {"norms/batch.py": "0"}})
    finished.network()
    assert f"{finished.id}: norms/batch.py changed since it was trained" in capsys.readouterr().err


def test_weights_that_do_not_fit_the_code_any_more_say_so(finished, monkeypatch):
    monkeypatch.setattr(Store, "weights", lambda *_: {"other": torch.zeros(1)}, raising=False)
    with pytest.raises(ValueError, match=r"weights are not those of mlp with norm batch.*train it anew"):
        finished.network()


def test_the_host_is_set_back_also_after_an_exception():
    before = surroundings()
    with pytest.raises(KeyError), host.as_it_was():
        host.prepare(before[0] + 1)
        torch.manual_seed(1)
        assert surroundings() != before
        raise KeyError
    assert surroundings() == before
