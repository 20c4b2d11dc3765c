"""Legalised graph -> the C99 sources of one network: constants, a plan of the arena, and one call per operator.

Inputs are read and outputs written where the caller has them; everything between lies in one arena, placed by the
planner of TensorFlow Lite Micro (`kwsq.targets.planner`). States are inputs and outputs like others: the caller carries
them.

Source: our design.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir import lowered as ir
from kwsq.ir import numerics
from kwsq.ir.execute.call import Call
from kwsq.ir.lowered import DType, LoweredGraph, LoweredNode
from kwsq.targets.c.literals import array, comment, identifiers, number
from kwsq.targets.machine import MAX_RANK, Opcode
from kwsq.targets.operators import LAYERS, Codes, Description, describe, weight_rows
from kwsq.targets.planner import Lifetime, plan

TYPES = {DType.INT8: "KWSQ_INT8", DType.UINT8: "KWSQ_UINT8", DType.FLOAT32: "KWSQ_FLOAT32"}
POINTERS = {DType.INT8: "int8_t", DType.UINT8: "uint8_t", DType.FLOAT32: "float"}
_KERNELS = {
    Opcode.MATMUL: "matmul",
    Opcode.TABLE: "table",
    Opcode.SOFTMAX: "softmax",
    Opcode.AVERAGE_POOL: "pool",
    Opcode.MAX_POOL: "pool",
    Opcode.MEAN: "reduce",
    Opcode.REDUCE_MAX: "reduce",
    Opcode.PAD: "pad",
    Opcode.RESHAPE: "reshape",
    Opcode.TRANSPOSE: "transpose",
    Opcode.SLICE: "slice",
    Opcode.REQUANTIZE: "requantize",
    Opcode.QUANTIZE: "quantize",
    Opcode.DEQUANTIZE: "dequantize",
}
"""Every other one is elementwise, but concatenations and splits."""
BLOCK = 4
"""KWSQ_BLOCK of kwsq_layers.h: rows, and columns at a time, whose codes lie together."""
_MAY_FAIL = (Opcode.TABLE, Opcode.QUANTIZE)


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """The text of one network.

    Args:
        header: declarations.
        body: definitions.
        arena_bytes: size of its arena.
        constant_bytes: bytes of weights, biases and what else is constant.
    """

    header: str
    body: str
    arena_bytes: int
    constant_bytes: int


def write_sources(graph: LoweredGraph, prefix: str, facts: str, *, strip_names: bool = False) -> Sources:
    """Returns the sources of a graph.

    Args:
        graph: legalised.
        prefix: identifier that everything declared begins with.
        facts: one line about where it comes from.
        strip_names: leave the names of inner tensors and operators out of comments.
    """
    return _Writer(graph, strip_names).sources(prefix, facts)


@dataclass(slots=True, eq=False)
class _Writer:
    """Collects definitions while the operators of a graph are written one after another."""

    graph: LoweredGraph
    strip_names: bool
    definitions: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    constant_bytes: int = 0
    tensors: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    patches: dict[int, str] = field(default_factory=dict)

    def sources(self, prefix: str, facts: str) -> Sources:
        graph = self.graph
        inputs, outputs = self._ports()
        arena_bytes = self._place(inputs, outputs)
        for position, node in enumerate(graph.nodes):
            self._node(position, node)
        self.calls += [
            f"    memcpy({word}, {self._read(n)}, {graph[n].size_bytes});\n"
            for n, word in outputs.items()
            if n in inputs or graph[n].is_constant
        ]
        parameters = ["uint8_t *arena", *(self._parameter(n, word, "const ") for n, word in inputs.items())]
        parameters += [self._parameter(n, word, "") for n, word in outputs.items()]
        signature = f"enum kwsq_status {prefix}_run({', '.join(parameters)})"
        described = "".join(self._port(prefix, n, word) for n, word in (*inputs.items(), *outputs.items()))
        calls = "".join(self.calls)
        unread = [word for word in ("arena", *inputs.values()) if not re.search(rf"\b{word}\b", calls)]
        unused = "".join(f"    (void){word};\n" for word in unread)
        body = (
            f'{comment(facts)}\n#include "model.h"\n\n#include <string.h>\n\n#include "kwsq_layers.h"\n\n'
            + "\n".join(self.definitions)
            + f"\n{signature} {{\n{unused}{calls}    return KWSQ_OK;\n}}\n"
        )
        header = _header(prefix, signature, described, arena_bytes, facts)
        return Sources(header, body, arena_bytes, self.constant_bytes)

    def _ports(self) -> tuple[dict[str, str], dict[str, str]]:
        """Returns the parameters of inputs and of outputs; an input that is an output too has one of each."""
        graph = self.graph
        words = identifiers([*(f"in {n}" for n in graph.inputs), *(f"out {n}" for n in graph.outputs)], "port")
        return {n: words[f"in {n}"] for n in graph.inputs}, {n: words[f"out {n}"] for n in graph.outputs}

    def _place(self, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> int:
        """Notes where everything lies: with the caller, or in the arena, whose bytes are returned."""
        graph, spans, patches = self.graph, _spans(self.graph), _patches(self.graph)
        buffers = [Lifetime(name, graph[name].size_bytes, *span) for name, span in spans.items()]
        buffers += [Lifetime("", size, position + 1, position + 1) for position, size in patches.items()]
        memory = plan(buffers, len(graph.nodes) + 1)
        offsets = [f"(arena + {placement.offset_bytes})" for placement in memory.placements]
        self.contents |= dict(zip(spans, offsets, strict=False))
        self.patches |= dict(zip(patches, offsets[len(spans) :], strict=True))
        self.contents |= {n: f"((uint8_t *){word})" for n, word in outputs.items() if not self.graph[n].is_constant}
        self.contents |= {n: f"((const uint8_t *){word})" for n, word in inputs.items()}
        return memory.high_water_bytes

    def _comment(self, text: str) -> str:
        return "" if self.strip_names else f"{comment(text)}\n"

    def _port(self, prefix: str, name: str, word: str) -> str:
        """Returns what a caller must know of an input or output."""
        tensor = self.graph[name]
        kind = f"{word}: {name}, {tensor.dtype.value} {list(tensor.shape)}"
        if tensor.scale is None:
            return f"{comment(kind)}\n"
        scale, macro = number(tensor.scale[0], "float32"), f"{prefix}_{word}".upper()
        return (
            f"{comment(f'{kind}; real = scale * (code - zero point)')}\n"
            f"#define {macro}_SCALE {scale}\n#define {macro}_ZERO_POINT ({tensor.zero_point})\n"
        )

    def _parameter(self, name: str, word: str, qualifier: str) -> str:
        return f"{qualifier}{POINTERS[self.graph[name].dtype]} *{word}"

    def _define(self, name: str, values: npt.NDArray[Any]) -> str:
        self.definitions.append(array(name, values))
        self.constant_bytes += values.nbytes
        return name

    def _tensor(self, name: str) -> str:
        """Returns the address of a tensor's description, defined once."""
        if name not in self.tensors:
            tensor = self.graph[name]
            word = f"tensor_{len(self.tensors)}"
            dims = ", ".join(map(str, tensor.shape)) or "1"
            scale = number(0.0 if tensor.scale is None else tensor.scale[0], "float32")
            facts = f"{len(tensor.shape)}, {tensor.size}, {tensor.size_bytes}, 0, {tensor.zero_point}, {scale}"
            flags = f"{TYPES[tensor.dtype]}, {int(tensor.is_constant)}"
            self.definitions.append(
                f"{self._comment(name)}static const struct kwsq_tensor {word} = {{{{{dims}}}, {facts}, {flags}}};\n"
            )
            self.tensors[name] = f"&{word}"
        return self.tensors[name]

    def _read(self, name: str) -> str:
        """Returns where the contents of a tensor are, as bytes."""
        tensor = self.graph[name]
        if tensor.data is not None and name not in self.contents:
            word = self._define(f"constant_{len(self.contents)}", np.asarray(tensor.data))
            self.contents[name] = f"((const uint8_t *){word})"
        return self.contents[name]

    def _node(self, position: int, node: LoweredNode) -> None:
        names = [n for n in node.inputs if n]
        call = Call(node.op, tuple(self.graph[n] for n in names), tuple(self.graph[n] for n in node.outputs), ())
        found = describe(call)
        if not self.strip_names:
            self.calls.append(f"    {comment(', '.join(node.origins) or node.name)}\n")
        if isinstance(node.op, LAYERS):
            self._layer(position, node, call, found)
        elif found.code in (Opcode.CONCAT, Opcode.SPLIT):
            self._pieces(node, found)
        else:
            self._kernel(position, names, node.outputs[0], found)

    def _kernel(self, position: int, names: list[str], output: str, found: Description) -> None:
        numbers = table = "NULL"
        if found.attributes:
            numbers = self._define(f"numbers_{position}", np.array(found.attributes, np.int32))
        if found.table is not None:
            word = self._define(f"table_{position}", found.table)
            table = f"(const uint8_t *){word}"
        x, b = names[0], names[1] if len(names) > 1 else None
        second = ("NULL", "NULL") if b is None else (self._tensor(b), self._read(b))
        facts = f"KWSQ_{found.code.name}, {numbers}, {table}, {self._tensor(x)}, {second[0]}, {self._tensor(output)}"
        data = f"{self._read(x)}, {second[1]}, {self._read(output)}"
        kernel = f"kwsq_{_KERNELS.get(found.code, 'elementwise')}(&call)"
        run = f"if ({kernel} != KWSQ_OK) return KWSQ_OUT_OF_RANGE" if found.code in _MAY_FAIL else kernel
        self.calls.append(
            f"    {{\n        const struct kwsq_call call = {{{facts},\n"
            f"                                       {data}}};\n        {run};\n    }}\n"
        )

    def _pieces(self, node: LoweredNode, found: Description) -> None:
        (axis,) = found.attributes
        is_concat = found.code is Opcode.CONCAT
        (whole,) = node.outputs if is_concat else node.inputs
        done = 0
        for piece in node.inputs if is_concat else node.outputs:
            sides = ", ".join(f"{self._tensor(name)}, {self._read(name)}" for name in (whole, piece))
            self.calls.append(f"    kwsq_{'join' if is_concat else 'part'}({sides}, {axis}, {done});\n")
            done += self.graph[piece].shape[axis]

    def _layer(self, position: int, node: LoweredNode, call: Call, found: Description) -> None:
        weights = self._weights(position, node, call, found)
        x, y = node.inputs[0], node.outputs[0]
        source = f"(const int8_t *){self._read(x)}"
        target = f"(int8_t *){self._read(y)}"
        if found.code is Opcode.DENSE:
            arguments = f"{weights}, {self._tensor(x)}, {source}, {self._tensor(y)}, {target}"
            self.calls.append(f"    kwsq_dense({arguments});\n")
            return
        window = self._window(position, call, found)
        arguments = f"{weights}, {window}, {self._tensor(x)}, {source}, {self._tensor(y)}, {target}"
        if found.code is Opcode.DEPTHWISE:
            self.calls.append(f"    kwsq_depthwise({arguments});\n")
        else:
            self.calls.append(f"    kwsq_conv({arguments}, (int8_t *){self.patches[position]});\n")

    def _window(self, position: int, call: Call, found: Description) -> str:
        _, height, width, depth = call.inputs[1].shape
        stride, dilation, before = (found.attributes[i : i + 2] for i in (2, 4, 6))
        depth = 1 if found.code is Opcode.DEPTHWISE else depth
        pairs = ", ".join(f"{{{a}, {b}}}" for a, b in ((height, width), stride, dilation, before))
        word = f"window_{position}"
        self.definitions.append(f"static const struct kwsq_window {word} = {{{pairs}, {depth}}};\n")
        return f"&{word}"

    def _weights(self, position: int, node: LoweredNode, call: Call, found: Description) -> str:
        weight = call.inputs[1]
        assert weight.scale is not None, f"{weight.name} is quantised"
        rows = weight_rows(node, weight)
        is_depthwise = found.code is Opcode.DEPTHWISE
        bias = None if len(call.inputs) < 3 else np.asarray(call.inputs[2].data, np.int32)
        sums = numerics.fold_zero_point(rows, bias, 0 if is_depthwise else call.source.zero_point)
        self.definitions.append(self._comment(weight.name))
        groups = 1 if found.code is Opcode.DENSE else call.inputs[0].shape[-1] // weight.shape[-1]
        laid = np.ascontiguousarray(rows.T) if is_depthwise else in_blocks(rows, groups)
        codes = self._define(f"codes_{position}", laid)
        biases = self._define(f"biases_{position}", sums.astype(np.int32))
        effective = numerics.effective_scale_conv(call.source.scale, weight.scale, call.target.scale)
        if found.code is Opcode.DENSE:
            scales = self._define(f"scales_{position}", np.asarray(effective, np.float64))
            requantization = f"NULL, NULL, {scales}"
        else:
            multipliers, shifts = numerics.quantize_multipliers(effective)
            words = (
                self._define(f"multipliers_{position}", np.asarray(multipliers, np.int32)),
                self._define(f"shifts_{position}", np.asarray(shifts, np.int8)),
            )
            requantization = f"{words[0]}, {words[1]}, NULL"
        low, high = found.attributes[:2]
        facts = f"{len(rows)}, {rows.shape[1]}, {int(weight.scale.size > 1)}, {low}, {high}, {_chunks(rows)}"
        word = f"weights_{position}"
        self.definitions.append(
            f"static const struct kwsq_weights {word} = {{{codes}, {biases}, {requantization}, {facts}}};\n"
        )
        return f"&{word}"


def in_blocks(rows: Codes, groups: int) -> Codes:
    """Returns codes in the order of kwsq_layers.h.

    Args:
        rows: (C_out, columns) codes.
        groups: of output channels; no block has rows of two.

    Returns:
        The same codes, (C_out * columns,).
    """
    blocks = [
        block[:, column : column + BLOCK].reshape(-1)
        for group in np.split(rows, groups)
        for block in np.split(group, range(BLOCK, len(group), BLOCK))
        for column in range(0, block.shape[1], BLOCK)
    ]
    return np.concatenate(blocks)


def _chunks(rows: Codes) -> int:
    """Returns how many pairs of products fit 16-bit lanes: equation (48) of docs/quantization.md."""
    largest = int(np.abs(rows.astype(np.int64)).max(initial=1))
    return 32767 // (2 * 128 * largest)


def _spans(graph: LoweredGraph) -> dict[str, tuple[int, int]]:
    """Returns the first and last step of every tensor that is neither the caller's nor constant."""
    spans: dict[str, tuple[int, int]] = {}
    held = {*graph.inputs, *graph.outputs}
    for step, node in enumerate(graph.nodes, 1):
        for name in (*node.inputs, *node.outputs):
            if name and name not in held and not graph[name].is_constant:
                spans[name] = (spans.get(name, (step, step))[0], step)
    return spans


def _patches(graph: LoweredGraph) -> dict[int, int]:
    """Returns, by position, the bytes in which a convolution gathers what its windows see."""
    nodes = enumerate(graph.nodes)
    return {i: weight_rows(n, graph[n.inputs[1]]).shape[1] for i, n in nodes if isinstance(n.op, ir.Conv2D)}


def _header(prefix: str, signature: str, ports: str, arena_bytes: int, facts: str) -> str:
    guard = f"{prefix.upper()}_H"
    return (
        f"{comment(facts)}\n#ifndef {guard}\n#define {guard}\n\n"
        '#include "kwsq_kernels.h"\n\n#ifdef __cplusplus\nextern "C" {\n#endif\n\n'
        "/* Bytes of the arena, of any alignment. */\n"
        f"#define {prefix.upper()}_ARENA_BYTES {max(arena_bytes, 1)}\n\n"
        f"{ports}\n"
        "/* Computes one inference. Arena, inputs and outputs must not overlap. An arena serves one call at a time;\n"
        " * nothing is kept in it between two.\n"
        " * Returns KWSQ_OUT_OF_RANGE for a float input that is NaN, or a code that an operator has no value for. */\n"
        f"{signature};\n\n#ifdef __cplusplus\n}}\n#endif\n\n#endif\n"
    )


assert MAX_RANK == 8, "struct kwsq_tensor holds as many dimensions"
