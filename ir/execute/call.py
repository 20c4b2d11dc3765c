"""An operator of the integer executor with the tensors and arrays it is applied to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kwsq.ir.lowered import LoweredOp, LoweredTensor, Pads, Pair
from kwsq.ir.numerics import Grid, Window, activation_range
from kwsq.ir.ops import Activation

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One node about to be executed.

    Args:
        op: operator with its attributes.
        inputs, outputs: tensors, absent optional inputs left out.
        arrays: contents of the inputs.
    """

    op: LoweredOp
    inputs: tuple[LoweredTensor, ...]
    outputs: tuple[LoweredTensor, ...]
    arrays: tuple[npt.NDArray[Any], ...]

    @property
    def output(self) -> LoweredTensor:
        """The first output."""
        return self.outputs[0]

    @property
    def source(self) -> Grid:
        """Grid of the first input."""
        return grid(self.inputs[0])

    @property
    def target(self) -> Grid:
        """Grid of the first output."""
        return grid(self.outputs[0])

    def codes(self, position: int = 0) -> Int8Array:
        """Returns the int8 codes of an input."""
        return cast(Int8Array, self.arrays[position])

    @property
    def bias(self) -> Int32Array | None:
        """The third input, None where there is none."""
        return cast(Int32Array, self.arrays[2]) if len(self.arrays) > 2 else None

    def window(self, stride: Pair, dilation: Pair, pads: Pads) -> Window:
        """Returns where a window slides to make the output's height and width."""
        _, height, width, _ = self.output.shape
        return Window((height, width), stride, dilation, (pads[0][0], pads[1][0]))

    def bounds(self, activation: Activation) -> tuple[int, int]:
        """Returns the output codes between which `activation` clamps."""
        low, high = (None if np.isinf(bound) else bound for bound in activation.bounds)
        return activation_range(low, high, scale=self.target.scale, zero_point=self.target.zero_point)


def grid(tensor: LoweredTensor) -> Grid:
    """Returns the per-tensor grid of a quantised tensor."""
    assert tensor.scale is not None, f"{tensor.name} has no grid"
    return Grid(float(tensor.scale[0]), tensor.zero_point)
