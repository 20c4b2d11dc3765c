"""TensorProto to NumPy, trusting nothing: type, dimensions, exact size and values are checked before use.

onnx.checker accepts data longer than the dimensions say, NaN and infinite weights, and out-of-range codes; the sizes
here follow the TensorProto comments in onnx.proto (IR 3 to 13).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from kwsq.ir.errors import Problem
from kwsq.ir.quant import IntRange

Array = npt.NDArray[Any]

MAX_RANK = 5
MAX_DIM = 2**16
MAX_ELEMENTS = 2**24
"""Largest tensor accepted or computed: 64 MiB of float32, far above any keyword spotter."""


@dataclass(slots=True)
class Findings:
    """Problems found so far, by the exit code they lead to."""

    invalid: list[Problem] = field(default_factory=list)
    unsupported: list[Problem] = field(default_factory=list)

    def broken(self, where: str, found: str, expected: str, remedy: str = "export the model again") -> None:
        """Notes a broken or unsafe element."""
        self.invalid.append(Problem(where, found, expected, remedy))

    def refuse(self, where: str, found: str, expected: str, remedy: str) -> None:
        """Notes a valid element kwsq cannot express."""
        self.unsupported.append(Problem(where, found, expected, remedy))


@dataclass(frozen=True, slots=True)
class _Storage:
    """How one element type is stored: bits per element, typed field, NumPy type of that field's entries."""

    bits: int
    field: str
    entry: str


_STORAGE: dict[int, _Storage] = {
    TensorProto.FLOAT: _Storage(32, "float_data", "<f4"),
    TensorProto.DOUBLE: _Storage(64, "double_data", "<f8"),
    TensorProto.FLOAT16: _Storage(16, "int32_data", "<f2"),
    TensorProto.INT8: _Storage(8, "int32_data", "<i1"),
    TensorProto.UINT8: _Storage(8, "int32_data", "<u1"),
    TensorProto.INT16: _Storage(16, "int32_data", "<i2"),
    TensorProto.UINT16: _Storage(16, "int32_data", "<u2"),
    TensorProto.INT32: _Storage(32, "int32_data", "<i4"),
    TensorProto.UINT32: _Storage(32, "uint64_data", "<u4"),
    TensorProto.INT64: _Storage(64, "int64_data", "<i8"),
    TensorProto.UINT64: _Storage(64, "uint64_data", "<u8"),
    TensorProto.BOOL: _Storage(8, "int32_data", "|b1"),
    TensorProto.INT4: _Storage(4, "int32_data", "|u1"),
    TensorProto.UINT4: _Storage(4, "int32_data", "|u1"),
    TensorProto.INT2: _Storage(2, "int32_data", "|u1"),
    TensorProto.UINT2: _Storage(2, "int32_data", "|u1"),
}

_CODE_RANGES = {
    "int2": IntRange.of(2),
    "uint2": IntRange.of(2, signed=False),
    "int4": IntRange.of(4),
    "uint4": IntRange.of(4, signed=False),
    "int8": IntRange.of(8),
    "uint8": IntRange.of(8, signed=False),
    "int16": IntRange.of(16),
    "uint16": IntRange.of(16, signed=False),
    "int32": IntRange.of(32),
}


def code_range(dtype: np.dtype[np.generic]) -> IntRange | None:
    """Returns the codes an integer type of a quantizer holds, None for other types."""
    return _CODE_RANGES.get(dtype.name)


def type_name(elem_type: int) -> str:
    """Returns ONNX's name of an element type, also of one newer than the installed onnx."""
    names: dict[int, str] = {value: name for name, value in TensorProto.DataType.items()}
    return names.get(elem_type, f"type {elem_type}")


def is_supported_type(elem_type: int) -> bool:
    """Returns whether kwsq reads tensors of this element type."""
    return elem_type in _STORAGE


def decode_tensor(tensor: onnx.TensorProto, where: str, findings: Findings) -> Array | None:
    """Returns the values of a tensor as a read-only array, or None after noting why it is not acceptable.

    Args:
        tensor: constant of the model.
        where: name for messages.
        findings: receives the problems.

    Returns:
        Array of the declared shape; int4 and int2 types keep their type, one element per byte.
    """
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        findings.broken(
            where,
            "external data",
            "data inside the file",
            "save it as one file: torch.onnx.export(..., external_data=False), or onnx.save(onnx.load(FILE), NEW)",
        )
        return None
    if not is_supported_type(tensor.data_type):
        _note_type(tensor.data_type, where, findings)
        return None
    if len(tensor.dims) > MAX_RANK:
        findings.broken(where, f"{len(tensor.dims)} dimensions", f"at most {MAX_RANK}")
        return None
    shape = _checked_shape(tuple(tensor.dims), where, findings)
    if shape is None:
        return None
    values = _stored_values(tensor, math.prod(shape), where, findings)
    if values is None:
        return None
    values = values.reshape(shape)
    values.setflags(write=False)
    return values if _is_finite(values, where, findings) else None


def _note_type(elem_type: int, where: str, findings: Findings) -> None:
    if elem_type == TensorProto.UNDEFINED or elem_type not in TensorProto.DataType.values():
        findings.broken(where, f"element {type_name(elem_type)}", "an ONNX element type")
    else:
        findings.refuse(
            where,
            f"element type {type_name(elem_type)}",
            "float32 or integer tensors",
            "export with float32 weights and integer (2 to 8 bit) codes",
        )


def _checked_shape(dims: tuple[int, ...], where: str, findings: Findings) -> tuple[int, ...] | None:
    expected = f"at most {MAX_RANK} dimensions of 1 to {MAX_DIM}, {MAX_ELEMENTS} elements in all"
    # A one-dimensional tensor may be empty: the target shape of a reshape to a scalar, an absent list of axes.
    sane = all(1 <= dim <= MAX_DIM for dim in dims)
    flat = len(dims) == 1 and 0 <= dims[0] <= MAX_ELEMENTS
    if (sane or flat) and math.prod(dims) <= MAX_ELEMENTS:
        return dims
    findings.broken(
        where,
        f"shape {list(dims)}",
        expected,
        "check the file; no keyword spotter is that large",
    )
    return None


def _stored_values(tensor: onnx.TensorProto, count: int, where: str, findings: Findings) -> Array | None:
    storage = _STORAGE[tensor.data_type]
    entries = count if storage.bits >= 8 else math.ceil(count * storage.bits / 8)
    if tensor.HasField("segment"):
        findings.broken(where, "segmented data", "data in one piece")
        return None
    if tensor.HasField("raw_data"):
        packed = _raw(tensor, entries, storage, where, findings)
    else:
        packed = _typed(tensor, entries, storage, where, findings)
    if packed is None or storage.bits >= 8:
        return packed
    return _unpacked(packed, count, storage.bits, tensor.data_type)


def _raw(tensor: onnx.TensorProto, entries: int, storage: _Storage, where: str, findings: Findings) -> Array | None:
    data = tensor.raw_data
    dtype = np.dtype(storage.entry)
    if len(data) != entries * dtype.itemsize:
        findings.broken(where, f"{len(data)} bytes of data", f"{entries * dtype.itemsize} for its type and shape")
        return None
    if any(len(getattr(tensor, name)) for name in {s.field for s in _STORAGE.values()}):
        findings.broken(where, "both raw and typed data", "one of them")
        return None
    if storage.entry == "|b1":
        return np.asarray(np.frombuffer(data, np.uint8) != 0)
    return np.frombuffer(data, dtype)


def _typed(tensor: onnx.TensorProto, entries: int, storage: _Storage, where: str, findings: Findings) -> Array | None:
    stored = getattr(tensor, storage.field)
    if len(stored) != entries:
        findings.broken(where, f"{len(stored)} values", f"{entries} for its shape")
        return None
    if tensor.data_type == TensorProto.FLOAT16:
        bits = _in_range(np.array(stored, np.int64), IntRange(0, 2**16 - 1), where, findings)
        return None if bits is None else bits.astype(np.uint16).view(np.float16)
    dtype = np.dtype(storage.entry)
    if dtype.kind in "fb" or storage.field in ("int64_data", "uint64_data"):
        wide = np.array(stored, dtype if storage.field != "uint64_data" else np.uint64)
        return wide.astype(dtype)
    info = np.iinfo(dtype)
    checked = _in_range(np.array(stored, np.int64), IntRange(int(info.min), int(info.max)), where, findings)
    return None if checked is None else checked.astype(dtype)


def _in_range(values: npt.NDArray[np.int64], allowed: IntRange, where: str, findings: Findings) -> Array | None:
    if values.size and (values.min() < allowed.low or values.max() > allowed.high):
        found = f"values {values.min()} to {values.max()}"
        findings.broken(where, found, f"{allowed.low} to {allowed.high} for its type")
        return None
    return values


def _unpacked(packed: Array, count: int, bits: int, elem_type: int) -> Array:
    # First element in the lowest bits, flattened without row padding (onnx docs int4.md, int2.md).
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (packed.astype(np.uint8)[:, None] >> shifts) & np.uint8(2**bits - 1)
    codes = fields.reshape(-1)[:count]
    if elem_type in (TensorProto.INT4, TensorProto.INT2):
        sign = np.uint8(2 ** (bits - 1))
        codes = ((codes ^ sign) - sign).view(np.int8)
    return np.asarray(codes.astype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)))


def _is_finite(values: Array, where: str, findings: Findings) -> bool:
    if values.dtype.kind != "f" or bool(np.isfinite(values).all()):
        return True
    # An infinite scalar is a legitimate bound (Clip, Pad); in a larger tensor it is a broken weight.
    if values.size == 1 and not bool(np.isnan(values).any()):
        return True
    count = int(values.size - np.isfinite(values).sum())
    findings.broken(where, f"{count} NaN or infinite values", "finite values", "retrain or repair the weights")
    return False
