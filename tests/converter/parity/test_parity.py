"""Every parity check passes on faithful artefacts and fails, by name, on every single defect."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lowered_cases import CASES, build
from lowered_models import LoweredModel, emit, random_inputs
from tflite_mutations import (
    Edit,
    flip_byte,
    mutated,
    next_scale,
    operator,
    set_axis,
    set_option,
    shift_zero_point,
    tensor,
)

from kwsq.converter import parity
from kwsq.converter.parity import source as parity_source
from kwsq.converter.parity.check import MAC_BUDGET, affordable_vectors
from kwsq.converter.parity.noise import noisy_outputs
from kwsq.converter.runtimes import tflm
from kwsq.ir import lowered as ir
from kwsq.ir.execute import run_integer
from kwsq.ir.lowered import LoweredGraph
from kwsq.ir.ops import Activation


def network(bits: int = 8) -> LoweredGraph:
    """Square layers, so that a wrong axis has the right length."""
    model = LoweredModel(5)
    h = model.conv(model.input("x", (1, 9, 7, 4)), 4, (3, 3), pads=((1, 1), (1, 1)), bits=bits)
    h = model.depthwise(h, (4, 3), stride=(2, 2), activation=Activation.RELU, grid=(0.1, -100), bits=bits)
    h = model.reshape(h, (1, 3 * 3 * 4))
    h = model.dense(h, 36, activation=Activation.RELU6, grid=(0.06, -100), bits=bits)
    h = model.dense(h, 36, bits=bits)
    return model.graph(model.dense(h, 12, bits=bits))


def check(graph: LoweredGraph, data: bytes, count: int = 8, **options: Any) -> parity.ParityReport:
    return parity.check(graph, data, None, random_inputs(graph, count), **options)


@pytest.mark.parametrize("name", CASES)
def test_every_operator_passes(name: str) -> None:
    report = check(*emit(build(name)), all_tensors=True)
    assert report.passed, [str(m) for c in report.checks for m in c.mismatches]


@pytest.mark.parametrize("container", ["int8", "int4"])
@pytest.mark.parametrize("strip_names", [False, True])
def test_a_network_passes(container: str, strip_names: bool) -> None:
    graph, data = emit(network(4), container=container, strip_names=strip_names)
    report = check(graph, data, all_tensors=True)
    assert report.passed, report.error()
    assert report.vectors == 8
    assert report["reference_kernels"].figures["outputs"] == {"fullyconnected_2": {"max_lsb": 0.0, "differing": 0.0}}
    assert json.loads(json.dumps(report.to_json())) == report.to_json()


def swap_operands(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.inputs, graph.outputs = graph.inputs, [operator(model, "fullyconnected_1").outputs[0]]


def drop_relu_operator_code_version(model: Any) -> None:
    model.operatorCodes[0].version += 1


def rename(model: Any) -> None:
    tensor(model, "weight").name = b"other"


# Edit -> (tensor the structure check names, what it says, first tensor whose numbers differ or None).
DEFECTS: Mapping[str, tuple[Edit, str, str, str | None]] = {
    "one conv weight code": (flip_byte("weight", 40, 64), "weight", "code", "conv2d"),
    "one depthwise weight code": (flip_byte("weight_1", 17, 64), "weight_1", "code", "depthwiseconv2d"),
    "one dense weight code, lowest bit": (flip_byte("weight_2", 700), "weight_2", "code", None),
    "one dense weight code": (flip_byte("weight_2", 700, 64), "weight_2", "code", "fullyconnected"),
    "one weight scale": (next_scale("weight_3", 5), "weight_3", "scale", None),
    "one activation scale": (next_scale("fullyconnected"), "fullyconnected", "scale", None),
    "one bias scale": (next_scale("bias_3", 35), "bias_3", "scale", None),
    "one zero point": (shift_zero_point("fullyconnected"), "fullyconnected", "zero point", "fullyconnected"),
    "input zero point": (shift_zero_point("x"), "x", "zero point", "conv2d"),
    "one clamp removed": (
        set_option("depthwiseconv2d", "fusedActivationFunction", 0),
        "depthwiseconv2d",
        "fused activation function",
        "depthwiseconv2d",
    ),
    "one clamp changed": (
        set_option("fullyconnected", "fusedActivationFunction", 1),
        "fullyconnected",
        "fused activation function",
        "fullyconnected",
    ),
    "one axis, conv": (set_axis("weight", 3), "weight", "quantized dimension", None),
    "one axis, dense": (set_axis("weight_3", 1), "weight_3", "quantized dimension", None),
    "one bias element": (flip_byte("bias_2", 4 * 7 + 1, 8), "bias_2", "code", "fullyconnected"),
    "one bias element, lowest bit": (flip_byte("bias_2", 4 * 7), "bias_2", "code", None),
    "one stride": (set_option("depthwiseconv2d", "strideW", 1), "depthwiseconv2d", "stride w", None),
    "one padding": (set_option("conv2d", "padding", 1), "conv2d", "padding", None),
    "one dilation": (set_option("depthwiseconv2d", "dilationHFactor", 2), "depthwiseconv2d", "dilation h factor", None),
    "one multiplier": (
        set_option("depthwiseconv2d", "depthMultiplier", 2),
        "depthwiseconv2d",
        "depth multiplier",
        None,
    ),
    "one shape": (set_option("reshape", "newShape", np.array([36, 1], np.int32)), "reshape", "new shape", None),
    "one version": (drop_relu_operator_code_version, "conv2d", "operator version", None),
    "the outputs": (swap_operands, "model", "outputs", None),
    "one name": (rename, "weight", "name", None),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_single_defect_is_found_and_named(defect: str) -> None:
    edit, place, what, numeric = DEFECTS[defect]
    graph, data = emit(network())
    report = check(graph, mutated(data, edit), all_tensors=True)
    assert not report.passed
    structure = report["structure"]
    assert not structure.passed
    assert (structure.mismatches[0].tensor, structure.mismatches[0].what) == (place, what)
    assert place in report.error().message()
    if numeric is not None:
        # The numbers alone name the tensor too: the structure check is not the only guard.
        first = report["reference_kernels"].mismatches[0]
        assert (first.tensor, first.what) == (numeric, "output")
        assert first.index is not None


def test_repacking_alone_is_no_defect() -> None:
    """The mutations' own baseline: the schema's packer writes an equal model in other bytes."""
    graph, data = emit(network())
    same = mutated(data, lambda model: None)
    assert same != data
    assert check(graph, same).passed


def test_one_int4_code() -> None:
    graph, data = emit(network(4), container="int4")
    report = check(graph, mutated(data, flip_byte("weight_2", 350, 0x40)))
    assert str(report["structure"].mismatches[0]).startswith("weight_2[")
    # 350 is row 19; the high nibble is the odd column.
    assert report["structure"].mismatches[0].index == divmod(701, 36)


@pytest.mark.parametrize("operand", ["axes", "paddings"])
def test_one_added_operand(operand: str) -> None:
    model = LoweredModel()
    x = model.input("x", (1, 5, 5, 2))
    if operand == "axes":
        y = model.reduce(ir.Mean((1, 2), True), x, (0.05, -3))
    else:
        y = model.node(ir.Pad(((0, 0), (1, 0), (0, 2), (0, 0))), [x], (1, 6, 7, 2), (0.05, -3))
    graph, data = emit(model.graph(y))

    def edit(file: Any) -> None:
        index = operator(file, y).inputs[1]
        buffer = file.buffers[file.subgraphs[0].tensors[index].buffer]
        contents = np.array(buffer.data, np.uint8).view(np.int32).copy()
        contents[-1] += 1
        buffer.data = contents.view(np.uint8)

    report = check(graph, mutated(data, edit))
    assert report["structure"].mismatches[0].tensor == y


def test_a_default_kernel_beyond_its_rounding_is_named() -> None:
    graph, data = emit(network())
    report = check(graph, mutated(data, flip_byte("weight_2", 700, 64)))
    assert report["default_kernels"].mismatches[0].tensor == "fullyconnected"
    assert "within 1 LSB" in report["default_kernels"].mismatches[0].expected


def test_all_tensors_are_compared_on_request() -> None:
    """A difference that the rest of the network swallows: the layer behind multiplies it by zero."""
    model = LoweredModel()
    h = model.dense(model.input("x", (1, 8)), 6)
    y = model.dense(h, 4)
    zeros = np.zeros((4, 6), np.int8)
    model.tensors["weight_1"] = replace(model.tensors["weight_1"], data=zeros)
    graph, data = emit(model.graph(y))
    broken = mutated(data, flip_byte("weight", 5, 64))
    assert check(graph, broken)["reference_kernels"].passed
    assert check(graph, broken, all_tensors=True)["reference_kernels"].mismatches[0].tensor == h


# ---- against the source ----


def real_network(graph: LoweredGraph) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The network in float64 with fake quantisation after every layer: an oracle of its own."""

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        values = {name: np.asarray(array, np.float64) for name, array in inputs.items()}
        for node in graph.nodes:
            op, y = node.op, graph[node.outputs[0]]
            x = values[node.inputs[0]]
            if isinstance(op, ir.FullyConnected):
                weight, bias = (real_constant(graph, name) for name in node.inputs[1:])
                real = x @ weight.T + bias
                real = np.clip(real, *op.activation.bounds)
            else:
                assert isinstance(op, ir.Reshape)
                real = x.reshape(-1, *op.shape[1:])
            assert y.scale is not None
            scale = float(y.scale[0])
            steps = np.clip(np.rint(real / scale) + y.zero_point, -128, 127)
            values[y.name] = (steps - y.zero_point) * scale
        return {name: array.astype(np.float32) for name, array in values.items()}

    return run


def real_constant(graph: LoweredGraph, name: str) -> Any:
    tensor = graph[name]
    assert tensor.scale is not None
    scale = tensor.scale.astype(np.float64)
    return np.asarray(tensor.data, np.float64) * (scale[:, None] if len(tensor.shape) == 2 else scale)


def dense_network(depth: int = 3) -> LoweredGraph:
    model = LoweredModel(6)
    h = model.input("x", (1, 64), (0.05, -3))
    for _ in range(depth):
        h = model.dense(h, 64, activation=Activation.RELU, grid=(0.1, -128), per_channel=False)
    return model.graph(model.dense(h, 12, grid=(0.2, 3)))


def source_check(
    graph: LoweredGraph, run: Callable[[Mapping[str, Any]], Any], inputs: Any = None, **options: Any
) -> parity.Check:
    legal, data = emit(graph)
    reference = parity.SourceReference("an oracle", run, **options)
    return parity.check(legal, data, reference, inputs or random_inputs(graph, 64))["source"]


def test_a_faithful_graph_agrees_with_its_source() -> None:
    graph = dense_network()
    result = source_check(graph, real_network(graph))
    assert result.passed
    error = result.figures["outputs"]["fullyconnected_3"]  # type: ignore[index]
    assert error["max_lsb"] <= 1.01
    assert error["near_share"] == 1
    assert error["sqnr_db"] > 30
    assert error["top1_agreement"] == 1
    assert error["scale"] == np.float32(0.2)


@pytest.mark.parametrize("defect", ["bias", "clamp", "scale", "weights"])
def test_a_wrongly_lowered_graph_does_not(defect: str) -> None:
    """The artefact equals its graph, and the graph is wrong: only the source can tell."""
    graph = dense_network()
    run = real_network(graph)
    tensors, nodes = dict(graph.tensors), list(graph.nodes)
    if defect == "bias":
        tensors["bias_1"] = replace(tensors["bias_1"], data=np.asarray(tensors["bias_1"].data) + np.int32(3000))
    elif defect == "weights":
        tensors["weight_1"] = replace(tensors["weight_1"], data=np.asarray(tensors["weight_1"].data)[::-1].copy())
    elif defect == "scale":
        tensors["fullyconnected_1"] = replace(tensors["fullyconnected_1"], scale=np.array([0.104], np.float32))
    else:
        nodes[1] = replace(nodes[1], op=ir.FullyConnected(Activation.NONE))
        tensors["fullyconnected_1"] = replace(tensors["fullyconnected_1"], zero_point=0)
    wrong = replace(graph, tensors=tensors, nodes=tuple(nodes))
    result = source_check(wrong, run, random_inputs(graph, 64), trace=run)
    assert not result.passed
    assert result.mismatches[0].tensor == "fullyconnected_1"
    assert result.mismatches[-1].tensor == "fullyconnected_3"


@pytest.mark.parametrize(("share", "steps"), [(0.02, 2), (0.002, 3)])
def test_the_tolerance_is_one_step_for_99_of_100_and_two_for_all(share: float, steps: int) -> None:
    graph = dense_network(0)
    exact = real_network(graph)

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        outputs = exact(inputs)
        y = outputs["fullyconnected"].reshape(-1)
        y[:: int(1 / share)] += np.float32(steps * 0.2)
        return outputs

    inputs = random_inputs(graph, 200)
    assert source_check(graph, exact, inputs).passed
    result = source_check(graph, run, inputs)
    assert not result.passed
    assert result.mismatches[0].tensor == "fullyconnected"


def test_a_model_that_amplifies_rounding_is_judged_by_rounding() -> None:
    """Layers that multiply a difference: the usual tolerance fails, the simulated one holds, but not for a defect."""
    model = LoweredModel(8)
    h = model.input("x", (1, 64), (0.05, -3))
    for _ in range(4):
        h = model.dense(h, 64, grid=(0.6, 0), per_channel=False)
        model.tensors[h] = replace(model.tensors[h], scale=np.array([0.25], np.float32))
    graph = model.graph(h)
    run = real_network(graph)
    strict = source_check(graph, run, tolerance=parity.Tolerance(0, 1.0, 0))
    tolerance = strict.figures["tolerances"][h]  # type: ignore[index]
    assert strict.passed
    assert tolerance["max_lsb"] < 60
    shifted = replace(graph.tensors["bias_2"], data=np.asarray(graph.tensors["bias_2"].data) + np.int32(40000))
    wrong = replace(graph, tensors={**graph.tensors, "bias_2": shifted})
    assert not source_check(wrong, run, random_inputs(graph, 64)).passed


def test_simulated_rounding_goes_one_way_at_an_operator_and_either_way_over_the_draws() -> None:
    model = LoweredModel(8)
    graph = model.graph(model.unary(ir.Quantize(), model.input("x", (1, 500), (0.05, -3)), (0.07, 4)))
    inputs, (y,) = random_inputs(graph, 4), graph.outputs
    exact = run_integer(graph, inputs)[y].astype(np.int32)
    moves = [noisy_outputs(graph, inputs, seed)[y] - exact for seed in range(8)]
    assert {frozenset(np.unique(move)) for move in moves} == {frozenset({0, 1}), frozenset({-1, 0})}
    # 15 % of 2000 codes; 4 standard deviations of a binomial share are 0.032.
    assert all(abs(np.mean(move != 0) - 0.15) < 0.032 for move in moves)


def test_simulated_rounding_goes_one_way_along_a_sequence() -> None:
    model = LoweredModel(8)
    x, state = model.input("x", (1, 200), (0.05, -3)), model.input("s", (1, 200), (0.05, -3))
    y, kept = model.unary(ir.Quantize(), x, (0.07, 4)), model.reshape(x, (1, 200))
    graph = model.graph(y, kept, states=(ir.StatePair(state, kept),))
    inputs = {"x": random_inputs(graph, 12)["x"]}
    exact = run_integer(graph, {**inputs, "s": inputs["x"]})[y].astype(np.int32)
    moves = [noisy_outputs(graph, inputs, seed)[y] - exact for seed in range(8)]
    assert {frozenset(np.unique(move)) for move in moves} == {frozenset({0, 1}), frozenset({-1, 0})}
    assert all((move != 0).any(axis=1).all() for move in moves)


@pytest.mark.parametrize(
    ("vectors", "outputs", "most"),
    [(8, 12, 1), (4, 12, 1), (1, 3, 1), (8, 1, 1), (8, 9, 1), (64, 12, 7)],
)
def test_of_few_elements_one_may_stray_and_of_many_one_in_a_hundred(vectors: int, outputs: int, most: int) -> None:
    """By two steps, where one is near; of 8 vectors and more one is left out, whose elements all stray."""
    model = LoweredModel(8)
    graph = model.graph(model.input("x", (1, outputs), (0.05, -3)))
    expected = random_inputs(graph, vectors)
    exact = 0.05 * (expected["x"].astype(np.float64) + 3)
    limit = parity_source.simulated_tolerances(graph, expected, {"x": exact}, expected, parity_source.Tolerance())["x"]
    assert (limit.near_lsb, limit.max_lsb) == (1, 2)

    def passes(strays: int) -> bool:
        found = exact.copy()
        found[: limit.outlying_vectors] += 0.1
        found[limit.outlying_vectors :].reshape(-1)[:strays] += 0.1
        error = parity_source.output_error(graph, "x", found, expected["x"], limit)
        return error.near_share >= limit.near_share

    assert passes(most)
    assert not passes(most + 1)


@pytest.mark.parametrize(
    ("strays", "by_lsb", "passes"),
    [({3}, 2, True), ({3}, 5, False), ({3, 9}, 2, False)],
    ids=["one vector", "one vector, beyond the largest distance", "two vectors"],
)
def test_one_vector_may_stray_from_the_share_but_not_from_the_largest_distance(
    strays: set[int], by_lsb: int, passes: bool
) -> None:
    """16 vectors of 6: two elements of one vector are already 2 %."""
    model = LoweredModel(8)
    graph = model.graph(model.input("x", (1, 6), (0.05, -3)))
    expected = random_inputs(graph, 16)
    found = {"x": 0.05 * (expected["x"].astype(np.float64) + 3)}
    for vector in strays:
        found["x"][vector, :2] += 0.05 * by_lsb
    limit = parity_source.Tolerance(near_lsb=1, max_lsb=4, outlying_vectors=1)
    error = parity_source.output_error(graph, "x", found["x"], expected["x"], limit)
    assert (error.near_share >= limit.near_share and error.max_lsb <= limit.max_lsb) == passes


# ---- streaming ----


def streaming() -> LoweredGraph:
    """y(t) = dense(last 4 chunks), the state being the last 3."""
    model = LoweredModel(7)
    chunk, state = model.input("chunk", (1, 1, 5), (0.05, -3)), model.input("s", (1, 3, 5), (0.05, -3))
    window = model.node(ir.Concat(1), [state, chunk], (1, 4, 5), (0.05, -3))
    kept = model.node(ir.StridedSlice((0, 1, 0), (1, 4, 5), (1, 1, 1)), [window], (1, 3, 5), (0.05, -3))
    y = model.dense(model.reshape(window, (1, 20)), 6)
    return model.graph(y, kept, states=(ir.StatePair("s", kept),))


def test_states_start_at_zero_and_are_carried() -> None:
    graph, data = emit(streaming())
    chunks = random_inputs(graph, 7)["chunk"]
    y, kept = graph.outputs
    padded = np.concatenate([np.full((3, 1, 5), -3, np.int8), chunks])
    windows = np.stack([padded[t : t + 4].reshape(4, 5) for t in range(7)])
    expected = run_integer(graph, {"chunk": windows[:, 3:], "s": windows[:, :3]})

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        codes = {n: np.rint(a / np.float32(0.05) - 3).astype(np.int8) for n, a in inputs.items()}
        outputs = run_integer(graph, codes)
        grids = {y: (0.1, 4), kept: (0.05, -3)}
        return {n: ((a.astype(np.float32) - grids[n][1]) * np.float32(grids[n][0])) for n, a in outputs.items()}

    seen: list[Any] = []

    def recorded(inputs: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(run(inputs))
        return seen[-1]

    report = parity.check(graph, data, parity.SourceReference("oracle", recorded), {"chunk": chunks}, all_tensors=True)
    assert report.passed, report.error()
    assert report.vectors == 7
    found = np.concatenate([step[y] for step in seen])
    np.testing.assert_array_equal(np.rint(found / np.float32(0.1)) + 4, expected[y])


def test_a_state_that_is_not_carried_is_found() -> None:
    graph, data = emit(streaming())
    chunks = random_inputs(graph, 7)["chunk"]
    forgetful = replace(
        graph,
        nodes=tuple(
            replace(n, op=ir.StridedSlice((0, 0, 0), (1, 3, 5), (1, 1, 1))) if isinstance(n.op, ir.StridedSlice) else n
            for n in graph.nodes
        ),
    )
    report = parity.check(forgetful, data, None, {"chunk": chunks})
    assert not report["structure"].passed
    assert report["reference_kernels"].mismatches[0].tensor == graph.outputs[1]


@pytest.mark.skipif(not tflm.is_installed(), reason="TFLite Micro is absent; enable with: pip install 'kwsq[tflm]'")
@pytest.mark.parametrize("kind", ["network", "streaming"])
def test_micro_kernels(kind: str) -> None:
    graph, data = emit(network() if kind == "network" else streaming(), runtime="tflm")
    inputs = {n: a for n, a in random_inputs(graph, 5).items() if n != "s"}
    report = parity.check(graph, data, None, inputs, micro=True)
    assert report.passed, report.error()
    name = "weight_2" if kind == "network" else "weight"
    broken = mutated(data, flip_byte(name, 50, 64))
    assert not parity.check(graph, broken, None, inputs, micro=True)["micro_kernels"].passed


@pytest.mark.skipif(not tflm.is_installed(), reason="TFLite Micro is absent; enable with: pip install 'kwsq[tflm]'")
def test_a_refusal_by_micro_is_a_failed_check() -> None:
    graph, data = emit(build("dense 4 bits"), container="int4")
    result = check(graph, data, micro=True)["micro_kernels"]
    assert not result.passed
    assert result.mismatches[0].what == "run"


def test_large_models_are_run_on_fewer_vectors() -> None:
    model = LoweredModel()
    x = model.input("x", (1, 32, 32, 16))
    graph, data = emit(model.graph(model.conv(x, 64, (3, 3))))
    # 30 * 30 positions of 64 * 3 * 3 * 16 products
    macs = 900 * 9216
    assert affordable_vectors(data) == MAC_BUDGET // macs == 30
    inputs = random_inputs(graph, 40)
    assert parity.check(graph, data, None, inputs).vectors == 30
    assert affordable_vectors(emit(dense_network())[1]) > 256


@pytest.mark.parametrize("damage", [lambda d: d[:-20], lambda d: b"", lambda d: d[:4] + b"TFL9" + d[8:]])
def test_a_damaged_file_is_a_failed_check(damage: Callable[[bytes], bytes]) -> None:
    graph, data = emit(network())
    report = check(graph, damage(data))
    assert not report.passed
    assert report.checks[0].mismatches[0].what == "file"
