"""Broken, unsafe and unsupported files: the right error class, naming the place, within seconds, never a traceback."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import QONNX, build, load, node, normalized

from kwsq.ir.errors import InvalidModelError, KwsqError, UnsupportedModelError, UsageError
from kwsq.passes.caps import check_caps
from kwsq.passes.dialects import normalize
from kwsq.passes.import_graph import import_graph
from kwsq.passes.load import load_bytes, load_file
from kwsq.passes.validate import MAX_FILE_BYTES

_SECONDS = 5.0
"""CPU seconds, so that a busy machine fails nothing; the slowest case takes a fraction."""

F32 = np.float32
Model = onnx.ModelProto


def small() -> Model:
    """y = Relu(x @ w), the sound model every case damages."""
    weight = np.arange(12, dtype=F32).reshape(4, 3) / 7
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])]
    return build(nodes, inputs={"x": [1, 4]}, constants={"w": weight})


def quantized(scale: object = 0.1, zero: object = np.int8(0), *, axis: int | None = None) -> Model:
    """y = DQ(Q(x)) with given parameters."""
    attrs = {} if axis is None else {"axis": axis}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs),
    ]
    constants = {"s": np.asarray(scale, F32), "z": np.asarray(zero)}
    return build(nodes, inputs={"x": [1, 4]}, constants=constants)


def damaged(change: Callable[[Model], object]) -> Model:
    model = small()
    change(model)
    return model


def weight_of(model: Model) -> onnx.TensorProto:
    return model.graph.initializer[0]


def with_weight(values: np.ndarray) -> Model:
    return damaged(lambda m: weight_of(m).CopyFrom(numpy_helper.from_array(values, "w")))


def raw(model: Model, data: bytes) -> None:
    weight_of(model).raw_data = data


def dims(model: Model, *values: int) -> None:
    del weight_of(model).dims[:]
    weight_of(model).dims.extend(values)


def external(model: Model) -> None:
    tensor = weight_of(model)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def cycle(model: Model) -> None:
    model.graph.node[0].input[0] = "y"


def nested_if(depth: int) -> Model:
    graph = helper.make_graph([node("Identity", ["x"], ["t"])], "leaf", [], [helper.make_empty_tensor_value_info("t")])
    for _ in range(depth):
        branch = helper.make_node("If", ["c"], ["t"], then_branch=graph)
        graph = helper.make_graph([branch], "level", [], [helper.make_empty_tensor_value_info("t")])
    model = small()
    model.graph.node.append(helper.make_node("If", ["h"], ["z"], then_branch=graph, else_branch=graph))
    return model


def opset(model: Model, version: int) -> None:
    model.opset_import[0].version = version


def bomb(op: str, *constants: np.ndarray) -> Model:
    """An operator of constants whose result is a weight."""
    names = [f"c{i}" for i in range(len(constants))]
    nodes = [node(op, names, ["w"]), node("MatMul", ["x", "w"], ["y"])]
    return build(nodes, inputs={"x": [1, 4]}, constants=dict(zip(names, constants, strict=True)))


def activation_bomb(op: str, *constants: np.ndarray) -> Model:
    names = [f"c{i}" for i in range(len(constants))]
    return build(
        [node(op, ["x", *names], ["y"])], inputs={"x": [1, 4]}, constants=dict(zip(names, constants, strict=True))
    )


def doubled_constants(count: int) -> Model:
    """Each Concat doubles: exponential size from a linear file."""
    nodes = [node("Concat", [f"t{i}", f"t{i}"], [f"t{i + 1}"], axis=0) for i in range(count)]
    nodes += [node("MatMul", ["x", f"t{count}"], ["y"])]
    return build(nodes, inputs={"x": [1, 4]}, constants={"t0": np.ones((4, 4), F32)})


def many_expansions(count: int) -> Model:
    """Each result is within the cap for one tensor, their sum is not."""
    shape = np.array([2**12, 2**12], np.int64)
    nodes = [node("Expand", [f"c{i}", "s"], [f"e{i}"]) for i in range(count)]
    nodes += [node("Sum", [f"e{i}" for i in range(count)], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    constants = {"s": shape} | {f"c{i}": np.full((1, 1), i, F32) for i in range(count)}
    return build(nodes, inputs={"x": [1, 4]}, constants=constants)


def attribute(model: Model, **fields: object) -> None:
    proto = model.graph.node[1].attribute.add()
    for key, value in fields.items():
        setattr(proto, key, value)


def bytes_in_name(model: Model) -> bytes:
    data = model.SerializeToString()
    assert data.count(b"MatMul_h") == 1
    return data.replace(b"MatMul_h", b"MatMul\xff\xfe")


INVALID: dict[str, Callable[[], Model | bytes]] = {
    # not a model
    "empty file": lambda: b"",
    "garbage": lambda: bytes(np.random.default_rng(1).integers(0, 256, 4096, np.uint8)),
    "text": lambda: b"this is not an onnx file\n" * 64,
    "truncated": lambda: small().SerializeToString()[:-20],
    "only a header": lambda: onnx.ModelProto(ir_version=8).SerializeToString(),
    "too large": lambda: b"\0" * (MAX_FILE_BYTES + 1),
    "nesting beyond protobuf's own limit": lambda: b"\x3a\x02" * 5000,
    "a name that is not UTF-8": lambda: bytes_in_name(small()),
    # constants
    "external data": lambda: damaged(external),
    "NaN weight": lambda: with_weight(np.array([[1, np.nan, 0]] * 4, F32)),
    "infinite weight": lambda: with_weight(np.array([[1, np.inf, 0]] * 4, F32)),
    "short raw data": lambda: damaged(lambda m: raw(m, weight_of(m).raw_data[:-1])),
    "long raw data": lambda: damaged(lambda m: raw(m, weight_of(m).raw_data + b"\0")),
    "raw and typed data": lambda: damaged(lambda m: weight_of(m).float_data.append(1.0)),
    "2**40 shape": lambda: damaged(lambda m: dims(m, 2**20, 2**20)),
    "overflowing shape": lambda: damaged(lambda m: dims(m, 2**62, 2**62)),
    "negative dimension": lambda: damaged(lambda m: dims(m, -4, -3)),
    "zero dimension": lambda: damaged(lambda m: dims(m, 0, 3)),
    "rank 6": lambda: damaged(lambda m: dims(m, 1, 1, 1, 1, 4, 3)),
    "unknown element type": lambda: damaged(lambda m: setattr(weight_of(m), "data_type", 99)),
    "undefined element type": lambda: damaged(lambda m: setattr(weight_of(m), "data_type", 0)),
    "code outside its type": lambda: build(
        [node("Relu", ["x"], ["y"])],
        inputs={"x": [1]},
        constants={"c": TensorProto(name="c", dims=[1], data_type=TensorProto.INT8, int32_data=[300])},
    ),
    "duplicate initializer": lambda: damaged(lambda m: m.graph.initializer.append(weight_of(m))),
    "unnamed initializer": lambda: damaged(lambda m: setattr(weight_of(m), "name", "")),
    # wiring
    "cycle": lambda: damaged(cycle),
    "dangling input": lambda: damaged(lambda m: m.graph.node[1].input.__setitem__(0, "nowhere")),
    "output nobody computes": lambda: damaged(lambda m: setattr(m.graph.output[0], "name", "nowhere")),
    "tensor defined twice": lambda: damaged(lambda m: m.graph.node[1].output.__setitem__(0, "h")),
    "node without outputs": lambda: damaged(lambda m: m.graph.node.add(op_type="Relu", input=["h"])),
    "no inputs": lambda: damaged(lambda m: m.graph.ClearField("input")),
    "no outputs": lambda: damaged(lambda m: m.graph.ClearField("output")),
    "input twice": lambda: damaged(lambda m: m.graph.input.append(m.graph.input[0])),
    "input without type": lambda: damaged(lambda m: m.graph.input[0].ClearField("type")),
    "input of 2**32 elements": lambda: build([node("Relu", ["x"], ["y"])], inputs={"x": [2**16, 2**16]}),
    "input dimension 2**40": lambda: build([node("Relu", ["x"], ["y"])], inputs={"x": [1, 2**40]}),
    "node without operator": lambda: damaged(lambda m: setattr(m.graph.node[1], "op_type", "")),
    "too many nodes": lambda: damaged(lambda m: m.graph.node.extend([onnx.NodeProto()] * 30_000)),
    "too many metadata entries": lambda: damaged(
        lambda m: m.metadata_props.extend([onnx.StringStringEntryProto()] * 2000)
    ),
    "a name of 100,000 characters": lambda: damaged(lambda m: setattr(m.graph.node[0], "name", "n" * 100_000)),
    # header
    "no opset": lambda: damaged(lambda m: m.ClearField("opset_import")),
    "opset twice": lambda: damaged(lambda m: m.opset_import.append(m.opset_import[0])),
    "opset -1": lambda: damaged(lambda m: opset(m, -1)),
    "no IR version": lambda: damaged(lambda m: m.ClearField("ir_version")),
    "domain not imported": lambda: damaged(lambda m: setattr(m.graph.node[1], "domain", "unheard.of")),
    # attributes
    "attribute of unknown type": lambda: damaged(lambda m: attribute(m, name="a")),
    "attribute twice": lambda: damaged(
        lambda m: [attribute(m, name="a", type=onnx.AttributeProto.INT) for _ in range(2)]
    ),
    "NaN attribute": lambda: damaged(lambda m: attribute(m, name="a", type=onnx.AttributeProto.FLOAT, f=np.nan)),
    "function attribute reference": lambda: damaged(
        lambda m: attribute(m, name="a", type=onnx.AttributeProto.INT, ref_attr_name="b")
    ),
    "text attribute that is not UTF-8": lambda: damaged(
        lambda m: attribute(m, name="a", type=onnx.AttributeProto.STRING, s=b"\xff")
    ),
    "attribute the operator does not have": lambda: damaged(
        lambda m: attribute(m, name="alpha", type=onnx.AttributeProto.FLOAT, f=1.0)
    ),
    "attribute of another type": lambda: build([node("Flatten", ["x"], ["y"], axis=1.5)], inputs={"x": [1, 4]}),
    "missing attribute": lambda: build([node("Concat", ["x", "x"], ["y"])], inputs={"x": [1, 4]}),
    "too few inputs": lambda: build([node("Add", ["x"], ["y"])], inputs={"x": [1, 4]}),
    "too many inputs": lambda: build([node("Relu", ["x", "x"], ["y"])], inputs={"x": [1, 4]}),
    "too many outputs": lambda: build([node("Relu", ["x"], ["y", "z"])], inputs={"x": [1, 4]}),
    "an absent required input": lambda: build([node("Add", ["x", ""], ["y"])], inputs={"x": [1, 4]}),
    "an operator newer than the opset": lambda: build([node("HardSwish", ["x"], ["y"])], inputs={"x": [1]}, opset=13),
    "stride 0": lambda: build(
        [node("MaxPool", ["x"], ["y"], kernel_shape=[1, 1], strides=[0, 1])], inputs={"x": [1, 1, 4, 4]}
    ),
    "group 0": lambda: build(
        [node("Conv", ["x", "w"], ["y"], group=0)],
        inputs={"x": [1, 1, 4, 4]},
        constants={"w": np.ones((1, 1, 1, 1), F32)},
    ),
    "negative pads": lambda: build(
        [node("MaxPool", ["x"], ["y"], kernel_shape=[1, 1], pads=[-1, 0, 0, 0])], inputs={"x": [1, 1, 4, 4]}
    ),
    "axis 2**62": lambda: build([node("Softmax", ["x"], ["y"], axis=2**62)], inputs={"x": [1, 4]}),
    "Quant without a width": lambda: build(
        [node("Quant", ["x", "s", "s"], ["y"], QONNX, signed=1)], inputs={"x": [1]}, constants={"s": F32(1)}
    ),
    # quantizers
    "scale 0": lambda: quantized(0.0),
    "negative scale": lambda: quantized(-0.1),
    "NaN scale": lambda: quantized(np.nan),
    "infinite scale": lambda: quantized(np.inf),
    "subnormal scale": lambda: quantized(1e-40),
    "zero point of another length": lambda: quantized([0.1, 0.2, 0.3, 0.4], np.zeros(3, np.int8), axis=1),
    "scales of another length than the axis": lambda: build(
        [node("DequantizeLinear", ["w", "s"], ["r"], axis=0), node("MatMul", ["x", "r"], ["y"])],
        inputs={"x": [1, 4]},
        constants={"w": np.ones((4, 3), np.int8), "s": np.ones(3, F32)},
    ),
    "zero point of another type": lambda: build(
        [node("DequantizeLinear", ["w", "s", "z"], ["r"]), node("MatMul", ["x", "r"], ["y"])],
        inputs={"x": [1, 4]},
        constants={"w": np.ones((4, 3), np.int8), "s": np.ones((), F32), "z": np.uint8(0)},
    ),
    "QONNX width 0": lambda: build(
        [node("Quant", ["x", "s", "z", "b"], ["y"], QONNX, signed=1, narrow=0)],
        inputs={"x": [1, 4]},
        constants={"s": F32(1), "z": F32(0), "b": F32(0)},
    ),
    # work
    "ConstantOfShape 2**40": lambda: bomb("ConstantOfShape", np.array([2**20, 2**20], np.int64)),
    "Expand 2**40": lambda: bomb("Expand", np.ones((1, 1), F32), np.array([2**20, 2**20], np.int64)),
    "Tile 2**40": lambda: bomb("Tile", np.ones((1, 1), F32), np.array([2**20, 2**20], np.int64)),
    "Range of 10**12": lambda: bomb("Range", np.int64(0), np.int64(10**12), np.int64(1)),
    "Range with step 0": lambda: bomb("Range", np.int64(0), np.int64(9), np.int64(0)),
    "broadcast to 2**32": lambda: bomb("Add", np.ones((2**16, 1), F32), np.ones((1, 2**16), F32)),
    "constants that do not broadcast": lambda: bomb("Add", np.ones((4, 3), F32), np.ones((5, 3), F32)),
    "reshape that does not fit": lambda: bomb("Reshape", np.ones((4, 3), F32), np.array([5, 3], np.int64)),
    "gather beyond the end": lambda: bomb("Gather", np.ones((4, 3), F32), np.array([[9]], np.int64)),
    "integer division by zero": lambda: bomb("Div", np.ones((4, 3), np.int32), np.zeros((4, 3), np.int32)),
    "constants that double 40 times": lambda: doubled_constants(40),
    "many expansions": lambda: many_expansions(8),
    "padding to 2**40": lambda: activation_bomb("Pad", np.array([0, 0, 2**20, 2**20], np.int64)),
    "product of 2**36 operations": lambda: build(
        [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["t", "x"], ["y"])],
        inputs={"x": [2**12, 2**12]},
    ),
}

UNSUPPORTED: dict[str, Callable[[], Model | bytes]] = {
    "opset 999": lambda: damaged(lambda m: opset(m, 999)),
    "opset 6": lambda: damaged(lambda m: opset(m, 6)),
    "IR version 99": lambda: damaged(lambda m: setattr(m, "ir_version", 99)),
    "unknown domain": lambda: build([node("Magic", ["x"], ["y"], "unheard.of")], inputs={"x": [1, 4]}),
    "LSTM": lambda: build(
        [node("LSTM", ["x", "w", "r"], ["y"])],
        inputs={"x": [1, 1, 4]},
        constants={"w": np.ones((1, 8, 4), F32), "r": np.ones((1, 8, 2), F32)},
    ),
    "subgraph": lambda: nested_if(1),
    "deeply nested subgraphs": lambda: nested_if(20),
    "model-local function": lambda: damaged(
        lambda m: m.functions.append(
            helper.make_function("local", "f", ["a"], ["b"], [node("Relu", ["a"], ["b"])], m.opset_import)
        )
    ),
    "sequence input": lambda: damaged(
        lambda m: m.graph.input[0].type.CopyFrom(
            helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [1]))
        )
    ),
    "sparse initializer": lambda: damaged(lambda m: m.graph.sparse_initializer.add()),
    "string tensor": lambda: damaged(
        lambda m: m.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [1], [b"a"]))
    ),
    "float8 tensor": lambda: damaged(
        lambda m: m.graph.initializer.append(helper.make_tensor("t", TensorProto.FLOAT8E4M3FN, [1], [1.0]))
    ),
    "int64 input": lambda: build([node("Relu", ["x"], ["y"])], inputs={"x": [1]}, types={"x": TensorProto.INT64}),
    "float16 input": lambda: build([node("Relu", ["x"], ["y"])], inputs={"x": [1]}, types={"x": TensorProto.FLOAT16}),
    "constant output": lambda: build(
        [node("Relu", ["x"], ["y"]), node("Neg", ["c"], ["z"])],
        inputs={"x": [1]},
        outputs=["y", "z"],
        constants={"c": np.ones(1, F32)},
    ),
}


def convert(case: Model | bytes) -> None:
    """Everything up to the point where the graph may be evaluated."""
    data = case if isinstance(case, bytes) else case.SerializeToString()
    source = load_bytes(data, "case.onnx")
    check_caps(import_graph(normalize(source).graph, source.opsets[""]))


def test_the_undamaged_models_are_accepted() -> None:
    convert(small())
    convert(quantized())
    convert(quantized(np.finfo(F32).tiny))


@pytest.mark.parametrize("name", INVALID)
def test_broken_and_unsafe_files(name: str) -> None:
    case = INVALID[name]()
    start = time.process_time()
    with pytest.raises(InvalidModelError) as caught:
        convert(case)
    assert time.process_time() - start < _SECONDS
    assert caught.value.exit_code == 5
    for problem in caught.value.problems:
        assert problem.where
        assert problem.found
        assert problem.expected
        assert problem.remedy


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_sound_files_outside_what_is_read(name: str) -> None:
    case = UNSUPPORTED[name]()
    start = time.process_time()
    with pytest.raises(UnsupportedModelError) as caught:
        convert(case)
    assert time.process_time() - start < _SECONDS
    assert caught.value.exit_code == 4


def test_every_offending_node_is_listed_with_operator_opset_reason_and_remedy() -> None:
    model = small()
    model.opset_import.append(helper.make_opsetid("trt", 1))
    for i, (op, domain) in enumerate([("GRU", ""), ("TRT_INT4DequantizeLinear", "trt"), ("MatMulNBits", "trt")]):
        model.graph.node.append(node(op, ["h"], [f"extra{i}"], domain))
    with pytest.raises(UnsupportedModelError) as caught:
        load(model)
    assert [problem.op for problem in caught.value.problems] == [
        "GRU",
        "trt.TRT_INT4DequantizeLinear",
        "trt.MatMulNBits",
    ]
    assert [problem.opset for problem in caught.value.problems] == [17, 1, 1]
    text = str(caught.value)
    for expected in ("GRU_extra0", "recurrent", "TensorRT", "block-wise", "per output channel"):
        assert expected in text


def test_every_broken_tensor_is_listed() -> None:
    model = small()
    for name in ("a", "b"):
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, np.nan], F32), name))
    with pytest.raises(InvalidModelError) as caught:
        load(model)
    assert [problem.where for problem in caught.value.problems] == ["initializer 'a'", "initializer 'b'"]


def test_long_lists_of_problems_are_cut() -> None:
    model = small()
    for i in range(300):
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, np.nan], F32), f"t{i}"))
    with pytest.raises(InvalidModelError) as caught:
        load(model)
    assert len(caught.value.problems) == 101
    assert "200 more" in caught.value.problems[-1].found


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bytes_never_crash(seed: int) -> None:
    """A smoke test, not proof: success or any KwsqError is right, any other exception is not."""
    rng = np.random.default_rng(seed)
    data = bytearray((quantized() if seed % 2 else small()).SerializeToString())
    for position in rng.integers(0, len(data), rng.integers(1, 6)):
        data[position] = rng.integers(0, 256)
    start = time.process_time()
    with suppress(KwsqError):
        convert(bytes(data))
    assert time.process_time() - start < _SECONDS


@pytest.mark.parametrize("length", range(0, 260, 7))
def test_truncation_never_crashes(length: int) -> None:
    data = small().SerializeToString()
    with suppress(KwsqError):
        convert(data[:length])


def test_a_missing_file_a_directory_and_an_unreadable_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(UsageError) as caught:
            load_file(path)
        assert caught.value.exit_code == 2
    file = tmp_path / "model.onnx"
    file.write_bytes(small().SerializeToString())
    assert load_file(file).graph.nodes

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Root reads everything, so permissions are refused by hand.
    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(UsageError, match="Permission denied"):
        load_file(file)


def test_a_wide_graph_and_a_deep_one_stay_fast() -> None:
    deep = [node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(5000)]
    wide = [node("Relu", ["t5000"], [f"w{i}"]) for i in range(5000)]
    model = build([*deep, *wide, node("Sum", [f"w{i}" for i in range(5000)], ["y"])], inputs={"x": [1, 4]})
    start = time.process_time()
    assert len(normalized(model).graph.nodes) == 10_001
    assert time.process_time() - start < _SECONDS


def test_a_file_of_empty_nodes_stays_fast() -> None:
    """Two bytes per node make the largest number of objects a file can ask for."""
    body = b"\x0a\x00" * (MAX_FILE_BYTES // 2 - 16)
    length = len(body)
    varint = bytearray()
    while length:
        varint.append((length & 0x7F) | (0x80 if length > 0x7F else 0))
        length >>= 7
    data = b"\x08\x08" + b"\x3a" + bytes(varint) + body
    assert len(data) <= MAX_FILE_BYTES
    start = time.process_time()
    with pytest.raises(InvalidModelError, match="nodes"):
        load_bytes(data, "empty-nodes.onnx")
    assert time.process_time() - start < 3 * _SECONDS
