"""All cases by name."""

from __future__ import annotations

from operator_cases.case import Case
from operator_cases.elementwise import ACTIVATIONS, ELEMENTWISE, MULTIPLE, NORMS
from operator_cases.layers import CONVOLUTIONS, DENSE
from operator_cases.movement import MOVEMENT
from operator_cases.pooling import POOLING

CASES: dict[str, Case] = {
    **CONVOLUTIONS,
    **DENSE,
    **ELEMENTWISE,
    **ACTIVATIONS,
    **MOVEMENT,
    **POOLING,
    **NORMS,
    **MULTIPLE,
}
