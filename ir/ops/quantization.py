"""The canonical quantiser every dialect is rewritten to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kwsq.ir.quant import Affine, FloatArray, Rounding, fake_quantize

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FakeQuant:
    """Rounds a real tensor onto the grid of `spec`; the clamp of the grid is part of the model.

    Args:
        spec: grid, per tensor for activations.
        rounding: order and direction of the rounding.
        dialect: which dialect it came from, for the report.
    """

    spec: Affine
    rounding: Rounding = Rounding.HALF_EVEN
    dialect: str = ""
    name: ClassVar[str] = "FakeQuant"

    def infer(self, x: Shape) -> tuple[Shape, ...]:
        """Returns the input shape."""
        return (x,)

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the values on the grid."""
        return (fake_quantize(x, self.spec, self.rounding),)
