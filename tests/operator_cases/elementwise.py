"""Binary operators, activations, normalisations and graphs with several inputs and outputs."""

from __future__ import annotations

from operator_cases.case import Case

ELEMENTWISE = {
    **{
        f"{op.lower()}_{name}": Case(
            f"(float[{a}] x, float[{b}] {second}) => (float[{y}] y) {{ y = {op}(x, {second}) }}"
        )
        for op in ("Add", "Sub", "Mul")
        for name, a, b, y, second in (
            ("dynamic", "1,4,6,5", "1,4,6,5", "1,4,6,5", "x2"),
            ("squeeze_excite", "1,4,6,5", "1,4,1,1", "1,4,6,5", "x2"),
            ("spatial_gate", "1,4,6,5", "1,1,6,5", "1,4,6,5", "x2"),
            ("lower_rank", "1,4,6,5", "6,5", "1,4,6,5", "x2"),
            ("higher_rank_second", "6,5", "1,4,6,5", "1,4,6,5", "x2"),
            ("both_broadcast", "1,4,1,5", "1,1,6,1", "1,4,6,5", "x2"),
            ("constant_channel", "1,4,6,5", "4,1,1", "1,4,6,5", "c"),
            ("constant_last", "1,4,6,5", "5", "1,4,6,5", "c"),
            ("constant_full", "1,4,6,5", "1,4,6,5", "1,4,6,5", "c"),
            ("constant_plane", "1,4,6,5", "6,5", "1,4,6,5", "c"),
            ("constant_rank1", "6", "6", "6", "c"),
            ("rank5", "1,2,3,4,2", "1,2,3,4,2", "1,2,3,4,2", "x2"),
        )
    },
    **{
        f"{op.lower()}_scalar": Case(
            f"(float[1,4,6,5] x, float c) => (float[1,4,6,5] y) {{ y = {op}(x, c) }}", constants={"c": 0.7}
        )
        for op in ("Add", "Sub", "Mul", "Div")
    },
    "sub_constant_first": Case("(float[1,4,6] x, float[6] c) => (float[1,4,6] y) { y = Sub(c, x) }"),
    "sub_from_one": Case("(float[1,4,6] x, float c) => (float[1,4,6] y) { y = Sub(c, x) }", constants={"c": 1.0}),
    "mul_negative_scalar": Case(
        "(float[1,4,6] x, float c) => (float[1,4,6] y) { y = Mul(x, c) }", constants={"c": -3.0}
    ),
    "mul_widening_constant": Case("(float[1,6] x, float[4,6] c) => (float[4,6] y) { y = Mul(x, c) }"),
    "add_self": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Add(x, x) }"),
    "mul_self": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Mul(x, x) }"),
    "add_relu": Case("(float[1,4,6] x, float[1,4,6] x2) => (float[1,4,6] y) { h = Add(x, x2) y = Relu(h) }", lsb=2),
    # A positional embedding: the source adds it as it is, the file on a grid of its own, and a layer sums over it.
    "add_embedding": Case(
        "(float[1,6,24] x, float[1,6,24] c, float[24,8] w) => (float[1,6,8] y) { a = Add(x, c) y = MatMul(a, w) }",
        lsb=4,
    ),
    "mul_embedding": Case(
        "(float[1,6,24] x, float[1,6,24] c, float[24,8] w) => (float[1,6,8] y) { a = Mul(x, c) y = MatMul(a, w) }",
        lsb=4,
    ),
    "squared_difference": Case(
        "(float[1,4,6] x, float[1,4,1] x2, float c) => (float[1,4,6] y) { d = Sub(x, x2) y = Pow(d, c) }",
        constants={"c": 2.0},
        lsb=3,
    ),
    "square": Case("(float[1,4,6] x, float c) => (float[1,4,6] y) { y = Pow(x, c) }", constants={"c": 2.0}),
    "abs": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Abs(x) }"),
    "neg": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Neg(x) }"),
    "max_dynamic": Case("(float[1,4,6] x, float[1,4,6] x2) => (float[1,4,6] y) { y = Max(x, x2) }", lsb=2),
    "min_three": Case(
        "(float[1,4,6] x, float[1,4,6] x2, float[4,6] x3) => (float[1,4,6] y) { y = Min(x, x2, x3) }", lsb=2
    ),
    "max_constant": Case("(float[1,4,6] x, float[6] c) => (float[1,4,6] y) { y = Max(x, c) }", lsb=2),
    "max_constant_above": Case(
        "(float[1,4,6] x, float[6] c) => (float[1,4,6] y) { y = Max(x, c) }",
        constants={"c": [9.0, 0.0, -9.0, 1.0, 5.0, 7.0]},
    ),
    "sum_three": Case(
        "(float[1,4,6] x, float[1,4,6] x2, float[1,4,6] x3) => (float[1,4,6] y) { y = Sum(x, x2, x3) }", lsb=2
    ),
}

ACTIVATIONS = {
    "relu": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Relu(x) }"),
    "relu6": Case(
        "(float[1,4,6] x, float lo, float hi, float m) => (float[1,4,6] y) { g = Mul(x, m) y = Clip(g, lo, hi) }",
        constants={"lo": 0.0, "hi": 6.0, "m": 6.0},
        lsb=6,
    ),
    "relu6_attribute": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Clip<min=0.0, max=6.0>(x) }", opset=10),
    "clip_general": Case(
        "(float[1,4,6] x, float lo, float hi) => (float[1,4,6] y) { y = Clip(x, lo, hi) }",
        constants={"lo": -0.75, "hi": 1.25},
    ),
    "clip_hardtanh": Case(
        "(float[1,4,6] x, float lo, float hi) => (float[1,4,6] y) { y = Clip(x, lo, hi) }",
        constants={"lo": -1.0, "hi": 1.0},
    ),
    "clip_low_only": Case("(float[1,4,6] x, float lo) => (float[1,4,6] y) { y = Clip(x, lo) }", constants={"lo": -0.5}),
    "clip_high_only": Case(
        "(float[1,4,6] x, float hi) => (float[1,4,6] y) { y = Clip(x, , hi) }", constants={"hi": 0.5}
    ),
    "clip_positive_range": Case(
        "(float[1,4,6] x, float lo, float hi) => (float[1,4,6] y) { y = Clip(x, lo, hi) }",
        constants={"lo": 0.5, "hi": 1.5},
    ),
    "clip_above": Case(
        "(float[1,4,6] x, float lo, float hi) => (float[1,4,6] y) { y = Clip(x, lo, hi) }",
        constants={"lo": 5.0, "hi": 6.0},
    ),
    "leaky_relu": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = LeakyRelu<alpha=0.1>(x) }"),
    "leaky_relu_default": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = LeakyRelu(x) }"),
    "leaky_relu_steep": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = LeakyRelu<alpha=1.5>(x) }"),
    "leaky_relu_negative": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = LeakyRelu<alpha=-0.2>(x) }"),
    "prelu_channel": Case("(float[1,4,6,5] x, float[4,1,1] v) => (float[1,4,6,5] y) { y = PRelu(x, v) }"),
    "prelu_scalar": Case("(float[1,4,6,5] x, float[1] v) => (float[1,4,6,5] y) { y = PRelu(x, v) }"),
    "prelu_after_conv": Case(
        "(float[1,3,6,5] x, float[4,3,3,3] w, float[4,1,1] v) => (float[1,4,4,3] y) { h = Conv(x, w) y = PRelu(h, v) }",
        lsb=2,
    ),
    "sigmoid": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Sigmoid(x) }"),
    "tanh": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Tanh(x) }", lsb=2),
    "hard_sigmoid": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = HardSigmoid(x) }", lsb=2),
    "hard_sigmoid_alpha": Case(
        "(float[1,4,6] x) => (float[1,4,6] y) { y = HardSigmoid<alpha=0.1666667, beta=0.5>(x) }", lsb=2
    ),
    "hard_swish": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = HardSwish(x) }", lsb=2),
    "hard_swish_chain": Case(
        "(float[1,4,6] x, float three, float lo, float hi, float c6) => (float[1,4,6] y) {"
        " a = Add(x, three) c = Clip(a, lo, hi) d = Div(c, c6) y = Mul(x, d) }",
        constants={"three": 3.0, "lo": 0.0, "hi": 6.0, "c6": 6.0},
        lsb=4,
    ),
    "swish": Case("(float[1,4,6] x) => (float[1,4,6] y) { s = Sigmoid(x) y = Mul(x, s) }", lsb=3),
    "glu": Case(
        "(float[1,8,6] x) => (float[1,4,6] y) { a, b = Split<axis=1>(x) s = Sigmoid(b) y = Mul(a, s) }",
        opset=11,
        lsb=3,
    ),
    "softmax_last": Case("(float[1,12] x) => (float[1,12] y) { y = Softmax(x) }"),
    "softmax_opset11": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Softmax(x) }", opset=11),
    "softmax_opset11_last": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Softmax<axis=2>(x) }", opset=11),
    "softmax_channels": Case("(float[1,4,6,5] x) => (float[1,4,6,5] y) { y = Softmax<axis=1>(x) }"),
    "softmax_middle": Case("(float[1,4,6] x) => (float[1,4,6] y) { y = Softmax<axis=-2>(x) }"),
    "softmax_after_dense": Case(
        "(float[1,12] x, float[12,5] w) => (float[1,5] y) { h = Gemm(x, w) y = Softmax<axis=1>(h) }", lsb=2
    ),
}

NORMS = {
    "layer_norm": Case(
        "(float[1,7,16] x, float[16] v, float[16] b) => (float[1,7,16] y) { y = LayerNormalization(x, v, b) }", lsb=8
    ),
    "layer_norm_no_bias": Case(
        "(float[1,7,16] x, float[16] v) => (float[1,7,16] y) { y = LayerNormalization<axis=2>(x, v) }", lsb=8
    ),
    "layer_norm_two_axes": Case(
        "(float[1,7,16] x, float[7,16] v, float[7,16] b) => (float[1,7,16] y)"
        " { y = LayerNormalization<axis=1>(x, v, b) }",
        lsb=8,
    ),
    "layer_norm_chain": Case(
        "(float[1,7,16] x, float two, float eps, float[16] v, float[16] b) => (float[1,7,16] y) {"
        " m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) p = Pow(d, two) q = ReduceMean<axes=[-1]>(p) e = Add(q, eps)"
        " r = Sqrt(e) n = Div(d, r) g = Mul(n, v) y = Add(g, b) }",
        constants={"two": 2.0, "eps": 1e-5},
        lsb=16,
        skip=("r",),
    ),
    "rms_norm_chain": Case(
        "(float[1,7,16] x, float two, float eps, float[16] v) => (float[1,7,16] y) {"
        " p = Pow(x, two) q = ReduceMean<axes=[-1]>(p) e = Add(q, eps) r = Sqrt(e) i = Reciprocal(r) n = Mul(x, i)"
        " y = Mul(n, v) }",
        constants={"two": 2.0, "eps": 1e-5},
        lsb=16,
        skip=("r",),
    ),
}

MULTIPLE = {
    "two_inputs_two_outputs": Case(
        "(float[1,4,6,5] x2, float[1,4] x) => (float[1,4] y2, float[1,4,6,5] y) {"
        " g = Sigmoid(x) ax = Constant<value_ints=[2,3]>() u = Unsqueeze(g, ax) y = Mul(x2, u)"
        " p = GlobalAveragePool(y) y2 = Flatten(p) }",
        lsb=3,
    ),
    "output_feeds_on": Case(
        "(float[1,4,6] x, float[3,4,1] w) => (float[1,4,6] y, float[1,3,6] y2) { y = Relu(x) y2 = Conv(y, w) }", lsb=2
    ),
    # LiteRT's ADD writes over the value that the Reshape shares with the first output.
    "output_reshaped_and_added_to": Case(
        "(float[3,5] x, float[1,15,1] x2, float c) => (float[3,5] y, float[1,15,1] y2) {"
        " y = Mul(x, c) s = Constant<value_ints=[1,15,1]>() r = Reshape(y, s) a = Add(r, x2) y2 = Abs(a) }",
        constants={"c": 0.37},
        lsb=2,
    ),
    "same_value_twice": Case("(float[1,4,6] x) => (float[1,4,6] y, float[1,4,6] y2) { y = Relu(x) y2 = Identity(y) }"),
    "same_shapes_no_states": Case(
        "(float[1,4] x, float[1,4] x2, float c) => (float[1,4] y, float[1,4] y2) { y = Add(x, x2) y2 = Mul(x2, c) }",
        constants={"c": 7.0},
    ),
    "relu_beside_its_input": Case(
        "(float[1,3,8] x, float[4,3,3] w, float[4,3,3] w2) => (float[1,4,6] y) {"
        " h = Conv(x, w) r = Relu(h) g = Conv(x, w2) s = Add(r, g) y = Add(s, h) }",
        lsb=3,
        skip=("h",),
    ),
    "streaming_conv": Case(
        "(float[1,4,3] x, float[1,4,2] s1, float[6,4,3] w) => (float[1,6,3] y, float[1,4,2] n1) {"
        " h = Concat<axis=2>(s1, x) y = Conv(h, w) b = Constant<value_ints=[3]>() e = Constant<value_ints=[5]>()"
        " a = Constant<value_ints=[2]>() n1 = Slice(h, b, e, a) }"
    ),
}
