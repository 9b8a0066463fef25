"""Every optimizer that torch has, the ways it can be built, and what is wrapped around it."""

import inspect
import io
from collections import OrderedDict
from functools import partial
from types import SimpleNamespace

import lightning.pytorch.callbacks
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch._dynamo.utils import counters
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from conftest import Tiny, expected, fit, loader, quiet_trainer, sgd, snapshot
from lightning_onecycle import (
    LRCurve,
    OneCycle,
    Phase,
    Schedule,
    ScheduleLR,
    Tuner,
    constant,
    one_cycle,
)

# A class that torch adds is tested as soon as it is there.
EVERY = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
}
OWN = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
STEPS = 8
# All three move, and none of them stays what it was.
MOVING = Schedule(
    (
        Phase(0.5, (0.1, 1.0), (0.95, 0.85), weight_decay=(0.9, 0.2)),
        Phase(0.5, (1.0, 0.02), (0.85, 0.95), weight_decay=(0.2, 0.6)),
    )
)
every_optimizer = pytest.mark.parametrize("kind", EVERY.values(), ids=EVERY)
rprop_is_told = pytest.mark.filterwarnings("ignore:Rprop reads its learning rate once")


def arguments_of(kind):
    return inspect.signature(kind).parameters


class Problem:
    """Two matrices on their way to 1, and an optimizer with a group for each where it can."""

    def __init__(self, kind, device="cpu", **options):
        leaves = [torch.arange(6.0).reshape(shape) / 10 for shape in ((3, 2), (2, 3))]
        leaves = [leaf.to(device).requires_grad_() for leaf in leaves]
        if options.get("differentiable"):
            leaves = [leaf * 1.0 for leaf in leaves]
        self.weights, self.sparse, self.closures = leaves, kind is torch.optim.SparseAdam, 0
        options = {k: v for k, v in OWN.items() if k in arguments_of(kind)} | options
        other = {"lr": 0.02, **({"weight_decay": 0.3} if "weight_decay" in options else {})}
        groups = [{"params": [weight]} for weight in leaves]
        if kind is torch.optim.LBFGS:  # it takes one group
            groups = [{"params": leaves}]
            options["max_iter"] = 3
        else:
            groups[1].update(other)
        self.optimizer = kind(groups, **options)
        self.own = [(float(g["lr"]), g.get("weight_decay")) for g in self.optimizer.param_groups]

    def closure(self):
        self.closures += 1
        distances = [weight.detach() - 1 for weight in self.weights]
        for weight, distance in zip(self.weights, distances, strict=True):
            weight.grad = distance.to_sparse() if self.sparse else distance
        return sum(distance.square().sum() for distance in distances) / 2

    def take(self, steps, before=lambda: None):
        """Take steps; return what was in the groups during each."""
        used = []
        for _ in range(steps):
            before()
            used.append(snapshot(self.optimizer))
            self.optimizer.step(self.closure)
        return used

    def found(self):
        return [weight.tolist() for weight in self.weights]


def written_by_hand(problem, points):
    """Return what writes the values of one point after another into the groups."""
    points = iter(points)

    def write():
        point = next(points)
        for group, (lr, decay) in zip(problem.optimizer.param_groups, problem.own, strict=True):
            group["lr"] = lr * point.lr
            if decay is not None:
                group["weight_decay"] = decay * point.weight_decay
            if "betas" in group:
                group["betas"] = (point.momentum, *group["betas"][1:])
            elif "momentum" in group:
                group["momentum"] = point.momentum

    return write


def check_as_if_by_hand(kind, **options):
    hand, ours = Problem(kind, **options), Problem(kind, **options)
    scheduler = ScheduleLR(ours.optimizer, MOVING, STEPS)
    used = ours.take(STEPS)
    assert used == hand.take(STEPS, written_by_hand(hand, MOVING.trace(STEPS)))
    assert ours.found() == hand.found()
    assert scheduler.last_epoch == STEPS
    return ours


# ---- each of them -------------------------------------------------------------------------------


def test_the_optimizers_are_found():
    assert set(EVERY) >= {"SGD", "Adam", "AdamW", "RMSprop", "Rprop", "LBFGS", "SparseAdam"}


@rprop_is_told
@every_optimizer
def test_each_is_scheduled_as_if_by_hand(kind, told):
    problem = check_as_if_by_hand(kind)
    # LBFGS evaluates the closure several times in a step.
    assert problem.closures > STEPS if kind is torch.optim.LBFGS else problem.closures == STEPS
    says = []
    if not {"momentum", "betas"} & set(arguments_of(kind)):
        says.append("momentum is not cycled, because it has none")
    if "weight_decay" not in arguments_of(kind):
        says.append("weight decay is not scheduled, because there is none")
    assert told() == [f"The schedule of {kind.__name__}: {what}." for what in says]


@rprop_is_told
@every_optimizer
def test_each_goes_on_from_its_state(kind):
    whole = Problem(kind)
    ScheduleLR(whole.optimizer, MOVING, STEPS)
    used = whole.take(STEPS)

    first = Problem(kind)
    scheduler = ScheduleLR(first.optimizer, MOVING, STEPS)
    first.take(3)
    buffer = io.BytesIO()
    torch.save((first.optimizer.state_dict(), scheduler.state_dict()), buffer)
    buffer.seek(0)
    optimizer_state, scheduler_state = torch.load(buffer, weights_only=True)

    rest = Problem(kind)
    scheduler = ScheduleLR(rest.optimizer, MOVING, STEPS)
    for weight, reached in zip(rest.weights, first.weights, strict=True):
        weight.data.copy_(reached)
    rest.optimizer.load_state_dict(optimizer_state)
    scheduler.load_state_dict(scheduler_state)
    assert rest.take(STEPS - 3) == used[3:]
    assert rest.found() == whole.found()


@rprop_is_told
@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_lr_is_filled_in_place(kind, dtype):
    problem = Problem(kind, lr=torch.tensor(0.05, dtype=dtype))
    group = problem.optimizer.param_groups[0]
    ScheduleLR(problem.optimizer, MOVING, STEPS)
    tensor = group["lr"]
    used = problem.take(STEPS)
    assert [groups[0][0] for groups in used] == pytest.approx(
        [0.05 * point.lr for point in MOVING.trace(STEPS)]
    )
    assert group["lr"] is tensor
    assert float(problem.optimizer.defaults["lr"]) == pytest.approx(0.05)


# capturable=True needs a GPU: tests/test_gpu.py
FLAGS = ("foreach", "fused", "differentiable", "maximize")
FLAGS += ("nesterov", "amsgrad", "centered", "decoupled_weight_decay")
FLAGGED = [(name, flag) for name in EVERY for flag in FLAGS if flag in arguments_of(EVERY[name])]


@rprop_is_told
@pytest.mark.parametrize(("name", "flag"), FLAGGED)
def test_each_way_of_building_it(name, flag):
    problem = check_as_if_by_hand(EVERY[name], **{flag: True})
    assert problem.optimizer.param_groups[0][flag]


class Learner(LightningModule):
    """The problem above as a module: a matrix on its way to 1."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.used = kind, []
        self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(3, 2) / 10)

    def training_step(self, batch, batch_idx):
        sparse = self.kind is torch.optim.SparseAdam
        rows = torch.nn.functional.embedding(torch.arange(3), self.weight, sparse=sparse)
        return (rows - 1).square().sum()

    def configure_optimizers(self):
        options = {k: v for k, v in OWN.items() if k in arguments_of(self.kind)}
        return self.kind([self.weight], **options)

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        self.used.append(snapshot(optimizer)[0])
        super().optimizer_step(epoch, batch_idx, optimizer, closure)


@rprop_is_told
@every_optimizer
def test_each_in_a_range_test_and_a_training(kind, tmp_path):
    module, callback = Learner(kind), OneCycle()
    trainer = quiet_trainer(callback, max_epochs=2)
    options = {"min_lr": 0.001, "max_lr": 0.1, "early_stop_threshold": None}
    curve = Tuner(trainer).lr_find(module, loader(6), num_training=5, **options)
    assert curve.lrs == pytest.approx([0.001, 0.00316228, 0.01, 0.0316228, 0.1])
    assert len(set(curve.losses)) == 5
    assert module.used == []
    curve.save(tmp_path / "curve.json")
    assert LRCurve.load(tmp_path / "curve.json") == curve

    trainer.fit(module, loader(6))
    plan = expected(one_cycle(), 12, peak=0.05)
    if not {"momentum", "betas"} & set(arguments_of(kind)):
        plan = [(lr, None) for lr, _ in plan]
    assert [groups[:2] for groups in module.used] == plan
    assert trainer.global_step == 12


def lr_in_use(kind, schedule):
    """Return how far one weight moves at each step, by the gradient 1."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = kind([weight])
    ScheduleLR(optimizer, schedule, STEPS)
    moves = []
    for _ in range(STEPS):
        before = weight.item()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        moves.append(before - weight.item())
    return moves


def test_asgd_uses_the_lr_of_the_step_before():
    moves = lr_in_use(partial(torch.optim.ASGD, lr=0.05, lambd=0.0), MOVING)
    lrs = [0.05 * point.lr for point in MOVING.trace(STEPS)]
    assert moves == pytest.approx([lrs[0], *lrs[:-1]])


def test_rprop_reads_its_lr_once_and_says_so():
    kind = partial(torch.optim.Rprop, lr=0.05)
    with pytest.warns(UserWarning, match="a schedule has no effect"):
        scheduled = lr_in_use(kind, MOVING)
    with pytest.warns(UserWarning, match="a schedule has no effect"):
        constantly = lr_in_use(partial(kind, lr=0.1 * 0.05), constant())
    assert scheduled == pytest.approx(constantly)


class ThreeBetas(Optimizer):
    """As Adan has them."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.4, "betas": (0.9, 0.92, 0.99)})

    def step(self, closure=None):
        pass


def test_only_the_first_beta_is_momentum():
    optimizer = ThreeBetas([torch.nn.Parameter(torch.ones(1))])
    ScheduleLR(optimizer, MOVING, STEPS)
    for point in MOVING.trace(STEPS):
        assert optimizer.param_groups[0]["betas"] == (point.momentum, 0.92, 0.99)
        optimizer.step()


def test_momentum_that_is_off_is_told_as_such(told):
    for kind in (torch.optim.SGD, torch.optim.RMSprop):
        problem = Problem(kind, momentum=0.0)
        ScheduleLR(problem.optimizer, MOVING, STEPS)
        assert {groups[0][1] for groups in problem.take(STEPS)} == {0.0}
    assert [message.split(": ", 1)[1] for message in told()] == 2 * [
        "momentum is not cycled, because its momentum is 0."
    ]


def test_a_tensor_weight_decay_is_filled_in_place():
    problem = Problem(torch.optim.SGD)
    group, decay = problem.optimizer.param_groups[0], torch.tensor(0.1, dtype=torch.float64)
    group["weight_decay"] = decay
    scheduler = ScheduleLR(problem.optimizer, MOVING, STEPS)
    for point in MOVING.trace(STEPS):
        assert decay.item() == pytest.approx(0.1 * point.weight_decay)
        problem.take(1)
    assert group["weight_decay"] is decay
    assert scheduler.state_dict()["weight_decays"] == [0.1, 0.3]


# ---- who else writes, and who else steps ---------------------------------------------------------


def test_a_scheduler_built_before_has_no_say_in_a_tensor_either(told):
    problem = Problem(torch.optim.SGD, lr=torch.tensor(0.05, dtype=torch.float64))
    problem.optimizer.param_groups[1]["lr"] = torch.tensor(0.02, dtype=torch.float64)
    other = OneCycleLR(problem.optimizer, max_lr=3.0, total_steps=STEPS + 1)
    ScheduleLR(problem.optimizer, MOVING, STEPS, max_lr=[0.05, 0.02])
    used = []
    handle = problem.optimizer.register_step_pre_hook(lambda opt, *_: used.append(snapshot(opt)))
    for _ in range(STEPS):
        problem.optimizer.step(problem.closure)
        other.step()
    handle.remove()
    assert [groups[0][0] for groups in used] == [0.05 * point.lr for point in MOVING.trace(STEPS)]
    assert ["by a scheduler built before" in message for message in told()] == [True]


@pytest.mark.parametrize("lr", [0.05, torch.tensor(0.05)], ids=["float", "tensor"])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_a_step_that_only_makes_the_state_does_not_count(kind, lr, told):
    # Distributed checkpoints take one, with gradients and learning rates of 0.
    net = torch.nn.Linear(2, 2)
    optimizer = kind(net.parameters(), lr=lr, weight_decay=0.5)
    scheduler = ScheduleLR(optimizer, constant(), STEPS)
    before = [parameter.tolist() for parameter in net.parameters()]
    get_optimizer_state_dict(net, optimizer)
    assert [parameter.tolist() for parameter in net.parameters()] == before
    assert (scheduler.last_epoch, told()) == (0, [])
    assert all(parameter.grad is None for parameter in net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert scheduler.last_epoch == 1
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_learning_rate_of_0_does_not_stop_a_training(told):
    problem = Problem(torch.optim.SGD)
    scheduler = ScheduleLR(problem.optimizer, MOVING, STEPS)
    for _ in range(STEPS):
        problem.closure()
        for group in problem.optimizer.param_groups:
            group["lr"] = 0.0
        problem.optimizer.step()
    reference = Problem(torch.optim.SGD)
    reference.take(STEPS, written_by_hand(reference, MOVING.trace(STEPS)))
    assert problem.found() == reference.found()
    assert scheduler.last_epoch == STEPS
    assert ["lr was set to 0 by other code" in message for message in told()] == [True]


# ---- compiled and captured steps -----------------------------------------------------------------


def train_compiled(make, schedule, as_function=False, device="cpu", **options):
    """Take 12 steps; return how many graphs that took, what each used, and the weight.

    Without options nothing is compiled.
    """
    torch._dynamo.reset()
    counters.clear()
    weight = torch.nn.Parameter(torch.ones(2, 2, device=device))
    weight.grad = torch.ones_like(weight)
    optimizer, used = make([weight]), []
    scheduler = None if schedule is None else ScheduleLR(optimizer, schedule, 12)
    step = (lambda: optimizer.step()) if as_function else optimizer.step
    if options:
        step = torch.compile(step, **options)
    for _ in range(12):
        used.append(snapshot(optimizer)[0][:2])
        step()
    assert scheduler is None or scheduler.last_epoch == 12
    return SimpleNamespace(graphs=counters["stats"]["unique_graphs"], used=used, weight=weight)


def sgd_with_tensors(parameters):
    lr = torch.tensor(0.05, device=parameters[0].device)
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def adamw_with_tensors(parameters):
    device = parameters[0].device
    lr, *betas = (torch.tensor(value, device=device) for value in (0.05, 0.9, 0.999))
    return torch.optim.AdamW(parameters, lr=lr, betas=betas, foreach=False, capturable=True)


# In old versions of torch, any float is a constant of the graph.
numbers_move = pytest.mark.skipif(
    torch._dynamo.config.specialize_float, reason="this torch makes a graph for each momentum"
)


what_moves_in_tensors = pytest.mark.parametrize(
    ("make", "reference", "cycle_momentum"),
    [
        (sgd_with_tensors, partial(sgd, lr=0.05), False),
        (partial(torch.optim.AdamW, lr=torch.tensor(0.05)), torch.optim.AdamW, False),
        pytest.param(sgd_with_tensors, partial(sgd, lr=0.05), True, marks=numbers_move),
        pytest.param(adamw_with_tensors, torch.optim.AdamW, True, marks=numbers_move),
    ],
    ids=["SGD lr", "AdamW lr", "SGD lr and momentum", "AdamW lr and beta1"],
)


def check_compiled_once(make, reference, cycle_momentum, **options):
    schedule = one_cycle(cycle_momentum=cycle_momentum)
    scheduled = train_compiled(make, schedule, **options)
    assert scheduled.graphs == train_compiled(make, None, **options).graphs > 0
    eager = train_compiled(partial(reference, lr=0.05), schedule, device=options["device"])
    assert [lr for lr, _ in eager.used] == [lr for lr, _ in expected(schedule, 12, 0.05)]
    torch.testing.assert_close(scheduled.used, eager.used, rtol=1e-6, atol=0)
    assert torch.allclose(scheduled.weight, eager.weight, atol=1e-6)


@what_moves_in_tensors
@pytest.mark.parametrize("as_function", [False, True])
def test_what_moves_in_tensors_is_compiled_once(make, reference, cycle_momentum, as_function):
    # Like inductor, it makes a new graph for each value of a float that cannot be a tensor.
    options = {"device": "cpu", "backend": "aot_eager", "as_function": as_function}
    check_compiled_once(make, reference, cycle_momentum, **options)


def test_a_captured_step_is_refused(monkeypatch):
    problem = Problem(torch.optim.SGD)
    ScheduleLR(problem.optimizer, MOVING, STEPS)
    problem.take(1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"A CUDA graph that has captured SGD.step is replayed"):
        problem.take(1)


# ---- wrapped optimizers --------------------------------------------------------------------------


class Lookahead(Optimizer):
    """Every second step, go half of the way back. Has places for hooks, but nothing that runs them.

    Such wrappers leave out the constructor of their base class.
    """

    def __init__(self, fast):
        for what in ("step", "state_dict", "load_state_dict"):
            for when in ("pre", "post"):
                setattr(self, f"_optimizer_{what}_{when}_hooks", OrderedDict())
        self.fast, self.param_groups, self.defaults = fast, fast.param_groups, fast.defaults
        self.state = fast.state
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.fast.step(closure)
        self.steps += 1
        if self.steps % 2 == 0:
            fast = [p for group in self.param_groups for p in group["params"]]
            for slow, weight in zip(self.slow, fast, strict=True):
                weight.copy_(slow.lerp_(weight, 0.5))
        return loss


def post_local_sgd(fast):
    from torch.distributed.optim import PostLocalSGDOptimizer

    return PostLocalSGDOptimizer(fast, SimpleNamespace(average_parameters=lambda params: None))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrapper", [Lookahead, post_local_sgd])
def test_a_wrapper_that_runs_no_hooks_is_counted_all_the_same(wrapper):
    class Wrapper(Lookahead):  # torch may have mended the class already
        pass

    wrapper = Wrapper if wrapper is Lookahead else wrapper
    problem = Problem(torch.optim.SGD)
    optimizer, used = wrapper(problem.optimizer), []
    first = ScheduleLR(optimizer, one_cycle(), STEPS)
    for step in range(3 + STEPS):
        if step == 3:
            second = ScheduleLR(optimizer, MOVING, STEPS)
        used.append(snapshot(optimizer)[0][:2])
        optimizer.zero_grad()
        problem.closure()
        optimizer.step()
    assert used == expected(one_cycle(), STEPS, 0.05)[:3] + expected(MOVING, STEPS, 0.05)
    assert (first.attached, first.last_epoch, second.last_epoch) == (False, 3, STEPS)


def test_a_wrapper_that_runs_no_hooks_in_a_range_test_and_a_training():
    class Wrapper(Lookahead):
        pass

    module = Tiny(lambda parameters: Wrapper(sgd(parameters)))
    trainer = quiet_trainer(OneCycle(), max_epochs=1)
    curve = Tuner(trainer).lr_find(module, loader(6), min_lr=1e-3, max_lr=0.1, num_training=5)
    assert curve.lrs == pytest.approx([0.001, 0.00316228, 0.01, 0.0316228, 0.1])
    assert fit(module, OneCycle(), max_epochs=1).values == expected(one_cycle(), 12)


class NoOptimizer:
    """As some distributed ones are: it has all that Lightning asks for."""

    def __init__(self, params):
        self.param_groups, self.defaults, self.state = [{"params": params, "lr": 0.1}], {}, {}

    def step(self, closure=None):
        return closure()

    def zero_grad(self):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass


def test_what_cannot_be_counted_is_refused_before_training():
    message = "optimizer must be a torch Optimizer, got NoOptimizer, which wraps none"
    module = Tiny(lambda parameters: NoOptimizer(list(parameters)))
    with pytest.raises(TypeError, match=message):
        ScheduleLR(module.configure_optimizers(), one_cycle(), 5)
    before = module.net.weight.tolist()
    with pytest.raises(TypeError, match=message):
        fit(module, OneCycle(), max_epochs=1)
    with pytest.raises(TypeError, match=message):
        Tuner(quiet_trainer(max_epochs=1)).lr_find(module, loader(6), num_training=5)
    assert module.net.weight.tolist() == before


class SharpnessAware(Optimizer):
    """Two half-steps, of which the second steps an inner optimizer with the same groups."""

    def __init__(self, params, inner):
        super().__init__(params, {"rho": 0.05})
        self.inner = inner(self.param_groups)
        self.param_groups = self.inner.param_groups

    def up(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["was"] = parameter.detach().clone()
                parameter.data.add_(parameter.grad, alpha=group["rho"])

    def down(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.copy_(self.state[parameter].pop("was"))
        self.inner.step()

    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
            self.up()
            closure()
            self.down()
        return loss


class Delegating:
    """Not an Optimizer; it has all that Lightning asks for, from one that it holds."""

    def __init__(self, fast):
        self.fast = fast

    def __getattr__(self, name):
        return getattr(vars(self)["fast"], name)


class HalfOfTheTables(Lookahead):
    """Leaves out the constructor of Optimizer, and has hooks for step alone."""

    def __init__(self, fast):
        super().__init__(fast)
        for what in ("state_dict", "load_state_dict"):
            for when in ("pre", "post"):
                delattr(self, f"_optimizer_{what}_{when}_hooks")
        self.state_dict, self.load_state_dict = fast.state_dict, fast.load_state_dict


class WithoutConstructor(torch.optim.SGD):
    """Leaves out the constructor of Optimizer, and wraps none."""

    def __init__(self, fast):
        self.param_groups, self.defaults, self.state = fast.param_groups, fast.defaults, fast.state


WRAPPERS = {
    "two half-steps": lambda params: SharpnessAware(params, sgd),
    "two half-steps in another": lambda params: Lookahead(SharpnessAware(params, sgd)),
    "one that is no Optimizer": lambda params: Delegating(sgd(params)),
    "half of the tables": lambda params: HalfOfTheTables(sgd(params)),
    "no constructor": lambda params: WithoutConstructor(sgd(params)),
}


@pytest.mark.parametrize("wrapped", WRAPPERS.values(), ids=WRAPPERS)
def test_whatever_steps_is_counted(wrapped, tmp_path):
    def train(*callbacks, **arguments):
        return fit(Tiny(lambda p: wrapped(list(p))), OneCycle(), *callbacks, **arguments)

    counted = []

    class Count(lightning.pytorch.Callback):
        def on_train_batch_end(self, trainer, *_):
            counted.append(trainer.callbacks[0].schedulers[0].last_epoch)

    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    whole = train(Count(), saving, max_epochs=1)
    assert counted == list(range(1, 13))
    assert list(dict.fromkeys(whole.values)) == list(dict.fromkeys(expected(one_cycle(), 12)))
    rest = train(max_epochs=1, ckpt_path=tmp_path / "step=5.ckpt")
    assert rest.values[-1] == whole.values[-1]
    module = Tiny(lambda p: wrapped(list(p)))
    curve = Tuner(quiet_trainer(OneCycle(), max_epochs=1)).lr_find(
        module, loader(6), min_lr=1e-3, max_lr=0.1, num_training=5
    )
    assert curve.lrs == pytest.approx([0.001, 0.00316228, 0.01, 0.0316228, 0.1])


def test_half_steps_in_a_loop_of_ones_own_count_once():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer, used = SharpnessAware([parameter], sgd), []
    scheduler = ScheduleLR(optimizer, one_cycle(), 11)
    for _ in range(11):
        used.append(snapshot(optimizer)[0][:2])
        for half in (optimizer.up, optimizer.down):
            parameter.grad = torch.ones(2)
            half()
        scheduler.step()
    assert used == expected(one_cycle(), 11)


@pytest.mark.parametrize("lrs", [(0.4, 0.4, 0.4), (0.4, 0.2, 0.1)], ids=["one", "in proportion"])
def test_lr_scale_multiplies_the_peak_once(lrs, said):
    scales = (1.0, 0.5, 0.25)
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr, "lr_scale": scale}
        for lr, scale in zip(lrs, scales, strict=True)
    ]
    optimizer = sgd(groups)
    assert ScheduleLR(optimizer, one_cycle(), 11).max_lrs == [0.4, 0.2, 0.1]
    assert len(said()) == (len(set(lrs)) == 1)
    # A second schedule takes over peaks that have it.
    assert ScheduleLR(optimizer, one_cycle(), 11).max_lrs == [0.4, 0.2, 0.1]
    assert ScheduleLR(optimizer, one_cycle(), 11, max_lr=0.8).max_lrs == [0.8, 0.4, 0.2]


def test_steps_of_parts_are_refused():
    problem = Problem(torch.optim.SGD)
    optimizer = problem.optimizer
    ScheduleLR(optimizer, MOVING, STEPS)
    problem.take(1)
    first, second = optimizer.param_groups
    optimizer.param_groups = [first]  # as DeepSpeed's ZeRO does, one after the other
    optimizer.step()
    optimizer.param_groups = [second]
    with pytest.raises(RuntimeError, match="SGD takes steps with parts of its parameter groups"):
        optimizer.step()


# ---- under Lightning -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["WeightAveraging", "EMAWeightAveraging"])
def test_averaged_weights_leave_the_schedule_alone(name, tmp_path):
    if not hasattr(lightning.pytorch.callbacks, name):
        pytest.skip(f"this Lightning has no {name}")
    averaging = getattr(lightning.pytorch.callbacks, name)
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    used = fit(Tiny(), OneCycle(), averaging(), saving, max_epochs=1)
    assert used.values == expected(one_cycle(), 12)
    rest = fit(Tiny(), OneCycle(), averaging(), max_epochs=1, ckpt_path=tmp_path / "step=5.ckpt")
    assert rest.values == expected(one_cycle(), 12)[5:]


class OfSeveralKinds(LightningModule):
    """Manual optimization: five optimizers, which step after every, every second ... batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.weights = torch.nn.ParameterList(torch.nn.Parameter(torch.eye(2)) for _ in range(5))
        self.steps = [0] * 5

    def configure_optimizers(self):
        first, second, third, fourth, fifth = self.weights
        return [
            torch.optim.LBFGS([first], lr=0.5, max_iter=3),
            torch.optim.SparseAdam([second], lr=0.1),
            torch.optim.SGD([third], lr=0.4, momentum=0.9),
            torch.optim.Adagrad([fourth], lr=0.2),
            torch.optim.AdamW([fifth], lr=0.3),
        ]

    def training_step(self, batch, batch_idx):
        for index, (weight, optimizer) in enumerate(
            zip(self.weights, self.optimizers(), strict=True)
        ):
            if batch_idx % (index + 1):
                continue

            def closure(weight=weight, optimizer=optimizer, sparse=index == 1):
                optimizer.zero_grad()
                rows = torch.nn.functional.embedding(torch.arange(2), weight, sparse=sparse)
                loss = (rows - 1).square().sum()
                self.manual_backward(loss)
                return loss

            optimizer.step(closure)
            self.steps[index] += 1


def test_manual_optimization_with_several_kinds():
    module, callback, taken = OfSeveralKinds(), OneCycle(total_steps=12), {}

    class Read(lightning.pytorch.Callback):
        def on_train_end(self, trainer, pl_module):
            for scheduler in callback.schedulers:
                taken[type(scheduler.optimizer).__name__] = scheduler.last_epoch

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            for scheduler, own in zip(callback.schedulers, (0.5, 0.1, 0.4, 0.2, 0.3), strict=True):
                point = one_cycle().at(scheduler.last_epoch, 12)
                assert scheduler.get_last_lr() == [own * point.lr]

    quiet_trainer(callback, Read(), max_epochs=1).fit(module, loader(12))
    assert module.steps == [12, 6, 4, 3, 3]
    assert list(taken) == ["LBFGS", "SparseAdam", "SGD", "Adagrad", "AdamW"]
    assert list(taken.values()) == module.steps


@pytest.mark.parametrize("callback", [False, True])
def test_an_optimizer_that_lightning_has_wrapped(callback):
    used = []

    class Module(OfSeveralKinds):
        def configure_optimizers(self):
            return sgd([self.weights[0]])

        def on_train_start(self):
            self.scheduler = ScheduleLR(self.optimizers(), MOVING, 12)

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            used.append(snapshot(optimizer)[0][:2])
            optimizer.zero_grad()
            self.manual_backward(self.weights[0].square().sum())
            optimizer.step()

    module = Module()
    callbacks = [OneCycle(total_steps=5)] if callback else []
    quiet_trainer(*callbacks, max_epochs=1).fit(module, loader(12))
    assert used == expected(MOVING, 12)  # there is one writer, the last that was built
    assert module.scheduler.last_epoch == 12
