"""Private names of Lightning, torch, submitit and Python that the package relies on: all of them.

A release may move one without a word. The first test says which. The second keeps the list whole.
"""

import ast
import atexit
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim.lr_scheduler import SequentialLR, StepLR
from torch.utils.data import DataLoader

import lightning_onecycle
from conftest import Tiny, quiet_trainer

PACKAGE = Path(lightning_onecycle.__file__).parent
# Imported, by module.
IMPORTED = {
    "lightning.pytorch.loops.evaluation_loop": ["_EvaluationLoop"],
    "lightning.pytorch.loops.fit_loop": ["_FitLoop"],
    "lightning.pytorch.loops.training_epoch_loop": ["_TrainingEpochLoop"],
    "lightning.pytorch.strategies.launchers": ["_MultiProcessingLauncher"],
    "lightning.pytorch.trainer.connectors.checkpoint_connector": ["_CheckpointConnector"],
    "torch.nn.modules.batchnorm": ["_BatchNorm"],
    "torch.utils._pytree": ["tree_flatten", "tree_unflatten"],
}


def trainer() -> Trainer:
    return quiet_trainer(max_steps=1)


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)


def compiled_function() -> Callable[..., object]:
    return torch.compile(lambda: None, backend="eager")


def compiled_module() -> Tiny:
    module = Tiny()
    torch.compile(module, backend="eager")
    return module


def stepped_by_a_scheduler() -> Callable[..., object]:
    optimizer = sgd()
    StepLR(optimizer, 1)
    return optimizer.step


def chain() -> SequentialLR:
    optimizer = sgd()
    return SequentialLR(optimizer, [StepLR(optimizer, 1), StepLR(optimizer, 1)], milestones=[1])


def submitit_executor() -> object:
    return pytest.importorskip("submitit").AutoExecutor("unused", cluster="debug")


# Read, written or overridden, by an object that has them.
HELD = {
    trainer: [
        "_callback_connector",
        "_checkpoint_connector",
        "_data_connector",
        "_default_root_dir",
        "_logger_connector",
        "_signal_connector",
    ],
    lambda: trainer()._checkpoint_connector: ["_hpc_resume_path"],
    lambda: trainer().strategy: ["_launcher"],
    lambda: trainer().fit_loop: ["_can_stop_early", "_combined_loader", "_data_source"],
    lambda: trainer().fit_loop.epoch_loop: [
        "_batches_that_stepped",
        "_num_ready_batches_reached",
        "_should_check_val_fx",
    ],
    lambda: trainer().validate_loop: ["_data_source"],
    Tiny: ["_trainer"],
    lambda: nn.Linear(1, 1): [
        "_backward_hooks",
        "_backward_pre_hooks",
        "_buffers",
        "_forward_hooks",
        "_forward_pre_hooks",
        "_modules",
        "_parameters",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
    ],
    lambda: nn.Linear(1, 1).weight: ["_backward_hooks", "_version"],
    lambda: torch.compile(nn.Linear(1, 1), backend="eager"): ["_orig_mod"],
    compiled_module: ["_compiler_ctx"],
    compiled_function: ["_torchdynamo_orig_callable"],
    lambda: DataLoader([0]): ["_iterator"],
    sgd: [
        "_optimizer_load_state_dict_post_hooks",
        "_optimizer_load_state_dict_pre_hooks",
        "_optimizer_state_dict_post_hooks",
        "_optimizer_state_dict_pre_hooks",
        "_optimizer_step_post_hooks",
        "_optimizer_step_pre_hooks",
    ],
    stepped_by_a_scheduler: ["_wrapped_by_lr_sched"],
    lambda: StepLR(sgd(), 1): ["_last_lr", "_step_count"],
    chain: ["_schedulers"],
    submitit_executor: ["_executor"],
    lambda: atexit: ["_clear", "_run_exitfuncs"],
}
# Private in looks alone: namedtuple's and Hydra's documented names, and parts of other names.
PUBLIC = {"_asdict", "_replace", "_target_", "_dataloaders", "_epoch", "_step"}


@pytest.mark.parametrize(
    ("holder", "name"),
    [
        *(
            (lambda module=module: import_module(module), n)
            for module in IMPORTED
            for n in IMPORTED[module]
        ),
        *((holder, name) for holder, names in HELD.items() for name in names),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_private_name_is_where_the_package_looks_for_it(holder, name):
    assert hasattr(holder(), name)


def is_private(name: str) -> bool:
    return (
        name.startswith("_")
        and name.isidentifier()
        and name.strip("_") != ""
        and (not name.startswith("__"))
    )


def own_names(tree: ast.AST) -> set[str]:
    """Return the private names that a file defines: functions, classes, variables, on ``self``."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.alias(asname=str(name)):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def used_names(tree: ast.AST) -> set[str]:
    """Return the private names that a file reads as attributes, imports, or has as strings."""
    names, parts_of_names = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                names.add(name)
            case ast.JoinedStr(values=parts):
                parts_of_names |= {part.value for part in parts if isinstance(part, ast.Constant)}
            case ast.ImportFrom(module=str(module)) if not module.startswith("lightning_onecycle"):
                names |= {alias.name for alias in node.names}
    return set(filter(is_private, names - parts_of_names))


def test_every_private_name_of_others_is_in_the_list():
    trees = [ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))]
    listed = {name for names in (*IMPORTED.values(), *HELD.values()) for name in names}
    own = set().union(*map(own_names, trees))
    used = set().union(*map(used_names, trees))
    assert used - own - listed <= PUBLIC
