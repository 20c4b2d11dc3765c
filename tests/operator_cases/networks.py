"""Small versions of published keyword spotters, as their exporters write them."""

from __future__ import annotations

from operator_cases.case import Case


def _norm(name: str, channels: int) -> str:
    """Parameters of one batch norm."""
    return (
        f"float[{channels}] v{name}, float[{channels}] b{name}, float[{channels}] m{name}, float[{channels}] v{name}_2"
    )


def _bn(y: str, x: str, name: str) -> str:
    return f" {y} = BatchNormalization({x}, v{name}, b{name}, m{name}, v{name}_2)"


NETWORKS = {
    # Tang & Lin 2018: convolution, batch norm, Relu, identity shortcut, average, dense.
    "resnet": Case(
        "(float[1,1,20,10] x, float[8,1,3,3] w0, float[8,8,3,3] w1, float[8,8,3,3] w2, float[8,5] w3, float[5] b3, "
        + ", ".join(_norm(str(i), 8) for i in range(3))
        + ") => (float[1,5] y) { c0 = Conv<pads=[1,1,1,1]>(x, w0)"
        + _bn("n0", "c0", "0")
        + " r0 = Relu(n0) c1 = Conv<pads=[1,1,1,1]>(r0, w1)"
        + _bn("n1", "c1", "1")
        + " r1 = Relu(n1) c2 = Conv<pads=[2,2,2,2], dilations=[2,2]>(r1, w2)"
        + _bn("n2", "c2", "2")
        + " s = Add(n2, r0) r2 = Relu(s) p = ReduceMean<axes=[2,3], keepdims=0>(r2) y = Gemm(p, w3, b3) }"
    ),
    # Choi et al. 2019: features as channels, 1xK convolutions over time, strided shortcut.
    "tc_resnet": Case(
        "(float[1,20,49] x, float[8,20,3] w0, float[12,8,9] w1, float[12,12,9] w2, float[12,8,1] w3, float[12,5] w4, "
        + ", ".join(_norm(str(i), n) for i, n in enumerate((8, 12, 12, 12)))
        + ") => (float[1,5] y) { c0 = Conv<pads=[1,1]>(x, w0)"
        + _bn("n0", "c0", "0")
        + " r0 = Relu(n0) c1 = Conv<pads=[4,4], strides=[2]>(r0, w1)"
        + _bn("n1", "c1", "1")
        + " r1 = Relu(n1) c2 = Conv<pads=[4,4]>(r1, w2)"
        + _bn("n2", "c2", "2")
        + " c3 = Conv<strides=[2]>(r0, w3)"
        + _bn("n3", "c3", "3")
        + " r3 = Relu(n3) s = Add(n2, r3) r2 = Relu(s) p = GlobalAveragePool(r2) f = Flatten(p) y = Gemm(f, w4) }"
    ),
    # Kim et al. 2021: frequency-wise depthwise, mean over frequency, temporal branch broadcast back, Swish.
    "bc_resnet": Case(
        "(float[1,1,20,25] x, float[8,1,5,5] w0, float[8,1,3,1] w1, float[8,1,1,3] w2, float[8,8,1,1] w3, "
        "float[5,8,1,1] w4, "
        + ", ".join(_norm(str(i), 8) for i in range(3))
        + ") => (float[1,5] y) { c0 = Conv<pads=[2,2,2,2], strides=[2,1]>(x, w0)"
        + _bn("n0", "c0", "0")
        + " r0 = Relu(n0) c1 = Conv<group=8, pads=[1,0,1,0]>(r0, w1)"
        + _bn("n1", "c1", "1")
        + " m = ReduceMean<axes=[2], keepdims=1>(n1) c2 = Conv<group=8, pads=[0,1,0,1]>(m, w2)"
        + _bn("n2", "c2", "2")
        + " g = Sigmoid(n2) h = Mul(n2, g) c3 = Conv(h, w3) a = Add(n1, c3) a2 = Add(a, r0) r1 = Relu(a2)"
        " p = ReduceMean<axes=[2,3], keepdims=1>(r1) q = Conv(p, w4) f = Flatten(q) y = Identity(f) }"
    ),
    # Majumdar & Ginsburg 2020: separable 1-D convolutions, dilated head.
    "matchbox": Case(
        "(float[1,16,40] x, float[16,1,11] w0, float[12,16,1] w1, float[12,1,13] w2, float[12,12,1] w3, "
        "float[12,12,1] w4, float[12,1,9] w5, float[10,12,1] w6, float[5,10,1] w7, float[5] b7, "
        + ", ".join(_norm(str(i), n) for i, n in enumerate((12, 12, 12, 10)))
        + ") => (float[1,5] y) { d0 = Conv<group=16, pads=[5,5], strides=[2]>(x, w0) c0 = Conv(d0, w1)"
        + _bn("n0", "c0", "0")
        + " r0 = Relu(n0) d1 = Conv<group=12, pads=[6,6]>(r0, w2) c1 = Conv(d1, w3)"
        + _bn("n1", "c1", "1")
        + " c2 = Conv(r0, w4)"
        + _bn("n2", "c2", "2")
        + " s = Add(n1, n2) r1 = Relu(s) d3 = Conv<group=12, dilations=[2], pads=[8,8]>(r1, w5) c3 = Conv(d3, w6)"
        + _bn("n3", "c3", "3")
        + " r3 = Relu(n3) l = Conv(r3, w7, b7) p = GlobalAveragePool(l) y = Flatten(p) }"
    ),
    # Nakkiran et al. 2015 as grouped convolutions: a dense layer per frame, then one filter over time per rank.
    "svdf": Case(
        "(float[1,12,20] x, float[16,12,1] w0, float[16,1,8] w1, float[16] b1, float[8,16,1] w2, float[8] b2,"
        " float[104,5] w3) => (float[1,5] y) { f = Conv(x, w0) t = Conv<group=16>(f, w1, b1) r = Relu(t)"
        " d = Conv(r, w2, b2) e = Relu(d) g = Flatten(e) y = Gemm(g, w3) }"
    ),
    # Zhang et al. 2017: depthwise separable, MLPerf Tiny's shape.
    "ds_cnn": Case(
        "(float[1,1,25,10] x, float[8,1,10,4] w0, float[8,1,3,3] w1, float[8,8,1,1] w2, float[8,5] w3, "
        + ", ".join(_norm(str(i), 8) for i in range(3))
        + ") => (float[1,5] y) { c0 = Conv<strides=[2,2], pads=[4,1,5,1]>(x, w0)"
        + _bn("n0", "c0", "0")
        + " r0 = Relu(n0) c1 = Conv<group=8, pads=[1,1,1,1]>(r0, w1)"
        + _bn("n1", "c1", "1")
        + " r1 = Relu(n1) c2 = Conv(r1, w2)"
        + _bn("n2", "c2", "2")
        + " r2 = Relu(n2) p = AveragePool<kernel_shape=[13,5]>(r2) f = Flatten(p) l = Gemm(f, w3)"
        " y = Softmax<axis=1>(l) }"
    ),
    # Hu et al. 2018 on MobileNetV3's activations.
    "squeeze_excite": Case(
        "(float[1,4,12,10] x, float[12,4,1,1] w0, float[12,1,3,3] w1, float[6,12,1,1] w2, float[6] b2,"
        " float[12,6,1,1] w3, float[12] b3, float[4,12,1,1] w4, float[4,5] w5, "
        + _norm("0", 12)
        + ") => (float[1,5] y) { c = Conv(x, w0)"
        + _bn("n", "c", "0")
        + " h = HardSwish(n) d = Conv<group=12, pads=[1,1,1,1]>(h, w1) p = GlobalAveragePool(d) q = Conv(p, w2, b2)"
        " r = Relu(q) e = Conv(r, w3, b3) g = HardSigmoid<alpha=0.1666667, beta=0.5>(e) s = Mul(d, g) o = Conv(s, w4)"
        " a = Add(o, x) z = GlobalAveragePool(a) f = Flatten(z) y = Gemm(f, w5) }"
    ),
    # Attention pooling over time: Softmax, Mul, ReduceSum.
    "attention_pooling": Case(
        "(float[1,20,12] x, float[12,16] w0, float[16] b0, float[16,1] w1, float[16,5] w2) => (float[1,5] y) {"
        " h = MatMul(x, w0) i = Add(h, b0) t = Tanh(i) e = MatMul(t, w1) a = Softmax<axis=1>(e) m = Mul(a, t)"
        " ax = Constant<value_ints=[1]>() s = ReduceSum<keepdims=0>(m, ax) y = Gemm(s, w2) }"
    ),
    # Tolstikhin et al. 2021: layer norm, mixing over time and over features, Swish for GELU.
    "mixer": Case(
        "(float[1,16,12] x, float[12] v0, float[12] b0, float[16,16] w0, float[16] b1, float[16,16] w1, float[12] v1,"
        " float[12] b2, float[12,24] w2, float[24,12] w3, float[12,5] w4) => (float[1,5] y) {"
        " l = LayerNormalization(x, v0, b0) t = Transpose<perm=[0,2,1]>(l) a = MatMul(t, w0) ab = Add(a, b1)"
        " r = Relu(ab) c = MatMul(r, w1) u = Transpose<perm=[0,2,1]>(c) d = Add(x, u)"
        " n = LayerNormalization(d, v1, b2) e = MatMul(n, w2) g = Relu(e) f = MatMul(g, w3) h = Add(d, f)"
        " p = ReduceMean<axes=[1], keepdims=0>(h) y = Gemm(p, w4) }"
    ),
    # Berg et al. 2021 (KWT): one encoder block with two heads and a class token read by Gather.
    "transformer": Case(
        "(float[1,9,8] x, float[1,1,8] c0, float[1,10,8] c1, float[8,8] w0, float[8,8] w1, float[8,8] w2,"
        " float[8,8] w3, float[8] v0, float[8] b0, float[8,16] w4, float[16,8] w5, float[8,5] w6, float c2)"
        " => (float[1,5] y) { k0 = Concat<axis=1>(c0, x) k = Add(k0, c1)"
        " sh = Constant<value_ints=[1,10,2,4]>() back = Constant<value_ints=[1,10,8]>()"
        " q1 = MatMul(k, w0) q2 = Reshape(q1, sh) q3 = Transpose<perm=[0,2,1,3]>(q2)"
        " e1 = MatMul(k, w1) e2 = Reshape(e1, sh) e3 = Transpose<perm=[0,2,3,1]>(e2)"
        " u1 = MatMul(k, w2) u2 = Reshape(u1, sh) u3 = Transpose<perm=[0,2,1,3]>(u2)"
        " a1 = MatMul(q3, e3) a2 = Mul(a1, c2) a3 = Softmax<axis=-1>(a2) o1 = MatMul(a3, u3)"
        " o2 = Transpose<perm=[0,2,1,3]>(o1) o3 = Reshape(o2, back) o4 = MatMul(o3, w3) r = Add(k, o4)"
        " n = LayerNormalization(r, v0, b0) f1 = MatMul(n, w4) f2 = Relu(f1) f3 = MatMul(f2, w5) z = Add(n, f3)"
        " i = Constant<value_int=0>() t = Gather<axis=1>(z, i) y = Gemm(t, w6) }",
        constants={"c2": 0.5},
    ),
    # Explicit states: two causal layers, each with its own past.
    "streaming_tcn": Case(
        "(float[1,8,2] x, float[1,8,2] s1, float[1,6,4] s2, float[6,8,3] w0, float[6] b0, float[6,1,5] w1,"
        " float[6] b1, float[5,6,1] w2) => (float[1,5,2] y, float[1,8,2] n1, float[1,6,4] n2) {"
        " two = Constant<value_ints=[2]>() four = Constant<value_ints=[4]>() six = Constant<value_ints=[6]>()"
        " ax = Constant<value_ints=[2]>() h1 = Concat<axis=2>(s1, x) n1 = Slice(h1, two, four, ax)"
        " c = Conv(h1, w0, b0) r = Relu(c) h2 = Concat<axis=2>(s2, r) n2 = Slice(h2, two, six, ax)"
        " d = Conv<group=6>(h2, w1, b1) e = Relu(d) y = Conv(e, w2) }"
    ),
}
