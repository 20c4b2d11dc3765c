"""Does a pack hold what the graph says? Its bytes are decoded again and compared: codes, scales, biases, boundary."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kwsq.converter.parity.report import Check, Mismatch
from kwsq.ir.lowered import DepthwiseConv2D, LoweredGraph, LoweredNode, LoweredTensor
from kwsq.targets.accel.format import Role
from kwsq.targets.accel.records import Pack, PackLayer, PackOperator, PackTensor
from kwsq.targets.accel.weights import coding_of_layer, layer_biases, layer_codes, layer_scales
from kwsq.targets.machine import LAYER_OPCODES
from kwsq.targets.operators import LAYERS

QUESTION = "the pack, read back, holds the graph's codes, levels, scales, biases, grids and boundary"


def check_pack_structure(graph: LoweredGraph, pack: Pack) -> Check:
    """Compares a pack with the graph it was written from.

    Args:
        graph: legalised graph.
        pack: the artefact, read back.
    """
    return Check("structure", QUESTION, tuple(_mismatches(graph, pack)))


def _mismatches(graph: LoweredGraph, pack: Pack) -> Iterator[Mismatch]:
    if len(pack.graph.operators) != len(graph.nodes):
        yield Mismatch(graph.name, "operators", str(len(graph.nodes)), str(len(pack.graph.operators)))
        return
    yield from _boundary(graph, pack)
    for node, operator in zip(graph.nodes, pack.graph.operators, strict=True):
        is_layer = isinstance(node.op, LAYERS)
        if is_layer != (operator.code in LAYER_OPCODES):
            yield Mismatch(node.name, "operator", node.op.name, operator.code.name)
            continue
        names = node.inputs[:1] if is_layer else tuple(name for name in node.inputs if name)
        for name, number in zip((*names, *node.outputs), (*operator.inputs, *operator.outputs), strict=True):
            yield from _tensor(graph[name], pack.graph.tensors[number])
        if is_layer:
            yield from _layer(graph, node, operator, pack)


def _boundary(graph: LoweredGraph, pack: Pack) -> Iterator[Mismatch]:
    for role, names in ((Role.INPUT, graph.inputs), (Role.OUTPUT, graph.outputs)):
        found = tuple(entry.name for entry in pack.entries(role))
        if found != names:
            yield Mismatch(graph.name, f"{role.name.lower()}s", str(names), str(found))
    states = [(e.name, pack.io[e.partner].name) for e in pack.entries(Role.INPUT) if e.partner is not None]
    expected = sorted((pair.input, pair.output) for pair in graph.states)
    if sorted(states) != expected:
        yield Mismatch(graph.name, "states", str(expected), str(sorted(states)))


def _tensor(tensor: LoweredTensor, found: PackTensor) -> Iterator[Mismatch]:
    scale = 0.0 if tensor.scale is None else float(tensor.scale[0])
    pairs = (
        ("shape", tensor.shape, found.shape),
        ("type", tensor.dtype.value, found.dtype.name.lower()),
        ("scale", scale.hex(), found.scale.hex()),
        ("zero point", tensor.zero_point, found.zero_point),
    )
    for what, want, got in pairs:
        if want != got:
            yield Mismatch(tensor.name, what, str(want), str(got))


def _layer(graph: LoweredGraph, node: LoweredNode, operator: PackOperator, pack: Pack) -> Iterator[Mismatch]:
    weight, layer = graph[node.inputs[1]], pack.graph.layers[operator.attributes[0]]
    assert weight.data is not None, f"{weight.name} is a constant"
    assert weight.scale is not None, f"{weight.name} is quantised"
    yield from _array(weight.name, "code", np.asarray(weight.data), _physical(node, layer, weight.shape, pack))
    levels = coding_of_layer(layer, pack.sections).levels
    wanted = None if weight.levels is None else weight.levels.tolist()
    if (None if levels is None else levels.tolist()) != wanted:
        yield Mismatch(weight.name, "levels", str(wanted), str(levels))
    ends = (pack.graph.tensors[operator.inputs[0]].scale, pack.graph.tensors[operator.outputs[0]].scale)
    # Compared as bits: a scale is an exact float32, not an approximation.
    scales = layer_scales(layer, pack.sections, *ends)
    yield from _array(weight.name, "scale", weight.scale.view(np.uint32), scales.view(np.uint32))
    bias = graph[node.inputs[2]].data if len(node.inputs) > 2 and node.inputs[2] else None
    found = layer_biases(layer, pack.sections)
    if (bias is None) != (found is None):
        yield Mismatch(weight.name, "bias", str(bias is not None), str(found is not None))
    elif bias is not None and found is not None:
        yield from _array(node.inputs[2], "bias", bias, found)


def _physical(node: LoweredNode, layer: PackLayer, shape: tuple[int, ...], pack: Pack) -> npt.NDArray[np.int8]:
    codes = layer_codes(layer, pack.sections)
    if codes.size != int(np.prod(shape)):
        return codes
    return codes.T.reshape(shape) if isinstance(node.op, DepthwiseConv2D) else codes.reshape(shape)


def _array(name: str, what: str, want: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> Iterator[Mismatch]:
    if want.shape != got.shape:
        yield Mismatch(name, f"number of {what}s", str(want.shape), str(got.shape))
        return
    different = np.flatnonzero(want.reshape(-1) != got.reshape(-1))
    if different.size:
        index = tuple(int(i) for i in np.unravel_index(int(different[0]), want.shape))
        yield Mismatch(name, what, str(want[index]), str(got[index]), index)
