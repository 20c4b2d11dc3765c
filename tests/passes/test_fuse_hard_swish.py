"""Hard swish is recognised in its common spellings and in no others."""

from collections.abc import Callable

import numpy as np
import pytest
from builders import Model, grid, kinds, lowered, max_difference, texts

from kwsq.ir import ops
from kwsq.passes.fold_gain import FoldGain
from kwsq.passes.fuse_hard_swish import FuseHardSwish
from kwsq.passes.pipeline import FOLDING

Spelling = Callable[[Model, str], str]
TOLERANCE = 8 * 2.0**-24 * 6 * 4  # eight roundings of values up to 6 * |x|, |x| < 4


def relu6(m: Model, x: str) -> str:
    return m.node(ops.Clip(0.0, 6.0), m.node(ops.Add(), x, m.constant(3.0)))


def hard_sigmoid(m: Model, x: str) -> str:
    line = m.node(ops.Add(), m.node(ops.Mul(), x, m.constant(1 / 6)), m.constant(0.5))
    return m.node(ops.Clip(0.0, 1.0), line)


def sixth(m: Model, x: str) -> str:
    return m.node(ops.Mul(), x, m.constant([[1 / 6]]))


def mul(m: Model, a: str, b: str) -> str:
    return m.node(ops.Mul(), a, b)


SPELLINGS: dict[str, Spelling] = {
    "x * hard_sigmoid(x)": lambda m, x: mul(m, x, hard_sigmoid(m, x)),
    "hard_sigmoid(x) * x": lambda m, x: mul(m, hard_sigmoid(m, x), x),
    "x * relu6(x + 3) / 6": lambda m, x: sixth(m, mul(m, x, relu6(m, x))),
    "x * (relu6(x + 3) / 6)": lambda m, x: mul(m, x, sixth(m, relu6(m, x))),
    "x / 6 * relu6(x + 3)": lambda m, x: mul(m, sixth(m, x), relu6(m, x)),
    "x * clip((x + 3) / 6, 0, 1)": lambda m, x: mul(
        m, x, m.node(ops.Clip(0.0, 1.0), sixth(m, m.node(ops.Add(), m.constant(3.0), x)))
    ),
}
OTHERS: dict[str, Spelling] = {
    "x * relu6(x + 3)": lambda m, x: mul(m, x, relu6(m, x)),
    "tanh(x) * hard_sigmoid(x)": lambda m, x: mul(m, m.node(ops.Tanh(), x), hard_sigmoid(m, x)),
    "hard_sigmoid alone": hard_sigmoid,
    "x * HardSigmoid(0.2, 0.5)": lambda m, x: mul(
        m,
        x,
        m.node(ops.Clip(0.0, 1.0), m.node(ops.Add(), m.node(ops.Mul(), x, m.constant(0.2)), m.constant(0.5))),
    ),
    "x * clip(x / 6 + 0.5, 0, 6)": lambda m, x: mul(
        m, x, m.node(ops.Clip(0.0, 6.0), m.node(ops.Add(), sixth(m, x), m.constant(0.5)))
    ),
    "squeeze-excite gate": lambda m, x: mul(m, x, hard_sigmoid(m, m.node(ops.Mean((1,), True), x))),
    "wider by broadcast": lambda m, x: mul(
        m, sixth(m, x), m.node(ops.Clip(0.0, 6.0), m.node(ops.Add(), x, m.constant(np.full((2, 1, 1), 3.0))))
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_fuses(spelling: str) -> None:
    model = Model()
    before = model.graph(SPELLINGS[spelling](model, model.input("x", (1, 8))))
    result = FuseHardSwish().run(before)
    assert kinds(result.graph) == ["HardSwish"]
    assert "one operator" in texts(result)
    assert result.graph.outputs == before.outputs
    assert max_difference(before, result.graph) <= TOLERANCE
    assert not FuseHardSwish().run(result.graph).changed


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_fuses_after_an_affine_map_of_its_own(spelling: str) -> None:
    """x is itself x0 * 0.5 + 0.1; the constants before x must not be mistaken for hard swish's."""
    model = Model()
    x = model.node(ops.Mul(), model.input("x", (1, 8)), model.constant(0.5))
    x = model.node(ops.Add(), x, model.constant(0.1))
    before = model.graph(SPELLINGS[spelling](model, x))
    result = FuseHardSwish().run(before)
    assert kinds(result.graph) == ["Mul", "Add", "HardSwish"]
    assert max_difference(before, result.graph) <= TOLERANCE


@pytest.mark.parametrize("other", OTHERS)
def test_leaves_others(other: str) -> None:
    model = Model()
    result = FuseHardSwish().run(model.graph(OTHERS[other](model, model.input("x", (1, 8)))))
    assert not result.changed
    assert not result.notes


def test_a_quantiser_between_the_parts_keeps_them() -> None:
    model = Model()
    x = model.input("x", (1, 8), grid(0.05))
    gate = model.quantize(hard_sigmoid(model, x), grid(1 / 255, -128))
    result = FuseHardSwish().run(model.graph(mul(model, x, gate)))
    assert not result.changed
    assert "a quantiser stands between" in texts(result)


def test_parts_read_by_others_are_kept_for_them() -> None:
    model = Model()
    x = model.input("x", (1, 8))
    gate = hard_sigmoid(model, x)
    before = model.graph(mul(model, x, gate), gate)
    after = FuseHardSwish().run(before).graph
    assert "HardSwish" in kinds(after)
    assert "Clip" in kinds(after)
    assert max_difference(before, after) <= TOLERANCE


def test_comes_before_the_gains_and_reaches_the_kernel() -> None:
    model = Model()
    x = model.quantize(model.dense(model.input("x", (1, 8), grid(0.05)), 8), grid(0.03))
    graph = model.graph(model.quantize(mul(model, x, hard_sigmoid(model, x)), grid(0.03, -100)))
    assert "ChannelAffine" in kinds(FoldGain().run(graph).graph)
    for step in FOLDING:
        graph = step.run(graph).graph
    assert "HardSwish" in kinds(lowered(graph).graph)
    assert "ChannelAffine" not in kinds(graph)


def test_the_search_ends_whatever_is_written_above_a_clip() -> None:
    """Sums of a tensor with itself, whose halves are the same, and more factors in a row than Python can recurse."""
    model = Model()
    x = y = model.input("x", (1, 4))
    for _ in range(60):
        y = model.node(ops.Add(), y, y)
    z = model.node(ops.Clip(0.0, 6.0), y)
    for _ in range(1200):
        z = model.node(ops.Mul(), z, model.constant(1.001))
    before = model.graph(mul(model, z, x))
    assert not FuseHardSwish().run(before).changed
