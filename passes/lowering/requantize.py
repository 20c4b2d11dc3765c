"""Changes of grid with one accurate rounding.

The runtime's QUANTIZE (and its stand-alone rectifiers) multiply an 8-bit code by a fixed-point ratio and round twice
when the ratio is below one half: up to 0.75 output codes of error, a systematic shift of a quarter. ADD works with 20
more bits, so x + 0 changes the grid with a single rounding. All 256 codes are tried, and the cheaper operator is used
unless it errs by more than a rounding may.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kwsq.ir import lowered as low
from kwsq.ir.graph import Node
from kwsq.ir.lowered import DType, LoweredOp
from kwsq.ir.numerics import (
    Grid,
    KernelRangeError,
    activation_range,
    add,
    derive_add,
    derive_requantize,
    relu_table,
    requantize_table,
)
from kwsq.ir.ops import Activation
from kwsq.passes.lowering.context import LoweringContext, int8_grid
from kwsq.passes.lowering.forms import Form

CODES = np.arange(-128, 128, dtype=np.int16).astype(np.int8)
ROUNDING_BOUND = 0.5 + 2.0**-7
"""Largest error of one rounding, with room for the ratio's own 31-bit rounding over 255 codes."""


def grid_error(table: npt.NDArray[np.int8], source: Grid, target: Grid, activation: Activation) -> float:
    """Returns the largest distance, in output codes, of a 256-entry change of grid from the real one.

    Args:
        table: (256,) output codes for input codes -128..127.
        source: grid of the input codes.
        target: grid of the output codes.
        activation: clamp in between.
    """
    low_real, high_real = activation.bounds
    real = np.clip((CODES.astype(np.float64) - source.zero_point) * source.scale, low_real, high_real)
    ideal = np.clip(real / target.scale + target.zero_point, -128, 127)
    return float(np.abs(table.astype(np.float64) - ideal).max())


def lower_change_of_grid(ctx: LoweringContext, node: Node, activation: Activation = Activation.NONE) -> None:
    """Lowers a requantisation, with a clamp or without.

    Args:
        ctx: graph under construction.
        node: FakeQuant left by attach_scales, or Relu / Clip between two grids.
        activation: clamp.
    """
    form = ctx.form(node.inputs[0])
    stored = ctx.get(node.inputs[0], form)
    source, target = (_grid(ctx, name) for name in (node.inputs[0], node.outputs[0]))
    plain, table = _plain(source, target, activation)
    if grid_error(table, source, target, activation) <= ROUNDING_BOUND or not _adds_exactly(source, target, activation):
        ctx.emit(node, lambda _: plain, [stored], form, fuses=False)
        return
    _emit_add(ctx, node, stored, form, activation)


def _grid(ctx: LoweringContext, name: str) -> Grid:
    grid = int8_grid(ctx.spec(name))
    return Grid(float(grid.scale), grid.zero_point)


def _plain(source: Grid, target: Grid, activation: Activation) -> tuple[LoweredOp, npt.NDArray[np.int8]]:
    if activation is Activation.NONE:
        return low.Quantize(), requantize_table(derive_requantize(source, target))
    real_low, real_high = (None if np.isinf(bound) else bound for bound in activation.bounds)
    return low.Rectify(activation), relu_table(source, target, low=real_low, high=real_high)


def _codes(target: Grid, activation: Activation) -> tuple[int, int]:
    real_low, real_high = (None if np.isinf(bound) else bound for bound in activation.bounds)
    return activation_range(real_low, real_high, scale=target.scale, zero_point=target.zero_point)


def _adds_exactly(source: Grid, target: Grid, activation: Activation) -> bool:
    bounds = _codes(target, activation)
    try:
        params = derive_add(source, Grid(source.scale, 0), target, low=bounds[0], high=bounds[1])
    except KernelRangeError:
        return False  # the ratio of the scales is out of ADD's range
    table = add(CODES, np.zeros(1, np.int8), params)
    return grid_error(table, source, target, activation) <= ROUNDING_BOUND


def _emit_add(ctx: LoweringContext, node: Node, stored: str, form: Form, activation: Activation) -> None:
    rank = len(ctx.tensors[stored].shape)
    scale = ctx.tensors[stored].scale
    zero = ctx.constant(f"{node.name}/zero", np.zeros((1,) * rank), DType.INT8, scale, 0)
    ctx.note(node.name, "changes grid by adding 0: the runtime's own requantisation would round twice")
    ctx.emit(node, low.Add, [stored, zero], form, activation=activation)
