"""What a `.tflite` file says, as plain records: tensors by index, operators with their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kwsq.ir.quant import FloatArray
from kwsq.targets.neon.schema import Field

Shape = tuple[int, ...]
Value = float | npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class TensorRecord:
    """A tensor of the file.

    Args:
        name: empty for the operands kwsq adds (axes, paddings) and for stripped names.
        type: name in the schema's TensorType.
        data: contents of a constant, None for an activation.
        scale: (1,) or (C,) float32, None without quantisation.
        zero_point: shared by all channels.
    """

    shape: Shape
    type: str
    name: str = ""
    data: bytes | None = None
    scale: FloatArray | None = None
    zero_point: int = 0
    quantized_dimension: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """An operator's options table.

    Args:
        union_code: number of the table in the schema's BuiltinOptions, 0 for an operator without one.
        fields: values; arrays become int32 vectors.
    """

    union_code: int = 0
    fields: Mapping[Field, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class OperatorRecord:
    """An operator of the file.

    Args:
        builtin: name in the schema's BuiltinOperator, or "CUSTOM:name".
        version: version of the operator's meaning that its operands need.
        inputs, outputs: tensor indices.
        runtime: first TensorFlow Lite release with that version.
    """

    builtin: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Options
    runtime: str


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """The file.

    Args:
        inputs, outputs: tensor indices.
        metadata: name -> contents.
        description: free text of the file.
    """

    tensors: tuple[TensorRecord, ...]
    operators: tuple[OperatorRecord, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    metadata: Mapping[str, bytes]
    description: str = ""
