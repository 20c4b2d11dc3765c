"""Which widths a model declares, and what `--wbits` accepts."""

from dataclasses import replace

import numpy as np
import pytest
from builders import Model

from kwsq.ir.errors import UsageError
from kwsq.ir.graph import Graph
from kwsq.ir.quant import Codebook, Unquantized
from kwsq.passes.widths import WeightWidth, check_widths, declared_bits, forget_weight_grids, weight_widths


def width(bits: int, *, declared: bool = True, parameters: int = 10) -> WeightWidth:
    return WeightWidth("layer", f"w{bits}", bits, declared, parameters)


def graph() -> Graph:
    model = Model()
    y = model.dense(model.conv(model.input("x", (1, 3, 4, 4)), 4, (3, 3), bits=8), 5, bits=4)
    book = model.constant(np.array([[-3, 1, 5, 1, 1]], np.int8), Codebook(np.array([-3, 1, 5]), np.array([0.5]), 5))
    y = model.dense(y, 1, weight=book)
    return model.graph(model.dense(y, 2, weight=model.constant([[1.0], [2.0]])))


def test_widths_of_every_layer() -> None:
    assert [(w.bits, w.parameters) for w in weight_widths(graph())] == [(8, 108), (4, 10), (5, 5), (32, 2)]


def test_most_weights_decide() -> None:
    assert declared_bits((width(8, parameters=5), width(4, parameters=9), width(32, parameters=99))) == 4
    assert declared_bits((width(8), width(4))) == 4
    assert declared_bits((width(8, parameters=20), width(4), width(4, parameters=9))) == 8
    assert declared_bits((width(32),)) is None


@pytest.mark.parametrize("expected", range(1, 9))
def test_declared_width_must_be_met_and_a_recovered_one_is_a_lower_bound(expected: int) -> None:
    check_widths((width(expected), width(8)), expected)
    check_widths((width(32),), expected)
    check_widths((), expected)
    if expected >= 4:
        check_widths((width(4, declared=False), width(8)), expected)
    elif expected != 8:
        with pytest.raises(UsageError, match=r"w4: 4 or more, w8: 8.*--wbits 4.*--requantize"):
            check_widths((width(4, declared=False), width(8)), expected)


def test_all_wider_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no weight declared 4 bits wide \(w5: 5, w8: 8\)"):
        check_widths((width(5), width(8)), 4)


def test_forgetting_grids_keeps_values() -> None:
    before = graph()
    after = forget_weight_grids(before)
    for old, new in zip(before.constants(), after.constants(), strict=True):
        assert isinstance(new.quant, Unquantized)
        np.testing.assert_array_equal(old.real(), new.real())
    assert replace(after, nodes=()).outputs == before.outputs
