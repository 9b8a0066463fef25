from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.models import MLP, LeNet, ResNet

CONF = Path(__file__).parents[1] / "conf" / "model"


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("model", "count"),
    [
        # 64*256 + 256*128 weights, two numbers for each unit's batch norm, 128*10 + 10 at the end
        (MLP((1, 8, 8), 10), 64 * 256 + 256 * 128 + 2 * (256 + 128) + 1290),
        (MLP((1, 8, 8), 10, batch_norm=False), 64 * 256 + 256 + 256 * 128 + 128 + 1290),
        (MLP((1, 8, 8), 10, hidden=()), 650),
        (LeNet((1, 28, 28), 10), 431_080),
        (ResNet((3, 32, 32), 10, blocks=(9, 9, 9)), 855_770),
        (ResNet((3, 32, 32), 10, blocks=(9, 9, 9), shortcut="pad"), 853_018),
        (ResNet((1, 28, 28), 10, blocks=(2, 2, 2), stem_stride=2), 174_970),
    ],
)
def test_parameter_counts(model: torch.nn.Module, count: int) -> None:
    assert parameters(model) == count


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 33, 17)])
@pytest.mark.parametrize("build", [MLP, LeNet, ResNet])
def test_logits_and_gradients(build: type, shape: tuple[int, ...]) -> None:
    if build is LeNet and shape == (1, 8, 8):
        pytest.skip("too small for LeNet")
    model = build(shape, 7)
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_lenet_needs_sixteen_pixels() -> None:
    LeNet((1, 16, 16), 10)(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match=r"shape must be at least 16 x 16 pixels, got \[1, 28, 15"):
        LeNet((1, 28, 15), 10)


def test_lenet_starts_as_in_caffe() -> None:
    first = LeNet((1, 28, 28), 10).layers[0]
    bound = (3 / 25) ** 0.5
    assert bound * 0.95 < first.weight.abs().max() <= bound
    assert not first.bias.any()


def test_resnet_halves_the_image_at_each_later_stage() -> None:
    model = ResNet((3, 32, 32), 10, blocks=(1, 2, 1), width=4)
    assert model.features(torch.zeros(1, 3, 32, 32)).shape == (1, 16, 8, 8)
    model = ResNet((3, 32, 32), 10, blocks=(1, 1), width=4, stem_stride=2)
    assert model.features(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 8, 8)


def test_zero_init_residual_makes_a_block_the_identity() -> None:
    x = torch.rand(2, 8, 6, 6)
    plain, zero = (
        ResNet((8, 6, 6), 10, blocks=(1,), width=8, zero_init_residual=value).features[-1]
        for value in (False, True)
    )
    assert torch.equal(zero(x), x)
    assert not torch.equal(plain(x), x)


def test_padded_shortcut_takes_every_second_pixel_and_adds_zero_channels() -> None:
    shortcut = ResNet((1, 8, 8), 10, blocks=(1, 1), width=2, shortcut="pad").features[-1].shortcut
    x = torch.rand(1, 2, 8, 8)
    assert torch.equal(shortcut(x)[:, :2], x[:, :, ::2, ::2])
    assert shortcut(x).shape == (1, 4, 4, 4)
    assert not shortcut(x)[:, 2:].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": ()}, "blocks must have a number for each stage"),
        ({"blocks": (1, 0)}, "blocks must be a whole number >= 1, got 0"),
        ({"width": 0}, "width must be a whole number >= 1, got 0"),
        ({"shortcut": "conv"}, "shortcut must be one of 'projection', 'pad', got 'conv'"),
    ],
)
def test_resnet_refuses_bad_values(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet((1, 8, 8), 10, **arguments)


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet", "resnet56"])
def test_configs_take_the_shape_from_the_data(name: str) -> None:
    model = OmegaConf.load(CONF / f"{name}.yaml")
    cfg = OmegaConf.create({"data": {"shape": [3, 32, 32], "num_classes": 5}, "model": model})
    built = instantiate(cfg.model, _convert_="all")
    assert built(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
