"""Norms, networks, probes and sweeps in a folder outside of the project, and what their mistakes are answered with."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config, job, quadrants, torch_as_it_was

from bnstudy import cli, models, norms, probes
from bnstudy.config import code_checksums, component_files, compose, plugins, project, schema
from bnstudy.probes import snapshot
from bnstudy.store.jobs import Group
from bnstudy.store.runs import Store
from bnstudy.sweep import pool
from bnstudy.training import contract, preflight

NORM = "from torch import nn\n\ndef build(num_features, ndim, *, slope: float = 0.2):\n    return nn.LeakyReLU(slope)\n"
NETWORK = """
from torch import nn
from bnstudy.models.layers import Layer
{size}

def build(shape, num_classes, norm, *, width: int = 4):
    return Network(shape[0] * shape[1] * shape[2], width, num_classes, norm)

class Network(nn.Module):
    def __init__(self, num_inputs, width, num_classes, norm):
        super().__init__()
        self.hidden = nn.Linear(num_inputs, width)
        self.norm = {norm}
        self.classifier = nn.Linear(width, num_classes)
        self.layers = (Layer(1, "hidden", "linear", "norm"), Layer(2, "classifier", "linear", "classifier"))

    def forward(self, images):
        return self.classifier(self.norm(self.hidden(images.flatten(1)){extra}))
"""
TOKENS = "self.norm(self.hidden(images.flatten(1)[:, None])).mean(1)"  # one an image
SWEEP = "# A trial.\ndefaults: [config, _self_]\nsweep: {name: trial, presets: {full: [], quick: []}}\n"
RUN = ["run", "data.name=quadrants", "data.batch_size=25", "data.augment=false", "train.steps=2", "probes=none"]
RUN += ["tracking.mode=off", "runtime.device=cpu", "model=mine"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Writes files into a folder of own components, which nothing knows of after the test."""
    monkeypatch.setenv(project.COMPONENTS, "")
    folder = tmp_path / "lab"

    def write(name, text):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        return folder

    with torch_as_it_was():
        yield write
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]
    for package in (models, norms, probes):
        package.__path__[:] = [place for place in package.__path__ if not place.startswith(str(folder))]


def network(norm='norm(width, 0, "norm")', extra="", size="INPUT_SIZE = None"):
    return NETWORK.format(norm=norm, extra=extra, size=size)


def run(folder, root, tmp_path, *overrides):
    with pytest.raises(SystemExit) as ended:
        places = [f"--components={folder}", f"--data-root={root}", f"--results={tmp_path / 'results'}"]
        cli.main([*RUN, *overrides, *places])
    return ended.value.code or 0


def test_a_module_with_two_names_is_trained_and_kept(lab, root, tmp_path):
    """As a list of layers beside their own names has it: safetensors saves no tensor twice."""
    both = "self.both = nn.Sequential(self.hidden)\n        self.layers = ("
    folder = lab("models/mine.py", network().replace("self.layers = (", both))
    assert run(folder, root, tmp_path, "norm=none") == 0
    store = Store(tmp_path / "results")
    kept = store.weights(store.run_ids()[0])
    assert kept["both.0.weight"].equal(kept["hidden.weight"])


def test_parameters_that_are_not_trained_are_refused_by_name(lab, root, tmp_path, capsys):
    """They may be the norm's."""
    freezing = "self.hidden.bias.requires_grad_(False)\n        self.layers = ("
    frozen = "from torch import nn\n\ndef build(num_features, ndim):\n    return nn.LayerNorm(num_features)"
    lab("norms/frozen.py", f"{frozen}.requires_grad_(False)\n")
    folder = lab("models/mine.py", network().replace("self.layers = (", freezing))
    assert run(folder, root, tmp_path, "norm=none") == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert "models/mine.py or norms/none.py: the parameter hidden.bias" in error and "buffer" in error
    lab("models/mine.py", network())
    assert run(folder, root, tmp_path, "norm=frozen", "model=mlp") == cli.EXIT_USAGE
    assert "norms/frozen.py: the parameter" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["weight_norm", "orthogonal", "spectral_norm"])
def test_weights_that_others_make_are_drawn_as_init_says(lab, kind):
    """Where they can have any value: an orthogonal matrix stays as its file, under the run's seed, has drawn it."""
    text = network(size=f"from torch.nn.utils.parametrizations import {kind}\nINPUT_SIZE = None")
    lab("models/plain.py", network())
    made = f"{kind}(nn.Linear(num_inputs, width))"
    folder = lab("models/mine.py", text.replace("nn.Linear(num_inputs, width)", made))
    project.use_components(folder)

    def weight(model, **given):
        made = models.build(model, {}, norms.Factory("none", {}), "xavier_uniform", (1, 4, 4), 4, 0, **given)
        hidden: Any = made.get_submodule("hidden")
        return hidden.weight.detach()

    first = weight("mine")
    assert torch.allclose(first, weight("mine"))
    if kind == "weight_norm":
        assert torch.allclose(first, weight("plain"), atol=1e-6)
        assert torch.allclose(weight("mine", init_scale=10.0), 10 * first, rtol=1e-5)
    elif kind == "spectral_norm":  # of the drawn matrix, over its largest singular value
        plain = weight("plain")
        assert torch.allclose(first / first.norm(), plain / plain.norm(), atol=1e-5)
    else:
        assert torch.allclose(first @ first.T, torch.eye(len(first)), atol=1e-5)


def test_a_factor_that_a_parametrized_weight_cannot_have_is_refused(lab):
    """weight_norm has no direction for a weight of 0."""
    made = "weight_norm(nn.Linear(width, num_classes))\n        self.initial_factors = {'classifier': 0.0}"
    text = network(size="from torch.nn.utils.parametrizations import weight_norm\nINPUT_SIZE = None")
    project.use_components(lab("models/mine.py", text.replace("nn.Linear(width, num_classes)", made)))
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"^models/mine\.py: initial_factors has 'classifier'"):
        models.build("mine", {}, norms.Factory("none", {}), "xavier_uniform", (1, 4, 4), 4, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_network_a_norm_and_a_sweep_of_another_folder_run(lab, root, tmp_path):
    lab("norms/slope.py", NORM)
    lab("sweeps/trial.yaml", SWEEP)
    lab("norms/broken.py", "def build(")
    folder = lab("models/mine.py", network())
    assert run(folder, root, tmp_path, "norm=slope", "norm.slope=0.1") == 0
    assert [name.rpartition("-")[0] for name in Store(tmp_path / "results").run_ids()] == ["mine-slope-lr0.1-s0"]
    assert compose.expand("trial", "full", ["norm=slope"])[0].norm["slope"] == 0.2


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        (network(size=""), [], ["models/mine.py", "INPUT_SIZE is missing"]),
        (network(norm="nn.Identity()"), ["norm=batch"], ["norm.name = 'batch'", "no place for a norm", "norm=none"]),
        (network(), ["norm=broken"], ["norms/broken.py, line 1"]),
        (network().replace("self.layers =", "self.depths ="), [], ["models/mine.py", "self.layers"]),
        (network().replace("Layer(2,", "Layer(1,"), [], ["layer classifier has depth 1", "1, 2, 3"]),
        (network().replace('"norm"), L', '"nrom"), L'), [], ["'nrom'", "did you mean norm?"]),
        (network().replace('"linear", "norm"', '"conv", "norm"'), [], ["kind 'conv'", "is a linear"]),
        (network().replace("self.layers = (", "self.layers = () and ("), [], ["layers = ()", "one or more"]),
        (network().replace("num_classes)\n        self.l", "7)\n        self.l"), [], ["(2, 7)", "(2, 4)"]),
        (network().replace("return self.", "return 1, self."), [], ["is tuple", "one tensor"]),
        (
            network().replace("self.hidden(images.flatten(1))", "sum(self.hidden(images.flatten(1)) for _ in 'ab')"),
            ["probes.weights.at=[0]", "probes.activation_moments.at=[0]"],
            ["probes.activation_moments: layer hidden", "2 times"],
        ),
        (
            network("nn.Identity()").replace("self.norm(self.hidden(images.flatten(1)))", TOKENS),
            ["norm=none", "probes.gradient_norms.at=[0]", "probes.activation_moments.at=[0]"],
            ["probes.activation_moments", "layer hidden", "(2, 1, 4)", "~probes.activation_moments"],
        ),
        (
            network('norm(width, 0, "norm"); self.i = 0').replace("return self", "self.i += 1; return self.i*self"),
            [],
            ["i changes while training", "self.register_buffer"],
        ),
        (network().replace("width: int = 4", "width: int = 4, lr: float = 0.1"), [], ["'lr': the name is taken"]),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(lab, root, tmp_path, capsys, text, overrides, words):
    lab("norms/broken.py", "def build(")
    assert run(lab("models/mine.py", text), root, tmp_path, *overrides) == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert all(word in error for word in words) and "Traceback" not in error
    assert not (tmp_path / "results").exists()


def test_an_error_in_own_code_names_its_line_and_the_file_of_the_traceback(lab, root, tmp_path, capsys):
    folder = lab("models/mine.py", network(extra=".no_such_thing()"))
    assert run(folder, root, tmp_path) == cli.EXIT_FAILED
    error = capsys.readouterr().err
    (name,) = Store(tmp_path / "results").run_ids()
    path = tmp_path / "results" / "runs" / name / "traceback.txt"
    assert re.search(r"models/mine\.py, line \d+: return self\.classifier", error) and "no_such_thing" in error
    assert str(path) in error
    assert "Traceback" not in error and "models/mine.py" in path.read_text()


def test_a_look_that_fails_leaves_the_finished_run_and_a_traceback_until_it_succeeds(lab, root, tmp_path, capsys):
    folder = lab("models/mine.py", network())
    assert run(folder, root, tmp_path, "norm=none") == 0
    (name,) = Store(tmp_path / "results").run_ids()
    trace = tmp_path / "results" / "runs" / name / "traceback.txt"
    asked = ["+probes.late.at_end=true", f"--components={folder}", f"--data-root={root}"]
    asked = [*RUN, "norm=none", *asked, f"--results={tmp_path / 'results'}"]
    lab("probes/late.py", PROBE.format("seen.wrong"))
    failed = subprocess.run([sys.executable, "-m", "bnstudy", *asked], capture_output=True, text=True)
    assert failed.returncode == cli.EXIT_FAILED and str(trace) in failed.stderr
    assert "probes/late.py" in trace.read_text() and Store(tmp_path / "results").state(name).done
    with pytest.raises(SystemExit):
        cli.main(["show", name, f"--results={tmp_path / 'results'}"])
    assert "a look at it failed" in capsys.readouterr().out
    lab("probes/late.py", PROBE.format("seen.loss"))
    with pytest.raises(SystemExit) as ended:
        cli.main(asked)
    assert not ended.value.code and not trace.exists()


def test_a_sweep_s_file_has_its_own_name_inside(lab, capsys):
    """A copied one would count its runs as the other's."""
    lab("sweeps/mine.yaml", SWEEP)
    lab("sweeps/unnamed.yaml", SWEEP.replace("name: trial, ", ""))
    project.use_components(lab("sweeps/bare.yaml", "defaults: [config, _self_]\n"))
    assert compose.expand("unnamed", "full")[0].sweep.name == "unnamed"
    with pytest.raises(ValueError, match=r"^sweep\.name: "):
        compose.expand("init", "full", ["sweep.name=mine"])
    with pytest.raises(ValueError, match=r"sweeps/mine\.yaml: sweep\.name=trial .* give it mine"):
        compose.expand("mine", "full")
    assert compose.headers()["bare"] == {}
    lab("sweeps/adhoc.yaml", SWEEP)
    for use in (compose.sweeps, lambda: compose.expand("adhoc", "quick")):
        with pytest.raises(ValueError, match=r"sweeps/adhoc\.yaml: .*rename yours"):
            use()


PROBE = "COLUMNS = {{'value': 'float64'}}\nREADS = set()\n\ndef probe(seen):\n    yield {{'value': {}}}\n"


@pytest.mark.parametrize(("plan", "anew"), [("at_end=true", False), ("every_steps=100", True)])
def test_a_probe_that_is_mended_before_it_has_looked_costs_no_training(lab, root, tmp_path, capsys, plan, anew):
    """It failed at its last look, its only one: what was trained is as good as it was."""
    folder = lab("models/mine.py", network())
    lab("probes/late.py", PROBE.format("seen.loss if seen.step in (0, 100) else seen.wrong"))
    given = [*RUN, "norm=none", "train.steps=202", "runtime.checkpoint_every_sec=0.02", f"+probes.late.{plan}"]
    given[given.index("train.steps=2")] = "runtime.threads=1"
    given += [f"--components={folder}", f"--data-root={root}", f"--results={tmp_path / 'results'}"]
    failed = subprocess.run([sys.executable, "-m", "bnstudy", *given], capture_output=True, text=True)
    assert failed.returncode == cli.EXIT_FAILED and "probes/late.py" in failed.stderr, failed.stderr
    lab("probes/late.py", PROBE.format("seen.loss"))
    with pytest.raises(SystemExit) as ended:
        cli.main(given)
    assert not ended.value.code
    assert ("probes/late.py changed since" in capsys.readouterr().out) == anew
    store = Store(tmp_path / "results")
    (name,) = store.run_ids()
    assert store.state(name).done and len(store.table(name, "steps")) == 202
    assert len(store.table(name, "late")) == (3 if anew else 1)


def test_code_that_changed_since_it_was_imported_is_not_trained_under_its_new_name(lab, root, tmp_path, capsys):
    """The process goes on with what it has; the manifest says what that was, and another run is refused."""
    folder = lab("models/mine.py", network())
    assert run(folder, root, tmp_path, "optim.lr=0.1") == 0
    lab("models/mine.py", network(extra=" * 2"))
    assert plugins.loaded("models", "mine") != plugins.sources("models", "mine")
    assert run(folder, root, tmp_path, "optim.lr=0.2") == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert "models/mine.py changed since this process imported it" in error and "once more" in error
    with pytest.raises(ValueError, match=r"models/mine\.py changed"):
        plugins.check_current("models", "mine")


def test_a_file_that_changes_while_a_sweep_trains_keeps_back_its_own_runs_alone(lab, root, tmp_path):
    project.use_components(lab("norms/slope.py", NORM))
    ways: tuple[dict[str, Any], ...] = ({"name": "slope", "slope": 0.1}, {"name": "slope"}, {"name": "batch"})
    groups = [Group((job(config(root, norm=norm, train__steps=2)),)) for norm in ways]

    def edit(group, done, total, ended):
        lab("norms/slope.py", f"{NORM}\nCHANGED = True\n")

    ended = pool.launch(groups, tmp_path / "results", workers=1, threads=1, report=edit)
    assert [end.state for end in ended] == ["completed", "partial", "completed"]
    assert "norms/slope.py changed" in ended[1].note


@pytest.mark.parametrize("kind", ["norms", "probes"])
def test_a_file_in_another_encoding_is_named(lab, root, tmp_path, capsys, kind):
    folder = lab("models/mine.py", network())
    (folder / kind).mkdir()
    (folder / kind / "odd.py").write_bytes("# f\xfcr mich\n".encode("latin-1"))
    asked = ["norm=odd"] if kind == "norms" else ["+probes.odd.at=[0]"]
    assert run(folder, root, tmp_path, *asked) == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert f"{kind}/odd.py" in error and "UTF-8" in error


def test_an_imported_file_that_changed_between_two_imports_is_not_taken_for_new(lab):
    """Python imports it once: a component that is imported later still has it as it was."""
    norm = "from torch import nn\n{0}\n\ndef build(num_features, ndim):\n    return nn.Identity()\n"
    lab("norms/shared.py", norm.format("FACTOR = 1"))
    project.use_components(lab("norms/outer.py", norm.format("from bnstudy.norms import shared")))
    plugins.check_current("norms", "shared")
    lab("norms/shared.py", norm.format("FACTOR = 2"))
    with pytest.raises(ValueError, match=r"^norms/shared\.py changed since"):
        plugins.check_current("norms", "outer")
    assert plugins.loaded("norms", "outer")["norms/shared.py"] == plugins.loaded("norms", "shared")["norms/shared.py"]


def test_a_probe_that_reads_what_it_does_not_declare_is_refused(lab):
    text = "READS = {'gradients'}\nCOLUMNS = {}\n\ndef probe(snapshot):\n    yield from snapshot.activations\n"
    project.use_components(lab("probes/looks.py", text))
    with pytest.raises(ValueError, match=r"probes/looks\.py: it uses snapshot\.activations: add 'activations'"):
        plugins.defaults("probes", "looks")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("READS = set()\nCOLUMNS = {'step': 'int64'}", r"has 'step' already; leave it out"),
        ("READS = set()\nCOLUMNS = {'value': 'int'}", r"'value' is 'int'; give one of int16, "),
        ("READS = ['gradients']\nCOLUMNS = {}", r"READS = \['gradients'\] is no set"),
    ],
)
def test_a_probe_whose_table_would_not_be_one_is_refused(lab, text, words):
    project.use_components(lab("probes/own.py", f"{text}\n\ndef probe(snapshot):\n    yield {{}}\n"))
    with pytest.raises(ValueError, match=rf"^probes/own\.py: .*{words}"):
        plugins.defaults("probes", "own")
    text = "READS = set()\nCOLUMNS = {}\n\ndef probe(snapshot):\n    yield {}\n"
    project.use_components(lab("probes/epochs.py", text))
    with pytest.raises(ValueError, match=r"probes/epochs\.py: training has a table of this name"):
        plugins.defaults("probes", "epochs")


def test_an_option_of_a_probe_that_python_would_never_pass_on_is_refused(lab):
    text = "READS = set()\nCOLUMNS = {}\n\ndef probe(snapshot, *, layers=(1, 2)):\n    yield {}\n"
    project.use_components(lab("probes/own.py", text))
    with pytest.raises(ValueError, match=r"^probes/own\.py: option 'layers': the name is taken; give it another"):
        plugins.defaults("probes", "own")


def test_a_probe_that_writes_over_what_others_see_is_refused(lab, root, tmp_path, capsys):
    lab("models/mine.py", network())
    text = "READS = set()\nCOLUMNS = {}\n\ndef probe(snapshot):\n    snapshot.weights[1].mul_(0.5)\n    yield {}\n"
    assert run(lab("probes/halves.py", text), root, tmp_path, "probes.halves.at=[0]") == cli.EXIT_FAILED
    assert "probes/halves.py: it writes over" in capsys.readouterr().err


def test_a_norm_that_is_not_by_channel_cannot_be_stacked(lab, root, tmp_path, capsys):
    lab("models/mine.py", network())
    text = "from torch import nn\nSTACKABLE = True\n\ndef build(n, ndim):\n    return nn.GroupNorm(2, n)\n"
    assert run(lab("norms/stk.py", text), root, tmp_path, "norm=stk") == cli.EXIT_USAGE
    assert "norms/stk.py: STACKABLE = True, and" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in plugins.names("norms") if plugins.flag("norms", name, "STACKABLE")])
def test_the_projects_own_norms_can_be_stacked_as_they_say(name):
    for more in ({}, {"momentum": 0.5}):
        options = plugins.defaults("norms", name)
        contract.check_stackable(name, options | {key: value for key, value in more.items() if key in options})


def test_layers_may_share_an_activation_and_what_is_kept_of_a_pass_is_no_state(lab, root, tmp_path):
    shared = network(norm='norm(width, 0, "norm"); self.act = self.also = nn.ReLU(); self.last = []')
    text = shared.replace('"hidden", "linear", "norm"', '"hidden", "linear", "also"')
    text = text.replace("return self", "self.last = [float(images.mean())]; return self")
    text = text.replace("classifier(self.norm", "classifier(self.act(self.norm")
    text = text.replace("images.flatten(1))))", "images.flatten(1)))))")
    assert run(lab("models/mine.py", text), root, tmp_path) == 0


def test_one_folder_in_two_spellings_is_one(lab, root, tmp_path, monkeypatch):
    folder = lab("models/mine.py", network())
    lab("models/.ipynb_checkpoints/mine.py", network())
    lab("conf/config.yaml", "defaults: []")
    (tmp_path / "link").symlink_to(folder)
    for spelt in (folder, tmp_path / "link", folder / ".." / folder.name):
        project.use_components(spelt)
    assert "mine" in plugins.names("models")
    known = project.components()
    other = tmp_path / "other"
    (other / "models").mkdir(parents=True)
    (other / "models" / "mine.py").write_text(network())
    with pytest.raises(ValueError, match="rename yours"):
        project.use_components(other)
    assert project.components() == known and "mine" in plugins.names("models")


def test_a_name_of_the_projects_is_refused(lab, root, tmp_path, capsys):
    """Or batch norm would be trained under the name of what was written."""
    lab("models/mine.py", network())
    folder = lab("norms/batch.py", NORM)
    assert run(folder, root, tmp_path, "norm=batch") == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert str(folder / "norms" / "batch.py") in error and "rename yours" in error


def test_options_are_each_builds_own(lab):
    """Or a list that build changes would be another in the manifest, and for the next network."""
    text = NORM.replace("slope: float = 0.2", "sizes: list = [1, 2]").replace("return", "sizes.pop()\n    return")
    project.use_components(lab("norms/pops.py", text.replace("(slope)", "(sizes[0])")))
    config = compose.one(["norm=pops", "norm.sizes=[3,4]"])
    factory = norms.Factory("pops", schema.norm_options(config))
    assert [factory(2, 2, site).negative_slope for site in "ab"] == [3, 3]
    assert config.norm["sizes"] == [3, 4] and plugins.defaults("norms", "pops") == {"sizes": [1, 2]}
    plugins.defaults("norms", "pops")["sizes"].pop()
    assert plugins.defaults("norms", "pops") == {"sizes": [1, 2]}


@pytest.mark.parametrize(
    ("line", "file"),
    [("from ._core import F", "_core"), ("from . import _core", "_core"), ("from .lib.core import F", "lib/core"),
     ("from bnstudy.norms.lib import core", "lib/core"), ("from .lib import F", "lib/__init__"),
     ("import bnstudy.norms._core", "_core")],
)  # fmt: skip
def test_what_a_component_imports_of_its_folder_counts(lab, line, file):
    lab(f"norms/{file}.py", "F = 1\n")
    project.use_components(lab("norms/uses.py", f"{line}\n{NORM}"))
    before = plugins.sources("norms", "uses")
    assert set(before) == {"norms/uses.py", f"norms/{file}.py"}
    lab(f"norms/{file}.py", "F = 2\n")
    assert plugins.checksum("norms", "uses") != code_checksums.of_sources(before)


def test_a_network_without_a_place_for_a_norm_runs_without(lab, root, tmp_path):
    assert run(lab("models/mine.py", network(norm="nn.Identity()")), root, tmp_path, "norm=none") == 0


def test_a_network_that_computes_in_place_trains_and_is_seen_as_one_that_does_not(lab, root, tmp_path):
    found = []
    for place in (True, False):
        text = network(f"nn.Sequential(norm(width, 0, 'norm'), nn.ReLU(inplace={place}))")
        name = f"in_place_{place}".lower()
        folder = lab(f"models/{name}.py", text)
        results = tmp_path / name
        looks = ["probes.activation_moments.at_end=true", "probes.gradient_norms.at_end=true"]
        with pytest.raises(SystemExit) as ended:
            places = [f"--components={folder}", f"--data-root={root}", f"--results={results}"]
            cli.main([*RUN[:-1], f"model={name}", *looks, *places])
        assert not ended.value.code
        store = Store(results)
        (run_id,) = store.run_ids()
        tables = [store.table(run_id, each).drop(columns="run_id") for each in ("activation_moments", "gradient_norms")]
        found.append((store.weights(run_id), tables))
    (weights, tables), (others, other_tables) = found
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    assert all(table.equals(other) for table, other in zip(tables, other_tables, strict=True))


def test_attention_has_second_derivatives_in_a_look(lab, root, tmp_path):
    """The kernels with which torch computes it while training have none."""
    hidden = "self.hidden(images.flatten(1))"
    attend = f"nn.functional.scaled_dot_product_attention(*[{hidden}[:, None, None]] * 3).flatten(1)"
    text = network("nn.Identity()").replace(hidden, attend)
    assert run(lab("models/mine.py", text), root, tmp_path, "norm=none", "probes.hessian_top_eigenvalue.at=[0]") == 0


def test_names_that_options_cannot_have_are_those_of_the_configuration():
    fields = {f.name for of in (schema.Data, schema.Optim) for f in dataclasses.fields(of)}
    fields |= {"epochs", "steps", "init", "init_scale", "precision", "seed"}
    assert fields <= component_files.TAKEN["models"]
    assert set(component_files.OF_TRAINING) == set(preflight.TABLES)
    assert set(component_files.COLUMN_TYPES) == set(probes.KINDS)


def test_a_folder_without_components_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(project.COMPONENTS, "")
    with pytest.raises(ValueError, match="none of norms/"):
        project.use_components(tmp_path)


def test_what_a_probe_cannot_see_is_told_with_that_probes_file():
    """Not with that of the snapshot, which all probes share."""
    assert plugins.component(Path(snapshot.__file__)) is None
    assert plugins.component(Path(snapshot.__file__).with_name("weights.py")) == "probes/weights.py"
