"""Every configuration file composes, overrides do what they say, and a slip is named."""

from __future__ import annotations

import math

import pytest
from hydra import compose as hydra_compose

from bnstudy import compose, plugins
from bnstudy.compose import CONF, SWEEPS, ComposeError
from bnstudy.config import from_dict, to_dict
from bnstudy.identity import run_id

DATA = {"name": "any", "source": "arrays", "sha256": "0" * 64}
PRESETS = ("quick", "full")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("sweep", compose.sweeps())
def test_every_sweep_composes_for_every_preset(sweep, preset):
    configs = compose.expand(sweep, preset)
    assert configs and {config.sweep.name for config in configs} == {sweep}
    assert len({run_id(config, DATA) for config in configs}) == len(configs), "two points of the sweep are one run"
    for config in configs:
        assert from_dict(to_dict(config)) == config
        assert set(config.sweep.presets) == set(PRESETS)


@pytest.mark.parametrize("sweep", compose.sweeps())
def test_every_sweep_opens_with_what_it_is_for(sweep):
    text = compose.describe(sweep)
    assert len(text.splitlines()) >= 2 and text.count(".") >= 2 and "runs" in text
    assert not any(line.startswith("#") for line in text.splitlines())


def test_the_sizes_that_the_study_promises():
    assert (len(compose.expand("init", "quick")), len(compose.expand("init", "full"))) == (10, 10)
    grid = compose.expand("lenet_lr_grid", "quick")
    assert len(grid) == 8 * 2 * 3 and {config.train.epochs for config in grid} == {2}
    assert len({config.optim.lr for config in grid}) == 8 and {config.seed for config in grid} == {0, 1, 2}
    assert {config.norm["name"] for config in grid} == {"batch", "none"}


@pytest.mark.parametrize(
    "path", sorted(str(path.relative_to(CONF)) for path in CONF.rglob("*.yaml") if path.parent != CONF)
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
    """Values that vary are set on a copy; a composition of each point is the slow twin."""
    axes = {
        "norm": ("none", "batch"),
        "seed": ("3", "4"),
        "optim.lr": ("1e-3", ".5"),
        "init": ("torch_default", "'xavier_normal'"),
    }
    configs = compose.expand("lenet_lr_grid", "full", [f"{key}={','.join(values)}" for key, values in axes.items()])
    slow = []
    search = f"hydra.searchpath=[file://{CONF}]"
    with compose._hydra(SWEEPS):
        for norm in axes["norm"]:
            for seed in axes["seed"]:
                for lr in axes["optim.lr"]:
                    for init in axes["init"]:
                        point = [f"norm={norm}", f"seed={seed}", f"optim.lr={lr}", f"init={init}"]
                        slow.append(compose.to_config(hydra_compose("lenet_lr_grid", overrides=[search, *point])))
    assert configs == slow


def test_lists_and_nothing_vary_too():
    given = ["norm=batch", "seed=0", "optim.lr=1", "optim.milestones=[],[0.5]", "data.num_train=null,1000"]
    configs = compose.expand("lenet_lr_grid", "full", given)
    assert [(c.optim.milestones, c.data.num_train) for c in configs] == [
        ([], None),
        ([], 1000),
        ([0.5], None),
        ([0.5], 1000),
    ]


def test_a_probes_plan_can_be_changed_and_dropped():
    config = compose.one(["probes.activation_moments.every_epochs=2", "~probes.gradient_tails"])
    assert config.probes["activation_moments"].every_epochs == 2 and config.probes["activation_moments"].at == [0]
    assert "gradient_tails" not in config.probes
    assert compose.one(["probes=none"]).probes == {}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1", ["optim.lrr", "lrr", "Optim"]),
        ("norm=batcch", ["batcch", "batch_scratch"]),
        ("model.dept=3", ["model.dept", "dept"]),
        ("optim.lr=fast", ["optim.lr", "fast"]),
        ("optim.lr=-1", ["optim.lr", "-1", "0"]),
        ("init=zeros", ["init", "zeros", "xavier_uniform"]),
        ("train.epochs=1.5", ["train.epochs", "1.5"]),
        ("optim.lr", ["optim.lr"]),
        ("+surprise=1", ["surprise", "no such key"]),
        ("+optim.nesterov=true", ["optim.nesterov"]),
        ("probes=everything", ["everything", "default"]),
        ("probes.colour.at=[0]", ["probes.colour", "colour"]),
        ("seed=-2", ["seed", "-2"]),
    ],
)
def test_a_slip_is_named(override, words):
    for composing in (compose.one, lambda given: compose.expand("init", "quick", given)):
        with pytest.raises(ValueError) as caught:
            composing([override])
        for word in words:
            assert word in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_slip_among_several_values_is_named():
    with pytest.raises(ComposeError, match=r"optim\.lr.*fast"):
        compose.expand("init", "quick", ["optim.lr=0.1,fast"])
    with pytest.raises(ValueError, match=r"optim\.lr = -1"):
        compose.expand("init", "quick", ["optim.lr=0.1,-1"])


def test_unknown_sweeps_and_presets_are_named():
    with pytest.raises(ValueError, match=r"there is no sweep 'lenet'; there are: .*lenet_lr_grid"):
        compose.expand("lenet", "quick")
    with pytest.raises(ValueError, match=r"sweep init has no preset 'qiuck'; it has: quick, full"):
        compose.expand("init", "qiuck")
    with pytest.raises(ValueError, match=r"no sweep '\.\./conf/config'"):
        compose.describe("../conf/config")


def test_infinity_is_no_learning_rate():
    with pytest.raises(ValueError, match=r"optim\.lr = inf"):
        compose.one(["optim.lr=inf"])
    assert math.isinf(compose.one(["train.divergence_loss=inf"]).train.divergence_loss)
