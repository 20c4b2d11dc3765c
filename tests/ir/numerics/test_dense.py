import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numerics_cases import (
    assert_identical,
    cases,
    float32,
    random_activation,
    random_codes,
    random_scale,
    random_zero_point,
)
from one_op import TensorSpec, constant, one_op_model, run_model

from kwsq.ir.numerics import (
    RealParams,
    batch_matmul,
    derive_fixed_point,
    effective_scale_conv,
    effective_scale_matmul,
    fully_connected,
)


def _dense_case(rng: np.random.Generator, per_channel: bool) -> tuple[np.ndarray, np.ndarray, object]:
    rows, k, units = int(rng.integers(1, 40)), int(rng.integers(1, 300)), int(rng.integers(2, 40))
    sx, zx, zy = random_scale(rng), random_zero_point(rng), random_zero_point(rng)
    sw = [random_scale(rng, -4, -1) for _ in range(units if per_channel else 1)]
    # from every code saturated to all codes equal
    sy = float32(sx * float(np.exp(np.mean(np.log(sw)))) * 10.0 ** rng.uniform(-0.5, 4.5))
    weights, x = random_codes(rng, (units, k), -127), random_codes(rng, (rows, k))
    bias = None if rng.random() < 0.2 else rng.integers(-(2**16), 2**16, units).astype(np.int32)
    activation, low, high = random_activation(rng, scale=sy, zero_point=zy)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = activation
    bias_spec = None if bias is None else constant(bias, [float32(sx * s) for s in sw])
    inputs = [TensorSpec(x.shape, scale=sx, zero_point=zx), constant(weights, sw), bias_spec]
    output = TensorSpec((rows, units), scale=sy, zero_point=zy)
    (runtime,) = run_model(one_op_model("FULLY_CONNECTED", inputs, [output], options=options, version=5), [x])
    params = RealParams(zx, zy, effective_scale_conv(sx, sw, sy), low, high)
    return fully_connected(x, weights, bias, params), runtime, (sx, sw[:2], sy, zx, zy, activation)


@pytest.mark.parametrize("per_channel", [False, True])
def test_fully_connected_is_bit_exact(per_channel: bool) -> None:
    for rng in cases(1, 150):
        ours, runtime, context = _dense_case(rng, per_channel)
        assert_identical(ours, runtime, context)


@pytest.mark.parametrize("sign", [-1, 1])
def test_fully_connected_rounds_ties_away_from_zero(sign: int) -> None:
    # scale 1/2 exactly: every odd accumulator is a tie
    bias = (sign * np.arange(1, 60, 2)).astype(np.int32)
    weights = np.zeros((bias.size, 1), dtype=np.int8)
    inputs = [TensorSpec((1, 1), scale=1.0), constant(weights, 0.5), constant(bias, 0.5)]
    model = one_op_model(
        "FULLY_CONNECTED",
        inputs,
        [TensorSpec((1, bias.size), scale=1.0)],
        options=schema.FullyConnectedOptionsT(),
    )
    x = np.zeros((1, 1), dtype=np.int8)
    (runtime,) = run_model(model, [x])
    ours = fully_connected(x, weights, bias, RealParams(0, 0, effective_scale_conv(1.0, 0.5, 1.0)))
    assert_identical(ours, runtime, sign)
    assert ours[0, 0] == sign


def test_fully_connected_dense_accumulators() -> None:
    # the bias sweeps every accumulator near the rounding boundaries of one scale
    for rng in cases(2, 60):
        sx, sw = random_scale(rng, -3), random_scale(rng, -3)
        sy = float32(sx * sw * 2.0 ** rng.uniform(-2, 16))
        reach = int(140 * sy / (sx * sw)) + 2
        bias = rng.integers(-reach, reach, 4000).astype(np.int32)
        weights = np.ones((4000, 1), dtype=np.int8)
        inputs = [
            TensorSpec((1, 1), scale=sx, zero_point=3),
            constant(weights, sw),
            constant(bias, float32(sx * sw)),
        ]
        model = one_op_model(
            "FULLY_CONNECTED",
            inputs,
            [TensorSpec((1, 4000), scale=sy)],
            options=schema.FullyConnectedOptionsT(),
        )
        x = np.full((1, 1), 3, dtype=np.int8)
        (runtime,) = run_model(model, [x])
        params = RealParams(3, 0, effective_scale_conv(sx, sw, sy))
        assert_identical(fully_connected(x, weights, bias, params), runtime, (sx, sw, sy))


def test_fully_connected_refuses_an_accumulator_beyond_int32() -> None:
    weights = np.broadcast_to(np.int8(-128), (1, 2**17 + 1))
    with pytest.raises(ValueError, match=r"accumulator bound: found 2147500032, expected at most 2\*\*31 - 1"):
        fully_connected(weights, weights, None, RealParams(0, 0, effective_scale_conv(1.0, 1.0, 1.0)))


@pytest.mark.parametrize("adjoint_b", [False, True])
def test_batch_matmul_is_bit_exact(adjoint_b: bool) -> None:
    for rng in cases(3, 80):
        m, k, n = (int(v) for v in rng.integers(1, 30, 3))
        lead_a, lead_b = [((2,), (2,)), ((3, 1), (1, 2)), ((1,), (4,)), ((), ())][int(rng.integers(4))]
        sa, sb = random_scale(rng), random_scale(rng)
        za, zb, zy = (random_zero_point(rng) for _ in range(3))
        sy = float32(sa * sb * 10.0 ** rng.uniform(0, 4.5))
        a, b = random_codes(rng, (*lead_a, m, k)), random_codes(rng, (*lead_b, k, n))
        fed = np.ascontiguousarray(np.swapaxes(b, -1, -2)) if adjoint_b else b
        options = schema.BatchMatMulOptionsT()
        options.adjY = adjoint_b
        inputs = [
            TensorSpec(a.shape, scale=sa, zero_point=za),
            TensorSpec(fed.shape, scale=sb, zero_point=zb),
        ]
        shape = (*np.broadcast_shapes(lead_a, lead_b), m, n)
        model = one_op_model(
            "BATCH_MATMUL", inputs, [TensorSpec(shape, scale=sy, zero_point=zy)], options=options, version=2
        )
        (runtime,) = run_model(model, [a, fed])
        params = derive_fixed_point(effective_scale_matmul(sa, sb, sy), input_zero_point=za, output_zero_point=zy)
        assert_identical(batch_matmul(a, b, params, b_zero_point=zb), runtime, (sa, sb, sy, za, zb, zy))
