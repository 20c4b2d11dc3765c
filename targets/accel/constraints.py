"""What a packed accelerator model demands of a node beyond the integer machine's rules."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kwsq.ir.lowered import LoweredGraph, LoweredNode
from kwsq.targets.accel.build import coding_of
from kwsq.targets.base import Constraint


def constraint_width(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """Weight codes fit the width declared for them, 1 to 8 bits, or are among the levels of their codebook."""
    weight = graph[node.inputs[1]]
    if weight.data is None or (1 <= weight.bits <= 8 and coding_of(weight) is not None):
        return None
    codes = np.asarray(weight.data)
    return f"codes from {codes.min()} to {codes.max()} of {weight.name}, declared {weight.bits} bits wide"


WIDTHS: Mapping[Constraint, str] = {
    constraint_width: "declare the width the codes need, or train them on the narrow symmetric grid of this width, "
    "whose codes a negative batch norm gain can negate",
}
"""Rules of layers, each with its remedy."""
