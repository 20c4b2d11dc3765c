"""Weights on non-uniform levels: Gather(levels, indices), as in docs/codebook-dialect.md.

    indices -> Cast -> Gather(levels, axis 0) -> DequantizeLinear(scale)     the dialect
    indices -> Cast -> Gather(levels, axis 0) [-> Mul(scale) ...]            float levels that lie on an int8 grid
    indices -> Cast -> Gather(levels, axis 0) -> Cast(float) [-> Mul(scale) ...]

Before the scaling the levels may be reshaped or transposed. All run in any ONNX runtime; what is read here is the
indices' width, the levels as int8 integers, and the scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from kwsq.ir.quant import INT8, Codebook, FloatArray, Granularity, IntArray
from kwsq.passes.decode import Array
from kwsq.passes.dialects.canonical import DialectContext, Refused
from kwsq.passes.dialects.integer_path import MAX_DEPTH
from kwsq.passes.dialects.qdq_parameters import is_node, read_parameters
from kwsq.passes.recover_grid import recover_grid

DIALECT = "codebook"
BITS_KEY = "kwsq.bits."
"""Metadata key prefix; the rest is the name of the indices initializer, the value the width of an index."""

_MAX_BITS = 8
_MOVES = frozenset("Reshape Transpose Flatten Squeeze Unsqueeze Identity".split())


def rewrite(context: DialectContext) -> None:
    """Replaces every constant Gather of levels together with the scaling that follows."""
    readers = context.live_consumers()
    for node in list(context.editor.nodes()):
        if node.op != "Gather" or node.domain or not _is_table(context, node):
            continue
        try:
            _Lookup(context, node, readers).rewrite()
        except Refused:
            continue


def _is_table(context: DialectContext, node: gs.Node) -> bool:
    """A vector of levels, read by constant indices."""
    if len(node.inputs) != 2:
        return False
    levels, indices = (context.value(tensor) for tensor in node.inputs)
    return levels is not None and indices is not None and levels.ndim == 1 and indices.ndim >= 1


def _is_scale(gain: Array) -> bool:
    """Whether every channel keeps its order of levels; other products are arithmetic on the weight."""
    return bool(np.all(np.isfinite(gain) & (gain > 0))) and sum(size > 1 for size in gain.shape) <= 1


@dataclass(slots=True, eq=False)
class _Lookup:
    """One Gather of levels.

    Args:
        context: the graph.
        node: the Gather.
        readers: live consumers by tensor id.
    """

    context: DialectContext
    node: gs.Node
    readers: Mapping[int, Sequence[gs.Node]]

    def rewrite(self) -> None:
        """Replaces what reads the gathered levels, or the Gather itself where its levels are final."""
        levels = self.context.required(self.node, 0, "table of levels")
        indices = self.context.required(self.node, 1, "index")
        end = self._moved(self.node.outputs[0])
        if levels.dtype.kind not in "iu":
            if indices.ndim >= 2:
                self._check_indices(indices, levels.size)
                self._read_floats(levels, end)
            return
        scalers = [reader for reader in self._readers(end) if is_node(reader, "DequantizeLinear")]
        cast = self._cast(end)
        if scalers and self._is_weight(end):
            self._check_indices(indices, levels.size)
            self._read_integers(levels, end, scalers)
        elif cast is not None and self._is_weight(cast):
            self._check_indices(indices, levels.size)
            self._read_cast_integers(levels, cast)

    def _readers(self, tensor: gs.Tensor) -> Sequence[gs.Node]:
        return self.readers.get(id(tensor), [])

    def _moved(self, tensor: gs.Tensor) -> gs.Tensor:
        """Returns the levels after all that only reshapes or transposes them."""
        for _ in range(MAX_DEPTH):
            move = self._only_reader(tensor)
            if move is None or move.op not in _MOVES or move.inputs[0] is not tensor:
                break
            tensor = move.outputs[0]
        return tensor

    def _only_reader(self, tensor: gs.Tensor) -> gs.Node | None:
        """The node of the default domain that alone reads a tensor."""
        readers = self._readers(tensor)
        alone = len(readers) == 1 and not readers[0].domain and not self.context.editor.is_output(tensor)
        return readers[0] if alone else None

    def _cast(self, tensor: gs.Tensor) -> gs.Tensor | None:
        """Returns the levels as float32 after all that moves them; None where nothing casts them."""
        cast = self._only_reader(tensor)
        if cast is None or cast.op != "Cast" or cast.attrs.get("to") != TensorProto.FLOAT:
            return None
        return self._moved(cast.outputs[0])

    def _is_weight(self, tensor: gs.Tensor) -> bool:
        """A matrix at least: gathers of shapes and axes give vectors."""
        value = self.context.value(tensor)
        return value is not None and value.ndim >= 2

    def _check_indices(self, indices: Array, count: int) -> None:
        if self.node.attrs.get("axis", 0) not in (0, -1):
            raise self.context.broken(self.node, f"axis {self.node.attrs['axis']} of a vector", "axis 0")
        if indices.min(initial=0) < 0 or indices.max(initial=0) >= count:
            found = f"indices {indices.min()} to {indices.max()} into {count} levels"
            raise self.context.broken(self.node, found, f"0 to {count - 1}")

    def _read_integers(self, levels: Array, end: gs.Tensor, scalers: Sequence[gs.Node]) -> None:
        if levels.dtype != np.int8:
            remedy = "store levels as int8"
            raise self.context.refuse(self.node, f"levels of type {levels.dtype.name}", "int8 levels", remedy)
        codes = np.asarray(self.context.value(end))
        for scaler in scalers:
            parameters = read_parameters(self.context, scaler, levels.dtype)
            if np.any(parameters.zero_point):
                remedy = "subtract the zero point from the levels"
                raise self.context.refuse(scaler, "a codebook with a zero point", "zero point 0", remedy)
            size, axis = parameters.scale.size, parameters.axis
            granularity = self.context.granularity(scaler, size, axis, codes.shape)
            self._emit(scaler, levels, codes, parameters.scale.reshape(-1), granularity)

    def _read_cast_integers(self, levels: Array, end: gs.Tensor) -> None:
        """Integers that are cast and multiplied are arithmetic too, so levels need no order; wider ones stay that."""
        distinct = np.unique(levels)
        if distinct.size < 2 or not INT8.contains(distinct):
            return
        self._emit_scaled(distinct.astype(np.int8), np.asarray(self.context.value(end), np.int8), np.float32(1), end)

    def _read_floats(self, levels: Array, end: gs.Tensor) -> None:
        integers, step = self._on_grid(levels)
        places = np.searchsorted(levels, np.asarray(self.context.value(end)))
        self._emit_scaled(integers, integers[np.minimum(places, levels.size - 1)], step, end)

    def _emit_scaled(self, levels: IntArray, codes: IntArray, step: np.float32, end: gs.Tensor) -> None:
        """Emits levels times all the constants that multiply them one after the other."""
        gain = np.array(step)
        for _ in range(MAX_DEPTH):
            scaler = self._only_reader(end)
            factor = None if scaler is None or scaler.op != "Mul" else self._factor(scaler, end)
            if scaler is None or factor is None or not _is_scale(gain * factor):
                break
            gain, end = np.asarray(gain * factor, np.float32), scaler.outputs[0]
        node = self.context.editor.producer(end)
        scale = self.context.scale(node, gain)
        vector, granularity = self.context.along_one_axis(node, scale, codes.shape)
        self._emit(node, levels, codes, vector, granularity)

    def _factor(self, scaler: gs.Node, tensor: gs.Tensor) -> Array | None:
        other = next((item for item in scaler.inputs if item is not tensor), None)
        return None if other is None else self.context.value(other)

    def _on_grid(self, levels: Array) -> tuple[IntArray, np.float32]:
        """Float levels as int8 integers times one step; integers in float form keep step 1."""
        if np.array_equal(levels, np.rint(levels)) and np.max(np.abs(levels)) <= 127:
            return levels.astype(np.int8), np.float32(1)
        found = recover_grid(np.asarray(levels, np.float32), axes=())
        if found is None:
            remedy = "round the levels to integers -127 to 127 times one scale"
            raise self.context.refuse(self.node, "float levels that lie on no int8 grid", "int8 levels", remedy)
        return found.codes, np.float32(found.spec.scale[0])

    def _emit(
        self, end: gs.Node, levels: IntArray, codes: IntArray, scale: FloatArray, granularity: Granularity
    ) -> None:
        if levels.size < 2 or np.any(np.diff(levels.astype(np.int32)) <= 0):
            found = f"{levels.size} levels that do not strictly increase"
            raise self.context.broken(self.node, found, "2 or more strictly increasing levels")
        origin = self._indices_name()
        spec = Codebook(levels, scale, self._bits(levels.size, origin), granularity)
        self.context.codes(end, end.outputs[0], codes, spec, DIALECT, origin)

    def _indices_name(self) -> str:
        tensor = self.node.inputs[1]
        source = self.context.editor.producer(tensor)
        return str(source.inputs[0].name if source is not None and source.op == "Cast" else tensor.name)

    def _bits(self, count: int, origin: str) -> int:
        least = max(1, math.ceil(math.log2(count)))
        stated = self.context.metadata.get(BITS_KEY + origin)
        if stated is None:
            bits = least
        elif stated.isascii() and stated.isdigit() and least <= int(stated) <= _MAX_BITS:
            bits = int(stated)
        else:
            expected = f"a width of {least} to {_MAX_BITS} for {count} levels"
            raise self.context.broken(self.node, f"metadata {BITS_KEY}{origin} = {stated[:16]!r}", expected)
        return bits
