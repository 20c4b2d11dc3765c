"""What the file says about itself: kwsq's JSON and the oldest runtime that can run it.

The entry `kwsq` is one JSON object, compact because it is flash:
    format        1
    kwsq, source  version of kwsq, SHA-256 of the source model
    bits          tensor index -> declared width, where it is not the width of the int8 or int32 container
    levels        tensor index -> codebook levels
    source_scale  tensor index -> annotated weight scales, where folding changed them, little-endian float32 in base64
    further keys  the remarks of the conversion
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from kwsq.ir.lowered import DType, LoweredTensor
from kwsq.ir.quant import FloatArray
from kwsq.targets.base import TargetOptions
from kwsq.targets.neon.program import OperatorRecord

KWSQ_ENTRY = "kwsq"
RUNTIME_ENTRY = "min_runtime_version"
_RUNTIME_BYTES = 16
_CONTAINER_BITS = {DType.INT8: 8, DType.INT32: 32}


def metadata(
    tensors: Sequence[LoweredTensor | None], operators: Iterable[OperatorRecord], options: TargetOptions
) -> dict[str, bytes]:
    """Returns entry name -> contents.

    Args:
        tensors: the graph's tensor at every index of the file, None for operands kwsq added.
        operators: the file's operators.
        options: version, source and remarks.
    """
    text = json.dumps(_facts(tensors, options), separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return {KWSQ_ENTRY: text.encode(), RUNTIME_ENTRY: minimum_runtime(operators)}


def _facts(tensors: Sequence[LoweredTensor | None], options: TargetOptions) -> dict[str, object]:
    indexed = [(str(i), tensor) for i, tensor in enumerate(tensors) if tensor is not None]
    facts: dict[str, object] = {
        **options.remarks,
        "format": 1,
        "kwsq": options.version,
        "source": options.source_sha256,
    }
    found: Mapping[str, Mapping[str, object]] = {
        "bits": {i: t.bits for i, t in indexed if t.bits != _CONTAINER_BITS.get(t.dtype, t.bits)},
        "levels": {i: t.levels.tolist() for i, t in indexed if t.levels is not None},
        "source_scale": {i: _base64(t.source_scale) for i, t in indexed if _was_folded(t)},
    }
    return {**facts, **{key: value for key, value in found.items() if value}}


def _was_folded(tensor: LoweredTensor) -> bool:
    if tensor.source_scale is None or tensor.scale is None:
        return False
    return not np.array_equal(tensor.source_scale, tensor.scale)


def _base64(scale: FloatArray | None) -> str:
    return base64.b64encode(np.asarray(scale, "<f4").tobytes()).decode()


def minimum_runtime(operators: Iterable[OperatorRecord]) -> bytes:
    """Returns the release that first had every operator at its version, as the 16 bytes TFLite tools expect."""
    newest = max((operator.runtime for operator in operators), key=_release, default="1.5.0")
    return newest.encode().ljust(_RUNTIME_BYTES, b"\0")


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
