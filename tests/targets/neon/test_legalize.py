"""What LiteRT cannot say directly is said in other operators, or refused with every node named."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_cases import CASES, build
from lowered_models import LoweredModel, emit, random_inputs

from kwsq.converter.runtimes.litert import KernelSet, run_litert
from kwsq.ir import lowered as ir
from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.execute import run_integer
from kwsq.ir.ops import Activation
from kwsq.targets.base import TargetOptions
from kwsq.targets.neon.constraints import MAX_RANK
from kwsq.targets.neon.legalize import legalize
from kwsq.targets.neon.reader import read

DEFAULTS = TargetOptions()


@pytest.mark.parametrize("name", [n for n in CASES if n != "sum" and not n.startswith("sum ")])
def test_rewritten_graphs_compute_the_same(name: str) -> None:
    graph = build(name)
    legal = legalize(graph, DEFAULTS)
    inputs = random_inputs(graph, 2)
    np.testing.assert_equal(run_integer(legal, inputs), run_integer(graph, inputs))
    assert [node.op.name for node in legalize(legal, DEFAULTS).nodes] == [node.op.name for node in legal.nodes]


@pytest.mark.parametrize("name", ["sum", "sum keep", "sum last"])
def test_a_sum_becomes_the_rounded_real_sum(name: str) -> None:
    """A dense layer rounds once; a depthwise one twice, the first time at 2**shift >= half the effective scale."""
    graph = build(name)
    inputs = random_inputs(graph, 4)
    x, y = graph["x"], graph[graph.outputs[0]]
    assert isinstance(graph.nodes[0].op, ir.Sum)
    assert x.scale is not None
    assert y.scale is not None
    op = graph.nodes[0].op
    total = (inputs["x"].astype(np.int64) - x.zero_point).sum(axis=op.axes, keepdims=op.keepdims)
    steps = total * float(x.scale[0]) / float(y.scale[0])
    found = run_integer(legalize(graph, DEFAULTS), inputs)[y.name]
    inside = np.abs(steps + y.zero_point) < 127
    error = np.abs(found - y.zero_point - steps)[inside]
    assert inside.any()
    assert error.max() <= 0.5 + 1e-6 + (0 if name == "sum last" else float(x.scale[0]) / float(y.scale[0]))


@st.composite
def windows(draw: st.DrawFn) -> tuple[ir.Pair, ir.Pair, ir.Pair, ir.Pair, ir.Pads]:
    size, kernel, stride, dilation, pads = ([], [], [], [], [])
    for _ in range(2):
        kernel.append(draw(st.integers(1, 4)))
        dilation.append(draw(st.integers(1, 3)))
        stride.append(draw(st.integers(1, 3)) if dilation[-1] == 1 else 1)
        reach = (kernel[-1] - 1) * dilation[-1] + 1
        pads.append((draw(st.integers(0, 3)), draw(st.integers(0, 3))))
        size.append(draw(st.integers(max(1, reach - sum(pads[-1])), 9)))
    return tuple(size), tuple(kernel), tuple(stride), tuple(dilation), tuple(pads)  # type: ignore[return-value]


@settings(max_examples=60)
@given(windows(), st.sampled_from(["conv", "depthwise", "max pool"]))
def test_any_window_is_written_and_computed_exactly(
    window: tuple[ir.Pair, ir.Pair, ir.Pair, ir.Pair, ir.Pads], kind: str
) -> None:
    size, kernel, stride, dilation, pads = window
    # TFLite's windows stride or dilate per axis, not both; depthwise kernels want one stride for both axes.
    if any(d > 1 for d in dilation):
        stride = (1, 1)
    model = LoweredModel(4)
    x = model.input("x", (1, *size, 3))
    if kind == "conv":
        y = model.conv(x, 4, kernel, stride=stride, dilation=dilation, pads=pads)
    elif kind == "depthwise":
        y = model.depthwise(x, kernel, multiplier=2, stride=stride, dilation=dilation, pads=pads)
    else:
        y = model.pool(
            ir.MaxPool2D,
            x,
            kernel,
            stride=stride,
            pads=tuple((min(b, k - 1), min(a, k - 1)) for (b, a), k in zip(pads, kernel, strict=True)),
        )  # type: ignore[arg-type]
    if 0 in model.tensors[y].shape or min(model.tensors[y].shape) < 1:
        return
    source = model.graph(y)
    graph, data = emit(source)
    inputs = random_inputs(graph, 2)
    expected = run_integer(source, inputs)[y]
    np.testing.assert_array_equal(run_litert(data, [inputs["x"]], KernelSet.REFERENCE).outputs[0], expected)


def test_padding_needs_no_operator_where_litert_has_a_scheme() -> None:
    for name in ("conv", "conv same", "conv same stride", "conv unused pad", "depthwise", "max pool same"):
        assert len(legalize(build(name), DEFAULTS).nodes) == 1, name
    for name in ("conv explicit pads", "depthwise stride pads", "max pool pads"):
        assert legalize(build(name), DEFAULTS).nodes[0].op.name == "Pad", name


def test_every_unsupported_node_is_named_at_once() -> None:
    model = LoweredModel()
    x = model.input("x", (1, 9, 9, 4))
    pooled = model.pool(ir.AveragePool2D, x, (3, 3), stride=(2, 2), pads=((2, 0), (2, 0)))
    loud = model.unary(ir.Logistic(), x, (1 / 128, -128))
    small = model.binary(ir.Add(), x, x, (1e-9, 0))
    moved = model.node(ir.MaxPool2D((1, 1), (1, 1), ((0, 0), (0, 0))), [x], (1, 9, 9, 4), (0.06, -3))
    summed = model.reduce(ir.Sum((1, 3), False), x, (0.5, 0))
    with pytest.raises(UnsupportedModelError) as caught:
        legalize(model.graph(pooled, loud, small, moved, summed), DEFAULTS)
    assert [p.where for p in caught.value.problems] == [node.name for node in model.nodes]
    assert all(p.found and p.expected and p.remedy and p.op for p in caught.value.problems)


@pytest.mark.parametrize("name", ["relu6", "relu_n1_to_1", "relu"])
def test_micro_gets_clamps_in_steps(name: str) -> None:
    """Moving to the output's grid saturates at codes outside the clamp, so the order does not matter."""
    graph = build(name)
    legal, data = emit(graph, runtime="tflm")
    inputs = random_inputs(graph, 3)
    expected = run_integer(legal, inputs)[graph.outputs[0]]
    np.testing.assert_array_equal(run_litert(data, [inputs["x"]], KernelSet.REFERENCE).outputs[0], expected)
    # QUANTIZE divides the scales in double, RELU in float32.
    assert np.abs(expected.astype(int) - run_integer(graph, inputs)[graph.outputs[0]]).max() <= 1


def test_micro_gets_a_convolution_for_a_per_channel_int4_dense_layer() -> None:
    graph = build("dense")
    narrow = {name: tensor for name, tensor in graph.tensors.items()}
    codes = np.clip(np.asarray(narrow["weight"].data), -8, 7).astype(np.int8)
    narrow["weight"] = replace(narrow["weight"], data=codes, bits=4)
    graph = replace(graph, tensors=narrow)
    legal, data = emit(graph, container="int4", runtime="tflm")
    assert [op.name for op in read(data, "m").main.operators] == ["RESHAPE", "CONV_2D", "RESHAPE"]
    inputs = random_inputs(graph, 3)
    expected = run_integer(legal, inputs)
    found = run_litert(data, [inputs["x"]], KernelSet.REFERENCE).outputs[0]
    np.testing.assert_array_equal(found, expected[graph.outputs[0]])
    # One rounding instead of two: a code apart at most.
    apart = expected[graph.outputs[0]].astype(int) - run_integer(graph, inputs)[graph.outputs[0]]
    assert np.abs(apart).max() <= 1


def high_rank(op: type[ir.LoweredOp], rank: int) -> ir.LoweredGraph:
    """One operator of the type on tensors with `rank` dimensions."""
    model, shape, grid = LoweredModel(), (1, 2, 3, 2, 2, 2, 2)[:rank], (0.05, -3)
    x = model.input("x", shape)
    if op is ir.FullyConnected:
        return model.graph(model.dense(x, 3))
    if op is ir.Mean:
        return model.graph(model.reduce(ir.Mean((1,), True), x, (0.03, 0)))
    if op is ir.ReduceMax:
        return model.graph(model.reduce(ir.ReduceMax((1,), True), x, grid))
    if op is ir.BatchMatMul:
        y = model.input("y", (*shape[:-2], shape[-1], shape[-2]))
        return model.graph(model.node(ir.BatchMatMul(), [x, y], (*shape[:-1], shape[-2]), (0.1, 0)))
    if op is ir.Concat:
        return model.graph(model.node(ir.Concat(1), [x, model.input("y", shape)], (1, 4, *shape[2:]), grid))
    if op is ir.Pad:
        return model.graph(model.node(ir.Pad(((0, 0), (1, 0), *[(0, 0)] * (rank - 2))), [x], (1, 3, *shape[2:]), grid))
    part = (1, 1, *shape[2:])
    outputs = [model.tensor(name, part, grid) for name in ("left", "right")]
    model.nodes.append(ir.LoweredNode("split", ir.Split(1, (1, 1)), (x,), tuple(outputs)))
    return model.graph(*outputs)


@pytest.mark.parametrize("op", MAX_RANK)
def test_the_largest_rank_runs_and_one_more_is_refused(op: type[ir.LoweredOp]) -> None:
    graph, data = emit(high_rank(op, MAX_RANK[op]))
    inputs = random_inputs(graph, 2)
    expected = run_integer(graph, inputs)
    for kernels in (KernelSet.REFERENCE, KernelSet.DEFAULT):
        found = run_litert(data, [inputs[n] for n in graph.inputs], kernels)
        for array, name in zip(found.outputs, graph.outputs, strict=True):
            assert np.abs(array.astype(int) - expected[name]).max() <= (kernels is not KernelSet.REFERENCE)
    with pytest.raises(UnsupportedModelError, match=f"{MAX_RANK[op] + 1} dimensions"):
        legalize(high_rank(op, MAX_RANK[op] + 1), DEFAULTS)


def test_scales_beyond_the_multipliers_are_refused() -> None:
    model = LoweredModel()
    x = model.input("x", (1, 6), (1e5, 0))
    with pytest.raises(UnsupportedModelError, match="expected a value below"):
        legalize(model.graph(model.unary(ir.Rectify(Activation.RELU), x, (1e-6, 0))), DEFAULTS)


def test_a_defect_of_the_executor_is_no_statement_about_scales() -> None:
    """A depthwise layer with fewer outputs than inputs, which no lowering makes."""
    model = LoweredModel()
    y = model.depthwise(model.input("x", (1, 4, 4, 2)), (1, 1))
    x = model.nodes[0].inputs[0]
    model.tensors[x] = replace(model.tensors[x], shape=(1, 4, 4, 3))
    with pytest.raises(ValueError, match="check the weight layout"):
        legalize(model.graph(y), DEFAULTS)


def test_asymmetric_weights_are_refused() -> None:
    graph = build("conv")
    tensors = dict(graph.tensors)
    tensors["weight"] = replace(tensors["weight"], zero_point=1)
    with pytest.raises(UnsupportedModelError, match="zero point 1 of weight"):
        legalize(replace(graph, tensors=tensors), DEFAULTS)
