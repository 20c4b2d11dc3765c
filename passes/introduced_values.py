"""Values an operator that shares one grid with its inputs adds to them: constants, fill values, clamp bounds.

Such a value must lie on the shared grid; where it does not, the inputs move to a grid that holds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kwsq.ir.graph import Node, Tensor
from kwsq.ir.ops import Clip, Concat, Maximum, Minimum, Pad
from kwsq.ir.quant import Affine, FloatArray
from kwsq.passes.fuse_activation import grid_bounds

Bounds = tuple[float, float]
NOTHING: Bounds = (math.inf, -math.inf)


def introduced_bounds(node: Node, tensors: Mapping[str, Tensor]) -> Bounds:
    """Returns the smallest and the largest real value the node adds to its computed inputs; `NOTHING` for none.

    Args:
        node: operator on one grid.
        tensors: constants by name.
    """
    constants = [tensors[name].real() for name in node.inputs if name and tensors[name].is_constant]
    match node.op:
        case Concat():
            return (min((float(c.min()) for c in constants), default=math.inf), _largest(constants))
        case Maximum():
            # A constant below the grid never wins.
            return (math.inf, _largest(constants))
        case Minimum():
            return (min((float(c.min()) for c in constants), default=math.inf), -math.inf)
        case Pad(value=value) if value != 0.0:
            return (value, value)
        case Clip(low=low, high=high):
            # The upper bound is a value of its own only where the input lies above it, and the other way round.
            return (high if math.isfinite(high) else math.inf, low if math.isfinite(low) else -math.inf)
    return NOTHING


def holds(spec: Affine, bounds: Bounds) -> bool:
    """Returns whether the values round to codes of the grid: within half a step of its ends.

    >>> from kwsq.ir.quant import INT8
    >>> spec = Affine.per_tensor(0.1, 0, INT8)
    >>> holds(spec, (-1.0, 12.7)), holds(spec, (0.0, 13.0)), holds(spec, NOTHING)
    (True, False, True)
    """
    low, high = grid_bounds(spec)
    half = float(spec.scale[0]) / 2
    return bounds[0] >= low - half and bounds[1] <= high + half


def _largest(constants: Sequence[FloatArray]) -> float:
    return max((float(c.max()) for c in constants), default=-math.inf)
