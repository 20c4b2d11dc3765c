"""Convolutions and products."""

from __future__ import annotations

from operator_cases.case import Case


def _conv(attributes: str, x: str, w: str, y: str, channels: int) -> Case:
    return Case(
        f"(float[{x}] x, float[{w}] w, float[{channels}] b) => (float[{y}] y) {{ y = Conv<{attributes}>(x, w, b) }}"
    )


CONVOLUTIONS = {
    "conv1d": _conv("pads=[1,1]", "1,4,20", "8,4,3", "1,8,20", 8),
    "conv1d_stride_dilation": _conv("strides=[2], dilations=[3]", "1,4,20", "8,4,3", "1,8,7", 8),
    "conv1d_causal": _conv("pads=[4,0], dilations=[2]", "1,4,20", "8,4,3", "1,8,20", 8),
    "conv1d_groups": _conv("group=2, pads=[1,1]", "1,4,20", "8,2,3", "1,8,20", 8),
    "conv1d_depthwise": _conv("group=4, pads=[1,1]", "1,4,20", "4,1,3", "1,4,20", 4),
    "conv1d_depthwise_multiplier": _conv("group=4, strides=[2]", "1,4,21", "8,1,3", "1,8,10", 8),
    "conv1d_same_upper": _conv('auto_pad="SAME_UPPER", strides=[2]', "1,4,20", "8,4,4", "1,8,10", 8),
    "conv1d_same_lower": _conv('auto_pad="SAME_LOWER", strides=[2]', "1,4,20", "8,4,3", "1,8,10", 8),
    "conv2d": _conv("pads=[1,1,1,1]", "1,3,9,7", "5,3,3,3", "1,5,9,7", 5),
    "conv2d_valid": _conv('auto_pad="VALID"', "1,3,9,7", "5,3,3,3", "1,5,7,5", 5),
    "conv2d_asymmetric_pads": _conv("pads=[4,1,5,1], strides=[2,2]", "1,1,49,10", "6,1,10,4", "1,6,25,5", 6),
    "conv2d_uneven_pads": _conv("pads=[0,2,3,1]", "1,2,8,8", "4,2,3,3", "1,4,9,9", 4),
    "conv2d_strides_differ": _conv("strides=[1,2], pads=[1,0,1,0]", "1,2,8,9", "4,2,3,3", "1,4,8,4", 4),
    "conv2d_dilation": _conv("dilations=[2,1], pads=[2,1,2,1]", "1,2,8,8", "4,2,3,3", "1,4,8,8", 4),
    "conv2d_groups": _conv("group=3, pads=[1,1,1,1]", "1,6,8,8", "9,2,3,3", "1,9,8,8", 9),
    "conv2d_depthwise": _conv("group=6, pads=[1,1,1,1]", "1,6,8,8", "6,1,3,3", "1,6,8,8", 6),
    "conv2d_depthwise_multiplier": _conv("group=3, pads=[1,1,1,1]", "1,3,8,8", "6,1,3,3", "1,6,8,8", 6),
    "conv2d_depthwise_dilation": _conv("group=3, dilations=[1,2]", "1,3,8,9", "3,1,3,3", "1,3,6,5", 3),
    "conv2d_one_channel_group": _conv("group=1", "1,1,8,8", "4,1,3,3", "1,4,6,6", 4),
    "conv2d_pointwise": _conv("kernel_shape=[1,1]", "1,6,8,8", "4,6,1,1", "1,4,8,8", 4),
    "conv2d_kernel_is_input": _conv("kernel_shape=[8,8]", "1,3,8,8", "4,3,8,8", "1,4,1,1", 4),
    "conv2d_batch2": _conv("pads=[1,1,1,1]", "2,3,6,6", "5,3,3,3", "2,5,6,6", 5),
    "conv_without_bias": Case("(float[1,3,9,7] x, float[5,3,3,3] w) => (float[1,5,7,5] y) { y = Conv(x, w) }"),
    "conv_relu": Case(
        "(float[1,3,9,7] x, float[5,3,3,3] w, float[5] b) => (float[1,5,7,5] y) { h = Conv(x, w, b) y = Relu(h) }",
        lsb=3,
    ),
    "conv_batchnorm_relu": Case(
        "(float[1,3,9,7] x, float[5,3,3,3] w, float[5] v, float[5] b, float[5] m, float[5] v2)"
        " => (float[1,5,7,5] y) { h = Conv(x, w) n = BatchNormalization(h, v, b, m, v2) y = Relu(n) }",
        lsb=6,
    ),
    "batchnorm_alone": Case(
        "(float[1,5,9] x, float[5] g, float[5] b, float[5] m, float[5] v)"
        " => (float[1,5,9] y) { y = BatchNormalization(x, g, b, m, v) }"
    ),
    "conv_chain": Case(
        "(float[1,3,9,7] x, float[6,3,3,3] w, float[6,1,3,3] w2, float[4,6,1,1] w3, float lo, float hi)"
        " => (float[1,4,4,3] y) {"
        " a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) d = Conv<group=6, strides=[2,2]>(r, w2) e = Clip(d, lo, hi)"
        " y = Conv(e, w3) }",
        constants={"lo": 0.0, "hi": 6.0},
        lsb=4,
    ),
}

DENSE = {
    "gemm": Case("(float[1,12] x, float[12,5] w, float[5] b) => (float[1,5] y) { y = Gemm(x, w, b) }"),
    "gemm_trans_b": Case(
        "(float[1,12] x, float[5,12] w, float[5] b) => (float[1,5] y) { y = Gemm<transB=1>(x, w, b) }"
    ),
    "gemm_trans_a": Case(
        "(float[12,1] x, float[12,5] w, float[5] b) => (float[1,5] y) { y = Gemm<transA=1>(x, w, b) }"
    ),
    "gemm_trans_a_rows": Case(
        "(float[12,3] x, float[5,12] w, float[5] b) => (float[3,5] y) { y = Gemm<transA=1, transB=1>(x, w, b) }"
    ),
    "gemm_alpha_beta": Case(
        "(float[1,12] x, float[12,5] w, float[5] b) => (float[1,5] y) { y = Gemm<alpha=0.5, beta=-2.0>(x, w, b) }"
    ),
    "gemm_beta_zero": Case(
        "(float[1,12] x, float[12,5] w, float[5] b) => (float[1,5] y) { y = Gemm<beta=0.0>(x, w, b) }"
    ),
    "gemm_no_bias": Case("(float[1,12] x, float[12,5] w) => (float[1,5] y) { y = Gemm(x, w) }"),
    "gemm_scalar_bias": Case("(float[1,12] x, float[12,5] w, float b) => (float[1,5] y) { y = Gemm(x, w, b) }"),
    "gemm_row_bias": Case("(float[3,12] x, float[12,5] w, float[1,5] b) => (float[3,5] y) { y = Gemm(x, w, b) }"),
    "gemm_bias_per_row": Case("(float[3,12] x, float[12,5] w, float[3,1] b) => (float[3,5] y) { y = Gemm(x, w, b) }"),
    "gemm_full_bias": Case("(float[3,12] x, float[12,5] w, float[3,5] b) => (float[3,5] y) { y = Gemm(x, w, b) }"),
    "gemm_dynamic": Case("(float[3,12] x, float[12,5] x2) => (float[3,5] y) { y = Gemm(x, x2) }"),
    "gemm_dynamic_trans_b": Case("(float[3,12] x, float[5,12] x2) => (float[3,5] y) { y = Gemm<transB=1>(x, x2) }"),
    "gemm_dynamic_bias": Case(
        "(float[3,12] x, float[12,5] w, float[3,5] x2) => (float[3,5] y) { y = Gemm(x, w, x2) }", lsb=2
    ),
    "matmul_rank2": Case("(float[1,12] x, float[12,5] w) => (float[1,5] y) { y = MatMul(x, w) }"),
    "matmul_rank3": Case("(float[1,7,12] x, float[12,5] w) => (float[1,7,5] y) { y = MatMul(x, w) }"),
    "matmul_rank4": Case("(float[1,2,7,12] x, float[12,5] w) => (float[1,2,7,5] y) { y = MatMul(x, w) }"),
    "matmul_bias": Case(
        "(float[1,7,12] x, float[12,5] w, float[5] b) => (float[1,7,5] y) { h = MatMul(x, w) y = Add(h, b) }", lsb=2
    ),
    "matmul_constant_left": Case("(float[12,5] x, float[4,12] w) => (float[4,5] y) { y = MatMul(w, x) }"),
    "matmul_constant_unit_batch": Case("(float[1,7,12] x, float[1,12,5] w) => (float[1,7,5] y) { y = MatMul(x, w) }"),
    "matmul_vector": Case("(float[1,12] x, float[12] w) => (float[1] y) { y = MatMul(x, w) }"),
    "matmul_dynamic_rank2": Case("(float[4,12] x, float[12,5] x2) => (float[4,5] y) { y = MatMul(x, x2) }"),
    "matmul_dynamic_rank3": Case("(float[1,4,12] x, float[1,12,5] x2) => (float[1,4,5] y) { y = MatMul(x, x2) }"),
    "matmul_dynamic_broadcast": Case("(float[3,4,12] x, float[12,5] x2) => (float[3,4,5] y) { y = MatMul(x, x2) }"),
    "attention": Case(
        "(float[1,9,8] x, float[8,8] w, float[8,8] w2, float[8,8] w3) => (float[1,9,8] y) {"
        " q = MatMul(x, w) k = MatMul(x, w2) v = MatMul(x, w3) t = Transpose<perm=[0,2,1]>(k)"
        " a = MatMul(q, t) p = Softmax<axis=-1>(a) y = MatMul(p, v) }",
        lsb=4,
    ),
    "flatten_dense_after_conv": Case(
        "(float[1,2,6,5] x, float[4,2,3,3] w, float[48,7] w2, float[7] b) => (float[1,7] y) {"
        " c = Conv(x, w) r = Relu(c) f = Flatten(r) y = Gemm(f, w2, b) }",
        lsb=3,
    ),
}
