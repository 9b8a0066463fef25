"""Sharpness: exact where the answer is known, and what the callback measures."""

import itertools
import math

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from conftest import quiet_trainer
from lightning_onecycle import Sharpness
from lightning_onecycle.measure import box_sharpness, top_eigenvalue


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def rotated(eigenvalues, seed=0):
    """Return a symmetric matrix with these eigenvalues."""
    rotation, _ = torch.linalg.qr(random(len(eigenvalues), len(eigenvalues), seed=seed))
    return rotation @ torch.diag(torch.tensor(eigenvalues, dtype=torch.double)) @ rotation.T


def quadratic(matrix):
    return lambda x: (float(x @ matrix @ x) / 2, matrix @ x)


def phi(at_center, highest):
    return 100 * (highest - at_center) / (1 + at_center)


# ---- the box ------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
@pytest.mark.parametrize("at_minimum", [False, True])
def test_box_maximum_of_a_convex_quadratic_along_the_axes(epsilon, at_minimum):
    """It is in the corner that the centre points to: sum of a (|x| + r)^2 / 2."""
    curvatures = torch.logspace(-2, 2, 20, dtype=torch.double)
    x = torch.zeros(20, dtype=torch.double) if at_minimum else random(20)
    radius = epsilon * (x.abs() + 1)
    corner = float((curvatures * (x.abs() + radius) ** 2).sum()) / 2
    f = quadratic(torch.diag(curvatures))
    found = box_sharpness(f, x, epsilon)
    assert found == pytest.approx(phi(f(x)[0], corner), rel=1e-9)


def test_box_maximum_of_a_saddle_is_inside_where_it_bends_down():
    curvatures = torch.tensor([2.0, -3.0, 1.0, -0.5], dtype=torch.double)
    x = torch.tensor([0.2, 0.1, -1.0, 2.0], dtype=torch.double)
    radius = 0.25 * (x.abs() + 1)
    up, down = x.abs() + radius, (x.abs() - radius).clamp(min=0)
    best = torch.where(curvatures > 0, up, down)
    f = quadratic(torch.diag(curvatures))
    found = box_sharpness(f, x, 0.25, iterations=60)
    expected = phi(f(x)[0], float((curvatures * best**2).sum()) / 2)
    assert found == pytest.approx(expected, rel=1e-5)


def test_box_maximum_of_a_rotated_quadratic_is_a_corner():
    """Not always the best corner of 2^n, but one; and never above the best."""
    matrix, x = rotated([0.1, 0.5, 1.0, 2.0, 4.0, 8.0], seed=3), random(6, seed=4)
    radius = 0.2 * (x.abs() + 1)
    f = quadratic(matrix)
    corners = [
        f(x + radius * torch.tensor(signs, dtype=torch.double))[0]
        for signs in itertools.product((-1.0, 1.0), repeat=6)
    ]
    found = box_sharpness(f, x, 0.2)
    assert any(found == pytest.approx(phi(f(x)[0], corner), rel=1e-9) for corner in corners)
    assert found == pytest.approx(phi(f(x)[0], max(corners)), rel=0.05)


def test_a_line_rises_by_the_slope_times_the_half_width():
    slope, x = random(9, seed=1), random(9, seed=2)
    f = lambda x: (float(slope @ x) + 10, slope)  # noqa: E731
    rise = float((slope.abs() * 1e-3 * (x.abs() + 1)).sum())
    assert box_sharpness(f, x) == pytest.approx(100 * rise / (1 + f(x)[0]), rel=1e-9)


def test_box_in_a_subspace():
    """The span of two axes: only their curvatures count, and the centre's coordinates in it."""
    curvatures = torch.tensor([3.0, 5.0, 7.0], dtype=torch.double)
    x = torch.tensor([0.5, -2.0, 1.0], dtype=torch.double)
    basis = torch.zeros(3, 2, dtype=torch.double)
    basis[0, 0], basis[2, 1] = 2.0, -1.0
    coordinates = torch.tensor([0.25, -1.0], dtype=torch.double)  # the pseudo-inverse times x
    move = torch.tensor([2.0, 1.0], dtype=torch.double) * 0.1 * (coordinates.abs() + 1)
    top = float(3 * (0.5 + move[0]) ** 2 + 5 * 4.0 + 7 * (1.0 + move[1]) ** 2) / 2
    f = quadratic(torch.diag(curvatures))
    assert box_sharpness(f, x, 0.1, basis=basis) == pytest.approx(phi(f(x)[0], top), rel=1e-9)


def test_a_loss_of_minus_one_has_no_percentage():
    assert math.isnan(box_sharpness(lambda x: (-1.0, x), torch.ones(2)))


def test_what_is_reported_never_falls_with_more_iterations():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    data = random(16, 4)

    def f(x):
        nn.utils.vector_to_parameters(x, net.parameters())
        loss = net(data).square().mean()
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        return loss.item(), torch.cat([g.flatten() for g in gradients])

    x = nn.utils.parameters_to_vector(net.parameters()).detach()
    found = [box_sharpness(f, x, 0.05, iterations=n) for n in range(1, 12)]
    assert found == sorted(found)
    assert found[0] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0}, "epsilon must be > 0, got 0"),
        ({"iterations": 0}, "iterations must be a whole number >= 1, got 0"),
    ],
)
def test_bad_boxes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        box_sharpness(quadratic(torch.eye(2)), torch.ones(2), **arguments)
    with pytest.raises(ValueError, match=message):
        Sharpness(**arguments)


@pytest.mark.parametrize("name", ["every_n_steps", "subspace", "num_batches"])
def test_bad_arguments_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number >= 1, got 0"):
        Sharpness(**{name: 0})


# ---- the eigenvalue -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spectrum",
    [
        [1.0, 2.0, 3.0, 10.0],
        [5.0] * 6,
        [-10.0, -1.0, 0.5, 4.0],  # the largest, not the largest in size
        [-3.0, -2.0, -1.0],
        [7.0],
        [0.0, 0.0, 0.0],
        [1e-6, 1e-3, 1.0, 1e3, 1e6],
    ],
    ids=str,
)
def test_top_eigenvalue_of_a_known_spectrum(spectrum):
    found = top_eigenvalue(rotated(spectrum).mv, random(len(spectrum), seed=5), tolerance=0.0)
    assert found == pytest.approx(max(spectrum), rel=1e-9, abs=1e-12)


def test_as_many_products_as_there_are_distinct_eigenvalues():
    matrix, products = rotated([2.0] * 40 + [3.0] * 40 + [11.0] * 20), []

    def product(vector):
        products.append(vector)
        return matrix @ vector

    assert top_eigenvalue(product, random(100, seed=1)) == pytest.approx(11.0, rel=1e-9)
    assert len(products) == 3


def test_it_stops_where_the_value_rises_no_more():
    spectrum, products = [*torch.linspace(0, 1, 400).tolist(), 4.0], []
    matrix = rotated(spectrum)

    def product(vector):
        products.append(vector)
        return matrix @ vector

    assert top_eigenvalue(product, random(401, seed=1)) == pytest.approx(4.0, rel=1e-3)
    assert 4 < len(products) < 15
    products.clear()
    top_eigenvalue(product, random(401, seed=1), iterations=3)
    assert len(products) == 3


def test_an_infinite_product_is_no_eigenvalue():
    assert math.isnan(top_eigenvalue(lambda v: v * math.inf, torch.ones(3)))


# ---- in a trainer -------------------------------------------------------------------------------


class Quadratic(LightningModule):
    """Its loss is x'Ax / 2 of its weights, times the mean of the batch; in two parameters."""

    def __init__(self, matrix, x, lr=0.0):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.head, self.tail = nn.Parameter(x[:2].clone()), nn.Parameter(x[2:].clone()[:, None])
        self.unused = nn.Parameter(torch.zeros(3))
        self.lr = lr
        self.dropout = nn.Dropout(0.5)

    def training_step(self, batch, batch_idx):
        x = torch.cat([self.head, self.tail.flatten()])
        scale = self.dropout(batch[0]).mean()
        batch[0].mul_(0)  # what a training_step may do to its batch
        return x @ self.matrix @ x / 2 * scale

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def measured(callback, module, *batches, **arguments):
    data = TensorDataset(torch.cat(batches))
    trainer = quiet_trainer(callback, max_epochs=1, precision="64-true", **arguments)
    trainer.fit(module, DataLoader(data, batch_size=len(batches[0])))
    return callback.latest


def test_a_quadratic_network_is_measured_exactly():
    matrix, x = (
        torch.diag(torch.tensor([1.0, 4.0, 0.5, 2.0], dtype=torch.double)),
        random(4, seed=2),
    )
    found = measured(Sharpness(subspace=2), Quadratic(matrix, x), torch.ones(2, dtype=torch.double))
    assert found["measure/hessian_eigenvalue"] == pytest.approx(4.0, rel=1e-9)
    corner = x.abs() + 1e-3 * (x.abs() + 1)
    f = quadratic(matrix)
    expected = phi(f(x)[0], f(corner)[0])
    assert found["measure/sharpness"] == pytest.approx(expected, rel=1e-9)
    assert found["measure/sharpness_subspace"] > 0


def test_the_mean_over_the_last_batches():
    matrix = rotated([1.0, 2.0, 3.0, 4.0])
    ones = torch.ones(2, dtype=torch.double)
    module = Quadratic(matrix, random(4))
    found = measured(Sharpness(num_batches=2), module, 100 * ones, 3 * ones, 5 * ones)
    assert found["measure/hessian_eigenvalue"] == pytest.approx(4.0 * 4.0, rel=1e-6)


def test_the_end_of_the_training_is_measured_too():
    steps = []

    class Counts(Sharpness):
        def measure(self, trainer, *arguments):
            steps.append(trainer.global_step)
            return super().measure(trainer, *arguments)

    ones = torch.ones(2, dtype=torch.double)
    measured(Counts(every_n_steps=2), Quadratic(rotated([1.0, 2.0, 3.0]), random(3)), *[ones] * 5)
    assert steps == [0, 2, 4, 5]


class Small(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(), nn.Linear(6, 3)
        )

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def labelled(n=32):
    x = random(n, 4).float()
    return TensorDataset(x, x[:, :3].argmax(1))


def full_hessian(net, x, y):
    """Worked out entry by entry, for a few weights."""
    names = [name for name, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]
    flat = torch.cat([p.detach().flatten() for p in net.parameters()])

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        weights = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(net, weights, x), y)

    return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_eigenvalue_of_a_network_is_that_of_its_whole_hessian(precision):
    seed_everything(0, verbose=False)
    module, data = Small(), labelled()
    callback = Sharpness(eigenvalue=True)
    trainer = quiet_trainer(callback, max_epochs=5, precision=precision)
    trainer.fit(module, DataLoader(data, batch_size=32))
    x = data.tensors[0].to(module.net[0].weight.dtype)
    hessian = full_hessian(module.net.eval(), x, data.tensors[1])
    largest = torch.linalg.eigvalsh(hessian)[-1].item()
    assert callback.latest["measure/hessian_eigenvalue"] == pytest.approx(largest, rel=0.01)


def test_without_the_eigenvalue_no_second_derivative_is_needed():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient.clone()

    class Module(Small):
        def training_step(self, batch, batch_idx):
            logits = Once.apply(self.net(batch[0]))
            return nn.functional.cross_entropy(logits, batch[1])

    loader = DataLoader(labelled(), batch_size=32)
    callback = Sharpness(eigenvalue=False)
    quiet_trainer(callback, max_epochs=1).fit(Module(), loader)
    assert set(callback.latest) == {"measure/sharpness"}
    # torch.autograd.grad would return a number here, and a wrong one.
    with pytest.raises(RuntimeError, match="differentiate twice"):
        quiet_trainer(Sharpness(), max_epochs=1).fit(Module(), loader)


def test_attention_is_differentiated_twice():
    class Attention(Small):
        def __init__(self):
            super().__init__()
            self.net = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

        def training_step(self, batch, batch_idx):
            return self.net(batch[0][None]).square().mean()

    callback = Sharpness()
    quiet_trainer(callback, max_epochs=1).fit(Attention(), DataLoader(labelled(), batch_size=32))
    assert set(callback.latest) == {"measure/sharpness", "measure/hessian_eigenvalue"}


def test_a_batch_that_is_skipped_is_not_measured():
    class Skips(Small):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 0 else super().training_step(batch, batch_idx)

    callback = Sharpness(every_n_steps=1)
    quiet_trainer(callback, max_steps=1).fit(Skips(), DataLoader(labelled(), batch_size=16))
    assert callback.latest == {}
