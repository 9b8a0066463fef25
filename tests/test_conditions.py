"""The conditions of a range test: what differs is named, and nothing else."""

from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_onecycle.range_test import Conditions

properties = settings(deadline=None, max_examples=100)

GROUP = {"lr_ratio": 1.0, "weight_decay": 1e-4, "nesterov": False}
FULL = Conditions(
    optimizer="SGD",
    groups=(GROUP, {**GROUP, "lr_ratio": 0.1}),
    momentum=0.85,
    batch_size=64,
    accumulation={"0": 1, "4": 2},
    world_size=2,
    precision="32-true",
    gradient_clip="norm 1.0",
    data="Digits",
    data_settings={"flip": True, "root": "data"},
    model="MLP",
    parameters=12_345,
    schedule="one_cycle",
    flags={"deterministic": True},
    versions={"torch": "2.12.0", "lightning": "2.6.6"},
)


def through_json(conditions: Conditions) -> Conditions:
    return Conditions.from_dict(json.loads(json.dumps(conditions.to_dict(), allow_nan=False)))


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"optimizer": "AdamW"}, ["optimizer: SGD, now AdamW"]),
        ({"momentum": 0.95}, ["momentum: 0.85, now 0.95"]),
        ({"momentum": None}, ["momentum: 0.85, now none"]),
        ({"batch_size": 128}, ["batch_size: 64, now 128"]),
        ({"accumulation": 2}, ['accumulation: {"0": 1, "4": 2}, now 2']),
        ({"world_size": 1}, ["world_size: 2, now 1"]),
        ({"precision": "bf16-mixed"}, ["precision: 32-true, now bf16-mixed"]),
        ({"gradient_clip": None}, ["gradient_clip: norm 1.0, now none"]),
        ({"data": ""}, ["data: Digits, now none"]),
        ({"model": "LeNet"}, ["model: MLP, now LeNet"]),
        ({"parameters": 12_346}, ["parameters: 12345, now 12346"]),
        ({"schedule": "triangular"}, ["schedule: one_cycle, now triangular"]),
        (
            {"data_settings": {"flip": False, "root": "data", "shift": 2}},
            ["flip: true, now false", "shift: not set, now 2"],
        ),
        ({"flags": {}}, ["deterministic: true, now not set"]),
        (
            {"groups": (GROUP, {**GROUP, "lr_ratio": 0.1, "weight_decay": 1e-3})},
            ["weight_decay of group 1: 0.0001, now 0.001"],
        ),
        ({"groups": (GROUP,)}, ["number of param groups: 2, now 1"]),
        (
            {"batch_size": 1, "optimizer": "Adam", "versions": {"torch": "2.13.0"}},
            [
                "optimizer: SGD, now Adam",
                "batch_size: 64, now 1",
                "library version of torch: 2.12.0, now 2.13.0",
                "library version of lightning: 2.6.6, now not set",
            ],
        ),
    ],
)
def test_names_what_differs(changes: dict[str, Any], lines: list[str]) -> None:
    now = replace(FULL, **changes)
    assert FULL.compare(now) == lines
    assert through_json(FULL).compare(through_json(now)) == lines
    assert bool(now.compare(FULL)) == bool(lines)


def test_a_single_group_needs_no_number() -> None:
    then = Conditions(groups=(GROUP,))
    assert then.compare(Conditions(groups=({**GROUP, "nesterov": True},))) == [
        "nesterov: false, now true"
    ]


def test_floats_are_compared_exactly() -> None:
    then = Conditions(momentum=0.3)
    assert then.compare(Conditions(momentum=0.1 + 0.2)) == [
        "momentum: 0.3, now 0.30000000000000004"
    ]
    assert (
        through_json(Conditions(momentum=0.1 + 0.2)).compare(Conditions(momentum=0.1 + 0.2)) == []
    )


def test_a_whole_number_is_itself_as_a_float_and_true_is_not_one() -> None:
    assert Conditions(groups=({"damp": 1},)).compare(Conditions(groups=({"damp": 1.0},))) == []
    lines = Conditions(flags={"x": True}).compare(Conditions(flags={"x": 1}))
    assert lines == ["x: true, now 1"]


def test_accumulation_from_the_first_epoch_on_is_a_number() -> None:
    assert Conditions(accumulation={0: 4}) == Conditions(accumulation=4)  # type: ignore[dict-item]
    assert Conditions(accumulation={0: 4, 2: 1}).accumulation == {"0": 4, "2": 1}  # type: ignore[dict-item]


class Colour(str, enum.Enum):
    RED = "red"


class Scalar:
    def item(self) -> float:
        return 0.5


class Thing:
    pass


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ((0.9, 0.999), [0.9, 0.999]),
        (Colour.RED, "red"),
        (Path("data"), "data"),
        (Scalar(), 0.5),
        (math.inf, "inf"),
        (math.nan, "nan"),
        ({1: (2,)}, {"1": [2]}),
        (OrderedDict(a=None), {"a": None}),
        ({3, 1, 2}, [1, 2, 3]),
        (range(3), [0, 1, 2]),
        (len, "len"),
        (Thing, "Thing"),
        (b"raw", "b'raw'"),
    ],
)
def test_anything_becomes_a_plain_value(value: Any, kept: Any) -> None:
    conditions = Conditions(flags={"x": value}, groups=({"x": value},))
    assert conditions.flags == {"x": kept}
    assert conditions.groups == ({"x": kept},)
    assert through_json(conditions) == conditions


def test_tensors_become_plain_values() -> None:
    torch = pytest.importorskip("torch")
    values = {"lr": torch.tensor(0.5), "dtype": torch.float32, "count": torch.tensor(3)}
    assert Conditions(flags=values).flags == {"lr": 0.5, "dtype": "torch.float32", "count": 3}


def test_an_object_has_no_address() -> None:
    first, second = Conditions(flags={"x": Thing()}), Conditions(flags={"x": Thing()})
    assert first.compare(second) == []


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values=st.dictionaries(st.text(max_size=5), plain, max_size=5))
@properties
def test_json_round_trip(values: dict[str, Any]) -> None:
    conditions = replace(FULL, groups=(values, values), flags=values, data_settings=values)
    assert through_json(conditions) == conditions
    assert conditions.compare(through_json(conditions)) == []


def test_reads_what_other_versions_wrote() -> None:
    assert Conditions.from_dict({}) == Conditions()
    values = {**FULL.to_dict(), "colour_of_the_cable": "blue"}
    del values["schedule"]
    assert Conditions.from_dict(values).compare(FULL) == ["schedule: none, now one_cycle"]


def test_to_dict_holds_every_field_and_shares_nothing() -> None:
    values = FULL.to_dict()
    assert list(values) == [item.name for item in fields(Conditions)]
    values["groups"][0]["weight_decay"] = 1.0
    values["flags"]["deterministic"] = False
    assert FULL.groups[0]["weight_decay"] == 1e-4
    assert FULL.flags == {"deterministic": True}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "conditions must be a mapping, got 3"),
        ({"groups": 3}, "groups must be mappings, one for each param group, got 3"),
        ({"groups": [3]}, "groups must be mappings, one for each param group, got [3]"),
        ({"flags": None}, "flags must be a mapping, got None"),
        ({"versions": ["2.12"]}, "versions must be a mapping, got ['2.12']"),
    ],
)
def test_refuses_a_bad_value(values: Any, message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  (the whole message is compared)
        Conditions.from_dict(values)
    assert str(refusal.value) == message
