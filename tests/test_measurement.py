"""What holds for every measurement: the run is the same with it, wherever it runs."""

import inspect
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from conftest import quiet_trainer, two_processes
from experiments.callbacks import MEASURED
from lightning_onecycle import GradientNoiseScale, OneCycle, Sharpness, Tuner

MAKE = {
    "noise scale": lambda: GradientNoiseScale(every_n_steps=2),
    "sharpness": lambda: Sharpness(every_n_steps=2, subspace=3, num_batches=2, iterations=3),
}
each = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


class Net(LightningModule):
    """Dropout, batch norm, a metric, attributes, random numbers of three kinds, a changed batch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
        )
        self.mean = MeanMetric()
        self.losses = []
        self.calls = 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        x.sub_(0.5)
        noise = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002
        self.calls += 1
        loss = nn.functional.cross_entropy(self.net(x + 0.1 * noise), y) * (1 + self.calls % 3)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.mean.update(loss.detach())
        self.log("mean", self.mean)
        if self.logger is not None:
            self.logger.log_metrics({"own": loss.item()}, step=self.calls)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def samples(n=64):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x.sum(1) > 0).long())


def run(callbacks, logger=False, ckpt_path=None, **arguments):
    """Return all that a run leaves: losses, weights, buffers, gradients, generators."""
    seed_everything(1, verbose=False)
    module = Net()
    loader = DataLoader(samples(), batch_size=8, shuffle=True)
    trainer = quiet_trainer(*callbacks, **({"max_epochs": 2, "logger": logger} | arguments))
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return {
        "losses": module.losses,
        "calls": module.calls,
        "state": {name: value.tolist() for name, value in module.state_dict().items()},
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "random": [random.random(), np.random.rand(), torch.rand(()).item()],  # noqa: NPY002
    }


def overflowing():
    """A scale that overflows at first, so that the first steps are skipped."""
    # From 2^24 over 2^16 to 2^8, far from the edge: parts of a batch overflow before the whole.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, backoff_factor=2.0**-8)
    return [MixedPrecision("16-mixed", "cpu", scaler)]


@each
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"accumulate_grad_batches": 3},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"plugins": overflowing},
        {"gradient_clip_val": 0.1},
    ],
    ids=lambda arguments: " ".join(arguments) or "plain",
)
def test_the_run_is_the_same_with_it_and_without_it(make, arguments):
    def made():
        return {name: value() if callable(value) else value for name, value in arguments.items()}

    callback = make()
    assert run([callback], **made()) == run([], **made())
    assert callback.latest


@each
def test_only_its_own_tags_are_added_to_a_log(make, tmp_path):
    rows = {}
    for name, callbacks in {"with": [make()], "without": []}.items():
        logger = CSVLogger(tmp_path / name, version="")
        run(callbacks, logger, log_every_n_steps=1)
        logger.save()
        lines = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
        names = lines[0].split(",")
        rows[name] = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    own = [{k: v for k, v in row.items() if v and "measure/" not in k} for row in rows["with"]]
    plain = [{k: v for k, v in row.items() if v} for row in rows["without"]]
    # A row of measurements alone has nothing else but its step.
    assert [row for row in own if set(row) - {"step"}] == plain
    assert any("measure/" in tag for tag in rows["with"][0])


@each
def test_tensorboard_has_a_point_for_each_measured_step(make, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    callback = make()
    run([callback], logger, log_every_n_steps=1000, accumulate_grad_batches=2)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("measure/")}
    assert tags >= set(callback.latest)
    ends = [0, 2, 4, 6, 8] if isinstance(callback, Sharpness) else [0, 2, 4, 6]
    for tag in tags:
        steps = [event.step for event in events.Scalars(tag)]
        # Where the noise is all that is seen, there is no point.
        assert set(steps) <= set(ends) if tag == "measure/noise_scale" else steps == ends


def test_the_charts_of_tensorboard_are_of_what_is_measured():
    seed_everything(1, verbose=False)
    callbacks = [GradientNoiseScale(2), Sharpness(2, subspace=2)]
    module = Repeatable()
    loader = DataLoader(samples(), batch_size=64)
    quiet_trainer(*callbacks, max_epochs=2).fit(module, loader)
    measured = {tag for callback in callbacks for tag in callback.latest}
    charts = MEASURED["noise and sharpness"].values()
    shown = {tag.strip("^$") for _, tags in charts for tag in tags}
    assert shown == measured - {"measure/grad_variance", "measure/grad_sq"}


@pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"), reason="torch < 2.6 compiles the copy, too"
)
@each
def test_a_compiled_network_is_measured_uncompiled(make):
    compiled = []

    def counting(graph, inputs):
        compiled.append(graph)
        return graph.forward

    class Compiled(Repeatable):
        def __init__(self):
            super().__init__()
            self.net = torch.compile(self.net, backend=counting)

    callback, plain = make(), make()
    loader = DataLoader(samples(32), batch_size=8)
    for found, module in ((callback, Compiled), (plain, Repeatable)):
        seed_everything(1, verbose=False)
        quiet_trainer(found, max_epochs=2).fit(module(), loader)
    assert len(compiled) == 1
    assert callback.latest == pytest.approx(plain.latest, rel=1e-5)


@each
def test_each_works_with_no_argument(make):
    callback = type(make())()
    run([callback])
    assert callback.latest


def test_the_configuration_adds_both_to_the_default_callbacks():
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        default = set(compose("config").callbacks)
        added = compose("config", ["callbacks=measure"]).callbacks
    assert set(added) == default | {"noise_scale", "sharpness"}
    for name, kind in {"noise_scale": GradientNoiseScale, "sharpness": Sharpness}.items():
        assert isinstance(instantiate(added[name]), kind)
        assert set(added[name]) == {"_target_", *inspect.signature(kind).parameters}


# ---- resuming -----------------------------------------------------------------------------------


class Found(Callback):
    """What has been measured, by optimizer step."""

    def __init__(self, callback):
        self.callback, self.found = callback, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.callback._measured_at >= 0:
            self.found[self.callback._measured_at] = dict(self.callback.latest)


class Repeatable(LightningModule):
    """Its data are the same in every pass, and it draws no random numbers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "make",
    [lambda: GradientNoiseScale(2), lambda: Sharpness(2, iterations=3)],
    ids=["noise scale", "sharpness"],
)
def test_a_resumed_run_measures_what_the_whole_one_does(make, accumulate, tmp_path):
    def train(epochs, ckpt_path=None):
        seed_everything(2, verbose=False)
        callback = make()
        found = Found(callback)
        saved = ModelCheckpoint(tmp_path, "{epoch}", every_n_epochs=1, save_top_k=-1)
        trainer = quiet_trainer(
            callback, found, saved, max_epochs=epochs, accumulate_grad_batches=accumulate
        )
        trainer.fit(Repeatable(), DataLoader(samples(48), batch_size=8), ckpt_path=ckpt_path)
        return found.found

    whole = train(3)
    rest = train(3, ckpt_path=tmp_path / "epoch=0.ckpt")
    first = 6 // accumulate
    assert {step: whole[step] for step in whole if step >= first} == {
        step: rest[step] for step in rest if step >= first
    }
    assert max(rest) > first


def test_state_is_plain_numbers(tmp_path):
    callbacks = [make() for make in MAKE.values()]
    saved = ModelCheckpoint(tmp_path, "last")
    run([*callbacks, saved])
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    for callback in callbacks:
        state = checkpoint[callback.state_key]
        assert state["measured_at"] == 14
        assert all(isinstance(value, (int, float)) for value in state.values())


@each
def test_a_second_fit_begins_anew(make):
    callback = make()
    first = run([callback])
    found = callback.latest
    assert run([callback]) == first
    assert callback.latest == found


# ---- refusals -----------------------------------------------------------------------------------


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class TakesIterator(Net):
    def training_step(self, dataloader_iter):
        pass


@each
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Manual, "needs automatic optimization: it calls the training_step of a copy of Manual"),
        (TakesIterator, "needs a training_step that takes a batch, and TakesIterator's takes"),
    ],
)
def test_a_module_that_cannot_be_measured_is_refused_by_name(make, module, message):
    callback = make()
    trainer = quiet_trainer(callback, max_epochs=1)
    with pytest.raises(MisconfigurationException, match=f"{type(callback).__name__} {message}"):
        trainer.fit(module(), DataLoader(samples(), batch_size=8))


@each
def test_a_strategy_that_shares_out_the_weights_is_refused(make):
    trainer = SimpleNamespace(strategy=object.__new__(FSDPStrategy))
    with pytest.raises(MisconfigurationException, match="one device, or strategy='ddp'; got FSDP"):
        make().on_fit_start(trainer, Net())


def test_sharpness_refuses_weights_in_half_precision():
    trainer = quiet_trainer(Sharpness(), max_epochs=1, precision="bf16-true")
    with pytest.raises(MisconfigurationException, match="precision must be one of 32-true, 64"):
        trainer.fit(Net(), DataLoader(samples(), batch_size=8))


def test_noise_scale_in_half_precision():
    callback = GradientNoiseScale()
    assert run([callback], precision="bf16-true") == run([], precision="bf16-true")
    assert callback.latest["measure/grad_variance"] > 0


def test_an_overflow_is_left_out_and_the_scale_is_taken_out():
    class Still(Repeatable):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    def measured(**arguments):
        seed_everything(1, verbose=False)
        callback = GradientNoiseScale(1, decay=0.0)
        found = Found(callback)
        trainer = quiet_trainer(callback, found, max_epochs=1, **arguments)
        trainer.fit(Still(), DataLoader(samples(320), batch_size=8))
        return found.found

    plain, scaled = measured(), measured(plugins=overflowing())
    fine = {step for step, values in scaled.items() if values}
    assert len(fine) > 10
    assert 0 not in fine
    for step in fine:
        variance = plain[step]["measure/grad_variance"]
        assert scaled[step]["measure/grad_variance"] == pytest.approx(variance, rel=0.02)


@each
def test_in_a_range_test_it_leaves_nothing_either(make):
    def losses(callbacks):
        seed_everything(1, verbose=False)
        module, loader = Net(), DataLoader(samples(), batch_size=8, shuffle=True)
        trainer = quiet_trainer(*callbacks, OneCycle(), max_epochs=2)
        curve = Tuner(trainer).lr_find(module, loader, min_lr=1e-4, max_lr=0.1, num_training=9)
        trainer.fit(module, loader)
        return curve.losses, module.losses

    assert losses([make()]) == losses([])


@each
def test_a_training_step_that_asks_how_far_the_run_is_is_told(make):
    seen = []

    class Asks(Net):
        def training_step(self, batch, batch_idx):
            seen.append((self.trainer.global_step, self.current_epoch))
            return super().training_step(batch, batch_idx)

    loader = DataLoader(samples(), batch_size=8, shuffle=True)  # 8 steps an epoch
    quiet_trainer(make(), max_epochs=2).fit(Asks(), loader)
    assert len(seen) > 16
    assert all(epoch == step // 8 for step, epoch in seen if step < 16)


@each
def test_a_range_test_does_not_measure(make):
    measured = []

    class Counts(type(make())):
        def measure(self, *arguments):
            measured.append(arguments)
            return {}

    trainer = quiet_trainer(Counts(every_n_steps=1), OneCycle(), max_epochs=2)
    module, loader = Net(), DataLoader(samples(), batch_size=8, shuffle=True)
    Tuner(trainer).lr_find(module, loader, min_lr=1e-4, max_lr=0.1, num_training=9)
    assert not measured
    trainer.fit(module, loader)
    assert measured


# ---- two processes ------------------------------------------------------------------------------

SCRIPT = """
import json, os
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader, DistributedSampler
from test_measurement import Found, Net, Repeatable, samples
from lightning_onecycle import GradientNoiseScale, Sharpness


def run(module, callbacks, data):
    seed_everything(1, verbose=False)
    module = module()
    found = [Found(callback) for callback in callbacks]
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False,
                      enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, callbacks=[*callbacks, *found])
    trainer.fit(module, data)
    return [f.found for f in found], [c.latest for c in callbacks], getattr(module, "losses", None)


def both(num_parts):
    return [GradientNoiseScale(2, num_parts=num_parts), Sharpness(2, subspace=3)]


if __name__ == "__main__":
    data = DataLoader(samples(), batch_size=8, shuffle=True)
    _, latest, losses = run(Net, both(4), data)
    _, _, plain = run(Net, [], data)
    # 16 samples at a step, in a fixed order; the last three on each device are a batch too small.
    rank = int(os.environ.get("LOCAL_RANK", 0))
    sampler = DistributedSampler(samples(54), num_replicas=2, rank=rank, shuffle=False)
    ordered = DataLoader(samples(54), batch_size=8, sampler=sampler)
    found, _, _ = run(Repeatable, both(8), ordered)
    results = dict(latest=latest, losses=losses, plain=plain, found=found)
    with open("result." + os.environ["LOCAL_RANK"], "w") as file:
        json.dump(results, file)
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Run the script, and return the results of both ranks."""
    return two_processes(tmp_path_factory.mktemp("ddp"), SCRIPT)


@pytest.mark.slow
def test_two_processes_find_the_same_and_train_as_without(ranks):
    first, second = ranks
    for of_rank in ranks:
        assert of_rank["losses"] == of_rank["plain"]
    assert first["losses"] != second["losses"]
    assert first["latest"] == second["latest"]
    assert all(first["latest"])


@pytest.mark.slow
def test_two_processes_measure_what_one_does_on_all_of_the_batch(ranks):
    """With a part for each sample, and a loss that is a mean, the split does not matter."""
    callbacks = [GradientNoiseScale(2, num_parts=16), Sharpness(2, subspace=3)]
    found = [Found(callback) for callback in callbacks]
    seed_everything(1, verbose=False)
    trainer = quiet_trainer(*callbacks, *found, max_epochs=1)
    trainer.fit(Repeatable(), DataLoader(samples(54), batch_size=16))
    for alone, shared in zip(found, ranks[0]["found"], strict=True):
        assert {int(step) for step in shared} == {0, 2}
        for step, values in shared.items():
            assert values == pytest.approx(alone.found[int(step)], rel=1e-3)
