"""Which tensors get a quantiser, and which share a grid."""

import numpy as np
from builders import Model, grid

from kwsq.ir import ops
from kwsq.ir.quant import Affine
from kwsq.passes.ptq.grids import find_groups
from kwsq.passes.ptq.ranges import Range


def test_movement_keeps_the_grid_of_its_input() -> None:
    model = Model()
    x = model.input("x", (1, 2, 6, 6))
    moved = model.node(ops.Transpose((0, 1, 3, 2)), model.node(ops.MaxPool((2, 2), (2, 2), ((0, 0), (0, 0))), x))
    y = model.dense(model.node(ops.Reshape((1, 18)), moved), 3)
    assert [group.tensors for group in find_groups(model.graph(y))] == [(x,), (y,)]


def test_means_have_their_own() -> None:
    model = Model()
    x = model.input("x", (1, 2, 6, 6))
    y = model.node(ops.Mean((2, 3), False), x)
    assert [group.tensors for group in find_groups(model.graph(y))] == [(x,), (y,)]


def test_a_concatenation_joins_its_inputs() -> None:
    model = Model()
    x = model.input("x", (1, 4))
    a, b = model.dense(x, 3), model.dense(x, 2)
    constant = model.constant(np.array([[-9.0, 4.0]]))
    joined = model.node(ops.Concat(1), a, model.node(ops.Reshape((1, 2)), b), constant)
    groups = find_groups(model.graph(model.dense(joined, 2)))
    assert (a, b) in [group.tensors for group in groups]
    assert next(group for group in groups if a in group.tensors).introduced == Range(-9.0, 4.0)


def test_a_concatenation_with_a_fixed_grid_gets_one_of_its_own() -> None:
    model = Model()
    x = model.input("x", (1, 4))
    a, b = model.dense(x, 3), model.node(ops.Sigmoid(), x)
    joined = model.node(ops.Concat(1), a, b)
    groups = {group.tensors: group.fixed for group in find_groups(model.graph(joined))}
    assert groups.keys() == {(x,), (a,), (b,), (joined,)}
    assert isinstance(groups[(b,)], Affine)
    assert groups[(joined,)] is None


def test_fixed_output_grids() -> None:
    model = Model()
    x = model.input("x", (1, 4))
    outputs = [model.node(op, x) for op in (ops.Softmax(1), ops.Sigmoid(), ops.Tanh())]
    fixed = {group.tensors[0]: group.fixed for group in find_groups(model.graph(*outputs))}
    for output, (scale, zero_point) in zip(outputs, ((1 / 256, -128), (1 / 256, -128), (1 / 128, 0)), strict=True):
        assert fixed[output] is not None
        assert fixed[output].same_as(grid(scale, zero_point))


def test_states_share_the_grid_of_their_output() -> None:
    model = Model()
    x, s = model.input("x", (1, 4)), model.input("s", (1, 4))
    state = model.node(ops.Add(), x, s)
    groups = find_groups(model.graph(model.dense(state, 2), state, states=((s, state),)))
    assert (s, state) in [group.tensors for group in groups]


def test_quantised_tensors_are_left_alone() -> None:
    model = Model()
    x = model.input("x", (1, 4), grid(0.1))
    y = model.quantize(model.dense(x, 3), grid(0.2))
    z = model.dense(model.node(ops.Reshape((1, 3)), y), 2)
    assert [group.tensors for group in find_groups(model.graph(z))] == [(z,)]


def test_a_concatenation_onto_an_annotated_grid_takes_it() -> None:
    model = Model()
    x = model.input("x", (1, 4), grid(0.1))
    a, b = model.dense(x, 3), model.dense(x, 2)
    joined = model.quantize(model.node(ops.Concat(1), a, b), grid(0.3))
    (group,) = find_groups(model.graph(joined))
    assert group.tensors == (a, b)
    assert group.fixed is not None
    assert group.fixed.same_as(grid(0.3))
