"""AIMET side files as grids by tensor name.

    <= 0.6.1   activation_encodings, param_encodings: tensor -> list of {bitwidth, dtype, is_symmetric, min, max,
               offset, scale}; more than one entry is one per channel
    1.0.0      the same two keys, lists of {name, bw, dtype, enc_type, is_sym, offset [..], scale [..]}
    2.0.0      encodings: list of {name, output_dtype, y_scale, y_zero_point, axis}, in QuantizeLinear's terms

AIMET's grid is unsigned with a negative offset: real = scale * (q + offset), q in 0 .. 2**bits - 1. Read here as signed
codes n = q + offset where the encoding is symmetric, else as q with zero point -offset. Source: AIMET's encoding
specification for the first two; for 2.0.0 our reading of its QuantizeLinear names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.quant import IntRange

MAX_FILE_BYTES = 16 * 2**20

_LEGACY_VERSIONS = frozenset({"0.4.0", "0.5.0", "0.6.0", "0.6.1"})
_MAX_BITS = 32


@dataclass(frozen=True, slots=True)
class Encoding:
    """One tensor's grid as the side file states it.

    Args:
        scales: one, or one per channel.
        offsets: as many zero points, real = scale * (code - offset).
        codes: range of the codes.
        axis: channel axis where there are several scales; None where the operator that reads the tensor decides.
    """

    scales: tuple[float, ...]
    offsets: tuple[int, ...]
    codes: IntRange
    axis: int | None = None


def read_encodings(data: bytes) -> dict[str, Encoding]:
    """Returns the encodings of a side file by tensor name; float ones, which quantize nothing, are left out.

    Raises:
        UsageError: the file is not one, or an entry is malformed or a tensor has several, each named.
    """
    content = _parse(data)
    version = str(content.get("version", ""))
    entries = _legacy(content) if version in _LEGACY_VERSIONS else _listed(content, version)
    _check_named_once(entries)
    result: dict[str, Encoding] = {}
    problems: list[Problem] = []
    for name, entry in entries:
        try:
            encoding = _READERS[version if version in _READERS else "legacy"](entry)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            found = f"a malformed entry ({type(error).__name__}: {error})"
            problems.append(
                Problem(f"encoding of {name!r}", found, f"the form of version {version}", "export it again")
            )
            continue
        if encoding is not None:
            result[name] = encoding
    if problems:
        raise UsageError(problems)
    return result


def _parse(data: bytes) -> Mapping[str, Any]:
    if len(data) > MAX_FILE_BYTES:
        raise _not_encodings(f"more than {MAX_FILE_BYTES} bytes")
    try:
        content = json.loads(data, object_pairs_hook=_keyed_once)
    except (ValueError, RecursionError) as error:
        raise _not_encodings(str(error)[:200]) from error
    if not isinstance(content, dict):
        raise _not_encodings(f"a {type(content).__name__} at the top")
    return content


def _keyed_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the pairs as a dictionary, which would keep the last of equal keys without a word."""
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"{', '.join(map(repr, repeated))} more than once in one object")
    return dict(pairs)


def _not_encodings(found: str) -> UsageError:
    return UsageError(Problem("encodings file", found, "JSON as AIMET writes it", "check the file"))


def _legacy(content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    both = (content.get("activation_encodings", {}), content.get("param_encodings", {}))
    return [(str(name), entry) for part in both if isinstance(part, dict) for name, entry in part.items()]


def _listed(content: Mapping[str, Any], version: str) -> list[tuple[str, Any]]:
    if version not in _READERS:
        expected = ", ".join([*sorted(_LEGACY_VERSIONS), "1.0.0", "2.0.0"])
        found = f"version {version[:32]!r}"
        raise UsageError(Problem("encodings file", found, expected, "export the encodings in a known version"))
    parts = (content.get(key, []) for key in ("encodings", "activation_encodings", "param_encodings"))
    entries = [entry for part in parts if isinstance(part, list) for entry in part]
    return [(str(entry.get("name", "")), entry) for entry in entries if isinstance(entry, dict)]


def _check_named_once(entries: list[tuple[str, Any]]) -> None:
    counts = Counter(name for name, _ in entries)
    problems = [
        Problem(f"encoding of {name!r}", f"{count} entries", "one entry per tensor", "keep the one that holds")
        for name, count in counts.items()
        if count > 1
    ]
    if problems:
        raise UsageError(problems)


def _read_legacy(entry: Any) -> Encoding | None:
    channels = entry if isinstance(entry, list) else [entry]
    first = channels[0]
    if str(first.get("dtype", "int")).lower() == "float":
        return None
    symmetric = str(first.get("is_symmetric", "False")).lower() == "true"
    offsets = [int(channel["offset"]) for channel in channels]
    return _unsigned_grid([channel["scale"] for channel in channels], offsets, int(first["bitwidth"]), symmetric)


def _read_1_0_0(entry: Any) -> Encoding | None:
    if str(entry.get("dtype", "INT")).upper() == "FLOAT":
        return None
    if str(entry.get("enc_type", "PER_TENSOR")) not in ("PER_TENSOR", "PER_CHANNEL"):
        raise ValueError(f"enc_type {entry['enc_type']}; quantize per tensor or per channel")
    if any(entry.get("zero_point_shift", [])):
        raise ValueError("a fractional zero point")
    offsets = [int(offset) for offset in entry["offset"]]
    return _unsigned_grid(entry["scale"], offsets, int(entry["bw"]), bool(entry.get("is_sym", False)))


def _read_2_0_0(entry: Any) -> Encoding | None:
    if entry.get("block_size") or "per_block_int_scale" in entry:
        raise ValueError("block-wise scales; quantize per tensor or per channel")
    kind = str(entry["output_dtype"])
    if kind.startswith(("float", "bfloat")):
        return None
    scales = np.atleast_1d(np.asarray(entry["y_scale"], np.float64))
    zero = entry.get("y_zero_point")
    offsets = np.zeros(scales.shape, np.int64) if zero is None else np.atleast_1d(np.asarray(zero, np.int64))
    return Encoding(tuple(scales.tolist()), tuple(offsets.tolist()), _named_range(kind), entry.get("axis"))


def _named_range(kind: str) -> IntRange:
    """The range of intN or uintN for any N."""
    signed = not kind.startswith("u")
    bits = int(kind.removeprefix("u").removeprefix("int"))
    if not 1 <= bits <= _MAX_BITS:
        raise ValueError(f"output_dtype {kind}")
    return IntRange.of(bits, signed=signed)


_READERS: Mapping[str, Callable[[Any], Encoding | None]] = {
    "legacy": _read_legacy,
    "1.0.0": _read_1_0_0,
    "2.0.0": _read_2_0_0,
}


def _unsigned_grid(scales: list[float], offsets: list[int], bits: int, symmetric: bool) -> Encoding:
    if not 1 <= bits <= _MAX_BITS or len(scales) != len(offsets) or not scales:
        raise ValueError(f"bit width {bits} with {len(scales)} scales and {len(offsets)} offsets")
    half = 2 ** (bits - 1)
    values = tuple(float(scale) for scale in scales)
    if symmetric and set(offsets) <= {-half, 1 - half}:
        # Strictly symmetric encodings drop the lowest code.
        codes = IntRange.of(bits, narrow=set(offsets) == {1 - half})
        return Encoding(values, (0,) * len(scales), codes)
    zeros = tuple(-int(offset) for offset in np.asarray(offsets, np.int64))
    return Encoding(values, zeros, IntRange.of(bits, signed=False))
