"""The exported graph: what each weight form computes, what its names and types say, and that bytes repeat."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conversion import convert
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from kwsq.ir.quant import UNQUANTIZED, Affine, Codebook, IntRange, PerAxis, dequantize
from kwsq.ir.uniform_grid import UniformGrid
from kwsq.models.data.clips import LABELS
from kwsq.models.export_onnx import QONNX_DOMAIN, GraphWriter, emit_weight, export_onnx, standard_twin
from kwsq.models.records import (
    BatchNormRecord,
    Conv2DRecord,
    DenseRecord,
    FakeQuantizeRecord,
    LayerRecord,
    MeanOverMapRecord,
    MeanOverTimeRecord,
    ReluRecord,
    SplicedDenseRecord,
    WeightTensor,
)
from kwsq.models.scoring.accuracy import logits

ROOT = Path(__file__).resolve().parents[2]
INT4 = IntRange.of(4, narrow=True)
INT8 = IntRange.of(8)


def codebook(levels: list[int], *, bits: int) -> Codebook:
    return Codebook(np.array(levels), np.array([0.01]), bits)


def run(model: bytes, feeds: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def weight_model(weight: WeightTensor) -> onnx.ModelProto:
    """A graph whose only output is the weight."""
    writer = GraphWriter()
    name = emit_weight(writer, "w", weight)
    shape = list(weight.values.shape)
    copy = helper.make_node("Identity", [name], ["out"])
    output = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph([*writer.nodes, copy], "weight", [], [output], writer.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, writer.metadata)
    return model


def weight_cases() -> dict[str, WeightTensor]:
    rng = np.random.default_rng(7)
    codes = rng.integers(-7, 8, size=(6, 4, 5)).astype(np.int8)
    levels = np.array([-127, -40, -3, 0, 5, 90])
    per_axis = np.array([0.1, 0.02, 0.3, 0.04, 0.5, 0.06])
    chosen = levels[rng.integers(0, 6, size=(6, 4, 5))].astype(np.int8)
    return {
        "uniform per tensor": WeightTensor(codes, Affine.per_tensor(0.013, 0, INT4)),
        "uniform per axis": WeightTensor(codes, Affine(per_axis, np.zeros(6), INT4, PerAxis(0))),
        "codebook per tensor": WeightTensor(chosen, codebook(levels.tolist(), bits=3)),
        "codebook per axis": WeightTensor(chosen, Codebook(levels, per_axis, 3, PerAxis(0))),
        "1-bit of other levels": WeightTensor(
            np.where(codes > 0, 90, -40).astype(np.int8), codebook([-40, 90], bits=1)
        ),
    }


def bipolar_cases() -> dict[str, WeightTensor]:
    signs = np.random.default_rng(8).choice(np.array([-1, 1], np.int8), size=(6, 4, 5))
    scales = np.array([0.1, 0.02, 0.3, 0.04, 0.5, 0.06])
    return {
        "per tensor": WeightTensor(signs, codebook([-1, 1], bits=1)),
        "per axis": WeightTensor(signs, Codebook(np.array([-1, 1]), scales, 1, PerAxis(0))),
        "along the second axis": WeightTensor(signs, Codebook(np.array([-1, 1]), scales[:4], 1, PerAxis(1))),
    }


@pytest.mark.parametrize("case", weight_cases().values(), ids=weight_cases().keys())
def test_the_runtime_computes_exactly_the_grid_values(case: WeightTensor) -> None:
    assert not isinstance(case.spec, type(UNQUANTIZED))
    np.testing.assert_array_equal(run(weight_model(case).SerializeToString(), {}), dequantize(case.values, case.spec))


@pytest.mark.parametrize("case", bipolar_cases().values(), ids=bipolar_cases().keys())
def test_one_bit_weights_are_qonnx(case: WeightTensor) -> None:
    model = weight_model(case)
    quantizer, _ = model.graph.node
    assert (quantizer.domain, quantizer.op_type) == ("qonnx.custom_op.general", "BipolarQuant")
    latent, scale = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    # The meaning of BipolarQuant as its document states it.
    computed = np.where(latent >= 0, np.float32(1), np.float32(-1)) * scale
    assert not isinstance(case.spec, type(UNQUANTIZED))
    np.testing.assert_array_equal(computed, dequantize(case.values, case.spec))
    assert computed.dtype == scale.dtype == latent.dtype == np.float32


def one_bit_network(spec: Codebook) -> tuple[LayerRecord, ...]:
    signs = np.random.default_rng(9).choice(np.array([-1, 1], np.int8), size=(5, 3))
    return MeanOverTimeRecord("mean"), DenseRecord("dense", WeightTensor(signs, spec), np.zeros(3, np.float32))


def test_scales_along_an_axis_are_read_back(tmp_path: Path) -> None:
    scales = np.array([0.5, 0.25, 0.125])
    network = one_bit_network(Codebook(np.array([-1, 1]), scales, 1, PerAxis(1)))
    path = tmp_path / "axis.onnx"
    path.write_bytes(export_onnx(network, (7, 5), name="axis"))
    features = np.random.default_rng(10).normal(size=(4, 7, 5)).astype(np.float32)
    signs = network[1].weight.values  # type: ignore[union-attr]  # the dense layer of the two
    # Means of 7 and dot products of 5 float32 terms of a few units.
    np.testing.assert_allclose(logits(path, features), features.mean(axis=1) @ (signs * scales), atol=1e-5)


def around(layer: LayerRecord, inputs: int) -> tuple[LayerRecord, ...]:
    """A network of two classes around a layer with six outputs."""

    def plain(*shape: int) -> WeightTensor:
        return WeightTensor(np.ones(shape, np.float32), UNQUANTIZED)

    last = DenseRecord("last", plain(6, 2), np.zeros(2, np.float32))
    match layer:
        case SplicedDenseRecord():
            return layer, MeanOverTimeRecord("mean"), last
        case Conv2DRecord():
            first = Conv2DRecord("first", plain(1, 1, 1, inputs), (1, 1), (0, 0, 0, 0), False)
            return first, layer, MeanOverMapRecord("mean"), last
    return MeanOverTimeRecord("mean"), layer, last


def exported_weight(network: tuple[LayerRecord, ...], name: str) -> NDArray[np.float32]:
    """What the nodes of one weight compute."""
    graph = standard_twin(onnx.load_from_string(export_onnx(network, (9, 4), name="one"))).graph
    nodes = [node for node in graph.node if node.output[0].startswith(name)]
    output = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    alone = helper.make_graph(nodes, "weight", [], [output], graph.initializer)
    model = helper.make_model(alone, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return run(model.SerializeToString(), {})


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", ["spliced", "map", "depthwise", "dense"])
def test_scales_go_with_their_axis_into_the_order_of_onnx(kind: str, bits: int) -> None:
    shape, axis, order = {
        "spliced": ((3, 4, 6), 2, (2, 1, 0)),
        "map": ((3, 2, 4, 6), 3, (3, 2, 0, 1)),
        "depthwise": ((3, 2, 6, 1), 2, (2, 3, 0, 1)),
        "dense": ((4, 6), 1, (1, 0)),
    }[kind]
    grid = UniformGrid.of(bits)
    codes = np.random.default_rng(bits).choice(grid.codes, shape)
    spec = grid.spec(np.array([0.1, 0.02, 0.3, 0.04, 0.5, 0.06]), PerAxis(axis))
    weight = WeightTensor(codes, spec)
    layers: dict[str, LayerRecord] = {
        "spliced": SplicedDenseRecord("layer", weight, 1),
        "map": Conv2DRecord("layer", weight, (1, 1), (0, 0, 0, 0), False),
        "depthwise": Conv2DRecord("layer", weight, (1, 1), (0, 0, 0, 0), True),
        "dense": DenseRecord("layer", weight, np.zeros(6, np.float32)),
    }
    found = exported_weight(around(layers[kind], inputs=shape[-2]), "layer.weight")
    np.testing.assert_array_equal(found, dequantize(codes, spec).transpose(order))


def test_a_qonnx_weight_computes_what_its_twin_of_standard_operators_does(tmp_path: Path) -> None:
    file = export_onnx(one_bit_network(codebook([-1, 1], bits=1)), (7, 5), name="w1")
    features = np.random.default_rng(11).normal(size=(4, 7, 5)).astype(np.float32)
    (tmp_path / "w1.onnx").write_bytes(file)
    twin = standard_twin(onnx.load_from_string(file))
    expected = run(twin.SerializeToString(), {"features": features.transpose(0, 2, 1)})
    # Means of 7 and dot products of 5 float32 terms of a few units, in another order.
    np.testing.assert_allclose(logits(tmp_path / "w1.onnx", features), expected, atol=1e-6)


def test_the_checker_sees_around_a_qonnx_weight_only_in_the_twin() -> None:
    model = onnx.load_from_string(export_onnx(one_bit_network(codebook([-1, 1], bits=1)), (7, 5), name="w1"))
    onnx.checker.check_model(standard_twin(model), full_check=True)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4  # the weight gives three
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.checker.check_model(standard_twin(model), full_check=True)


def test_only_files_of_one_bit_weights_name_the_qonnx_domain() -> None:
    one_bit = onnx.load_from_string(export_onnx(one_bit_network(codebook([-1, 1], bits=1)), (7, 5), name="w1"))
    assert [(opset.domain, opset.version) for opset in one_bit.opset_import] == [("", 17), (QONNX_DOMAIN, 2)]
    other = onnx.load_from_string(export_onnx(network(), (9, 4), name="small"))
    assert [opset.domain for opset in other.opset_import] == [""]


def test_a_flipped_index_changes_the_weight() -> None:
    case = weight_cases()["codebook per tensor"]
    model = weight_model(case)
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == "w.indices")
    indices = numpy_helper.to_array(stored).copy()
    indices[0, 0, 0] ^= 1
    stored.CopyFrom(numpy_helper.from_array(indices, "w.indices"))
    assert (run(model.SerializeToString(), {}) != dequantize(case.values, case.spec)).sum() == 1


def test_the_codebook_dialect_is_as_documented() -> None:
    model = weight_model(weight_cases()["codebook per tensor"])
    assert [node.op_type for node in model.graph.node] == ["Cast", "Gather", "DequantizeLinear", "Identity"]
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert tensors["w.indices"].dtype == np.uint8
    assert tensors["w.indices"].shape == (6, 4, 5)
    assert tensors["w.levels"].dtype == np.int8
    assert (np.diff(tensors["w.levels"].astype(int)) > 0).all()
    assert tensors["w.zero_point"] == 0


@pytest.mark.parametrize(("bits", "stated"), [(3, {}), (5, {"kwsq.bits.w.indices": "5"})])
def test_the_width_is_stated_only_where_the_levels_do_not_give_it(bits: int, stated: dict[str, str]) -> None:
    weight = WeightTensor(np.array([[0, 90]], dtype=np.int8), codebook([-127, -40, 0, 5, 90], bits=bits))
    model = weight_model(weight)
    assert {entry.key: entry.value for entry in model.metadata_props} == stated


def test_the_documented_example_runs() -> None:
    page = (ROOT / "docs" / "codebook-dialect.md").read_text(encoding="utf-8")
    block = next(
        text for text in re.findall(r"```\n(.*?)```", page, flags=re.DOTALL) if "Gather" in text and "=>" in text
    )
    graph = onnx.parser.parse_graph(block)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.array([1.0, 10.0], dtype=np.float32)
    np.testing.assert_array_equal(run(model.SerializeToString(), {"x": x}), [-3.5, 1.5 - 35.0])


def test_classes_and_features_are_stated_where_they_are_known() -> None:
    classes = ("_other_", "no", "s\u00ed", "yes", "up")

    def stated(file: bytes) -> dict[str, str]:
        return {entry.key: entry.value for entry in onnx.load_from_string(file).metadata_props}

    assert stated(export_onnx(network(), (9, 4), name="small")) == {}
    file = export_onnx(network(), (9, 4), name="small", classes=classes, features="lfbe")
    assert stated(file) == {"kwsq.classes": '["_other_", "no", "s\u00ed", "yes", "up"]', "kwsq.features": "lfbe"}


def test_what_a_file_states_of_its_task_changes_nothing_of_its_conversion() -> None:
    plain = onnx.load_from_string(export_onnx(network(), (9, 4), name="small"))
    stating = onnx.load_from_string(export_onnx(network(), (9, 4), name="small", classes=LABELS[:5], features="mfcc"))
    assert convert(plain, None).artefact == convert(stating, None).artefact


def network(seed: int = 11) -> tuple[LayerRecord, ...]:
    """A small network with one layer of every kind and every form of weight."""
    rng = np.random.default_rng(seed)
    uniform = WeightTensor(rng.integers(-7, 8, size=(3, 4, 6)).astype(np.int8), Affine.per_tensor(0.05, 0, INT4))
    book = codebook([-127, -30, 12, 100], bits=2)
    table = WeightTensor(book.levels[rng.integers(0, 4, size=(6, 5))].astype(np.int8), book)
    norm = [rng.uniform(0.5, 1.5, size=6).astype(np.float32) for _ in range(4)]
    return (
        FakeQuantizeRecord("q0", Affine.per_tensor(0.03, 4, INT8)),
        SplicedDenseRecord("conv", uniform, stride=2),
        BatchNormRecord("norm", *norm, epsilon=1e-3),
        ReluRecord("relu"),
        MeanOverTimeRecord("mean"),
        DenseRecord("dense", table, rng.normal(size=5).astype(np.float32)),
        FakeQuantizeRecord("q1", Affine.per_tensor(0.1, -3, INT8)),
    )


def test_the_graph_has_the_stated_interface() -> None:
    model = onnx.load_from_string(export_onnx(network(), (9, 4), name="small"))
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"features": ["batch", 4, 9], "logits": ["batch", 5]}
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert [tensors[name].item() for name in clip.input[1:]] == [-7, 7]


def test_scales_are_stored_bit_for_bit() -> None:
    model = onnx.load_from_string(export_onnx(network(), (9, 4), name="small"))
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert tensors["conv.weight.scale"].tobytes() == np.float32(0.05).tobytes()
    assert tensors["q1.scale"].tobytes() == np.float32(0.1).tobytes()
    assert tensors["conv.weight.scale"].shape == tensors["q1.scale"].shape == tensors["q1.zero_point"].shape == ()


def test_equal_records_give_equal_bytes() -> None:
    assert export_onnx(network(), (9, 4), name="small") == export_onnx(network(), (9, 4), name="small")
    assert export_onnx(network(), (9, 4), name="small") != export_onnx(network(12), (9, 4), name="small")
