"""The table of every operator kwsq can turn into integers."""

from __future__ import annotations

from kwsq.ir import lowered as low
from kwsq.ir import ops
from kwsq.ir.graph import Node
from kwsq.passes.lowering import elementwise, linear, movement, pooling
from kwsq.passes.lowering.context import LoweringRefusedError
from kwsq.passes.lowering.elementwise import Lowering, binary, unary
from kwsq.passes.lowering.pooling import reduction
from kwsq.passes.lowering.requantize import lower_change_of_grid

LOWERINGS: dict[type, Lowering] = {
    ops.Abs: unary(lambda _: low.Abs()),
    ops.Add: binary(low.Add),
    ops.AveragePool: pooling.lower_average_pool,
    ops.ChannelAffine: linear.lower_channel_affine,
    ops.Clip: elementwise.lower_clamp,
    ops.Concat: movement.lower_concat,
    ops.Conv: linear.lower_conv,
    ops.Dense: linear.lower_dense,
    ops.FakeQuant: lower_change_of_grid,
    ops.HardSwish: unary(lambda _: low.HardSwish()),
    ops.LeakyRelu: unary(elementwise.lower_leaky_relu),
    ops.MatMul: linear.lower_matmul,
    ops.MaxPool: pooling.lower_max_pool,
    ops.Maximum: binary(lambda _: low.Maximum(), fuses=False, one_grid=True),
    ops.Mean: reduction(low.Mean),
    ops.Minimum: binary(lambda _: low.Minimum(), fuses=False, one_grid=True),
    ops.Mul: binary(low.Mul),
    ops.PRelu: elementwise.lower_prelu,
    ops.Pad: movement.lower_pad,
    ops.ReduceMax: reduction(low.ReduceMax),
    ops.ReduceSum: reduction(low.Sum),
    ops.Relu: elementwise.lower_clamp,
    ops.Reshape: movement.lower_reshape,
    ops.Rsqrt: unary(lambda _: low.Rsqrt()),
    ops.Sigmoid: unary(lambda _: low.Logistic()),
    ops.Slice: movement.lower_slice,
    ops.Softmax: elementwise.lower_softmax,
    ops.Split: movement.lower_split,
    ops.SquaredDifference: binary(lambda _: low.SquaredDifference(), fuses=False),
    ops.Sub: binary(low.Sub),
    ops.Tanh: unary(lambda _: low.Tanh()),
    ops.Transpose: movement.lower_transpose,
}

PARTS: dict[type, tuple[str, str]] = {
    ops.Div: ("a division by an activation", "a division by a constant, or y / Sqrt(x) as in a layer norm"),
    ops.LogSoftmax: ("a LogSoftmax", "a final one, converted with --drop-softmax, so that the model emits logits"),
    ops.Pow: ("a root that nothing divides by", "a square, or y / Pow(x, 0.5) or Reciprocal(Pow(x, 0.5))"),
    ops.Reciprocal: ("a reciprocal of what is no root", "Reciprocal(Sqrt(x)) as in a layer norm"),
    ops.Sqrt: ("a root that nothing divides by", "y / Sqrt(x) or Reciprocal(Sqrt(x)) as in a layer norm"),
}
"""Operators with an integer form in a pattern only -> what they are elsewhere, and the pattern."""


def lowering_of(node: Node) -> Lowering:
    """Returns the lowering of a node's operator.

    Raises:
        LoweringRefusedError: it has none.
    """
    lowering = LOWERINGS.get(type(node.op))
    if lowering is None:
        found, expected = PARTS.get(type(node.op), (node.op.name, "an operator that has one"))
        remedy = "rewrite it with supported operators or cut it out of the model"
        raise LoweringRefusedError(f"{found}, which has no int8 kernel", expected, remedy)
    return lowering
