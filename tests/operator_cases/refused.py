"""Models outside what int8 kernels can compute, and a part of the message each is refused with (exit code 4)."""

from __future__ import annotations

from operator_cases.case import Case

REFUSED: dict[str, tuple[Case, str]] = {
    "conv3d": (
        Case("(float[1,2,4,4,4] x, float[3,2,3,3,3] w) => (float[1,3,2,2,2] y) { y = Conv(x, w) }"),
        "a 3-D convolution",
    ),
    "conv_weight_computed": (
        Case("(float[1,2,4] x, float[3,2,3] x2) => (float[1,3,2] y) { y = Conv(x, x2) }"),
        "weight 'x2_dq' computed at run time",
    ),
    "conv_transpose": (
        Case("(float[1,2,4] x, float[2,3,3] w) => (float[1,3,6] y) { y = ConvTranspose(x, w) }"),
        "ConvTranspose",
    ),
    "matmul_constant_batched": (
        Case("(float[2,7,12] x, float[2,12,5] w) => (float[2,7,5] y) { y = MatMul(x, w) }"),
        "constant operand of shape [2, 12, 5]",
    ),
    "max_pool_dilated": (
        Case("(float[1,4,8,7] x) => (float[1,4,4,3] y) { y = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(x) }"),
        "dilations [2, 2]",
    ),
    "max_pool_indices": (
        Case(
            "(float[1,4,8,6] x) => (float[1,4,4,3] y, int64[1,4,4,3] i)"
            " { y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }"
        ),
        "indices",
    ),
    "dropout_training": (
        Case(
            "(float[1,4,6] x) => (float[1,4,6] y)"
            " { r = Constant<value_float=0.5>() t = Constant<value=bool {1}>() y = Dropout(x, r, t) }"
        ),
        "training mode",
    ),
    "layer_norm_with_statistics": (
        Case("(float[1,7,16] x, float[16] v) => (float[1,7,16] y, float[1,7,1] m) { y, m = LayerNormalization(x, v) }"),
        "mean and deviation outputs",
    ),
    "gather_matrix": (
        Case(
            "(float[1,6] x) => (float[1,2,2] y) { i = Constant<value=int64[2,2] {0,1,2,3}>() y = Gather<axis=1>(x, i) }"
        ),
        "indices of shape [2, 2]",
    ),
    "average_pool_ceil_include_pads": (
        Case(
            "(float[1,4,8,8] x) => (float[1,4,5,5] y) { y = AveragePool"
            "<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1, count_include_pad=1>(x) }"
        ),
        "ceil_mode = 1",
    ),
    "reduce_to_scalar": (
        Case("(float[1,4,6] x) => (float y) { y = ReduceMean<keepdims=0>(x) }"),
        "a reduction to a scalar",
    ),
    "slice_reverse": (
        Case(
            "(float[1,6,8] x) => (float[1,6,8] y) { b = Constant<value_ints=[-1]>() e = Constant<value_ints=[-99]>()"
            " a = Constant<value_ints=[2]>() s = Constant<value_ints=[-1]>() y = Slice(x, b, e, a, s) }"
        ),
        "step -1",
    ),
    "div_dynamic": (
        Case("(float[1,4,6] x, float[1,4,6] x2) => (float[1,4,6] y) { y = Div(x, x2) }"),
        "Div",
    ),
    "sqrt_alone": (
        Case("(float[1,4,6] x) => (float[1,4,6] y) { a = Abs(x) y = Sqrt(a) }"),
        "Sqrt",
    ),
    "reciprocal_alone": (
        Case(
            "(float[1,4,6] x, float c) => (float[1,4,6] y) { a = Abs(x) b = Add(a, c) y = Reciprocal(b) }",
            constants={"c": 1.0},
        ),
        "Reciprocal",
    ),
    "pow_rank": (
        Case("(float[1,8] x, float[1,1,1] c) => (float[1,1,8] y) { y = Pow(x, c) }", constants={"c": 2.0}),
        "exponents of shape [1, 1, 1]",
    ),
    "pow_cube": (
        Case("(float[1,4,6] x, float c) => (float[1,4,6] y) { y = Pow(x, c) }", constants={"c": 3.0}),
        "exponent 3.0",
    ),
    "pad_reflect": (
        Case(
            "(float[1,4,6] x) => (float[1,4,9] y)"
            ' { p = Constant<value_ints=[0,0,1,0,0,2]>() y = Pad<mode="reflect">(x, p) }'
        ),
        "mode 'reflect'",
    ),
    "pad_negative": (
        Case("(float[1,4,6] x) => (float[1,4,5] y) { p = Constant<value_ints=[0,0,-1,0,0,0]>() y = Pad(x, p) }"),
        "pads",
    ),
    "softmax_512_classes": (
        Case("(float[1,512] x) => (float[1,512] y) { y = Softmax(x) }"),
        "512 classes",
    ),
    "gru": (
        Case(
            "(float[5,1,4] x, float[1,18,4] w, float[1,18,6] w2) => (float[5,1,1,6] y)"
            " { y = GRU<hidden_size=6>(x, w, w2) }"
        ),
        "GRU",
    ),
    "argmax": (
        Case("(float[1,12] x) => (int64[1,1] y) { y = ArgMax<axis=1>(x) }"),
        "ArgMax",
    ),
    "cast_to_int": (
        Case("(float[1,12] x) => (int32[1,12] y) { y = Cast<to=6>(x) }"),
        "Cast",
    ),
    "elu": (Case("(float[1,12] x) => (float[1,12] y) { y = Elu(x) }"), "Elu"),
    "exp": (Case("(float[1,12] x) => (float[1,12] y) { y = Exp(x) }"), "Exp"),
    "instance_norm": (
        Case("(float[1,4,9] x, float[4] v, float[4] b) => (float[1,4,9] y) { y = InstanceNormalization(x, v, b) }"),
        "InstanceNormalization",
    ),
    "resize": (
        Case(
            '(float[1,2,4,4] x, float[4] c) => (float[1,2,8,8] y) { y = Resize<mode="nearest">(x, , c) }',
            constants={"c": [1, 1, 2, 2]},
        ),
        "Resize",
    ),
    "two_at_once": (
        Case("(float[1,12] x) => (float[1,12] y) { a = Elu(x) b = Relu(a) y = Selu(b) }"),
        "2 problems",
    ),
}
