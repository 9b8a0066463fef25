"""The batch size over a run: what each step gets, how many steps there are, and their rates."""

from itertools import chain
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, seed_everything
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

from conftest import Tiny, Used, expected, quiet_trainer, two_processes
from experiments.data import Digits
from lightning_onecycle import BatchSizeSchedule, OneCycle, Tuner, one_cycle, scale_lr

SAMPLES = 24
GROWS = [(0, 2), (0.5, 6)]  # of 24 samples in 4 epochs: 12, 12, 4 and 4 steps


# ---- the schedule -------------------------------------------------------------------------------


def test_the_last_milestone_that_was_reached_counts():
    schedule = BatchSizeSchedule([(0, 64), (0.25, 128), (0.75, 32)])
    fractions = (0.0, 0.2499, 0.25, 0.5, 0.75, 1.0)
    assert [schedule.size_at(f) for f in fractions] == [64, 64, 128, 128, 32, 32]


def test_a_function_of_the_fraction():
    schedule = BatchSizeSchedule(lambda fraction: 32 * 2 ** int(4 * fraction))
    assert [schedule.size_at(f) for f in (0.0, 0.3, 0.5, 1.0)] == [32, 64, 128, 512]
    with pytest.raises(ValueError, match=r"sizes\(0.5\) must be a whole number >= 1, got 1.5"):
        BatchSizeSchedule(lambda fraction: 1 + fraction).size_at(0.5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([], r"sizes must be at fractions that rise from 0, got \[\]"),
        ([(0.1, 8)], r"sizes must be at fractions that rise from 0, got \[0.1\]"),
        ([(0, 8), (0.5, 16), (0.5, 32)], r"that rise from 0, got \[0.0, 0.5, 0.5\]"),
        ([(0, 8), (1.5, 16)], r"sizes\[1\]\[0\] must be in \[0, 1\], got 1.5"),
        ([(0, 8), (0.5, 0)], r"sizes\[1\]\[1\] must be a whole number >= 1, got 0"),
        ([64, 128], r"sizes\[0\] must be a fraction and a batch size, got 64"),
        (["64"], r"sizes\[0\] must be a fraction and a batch size, got '64'"),
    ],
)
def test_bad_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        BatchSizeSchedule(sizes)


@pytest.mark.parametrize("rule", ["linear", "sqrt"])
def test_rates_scale_with_the_batch(rule):
    assert scale_lr(0.1, 8192, 256, rule) == pytest.approx(
        3.2 if rule == "linear" else 0.1 * 32**0.5
    )


# ---- in a trainer -------------------------------------------------------------------------------


class Sized(Tiny):
    """Remembers how many samples each batch had, and which."""

    def __init__(self):
        super().__init__()
        self.sizes, self.samples = [], []

    def training_step(self, batch, batch_idx):
        x = batch[0]
        self.sizes.append(len(x))
        self.samples.append(sorted(x.flatten().tolist()))
        return self.loss()


def data():
    return TensorDataset(torch.arange(float(SAMPLES)))


class OfAttribute(LightningDataModule):
    def __init__(self, batch_size=1):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(data(), batch_size=self.batch_size, shuffle=True)


class OfHparams(LightningDataModule):
    def __init__(self, batch_size=1):
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        return DataLoader(data(), batch_size=self.hparams.batch_size)


class OfProperty(OfAttribute):
    """With both, and the attribute under another name."""

    def __init__(self, batch_size=1):
        super().__init__()
        self.save_hyperparameters()
        self.per_device = batch_size

    def train_dataloader(self):
        return DataLoader(data(), batch_size=self.per_device)


class OfModule(Sized):
    def __init__(self):
        super().__init__()
        self.batch_size = 1

    def train_dataloader(self):
        return DataLoader(data(), batch_size=self.batch_size)


def batch_sampler():
    return BatchSampler(RandomSampler(data()), batch_size=3, drop_last=False)


PLAIN = {
    "shuffled": lambda: DataLoader(data(), shuffle=True),
    "in order": lambda: DataLoader(data(), batch_size=5),
    "batch sampler": lambda: DataLoader(data(), batch_sampler=batch_sampler()),
    "workers": lambda: DataLoader(data(), num_workers=1, persistent_workers=True),
    "attribute": OfAttribute,
    "hparams": OfHparams,
}


def fit(sizes, given=None, *callbacks, module=None, ckpt_path=None, **arguments):
    """Train with 1cycle, and return the module, with its sizes, and the `Used`."""
    module = Sized() if module is None else module
    used = Used()
    schedule = sizes if isinstance(sizes, BatchSizeSchedule) else BatchSizeSchedule(sizes)
    arguments = {"max_epochs": 4} | arguments
    trainer = quiet_trainer(schedule, OneCycle(), *callbacks, used, **arguments)
    trainer.fit(module, given, ckpt_path=ckpt_path)
    return module, used


def sizes_of(batches):
    """[(2, 3), (8, 1)] -> [2, 2, 2, 8]"""
    return [size for size, times in batches for _ in range(times)]


@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
def test_sizes_steps_and_rates(make):
    module, used = fit(GROWS, make())
    assert module.sizes == sizes_of([(2, 24), (6, 8)])
    # One cycle over all 32 steps, known from the first on: its peak is that of an even plan.
    assert used.values == expected(one_cycle(), 32)
    # Every epoch goes over all of the data.
    for first, last in ((0, 12), (12, 24), (24, 28), (28, 32)):
        assert sorted(chain(*module.samples[first:last])) == list(range(SAMPLES))


def test_the_module_that_makes_the_loader():
    module, used = fit(GROWS, module=OfModule())
    assert module.sizes == sizes_of([(2, 24), (6, 8)])
    assert used.values == expected(one_cycle(), 32)
    assert module.batch_size == 1


def test_an_attribute_of_another_name():
    given = OfProperty(batch_size=3)
    module, _ = fit(BatchSizeSchedule(GROWS, attribute="per_device"), given)
    assert module.sizes == sizes_of([(2, 24), (6, 8)])
    assert (given.per_device, given.batch_size, given.hparams.batch_size) == (3, 1, 3)


@pytest.mark.parametrize(
    ("sizes", "arguments", "seen", "total"),
    [
        ([(0, 6), (0.25, 3), (0.75, 12)], {}, [(6, 4), (3, 16), (12, 2)], 22),
        ([(0, 4)], {}, [(4, 24)], 24),
        (lambda fraction: 2 + int(4 * fraction), {"max_epochs": 3}, [(2, 12), (3, 8), (4, 6)], 26),
        (GROWS, {"accumulate_grad_batches": 5}, [(2, 24), (6, 8)], 3 + 3 + 1 + 1),
        (GROWS, {"limit_train_batches": 5}, [(2, 10), (6, 8)], 18),
        (GROWS, {"limit_train_batches": 0.5}, [(2, 12), (6, 4)], 16),
        (GROWS, {"overfit_batches": 3}, [(2, 6), (6, 6)], 12),
        (GROWS, {"max_epochs": -1, "max_steps": 20}, [(2, 12), (6, 8)], 20),
        (GROWS, {"max_epochs": None, "max_steps": 25}, [(2, 24), (6, 1)], 25),
        (GROWS, {"max_epochs": 4, "max_steps": 30}, [(2, 24), (6, 6)], 30),
        (GROWS, {"max_epochs": 1}, [(2, 12)], 12),
    ],
    ids=lambda value: "function" if callable(value) else str(value),
)
def test_length_of_the_run(sizes, arguments, seen, total):
    module, used = fit(sizes, DataLoader(data(), shuffle=True), **arguments)
    assert module.sizes == sizes_of(seen)
    assert used.values == expected(one_cycle(), total)


def test_steps_end_a_run_that_epochs_would_not():
    """A fraction is of the run as it will be: half of 20 steps is reached in the second epoch."""
    module, used = fit(GROWS, DataLoader(data()), max_epochs=100, max_steps=20)
    assert module.sizes == sizes_of([(2, 12), (6, 8)])
    assert used.values == expected(one_cycle(), 20)


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_last_batch_that_is_not_full(drop_last):
    given = DataLoader(data(), batch_size=1, drop_last=drop_last)
    module, used = fit([(0, 5), (0.5, 9)], given)
    ends = ([], []) if drop_last else ([(4, 1)], [(6, 1)])
    assert module.sizes == sizes_of(([(5, 4), *ends[0]] * 2) + ([(9, 2), *ends[1]] * 2))
    assert used.values == expected(one_cycle(), 12 if drop_last else 16)


def test_with_an_accumulation_that_changes_too():
    module, used = fit(
        GROWS, DataLoader(data()), GradientAccumulationScheduler({0: 4, 1: 3, 2: 2, 3: 1})
    )
    assert module.sizes == sizes_of([(2, 24), (6, 8)])
    assert used.values == expected(one_cycle(), 3 + 4 + 2 + 4)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(float(i),) for i in range(SAMPLES)])


def test_a_stream_has_its_sizes_too():
    module, used = fit(GROWS, DataLoader(Stream()), max_epochs=-1, max_steps=20)
    assert module.sizes == sizes_of([(2, 12), (6, 8)])
    assert used.values == expected(one_cycle(), 20)


def test_a_constant_schedule_changes_nothing():
    """Not the order either: no loader is made that would not be."""
    runs = []
    for sizes in ([(0, 4)], None):
        seed_everything(3, verbose=False)
        module = Sized()
        callbacks = [] if sizes is None else [BatchSizeSchedule(sizes)]
        given = DataLoader(data(), batch_size=4, shuffle=True)
        quiet_trainer(*callbacks, max_epochs=3).fit(module, given)
        runs.append(module.samples)
    assert runs[0] == runs[1]


def test_the_loaders_of_a_validation_stay():
    class Validates(Sized):
        def __init__(self):
            super().__init__()
            self.validated = []

        def validation_step(self, batch, batch_idx):
            self.validated.append(len(batch[0]))

    module = Validates()
    trainer = quiet_trainer(BatchSizeSchedule(GROWS), max_epochs=4, num_sanity_val_steps=0)
    trainer.fit(module, DataLoader(data()), DataLoader(data(), batch_size=8))
    assert module.validated == [8] * 12
    assert module.sizes == sizes_of([(2, 24), (6, 8)])


def test_loaders_that_lightning_reloads_anyway():
    module, used = fit(GROWS, OfAttribute(), reload_dataloaders_every_n_epochs=1)
    assert module.sizes == sizes_of([(2, 24), (6, 8)])
    assert used.values == expected(one_cycle(), 32)
    assert used.trainer.reload_dataloaders_every_n_epochs == 1


def test_where_the_length_of_the_run_was_asked_for_before():
    class Asks(Sized):
        def configure_optimizers(self):
            assert self.trainer.estimated_stepping_batches > 0
            return super().configure_optimizers()

    module, used = fit(GROWS, OfAttribute(), module=Asks())
    assert module.sizes == sizes_of([(2, 24), (6, 8)])
    assert used.values == expected(one_cycle(), 32)


def test_changes_are_told_and_logged(told, tmp_path):
    logger = CSVLogger(tmp_path, version="")
    fit(GROWS, DataLoader(data()), logger=logger)
    logger.save()
    lines = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    sizes = {int(row["step"]): float(row["batch_size"]) for row in rows if row["batch_size"]}
    assert sizes == {0: 2, 12: 2, 24: 6, 28: 6}


# ---- what is left -------------------------------------------------------------------------------


class Fails(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 2:
            raise RuntimeError("on purpose")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("make", [OfAttribute, lambda size: DataLoader(data(), batch_size=size)])
def test_sizes_are_put_back(make, fails):
    given = make(5)
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            fit(GROWS, given, Fails())
    else:
        _, used = fit(GROWS, given)
        assert used.trainer.reload_dataloaders_every_n_epochs == 0
    assert given.batch_size == 5
    loader = given if isinstance(given, DataLoader) else given.train_dataloader()
    assert loader.batch_sampler.batch_size == 5
    assert len(loader) == 5


def test_a_second_fit_goes_on_and_a_new_trainer_begins_anew():
    schedule, module = BatchSizeSchedule(GROWS), Sized()
    trainer = quiet_trainer(schedule, max_epochs=4)
    trainer.fit(module, DataLoader(data()))
    trainer.fit_loop.max_epochs = 8  # its epochs 4 to 7 are the second half
    trainer.fit(module, DataLoader(data()))
    assert module.sizes == sizes_of([(2, 24), (6, 8), (6, 16)])
    again = Sized()
    quiet_trainer(schedule, max_epochs=4).fit(again, DataLoader(data()))
    assert again.sizes == sizes_of([(2, 24), (6, 8)])


def test_a_range_test_leaves_it_as_it_was():
    given, module = OfAttribute(5), Sized()
    trainer = quiet_trainer(BatchSizeSchedule(GROWS), OneCycle(), max_epochs=4)
    curve = Tuner(trainer).lr_find(module, given, min_lr=1e-4, max_lr=0.1, num_training=20)
    assert curve.conditions.batch_size == 2  # that of the first epoch
    assert given.batch_size == 5
    trainer.fit(module, given)
    assert module.sizes == sizes_of([(2, 24), (6, 8)])


# ---- resuming -----------------------------------------------------------------------------------


def digits(batch_size=64):
    return Digits(batch_size=batch_size, num_val=300, shape=[1, 8, 8], num_classes=10)


SCHEDULE = [(0, 100), (0.3, 200), (0.6, 400)]  # of 1,197 images: 11, 5 and 2 steps


class Images(Sized):
    def training_step(self, batch, batch_idx):
        x, _ = batch
        self.sizes.append(len(x))
        self.samples.append(float(x.sum()))
        return self.loss()


def resumable(folder, sizes=SCHEDULE, ckpt_path=None, **arguments):
    saved = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    ends = ModelCheckpoint(
        folder, "{epoch}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True
    )
    callbacks = () if ckpt_path else (saved, ends)
    return fit(
        sizes,
        digits(),
        *callbacks,
        module=Images(),
        ckpt_path=ckpt_path,
        **({"max_epochs": 3} | arguments),
    )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_in_the_middle_of_an_epoch_and_at_its_end(tmp_path, accumulate):
    whole, used = resumable(tmp_path, accumulate_grad_batches=accumulate)
    assert whole.sizes == sizes_of([(100, 11), (200, 5), (400, 2)])
    total = 18 if accumulate == 1 else 6 + 3 + 1
    assert used.values == expected(one_cycle(), total)
    # Batches before each checkpoint; of the epochs' ends, those of the epochs.
    if accumulate == 1:
        places = {f"step={step}": step for step in (1, 4, 10, 12, 13, 15, 17)}
    else:
        places = {"step=1": 2, "step=5": 10, "step=7": 13, "step=8": 15}
    places |= {"epoch=0": 11, "epoch=1": 16}
    for name, batches in places.items():
        rest, again = resumable(
            tmp_path, ckpt_path=tmp_path / f"{name}.ckpt", accumulate_grad_batches=accumulate
        )
        assert (name, rest.sizes) == (name, whole.sizes[batches:])
        assert rest.samples == whole.samples[batches:]
        assert again.values == used.values[len(used.values) - len(again.values) :]
        assert torch.equal(rest.net.weight, whole.net.weight)


def test_a_finished_run_goes_on_with_more_epochs_under_its_new_plan(tmp_path):
    resumable(tmp_path)
    rest, used = resumable(tmp_path, ckpt_path=tmp_path / "epoch=2.ckpt", max_epochs=6)
    # Its epochs 3 to 5 of 6 begin at a half, two thirds and five sixths.
    assert rest.sizes == sizes_of([(200, 5), (400, 2), (400, 2)])
    assert used.values == expected(one_cycle(), 18 + 9)[18:]


def test_another_schedule_takes_over_at_the_next_epoch(tmp_path):
    resumable(tmp_path)
    rest, _ = resumable(tmp_path, [(0, 300)], ckpt_path=tmp_path / "step=4.ckpt")
    assert rest.sizes == sizes_of([(100, 7), (300, 3), (300, 3)])
    rest, _ = resumable(tmp_path, [(0, 300)], ckpt_path=tmp_path / "epoch=0.ckpt")
    assert rest.sizes == sizes_of([(300, 3), (300, 3)])


def test_state_is_plain_numbers(tmp_path):
    resumable(tmp_path)
    callbacks = torch.load(tmp_path / "step=13.ckpt", weights_only=True)["callbacks"]
    state = callbacks["BatchSizeSchedule"]
    assert state == {"epoch": 1, "step": 11, "size": 200, "begun": True}


# ---- refusals -----------------------------------------------------------------------------------


class Ignores(OfAttribute):
    def train_dataloader(self):
        return DataLoader(data(), batch_size=4)


class Two(OfAttribute):
    def train_dataloader(self):
        return {name: DataLoader(data(), batch_size=self.batch_size) for name in "ab"}


class Without(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(data())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Without, "needs an attribute 'batch_size' of Without, which its train_dataloader reads"),
        (Ignores, "was set to 2, and the training loader is a DataLoader of batch size 4"),
        (Two, "was set to 2, and the training loader is a dict of batch size None"),
        (lambda: DataLoader(data(), batch_size=None), "one training DataLoader with a batch size"),
        (lambda: [[torch.zeros(1)]], "fit was given list"),
    ],
)
def test_a_loader_whose_size_cannot_be_set_is_refused(given, message):
    with pytest.raises(MisconfigurationException, match=message):
        fit(GROWS, given())


def test_a_run_without_an_end_is_refused():
    trainer = quiet_trainer(BatchSizeSchedule(GROWS), max_epochs=-1, max_time="00:00:01:00")
    with pytest.raises(MisconfigurationException, match=r"give Trainer\(max_epochs=...\) or"):
        trainer.fit(Sized(), DataLoader(data()))


def test_a_batch_larger_than_the_data_is_refused_at_the_start():
    with pytest.raises(ValueError, match="got 25 in epoch 2"):
        fit([(0, 4), (0.5, 25)], DataLoader(data(), drop_last=True))


# ---- two processes ------------------------------------------------------------------------------

SCRIPT = """
import json, os
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader
from conftest import Used
from test_batch_size_schedule import GROWS, OfAttribute, Sized, data, digits, Images, SCHEDULE
from lightning_onecycle import BatchSizeSchedule, OneCycle
from lightning.pytorch.callbacks import ModelCheckpoint


def run(sizes, given, module, max_epochs, *callbacks, ckpt_path=None):
    seed_everything(1, verbose=False)
    used = Used()
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=max_epochs,
                      logger=False, enable_progress_bar=False, enable_model_summary=False,
                      enable_checkpointing=bool(callbacks),
                      callbacks=[BatchSizeSchedule(sizes), OneCycle(), used, *callbacks])
    trainer.fit(module, given, ckpt_path=ckpt_path)
    return dict(sizes=module.sizes, samples=module.samples, values=used.values)


if __name__ == "__main__":
    saved = ModelCheckpoint("saved", "{step}", every_n_train_steps=1, save_top_k=-1)
    results = dict(
        loader=run(GROWS, DataLoader(data(), shuffle=True), Sized(), 4),
        module=run(GROWS, OfAttribute(), Sized(), 4),
        whole=run(SCHEDULE, digits(), Images(), 3, saved),
        rest=run(SCHEDULE, digits(), Images(), 3, ckpt_path="saved/step=6.ckpt"),
    )
    with open("result." + os.environ["LOCAL_RANK"], "w") as file:
        json.dump(results, file)
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Run the script, and return the results of both ranks."""
    return two_processes(tmp_path_factory.mktemp("ddp"), SCRIPT)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["loader", "module"])
def test_two_processes(ranks, given):
    """12 samples for each: 6, 6, 2 and 2 steps, one cycle over them, and no sample twice."""
    runs = [of_rank[given] for of_rank in ranks]
    for run in runs:
        assert run["sizes"] == sizes_of([(2, 12), (6, 4)])
        assert [tuple(pair) for pair in run["values"]] == expected(one_cycle(), 16)
    for first, last in ((0, 6), (6, 12), (12, 14), (14, 16)):
        seen = [x for run in runs for batch in run["samples"][first:last] for x in batch]
        assert sorted(seen) == list(range(SAMPLES))


@pytest.mark.slow
def test_two_processes_resumed_in_the_middle(ranks):
    """598 images for each: 5, 2 and 1 steps; after six of them, one of the second epoch is left."""
    for of_rank in ranks:
        whole, rest = of_rank["whole"], of_rank["rest"]
        assert whole["sizes"] == sizes_of([(100, 5), (200, 2), (400, 1)])
        assert rest["sizes"] == [200, 400]
        assert rest["samples"] == whole["samples"][6:]
        assert rest["values"] == whole["values"][6:]
        assert [tuple(pair) for pair in whole["values"]] == expected(one_cycle(), 8)
