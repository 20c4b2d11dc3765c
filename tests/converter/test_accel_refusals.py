"""What a 1-bit accelerator cannot express, from ONNX: exit code 4, the layer and the remedy named, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import kwsq_convert, left, save
from onnx import helper, numpy_helper

QONNX = "qonnx.custom_op.general"


def network(weight: Any, quantizer: tuple[str, dict[str, float]], gamma: Any = None, tail: str = "Relu") -> Any:
    """A dense `layer` under a QONNX quantizer, a batch norm where `gamma` is given, and a node `tail`."""
    weight = np.asarray(weight, np.float32)
    constants: dict[str, Any] = {"w": weight, "s": 0.05, "z": 0.0, "eight": 8.0}
    kind, parameters = quantizer
    names = [f"w_{name}" for name in parameters]
    constants |= dict(zip(names, parameters.values(), strict=True))
    signs = {"signed": 1, "narrow": 0}
    nodes = [
        helper.make_node("Quant", ["x", "s", "z", "eight"], ["xq"], "xq", domain=QONNX, **signs),
        helper.make_node(kind, ["w", *names], ["wq"], "wq", domain=QONNX, **(signs if kind == "Quant" else {})),
        helper.make_node("MatMul", ["xq", "wq"], ["h"], "layer"),
    ]
    h, channels = "h", weight.shape[1]
    if gamma is not None:
        constants |= {"gamma": gamma, "beta": np.zeros(channels), "mean": np.zeros(channels), "var": np.ones(channels)}
        nodes.append(helper.make_node("BatchNormalization", [h, "gamma", "beta", "mean", "var"], ["n"], "norm"))
        h = "n"
    nodes.append(helper.make_node(tail, [h], ["t"], "tail"))
    nodes.append(helper.make_node("Quant", ["t", "s", "z", "eight"], ["y"], "yq", domain=QONNX, **signs))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "refused",
        [value("x", onnx.TensorProto.FLOAT, [1, weight.shape[0]])],
        [value("y", onnx.TensorProto.FLOAT, [1, channels])],
        [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(QONNX, 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


SIGNS = np.where(np.random.default_rng(1).random((16, 4)) < 0.5, -0.5, 0.5)
BIPOLAR = ("BipolarQuant", {"scale": 0.5})
FOUR_BITS = ("Quant", {"scale": 0.1, "zero": 0.0, "bits": 4.0})
ASYMMETRIC = ("Quant", {"scale": 0.1, "zero": 3.0, "bits": 4.0})
LOWEST = np.round(np.linspace(-0.8, 0.7, 64), 1).reshape(16, 4)
NEGATIVE = [1.0, -1.0, 0.5, 1.0]

REFUSALS = {
    # Weights have no zero point in integer graphs: it is taken off the codes, which then exceed their width.
    "asymmetric codes": (network(LOWEST - 0.3, ASYMMETRIC), ("layer", "codes from -11 to 4", "symmetric grid")),
    "a negative gain on asymmetric codes": (
        network(LOWEST - 0.3, ASYMMETRIC, NEGATIVE),
        ("layer", "asymmetric weight codes", "gamma"),
    ),
    "a negative gain on a grid with one code more below zero": (
        network(LOWEST[::-1, ::-1], FOUR_BITS, NEGATIVE),
        ("layer", "code -8", "outside the range", "gamma"),
    ),
    "an operator that is not supported": (network(SIGNS, BIPOLAR, tail="Erf"), ("tail", "Erf")),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_expressed_is_refused_with_layer_and_remedy(name: str, tmp_path: Path) -> None:
    model, words = REFUSALS[name]
    outcome = kwsq_convert(save(model, tmp_path / "m.onnx"), "--target", "accel", "-o", tmp_path / "out")
    assert outcome.code == 4, outcome.stderr
    assert [word for word in words if word not in outcome.stderr] == []
    assert "expected" in outcome.stderr
    assert left(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("gamma", [None, NEGATIVE])
def test_one_bit_weights_take_gains_of_either_sign(gamma: Any, tmp_path: Path) -> None:
    model = save(network(SIGNS, BIPOLAR, gamma), tmp_path / "m.onnx")
    outcome = kwsq_convert(model, "--target", "accel", "--wbits", 1, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.stderr
    assert "parity PASSED" in outcome.stdout
