"""onnxruntime sessions: fixed and symbolic first dimensions give the same stacked results."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import build, node

from kwsq.converter.runtimes.ort import OrtSession
from kwsq.ir.errors import UnsupportedModelError


def model(batch: int | str, op: str = "Gemm", domain: str = "") -> bytes:
    rng = np.random.default_rng(3)
    weight = numpy_helper.from_array(rng.normal(size=(5, 3)).astype(np.float32), "w")
    node = helper.make_node(op, ["x", "w"], ["y"], domain=domain)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 13)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def test_stacked_vectors_whatever_the_first_dimension() -> None:
    x = np.random.default_rng(4).normal(size=(8, 5)).astype(np.float32)
    results = [OrtSession(model(batch)).run({"x": x})["y"] for batch in (1, 2, 4, "N")]
    for result in results:
        assert result.shape == (8, 3)
        # Rows are independent; a batched product may sum its 5 terms in another order.
        np.testing.assert_allclose(result, results[0], rtol=0, atol=5 * 2.0**-23 * np.abs(x).max() * 5)


def test_what_it_cannot_run_is_refused() -> None:
    for broken in (
        b"",
        b"garbage",
        model(1, op="NoSuchOperator"),
        model(1, op="Quant", domain="qonnx.custom_op.general"),
    ):
        with pytest.raises(UnsupportedModelError, match="onnxruntime"):
            OrtSession(broken)
    with pytest.raises(UnsupportedModelError, match="onnxruntime"):
        OrtSession(model("N")).run({"x": np.zeros((1, 6), np.float32)})


def test_its_name_tells_the_version() -> None:
    assert OrtSession(model(1)).name.startswith("onnxruntime 1.")


def test_absent_outputs_of_a_batch_norm_do_not_crash_it() -> None:
    """onnxruntime 1.31 ends the process with a segmentation fault at the first run of the model as written."""
    rng = np.random.default_rng(5)
    parameters = {name: rng.uniform(0.5, 1.5, 3).astype(np.float32) for name in ("scale", "bias", "mean", "variance")}
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    results = []
    for absent in (0, 4):
        node = helper.make_node("BatchNormalization", ["x", *parameters], ["y", *[""] * absent])
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 4])],
            [numpy_helper.from_array(values, name) for name, values in parameters.items()],
        )
        written = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5)
        results.append(OrtSession(written.SerializeToString()).run({"x": x})["y"])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("activation", [np.uint8, np.int8])
def test_sums_of_products_of_codes_are_exact_on_every_processor(activation: type) -> None:
    """Where there is no VNNI onnxruntime itself saturates those of uint8 activations and int8 weights."""
    rng, info = np.random.default_rng(0), np.iinfo(activation)
    x, w = (
        rng.integers(info.min, info.max + 1, (4, 64)).astype(activation),
        rng.integers(-128, 128, (64, 8)).astype(np.int8),
    )
    zero = activation((int(info.min) + int(info.max)) // 2)
    constants = {
        "xs": np.float32(0.03), "xz": zero, "w": w, "ws": np.float32(0.002), "wz": np.int8(0),
        "ys": np.float32(0.1), "yz": zero,
    }  # fmt: skip
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(activation))
    operator = node("QLinearMatMul", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"])
    model = build([operator], inputs={"x": [4, 64]}, constants=constants, types={"x": kind, "y": kind})
    (found,) = OrtSession(model.SerializeToString()).run({"x": x}).values()
    sums = (x.astype(np.int64) - int(zero)) @ w.astype(np.int64)
    expected = np.clip(np.rint(sums * (0.03 * 0.002 / 0.1)) + int(zero), info.min, info.max)
    # onnxruntime rounds the product of the scales first, which moves a tie.
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.95
