"""Operators that move values."""

from __future__ import annotations

from operator_cases.case import Case

MOVEMENT = {
    **{
        f"concat_axis{axis}": Case(
            f"(float[1,4,6,5] x, float[{shape}] x2) => (float[{out}] y) {{ y = Concat<axis={axis}>(x, x2) }}", lsb=1
        )
        for axis, shape, out in (
            (0, "2,4,6,5", "3,4,6,5"),
            (1, "1,2,6,5", "1,6,6,5"),
            (2, "1,4,3,5", "1,4,9,5"),
            (-1, "1,4,6,2", "1,4,6,7"),
        )
    },
    "concat_scales_differ": Case(
        "(float[1,4,6] x, float c) => (float[1,8,6] y) { a = Mul(x, c) y = Concat<axis=1>(x, a) }",
        constants={"c": 5.0},
        lsb=2,
    ),
    "concat_constant": Case("(float[1,4,6] x, float[1,2,6] c) => (float[1,6,6] y) { y = Concat<axis=1>(x, c) }"),
    "concat_convs": Case(
        "(float[1,3,6,5] x, float[4,3,1,1] w, float[2,3,1,1] w2) => (float[1,6,6,5] y) {"
        " a = Conv(x, w) b = Conv(x, w2) y = Concat<axis=1>(a, b) }",
        lsb=2,
    ),
    "concat_one": Case("(float[1,4,6] x) => (float[1,4,6] y) { h = Concat<axis=1>(x) y = Relu(h) }"),
    "concat_self": Case("(float[1,4,6] x) => (float[1,8,6] y) { y = Concat<axis=1>(x, x) }"),
    "concat_dense_flat": Case(
        "(float[1,4] x, float[1,6] x2, float[10,3] w) => (float[1,3] y) { h = Concat<axis=1>(x, x2) y = Gemm(h, w) }",
        lsb=2,
    ),
    "reshape": Case("(float[1,4,6] x) => (float[1,3,8] y) { s = Constant<value_ints=[1,3,8]>() y = Reshape(x, s) }"),
    "reshape_zero_minus_one": Case(
        "(float[1,4,6] x) => (float[1,4,2,3] y) { s = Constant<value_ints=[0,0,2,-1]>() y = Reshape(x, s) }"
    ),
    "reshape_after_conv": Case(
        "(float[1,3,6,5] x, float[4,3,1,1] w) => (float[1,4,30] y) {"
        " a = Conv(x, w) s = Constant<value_ints=[1,4,30]>() y = Reshape(a, s) }"
    ),
    "reshape_before_conv": Case(
        "(float[1,90] x, float[4,3,1,1] w) => (float[1,4,6,5] y) {"
        " s = Constant<value_ints=[1,3,6,5]>() a = Reshape(x, s) y = Conv(a, w) }"
    ),
    "reshape_channel_shuffle": Case(
        "(float[1,6,4,5] x, float[6,3,1,1] w, float[4,6,1,1] w2) => (float[1,4,4,5] y) {"
        " a = Conv<group=2>(x, w) s = Constant<value_ints=[1,2,3,4,5]>() b = Reshape(a, s)"
        " c = Transpose<perm=[0,2,1,3,4]>(b) t = Constant<value_ints=[1,6,4,5]>() d = Reshape(c, t) y = Conv(d, w2) }",
        lsb=3,
    ),
    "flatten_output": Case(
        "(float[1,3,6,5] x, float[4,3,1,1] w) => (float[1,120] y) { a = Conv(x, w) y = Flatten(a) }"
    ),
    "flatten_axis2": Case("(float[1,4,6,5] x) => (float[4,30] y) { y = Flatten<axis=2>(x) }"),
    "flatten_axis0": Case("(float[1,4,6] x) => (float[1,24] y) { y = Flatten<axis=0>(x) }"),
    "flatten_negative": Case("(float[1,4,6] x) => (float[4,6] y) { y = Flatten<axis=-1>(x) }"),
    "squeeze_pooled": Case(
        "(float[1,3,6,5] x, float[4,3,1,1] w) => (float[1,4] y) {"
        " a = Conv(x, w) b = GlobalAveragePool(a) ax = Constant<value_ints=[2,3]>() y = Squeeze(b, ax) }",
        lsb=2,
    ),
    "squeeze_all": Case("(float[1,4,1,6] x) => (float[4,6] y) { h = Relu(x) y = Squeeze(h) }"),
    "squeeze_opset11": Case("(float[1,4,1] x) => (float[1,4] y) { y = Squeeze<axes=[-1]>(x) }", opset=11),
    # Stored with a dimension more than the depthwise convolution of a gain takes.
    "squeeze_5d_gain_conv": Case(
        "(float[1,1,1,49,10] x, float c, float[2,1,3,3] w) => (float[1,2,47,8] y) {"
        " ax = Constant<value_ints=[1]>() s = Squeeze(x, ax) m = Mul(s, c) y = Conv(m, w) }",
        constants={"c": 0.25},
        lsb=2,
    ),
    "squeeze_5d_first_neg": Case(
        "(float[1,2,3,4,2] x) => (float[2,3,4,2] y) { ax = Constant<value_ints=[0]>() s = Squeeze(x, ax) y = Neg(s) }"
    ),
    "squeeze_5d_last_hard_sigmoid": Case(
        "(float[2,3,4,2,1] x) => (float[2,3,4,2] y) {"
        " ax = Constant<value_ints=[-1]>() s = Squeeze(x, ax) y = HardSigmoid(s) }",
        lsb=2,
    ),
    "unsqueeze_conv": Case(
        "(float[1,9,10] x, float[4,1,3,3] w) => (float[1,4,7,8] y) {"
        " ax = Constant<value_ints=[1]>() a = Unsqueeze(x, ax) y = Conv(a, w) }"
    ),
    "unsqueeze_negative": Case(
        "(float[1,4] x) => (float[1,4,1,1] y) { ax = Constant<value_ints=[-1,-2]>() y = Unsqueeze(x, ax) }"
    ),
    "unsqueeze_opset11": Case("(float[1,4] x) => (float[1,1,4] y) { y = Unsqueeze<axes=[1]>(x) }", opset=11),
    "transpose_output": Case(
        "(float[1,3,6,5] x, float[4,3,1,1] w) => (float[1,6,5,4] y) { a = Conv(x, w) y = Transpose<perm=[0,2,3,1]>(a) }"
    ),
    "transpose_input": Case(
        "(float[1,6,5,3] x, float[4,3,1,1] w) => (float[1,4,6,5] y) { a = Transpose<perm=[0,3,1,2]>(x) y = Conv(a, w) }"
    ),
    "transpose_nhwc_sandwich": Case(
        "(float[1,6,5,3] x, float[4,3,1,1] w) => (float[1,6,5,4] y) {"
        " a = Transpose<perm=[0,3,1,2]>(x) c = Conv(a, w) y = Transpose<perm=[0,2,3,1]>(c) }"
    ),
    "transpose_swap_batch": Case("(float[2,4,6] x) => (float[6,4,2] y) { y = Transpose(x) }"),
    "transpose_dense": Case(
        "(float[1,4,6] x, float[4,5] w) => (float[1,6,5] y) { a = Transpose<perm=[0,2,1]>(x) y = MatMul(a, w) }"
    ),
    "conv1d_transposed_dense": Case(
        "(float[1,4,9] x, float[6,4,3] w, float[6,5] w2) => (float[1,7,5] y) {"
        " a = Conv(x, w) t = Transpose<perm=[0,2,1]>(a) y = MatMul(t, w2) }",
        lsb=3,
    ),
    "conv_flatten_transposed": Case(
        "(float[1,2,6,5] x, float[4,2,3,3] w, float[48,7] w2) => (float[1,7] y) {"
        " c = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(c) f = Flatten(t) y = Gemm(f, w2) }",
        lsb=3,
    ),
    **{
        f"slice_{name}": Case(
            f"(float[1,6,8] x) => (float[{out}] y) {{ b = Constant<value_ints={b}>() e = Constant<value_ints={e}>()"
            f" a = Constant<value_ints={a}>() s = Constant<value_ints={s}>() y = Slice(x, b, e, a, s) }}"
        )
        for name, out, b, e, a, s in (
            ("plain", "1,3,8", "[1]", "[4]", "[1]", "[1]"),
            ("negative", "1,6,3", "[-4]", "[-1]", "[-1]", "[1]"),
            ("huge_end", "1,6,5", "[3]", "[9223372036854775807]", "[2]", "[1]"),
            ("step", "1,6,3", "[1]", "[8]", "[2]", "[3]"),
            ("two_axes", "1,2,4", "[0,2]", "[2,6]", "[1,2]", "[1,1]"),
        )
    },
    "slice_after_conv": Case(
        "(float[1,2,6,5] x, float[4,2,3,3] w) => (float[1,2,4,3] y) { c = Conv(x, w)"
        " b = Constant<value_ints=[1]>() e = Constant<value_ints=[3]>() a = Constant<value_ints=[1]>()"
        " y = Slice(c, b, e, a) }"
    ),
    **{
        f"gather_{name}": Case(
            f"(float[1,6,8] x) => (float[{out}] y) {{ i = Constant<{value}>() y = Gather<axis={axis}>(x, i) }}"
        )
        for name, out, value, axis in (
            ("scalar", "1,8", "value_int=-1", 1),
            ("one", "1,6,1", "value_ints=[3]", 2),
            ("run", "1,3,8", "value_ints=[1,3,5]", 1),
            ("shuffle", "1,6,8", "value_ints=[5,1,2,2,0,-3]", -2),
        )
    },
    "concat_constant_outside": Case(
        "(float[1,4,6] x, float[1,2,6] c) => (float[1,6,6] y) { y = Concat<axis=1>(x, c) }",
        constants={"c": [[[9.0] * 6, [-7.0] * 6]]},
    ),
    "pad_value_outside": Case(
        "(float[1,4,6] x, float c) => (float[1,4,9] y) { p = Constant<value_ints=[0,0,1,0,0,2]>() y = Pad(x, p, c) }",
        constants={"c": -8.0},
    ),
    "split_equal": Case(
        "(float[1,6,8] x) => (float[1,3,8] y, float[1,3,8] y2) { y, y2 = Split<axis=1, num_outputs=2>(x) }", opset=18
    ),
    "split_uneven_last": Case(
        "(float[1,7,8] x) => (float[1,3,8] y, float[1,3,8] y2, float[1,1,8] y3)"
        " { y, y2, y3 = Split<axis=1, num_outputs=3>(x) }",
        opset=18,
    ),
    "split_unequal": Case(
        "(float[1,6,8] x) => (float[1,6,3] y, float[1,6,5] y2)"
        " { p = Constant<value_ints=[3,5]>() y, y2 = Split<axis=-1>(x, p) }"
    ),
    "split_opset11": Case(
        "(float[1,6,8] x) => (float[1,2,8] y, float[1,4,8] y2) { y, y2 = Split<axis=1, split=[2,4]>(x) }", opset=11
    ),
    "split_then_ops": Case(
        "(float[1,6,8] x) => (float[1,3,8] y) { a, b = Split<axis=1>(x) r = Relu(a) y = Add(r, b) }", opset=13, lsb=2
    ),
    "split_part_unread": Case(
        "(float[1,6,8] x, float[4,3,3] w) => (float[1,4,6] y) { a, b = Split<axis=1>(x) y = Conv(b, w) }", opset=13
    ),
    "split_part_read_by_dead_code": Case(
        "(float[1,6,8] x, float[4,3,3] w) => (float[1,4,6] y)"
        " { a, b = Split<axis=1>(x) d = Sigmoid(a) y = Conv(b, w) }",
        opset=13,
    ),
    "pad": Case("(float[1,4,6] x) => (float[1,4,9] y) { p = Constant<value_ints=[0,0,1,0,0,2]>() y = Pad(x, p) }"),
    "pad_value": Case(
        "(float[1,4,6] x, float c) => (float[1,4,9] y) { p = Constant<value_ints=[0,0,1,0,0,2]>() y = Pad(x, p, c) }",
        constants={"c": 1.0},
    ),
    "pad_axes": Case(
        "(float[1,4,6] x, float c) => (float[1,7,6] y)"
        " { p = Constant<value_ints=[2,1]>() a = Constant<value_ints=[1]>()"
        " y = Pad(x, p, c, a) }",
        opset=18,
        constants={"c": 0.0},
    ),
    "pad_opset10": Case("(float[1,4,6] x) => (float[1,4,9] y) { y = Pad<pads=[0,0,1,0,0,2]>(x) }", opset=10),
    "pad_conv": Case(
        "(float[1,2,6,5] x, float[4,2,3,3] w) => (float[1,4,6,5] y) {"
        " p = Constant<value_ints=[0,0,1,1,0,0,1,1]>() a = Pad(x, p) y = Conv(a, w) }"
    ),
    "identity_dropout": Case("(float[1,4,6] x) => (float[1,4,6] y) { a = Identity(x) b = Dropout(a) y = Relu(b) }"),
    "cast_float": Case("(float[1,4,6] x) => (float[1,4,6] y) { a = Cast<to=1>(x) y = Relu(a) }"),
    "identity_only": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Identity(x) }"),
}
