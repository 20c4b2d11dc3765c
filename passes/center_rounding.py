"""Rewrites activation quantisers that floor or ceil as quantisers that round.

    floor(u) = round(u - 1/2),   ceil(u) = round(u + 1/2)          but at whole numbers u

The integer kernels only round. The half step becomes a constant added before the quantiser, which the passes after
this one fold into a bias. Whole numbers are ties of the shifted rounding; a shift smaller by MARGIN decides them as
floor and ceil do, and moves by one code only values less than MARGIN of a step from the next one.

Rounding away from or towards zero (UP, DOWN) is ceil or floor on a grid without negative values, else it is refused.
A quantiser that reads a graph input describes how the caller makes its codes, and stays.
Source: our reconstruction; the modes are those of QONNX Quant and Trunc.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from kwsq.ir.errors import Problem, UnsupportedModelError
from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import Add, FakeQuant
from kwsq.ir.quant import Rounding
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Note, PassResult, Semantics

MARGIN = 2.0**-8
_SHIFTS = {Rounding.FLOOR: -0.5 + MARGIN, Rounding.CEIL: 0.5 - MARGIN}
_ONE_SIDED = {Rounding.UP: Rounding.CEIL, Rounding.DOWN: Rounding.FLOOR}


class CenterRounding:
    """See the module docstring."""

    __slots__ = ()
    name: ClassVar[str] = "center_rounding"
    requires: ClassVar[frozenset[str]] = frozenset({"imported"})
    establishes: ClassVar[frozenset[str]] = frozenset({"rounding_centred"})
    semantics: ClassVar[Semantics] = Semantics.CHANGES_GRID

    def run(self, graph: Graph) -> PassResult:
        """Returns the graph whose quantisers round to the nearest code.

        Raises:
            UnsupportedModelError: naming every quantiser that rounds signed values away from or towards zero.
        """
        rewriter = Rewriter(graph)
        notes: list[Note] = []
        problems: list[Problem] = []
        for node in graph.nodes:
            mode = _mode(node)
            if mode in _ONE_SIDED:
                problems.append(_refusal(node, mode))
            elif mode in _SHIFTS:
                notes.append(self._centre(rewriter, node, mode))
        if problems:
            raise UnsupportedModelError(problems)
        return PassResult(rewriter.finish(*self.establishes), rewriter.changed, tuple(notes))

    def _centre(self, rewriter: Rewriter, node: Node, mode: Rounding) -> Note:
        source = node.inputs[0]
        if source in rewriter.inputs:
            return Note(self.name, node.name, f"left: the caller makes the codes of {source!r}, rounding {mode.value}")
        assert isinstance(node.op, FakeQuant)
        shift = np.array(_SHIFTS[mode] * float(node.op.spec.scale[0]), np.float32)
        constant = rewriter.add_constant(f"{node.name}/half_step", shift)
        shifted = rewriter.add_node(f"{node.name}/shift", Add(), [source, constant], source=node.source)[0]
        rewriter.update_node(node.name, op=replace(node.op, rounding=Rounding.HALF_EVEN), inputs=(shifted,))
        return Note(self.name, node.name, f"rounding {mode.value} replaced by half a step before rounding to nearest")


def _mode(node: Node) -> Rounding:
    """Returns the rounding of a quantiser, the equivalent one on a grid without negative values."""
    if not isinstance(node.op, FakeQuant):
        return Rounding.HALF_EVEN
    spec, mode = node.op.spec, node.op.rounding
    return _ONE_SIDED.get(mode, mode) if spec.range.low >= int(spec.zero_point[0]) else mode


def _refusal(node: Node, mode: Rounding) -> Problem:
    return Problem(
        node.name,
        f"activations rounded {mode.value} on a grid with negative values",
        "rounding to nearest, floor or ceil",
        "train with rounding_mode ROUND",
        node.source,
    )
