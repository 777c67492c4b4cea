"""Every configuration file composes, overrides do what they say, and a slip is named."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import fields
from typing import Any

import pytest
from hydra import compose as hydra_compose
from omegaconf import OmegaConf

from bnstudy.config import compose, groups, plugins, project
from bnstudy.config.errors import ComposeError
from bnstudy.config.groups import CONF, LAUNCHERS
from bnstudy.config.overrides import override
from bnstudy.config.schema import Config, ProbePlan, from_dict

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != LAUNCHERS)


def test_the_sizes_that_the_study_promises():
    assert (len(compose.expand("init", "quick")), len(compose.expand("init", "full"))) == (10, 60)
    grid = compose.expand("lenet_lr_grid", "quick")
    assert len(grid) == 8 * 2 * 3 and {config.train.epochs for config in grid} == {2}
    assert len({config.optim.lr for config in grid}) == 8 and {config.seed for config in grid} == {0, 1, 2}
    assert {config.norm["name"] for config in grid} == {"batch", "none"}


@pytest.mark.parametrize(
    "path", sorted(str(path.relative_to(CONF)) for name in GROUPS for path in (CONF / name).rglob("*.yaml"))
)
def test_every_conf_file_composes_and_says_what_it_is(path):
    group, _, name = path.removesuffix(".yaml").partition("/")
    config = compose.one([f"{group}={name}"])
    assert (CONF / path).read_text(encoding="utf-8").startswith("# ")
    if group == "model":
        assert f"{config.model['name']}{config.model['depth']}" == name
    if group == "data":
        assert config.data.name == name


@pytest.mark.parametrize("kind", ["models", "norms"])
def test_every_component_is_an_option_without_a_file(kind):
    group = kind.removesuffix("s")
    for name in plugins.names(kind):
        values = getattr(compose.one([f"{group}={name}"]), group)
        extra = {"where": "*"} if kind == "norms" else {}
        assert values == {"name": name, **extra, **plugins.defaults(kind, name)}


def test_the_recipes_are_the_papers_and_the_textbooks():
    paper = compose.one([])
    assert (paper.model["depth"], paper.norm["name"], paper.init) == (110, "batch", "xavier_uniform")
    assert (paper.optim.momentum, paper.optim.weight_decay, paper.data.batch_size) == (0.9, 1e-4, 128)
    assert (paper.optim.milestones, paper.optim.decay, paper.train.epochs) == ([0.5, 0.75], 0.1, 165)
    assert paper.data.augment and paper.data.normalise == "channel"
    book = compose.one(["model=lenet", "recipe=lenet", "data=fashion_mnist"])
    assert (book.optim.momentum, book.optim.weight_decay, book.optim.milestones) == (0.0, 0.0, [])
    assert (book.data.batch_size, book.data.augment, book.data.normalise) == (256, False, "unit")
    assert (book.model["padding"], book.model["pooling"], book.model["activation"]) == (0, "max", "sigmoid")


def test_an_override_of_an_axis_replaces_it_and_any_other_holds_for_every_run():
    configs = compose.expand(
        "init", "full", ["seed=7,3", "norm=batch_scratch", "init=kaiming_normal", "model.depth=20"]
    )
    assert [(config.seed, config.norm["name"]) for config in configs] == [(7, "batch_scratch"), (3, "batch_scratch")]
    assert {(config.init, config.model["depth"]) for config in configs} == {("kaiming_normal", 20)}
    new_axis = compose.expand("init", "full", ["seed=0", "norm=batch", "model=resnet20,resnet32", "optim.lr=1,0.5"])
    assert [(c.model["depth"], c.optim.lr) for c in new_axis] == [(20, 1.0), (20, 0.5), (32, 1.0), (32, 0.5)]


def test_overrides_come_after_the_preset():
    configs = compose.expand("lenet_lr_grid", "quick", ["train.epochs=1", "optim.lr=0.2,0.1"])
    assert {config.train.epochs for config in configs} == {1} and {config.optim.lr for config in configs} == {0.1, 0.2}
    assert len({config.seed for config in configs}) == 3  # the preset's


def test_expanding_is_what_hydra_composes_point_by_point():
    """Values are set after Hydra has composed the choices; a composition of each point is the slow twin."""
    axes = {
        "norm": ("none", "batch"),
        "seed": ("3", "4"),
        "optim.lr": ("1e-3", ".5"),
        "init": ("torch_default", "'xavier_normal'"),
    }
    configs = compose.expand("lenet_lr_grid", "full", [f"{key}={','.join(values)}" for key, values in axes.items()])
    slow = []
    with compose._hydra(project.SWEEPS):
        for norm in axes["norm"]:
            for seed in axes["seed"]:
                for lr in axes["optim.lr"]:
                    for init in axes["init"]:
                        point = [f"norm={norm}", f"seed={seed}", f"optim.lr={lr}", f"init={init}"]
                        composed: Any = OmegaConf.to_container(hydra_compose("lenet_lr_grid", point), resolve=True)
                        slow.append(from_dict(composed))
    assert configs == slow


@pytest.mark.parametrize(
    "text",
    [
        "seed='3'", "data.augment=yes", "data.augment=0", "optim.lr=1", "optim.lr='0.1'", "tracking.tags=[1,b]",
        "sweep.name=5", "data.num_train='256'", "optim.milestones=[]", "train.steps=null", "model.depth=20",
        "tracking.project='${norm.name}'", "probes.activation_moments.at=[0,3]", "norm=batch", "~probes.gradient_tails",
        "probes.activation_moments.at=['0','3']", "probes.activation_moments.at_end=no",
        "probes.activation_moments.every_steps='10'", "optim.lr=${oc.env:LR}", "optim.milestones=['${oc.env:LR}',0.5]",
        "probes.activation_moments.every_steps=${oc.env:STEPS}", "optim={lr:'0.2',warmup:'${oc.env:LR}'}",
        "runtime.results='???'",
    ],
)  # fmt: skip
def test_a_value_is_converted_as_hydra_converts_it(text, monkeypatch):
    monkeypatch.setenv("LR", "0.25"), monkeypatch.setenv("STEPS", "7")
    with compose._hydra(CONF):
        composed: Any = OmegaConf.to_container(hydra_compose("config", [text]), resolve=True)
    assert compose.one([text]) == from_dict(composed)


def test_lists_and_nothing_vary_too():
    given = ["norm=batch", "seed=0", "optim.lr=1", "optim.milestones=[],[0.5]", "data.num_train=null,1000"]
    configs = compose.expand("lenet_lr_grid", "full", given)
    assert [(c.optim.milestones, c.data.num_train) for c in configs] == [
        ([], None),
        ([], 1000),
        ([0.5], None),
        ([0.5], 1000),
    ]


def test_mappings_that_vary_are_each_runs_own():
    given = ["probes.weights.at=[0]", "probes.loss_along_step.options={num:3},{low:0.1}"]
    options = [c.probes["loss_along_step"].options for c in compose.expand("init", "quick", ["seed=0", *given])]
    assert options == [{"num": 3}, {"low": 0.1}] * 2


def test_a_mapping_that_varies_sets_its_own_keys_alone():
    compose.one(["optim.momentum=0.25", "sweep.rows={}", "optim.lr=0.5"])  # of which nothing may stay
    given = ["optim.decay=0.5", "optim={lr:1},{lr:2}", "optim.milestones=[0.5]", "tracking={mode:off}"]
    optims = [config.optim for config in compose.expand("adhoc", "", given)]
    assert [(optim.lr, optim.momentum, optim.decay, optim.milestones) for optim in optims] == [
        (lr, 0.9, 0.5, [0.5]) for lr in (1, 2)
    ]
    assert compose.one(["optim={}"]) == compose.one([])


def test_axes_and_presets_may_refer_to_other_values(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "SWEEPS", tmp_path)
    monkeypatch.setenv("NORMS", "batch,none")
    refers = (
        "hydra: {sweeper: {params: {norm: '${oc.env:NORMS}'}}}\nseed: 5\n"
        "sweep: {presets: {full: ['data.batch_size=${seed}']}}\n"
    )
    (tmp_path / "mine.yaml").write_text(START + refers)
    configs = compose.expand("mine", "full")
    assert [(config.norm["name"], config.data.batch_size) for config in configs] == [("batch", 5), ("none", 5)]


def test_a_link_to_nothing_among_the_files_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "CONF", shutil.copytree(CONF, tmp_path / "conf"))
    (tmp_path / "conf/recipe/.#resnet.yaml").symlink_to("someone@somewhere.1")  # as Emacs locks a file
    assert compose.one([]).seed == 0


def test_a_probes_plan_can_be_changed_and_dropped():
    config = compose.one(["probes.activation_moments.every_epochs=2", "~probes.gradient_tails"])
    assert config.probes["activation_moments"].every_epochs == 2 and config.probes["activation_moments"].at == [0]
    assert "gradient_tails" not in config.probes
    assert compose.one(["probes=none"]).probes == {}


@pytest.mark.parametrize("plus", ["", "+"])
def test_a_probe_that_the_group_lacks_can_be_added(plus):
    config = compose.one([f"{plus}probes.weights.at=[0]", f"{plus}probes.weights.at_end=true"])
    assert config.probes["weights"] == ProbePlan(at=[0], at_end=True)
    assert config.probes["activation_moments"] == compose.one([]).probes["activation_moments"]
    assert compose.one(["probes=none", plus + "probes.weights={at: [0], at_end: true}"]).probes == {
        "weights": ProbePlan(at=[0], at_end=True)
    }
    configs = compose.expand("init", "quick", ["seed=0", f"{plus}probes.gradient_tails.options.num_bins=8,16"])
    assert [config.probes["gradient_tails"].options for config in configs] == [{"num_bins": 8}, {"num_bins": 16}] * 2
    assert {tuple(config.probes["gradient_tails"].at) for config in configs} == {(0,)}


FIELDS = [field.name for field in fields(Config)]
KEYS = ", ".join(FIELDS + [name for name in GROUPS if name not in FIELDS])
NORMS = ", ".join(sorted({*plugins.names("norms"), *(path.stem for path in (CONF / "norm").glob("*.yaml"))}))
SLIPS = {
    "optim.lrr=1": r"optim\.lrr: there is no such key; did you mean optim\.lr\? optim has: lr, momentum, .*",
    "lr=0.1": rf"lr: there is no such key; did you mean optim\.lr\? there are: {KEYS}",
    "norms=batch": rf"norms: there is no such key; did you mean norm\? there are: {KEYS}",
    "recip=lenet": rf"recip: there is no such key; did you mean recipe\? there are: {KEYS}",
    "optim.lr.x=1": r"optim\.lr\.x: there is no such key; did you mean optim\.lr\? optim\.lr is a single value",
    "model.dept=3": r"model\.dept: there is no such key; did you mean model\.depth\? model \(resnet\) has: name, .*",
    "+surprise=1": f"surprise: there is no such key; there are: {KEYS}",
    "+optim.nesterov=true": r"optim\.nesterov: there is no such key; optim has: lr, momentum, .*",
    "~nonsense": f"~nonsense: there is no such key; there are: {KEYS}",
    "~optim.lr": r"~optim\.lr: only a probe can be dropped, as in ~probes\.gradient_tails; .*",
    "norm=batcch": rf"norm = 'batcch': there is no such choice; did you mean batch\? there are: {NORMS}; own ones: .*",
    "model=resnet21": r"model = 'resnet21': .*; did you mean resnet\d+\? there are: .*resnet110, .*",
    "data=": "data = '': there is no such choice; there are: cifar10, fashion_mnist.*",
    "probes=everything": "probes = 'everything': there is no such choice; there are: .*default, .*",
    "probes.colour.at=[0]": r"probes\.colour: there is no such probe; there are: activation_moments, .*",
    "probes.weihgts.at=[0]": r"probes\.weihgts: there is no such probe; did you mean weights\? there are: .*",
    "probes.activation_moments.att=[0]": r".*\.att: there is no such key; did you mean .*at\? .* has: at, .*",
    "probes.activation_moments.at=0": r"probes\.activation_moments\.at = 0: give a list",
    "optim.lr=fast": r"optim\.lr = 'fast': give a .*",
    "optim.lr=": r"optim\.lr = '': give a .*",
    "optim.lr=-1": r"optim\.lr = -1\.0: give a finite number of 0\.0 or more",
    "optim.lr=${nope}": r"optim\.lr: .*nope.*",
    "init=zeros": "init = 'zeros': choose one of xavier_uniform, .*",
    "train.epochs=1.5": r"train\.epochs = 1\.5: give .*",
    "data.augment=maybe": r"data\.augment = 'maybe': give .*",
    "seed=-2": "seed = -2: give 0 or more",
    "optim=0.1": r"optim\.? = 0\.1: SGD is the only optimiser; give a mapping of lr, momentum, .*",
    "optim.lr": r"'optim\.lr': give KEY=VALUE, as in optim\.lr=0\.1, without spaces around the =",
    "0.1": r"'0\.1': give KEY=VALUE, as in optim\.lr=0\.1, without spaces around the =",
    "=3": r"'=3': give KEY=VALUE, as in optim\.lr=0\.1",
    "norm@x=batch": r"'norm@x=batch': give KEY=VALUE, as in optim\.lr=0\.1",
    "optim.milestones=[0.5": r"'optim\.milestones=\[0\.5': the value cannot be read; a list is .*",
    "hydra.launcher.n_jobs=2": r"hydra\.launcher\.n_jobs=2: Hydra only composes here .*; --jobs says .*",
}


@pytest.mark.parametrize("override", SLIPS)
def test_a_slip_is_named_in_plain_words_with_the_remedy(override):
    for composing in (compose.one, lambda given: compose.expand("init", "quick", given)):
        with pytest.raises(ValueError) as caught:
            composing([override])
        assert re.fullmatch(SLIPS[override], str(caught.value)), str(caught.value)
        for jargon in (
            "struct",
            "full_key",
            "object_type",
            "provider",
            "multirun",
            "append to your",
            "override_grammar",
        ):
            assert jargon not in str(caught.value)


def test_values_that_fit_only_together_are_not_what_is_wrong():
    """64 images are too few for the mini-batches of 128 that there would be without the second override."""
    for composing in (compose.one, lambda given: compose.expand("init", "quick", given)):
        with pytest.raises(ValueError, match=r"optim\.lrr: there is no such key"):
            composing(["data.num_train=64", "data.batch_size=16", "optim.lrr=1"])
        with pytest.raises(ValueError, match=r"data\.num_train = 64: give at least one mini-batch"):
            composing(["data.num_train=64"])


def test_an_option_that_one_norm_of_a_sweep_lacks_is_named_with_the_norm():
    with pytest.raises(ComposeError, match=r"norm\.eps: there is no such key; norm \(none\) has: name, where"):
        compose.expand("init", "quick", ["norm.eps=1e-3"])


@pytest.mark.parametrize("override", ["norm=batch,none", "seed=range(3)", "model.depth=20,32"])
def test_several_values_are_no_run(override):
    words = f"{override}: one run takes one value; several make a sweep, as in `sweep NAME {override}`"
    with pytest.raises(ComposeError, match=re.escape(words)):
        compose.one([override])


def test_values_that_only_a_launcher_would_find_are_refused():
    with pytest.raises(ComposeError, match=r"norm=glob\(\*\): list the values, separated by commas"):
        compose.expand("init", "quick", ["norm=glob(*)"])


START = "# Why.\ndefaults: [config, _self_]\n"
FILES = {
    "defaults: [config, override model: resnet21, _self_]\n": "model = 'resnet21': there is no such choice; did you",
    "defaults: [config, override modle: lenet, _self_]\n": "modle: there is no such key; did you mean model?",
    START + "trian: {epochs: 3}\n": "trian: there is no such key; did you mean train?",
    START + "train: {epoch: 3}\n": "train.epoch: there is no such key; did you mean train.epochs?",
    START + "train: {epochs: many}\n": "train.epochs = 'many': give a",
    START + "sweep: {presets: {full: train.epochs=1}}\n": "sweep.presets.full = 'train.epochs=1': give a list",
    "defaults: [config, _self_\ntrain: {epochs: 3}\n": "line 2: expected ',' or ']'",
    "train: {epochs: 3}\n": "it begins with: defaults: [config, _self_]",
    "": "it begins with: defaults: [config, _self_]",
}


@pytest.mark.parametrize("text", FILES)
def test_a_slip_in_a_sweeps_file_is_named_with_the_file(text, tmp_path, monkeypatch):
    monkeypatch.setattr(project, "SWEEPS", tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ComposeError) as caught:
        compose.expand("mine", "full")
    assert str(caught.value).startswith(f"sweeps/mine.yaml: {FILES[text]}")


def test_a_slip_in_a_file_of_a_group_is_named_with_the_file(tmp_path, monkeypatch):
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.setattr(groups, "CONF", tmp_path / "conf")
    (tmp_path / "conf/probes/mine.yaml").write_text("weights: {att: [0]}\n")
    for composing in (compose.one, lambda given: compose.expand("init", "quick", given)):
        with pytest.raises(ComposeError, match=r"probes/mine\.yaml: probes\.weights\.att: .*'att'") as caught:
            composing(["probes=mine"])
        assert "\n" not in str(caught.value)


def test_a_slip_is_named_where_one_value_refers_to_another(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "SWEEPS", tmp_path)
    refers = (
        "probes: {gradient_tails: {at: [0], options: {num_bins: '${data.batch_size}'}}}\nsweep: {presets: {full: []}}\n"
    )
    (tmp_path / "mine.yaml").write_text(START + refers)
    (config,) = compose.expand("mine", "full", ["data.batch_size=64"])
    assert config.probes["gradient_tails"].options == {"num_bins": 64}
    with pytest.raises(ComposeError, match=r"train\.epochs = 'many': give a"):
        compose.expand("mine", "full", ["train.epochs=many"])
    (tmp_path / "mine.yaml").write_text(START + refers + "train: {epochs: many}\n")
    with pytest.raises(ComposeError, match=r"mine\.yaml: train\.epochs = 'many': give a"):
        compose.expand("mine", "full")


def test_a_sweeps_file_without_presets_is_the_same_at_each(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "SWEEPS", tmp_path)
    (tmp_path / "mine.yaml").write_text(START)
    assert compose.expand("mine", "full") == compose.expand("mine", "quick") != []


def test_rows_of_a_table_that_there_is_not_are_refused_also_where_all_tables_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "SWEEPS", tmp_path)
    (tmp_path / "mine.yaml").write_text(START + 'sweep: {rows: {epocs: "epoch > 5"}}\n')
    with pytest.raises(ValueError, match=r"sweep\.rows\.epocs.*there are .*epochs"):
        compose.expand("mine", "full")
    (tmp_path / "mine.yaml").write_text(START + 'sweep: {rows: {epochs: "epoch > 5"}}\n')
    assert compose.expand("mine", "full")


@pytest.mark.parametrize("override", ["sweep.rows={epochs: 'step > 5'}", "sweep.rows.epochs='step > 5'"])
def test_rows_can_be_given_to_a_sweep_whose_file_has_none(override):
    given = [override, "optim.lr=0.1", "norm=batch", "seed=0"]
    assert compose.expand("lenet_lr_grid", "quick", given)[0].sweep.rows == {"epochs": "step > 5"}
    with pytest.raises(ValueError, match=r"^sweep\.rows\.epohcs: no such table"):
        compose.expand("lenet_lr_grid", "quick", [override.replace("epochs", "epohcs"), *given[1:]])


def test_a_slip_among_several_values_is_named():
    with pytest.raises(ComposeError, match=r"optim\.lr.*fast"):
        compose.expand("init", "quick", ["optim.lr=0.1,fast"])
    with pytest.raises(ValueError, match=r"optim\.lr = -1"):
        compose.expand("init", "quick", ["optim.lr=0.1,-1"])


def test_unknown_sweeps_and_presets_are_named():
    with pytest.raises(ValueError, match=r"there is no sweep 'lenet'; .*there are: .*lenet_lr_grid"):
        compose.expand("lenet", "quick")
    with pytest.raises(ValueError, match=r"sweep init has no preset 'qiuck'; it has: quick, full"):
        compose.expand("init", "qiuck")
    with pytest.raises(ValueError, match=r"no sweep '\.\./conf/config'"):
        compose.describe("../conf/config")


def test_infinity_is_no_learning_rate():
    with pytest.raises(ValueError, match=r"optim\.lr = inf"):
        compose.one(["optim.lr=inf"])
    assert math.isinf(compose.one(["train.divergence_loss=inf"]).train.divergence_loss)


def test_arms_and_recipes_say_what_they_set():
    lines = compose.choices(["arm=batch,none", "optim.momentum=0.5", "recipe=lenet", "norm=batch"])
    assert lines[0] == "arm=batch sets norm=batch, optim.lr=0.1, train.epochs=165"
    assert lines[1].startswith("arm=none sets norm=none, optim.lr=0.0001")
    assert len(lines) == 3 and "data.batch_size=256" in lines[2]


@pytest.mark.parametrize(
    "name", ["cifar10", "2024_05", "1e5", "true", "null", "my data", "a,b", "josé's", "x${y}", "Inf"]
)
def test_a_name_is_given_as_it_is(name):
    text = override("data.name", name)
    assert compose.one([text]).data.name == name
    assert text == f"data.name={name}" or not name.isalnum() or name in ("1e5", "true", "null", "Inf")
