"""Reciprocal roots become Rsqrt however they are written."""

import numpy as np
import pytest
from builders import Model, kinds

from kwsq.ir import ops
from kwsq.ir.execute import run_float
from kwsq.passes.fuse_rsqrt import FuseRsqrt


@pytest.mark.parametrize("root", ["Sqrt", "Pow"])
@pytest.mark.parametrize("form", ["Reciprocal", "Div"])
def test_fuses(root: str, form: str) -> None:
    model = Model()
    x, a = model.input("x", (1, 8)), model.input("a", (1, 8))
    r = model.node(ops.Sqrt(), x) if root == "Sqrt" else model.node(ops.Pow(), x, model.constant(0.5))
    y = model.node(ops.Reciprocal(), r) if form == "Reciprocal" else model.node(ops.Div(), a, r)
    before = model.graph(y)
    result = FuseRsqrt().run(before)
    assert kinds(result.graph) == (["Rsqrt"] if form == "Reciprocal" else ["Rsqrt", "Mul"])
    inputs = {"x": np.linspace(0.1, 4, 8, dtype=np.float32)[None], "a": np.arange(8, dtype=np.float32)[None]}
    # Three float32 roundings on each side.
    np.testing.assert_allclose(run_float(result.graph, inputs)[y], run_float(before, inputs)[y], rtol=6 * 2.0**-24)
    assert not FuseRsqrt().run(result.graph).changed


def test_root_read_by_others_stays_beside_it() -> None:
    model = Model()
    r = model.node(ops.Sqrt(), model.input("x", (1, 8)))
    result = FuseRsqrt().run(model.graph(model.node(ops.Reciprocal(), r), r))
    assert sorted(kinds(result.graph)) == ["Rsqrt", "Sqrt"]


def test_other_powers_and_roots_in_the_numerator_stay() -> None:
    model = Model()
    x = model.input("x", (1, 8))
    square = model.node(ops.Pow(), x, model.constant(2.0))
    before = model.graph(model.node(ops.Reciprocal(), square), model.node(ops.Div(), model.node(ops.Sqrt(), x), x))
    assert not FuseRsqrt().run(before).changed
