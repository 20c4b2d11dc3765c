"""Legalised graph -> the C99 sources of one network: constants, a plan of the arena, and one call per operator.

Inputs are read and outputs written where the caller has them; everything between lies in one arena, placed by the
planner of TensorFlow Lite Micro (`kwsq.targets.planner`). States are inputs and outputs like others: the caller carries
them.

Source: our design.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from kwsq.targets.planner import Lifetime, MemoryPlan, plan

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
_MAY_FAIL = (Opcode.TABLE, Opcode.QUANTIZE)


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """The text of one network.

    Args:
        name: what its functions begin with.
        header: declarations.
        body: definitions.
        memory: the plan of its arena.
        constant_bytes: bytes of weights, biases and what else is constant, by kind.
    """

    name: str
    header: str
    body: str
    memory: MemoryPlan
    constant_bytes: Mapping[str, int]


def write_sources(graph: LoweredGraph, facts: str) -> Sources:
    """Returns the sources of a graph.

    Args:
        graph: legalised.
        facts: one line about where it comes from.
    """
    return _Writer(graph).sources(facts)


@dataclass(slots=True, eq=False)
class _Writer:
    """Collects definitions while the operators of a graph are written one after another."""

    graph: LoweredGraph
    definitions: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    constant_bytes: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)

    def sources(self, facts: str) -> Sources:
        graph = self.graph
        name = identifiers([graph.name], "model")[graph.name]
        ports = self._ports()
        memory = _memory(graph)
        offsets = {p.lifetime.name: p.offset_bytes for p in memory.placements}
        for tensor, offset in offsets.items():
            self.contents[tensor] = f"(arena + {offset})"
        for position, node in enumerate(graph.nodes):
            self._node(position, node)
        self.calls += [
            f"    memcpy({ports[n]}, {self._read(n)}, {graph[n].size_bytes});\n"
            for n in graph.outputs
            if n in graph.inputs or graph[n].is_constant
        ]
        parameters = ["uint8_t *arena", *(self._parameter(n, ports[n], "const ") for n in graph.inputs)]
        parameters += [self._parameter(n, ports[n], "") for n in graph.outputs]
        signature = f"enum kwsq_status {name}_run({', '.join(parameters)})"
        described = "".join(self._port(name, n, word) for n, word in ports.items())
        header = _header(name, signature, described, memory.high_water_bytes, facts)
        unused = "" if memory.high_water_bytes else "    (void)arena;\n"
        body = (
            f'{comment(facts)}\n#include "{name}.h"\n\n#include <string.h>\n\n#include "kwsq_layers.h"\n\n'
            + "\n".join(self.definitions)
            + f"\n{signature} {{\n{unused}{''.join(self.calls)}    return KWSQ_OK;\n}}\n"
        )
        return Sources(name, header, body, memory, dict(self.constant_bytes))

    def _ports(self) -> dict[str, str]:
        """Returns the parameter of every input and output; an input that is an output too has one of each."""
        graph = self.graph
        words = identifiers([*(f"in {n}" for n in graph.inputs), *(f"out {n}" for n in graph.outputs)], "port")
        outputs = {n: words[f"out {n}"] for n in graph.outputs}
        self.contents |= {n: f"((uint8_t *){word})" for n, word in outputs.items()}
        self.contents |= {n: f"((const uint8_t *){words[f'in {n}']})" for n in graph.inputs}
        return {**{n: words[f"in {n}"] for n in graph.inputs}, **outputs}

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

    def _define(self, kind: str, name: str, values: npt.NDArray[Any]) -> str:
        self.definitions.append(array(name, values))
        self.constant_bytes[kind] = self.constant_bytes.get(kind, 0) + values.nbytes
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
                f"{comment(name)}\nstatic const struct kwsq_tensor {word} = {{{{{dims}}}, {facts}, {flags}}};\n"
            )
            self.tensors[name] = f"&{word}"
        return self.tensors[name]

    def _read(self, name: str) -> str:
        """Returns where the contents of a tensor are, as bytes."""
        tensor = self.graph[name]
        if tensor.data is not None and name not in self.contents:
            word = self._define("constants", f"constant_{len(self.contents)}", np.asarray(tensor.data))
            self.contents[name] = f"((const uint8_t *){word})"
        return self.contents[name]

    def _node(self, position: int, node: LoweredNode) -> None:
        names = [n for n in node.inputs if n]
        call = Call(node.op, tuple(self.graph[n] for n in names), tuple(self.graph[n] for n in node.outputs), ())
        found = describe(call)
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
            numbers = self._define("constants", f"numbers_{position}", np.array(found.attributes, np.int32))
        if found.table is not None:
            word = self._define("constants", f"table_{position}", found.table)
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
            kernel, source, target = ("join", piece, whole) if is_concat else ("part", whole, piece)
            order = (whole, target, piece, source) if is_concat else (whole, source, piece, target)
            w, first, p, last = order
            self.calls.append(
                f"    kwsq_{kernel}({self._tensor(w)}, {self._read(first)}, {self._tensor(p)}, {self._read(last)}, "
                f"{axis}, {done});\n"
            )
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
            patch = self.contents[patch_name(position)]
            self.calls.append(f"    kwsq_conv({arguments}, (int8_t *){patch});\n")

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
        self.definitions.append(f"{comment(weight.name)}\n")
        codes = self._define("weights", f"codes_{position}", np.ascontiguousarray(rows.T if is_depthwise else rows))
        biases = self._define("biases", f"biases_{position}", sums.astype(np.int32))
        effective = numerics.effective_scale_conv(call.source.scale, weight.scale, call.target.scale)
        if found.code is Opcode.DENSE:
            scales = self._define("scales", f"scales_{position}", np.asarray(effective, np.float64))
            requantization = f"NULL, NULL, {scales}"
        else:
            multipliers, shifts = numerics.quantize_multipliers(effective)
            words = (
                self._define("scales", f"multipliers_{position}", np.asarray(multipliers, np.int32)),
                self._define("scales", f"shifts_{position}", np.asarray(shifts, np.int8)),
            )
            requantization = f"{words[0]}, {words[1]}, NULL"
        low, high = found.attributes[:2]
        facts = f"{len(rows)}, {rows.shape[1]}, {int(weight.scale.size > 1)}, {low}, {high}, {_chunks(rows)}"
        word = f"weights_{position}"
        self.definitions.append(
            f"static const struct kwsq_weights {word} = {{{codes}, {biases}, {requantization}, {facts}}};\n"
        )
        return f"&{word}"


def _chunks(rows: Codes) -> int:
    """Returns how many chunks of sixteen products fit 16-bit lanes: equation (48) of docs/quantization.md."""
    largest = int(np.abs(rows.astype(np.int64)).max(initial=1))
    return 32767 // (2 * 128 * largest)


def patch_name(position: int) -> str:
    """Returns the name of the memory in which a convolution gathers what its window sees."""
    return f"patch of operator {position}"


def _memory(graph: LoweredGraph) -> MemoryPlan:
    """Returns where everything lies that the caller does not hold."""
    spans: dict[str, tuple[int, int]] = {}
    held = {*graph.inputs, *graph.outputs}
    for step, node in enumerate(graph.nodes, 1):
        for name in (*node.inputs, *node.outputs):
            if name and name not in held and not graph[name].is_constant:
                spans[name] = (spans.get(name, (step, step))[0], step)
    buffers = [Lifetime(name, graph[name].size_bytes, first, last) for name, (first, last) in spans.items()]
    return plan([*buffers, *_patches(graph)], len(graph.nodes) + 1)


def _patches(graph: LoweredGraph) -> Iterator[Lifetime]:
    for position, node in enumerate(graph.nodes):
        if isinstance(node.op, ir.Conv2D):
            columns = weight_rows(node, graph[node.inputs[1]]).shape[1]
            yield Lifetime(patch_name(position), columns, position + 1, position + 1)


def _header(name: str, signature: str, ports: str, arena_bytes: int, facts: str) -> str:
    guard = f"{name.upper()}_H"
    return (
        f"{comment(facts)}\n#ifndef {guard}\n#define {guard}\n\n"
        '#include "kwsq_kernels.h"\n\n'
        f"/* Bytes of the arena, of any alignment; NULL will do for 0. */\n"
        f"#define {name.upper()}_ARENA_BYTES {arena_bytes}\n\n"
        f"{ports}\n"
        "/* Computes one inference. An arena serves one call at a time; nothing is kept in it between two.\n"
        " * Returns KWSQ_OUT_OF_RANGE for a float input that is NaN, or a code that an operator has no value for. */\n"
        f"{signature};\n\n#endif\n"
    )


assert MAX_RANK == 8, "struct kwsq_tensor holds as many dimensions"
