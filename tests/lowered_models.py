"""Small integer graphs built operator by operator, with seeded weights and the shapes inferred.

model = LoweredModel(seed=1)
x = model.input("x", (1, 4, 6, 3))
y = model.conv(x, channels=8, kernel=(3, 3), pads=((1, 1), (1, 1)))
graph = model.graph(y)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwsq.ir import lowered as ir
from kwsq.ir.lowered import DType, LoweredGraph, LoweredNode, LoweredOp, LoweredTensor, verify
from kwsq.ir.numerics import valid_size
from kwsq.ir.ops import Activation
from kwsq.targets.base import TargetOptions
from kwsq.targets.neon.target import FILE_NAME, NeonTarget

Shape = tuple[int, ...]
Grid = tuple[float, int]


class LoweredModel:
    """A graph under construction; tensors are referred to by name."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors: dict[str, LoweredTensor] = {}
        self.nodes: list[LoweredNode] = []
        self.inputs: list[str] = []

    # ---- tensors ----

    def tensor(self, base: str, shape: Shape, grid: Grid | None, **fields: Any) -> str:
        name, count = base, 1
        while name in self.tensors:
            name, count = f"{base}_{count}", count + 1
        scale, zero_point = (None, 0) if grid is None else (np.array([grid[0]], np.float32), grid[1])
        values = {"dtype": DType.INT8, "scale": scale, "zero_point": zero_point, "origin": base} | fields
        self.tensors[name] = LoweredTensor(name, shape, **values)
        return name

    def input(self, name: str, shape: Shape, grid: Grid | None = (0.05, -3), dtype: DType = DType.INT8) -> str:
        self.inputs.append(self.tensor(name, shape, grid, dtype=dtype))
        return self.inputs[-1]

    def constant(self, base: str, codes: NDArray[Any], grid: Grid | None, **fields: Any) -> str:
        return self.tensor(base, codes.shape, grid, data=codes, dtype=DType(codes.dtype.name), **fields)

    def grid(self, name: str) -> Grid:
        tensor = self.tensors[name]
        assert tensor.scale is not None
        return float(tensor.scale[0]), tensor.zero_point

    # ---- nodes ----

    def node(self, op: LoweredOp, inputs: list[str], shape: Shape, grid: Grid | None, **fields: Any) -> str:
        output = self.tensor(op.name.lower(), shape, grid, **fields)
        name = f"{output}_node"
        self.nodes.append(LoweredNode(name, op, tuple(inputs), (output,), (name,)))
        return output

    def layer_weights(
        self, x: str, shape: Shape, axis: int, *, bits: int = 8, per_channel: bool = True, levels: Any = None
    ) -> list[str]:
        """Add a weight and its bias; scales are chosen so that outputs fill the range of their grid."""
        channels = shape[axis]
        high = 2 ** (bits - 1) - 1
        if levels is None:
            codes = self.rng.integers(-high, high + 1, shape).astype(np.int8)
        else:
            codes = self.rng.choice(np.asarray(levels, np.int8), shape)
        scales = (
            self.rng.uniform(0.5, 2, channels if per_channel else 1)
            * 0.3
            / max(1, int(np.abs(codes.astype(np.int32)).max()))
        )
        scale = scales.astype(np.float32)
        extra = {"levels": None if levels is None else np.asarray(levels, np.int8)}
        weight = self.constant("weight", codes, (1.0, 0), bits=bits, quantized_dimension=axis, **extra)
        self.tensors[weight] = replace(self.tensors[weight], scale=scale)
        bias_scale = np.float32(self.grid(x)[0]) * scale
        bias = self.rng.integers(-2000, 2000, channels).astype(np.int32)
        name = self.constant("bias", bias, (1.0, 0), bits=32)
        self.tensors[name] = replace(self.tensors[name], scale=bias_scale)
        return [weight, name]

    def dense(
        self, x: str, units: int, *, activation: Activation = Activation.NONE, grid: Grid = (0.1, 4), **weights: Any
    ) -> str:
        shape = self.tensors[x].shape
        operands = self.layer_weights(x, (units, shape[-1]), 0, **weights)
        return self.node(ir.FullyConnected(activation), [x, *operands], (*shape[:-1], units), grid)

    def conv(
        self,
        x: str,
        channels: int,
        kernel: ir.Pair,
        *,
        stride: ir.Pair = (1, 1),
        dilation: ir.Pair = (1, 1),
        pads: ir.Pads = ((0, 0), (0, 0)),
        groups: int = 1,
        activation: Activation = Activation.NONE,
        grid: Grid = (0.1, 4),
        **weights: Any,
    ) -> str:
        n, height, width, depth = self.tensors[x].shape
        operands = self.layer_weights(x, (channels, *kernel, depth // groups), 0, **weights)
        out = self.spatial((height, width), kernel, stride, dilation, pads)
        return self.node(ir.Conv2D(stride, dilation, pads, activation), [x, *operands], (n, *out, channels), grid)

    def depthwise(
        self,
        x: str,
        kernel: ir.Pair,
        *,
        multiplier: int = 1,
        stride: ir.Pair = (1, 1),
        dilation: ir.Pair = (1, 1),
        pads: ir.Pads = ((0, 0), (0, 0)),
        activation: Activation = Activation.NONE,
        grid: Grid = (0.1, 4),
        **weights: Any,
    ) -> str:
        n, height, width, depth = self.tensors[x].shape
        operands = self.layer_weights(x, (1, *kernel, depth * multiplier), 3, **weights)
        out = self.spatial((height, width), kernel, stride, dilation, pads)
        op = ir.DepthwiseConv2D(stride, dilation, pads, activation)
        return self.node(op, [x, *operands], (n, *out, depth * multiplier), grid)

    def pool(
        self,
        op: type[ir.AveragePool2D | ir.MaxPool2D],
        x: str,
        kernel: ir.Pair,
        *,
        stride: ir.Pair = (1, 1),
        pads: ir.Pads = ((0, 0), (0, 0)),
    ) -> str:
        n, height, width, depth = self.tensors[x].shape
        out = self.spatial((height, width), kernel, stride, (1, 1), pads)
        return self.node(op(kernel, stride, pads), [x], (n, *out, depth), self.grid(x))

    def reshape(self, x: str, shape: Shape) -> str:
        return self.node(ir.Reshape(shape), [x], shape, self.grid(x))

    def unary(self, op: LoweredOp, x: str, grid: Grid) -> str:
        return self.node(op, [x], self.tensors[x].shape, grid)

    def binary(self, op: LoweredOp, a: str, b: str, grid: Grid) -> str:
        shape = np.broadcast_shapes(self.tensors[a].shape, self.tensors[b].shape)
        return self.node(op, [a, b], shape, grid)

    def reduce(self, op: ir.Mean | ir.ReduceMax | ir.Sum, x: str, grid: Grid) -> str:
        shape = np.zeros(self.tensors[x].shape, np.int8).max(axis=op.axes, keepdims=op.keepdims).shape
        return self.node(op, [x], shape, grid)

    @staticmethod
    def spatial(size: ir.Pair, kernel: ir.Pair, stride: ir.Pair, dilation: ir.Pair, pads: ir.Pads) -> ir.Pair:
        height, width = (
            valid_size(n + sum(p), k, stride=s, dilation=d)
            for n, k, s, d, p in zip(size, kernel, stride, dilation, pads, strict=True)
        )
        return height, width

    def graph(self, *outputs: str, states: tuple[Any, ...] = ()) -> LoweredGraph:
        used = {n for node in self.nodes for n in (*node.inputs, *node.outputs)} | {*self.inputs, *outputs}
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        graph = LoweredGraph("model", tuple(self.nodes), tensors, tuple(self.inputs), outputs, states)
        verify(graph)
        return graph


def random_inputs(graph: LoweredGraph, count: int = 1, seed: int = 7) -> dict[str, NDArray[Any]]:
    """Return `count` stacked vectors per graph input, over the whole range of its type."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for name in graph.inputs:
        tensor = graph[name]
        shape = (tensor.shape[0] * count, *tensor.shape[1:]) if tensor.shape else ()
        if tensor.dtype is DType.FLOAT32:
            arrays[name] = rng.normal(size=shape).astype(np.float32)
        else:
            info = np.iinfo(tensor.dtype.numpy)
            arrays[name] = rng.integers(info.min, info.max + 1, shape).astype(tensor.dtype.numpy)
    return arrays


def emit(graph: LoweredGraph, **options: Any) -> tuple[LoweredGraph, bytes]:
    """Return the legalised graph and its `.tflite` file."""
    target, choice = NeonTarget(), TargetOptions(**options)
    legal = target.legalize(graph, choice)
    return legal, target.emit(legal, choice).files[FILE_NAME]
