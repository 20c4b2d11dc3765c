"""The reader of any .tflite: agrees with the schema, and damaged files end in InvalidModelError and nothing else."""

import struct
import time

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from one_op import TensorSpec, constant, one_op_model

from kwsq.ir.errors import InvalidModelError
from kwsq.targets.neon.flatbuffer import Region
from kwsq.targets.neon.reader import TfliteModel, read
from kwsq.targets.neon.schema_names import BUILTIN_OPERATORS, TENSOR_TYPES


def dense_model() -> bytes:
    weight = constant(np.arange(-6, 6, dtype=np.int8).reshape(3, 4), [0.5, 0.25, 0.125])
    bias = constant(np.array([1, -2, 3], np.int32), [0.5, 0.25, 0.125])
    x, y = TensorSpec((1, 4), scale=1.0, zero_point=-3), TensorSpec((1, 3), scale=2.0)
    return one_op_model("FULLY_CONNECTED", [x, weight, bias], [y], options=schema.FullyConnectedOptionsT())


MODEL = dense_model()


def test_enumerations_equal_the_generated_schema() -> None:
    operators = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    types = {v: k for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
    assert dict(enumerate(BUILTIN_OPERATORS)) == operators
    assert dict(enumerate(name for name, _ in TENSOR_TYPES)) == types


def test_reads_tensors_operators_and_quantization() -> None:
    model = read(MODEL, "m.tflite")
    graph = model.main
    x, weight, bias, y = graph.tensors
    assert [(op.name, op.inputs, op.outputs) for op in graph.operators] == [("FULLY_CONNECTED", (0, 1, 2), (3,))]
    assert (graph.inputs, graph.outputs) == ((0,), (3,))
    assert [(t.name, t.shape, t.dtype) for t in (x, y)] == [("t0", (1, 4), "INT8"), ("t3", (1, 3), "INT8")]
    assert (x.scale.tolist(), x.zero_point.tolist()) == ([1.0], [-3])
    assert weight.scale.tolist() == [0.5, 0.25, 0.125]
    assert np.array_equal(weight.codes(), np.arange(-6, 6, dtype=np.int8).reshape(3, 4))
    assert bias.codes().tolist() == [1, -2, 3]
    assert not x.is_constant
    assert weight.is_constant


def test_int4_codes_unpack_low_nibble_first() -> None:
    packed = constant(np.array([0x8F, 0x17], np.uint8).view(np.int8), 0.5)
    model = one_op_model("DEQUANTIZE", [packed], [TensorSpec((2,), "float32")])
    tensor = read(model, "m.tflite").main.tensors[0]
    as_int4 = type(tensor)(
        **{
            **{name: getattr(tensor, name) for name in tensor.__slots__},
            "shape": (4,),
            "dtype": "INT4",
            "element_bits": 4,
        }
    )
    assert as_int4.codes().tolist() == [-1, -8, 7, 1]


def test_every_extent_lies_in_the_file_and_weights_are_found_where_they_are() -> None:
    model = read(MODEL, "m.tflite")
    extents = [e for b in model.buffers for e in b.extents] + [e for t in model.main.tensors for e in t.extents]
    assert all(0 <= e.start < e.stop <= len(MODEL) for e in extents)
    (weights,) = [e for e in model.buffers[1].extents if e.region is Region.BUFFER]
    assert MODEL[weights.start : weights.stop] == np.arange(-6, 6, dtype=np.int8).tobytes()


def outcome(data: bytes) -> TfliteModel | None:
    """The model, or None where the reader refused; everything else is a failure of the test."""
    try:
        model = read(data, "m.tflite")
    except InvalidModelError:
        return None
    for tensor in model.main.tensors:
        if tensor.is_constant and len(tensor.data) == tensor.size_bytes and tensor.element_bits:
            assert tensor.codes().shape == tensor.shape
    return model


@given(st.integers(0, len(MODEL) - 1))
def test_truncation_is_refused(length: int) -> None:
    assert outcome(MODEL[:length]) is None or length > 0.9 * len(MODEL)


@given(st.lists(st.tuples(st.integers(8, len(MODEL) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_never_crash(edits: list[tuple[int, int]]) -> None:
    data = bytearray(MODEL)
    for place, value in edits:
        data[place] = value
    outcome(bytes(data))


@given(st.integers(8, len(MODEL) - 4), st.sampled_from([0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0, 0x10000]))
def test_hostile_words_never_crash(place: int, word: int) -> None:
    outcome(MODEL[:place] + struct.pack("<I", word) + MODEL[place + 4 :])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_crash(tail: bytes) -> None:
    outcome(b"\x08\0\0\0TFL3" + tail)


def test_aliased_vectors_are_refused_quickly() -> None:
    # 16,000 tensors that share one name of 4,000 bytes: small on disk, 64 MB to a reader that follows offsets.
    tensor = schema.TensorT()
    tensor.name, tensor.shape = b"n" * 4000, np.ones(1, np.int32)
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [tensor], [], [], []
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [], [schema.BufferT()]
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    shared = tensor.Pack(builder)
    schema.SubGraphStartTensorsVector(builder, 16000)
    for _ in range(16000):
        builder.PrependUOffsetTRelative(shared)
    tensors = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    packed_graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, 1)
    builder.PrependUOffsetTRelative(packed_graph)
    graphs = builder.EndVector()
    buffer = schema.BufferT().Pack(builder)
    schema.ModelStartBuffersVector(builder, 1)
    builder.PrependUOffsetTRelative(buffer)
    buffers = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    start = time.monotonic()
    with pytest.raises(InvalidModelError, match="over and over"):
        read(bytes(builder.Output()), "m.tflite")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("shape", np.array([2**20, 2**20], np.int32), "shape"),
        ("shape", np.array([-4, 4], np.int32), "shape"),
        ("type", 99, "unknown type 99"),
        ("buffer", 77, "buffer 77"),
    ],
)
def test_impossible_tensors_are_refused(field: str, value: object, complaint: str) -> None:
    model = schema.ModelT.InitFromPackedBuf(bytearray(MODEL), 0)
    setattr(model.subgraphs[0].tensors[0], field, value)
    with pytest.raises(InvalidModelError, match=complaint):
        read(repacked(model), "m.tflite")


@pytest.mark.parametrize(("field", "value"), [("inputs", [0, 9]), ("outputs", [-1]), ("opcodeIndex", 5)])
def test_indices_outside_their_lists_are_refused(field: str, value: object) -> None:
    model = schema.ModelT.InitFromPackedBuf(bytearray(MODEL), 0)
    setattr(model.subgraphs[0].operators[0], field, value)
    with pytest.raises(InvalidModelError, match=r"index|operator code"):
        read(repacked(model), "m.tflite")


def repacked(model: schema.ModelT) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_an_omitted_input_and_metadata_are_read() -> None:
    model = schema.ModelT.InitFromPackedBuf(bytearray(MODEL), 0)
    model.subgraphs[0].operators[0].inputs = [0, 1, -1]
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"note", 1
    model.metadata = [entry]
    found = read(repacked(model), "m.tflite")
    assert found.main.operators[0].inputs == (0, 1, -1)
    assert found.metadata == {"note": np.arange(-6, 6, dtype=np.int8).tobytes()}
