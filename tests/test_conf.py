"""Every option of every config group builds what its name says."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, get_method, instantiate
from lightning.pytorch import LightningDataModule, Trainer
from omegaconf import OmegaConf
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.tensorboard import SummaryWriter

import lightning_onecycle
from experiments.build import UsageError, build, check
from lightning_onecycle import Schedule, Tuner, one_cycle, one_cycle_steady

CONF = Path(__file__).parents[1] / "conf"
SCHEDULES = {
    "onecycle",
    "onecycle_steady",
    "onecycle_torch",
    "onecycle_fastai",
    "airbench",
    "triangular",
    "triangular2",
    "exp_range",
    "step",
    "warmup_step",
    "cosine",
    "trapezoid",
    "constant",
}


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def built(group, *overrides):
    return instantiate(composed(*overrides)[group], _convert_="all")


def defaults_of(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def test_a_single_runs_directory_is_known_before_the_run(monkeypatch):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # as when callbacks look at it
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["schedule=step"], return_hydra_config=True)
    directory = cfg.hydra.run.dir
    assert directory.startswith("logs/runs/")
    assert directory.endswith("_step")
    assert cfg.hydra.run.dir == directory  # the one that was looked at


def test_all_presets_are_there():
    assert set(options("schedule")) == SCHEDULES


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_schedule_builds_and_says_where_its_numbers_come_from(name):
    schedule = built("schedule", f"schedule={name}")
    assert isinstance(schedule, Schedule)
    highest = max(point.lr for point in schedule.trace(1000))
    # The upper bound of exp_range has fallen by half a cycle when it is first met.
    assert highest == (pytest.approx(0.79**0.5) if name == "exp_range" else 1.0)
    assert (CONF / "schedule" / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_schedule_lists_every_argument(name):
    config = OmegaConf.load(CONF / "schedule" / f"{name}.yaml")
    function = getattr(lightning_onecycle, config.pop("_target_").rpartition(".")[2])
    missing = set(inspect.signature(function).parameters) - set(config)
    # Without a cycle of momentum, its range would only mislead.
    assert missing <= {"base_momentum", "max_momentum"}
    assert not missing or config.cycle_momentum is False


def test_the_default_is_smiths():
    config = OmegaConf.to_container(composed().schedule)
    assert config.pop("_target_") == "lightning_onecycle.one_cycle"
    assert config == defaults_of(one_cycle)


def test_the_steady_preset_has_the_functions_defaults():
    config = OmegaConf.to_container(composed("schedule=onecycle_steady").schedule)
    assert config.pop("_target_") == "lightning_onecycle.one_cycle_steady"
    assert config == defaults_of(one_cycle_steady)


def test_the_torch_preset_has_torchs_defaults():
    theirs = defaults_of(OneCycleLR)
    ours = OmegaConf.to_container(composed("schedule=onecycle_torch").schedule)
    assert theirs["three_phase"] is False
    assert ours.pop("pct_final") == 0.0
    assert ours.pop("anneal") == theirs["anneal_strategy"]
    for name in set(ours) - {"_target_"}:
        assert ours[name] == theirs[name], name


def test_the_fastai_preset_ends_a_hundred_thousandth_of_the_peak():
    trace = built("schedule", "schedule=onecycle_fastai").trace(1000)
    assert trace[0].lr == pytest.approx(1 / 25)
    assert trace[-1].lr == pytest.approx(1e-5)
    assert trace[249] == (1.0, 0.85, 1.0)


def test_the_airbench_preset_goes_from_a_fifth_to_seven_hundredths():
    trace = built("schedule", "schedule=airbench").trace(1000)
    assert trace[0].lr == pytest.approx(0.2)
    assert trace[229].lr == 1.0
    assert trace[-1].lr == pytest.approx(0.07)
    assert {point.momentum for point in trace} == {None}


@pytest.mark.parametrize("name", options("optimizer"))
def test_an_optimizer_takes_parameters_and_has_its_peak(name):
    make = built("optimizer", f"optimizer={name}", "optimizer.lr=0.125")
    optimizer = make([nn.Parameter(torch.zeros(1))])
    assert optimizer.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize("name", options("data"))
def test_data_is_a_data_module_with_every_argument_listed(name):
    config = composed(f"data={name}").data
    assert isinstance(instantiate(config, _convert_="all"), LightningDataModule)
    for cls in get_class(config._target_).__mro__[:2]:
        known = set(inspect.signature(cls.__init__).parameters) - {"self", "options"}
        named = {n for n in known if inspect.signature(cls.__init__).parameters[n].kind != 4}
        assert named <= set(config)


@pytest.mark.parametrize("data", options("data"))
@pytest.mark.parametrize("name", options("model"))
def test_a_model_fits_the_data(name, data):
    overrides = (f"model={name}", f"data={data}")
    shape = composed(*overrides).data.shape
    if name == "lenet" and shape[1] < 16:
        with pytest.raises(Exception, match="16"):
            built("model", *overrides)
        return
    net = built("model", *overrides)
    assert isinstance(net, nn.Module)
    assert net.eval()(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("name", options("trainer"))
def test_a_trainer_has_known_keys(name):
    config = composed(f"trainer={name}").trainer
    known = inspect.signature(get_method(f"{config._target_}.__init__")).parameters
    assert set(config) - {"_target_"} <= set(known)
    if config.accelerator != "gpu":
        assert isinstance(instantiate(config, logger=False), Trainer)


@pytest.mark.parametrize("name", options("lr_find"))
def test_a_range_test_has_every_key_and_the_defaults_of_python(name):
    config = OmegaConf.to_container(composed(f"lr_find={name}").lr_find)
    assert config["mode"] == name
    theirs = defaults_of(Tuner.lr_find)
    names = ("min_lr", "max_lr", "num_training", "early_stop_threshold", "val_batches")
    if name in ("search", "recipe"):
        theirs = {**theirs, "num_training": None}  # as the cost of the search allows
    assert {name: config[name] for name in names} == {name: theirs[name] for name in names}


def test_keys_of_a_range_test_are_told_of_where_there_is_none():
    with pytest.warns(UserWarning, match=r"lr_find.min_lr=0.001 changes nothing with lr_find=off"):
        check(composed("lr_find.min_lr=1e-3"))


def test_keys_that_nothing_reads_are_told_of():
    with pytest.warns(UserWarning, match="does not read the key max_lr.*is optimizer.lr"):
        check(composed("+max_lr=1"))


@pytest.mark.parametrize("name", options("logger"))
def test_a_logger_is_one_of_lightnings(name):
    loggers = composed(f"logger={name}").logger
    assert list(loggers) == ([] if name == "none" else [name])
    for config in loggers.values():
        known = set(inspect.signature(get_class(config._target_).__init__).parameters)
        if name == "tensorboard":  # hands the rest on
            known |= set(inspect.signature(SummaryWriter.__init__).parameters)
        assert set(config) - {"_target_"} <= known


def test_several_loggers_may_be_chosen():
    assert list(composed("logger=[tensorboard,csv]").logger) == ["tensorboard", "csv"]


def test_a_logger_that_is_not_installed_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    cfg = composed("logger=wandb", "logger.wandb.save_dir=.", "logger.wandb.name=a")
    with pytest.raises(UsageError, match=r"^logger\.wandb: "):
        build(cfg, "logger")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("seed=4294967296", "seed must be a whole number from 0 to 2**32 - 1, got 4294967296"),
        ("seed=abc", "seed must be a whole number from 0 to 2**32 - 1, got 'abc'"),
        ("task.label_smoothing=2", "task.label_smoothing must be in [0, 1), got 2"),
        ("optimizer.momentum=abc", "optimizer.momentum must be in [0, 1), got 'abc'"),
        ("optimizer.momentum=1.5", "optimizer.momentum must be in [0, 1), got 1.5"),
        (
            "trainer.check_val_every_n_epoch=0",
            "trainer.check_val_every_n_epoch must be a whole number >= 1, got 0",
        ),
        ("optimizer.nesterov=no", "optimizer.nesterov must be true or false, got 'no'"),
        (
            "trainer.enable_progress_bar=no",
            "trainer.enable_progress_bar must be true or false, got 'no'",
        ),
        (
            "trainer.deterministic=no",
            "trainer.deterministic must be one of None, True, False, 'warn', got 'no'",
        ),
        (
            "trainer.log_every_n_steps=x",
            "trainer.log_every_n_steps must be a whole number >= 1, got 'x'",
        ),
        ("trainer.limit_val_batches=abc", "trainer.limit_val_batches must be >= 0, got 'abc'"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_the_rule(option, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        check(composed(option))


def test_a_bad_value_of_one_of_several_callbacks_is_refused_with_its_whole_key():
    callback = {"_target_": "lightning_onecycle.BatchNormRecalibration", "num_batches": -1}
    cfg = OmegaConf.create({"callbacks": {"batch_norm": callback}})
    rule = "callbacks.batch_norm.num_batches must be a whole number >= 1, got -1"
    with pytest.raises(UsageError, match=f"^{re.escape(rule)}$"):
        build(cfg, "callbacks")


@pytest.mark.parametrize(("group", "kind"), [("callbacks", "callback"), ("logger", "logger")])
def test_a_part_of_a_group_that_is_none_is_refused_with_its_whole_key(group, kind):
    cfg = OmegaConf.create({group: {"own": 3, "left_out": None}})
    rule = f"{group}.own must be null or a {kind} of Lightning's, got 3"
    with pytest.raises(UsageError, match=f"^{re.escape(rule)}$"):
        build(cfg, group)


def test_a_class_that_is_not_there_is_refused_in_one_line():
    cfg = OmegaConf.create({"callbacks": {"own": {"_target_": "no.such"}}})
    with pytest.raises(UsageError, match=r"^callbacks\.own: Error loading 'no\.such'.*$"):
        build(cfg, "callbacks")


@pytest.mark.parametrize("key", ["logger", "callbacks", "plugins", "default_root_dir"])
def test_what_train_py_gives_to_the_trainer_is_not_taken_from_elsewhere(key):
    with pytest.raises(UsageError, match=f"trainer.{key} must be left out"):
        check(composed(f"+trainer.{key}=x"))


@pytest.mark.parametrize("name", options("experiment"))
def test_an_experiment_composes(name):
    assert composed(f"experiment={name}")


def test_nothing_of_a_callback_is_left_to_chance():
    for name, callback in composed().callbacks.items():
        assert callback._target_, name
