"""TensorProto decoding against onnx.numpy_helper, and sizes and ranges that onnx itself accepts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from kwsq.ir.quant import IntRange
from kwsq.passes.decode import Findings, code_range, decode_tensor

TYPES = {
    TensorProto.FLOAT: (-2, 3),
    TensorProto.DOUBLE: (-2, 3),
    TensorProto.FLOAT16: (-2, 3),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-(2**15), 2**15 - 1),
    TensorProto.UINT16: (0, 2**16 - 1),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
    TensorProto.UINT32: (0, 2**32 - 1),
    TensorProto.INT64: (-(2**62), 2**62),
    TensorProto.UINT64: (0, 2**63),
    TensorProto.BOOL: (0, 1),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT2: (-2, 1),
    TensorProto.UINT2: (0, 3),
}


def decoded(tensor: onnx.TensorProto) -> np.ndarray | None:
    findings = Findings()
    values = decode_tensor(tensor, "t", findings)
    assert (values is None) == bool(findings.invalid or findings.unsupported)
    return values


def example(elem_type: int, shape: tuple[int, ...]) -> onnx.TensorProto:
    low, high = TYPES[elem_type]
    size = int(np.prod(shape))
    values = [low, high, *np.random.default_rng(elem_type).integers(low, high, max(size - 2, 0)).tolist()][:size]
    return helper.make_tensor("t", elem_type, shape, values)


@pytest.mark.parametrize("elem_type", TYPES)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (7,), (1, 1, 3, 1, 5)])
@pytest.mark.parametrize("raw", [False, True])
def test_every_type_from_either_storage(elem_type: int, shape: tuple[int, ...], raw: bool) -> None:
    tensor = example(elem_type, shape)
    expected = numpy_helper.to_array(tensor)
    if raw:
        tensor = numpy_helper.from_array(expected, "t")
    values = decoded(tensor)
    assert values is not None
    assert values.dtype == expected.dtype
    assert values.shape == shape
    assert values.tobytes() == expected.tobytes()
    assert not values.flags.writeable


@pytest.mark.parametrize("elem_type", TYPES)
@pytest.mark.parametrize("change", [-1, 1])
def test_one_byte_or_one_value_too_many_or_too_few(elem_type: int, change: int) -> None:
    tensor = example(elem_type, (2, 3))
    raw = numpy_helper.from_array(numpy_helper.to_array(tensor), "t")
    raw.raw_data = raw.raw_data[:change] if change < 0 else raw.raw_data + b"\0"
    assert decoded(raw) is None
    name = next(
        field
        for field in ("float_data", "double_data", "int32_data", "int64_data", "uint64_data")
        if len(getattr(tensor, field))
    )
    stored = list(getattr(tensor, name))
    tensor.ClearField(name)
    getattr(tensor, name).extend(stored[:change] if change < 0 else [*stored, stored[0]])
    assert decoded(tensor) is None


@given(st.lists(st.integers(-8, 7), max_size=33))
def test_int4_round_trips(codes: list[int]) -> None:
    tensor = helper.make_tensor("t", TensorProto.INT4, [len(codes)], codes)
    values = decoded(tensor)
    assert values is not None
    assert values.astype(np.int8).tolist() == codes


@given(st.lists(st.integers(0, 3), max_size=33))
def test_uint2_round_trips(codes: list[int]) -> None:
    tensor = helper.make_tensor("t", TensorProto.UINT2, [len(codes)], codes)
    values = decoded(tensor)
    assert values is not None
    assert values.astype(np.uint8).tolist() == codes


def test_an_infinite_scalar_is_a_bound_and_an_infinite_vector_is_not() -> None:
    assert decoded(helper.make_tensor("t", TensorProto.FLOAT, [], [-np.inf])) is not None
    assert decoded(helper.make_tensor("t", TensorProto.FLOAT, [2], [-np.inf, 0])) is None
    assert decoded(helper.make_tensor("t", TensorProto.FLOAT, [], [np.nan])) is None


def test_an_empty_vector_is_a_shape() -> None:
    values = decoded(helper.make_tensor("t", TensorProto.INT64, [0], []))
    assert values is not None
    assert values.shape == (0,)


def test_code_ranges() -> None:
    assert code_range(np.dtype(np.int8)) == IntRange(-128, 127)
    assert code_range(helper.tensor_dtype_to_np_dtype(TensorProto.UINT2)) == IntRange(0, 3)
    assert code_range(np.dtype(np.float32)) is None
