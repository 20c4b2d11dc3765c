"""Every byte of a .tflite has one purpose, and the numbers equal those of the tools people trust."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from one_op import TensorSpec, constant, one_op_model

from kwsq.converter.footprint import Flash, LayerFootprint, WeightTensor
from kwsq.converter.tflite_footprint import declared_weights, measure
from kwsq.ir.errors import InvalidModelError
from kwsq.targets.neon.reader import read

RNG = np.random.default_rng(3)


def convolution(operator: str = "CONV_2D") -> bytes:
    shape = (8, 3, 3, 4) if operator == "CONV_2D" else (1, 3, 3, 8)
    scales = [0.5 + 0.01 * i for i in range(8)]
    weight = constant(RNG.integers(-8, 8, shape, np.int8), scales, 0 if operator == "CONV_2D" else 3)
    bias = constant(np.arange(8, dtype=np.int32), scales)
    options = schema.Conv2DOptionsT() if operator == "CONV_2D" else schema.DepthwiseConv2DOptionsT()
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    x = TensorSpec((1, 10, 12, 4 if operator == "CONV_2D" else 8), scale=0.1)
    return one_op_model(operator, [x, weight, bias], [TensorSpec((1, 10, 12, 8), scale=0.2)], options=options)


def test_purposes_of_a_convolution() -> None:
    data = convolution()
    report = measure(read(data, "m.tflite"))
    flash = report.flash
    assert flash.total_bytes == len(data) == report.file_bytes
    assert flash.weights_bytes == 8 * 3 * 3 * 4
    assert flash.biases_bytes == 8 * 4
    assert flash.names_bytes >= sum(len(f"t{i}") + 5 for i in range(4))
    assert flash.codebooks_bytes == flash.metadata_bytes == 0
    (layer,) = report.layers
    assert layer.macs == 10 * 12 * 8 * 3 * 3 * 4
    assert (report.parameters, layer.output_bytes, layer.live_bytes) == (288 + 8, 960, 480 + 960)
    (weight,) = layer.weights
    assert (weight.rows, weight.scales, weight.container_bits, weight.needed_bits) == (8, 8, 8, 4)
    assert weight.fits_int4
    assert report.containers() == {
        "int8_weight_bytes": 288,
        "int4_weight_bytes": 144,
        "packed_weight_bytes": 144,
        "float32_weight_bytes": 1152,
    }


def test_depthwise_counts_channels_last() -> None:
    report = measure(read(convolution("DEPTHWISE_CONV_2D"), "m.tflite"))
    assert report.macs == 10 * 12 * 8 * 3 * 3
    assert report.weights[0].rows == 8


@given(st.lists(st.tuples(st.integers(8, 1500), st.integers(0, 255)), min_size=1, max_size=6))
def test_purposes_add_up_on_damaged_files_too(edits: list[tuple[int, int]]) -> None:
    data = bytearray(convolution())
    for place, value in edits:
        data[place % len(data)] = value
    try:
        report = measure(read(bytes(data), "m.tflite"))
    except InvalidModelError:
        return
    parts = [getattr(report.flash, field.name) for field in fields(Flash)]
    assert sum(parts) == len(data)
    assert min(parts) >= 0


def test_a_byte_claimed_twice_counts_once() -> None:
    model = schema.ModelT.InitFromPackedBuf(bytearray(convolution()), 0)
    graph = model.subgraphs[0]
    # A second convolution on the same weights: parameters, codes and names count for the first.
    again = schema.TensorT()
    again.name, again.shape, again.type = b"again", np.array([1, 10, 12, 8], np.int32), schema.TensorType.INT8
    graph.tensors.append(again)
    second = schema.OperatorT()
    second.inputs, second.outputs = graph.operators[0].inputs, [len(graph.tensors) - 1]
    graph.operators.append(second)
    report = measure(read(repacked(model), "m.tflite"))
    assert report.parameters == 288 + 8
    assert [layer.flash.weights_bytes for layer in report.layers] == [288, 0]
    assert report.flash.total_bytes == report.file_bytes


def repacked(model: schema.ModelT) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def with_entry(text: bytes) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(bytearray(convolution()), 0)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(text, np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = b"kwsq", len(model.buffers) - 1
    model.metadata = [entry]
    return repacked(model)


def test_declared_widths_and_codebooks_come_from_our_metadata() -> None:
    data = with_entry(b'{"bits":{"1":5},"levels":{"1":[-3,4]}}')
    report = measure(read(data, "m.tflite"))
    (weight,) = report.weights
    assert (weight.declared_bits, weight.bits, weight.codebook, weight.fits_int4) == (5, 5, True, False)
    assert report.flash.metadata_bytes >= len(b'{"bits":{"1":5},"levels":{"1":[-3,4]}}') + len("kwsq")
    assert report.flash.total_bytes == len(data)


@pytest.mark.parametrize(
    "text", [b"\xff", b"[]", b'{"bits":3}', b'{"bits":{"a":1,"1":"x"},"levels":4}', b"[" * 100_000, b"1" * 5000]
)
def test_foreign_metadata_of_our_name_is_survived(text: bytes) -> None:
    assert declared_weights(read(with_entry(text), "m.tflite")).widths == {}


def test_packed_bytes_round_up_per_row() -> None:
    weight = WeightTensor("w", (3, 7), rows=3, container_bits=8, declared_bits=5, needed_bits=5, distinct=9, scales=1)
    assert weight.packed_bytes == 3 * 5  # 7 * 5 bits are 5 bytes
    assert not weight.fits_int4


def test_flash_sums_by_purpose() -> None:
    total = Flash.sum([Flash(weights_bytes=3, names_bytes=1), Flash(weights_bytes=4)])
    assert total == Flash(weights_bytes=7, names_bytes=1)
    assert total.total_bytes == 8


@pytest.mark.shared
def test_mlcommons_keyword_model_matches_the_recorded_numbers(shared_dir: Path) -> None:
    data = (shared_dir / "models/mlcommons_tiny/kws_ref_model.tflite").read_bytes()
    report = measure(read(data, "kws_ref_model.tflite"))
    flash = report.flash
    assert flash.total_bytes == report.file_bytes == len(data) == 53_936
    # Constants as the generated schema reads them, and the arena head TFLite Micro's recording allocator reports.
    assert flash.weights_bytes + flash.biases_bytes + flash.other_constants_bytes == 24_376
    assert report.plan is not None
    assert report.plan.high_water_bytes == report.plan.lower_bound_bytes == 16_000
    assert report.macs == 2_656_768
    assert report.parameters == 22_604
    assert report.totals()["total_flash_bytes"] == 53_936
    assert biggest(report.layers).operator == "CONV_2D"


def biggest(layers: tuple[LayerFootprint, ...]) -> LayerFootprint:
    return max(layers, key=lambda layer: layer.flash.total_bytes)
