"""What a case is: a small float model around an operator, in ONNX's textual syntax (see `qdq_models`).

Graph inputs named x* and s* are data, the others parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        text: signature and body.
        opset: version of the default domain.
        constants: values of parameters that are not drawn at random.
        lsb: distance allowed between the integer graph and onnxruntime, in steps of the output. 1 is two roundings of
            one real number. More where the model rounds inside: one step of an inner tensor is s_inner / s_output
            steps of the output, times the gain of what lies between (a Relu halves the range, so 2; a batch norm
            of gain 2 doubles that).
        skip: tensors that get no quantiser of their own.
    """

    text: str
    opset: int = 17
    constants: dict[str, Any] = field(default_factory=dict)
    lsb: int = 1
    skip: tuple[str, ...] = ()
