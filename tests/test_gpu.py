"""What a GPU is needed for. `.ci/gpu` runs it; the CPU stands in where there is none, if it can."""

import gc
import json
import math
import os
import shutil
import statistics
import subprocess
import sysconfig
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

import test_measurement
from conftest import Used, expected, python, quiet_trainer, snapshot
from experiments.models import ResNet
from forks import run
from lightning_onecycle import LRFinder, OneCycle, ScheduleLR, Tuner, one_cycle
from test_callback import laid_over
from test_optimizers import (
    EVERY,
    MOVING,
    STEPS,
    Problem,
    arguments_of,
    check_as_if_by_hand,
    check_compiled_once,
    rprop_is_told,
    what_moves_in_tensors,
    written_by_hand,
)

ROOT = Path(__file__).parents[1]
CUDA = torch.cuda.is_available()
DEVICE, ACCELERATOR = ("cuda", "gpu") if CUDA else ("cpu", "cpu")
PROCESSES = torch.cuda.device_count() if CUDA else 2
EACH = f"{PROCESSES} x {'GPU' if CUDA else 'CPU'}"


def needs_gpu(why):
    return pytest.mark.skipif(not CUDA, reason=f"needs a GPU: {why}")


sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
adamw = partial(torch.optim.AdamW, lr=0.05)
MAKE = {
    "SGD": sgd,
    "SGD foreach": partial(sgd, foreach=True),
    "SGD fused": partial(sgd, fused=True),
    "AdamW": adamw,
    "AdamW foreach": partial(adamw, foreach=True),
    "AdamW fused": partial(adamw, fused=True),
}
every_kernel = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


# ---- the kernels of an optimizer ----------------------------------------------------------------


@pytest.mark.parametrize("flag", ["foreach", "fused"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_kernel_is_scheduled_as_if_by_hand(name, flag):
    check_as_if_by_hand(EVERY[name], device=DEVICE, **{flag: True})


capturable = needs_gpu("capturable=True has no other device")


@capturable
@rprop_is_told
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable=True")
@pytest.mark.parametrize(
    "name", [name for name, kind in EVERY.items() if "capturable" in arguments_of(kind)]
)
def test_a_capturable_one_is_scheduled_as_if_by_hand(name):
    check_as_if_by_hand(EVERY[name], device=DEVICE, capturable=True)


@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable=True")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"fused": True}),
        ("AdamW", {"fused": True}),
        pytest.param("AdamW", {"capturable": True}, marks=capturable),
        pytest.param("AdamW", {"capturable": True, "fused": True}, marks=capturable),
    ],
    ids=["SGD fused", "AdamW fused", "AdamW capturable", "AdamW fused and capturable"],
)
def test_a_tensor_lr_is_filled_on_its_device(name, options):
    hand = Problem(EVERY[name], DEVICE, **options)
    ours = Problem(EVERY[name], DEVICE, lr=torch.tensor(0.05, device=DEVICE), **options)
    scheduler = ScheduleLR(ours.optimizer, MOVING, STEPS)
    lr = ours.optimizer.param_groups[0]["lr"]
    peak = float(lr.new_tensor(0.05))  # as the 32 bits have it
    plan = torch.tensor([peak * point.lr for point in MOVING.trace(STEPS)]).tolist()
    assert [groups[0][0] for groups in ours.take(STEPS)] == plan
    assert scheduler.last_epoch == STEPS
    assert lr.device.type == DEVICE
    assert ours.optimizer.param_groups[0]["lr"] is lr
    hand.take(STEPS, written_by_hand(hand, MOVING.trace(STEPS)))
    torch.testing.assert_close(ours.weights, hand.weights)


@every_kernel
def test_steps_that_grad_scaler_skips_do_not_count(make):
    weight = nn.Parameter(torch.ones(2, device=DEVICE))
    optimizer, used = make([weight]), []
    scheduler = ScheduleLR(optimizer, one_cycle(), 12)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=8.0)
    for call in range(16):
        skipped = call in (0, 1, 5, 9)
        before, values = weight.detach().clone(), snapshot(optimizer)[0][:2]
        optimizer.zero_grad()
        scaler.scale(weight.sum() * (math.inf if skipped else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weight, before) == skipped
        if not skipped:
            used.append(values)
    assert used == expected(one_cycle(), 12, 0.05)
    assert scheduler.last_epoch == 12


def waits(work):
    """Return how often the work waits for the GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def adamw_with_tensor_lr(parameters):
    return adamw(parameters, lr=torch.tensor(0.05, device=DEVICE), capturable=True)


@needs_gpu("torch counts what waits for CUDA")
@pytest.mark.parametrize(
    "make",
    [*MAKE.values(), adamw_with_tensor_lr],
    ids=[*MAKE, "AdamW capturable, tensor lr"],
)
def test_a_scheduled_step_waits_no_more_than_another(make):
    def of_two_steps(scheduled):
        net, x = nn.Linear(8, 8, device=DEVICE), torch.ones(4, 8, device=DEVICE)
        optimizer = make(net.parameters())
        scheduler = ScheduleLR(optimizer, one_cycle(), 12) if scheduled else None

        def take_two():
            for _ in range(2):
                optimizer.zero_grad()
                net(x).sum().backward()
                optimizer.step()

        take_two()
        found = waits(take_two)
        assert scheduler is None or scheduler.last_epoch == 4
        return found

    assert waits(lambda: torch.ones((), device=DEVICE).item()) > 0
    assert of_two_steps(scheduled=True) == of_two_steps(scheduled=False)


# ---- captured and compiled steps ----------------------------------------------------------------


@needs_gpu("CUDA graphs")
@pytest.mark.parametrize(
    "make", [sgd, partial(adamw, capturable=True)], ids=["SGD", "AdamW capturable"]
)
def test_a_captured_step_is_refused_and_the_schedule_goes_on(make):
    weight = nn.Parameter(torch.ones(2, device=DEVICE))
    weight.grad = torch.ones_like(weight)
    optimizer = make([weight])
    scheduler = ScheduleLR(optimizer, one_cycle(), 12)
    optimizer.step()
    torch.cuda.synchronize()
    name = type(optimizer).__name__
    with (
        pytest.raises(RuntimeError, match=f"CUDA graph that has captured {name}.step is replayed"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        optimizer.step()
    optimizer.step()
    assert scheduler.last_epoch == 2


@needs_gpu("CUDA graphs")
def test_captured_forward_and_backward_are_scheduled():
    x = torch.ones(4, 8, device=DEVICE)
    net = nn.Linear(8, 8, device=DEVICE)
    graphed = torch.cuda.make_graphed_callables(net, (x,))
    optimizer, used = sgd(net.parameters()), []
    ScheduleLR(optimizer, one_cycle(), 12)
    for _ in range(12):
        used.append(snapshot(optimizer)[0][:2])
        optimizer.zero_grad()
        graphed(x).square().mean().backward()
        optimizer.step()
    assert used == expected(one_cycle(), 12, 0.05)


def can_build():
    """Whether Triton can build what it launches kernels with."""
    compiler = any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang"))))
    return compiler and Path(sysconfig.get_path("include"), "Python.h").is_file()


inductor = [
    needs_gpu("Triton"),
    pytest.mark.skipif(not can_build(), reason="needs a C compiler and Python.h for Triton"),
]


@what_moves_in_tensors
@pytest.mark.parametrize(
    "options",
    [
        {"backend": "aot_eager"},
        pytest.param({"backend": "inductor"}, marks=inductor),
        pytest.param({"backend": "inductor", "mode": "reduce-overhead"}, marks=inductor),
    ],
    ids=lambda options: " ".join(options.values()),
)
def test_what_moves_in_tensors_is_compiled_once(make, reference, cycle_momentum, options):
    check_compiled_once(make, reference, cycle_momentum, device=DEVICE, **options)


# ---- in a trainer -------------------------------------------------------------------------------


class Learner(LightningModule):
    """Dropout draws from the device's generator; batch norm has statistics."""

    def __init__(self, make=sgd, overflows=()):
        super().__init__()
        self.make, self.overflows = make, overflows
        self.net = nn.Sequential(
            nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1)
        )

    def training_step(self, x, batch_idx):
        loss = (self.net(x) - x.mean(1, keepdim=True)).square().mean()
        return loss * (math.inf if self.trainer.global_step in self.overflows else 1.0)

    def configure_optimizers(self):
        return self.make(self.parameters())


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def data(batches=12):
    x = torch.randn(16 * batches, 8, generator=torch.Generator().manual_seed(7))
    return DataLoader(x, batch_size=16, shuffle=True)


def trainer_on_device(*callbacks, **arguments):
    seed_everything(1, verbose=False)
    return quiet_trainer(*callbacks, **({"max_epochs": 1, "accelerator": ACCELERATOR} | arguments))


def scaled():
    """Scaled so little that nothing overflows by itself."""
    return MixedPrecision("16-mixed", DEVICE, torch.amp.GradScaler(DEVICE, init_scale=8.0))


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true"])
@every_kernel
def test_a_fit_has_the_rates_of_the_schedule(make, precision):
    used = Used()
    trainer = trainer_on_device(OneCycle(), used, precision=precision)
    trainer.fit(Learner(make), data())
    assert used.values == expected(one_cycle(), 12, 0.05)
    assert trainer.strategy.root_device.type == DEVICE


@every_kernel
def test_a_fit_in_fp16_counts_the_steps_that_were_taken(make):
    used = Used()
    trainer = trainer_on_device(OneCycle(), used, plugins=[scaled()], max_epochs=2)
    trainer.fit(Learner(make, overflows=(2, 3, 9)), data())
    # The position stays where it is, and the run has one step less from there on.
    plan = laid_over((24, 0, 3), (23, 2, 3), (22, 2, 8), (21, 7, 24), peak=0.05)
    assert used.values == plan


@needs_gpu("torch counts what waits for CUDA")
@pytest.mark.parametrize(
    ("make", "precision", "more"),
    [
        (sgd, "32-true", 0),
        (partial(adamw, fused=True), "bf16-mixed", 0),
        (sgd, "16-mixed", 0),
        # Whether such a step is taken is known to the device alone.
        (partial(sgd, fused=True), "16-mixed", 1),
    ],
    ids=["SGD", "AdamW fused, bf16", "SGD, fp16", "SGD fused, fp16"],
)
def test_a_step_of_a_fit_waits_no_more_than_without_a_schedule(
    make, precision, more, record_property
):
    def of_a_fit(steps, callbacks):
        trainer = trainer_on_device(*callbacks, precision=precision)
        return waits(lambda: trainer.fit(Learner(make), data(steps)))

    def of_a_step(make_callbacks):
        """Without what a fit waits for at its start and end."""
        return (of_a_fit(40, make_callbacks()) - of_a_fit(20, make_callbacks())) / 20

    without, scheduled = of_a_step(list), of_a_step(lambda: [OneCycle()])
    record_property("waits of a step:", f"{scheduled:g}, without a schedule {without:g}")
    assert scheduled - without <= more


@test_measurement.each
def test_a_measurement_leaves_the_training_as_it_is(make):
    def left(*callbacks):
        return test_measurement.run(callbacks, accelerator=ACCELERATOR)

    assert left(make()) == left()


# ---- range tests --------------------------------------------------------------------------------


OPTIONS = {"min_lr": 1e-3, "max_lr": 1.0, "num_training": 10, "early_stop_threshold": None}


def traces(trainer, module):
    """Return all that a range test could leave, as plain values."""
    state = module.state_dict()
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    optimizers = trainer.strategy.optimizers
    return {
        "weights": {name: value.tolist() for name, value in state.items()},
        "devices": {str(value.device) for value in state.values()},
        "gradients": [parameter.grad is None for parameter in module.parameters()],
        "rates": [snapshot(optimizer) for optimizer in optimizers],
        "optimizers": [
            [torch.as_tensor(value).tolist() for value in state.values() if value is not None]
            for optimizer in optimizers
            for state in optimizer.state.values()
        ],
        "scaler": None if scaler is None else scaler.state_dict(),
        "CPU": torch.get_rng_state().tolist(),
        "GPU": torch.cuda.get_rng_state().tolist() if CUDA else None,
    }


def train_twice(make, find, **arguments):
    """Return the losses of a fit and of a second one, with range tests before both if asked for."""
    losses = Losses()
    arguments = {name: value() if callable(value) else value for name, value in arguments.items()}
    trainer, module = trainer_on_device(OneCycle(), losses, **arguments), Learner(make)
    for epochs in (1, 2):
        trainer.fit_loop.max_epochs = epochs
        if find:
            before = traces(trainer, module)
            curve = Tuner(trainer).lr_find(module, data(), **OPTIONS)
            assert curve.lrs == pytest.approx([1e-3 * 10 ** (step / 3) for step in range(10)])
            assert len(set(curve.losses)) == 10
            assert traces(trainer, module) == before
        trainer.fit(module, data())
    return losses.losses


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (sgd, {}),
        (partial(adamw, fused=True), {}),
        (partial(adamw, fused=True), {"precision": "bf16-mixed"}),
        (sgd, {"plugins": lambda: [scaled()]}),
        (partial(sgd, fused=True), {"plugins": lambda: [scaled()]}),
    ],
    ids=["SGD", "AdamW fused", "AdamW fused, bf16", "SGD, fp16", "SGD fused, fp16"],
)
def test_a_range_test_leaves_no_trace(make, arguments):
    without = train_twice(make, find=False, **arguments)
    assert len(without) == 24
    assert train_twice(make, find=False, **arguments) == without, "a run does not repeat itself"
    assert train_twice(make, find=True, **arguments) == without


def test_a_range_test_within_a_fit_leaves_no_trace():
    def losses_of(*callbacks):
        losses = Losses()
        trainer_on_device(*callbacks, losses).fit(Learner(), data())
        return losses.losses

    finder = LRFinder(**OPTIONS, method=lambda lrs, losses: 0.03)
    assert losses_of(finder, OneCycle()) == losses_of(OneCycle(max_lr=0.03))


@needs_gpu("its memory is counted")
def test_a_range_test_gives_its_memory_back(record_property):
    class Large(Learner):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 2048), nn.Linear(2048, 2048), nn.Linear(2048, 1))

    def peak_of(work):
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        gc.collect()
        left = torch.cuda.memory_allocated() - before
        return (torch.cuda.max_memory_allocated() - before) / 2**20, left / 2**20

    def fit():
        trainer_on_device(OneCycle()).fit(Large(), data())

    def find():
        Tuner(trainer_on_device(OneCycle())).lr_find(Large(), data(), **OPTIONS)

    fit()  # what CUDA's libraries keep is there from here on
    (fitting, _), (finding, left) = peak_of(fit), peak_of(find)
    record_property("peak (MiB):", f"range test {finding:.1f}, fit {fitting:.1f}")
    assert finding <= fitting + 1
    assert left <= 1


# ---- several processes --------------------------------------------------------------------------


SCRIPT = """
import json, os, sys
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader
from lightning_onecycle import OneCycle, Tuner

ACCELERATOR, DEVICES, SYNC = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "sync"
losses, rates, kinds = [], [], set()


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, x, batch_idx):
        loss = (self.net(x) - x.mean(1, keepdim=True)).square().mean()
        losses.append(loss.item())
        kinds.update(type(module).__name__ for module in self.net)
        return loss

    def on_before_optimizer_step(self, optimizer):
        group = optimizer.param_groups[0]
        rates.append([group["lr"], group["momentum"]])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def taken(found):
    taken = list(found)
    found.clear()
    return taken


def run():
    seed_everything(1, verbose=False)
    x = torch.randn(DEVICES * 12 * 8, 4)
    data = DataLoader(x, batch_size=8, shuffle=True)
    trainer = Trainer(accelerator=ACCELERATOR, devices=DEVICES, strategy="ddp", max_epochs=1,
                      sync_batchnorm=SYNC, callbacks=OneCycle(), logger=False,
                      enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False)
    module, found = Module(), {}
    options = {"min_lr": 1e-3, "max_lr": 0.1, "num_training": 6, "early_stop_threshold": None}
    curve = Tuner(trainer).lr_find(module, data, **options)
    found["curve"] = [curve.lrs, curve.losses, curve.stopped]
    found["losses"], found["norm"] = taken(losses), type(module.net[1]).__name__
    rates.clear()
    trainer.fit(module, data)
    state = {name: value.tolist() for name, value in module.state_dict().items()}
    return found | {"rates": taken(rates), "fit": taken(losses), "state": state,
                    "kinds": sorted(kinds), "backend": torch.distributed.get_backend()}


if __name__ == "__main__":
    found = run()
    with open(f"result.{os.environ['LOCAL_RANK']}", "w") as file:
        json.dump(found, file)
"""


def launch(folder, processes, sync):
    """Run the script in so many processes, and return what each rank found."""
    arguments = [ACCELERATOR, processes, "sync" if sync else "own"]
    python(folder, SCRIPT, *arguments, anew=CUDA)
    return [json.loads((folder / f"result.{rank}").read_text()) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sync",
    [False, pytest.param(True, marks=needs_gpu("SyncBatchNorm has no CPU version"))],
    ids=["BatchNorm", "SyncBatchNorm"],
)
def test_processes_agree(sync, tmp_path, record_property):
    ranks = launch(tmp_path, PROCESSES, sync)
    first = ranks[0]
    record_property("device", EACH)
    record_property("backend", first["backend"])
    assert first["backend"] == ("nccl" if CUDA else "gloo")
    assert ("SyncBatchNorm" in first["kinds"]) == sync
    assert first["norm"] == "BatchNorm1d"  # after the range test
    lrs, losses, stopped = first["curve"]
    assert lrs == pytest.approx([1e-3 * 10 ** (0.4 * step) for step in range(6)])
    assert (len(set(losses)), stopped) == (6, "range completed")
    # Each rank has data of its own, and the curve has their mean.
    means = [statistics.mean(step) for step in zip(*(r["losses"] for r in ranks), strict=True)]
    assert losses == pytest.approx(means, rel=1e-5)
    plan = [list(pair) for pair in expected(one_cycle(), 12, 0.05)]
    for rank in ranks:
        assert rank["rates"] == plan
        assert rank["curve"] == first["curve"]
        trained = {k: v for k, v in rank["state"].items() if sync or "running" not in k}
        assert trained.items() <= first["state"].items()
    if PROCESSES > 1:
        assert ranks[1]["losses"] != first["losses"]


ONE = "trainer=gpu" if CUDA else "trainer=cpu"
ALL = f"trainer={'ddp' if CUDA else 'ddp_cpu'} trainer.devices={PROCESSES}"


def train_py(*options):
    code, output = run(*options, "trainer.enable_progress_bar=false", anew=CUDA)
    assert code == 0, output


def result_of(folder, *options):
    """Return the result of a run in a folder, which completes."""
    train_py(f"hydra.run.dir={folder}", *options)
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "completed"
    assert math.isfinite(result["metrics"]["test/acc"])
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        f"{ONE} callbacks=measure lr_find=then_fit",
        pytest.param(f"{ONE} trainer.precision=16-mixed", marks=needs_gpu("a dry run is short")),
    ],
)
def test_train_py_completes_and_goes_on(options, tmp_path, record_property):
    first = result_of(tmp_path, *options.split(), "trainer.max_epochs=2")
    record_property("steps/s", f"{first['steps_per_second']:.0f}")
    # The states of the generators are in the checkpoint, the GPU's too.
    more = result_of(tmp_path, f"resume={tmp_path}", "trainer.max_epochs=3")
    assert more["steps"] == first["steps"] * 3 / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(ALL, marks=needs_gpu("test_torchrun.py has two processes of the CPU")),
        pytest.param(
            f"{ALL} trainer.sync_batchnorm=true model=resnet8",
            marks=needs_gpu("SyncBatchNorm has no CPU version"),
        ),
    ],
)
def test_train_py_completes_on_all_devices(options, tmp_path, record_property):
    result = result_of(tmp_path, *options.split(), "trainer.max_epochs=2")
    assert result["world_size"] == PROCESSES
    record_property("device", EACH)
    record_property("steps/s", f"{result['steps_per_second']:.0f}")


@pytest.mark.slow
def test_a_sweep_on_one_device_completes(tmp_path):
    # Each job is a fork, and must be the first to use the GPU.
    train_py("-m", ONE, "seed=0,1", "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}")
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")]
    assert [result["status"] for result in results] == ["completed"] * 2


# ---- what it costs ------------------------------------------------------------------------------


class Meter(Callback):
    """Time from the first batch to the end of the training, and the peak of the GPU's memory."""

    def __init__(self):
        self.began = None
        self.before = torch.cuda.memory_allocated() if CUDA else 0
        if CUDA:
            torch.cuda.reset_peak_memory_stats()

    def now(self):
        if CUDA:
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_batch_start(self, *_):
        self.began = self.began or self.now()

    def on_train_end(self, *_):
        self.seconds = self.now() - self.began
        peak = torch.cuda.max_memory_allocated() - self.before if CUDA else 0
        self.peak = peak / 2**20


class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = ResNet((1, 28, 28), 10, blocks=(2, 2, 2))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self):
        return sgd(self.parameters())


def bare_loop(batches, make_scheduler):
    module = Classifier().to(DEVICE)
    optimizer, meter = module.configure_optimizers(), Meter()
    scheduler = make_scheduler(optimizer, len(batches))
    meter.on_train_batch_start()
    for index, batch in enumerate(batches):
        loss = module.training_step(batch, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    meter.on_train_end()
    return meter


def lightning_loop(batches, *callbacks):
    meter, module = Meter(), Classifier()
    trainer_on_device(*callbacks, meter).fit(module, batches)
    return meter


LOOPS = {
    "bare loop, OneCycleLR": partial(
        bare_loop, make_scheduler=lambda o, steps: OneCycleLR(o, 0.05, total_steps=steps + 1)
    ),
    "bare loop, ScheduleLR": partial(
        bare_loop, make_scheduler=lambda o, steps: ScheduleLR(o, one_cycle(), steps)
    ),
    "Trainer, no schedule": lightning_loop,
    "Trainer, OneCycle": lambda batches: lightning_loop(batches, OneCycle()),
}


def test_speed_and_memory_beside_a_bare_loop(record_property):
    steps, rounds, size = (300, 5, 128) if CUDA else (3, 1, 8)
    images = torch.randn(size, 1, 28, 28, device=DEVICE)
    labels = torch.arange(size, device=DEVICE) % 10
    batches = DataLoader([(images, labels)] * steps, batch_size=None)
    found = {name: [] for name in LOOPS}
    for turn in range(rounds + 1):  # the first does not count
        for name, loop in LOOPS.items():
            gc.collect()
            meter = loop(batches)
            if turn:
                found[name].append(meter)
    bare = found["bare loop, OneCycleLR"]
    for name, meters in found.items():
        pace = statistics.median(steps / meter.seconds for meter in meters)
        ratio = statistics.median(b.seconds / m.seconds for b, m in zip(bare, meters, strict=True))
        peak = max(meter.peak for meter in meters)
        memory = f", peak {peak:.1f} MiB" if CUDA else ""
        record_property(f"{name}:", f"{pace:.1f} steps/s, {ratio:.2f} of bare{memory}")
    if CUDA:
        peaks = {name: max(meter.peak for meter in meters) for name, meters in found.items()}
        assert peaks["Trainer, OneCycle"] <= peaks["Trainer, no schedule"] + 1


# ---- what travels -------------------------------------------------------------------------------


def test_the_tree_that_travels_is_small(record_property):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no clone")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    size = sum(path.stat().st_size for path in paths if path.is_file()) / 1e6
    record_property("size", f"{size:.1f} MB")
    assert size < 60
