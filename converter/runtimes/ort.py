"""Running an ONNX model in onnxruntime as written: optimisations off, one thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import Problem, UnsupportedModelError

Array = npt.NDArray[Any]

_ERRORS_ONLY = 3


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
            plain = _without_absent_outputs(model)
            self._session = onnxruntime.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
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


def _without_absent_outputs(model: bytes) -> bytes:
    """Returns the model without empty names at the end of a node's outputs, which mean the same as none.

    onnxruntime counts the outputs of a BatchNormalization before opset 14 and crashes on names that are empty.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.ModelProto.FromString(model)
    except DecodeError:
        return model  # onnxruntime says what is wrong with it
    absent = [node for node in proto.graph.node if node.output and not node.output[-1]]
    for node in absent:
        while node.output and not node.output[-1]:
            node.output.pop()
    return proto.SerializeToString() if absent else model
