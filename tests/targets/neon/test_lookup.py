"""Lookup tables: indices and values as TensorFlow Lite Micro's own compressor writes them, and its runtime reads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lowered_models import LoweredModel, emit, random_inputs
from numpy.typing import NDArray

from kwsq.converter import parity
from kwsq.converter.parity.structure import check_structure
from kwsq.converter.runtimes import tflm
from kwsq.converter.tflite_footprint import measure
from kwsq.ir import lowered as ir
from kwsq.ir.errors import InvalidModelError, UsageError
from kwsq.ir.lowered import DType, LoweredGraph
from kwsq.targets.base import TargetOptions
from kwsq.targets.neon.container import DECODE_BYTES, choose_containers
from kwsq.targets.neon.lookup import DECODE, MAX_BITS, Lookup, compress, decompress, index_bits
from kwsq.targets.neon.reader import FileSubgraph, read
from kwsq.targets.neon.target import NeonTarget

needs_tflm = pytest.mark.skipif(
    not tflm.is_installed(), reason="TFLite Micro is absent; enable with: pip install 'kwsq[tflm]'"
)


def network(per_channel: bool = True) -> LoweredGraph:
    """Every kind of layer, with weights of 1, 3, 5, 7 and 8 bits, and a large constant operand."""
    model = LoweredModel(5)
    h = model.conv(model.input("x", (1, 9, 6, 8)), 32, (3, 3), bits=5, per_channel=per_channel)
    h = model.depthwise(h, (3, 3), bits=3, multiplier=2, per_channel=per_channel)
    operand = model.constant("operand", np.resize(np.arange(-8, 8, dtype=np.int8), (1, 5, 2, 64)), (0.1, 0))
    h = model.binary(ir.Add(), h, operand, (0.2, 3))
    h = model.reshape(h, (1, 640))
    h = model.dense(h, 64, levels=(-1, 1), bits=1, per_channel=per_channel)
    h = model.dense(h, 96, bits=7, per_channel=per_channel)
    return model.graph(model.dense(h, 40, bits=8, per_channel=per_channel))


def lut(graph: LoweredGraph) -> tuple[LoweredGraph, bytes]:
    return emit(graph, container="lut", runtime="tflm")


def file_of(data: bytes) -> FileSubgraph:
    return read(data, "model.tflite").main


@given(st.data(), st.integers(1, 128), st.booleans())
def test_decompression_undoes_compression(data: st.DataObject, distinct: int, per_channel: bool) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = rng.permutation(np.arange(-128, 128))[:distinct]
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple))
    codes = rng.choice(values, shape).astype(np.int8)
    packed = compress(codes, channels=shape[0] if per_channel else 1)
    assert packed is not None
    used = np.unique(codes).size
    assert packed.bits == max(1, int(np.ceil(np.log2(used))))
    assert len(packed.indices) == -(-codes.size * packed.bits // 8)
    np.testing.assert_array_equal(decompress(packed.indices, packed.ancillary, codes.shape), codes)


def test_more_values_than_seven_bits_can_number_are_not_compressed() -> None:
    assert compress(np.arange(-64, 65, dtype=np.int8), 1) is None
    assert compress(np.arange(-64, 64, dtype=np.int8), 1) is not None
    assert (index_bits(1), index_bits(2), index_bits(3), index_bits(128)) == (1, 1, 2, MAX_BITS)


def reference(codes: NDArray[np.int8]) -> tuple[bytes, bytes]:
    """What the package's own compressor makes of the codes."""
    from tflite_micro.tensorflow.lite.micro.compression import lut as theirs
    from tflite_micro.tensorflow.lite.micro.compression import model_editor, spec
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

    tensor = model_editor.Tensor(shape=codes.shape, dtype=schema.TensorType.INT8, data=codes)
    bits = theirs.compress_array(codes, None).index_bitwidth
    result = theirs.LutCompressor().compress(tensor, spec.LookUpTableCompression(bits, spec.PerTensor()))
    return result.encoded_data, result.ancillary_data


@needs_tflm
@pytest.mark.parametrize("distinct", [2, 3, 4, 7, 16, 31, 32, 33, 100, 128])
def test_bytes_are_those_of_the_packages_own_compressor(distinct: int) -> None:
    codes = np.random.default_rng(distinct).permutation(np.resize(np.arange(distinct) - distinct // 2, 999))
    codes = codes.astype(np.int8).reshape(37, 27)
    packed = compress(codes, channels=1)
    assert packed is not None
    assert (packed.indices, packed.ancillary) == reference(codes)
    # With a scale per channel one byte differs: see the next test.
    shared = compress(codes, channels=37)
    assert shared is not None
    assert shared.indices == packed.indices
    assert [i for i, (a, b) in enumerate(zip(shared.ancillary, packed.ancillary, strict=True)) if a != b] == [6]


@needs_tflm
def test_micro_reads_one_table_for_all_channels_only_with_a_distance_of_zero() -> None:
    """Why byte 6 is ours: with the compressor's own value the second channel reads behind its table."""
    graph, data = lut(network())
    inputs = random_inputs(graph, 2)
    assert parity.check(graph, data, None, inputs).passed
    ancillary = next(t for t in file_of(data).tensors if t.dtype == "UINT8" and bytes(t.data[:2]) == b"\0\1")
    whole = bytes(ancillary.data)
    assert whole[6] == 0
    theirs = data.replace(whole, whole[:6] + bytes([len(whole) - 16]) + whole[7:])
    report = parity.check(graph, theirs, None, inputs)
    assert not report["structure"].passed
    assert not report["micro_kernels"].passed
    assert report["micro_kernels"].mismatches[0].tensor == "weight"


@needs_tflm
@pytest.mark.parametrize("per_channel", [True, False])
def test_every_constant_runs_in_micro_as_from_bytes(per_channel: bool) -> None:
    graph, data = lut(network(per_channel))
    inputs = random_inputs(graph, 4)
    report = parity.check(graph, data, None, inputs)
    assert report.passed, [str(m) for c in report.checks for m in c.mismatches][:3]
    assert [c.name for c in report.checks] == ["structure", "micro_kernels"]
    assert report["micro_kernels"].figures["decoded"] == 5
    _, plain = emit(network(per_channel), runtime="tflm")
    runs = [tflm.run_tflm(file, [inputs["x"]]).outputs[0] for file in (data, plain)]
    np.testing.assert_array_equal(*runs)


@needs_tflm
def test_the_planned_arena_is_the_recorded_one() -> None:
    """What decoding costs: the planner places decoded constants like activations, as the interpreter does."""
    _, data = lut(network())
    _, plain = emit(network(), runtime="tflm")
    planned = [measure(read(file, "m")).to_json()["activations"]["high_water_bytes"] for file in (data, plain)]  # type: ignore[index]
    recorded = [tflm.measure_arena(file) for file in (data, plain)]
    assert recorded[0] > recorded[1]
    # The rest is the interpreter's own: structures per tensor and operator, the same on both sides but for the DECODEs.
    overhead = [total - head for total, head in zip(recorded, planned, strict=True)]
    assert 0 < overhead[0] - overhead[1] < 5 * 512


def test_kept_tensors_are_named_with_the_reason() -> None:
    model = LoweredModel(1)
    small = model.dense(model.input("x", (1, 8)), 8, bits=2)
    wide = model.dense(small, 64, bits=8)
    h = model.dense(wide, 64, bits=5)
    shared = model.constant("shared", np.ones((1, 640), np.int8), (0.1, 0))
    grown = model.dense(h, 640, bits=4)
    graph = model.graph(model.binary(ir.Mul(), model.binary(ir.Add(), grown, shared, (0.2, 0)), shared, (0.3, 0)))
    target, options = NeonTarget(), TargetOptions(container="lut", runtime="tflm")
    artefact = target.emit(target.legalize(graph, options), options)
    assert artefact.header["packed_tensors"] == ["weight_2", "weight_3"]
    kept = artefact.header["kept_tensors"]
    assert kept == {
        # 64 indices of 2 bits, a header and the three codes of a narrow grid.
        "weight": f"64 bytes would become {16 + 16 + 3 + DECODE_BYTES} with their DECODE",
        "weight_1": "more than 128 distinct values",
        "shared": "used more than once",
    }


def test_nothing_to_gain_is_refused_with_every_tensor_named() -> None:
    model = LoweredModel()
    graph = model.graph(model.dense(model.dense(model.input("x", (1, 8)), 8, bits=3), 64, bits=8))
    with pytest.raises(UsageError) as caught:
        choose_containers(graph, "lut", "tflm")
    assert [p.where for p in caught.value.problems] == ["weight", "weight_1"]
    assert "fewer weight bits" in str(caught.value.problems[0])


@pytest.mark.parametrize("strip_names", [True, False])
def test_a_decode_costs_at_most_what_the_choice_assumes(strip_names: bool) -> None:
    _, data = emit(network(), container="lut", runtime="tflm", strip_names=strip_names)
    _, plain = emit(network(), runtime="tflm", strip_names=strip_names)
    graph = file_of(data)
    decodes = [op for op in graph.operators if op.name == DECODE]
    packed = sum(len(graph.tensors[i].data) for op in decodes for i in op.inputs)
    saved = sum(graph.tensors[i].size for op in decodes for i in op.outputs)
    overhead = len(data) - len(plain) + saved - packed
    assert len(decodes) == 5
    assert 0 < overhead <= len(decodes) * DECODE_BYTES


def test_the_footprint_counts_indices_as_weights_and_tables_as_codebooks() -> None:
    graph, data = lut(network())
    report = measure(read(data, "model.tflite"))
    names = ("weight", "weight_1", "operand", "weight_2", "weight_3")
    lookups = [compress(np.asarray(graph[name].data), 1) for name in names]
    assert all(isinstance(lookup, Lookup) for lookup in lookups)
    assert report.flash.weights_bytes == sum(len(lookup.indices) for lookup in lookups if lookup) + 40 * 96
    assert report.flash.codebooks_bytes == sum(len(lookup.ancillary) for lookup in lookups if lookup)
    assert report.flash.total_bytes == len(data)
    widths = {w.name: w.container_bits for w in report.weights}
    assert widths == {"weight": 5, "weight_1": 3, "operand": 4, "weight_2": 1, "weight_3": 7, "weight_4": 8}
    plain = measure(read(emit(network(), runtime="tflm")[1], "model.tflite"))
    assert report.float_model.activation_bytes == plain.float_model.activation_bytes
    assert report.macs == plain.macs


def test_one_flipped_bit_of_indices_or_table_is_found() -> None:
    graph, data = lut(network())
    tensors = file_of(data).tensors
    decode = next(op for op in file_of(data).operators if op.name == DECODE)
    assert check_structure(graph, data).passed
    for i in decode.inputs:
        contents = bytes(tensors[i].data)
        flipped = contents[:-1] + bytes([contents[-1] ^ 0x80])
        check = check_structure(graph, data.replace(contents, flipped))
        assert {m.tensor for m in check.mismatches} >= {"weight"}
        assert "code" in {m.what for m in check.mismatches}


def test_a_decode_of_nothing_or_of_half_a_table_is_a_mismatch() -> None:
    with pytest.raises(ValueError, match="header"):
        decompress(b"\0", b"", (4,))
    packed = compress(np.arange(9, dtype=np.int8), 1)
    assert packed is not None
    with pytest.raises(ValueError, match="indices"):
        decompress(packed.indices[:-1], packed.ancillary, (9,))
    with pytest.raises(ValueError, match="index 8 into 8 values"):
        decompress(packed.indices, packed.ancillary[:-1], (9,))


def test_biases_stay_plain() -> None:
    graph, data = lut(network())
    plain = {t.name for t in file_of(data).tensors if t.is_constant and t.dtype == "INT32"}
    assert plain >= {n.name for n in graph.tensors.values() if n.data is not None and n.dtype is DType.INT32}


def test_equal_graphs_give_equal_bytes() -> None:
    assert lut(network())[1] == lut(network())[1]


@pytest.mark.parametrize(("bits", "theirs"), [(5, 42_960), (4, 34_752), (1, 10_160)])
def test_a_large_dense_layer_shrinks_by_no_less_than_with_the_packages_own_compressor(bits: int, theirs: int) -> None:
    """256 x 256, one scale per tensor; the package makes of a file of 67,216 bytes one of `theirs`."""
    model = LoweredModel(seed=bits)
    levels = (-1, 1) if bits == 1 else None
    graph = model.graph(model.dense(model.input("x", (1, 256)), 256, bits=bits, levels=levels, per_channel=False))
    plain = len(emit(graph, runtime="tflm")[1])
    assert plain - len(lut(graph)[1]) >= 67_216 - theirs


def test_damaged_files_are_measured_or_refused() -> None:
    data, rng, measured = lut(network())[1], np.random.default_rng(6), 0
    graph = file_of(data)
    decodes = [op for op in graph.operators if op.name == DECODE]
    spots = [data.index(bytes(graph.tensors[i].data)) for op in decodes for i in op.inputs]
    for round in range(600):
        damaged = bytearray(data)
        for _ in range(3):
            spot = spots[rng.integers(len(spots))] + int(rng.integers(20)) if round % 2 else rng.integers(len(data))
            damaged[spot] = rng.integers(256)
        try:
            report = measure(read(bytes(damaged), "m"))
        except InvalidModelError:
            continue
        measured += report.flash.total_bytes == len(data)
    assert measured > 100
