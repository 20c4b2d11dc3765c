"""Gemm and MatMul: Dense where one operand is constant, MatMul where both are computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.graph import Op, Tensor
from kwsq.ir.ops import Add, Dense, MatMul, Mul, Reshape, Transpose
from kwsq.passes.importers.context import ImportContext, UnsupportedNodeError

_TRANSPOSED = "transposed"


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Adds the operators one source node is made of; each gets a name of its own."""

    ctx: ImportContext
    node: gs.Node

    def add(self, op: Op, inputs: list[str], part: str) -> str:
        return self.ctx.add(self.node, op, inputs, last=False, part=part)

    def finish(self, value: str, shape: tuple[int, ...]) -> None:
        """Lets the source node's output be `value`, the last part added, reshaped where its shape differs."""
        if self.tensor(value).shape != shape:
            self.ctx.add(self.node, Reshape(shape), [value])
            return
        builder, target = self.ctx.builder, self.node.outputs[0].name
        last = next(reversed(builder.nodes.values()))
        builder.remove_node(last.name)
        builder.nodes[self.node.name] = replace(last, name=self.node.name, outputs=(target,))
        builder.tensors[target] = replace(builder.tensors.pop(value), name=target)

    def tensor(self, name: str) -> Tensor:
        return self.ctx.builder.tensors[name]

    def swapped(self, name: str, part: str) -> str:
        """Returns the value with its last two dimensions swapped."""
        tensor = self.tensor(name)
        if tensor.is_constant:
            return _transposed(self.ctx, tensor)
        perm = (*range(tensor.rank - 2), tensor.rank - 1, tensor.rank - 2)
        return self.add(Transpose(perm), [name], part)


def import_gemm(ctx: ImportContext, node: gs.Node) -> None:
    """Gemm: a product, a gain alpha and an addend beta * C."""
    parts, inputs = _Parts(ctx, node), ctx.inputs(node)
    a, b = inputs[:2]
    if parts.tensor(a).rank != 2 or parts.tensor(b).rank != 2:
        raise ValueError(f"operands of shapes {parts.tensor(a).shape} and {parts.tensor(b).shape}")
    a = parts.swapped(a, "transposed_a") if node.attrs.get("transA", 0) else a
    b = parts.swapped(b, "transposed_b") if node.attrs.get("transB", 0) else b
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    addend = inputs[2] if len(inputs) > 2 and beta != 0 else ""
    shape = (parts.tensor(a).shape[0], parts.tensor(b).shape[-1])
    bias = _layer_bias(parts, b, addend) if alpha == beta == 1.0 else ""
    y = _product(parts, a, b, bias)
    if alpha != 1.0:
        y = parts.add(Mul(), [y, ctx.scalar(node, "alpha", alpha)], "alpha")
    if addend and not bias:
        y = parts.add(Add(), [y, _scaled(parts, addend, beta)], "sum")
    parts.finish(y, shape)


def import_matmul(ctx: ImportContext, node: gs.Node) -> None:
    """MatMul with NumPy's rules for vectors and stacks of matrices."""
    parts, (a, b) = _Parts(ctx, node), ctx.inputs(node)
    shapes = parts.tensor(a).shape, parts.tensor(b).shape
    shape = np.matmul(*(np.broadcast_to(np.float32(0), shape) for shape in shapes)).shape
    if not shape:
        raise UnsupportedNodeError("a product of two vectors, a scalar", "at least one dimension left", "use a matrix")
    parts.finish(_product(parts, a, b, ""), shape)


def _product(parts: _Parts, a: str, b: str, bias: str) -> str:
    """Returns the product of two values, up to dimensions of size 1."""
    first, second = parts.tensor(a), parts.tensor(b)
    if first.is_constant and second.is_constant:
        raise UnsupportedNodeError("a product of two constants", "at least one computed operand", "fold it")
    if second.is_constant:
        weight = _transposed(parts.ctx, _matrix(parts.ctx, second, column=True))
        return parts.add(Dense(), [a, weight, *([bias] if bias else [])], "product")
    if first.is_constant:
        return _left_product(parts, _matrix(parts.ctx, first, column=False).name, b)
    return parts.add(
        MatMul(), [_stack(parts, a, (1, first.shape[-1])), _stack(parts, b, (second.shape[-1], 1))], "product"
    )


def _left_product(parts: _Parts, weight: str, x: str) -> str:
    """W x = (x^T W^T)^T."""
    if parts.tensor(x).rank == 1:
        return parts.add(Dense(), [x, weight], "product")
    y = parts.add(Dense(), [parts.swapped(x, "columns"), weight], "product")
    return parts.swapped(y, "rows")


def _stack(parts: _Parts, name: str, vector: tuple[int, int]) -> str:
    """Returns the value as a matrix (or a stack of them)."""
    return name if parts.tensor(name).rank > 1 else parts.add(Reshape(vector), [name], "vector")


def _matrix(ctx: ImportContext, weight: Tensor, *, column: bool) -> Tensor:
    """Returns a constant as a matrix; a stack of one matrix loses its leading dimensions."""
    if weight.rank == 2:
        return weight
    if weight.rank == 0 or any(size != 1 for size in weight.shape[:-2]):
        raise UnsupportedNodeError(
            f"a constant operand of shape {list(weight.shape)}",
            "one constant matrix for the whole batch",
            "split it into one MatMul per matrix",
        )
    size = weight.shape[-1]
    shape = ((size, 1) if column else (1, size)) if weight.rank == 1 else weight.shape[-2:]
    dropped = weight.rank - 2
    assert weight.data is not None

    def axis(old: int) -> int | None:
        return (0 if column else 1) if weight.rank == 1 else (old - dropped if old >= dropped else None)

    how = "column" if column else "matrix"
    name = ctx.moved_constant(weight.name, how, weight.data.reshape(shape), axis)
    if name is None:
        raise UnsupportedNodeError("scales along a batch dimension of a weight", "scales per output channel")
    return ctx.builder.tensors[name]


def _transposed(ctx: ImportContext, weight: Tensor) -> str:
    """Returns the name of the transposed constant, its grid moved along; undoes an earlier transposition."""
    assert weight.data is not None
    undone = next((old for (old, how), new in ctx.moved.items() if (how, new) == (_TRANSPOSED, weight.name)), None)
    if undone is not None:
        return undone
    name = ctx.moved_constant(weight.name, _TRANSPOSED, np.ascontiguousarray(weight.data.T), lambda axis: 1 - axis)
    assert name is not None, "a transposition keeps both axes"
    return name


def _layer_bias(parts: _Parts, weight: str, addend: str) -> str:
    """Returns an addend that every row shares as a bias of shape (O,), "" for any other."""
    if not addend or not parts.tensor(weight).is_constant or not parts.tensor(addend).is_constant:
        return ""
    tensor, outputs = parts.tensor(addend), parts.tensor(weight).shape[-1]
    if tensor.shape == (outputs,):
        return addend
    if tensor.shape not in ((), (1,), (1, 1), (1, outputs)):
        return ""
    values = np.array(np.broadcast_to(tensor.real(), (1, outputs)).reshape(outputs))
    return parts.ctx.builder.add_constant(f"{parts.node.name}/bias", values, origin=tensor.origin)


def _scaled(parts: _Parts, addend: str, beta: float) -> str:
    tensor = parts.tensor(addend)
    if beta == 1.0:
        return addend
    if tensor.is_constant:
        return parts.ctx.builder.add_constant(f"{addend}/beta", tensor.real() * np.float32(beta), origin=tensor.origin)
    return parts.add(Mul(), [addend, parts.ctx.scalar(parts.node, "beta", beta)], "beta")
