"""Networks of 250,000 weights: the bundled ones, and one of one-bit weights as QONNX writes it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from checkout import ROOT
from onnx import helper, numpy_helper

from kwsq.ir.lowered import LoweredGraph
from kwsq.passes.dialects import normalize
from kwsq.passes.load import load_bytes
from kwsq.passes.pipeline import PipelineOptions, run_pipeline

BINARY_WIDTHS = (320, 256, 240, 240, 192, 128, 12)
"""250,000 weights in six layers, as in the bundled models."""


def bundled(name: str) -> LoweredGraph:
    return lowered_of((ROOT / "models" / "kws_ff" / f"{name}.onnx").read_bytes())


def lowered_of(model: bytes) -> LoweredGraph:
    source = load_bytes(model, "model.onnx")
    return run_pipeline(normalize(source), source.opsets[""], PipelineOptions()).lowered


def qonnx_binary(widths: tuple[int, ...] = BINARY_WIDTHS) -> bytes:
    """Dense layers of one-bit weights with a gain each, eight-bit activations, as QONNX writes them."""
    rng, nodes, constants = np.random.default_rng(9), [], {}

    def constant(name: str, value: Any) -> str:
        constants[name] = np.asarray(value, np.float32)
        return name

    def quant(x: str, y: str, scale: float, *, bits: int = 8) -> str:
        inputs = [x, constant(f"{y}/scale", scale), constant(f"{y}/zero", 0), constant(f"{y}/bits", bits)]
        nodes.append(helper.make_node("Quant", inputs, [y], y, domain="qonnx.custom_op.general", signed=1, narrow=0))
        return y

    x = quant("x", "xq", 0.05)
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        weight = constant(f"w{i}", rng.choice([-1.0, 1.0], (inputs, outputs)) * 0.09)
        gain = constant(f"w{i}/scale", 0.09)
        nodes.append(
            helper.make_node("BipolarQuant", [weight, gain], [f"w{i}q"], f"w{i}q", domain="qonnx.custom_op.general")
        )
        nodes.append(helper.make_node("MatMul", [x, f"w{i}q"], [f"h{i}"], f"layer{i}"))
        nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"], f"relu{i}"))
        x = quant(f"r{i}", f"a{i}", 0.05 if i < len(widths) - 2 else 0.1)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "binary",
        [value("x", onnx.TensorProto.FLOAT, [1, widths[0]])],
        [value(x, onnx.TensorProto.FLOAT, [1, widths[-1]])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("qonnx.custom_op.general", 2)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
