"""Weights on non-uniform levels: Gather(levels, indices), as in docs/codebook-dialect.md.

    indices -> Cast -> Gather(levels, axis 0) -> DequantizeLinear(scale)     the dialect
    indices -> Cast -> Gather(levels, axis 0) [-> Mul(scale)]                float levels that lie on an int8 grid

Both run in any ONNX runtime; what is read here is the indices' width, the levels as int8 integers, and the scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.quant import Codebook, FloatArray, Granularity, IntArray, PerTensor
from kwsq.passes.decode import Array
from kwsq.passes.dialects.canonical import DialectContext, Refused
from kwsq.passes.dialects.qdq_parameters import is_node, read_parameters
from kwsq.passes.recover_grid import recover_grid

DIALECT = "codebook"
BITS_KEY = "kwsq.bits."
"""Metadata key prefix; the rest is the name of the indices initializer, the value the width of an index."""

_MAX_BITS = 8


def rewrite(context: DialectContext) -> None:
    """Replaces every constant Gather of levels together with the scaling that follows."""
    readers = context.live_consumers()
    for node in list(context.editor.nodes()):
        if node.op != "Gather" or node.domain or not _is_weight(context, node):
            continue
        try:
            _Lookup(context, node).rewrite(readers.get(id(node.outputs[0]), []))
        except Refused:
            continue


def _is_weight(context: DialectContext, node: gs.Node) -> bool:
    """A matrix at least, taken from a vector: gathers of shapes and axes give vectors."""
    if len(node.inputs) != 2:
        return False
    levels, indices = (context.value(tensor) for tensor in node.inputs)
    return levels is not None and indices is not None and levels.ndim == 1 and indices.ndim >= 2


@dataclass(slots=True, eq=False)
class _Lookup:
    """One Gather of levels."""

    context: DialectContext
    node: gs.Node

    def rewrite(self, readers: list[gs.Node]) -> None:
        """Replaces what reads the gathered levels, or the Gather itself where its levels are final."""
        levels = self.context.required(self.node, 0, "table of levels")
        indices = self._indices(levels.size)
        if levels.dtype.kind in "iu":
            self._read_integers(levels, indices, readers)
        else:
            self._read_floats(levels, indices, readers)

    def _indices(self, count: int) -> Array:
        indices = self.context.required(self.node, 1, "index")
        if self.node.attrs.get("axis", 0) not in (0, -1):
            raise self.context.broken(self.node, f"axis {self.node.attrs['axis']} of a vector", "axis 0")
        if indices.min(initial=0) < 0 or indices.max(initial=0) >= count:
            found = f"indices {indices.min()} to {indices.max()} into {count} levels"
            raise self.context.broken(self.node, found, f"0 to {count - 1}")
        return indices

    def _read_integers(self, levels: Array, indices: Array, readers: list[gs.Node]) -> None:
        scalers = [reader for reader in readers if is_node(reader, "DequantizeLinear")]
        if not scalers:
            # Integers that nobody dequantizes are not weights.
            return
        if levels.dtype != np.int8:
            remedy = "store levels as int8"
            raise self.context.refuse(self.node, f"levels of type {levels.dtype.name}", "int8 levels", remedy)
        for scaler in scalers:
            parameters = read_parameters(self.context, scaler, levels.dtype)
            if np.any(parameters.zero_point):
                remedy = "subtract the zero point from the levels"
                raise self.context.refuse(scaler, "a codebook with a zero point", "zero point 0", remedy)
            size, axis = parameters.scale.size, parameters.axis
            granularity = self.context.granularity(scaler, size, axis, indices.shape)
            self._emit(scaler, levels, indices, parameters.scale.reshape(-1), granularity)

    def _read_floats(self, levels: Array, indices: Array, readers: list[gs.Node]) -> None:
        integers, step = self._on_grid(levels)
        scaler = readers[0] if len(readers) == 1 and readers[0].op == "Mul" and not readers[0].domain else None
        gain = None if scaler is None else self._gain(scaler)
        if scaler is None or gain is None:
            self._emit(self.node, integers, indices, np.array([step], np.float32), PerTensor())
            return
        scale = self.context.scale(scaler, np.asarray(gain * step, np.float32))
        vector, granularity = self.context.along_one_axis(scaler, scale, indices.shape)
        self._emit(scaler, integers, indices, vector, granularity)

    def _gain(self, scaler: gs.Node) -> Array | None:
        other = next((item for item in scaler.inputs if item is not self.node.outputs[0]), None)
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
        self, end: gs.Node, levels: IntArray, indices: Array, scale: FloatArray, granularity: Granularity
    ) -> None:
        if levels.size < 2 or np.any(np.diff(levels.astype(np.int32)) <= 0):
            found = f"{levels.size} levels that do not strictly increase"
            raise self.context.broken(self.node, found, "2 or more strictly increasing levels")
        origin = self._indices_name()
        spec = Codebook(levels, scale, self._bits(levels.size, origin), granularity)
        self.context.codes(end, end.outputs[0], levels[indices.astype(np.intp)], spec, DIALECT, origin)

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
