"""What a curve says of itself: in a line, as a key, and where its losses are not finite."""

import math

import pytest
import torch
from torch.utils.data import DataLoader

from conftest import Tiny, quiet_trainer
from lightning_onecycle import Conditions, LRCurve, OneCycle, Tuner

RATES = [10 ** (k / 2 - 5) for k in range(11)]
CURVE = LRCurve(RATES, [2.3, 2.3, 2.3, 2.3, 2.2, 1.8, 1.2, 0.9, 0.8, 1.9, 9.0], stopped="its end")


def test_a_curve_prints_as_one_line_with_its_suggestion():
    assert str(CURVE) == repr(CURVE)
    assert repr(CURVE) == (
        "LRCurve(11 steps, lr 1e-05 to 1; its end; max_lr 0.0791 (a quarter of 0.316, where half of"
        " the fall is lost again))"
    )
    few = "0 finite losses are too few, at least 5 are needed"
    assert repr(LRCurve((), ())) == f"LRCurve(0 steps; {few})"


def test_a_curve_and_its_conditions_are_keys():
    conditions = Conditions(optimizer="SGD", groups=({"weight_decay": 1e-4},), flags={"a": [1]})
    curve, same = (LRCurve(RATES, CURVE.losses, conditions) for _ in range(2))
    assert {curve: 1}[same] == 1
    assert len({curve, same, CURVE}) == 2


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 1, "lr": ' + "[" * 100_000])
def test_json_that_is_too_deep_is_no_curve(text, tmp_path):
    path = tmp_path / "deep.json"
    path.write_text(text + "]" * 100_000)
    with pytest.raises(ValueError, match="is not an LR curve: maximum recursion depth"):
        LRCurve.load(path)


@pytest.mark.parametrize("broken", [0, 3, 30])
def test_data_that_are_not_finite_are_the_reason_of_no_suggestion(broken):
    class FromData(Tiny):
        def training_step(self, batch, batch_idx):
            return self.loss() + batch.mean()

    data = torch.rand(100, generator=torch.Generator().manual_seed(0))
    data[broken] = math.nan
    trainer = quiet_trainer(max_epochs=1)
    curve = Tuner(trainer).lr_find(FromData(), DataLoader(data), max_lr=1e-3)
    assert len(curve.lrs) == broken + 1
    reason = (
        f"the loss is nan at lr {curve.lrs[-1]:.3g}, before it clearly falls: the data or the loss"
        " are not finite, or the range starts too high"
    )
    assert curve.suggest() == (None, reason)
    with pytest.raises(ValueError, match="the data or the loss are not finite"):
        OneCycle(max_lr=curve)


def test_a_curve_that_falls_before_it_breaks_has_a_suggestion():
    rates = [10 ** (k / 20 - 4) for k in range(80)]
    losses = [2.0 - 1.5 / (1.0 + 0.01 / rate) for rate in rates]
    assert LRCurve(rates, [*losses[:-1], math.nan]).suggestion() > 0.1
