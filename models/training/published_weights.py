"""The layers of a published float model: what a recipe with a `[start]` table begins from.

The file itself is no part of the project. The recipe states its hash, so that recipe, data and seed still decide a run.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.recipe import Recipe, Start

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class PublishedLayer:
    """One layer of a published model.

    Args:
        name: of its node.
        weight: (K_t, K_f, C_in, C_out), (K_t, K_f, C, 1) if depthwise, (C_in, C_out) if dense.
        bias: (C_out,) or (C,).
    """

    name: str
    weight: Floats
    bias: Floats


def published_layers(plan: Recipe, weights: Path | None) -> tuple[PublishedLayer, ...] | None:
    """Return the layers a recipe starts from, None where it starts from random weights.

    Args:
        plan: the recipe; its `start` names the file by its hash.
        weights: the published ONNX file.

    Raises:
        UsageError: the recipe needs a file and got none or another one, or needs none and got one.
    """
    if plan.start is None and weights is None:
        return None
    if plan.start is None:
        expected = "a recipe with a [start] table"
        raise UsageError(Problem(str(weights), "the recipe starts from random weights", expected, "omit --weights"))
    if weights is None:
        found, remedy = "no --weights", f"get {plan.start.model} and name it with --weights"
        raise UsageError(Problem("recipe: start", found, f"the published float model {plan.start.model}", remedy))
    return read_layers(_verified(plan.start, weights))


def _verified(start: Start, weights: Path) -> bytes:
    if not weights.is_file():
        remedy = "name the published file with --weights"
        raise UsageError(Problem(str(weights), "no such file", start.model, remedy))
    content = weights.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != start.sha256.lower():
        remedy = f"get {start.model}, or state the hash of yours in a recipe of your own"
        raise UsageError(Problem(str(weights), f"sha256 {digest}", start.sha256, remedy))
    return content


def read_layers(content: bytes) -> tuple[PublishedLayer, ...]:
    """Read the layers of an ONNX model in the order of its nodes: every Conv, and every MatMul or Gemm.

    Raises:
        UsageError: no ONNX file, or a layer whose weight or bias is not a constant of the file, or not of the shape
            that its operator has.
    """
    try:
        graph = onnx.load_model_from_string(content).graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except (DecodeError, ValueError, TypeError) as error:
        found, remedy = str(error) or type(error).__name__, "name the published ONNX file with --weights"
        raise UsageError(Problem("--weights", found, "an ONNX file", remedy)) from error
    return tuple(_layer(node, graph, constants) for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm"))


def _layer(node: onnx.NodeProto, graph: onnx.GraphProto, constants: dict[str, NDArray[Any]]) -> PublishedLayer:
    biases = list(node.input[2:])
    if node.op_type == "MatMul":
        sums = [user for user in graph.node if user.op_type == "Add" and node.output[0] in user.input]
        biases = [name for user in sums for name in user.input if name != node.output[0]]
    if len(biases) != 1 or not {node.input[1], biases[0]} <= constants.keys():
        remedy = "export the model with constants folded"
        raise UsageError(Problem(f"node {node.name!r}", "no constant weight and bias", "one of each", remedy))
    weight, attributes = constants[node.input[1]], {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    bias, rank = constants[biases[0]], 4 if node.op_type == "Conv" else 2
    if weight.ndim != rank or bias.ndim != 1:
        found, expected = f"weight {weight.shape}, bias {bias.shape}", f"{rank} dimensions and one"
        raise UsageError(Problem(f"node {node.name!r}", found, expected, "start from a network of the recipe's shape"))
    if node.op_type == "Conv":
        weight = weight.transpose((2, 3, 0, 1) if attributes.get("group", 1) > 1 else (2, 3, 1, 0))
    elif attributes.get("transB", 0):
        weight = weight.transpose()
    return PublishedLayer(node.name, np.ascontiguousarray(weight, np.float32), bias.astype(np.float32))
