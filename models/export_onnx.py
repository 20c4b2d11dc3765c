"""Annotated ONNX from layer records: QCDQ for uniform grids, the codebook dialect for non-uniform ones.

The graph takes `features` float32, (N, C, T), or (N, 1, T, C) where the network convolves over both, and gives
`logits` (N, classes) float32. Weights appear as

  float     initializer
  uniform   INT8 codes -> Clip(low, high) -> DequantizeLinear(scale, zero point): the clip states the width
  bipolar   FLOAT -1 and +1 -> BipolarQuant(scale) of QONNX, the one dialect with a word for 1-bit weights
  codebook  UINT8 indices -> Cast(INT32) -> Gather(INT8 levels) -> DequantizeLinear(scale), as in
            docs/codebook-dialect.md

and activations as QuantizeLinear -> DequantizeLinear in int8. Batch norms stay unfolded. The bytes depend on
the records alone: no time, host or library version enters. 4-bit codes keep the clip too: ONNX's INT4 would state
[-8, 7] where training had [-7, 7], and needs opset 21, which fewer tools read.

A recurrent network is written as one step: it takes one frame (N, C) and the state of every recurrent layer, and gives
the next states behind the logits: `<layer>.state`, `<layer>.next_state`. States start at zero.

The metadata `kwsq.classes` and `kwsq.features` say what the outputs mean and what the input is, see docs/data.md.

Source: ONNX operator specification, opset 17; QCDQ is Brevitas' name for the clip form; QONNX operator document
BipolarQuant; the codebook dialect is ours.
"""

import json
from dataclasses import replace
from typing import Any, assert_never

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.numerics.accumulator import Accumulator
from kwsq.ir.quant import Affine, Codebook, PerAxis, Unquantized
from kwsq.models.records import (
    CLASSES_KEY,
    FEATURES_KEY,
    BatchNormRecord,
    BiasTensor,
    Conv2DRecord,
    DenseRecord,
    FakeQuantizeRecord,
    LayerRecord,
    MeanOverMapRecord,
    MeanOverTimeRecord,
    RecurrentRecord,
    ReluRecord,
    SplicedDenseRecord,
    WeightTensor,
)

OPSET = 17
IR_VERSION = 8
PRODUCER = "kwsq"
INPUT, OUTPUT = "features", "logits"
BIPOLAR_LEVELS = (-1, 1)
QONNX_DOMAIN, QONNX_VERSION = "qonnx.custom_op.general", 2
BITS_KEY = "kwsq.bits."
ACCUMULATOR_KEY = "kwsq.accumulator"


class GraphWriter:
    """Collects nodes and initializers while the layers are written one after another."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.metadata: dict[str, str] = {}
        self.states: list[tuple[str, str, int]] = []

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Add an initializer and return its name."""
        # np.ascontiguousarray would make a vector of a scalar, which ONNX Runtime's fused operators refuse.
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node named after its output and return that output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes))
        return output

    @property
    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        """The operator sets that the nodes written so far need."""
        is_qonnx = any(node.domain == QONNX_DOMAIN for node in self.nodes)
        standard = helper.make_opsetid("", OPSET)
        return [standard, helper.make_opsetid(QONNX_DOMAIN, QONNX_VERSION)] if is_qonnx else [standard]


def export_onnx(
    records: tuple[LayerRecord, ...],
    input_shape: tuple[int, int],
    *,
    name: str,
    classes: tuple[str, ...] = (),
    features: str = "",
) -> bytes:
    """Write a trained network as an annotated ONNX model.

    Args:
        records: layers in order; the last one gives the logits.
        input_shape: (T, C) frames and channels of the features.
        name: graph name.
        classes: names in the order of the logits, stated in the file; none where the caller does not know them.
        features: what computes the features, such as "lfbe"; stated likewise.

    Returns:
        The serialised model, checked by onnx.checker with full shape inference.

    Raises:
        UsageError: in a recurrent network, exported as a step of one frame, a layer that sees several, or no dense
            layer at the end.
    """
    _check_steps(records)
    writer, tensor = GraphWriter(), INPUT
    for record in records:
        tensor = _emit(writer, record, tensor)
    writer.nodes[-1].output[0] = OUTPUT
    if classes:
        writer.metadata[CLASSES_KEY] = json.dumps(classes, ensure_ascii=False)
    if features:
        writer.metadata[FEATURES_KEY] = features
    model = _model(writer, _input_dims(writer, records, input_shape), _classes(records), name)
    onnx.checker.check_model(model)
    onnx.checker.check_model(standard_twin(model), full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _check_steps(records: tuple[LayerRecord, ...]) -> None:
    """Refuse what a step of one frame cannot compute."""
    if not any(isinstance(record, RecurrentRecord) for record in records):
        return
    last = [record for record in records if not isinstance(record, FakeQuantizeRecord)][-1]
    if not isinstance(last, DenseRecord):
        remedy = "end the network in a dense layer: its outputs are the logits"
        raise UsageError(Problem("export of a recurrent network", f"{last.name} as last layer", "a dense one", remedy))
    many = SplicedDenseRecord | Conv2DRecord | MeanOverTimeRecord | MeanOverMapRecord
    if names := [record.name for record in records if isinstance(record, many)]:
        found, expected = f"layers over several frames: {', '.join(names)}", "dense and recurrent layers"
        raise UsageError(Problem("export of a recurrent network", found, expected, "splice frames before the network"))


def standard_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of standard operators only: of signs -1 and +1, BipolarQuant is their product with the scale.

    For checks: of a model that holds another domain's operator, onnx.checker reports no shape that does not fit.
    """
    twin: onnx.ModelProto = onnx.ModelProto.FromString(model.SerializeToString())
    for node in twin.graph.node:
        if node.domain == QONNX_DOMAIN:
            node.op_type, node.domain = "Mul", ""
    return twin


def _input_dims(writer: GraphWriter, records: tuple[LayerRecord, ...], input_shape: tuple[int, int]) -> list[int | str]:
    frames, channels = input_shape
    if writer.states:
        return ["batch", channels]
    if any(isinstance(record, Conv2DRecord) for record in records):
        return ["batch", 1, frames, channels]
    return ["batch", channels, frames]


def _model(writer: GraphWriter, input_dims: list[int | str], classes: int, name: str) -> onnx.ModelProto:
    features = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, input_dims)
    logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes])
    value = helper.make_tensor_value_info
    before = [value(name, TensorProto.FLOAT, ["batch", units]) for name, _, units in writer.states]
    after = [value(name, TensorProto.FLOAT, ["batch", units]) for _, name, units in writer.states]
    graph = helper.make_graph(writer.nodes, name, [features, *before], [logits, *after], writer.initializers)
    model = helper.make_model(graph, opset_imports=writer.opsets, ir_version=IR_VERSION, producer_name=PRODUCER)
    helper.set_model_props(model, dict(sorted(writer.metadata.items())))
    return model


def _classes(records: tuple[LayerRecord, ...]) -> int:
    return next(int(record.weight.values.shape[1]) for record in reversed(records) if isinstance(record, DenseRecord))


def _emit(writer: GraphWriter, record: LayerRecord, tensor: str) -> str:
    """Write one layer that reads `tensor`; return the name of what it gives."""
    match record:
        case SplicedDenseRecord():
            return _emit_spliced_dense(writer, record, tensor)
        case Conv2DRecord():
            return _emit_conv_2d(writer, record, tensor)
        case DenseRecord():
            return _emit_dense(writer, record, tensor)
        case RecurrentRecord():
            return _emit_recurrent(writer, record, tensor)
        case BatchNormRecord():
            return _emit_batch_norm(writer, record, tensor)
        case ReluRecord():
            return writer.node("Relu", [tensor], record.name)
        case MeanOverTimeRecord():
            return writer.node("ReduceMean", [tensor], record.name, axes=[2], keepdims=0)
        case MeanOverMapRecord():
            return writer.node("ReduceMean", [tensor], record.name, axes=[2, 3], keepdims=0)
        case FakeQuantizeRecord(name, grid):
            return _emit_fake_quantize(writer, name, grid, tensor)
        case _:
            assert_never(record)


def _emit_spliced_dense(writer: GraphWriter, record: SplicedDenseRecord, tensor: str) -> str:
    """(K, C_in, C_out) becomes the (C_out, C_in, K) of ONNX."""
    stored = _transposed(record.weight, 2, 1, 0)
    weight = emit_weight(writer, f"{record.name}.weight", stored)
    taps = int(stored.values.shape[2])
    bias = [] if record.bias is None else [_emit_bias(writer, f"{record.name}.bias", record.bias)]
    _state_accumulator(writer, record.accumulator)
    return writer.node(
        "Conv", [tensor, weight, *bias], record.name, kernel_shape=[taps], strides=[record.stride], pads=[0, 0]
    )


def _emit_conv_2d(writer: GraphWriter, record: Conv2DRecord, tensor: str) -> str:
    """(K_t, K_f, C_in, C_out) becomes (C_out, C_in, K_t, K_f); a depthwise weight has one group per channel."""
    axes = (2, 3, 0, 1) if record.is_depthwise else (3, 2, 0, 1)
    stored = _transposed(record.weight, *axes)
    weight = emit_weight(writer, f"{record.name}.weight", stored)
    bias = [] if record.bias is None else [_emit_bias(writer, f"{record.name}.bias", record.bias)]
    _state_accumulator(writer, record.accumulator)
    return writer.node(
        "Conv",
        [tensor, weight, *bias],
        record.name,
        kernel_shape=list(stored.values.shape[2:]),
        strides=list(record.stride),
        pads=list(record.pads),
        group=int(stored.values.shape[0]) if record.is_depthwise else 1,
    )


def _emit_dense(writer: GraphWriter, record: DenseRecord, tensor: str) -> str:
    """(C_in, C_out) becomes the (C_out, C_in) of Gemm with transB."""
    weight = emit_weight(writer, f"{record.name}.weight", _transposed(record.weight, 1, 0))
    bias = _emit_bias(writer, f"{record.name}.bias", record.bias)
    _state_accumulator(writer, record.accumulator)
    return writer.node("Gemm", [tensor, weight, bias], record.name, transB=1)


def _emit_bias(writer: GraphWriter, name: str, bias: NDArray[np.float32] | BiasTensor) -> str:
    """A float initializer, or INT32 codes -> DequantizeLinear on the accumulator's scale."""
    if not isinstance(bias, BiasTensor):
        return writer.constant(name, bias)
    codes = writer.constant(f"{name}.codes", bias.codes)
    return writer.node("DequantizeLinear", [codes, writer.constant(f"{name}.scale", np.asarray(bias.scale))], name)


def _state_accumulator(writer: GraphWriter, accumulator: Accumulator | None) -> None:
    """Say which accumulator the model was trained for."""
    if accumulator is not None:
        writer.metadata[ACCUMULATOR_KEY] = str(accumulator)


def _emit_batch_norm(writer: GraphWriter, record: BatchNormRecord, tensor: str) -> str:
    parts = {"gamma": record.gamma, "beta": record.beta, "mean": record.mean, "variance": record.variance}
    inputs = [writer.constant(f"{record.name}.{part}", array) for part, array in parts.items()]
    return writer.node("BatchNormalization", [tensor, *inputs], record.name, epsilon=record.epsilon)


def _emit_recurrent(writer: GraphWriter, record: RecurrentRecord, tensor: str) -> str:
    """One step: `<name>.state` comes in, `<name>.next_state` goes out, on one grid."""

    def on_grid(name: str, grid: Affine | None, op: str, inputs: list[str], **attributes: Any) -> str:
        if grid is None:
            return writer.node(op, inputs, name, **attributes)
        return _emit_fake_quantize(writer, name, grid, writer.node(op, inputs, f"{name}.float", **attributes))

    name, held = record.name, f"{record.name}.state"
    writer.states.append((held, f"{name}.next_state", int(record.bias.size)))
    if record.state is not None:
        held = _emit_fake_quantize(writer, f"{name}.held", record.state, held)
    weight = emit_weight(writer, f"{name}.input_weight", _transposed(record.input_weight, 1, 0))
    bias = writer.constant(f"{name}.bias", record.bias)
    driven = on_grid(f"{name}.driven", record.driven, "Gemm", [tensor, weight, bias], transB=1)
    weight = emit_weight(writer, f"{name}.state_weight", _transposed(record.state_weight, 1, 0))
    recalled = on_grid(f"{name}.recalled", record.recalled, "Gemm", [held, weight], transB=1)
    total = on_grid(f"{name}.total", record.total, "Add", [driven, recalled])
    return on_grid(f"{name}.next_state", record.state, "Tanh", [total])


def _transposed(weight: WeightTensor, *axes: int) -> WeightTensor:
    """Return a weight with its axes in another order, and with them the one that its scales run along."""
    spec = weight.spec
    if not isinstance(spec, Unquantized) and isinstance(spec.granularity, PerAxis):
        spec = replace(spec, granularity=PerAxis(axes.index(spec.granularity.axis)))
    return WeightTensor(weight.values.transpose(axes), spec)


def _emit_fake_quantize(writer: GraphWriter, name: str, grid: Affine, tensor: str) -> str:
    scale = writer.constant(f"{name}.scale", grid.scale[0])
    zero_point = writer.constant(f"{name}.zero_point", grid.zero_point[0].astype(np.int8))
    codes = writer.node("QuantizeLinear", [tensor, scale, zero_point], f"{name}.codes")
    return writer.node("DequantizeLinear", [codes, scale, zero_point], name)


def emit_weight(writer: GraphWriter, name: str, weight: WeightTensor) -> str:
    """Write a weight in the form its grid calls for; return the name of the float tensor.

    Args:
        writer: receives nodes and initializers.
        name: name of the float tensor.
        weight: values in ONNX axis order with their grid.
    """
    spec = weight.spec
    match spec:
        case Unquantized():
            return writer.constant(name, weight.values)
        case Affine():
            return _emit_uniform(writer, name, weight.values, spec)
        case Codebook() if np.array_equal(spec.levels, BIPOLAR_LEVELS):
            return _emit_bipolar(writer, name, weight.values, spec)
        case Codebook():
            return _emit_codebook(writer, name, weight.values, spec)
        case _:
            assert_never(spec)


def _emit_uniform(writer: GraphWriter, name: str, codes: NDArray[np.generic], spec: Affine) -> str:
    stored = writer.constant(f"{name}.codes", codes.astype(np.int8))
    low = writer.constant(f"{name}.low", np.array(spec.range.low, dtype=np.int8))
    high = writer.constant(f"{name}.high", np.array(spec.range.high, dtype=np.int8))
    clipped = writer.node("Clip", [stored, low, high], f"{name}.clipped")
    return _emit_dequantize(writer, name, clipped, spec, spec.zero_point.astype(np.int8))


def _emit_bipolar(writer: GraphWriter, name: str, codes: NDArray[np.generic], spec: Codebook) -> str:
    """Scales of QONNX broadcast against the weight: one number, or as many as the axis is long, of full rank."""
    scale = spec.scale[0]
    if isinstance(spec.granularity, PerAxis):
        scale = spec.scale.reshape([-1 if axis == spec.granularity.axis else 1 for axis in range(codes.ndim)])
    latent = writer.constant(f"{name}.signs", codes.astype(np.float32))
    inputs = [latent, writer.constant(f"{name}.scale", np.asarray(scale))]
    return writer.node("BipolarQuant", inputs, name, domain=QONNX_DOMAIN)


def _emit_codebook(writer: GraphWriter, name: str, values: NDArray[np.generic], spec: Codebook) -> str:
    """Store the index of every level; state the width only where the number of levels does not give it."""
    indices = np.searchsorted(spec.levels, values).astype(np.uint8)
    stored = writer.constant(f"{name}.indices", indices)
    if spec.bits != (spec.levels.size - 1).bit_length():
        writer.metadata[BITS_KEY + stored] = str(spec.bits)
    wide = writer.node("Cast", [stored], f"{name}.indices_int32", to=TensorProto.INT32)
    levels = writer.constant(f"{name}.levels", spec.levels)
    codes = writer.node("Gather", [levels, wide], f"{name}.codes", axis=0)
    return _emit_dequantize(writer, name, codes, spec, np.zeros(spec.scale.shape, dtype=np.int8))


def _emit_dequantize(
    writer: GraphWriter, name: str, codes: str, spec: Affine | Codebook, zero_point: NDArray[np.int8]
) -> str:
    """A per-tensor scale is written as a scalar, a per-axis one as a vector."""
    is_vector = isinstance(spec.granularity, PerAxis)
    scale = writer.constant(f"{name}.scale", spec.scale if is_vector else spec.scale[0])
    zero = writer.constant(f"{name}.zero_point", zero_point if is_vector else zero_point[0])
    axis = {"axis": spec.granularity.axis} if isinstance(spec.granularity, PerAxis) else {}
    return writer.node("DequantizeLinear", [codes, scale, zero], name, **axis)
