"""The same operators in every opset kwsq reads, and with a fixed batch of two."""

from __future__ import annotations

import re

import onnx
import pytest
from conversion import assert_close, assert_faithful, assert_interface, codes_of, convert, real_of
from operator_cases.case import Case
from operator_cases.every import CASES
from qdq_models import Scheme, float_model, quantized, random_feeds, run_onnx

VECTORS = 8
OPSETS = range(10, 26)
# Operators whose text is valid in all of them, with the changes of meaning in between: axes of Q and DQ (13), softmax
# over all later dimensions (before 13), batch norm and pools (14, 15, 19, 22).
EVERYWHERE = (
    "conv2d_asymmetric_pads",
    "conv_batchnorm_relu",
    "gemm_trans_b",
    "add_squeeze_excite",
    "max_pool_pads",
    "average_pool_pads",
    "concat_axis1",
    "transpose_nhwc_sandwich",
)
BATCHES = (
    "conv1d_transposed_dense",
    "flatten_dense_after_conv",
    "matmul_dynamic_rank3",
    "attention",
    "mul_squeeze_excite",
    "concat_axis1",
    "softmax_channels",
    "average_pool_pads_odd",
    "reduce_mean_spatial_flat",
    "reduce_sum_outer_inner",
    "layer_norm",
    "gather_shuffle",
    "split_unequal",
    "streaming_conv",
)


def check(case: Case, text: str, opset: int, scheme: Scheme) -> onnx.ModelProto:
    original = float_model(text, opset, constants=case.constants)
    feeds = random_feeds(original, VECTORS)
    model = quantized(original, feeds, scheme)
    converted = convert(model, feeds)
    graph = converted.graph
    assert_interface(graph, model)
    codes = codes_of(graph, feeds)
    assert_faithful(converted, codes)
    assert_close(graph, codes, run_onnx(model, real_of(graph, codes)), case.lsb)
    return model


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_opset(name: str, opset: int) -> None:
    model = check(CASES[name], CASES[name].text, opset, Scheme(unsigned=opset % 2 == 0))
    assert model.opset_import[0].version == opset


@pytest.mark.parametrize("name", BATCHES)
def test_batch_of_two(name: str) -> None:
    case = CASES[name]
    signature, body = case.text.split("=>", 1)
    signature = re.sub(r"float\[1,([^\]]*)\] ([xs]\d?)\b", r"float[2,\1] \2", signature)
    body = re.sub(r"float\[1,([^\]]*)\] ([yn]\d?)\b", r"float[2,\1] \2", body)
    model = check(case, f"{signature}=>{body}", case.opset, Scheme(skip=case.skip))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
