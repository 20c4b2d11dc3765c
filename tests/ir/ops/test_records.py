"""Operators are values: frozen, slotted, equal only to their own kind. True of those too that share a dataclass."""

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from itertools import pairwise
from typing import Any, get_args

import pytest

from kwsq.ir import ops
from kwsq.ir.lowered import LoweredOp

FLOAT = [kind for kind in vars(ops).values() if isinstance(kind, type) and hasattr(kind, "infer")]
KINDS = [*FLOAT, *get_args(LoweredOp)]


def instance(kind: type[Any]) -> Any:
    """An operator whose attributes are small integers: what they mean does not matter here."""
    return kind(*range(len(fields(kind))))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_operator_is_a_frozen_value(kind: type[Any]) -> None:
    op = instance(kind)
    assert is_dataclass(kind)
    assert not hasattr(op, "__dict__")
    assert repr(op).startswith(f"{kind.__qualname__}(")
    assert kind.name == kind.__name__
    assert op == instance(kind) == replace(op)
    assert hash(op) == hash(instance(kind))
    for field in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(op, field.name, 0)


@pytest.mark.parametrize("kinds", [FLOAT, get_args(LoweredOp)], ids=["float", "lowered"])
def test_no_two_kinds_are_equal(kinds: list[type[Any]]) -> None:
    by_shape = sorted(kinds, key=lambda kind: [field.name for field in fields(kind)])
    for one, other in pairwise(by_shape):
        assert instance(one) != instance(other)
        assert not issubclass(one, other)
        assert not issubclass(other, one)
