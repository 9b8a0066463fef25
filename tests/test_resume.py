"""A resumed run's command line, what it refuses, and its record; in this process."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict

from conftest import quiet_trainer
from experiments.build import UsageError
from experiments.resume import KeepOptions, arguments_for_hydra, check_resume
from experiments.task import Classifier
from lightning_onecycle.report import read_result
from lightning_onecycle.sweep.job_files import GIVEN, remember

CONF = Path(__file__).parents[1] / "conf"


def composed(*options):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*options], return_hydra_config=True)


def module(cfg):
    make = instantiate(cfg.optimizer, _convert_="all")
    net = instantiate(cfg.model, _convert_="all")
    return Classifier(net, make, cfg.data.num_classes, **cfg.task)


@pytest.fixture
def run(tmp_path):
    """Leave what a run leaves that was given these options, and return its directory."""

    def leave(*options, directory=tmp_path / "run", sources=()):
        cfg = composed(*(o for o in options if not o.startswith("hydra.searchpath")))
        with open_dict(cfg):
            hydra = OmegaConf.create(OmegaConf.to_yaml(cfg.pop("hydra")))
        hydra.overrides.hydra = [o for o in options if o.startswith("hydra")]
        hydra.runtime.config_sources = [
            {"path": path, "schema": "file", "provider": provider} for provider, path in sources
        ]
        record = directory / ".hydra"
        record.mkdir(parents=True)
        given = [o for o in options if not o.startswith("hydra")]
        OmegaConf.save(cfg, record / "config.yaml")
        OmegaConf.save({"hydra": hydra}, record / "hydra.yaml")
        OmegaConf.save(OmegaConf.create(given), record / "overrides.yaml")
        (directory / "checkpoints").mkdir()
        state = {"state_dict": module(cfg).state_dict()}
        torch.save(state, directory / "checkpoints" / "last.ckpt")
        return directory

    return leave


def resumed(directory, *options):
    """Return what Hydra gets, without where the run is; twice the same, as in further ranks."""
    once = arguments_for_hydra([f"resume={directory}", *options])
    assert arguments_for_hydra(once) == once
    quoted = "'" + str(directory).replace("'", "\\'") + "'"
    where = [f"resume={quoted}", "hydra.mode=RUN", f"hydra.run.dir={quoted}"]
    assert once[-4:] == [*where, "hydra.output_subdir=null"]
    assert once[0] == "--config-name=config"
    return once[1:-4]


@pytest.mark.parametrize(
    ("before", "now", "together"),
    [
        (["seed=1"], [], ["seed=1"]),
        (["seed=1"], ["seed=2"], ["seed=2"]),
        (["seed=1", "budget=steps"], ["+seed=2"], ["budget=steps", "+seed=2"]),
        (["+trainer.profiler=simple"], ["+trainer.profiler=null"], ["+trainer.profiler=null"]),
        (["+trainer.profiler=simple"], ["trainer.profiler=null"], ["+trainer.profiler=null"]),
        (["++trainer.profiler=simple"], ["trainer.profiler=null"], ["++trainer.profiler=null"]),
        (["+trainer.profiler=simple"], ["++trainer.profiler=null"], ["++trainer.profiler=null"]),
        (
            ["+trainer.profiler=simple"],
            ["~trainer.profiler"],
            ["+trainer.profiler=simple", "~trainer.profiler"],
        ),
        (["~trainer.strategy"], ["~trainer.strategy"], ["~trainer.strategy"]),
        (["~trainer.strategy"], ["+trainer.strategy=ddp"], ["+trainer.strategy=ddp"]),
        (["schedule=triangular", "schedule.cycles=2"], ["schedule=step"], ["schedule=step"]),
        (
            ["schedule=triangular", "schedule.cycles=2"],
            ["schedule=triangular"],
            ["schedule.cycles=2", "schedule=triangular"],
        ),
        (
            ["schedule=triangular", "schedule.cycles=2"],
            ["schedule.gamma=0.5", "schedule=step"],
            ["schedule.gamma=0.5", "schedule=step"],
        ),
    ],
)
def test_an_option_takes_the_place_of_the_one_with_its_key(run, before, now, together):
    assert resumed(run(*before), *now) == together


def test_flags_and_search_paths_are_part_of_a_run(run):
    sources = [("main", str(CONF)), ("command-line", "/mine"), ("hydra.searchpath", "/other")]
    paths = ["hydra.searchpath=[file:///other]", "hydra.verbose=true"]
    of_the_start = ["hydra.run.dir=elsewhere", "hydra.mode=MULTIRUN", "hydra.sweep.dir=s"]
    directory = run("seed=1", *paths, *of_the_start, sources=sources)
    assert resumed(directory) == ["--config-dir=/mine", "seed=1", *paths]
    new = "hydra.searchpath=[file:///new]"
    assert resumed(directory, new)[-2:] == ["hydra.verbose=true", new]
    # Of two flags the last one counts.
    assert resumed(directory, "--config-dir=/new")[:2] == [
        "--config-dir=/mine",
        "--config-dir=/new",
    ]


def test_a_group_of_a_directory_of_the_users_is_chosen_anew_with_its_keys(run, tmp_path):
    (tmp_path / "mine" / "noise").mkdir(parents=True)
    mine = [("command-line", str(tmp_path / "mine"))]
    directory = run("seed=1", sources=mine)
    given = OmegaConf.create(["+noise=small", "+noise.level=2", "seed=1"])
    OmegaConf.save(given, directory / ".hydra" / "overrides.yaml")
    assert resumed(directory, "+noise=large")[1:] == ["seed=1", "+noise=large"]


def test_another_main_configuration_is_part_of_a_run(run):
    directory = run("seed=1", sources=[("main", "/no/such/conf")])
    assert resumed(directory) == ["--config-path=/no/such/conf", "seed=1"]


def test_a_run_goes_on_in_no_other_directory(run):
    directory = run("seed=1")
    for same in (directory, f'"{directory}"'):  # as Lightning gives it to further ranks
        assert resumed(directory, f"hydra.run.dir={same}")[0] == "seed=1"
    with pytest.raises(SystemExit, match=r"hydra\.run\.dir must be left out with resume, got 'b'"):
        arguments_for_hydra([f"resume={directory}", "hydra.run.dir=b"])


def test_a_directory_to_resume_may_end_with_a_quote(run, tmp_path):
    directory = run("seed=1", directory=tmp_path / "0-+note='a b'")
    assert resumed(directory) == ["seed=1"]


@pytest.mark.parametrize("content", ["", "{", "seed: 1"])
@pytest.mark.parametrize("name", ["overrides.yaml", "hydra.yaml"])
def test_a_damaged_record_is_named(run, name, content):
    directory = run("seed=1")
    path = directory / ".hydra" / name
    path.write_text("- seed=1" if (name, content) == ("hydra.yaml", "seed: 1") else content)
    with pytest.raises(SystemExit, match=f"train.py: resume: {path}"):
        arguments_for_hydra([f"resume={directory}"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["optimizer=adamw"],
            "optimizer must stay torch.optim.SGD with resume, got torch.optim.AdamW",
        ),
        (["optimizer.nesterov=false"], "optimizer.nesterov must stay True with resume, got False"),
        (
            ["task.decay_bias_and_norm=false"],
            "task.decay_bias_and_norm must stay True with resume, got False",
        ),
        (
            ["model=resnet8"],
            "model must stay experiments.models.MLP with resume, got experiments.models.ResNet",
        ),
        (
            ["data=cifar10"],
            "data must stay experiments.data.Digits with resume, got experiments.data.CIFAR10",
        ),
        (["data.split_seed=7"], "data.split_seed must stay 0 with resume, got 7"),
        (["data.num_val=200"], "data.num_val must stay 300 with resume, got 200"),
        (["data.train_size=9"], "data.train_size must stay None with resume, got 9"),
        (["model.hidden=[10]"], r"model.hidden must stay \[256, 128\] with resume, got \[10\]"),
    ],
)
def test_other_data_another_optimizer_or_model_are_refused_by_both_names(run, options, message):
    directory, cfg = run(), composed(*options)
    with pytest.raises(UsageError, match=f"^{message}$"):
        check_resume(cfg, directory, module(cfg))


def test_what_a_schedule_writes_may_change(run):
    cfg = composed("optimizer.lr=0.1", "optimizer.weight_decay=0", "task.label_smoothing=0.1")
    check_resume(cfg, run(), module(cfg))


def test_a_range_test_that_is_used_again_keeps_its_options(run):
    directory = run("lr_find=then_fit", "lr_find.num_training=50")
    cfg = composed("lr_find=then_fit", "lr_find.num_training=60")
    with pytest.raises(UsageError, match="num_training must stay 50 with resume, got 60"):
        check_resume(cfg, directory, module(cfg))
    # The peak may be chosen in another way, or given.
    method = ("lr_find=then_fit", "lr_find.num_training=50", "lr_find.method=valley")
    for options in (method, ["lr_find=off"]):
        cfg = composed(*options)
        check_resume(cfg, directory, module(cfg))


@pytest.mark.parametrize(
    ("mode", "key"), [("then_fit", "lr"), ("search", "lr"), ("recipe", "weight_decay")]
)
def test_what_has_been_found_is_given_anew_only_without_the_range_test(run, mode, key):
    directory = run(f"lr_find={mode}")
    cfg = composed(f"lr_find={mode}", f"optimizer.{key}=0.03")
    with pytest.raises(
        UsageError, match=rf"optimizer.{key} must stay .*, got 0.03: lr_find={mode}"
    ):
        check_resume(cfg, directory, module(cfg))
    cfg = composed("lr_find=off", f"optimizer.{key}=0.03")
    check_resume(cfg, directory, module(cfg))


def test_batches_and_their_order_may_change(run):
    augment = "data.augment={_target_: experiments.data.Augment, flip: true}"
    cfg = composed("data.batch_size=32", "data.drop_last=false", "seed=3", augment)
    check_resume(cfg, run(), module(cfg))


def test_options_are_kept_when_a_batch_has_been_trained_on(run, monkeypatch):
    directory = run("seed=1", "schedule=triangular")
    remember(
        directory, ["seed=1", "schedule=triangular"], OmegaConf.create()
    )  # it is a job of a sweep
    record = directory / ".hydra"
    before = {path: path.read_text() for path in record.iterdir()}
    cfg = composed("seed=1", "schedule=step", "hydra.output_subdir=null")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(cfg)
    keep = KeepOptions(composed("seed=1", "schedule=step"), directory)
    trainer = quiet_trainer(keep)
    assert {path: path.read_text() for path in record.iterdir()} == before
    assert read_result(directory / GIVEN)["overrides"] == ["seed=1", "schedule=triangular"]
    for batch in (0, 1):
        keep.on_train_batch_end(trainer, None, None, None, batch)
    assert list(OmegaConf.load(record / "overrides.yaml")) == ["seed=1", "schedule=step"]
    assert "step_decay" in OmegaConf.load(record / "config.yaml").schedule._target_
    assert OmegaConf.load(record / "hydra.yaml").hydra.runtime.choices.schedule == "step"
    assert sorted(record.iterdir()) == sorted(before)
    assert read_result(directory / GIVEN)["overrides"] == ["seed=1", "schedule=step"]
