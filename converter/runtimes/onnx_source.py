"""Running an ONNX model as written: in onnxruntime, or in kwsq's float executor what onnxruntime does not know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.runtimes.ort import OrtSession
from kwsq.ir.errors import Problem, UnsupportedModelError
from kwsq.passes.load import Source

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
EXECUTOR = "kwsq's float executor"


def source_runner(source: Source) -> tuple[str, Run]:
    """Returns what runs a model, for reports, and how: stacked inputs by name -> outputs by name.

    Args:
        source: the model as read.

    Raises:
        UnsupportedModelError: neither can run it.
    """
    try:
        session = OrtSession(source.data)
    except UnsupportedModelError:
        return EXECUTOR, _float_executor(source)
    return session.name, session.run


def _float_executor(source: Source) -> Run:
    """Runs custom domains of quantizers, QONNX."""
    from kwsq.ir.execute import run_float
    from kwsq.passes.dialects import normalize
    from kwsq.passes.import_graph import import_graph

    graph = import_graph(normalize(source).graph, source.opsets[""])
    if graph.integer_io:
        found = ", ".join(graph.integer_io)
        expected, remedy = "real inputs and outputs beside a custom domain", "convert the model and run the artefact"
        raise UnsupportedModelError(Problem(found, "integers", expected, remedy))
    return lambda inputs: run_float(graph, {name: np.asarray(array, np.float32) for name, array in inputs.items()})
