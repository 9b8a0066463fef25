"""Training that is spread over two processes: weights, gradients or optimizer state in parts."""

import pytest
from torch.distributed import fsdp

from conftest import expected, two_processes
from lightning_onecycle import one_cycle

pytestmark = pytest.mark.slow
SCRIPT = """
import json, os
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch.distributed import fsdp
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.utils.data import DataLoader
from lightning_onecycle import LRFinder, OneCycle, Tuner


class Module(LightningModule):
    # What the optimizer had at each step, and the loss.

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(*self.layers())
        self.used, self.losses = [], []

    def layers(self):
        return torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)

    def training_step(self, x, batch_idx):
        # The same on each rank and at each position, so that a resumed run has the data it needs.
        angles = torch.arange(32.0).reshape(8, 4) + self.trainer.global_step
        loss = (self.net(angles.sin()) - angles.cos().sum(1, keepdim=True)).square().mean()
        self.losses.append(loss.item())
        return loss

    def on_before_optimizer_step(self, optimizer):
        inner = getattr(optimizer, "optim", optimizer)  # what ZeRO steps
        group = inner.param_groups[0]
        self.used.append([group["lr"], group["betas"][0]])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=2.0)


class Sharded(Module):
    def configure_model(self):
        if not any(hasattr(parameter, "to_local") for parameter in self.parameters()):
            for module in (self.net[0], self.net[2], self.net):
                fsdp.fully_shard(module, mesh=self.device_mesh["data_parallel"])


class Zero(Module):
    def configure_optimizers(self):
        return ZeroRedundancyOptimizer(
            self.parameters(), torch.optim.AdamW, lr=0.05, weight_decay=2.0
        )


class OnCPU(FSDPStrategy):
    # Lightning and torch want a GPU for it, and need none.

    def _setup_model(self, model):
        own = fsdp.FullyShardedDataParallel.__init__

        def init(self, *args, **kwargs):
            own(self, *args, **{**kwargs, "device_id": torch.device("cpu")})

        fsdp.FullyShardedDataParallel.__init__ = init
        try:
            return super()._setup_model(model)
        finally:
            fsdp.FullyShardedDataParallel.__init__ = own


CASES = {
    "FSDPStrategy": (Module, lambda: OnCPU(state_dict_type="sharded")),
    "ZeroRedundancyOptimizer": (Zero, lambda: "ddp"),
}
if hasattr(fsdp, "fully_shard"):
    CASES["ModelParallelStrategy"] = (Sharded, lambda: ModelParallelStrategy(2, 1))
OPTIONS = {"min_lr": 1e-4, "max_lr": 0.1, "num_training": 6, "early_stop_threshold": None}


def trainer_for(strategy, *callbacks):
    return Trainer(accelerator="cpu", devices=2, strategy=strategy(), max_epochs=1, logger=False,
                   enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
                   enable_progress_bar=False, enable_model_summary=False,
                   callbacks=[*callbacks, OneCycle()])


def error_of(function):
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def train(make, strategy, *callbacks, test=False, test_again=False, ckpt_path=None):
    seed_everything(1, verbose=False)
    data = DataLoader(torch.zeros(24, 1), batch_size=1)
    module, trainer, found = make(), trainer_for(strategy, *callbacks), {}
    if test:
        curve = Tuner(trainer).lr_find(module, data, **OPTIONS)
        found["curve"] = [curve.lrs, curve.losses, curve.stopped]
    trainer.fit(module, data, ckpt_path=ckpt_path)
    found |= {"used": module.used, "losses": module.losses, "world": trainer.world_size}
    if test_again:
        found["again"] = error_of(lambda: Tuner(trainer).lr_find(module, data, **OPTIONS))
    return found


def run(make, strategy, folder):
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=5, save_top_k=-1)
    finder = LRFinder(**OPTIONS, method=lambda lrs, losses: 0.05)
    return {
        "whole": train(make, strategy, saving, test_again=True),
        "tested": train(make, strategy, test=True),
        "rest": train(make, strategy, ckpt_path=f"{folder}/step=5.ckpt"),
        "finder": error_of(lambda: train(make, strategy, finder)),
    }


if __name__ == "__main__":
    results = {
        name: run(*case, os.path.join(os.getcwd(), name)) for name, case in CASES.items()
    }
    with open(f"result.{os.environ['LOCAL_RANK']}", "w") as file:
        json.dump(results, file)
"""


CASES = ["FSDPStrategy", "ZeroRedundancyOptimizer"]
if hasattr(fsdp, "fully_shard"):
    CASES.append("ModelParallelStrategy")
TAKEN_APART = ["FSDPStrategy", "ModelParallelStrategy"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Run the script, and return the results of both ranks."""
    return two_processes(tmp_path_factory.mktemp("ddp"), SCRIPT)


@pytest.mark.parametrize("case", CASES)
def test_each_rank_has_the_values_of_the_schedule(ranks, case):
    plan = [list(pair) for pair in expected(one_cycle(), 12, peak=0.05)]
    for of_rank in ranks:
        assert of_rank[case]["whole"]["used"] == plan
        assert of_rank[case]["whole"]["world"] == 2


@pytest.mark.parametrize("case", CASES)
def test_resuming_goes_on_as_if_nothing_had_been(ranks, case):
    # Also where loading a checkpoint has the optimizer take a step to make its state.
    for of_rank in ranks:
        whole, rest = of_rank[case]["whole"], of_rank[case]["rest"]
        assert rest["used"] == whole["used"][5:]
        assert rest["losses"] == whole["losses"][5:]


@pytest.mark.parametrize("case", CASES)
def test_a_range_test_before_the_fit_leaves_it_as_it_is(ranks, case):
    first, second = (of_rank[case] for of_rank in ranks)
    assert first["tested"]["losses"] == first["whole"]["losses"]
    lrs, losses, stopped = first["tested"]["curve"]
    assert second["tested"]["curve"] == [lrs, losses, stopped]
    assert lrs == pytest.approx([1e-4 * 10 ** (0.6 * step) for step in range(6)])
    assert (len(set(losses)), stopped) == (6, "range completed")


@pytest.mark.parametrize("case", CASES)
def test_a_range_test_of_what_has_been_taken_apart_is_refused(ranks, case):
    for of_rank in ranks:
        again, finder = of_rank[case]["whole"]["again"], of_rank[case]["finder"]
        if case in TAKEN_APART:
            assert again.startswith("MisconfigurationException: lr_find cannot copy a module that")
            assert finder.startswith("MisconfigurationException: LRFinder cannot copy a module")
        else:
            assert (again, finder) == ("", "")
