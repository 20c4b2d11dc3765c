"""Running an ONNX model in onnxruntime as written: optimisations off, one thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import Problem, UnsupportedModelError

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]

_ERRORS_ONLY = 3
_PRODUCTS_OF_CODES = ("QLinearConv", "QLinearMatMul", "QGemm")
"""Operators whose inputs 2, 3 and 5 are an activation's zero point, a weight and its zero point."""


class OrtSession:
    """A model loaded once, to be run many times.

    Args:
        model: serialised ONNX model.

    Raises:
        UnsupportedModelError: onnxruntime cannot load it.
    """

    def __init__(self, model: bytes) -> None:
        # Imported here: only a run of a model needs the runtime.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # The source's meaning is its nodes, one by one; a fused pattern would be onnxruntime's choice.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        with self._explained():
            self._session = onnxruntime.InferenceSession(as_run(model), options, providers=["CPUExecutionProvider"])
        self._shapes = {value.name: tuple(value.shape) for value in self._session.get_inputs()}
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    @property
    def name(self) -> str:
        """What the session is, for reports."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}, optimisations off"

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one or several vectors.

        Args:
            inputs: arrays by name; where the model fixes its first dimension, it may be k times that.

        Returns:
            Outputs by name, k runs stacked along the first dimension.

        Raises:
            UnsupportedModelError: onnxruntime cannot run it.
        """
        count = max(self._count(name, inputs[name]) for name in self._shapes)
        parts = {name: np.split(np.asarray(inputs[name]), count) for name in self._shapes}
        with self._explained():
            rows = [self._session.run(None, {name: part[i] for name, part in parts.items()}) for i in range(count)]
        return {name: np.concatenate([np.atleast_1d(row[i]) for row in rows]) for i, name in enumerate(self.outputs)}

    def _count(self, name: str, array: Array) -> int:
        shape = self._shapes[name]
        fixed = bool(shape) and isinstance(shape[0], int) and shape[0] > 0
        return array.shape[0] // int(shape[0]) if fixed else 1

    @staticmethod
    @contextmanager
    def _explained() -> Iterator[None]:
        from onnxruntime.capi import onnxruntime_pybind11_state as native

        kinds = (
            native.EPFail,
            native.Fail,
            native.InvalidArgument,
            native.InvalidGraph,
            native.InvalidProtobuf,
            native.NotImplemented,
            native.RuntimeException,
        )
        try:
            yield
        except kinds as error:
            found, remedy = " ".join(str(error).split()), "check the model with onnxruntime itself"
            raise UnsupportedModelError(Problem("onnxruntime", found, "a model it can run", remedy)) from error


def as_run(model: bytes) -> bytes:
    """Returns a model that means the same and that onnxruntime computes exactly; bytes it cannot parse as they are."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.ModelProto.FromString(model)
    except DecodeError:
        return model  # onnxruntime says what is wrong with it
    changed = [_drop_absent_outputs(proto.graph), _make_weights_unsigned(proto.graph)]
    return proto.SerializeToString() if any(changed) else model


def _drop_absent_outputs(graph: onnx.GraphProto) -> bool:
    """Removes empty names at the end of a node's outputs, which mean the same as none.

    onnxruntime counts the outputs of a BatchNormalization before opset 14 and crashes on names that are empty.
    """
    absent = [node for node in graph.node if node.output and not node.output[-1]]
    for node in absent:
        while node.output and not node.output[-1]:
            node.output.pop()
    return bool(absent)


def _make_weights_unsigned(graph: onnx.GraphProto) -> bool:
    """Gives int8 weights that meet uint8 activations as uint8, 128 more with their zero point: the same real numbers.

    On x86-64 processors without VNNI onnxruntime adds pairs of such products in 16 bits, where they saturate.
    """
    from onnx import TensorProto, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[str, onnx.TensorProto] = {}
    for node in graph.node:
        if node.op_type not in _PRODUCTS_OF_CODES or len(node.input) < 6:
            continue
        activation, weight, zero = (constants.get(node.input[index]) for index in (2, 3, 5))
        if activation is None or weight is None or zero is None or activation.data_type != TensorProto.UINT8:
            continue
        if {weight.data_type, zero.data_type} == {TensorProto.INT8}:
            for index, tensor in ((3, weight), (5, zero)):
                codes = (numpy_helper.to_array(tensor).astype(np.int16) + 128).astype(np.uint8)
                name = f"{tensor.name}/unsigned for onnxruntime"
                made[name] = numpy_helper.from_array(np.asarray(codes), name)
                node.input[index] = name
    graph.initializer.extend(made.values())
    return bool(made)
