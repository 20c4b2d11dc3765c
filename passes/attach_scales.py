"""Gives every activation exactly one grid.

1. A quantiser is merged into the tensor it rounds; a second quantiser of the same tensor stays as a requantisation.
2. Grids travel through operators that keep values (reshape, transpose, slice, split, pad, max pool, concat, states).
3. Where two grids meet in such an operator, the value is requantised.
4. Softmax, Sigmoid and Tanh have the runtime's fixed output grids, requantised to the annotated one.
5. What is left (logits, means) gets a grid of its own from observed values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from kwsq.ir.graph import Graph, Node, StatePair
from kwsq.ir.ops import (
    AveragePool,
    Clip,
    Concat,
    FakeQuant,
    LeakyRelu,
    Maximum,
    MaxPool,
    Minimum,
    Pad,
    ReduceMax,
    Relu,
    Reshape,
    Rsqrt,
    Sigmoid,
    Slice,
    Softmax,
    Split,
    Tanh,
    Transpose,
)
from kwsq.ir.quant import INT8, Affine
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Level, Note, PassResult, Semantics
from kwsq.passes.fuse_activation import grid_bounds
from kwsq.passes.introduced_values import NOTHING, Bounds, holds, introduced_bounds
from kwsq.passes.observe import Observer, affine_from_range, union_grid
from kwsq.passes.rectifier_grid import rectifier_input_grid
from kwsq.passes.separate_grids import covers_all, quantizers_by_source

KEEPS_GRID = (
    Reshape,
    Transpose,
    Slice,
    Split,
    Pad,
    MaxPool,
    ReduceMax,
    Concat,
    Relu,
    Clip,
    Maximum,
    Minimum,
)
"""Operators whose activation inputs and outputs share one grid in the integer runtime."""


def keeps_grid(node: Node) -> bool:
    """Returns whether the node's activation inputs and outputs share one grid.

    An average pool is free to change it (see its lowering) unless it leaves its padding out of the mean.
    """
    if isinstance(node.op, AveragePool):
        return any(sum(pad) for pad in node.op.pads) and not node.op.count_include_pad
    return isinstance(node.op, KEEPS_GRID)


PROBABILITY = Affine.per_tensor(1 / 256, -128, INT8)
SIGNED_UNIT = Affine.per_tensor(1 / 128, 0, INT8)
FIXED_GRIDS: dict[type, Affine] = {Softmax: PROBABILITY, Sigmoid: PROBABILITY, Tanh: SIGNED_UNIT}
"""Output grids the runtime's kernels insist on. Source: TFLite 8-bit quantisation specification."""


@dataclass(frozen=True, slots=True, eq=False)
class AttachScales:
    """See the module docstring.

    Args:
        observer: observed ranges of the graph this pass runs on.
        observed_on: what the ranges come from, for the notes ("calibration data", "256 seeded inputs").
        warn: whether grids from observed values deserve a warning.
        margin: widens observed ranges by this part of their width at both ends; an end at 0 stays.
    """

    observer: Observer
    observed_on: str
    warn: bool = True
    margin: float = 0.0
    name: ClassVar[str] = "attach_scales"
    requires: ClassVar[frozenset[str]] = frozenset({"grids_separated"})
    establishes: ClassVar[frozenset[str]] = frozenset({"scales_attached"})
    semantics: ClassVar[Semantics] = Semantics.CHANGES_GRID

    def run(self, graph: Graph) -> PassResult:
        """Returns the graph in which every activation tensor carries an Affine grid."""
        work = _Work(Rewriter(graph), self)
        work.merge_quantizers(graph)
        work.fix_kernel_grids()
        work.settle()
        work.requantize_conflicts()
        return PassResult(work.rewriter.finish(*self.establishes), True, tuple(work.notes))


class _Work:
    """The graph under construction and the grids decided so far."""

    def __init__(self, rewriter: Rewriter, options: AttachScales) -> None:
        self.rewriter = rewriter
        self.options = options
        self.notes: list[Note] = []

    def spec(self, name: str) -> Affine | None:
        quant = self.rewriter.tensors[name].quant
        return quant if isinstance(quant, Affine) else None

    def assign(self, name: str, spec: Affine) -> None:
        self.rewriter.update_tensor(name, quant=spec)

    # -- step 1 -----------------------------------------------------------------------------------------------------
    def merge_quantizers(self, graph: Graph) -> None:
        for node in _most_useful_first(graph):
            assert isinstance(node.op, FakeQuant)
            self._merge(self.rewriter.nodes[node.name], node.op)

    def _merge(self, node: Node, op: FakeQuant) -> None:
        source, target = node.inputs[0], node.outputs[0]
        known = self.spec(source)
        if known is not None and known.same_as(op.spec) and self.rewriter.can_bypass(node.name):
            self.rewriter.bypass(node.name)  # rounding to the same grid twice is rounding once
            return
        others = [n for n in self.rewriter.nodes.values() if source in n.inputs and n.name != node.name]
        readers = [n for n in others if not isinstance(n.op, FakeQuant)]
        taken = self.spec(source) is not None or (source in self.rewriter.outputs and target in self.rewriter.outputs)
        if taken or not self.rewriter.can_bypass(node.name) or not self._covers(op.spec, source, bool(readers)):
            self.assign(target, op.spec)
            self._note_second_grid(source, known, op.spec)
            return
        if readers:
            text = f"also read without its quantiser by {readers[0].name}; it reads the quantised value"
            self.notes.append(Note(self.options.name, source, text, Level.WARNING))
        self.assign(source, op.spec)
        self.rewriter.bypass(node.name)
        if target in self.rewriter.tensors:
            self.assign(target, op.spec)

    def _note_second_grid(self, source: str, known: Affine | None, spec: Affine) -> None:
        if known is None or known.same_as(spec):
            return
        coarse = float(known.scale[0]) > float(spec.scale[0])
        text = f"has two grids: stored on scale {float(known.scale[0]):.6g}, then on {float(spec.scale[0]):.6g}"
        self.notes.append(Note(self.options.name, source, text, Level.WARNING if coarse else Level.INFO))

    def _covers(self, spec: Affine, name: str, has_readers: bool) -> bool:
        """A reader that bypasses the quantiser must not be clipped by it."""
        if not has_readers and name not in self.rewriter.outputs:
            return True
        low, high = self.options.observer.ranges([name])[name]
        step = float(spec.scale[0])
        bounds = grid_bounds(spec)
        return bounds[0] - step <= low and high <= bounds[1] + step

    # -- step 4 -----------------------------------------------------------------------------------------------------
    def fix_kernel_grids(self) -> None:
        for node in list(self.rewriter.nodes.values()):
            fixed = FIXED_GRIDS.get(type(node.op))
            if fixed is None:
                continue
            output = node.outputs[0]
            annotated = self.spec(output)
            if annotated is None:
                self.assign(output, fixed)
            elif not annotated.same_as(fixed):
                self._requantize_output(node, output, fixed)

    def _requantize_output(self, node: Node, output: str, raw_spec: Affine) -> str:
        """Lets `node` write a raw tensor on `raw_spec`, converts it to the grid `output` has, and returns its name."""
        spec = self.spec(output)
        assert spec is not None
        raw = self.rewriter.fresh(f"{output}/raw")
        self.rewriter.tensors[raw] = replace(self.rewriter.tensors[output], name=raw, quant=raw_spec)
        outputs = tuple(raw if name == output else name for name in node.outputs)
        self.rewriter.update_node(node.name, outputs=outputs)
        self.rewriter.add_node(f"{node.name}/requantize", FakeQuant(spec), [raw], outputs=[output], source=node.source)
        self.notes.append(Note(self.options.name, node.name, f"output requantised to the grid of {output}"))
        return raw

    # -- steps 2 and 5 ----------------------------------------------------------------------------------------------
    def settle(self) -> None:
        """Propagates grids until nothing changes, then gives the first open group one, and again."""
        while True:
            # States first: what feeds a state knows its range, what it is concatenated with does not.
            while self._propagate_states() or self._propagate_forward() or self._propagate_backward():
                pass
            open_name = self._first_open()
            if open_name is None:
                return
            self._observe(open_name)

    def _first_open(self) -> str | None:
        order = [*self.rewriter.inputs, *(n for node in self.rewriter.nodes.values() for n in node.outputs)]
        return next((name for name in order if self.spec(name) is None), None)

    def _movers(self) -> Iterable[tuple[list[str], list[str], Bounds]]:
        for node in self.rewriter.nodes.values():
            if keeps_grid(node):
                inputs = [n for n in node.inputs if n and not self.rewriter.tensors[n].is_constant]
                yield inputs, list(node.outputs), introduced_bounds(node, self.rewriter.tensors)

    def _propagate_forward(self) -> bool:
        changed = False
        for inputs, outputs, introduced in self._movers():
            known = [spec for spec in map(self.spec, inputs) if spec is not None]
            opened = [name for name in outputs if self.spec(name) is None]
            # An input whose range is still open may be wider than the others.
            complete = bool(known) and len(known) == len(inputs)
            if complete and opened and holds(_widest(known), introduced):
                for name in opened:
                    self.assign(name, _widest(known))
                changed = True
        return changed

    def _propagate_backward(self) -> bool:
        changed = False
        for inputs, outputs, _ in self._movers():
            known = next((spec for spec in map(self.spec, outputs) if spec is not None), None)
            for name in inputs:
                if known is not None and self.spec(name) is None and self._covers(known, name, self._is_shared(name)):
                    self.assign(name, known)
                    changed = True
        return changed

    def _is_shared(self, name: str) -> bool:
        return sum(name in node.inputs for node in self.rewriter.nodes.values()) > 1

    def _propagate_states(self) -> bool:
        changed = False
        for pair in self.rewriter.states:
            source, target = self.spec(pair.input), self.spec(pair.output)
            if source is None and target is not None:
                self.assign(pair.input, target)
                changed = True
            elif target is None and source is not None:
                self._note_saturation(pair, source)
                self.assign(pair.output, source)
                changed = True
        return changed

    def _note_saturation(self, pair: StatePair, spec: Affine) -> None:
        """The input of the next step would cut the state anyway; an output that is none would be cut unseen."""
        if not self._covers(spec, pair.output, has_readers=True):
            low, high = self.options.observer.ranges([pair.output])[pair.output]
            text = f"[{low:.6g}, {high:.6g}] is cut to the grid of {pair.input!r}, the state it feeds (or --state none)"
            self.notes.append(Note(self.options.name, pair.output, text, Level.WARNING))

    def _observe(self, name: str) -> None:
        group = self._open_group(name)
        known = [n for n in group if n in self.options.observer.graph.tensors]
        ranges = self.options.observer.ranges(known)
        low, high = min(r[0] for r in ranges.values()), max(r[1] for r in ranges.values())
        low, high = min(low, 0.0), max(high, 0.0)
        beyond = self.options.margin * (high - low)
        low, high = low - beyond * (low < 0), high + beyond * (high > 0)
        rectified: Affine | None = None
        if group == [name]:
            high = min(high, self._largest_computed(name))
            rectified = self._rectified_grid(name, low, high)
        spec = rectified or affine_from_range(low, high)
        for member in group:
            self.assign(member, spec)
        text = f"no quantiser in the source: scale {float(spec.scale[0]):.6g} from {self.options.observed_on}"
        level = Level.WARNING if self.options.warn else Level.INFO
        self.notes.append(Note(self.options.name, name, text, level))

    def _largest_computed(self, name: str) -> float:
        """Returns how far the kernel that writes a tensor gets: a root's input of code 1 is the smallest above 0.

        A row that is constant for a layer norm has variance 0. Its inverse root says nothing, for all it is multiplied
        with is 0, but a grid that reached as far would leave those of all other rows a code or two.
        """
        producer = next((node for node in self.rewriter.nodes.values() if name in node.outputs), None)
        source = None if producer is None or not isinstance(producer.op, Rsqrt) else self.spec(producer.inputs[0])
        return math.inf if source is None else 1 / math.sqrt(float(source.scale[0]))

    def _rectified_grid(self, name: str, low: float, high: float) -> Affine | None:
        readers = [node for node in self.rewriter.nodes.values() if name in node.inputs]
        if len(readers) != 1 or name in self.rewriter.outputs or not isinstance(readers[0].op, LeakyRelu):
            return None
        output = self.spec(readers[0].outputs[0])
        return None if output is None else rectifier_input_grid(readers[0].op, output, low, high)

    def _open_group(self, name: str) -> list[str]:
        """Returns the tensors without a grid that must share one with `name`."""
        group, grown = [name], True
        while grown:
            grown = False
            links = [[*inputs, *outputs] for inputs, outputs, _ in self._movers()]
            links += [[pair.input, pair.output] for pair in self.rewriter.states]
            for members in links:
                if any(m in group for m in members):
                    fresh = [m for m in members if m not in group and self.spec(m) is None]
                    group += fresh
                    grown = grown or bool(fresh)
        return group

    # -- step 3 -----------------------------------------------------------------------------------------------------
    def requantize_conflicts(self) -> None:
        for node in list(self.rewriter.nodes.values()):
            # An average pool between two annotated grids has a lowering of its own.
            if keeps_grid(node) and not isinstance(node.op, AveragePool):
                self._requantize_node(self.rewriter.nodes[node.name])
        for pair in self.rewriter.states:
            self._requantize_state(pair.input, pair.output)

    def _requantize_node(self, node: Node) -> None:
        output = self.spec(node.outputs[0])
        assert output is not None
        inputs = [n for n in node.inputs if n and not self.rewriter.tensors[n].is_constant]
        source = self.spec(inputs[0])
        assert source is not None
        introduced = introduced_bounds(node, self.rewriter.tensors)
        # A bound or a constant may lie between two codes of the input's grid; only the output's is to round it.
        # Rounding commutes with all these operators, so the input changes its grid first.
        stays = introduced == NOTHING or _clamp_may_requantize(node)
        if len(inputs) == 1 and stays and holds(source, introduced):
            for name in node.outputs:
                spec = self.spec(name)
                if spec is not None and not spec.same_as(source) and not _clamp_may_requantize(node):
                    self._requantize_output(self.rewriter.nodes[node.name], name, source)
            return
        for name in inputs:
            spec = self.spec(name)
            if spec is not None and not spec.same_as(output):
                self._requantize_input(node.name, name, output)

    def _requantize_input(self, node_name: str, name: str, spec: Affine) -> None:
        new = self.rewriter.add_node(f"{node_name}/requantize", FakeQuant(spec), [name])[0]
        self.assign(new, spec)
        self.rewriter.replace_uses(name, new, only=[node_name])
        self.notes.append(Note(self.options.name, name, f"requantised to the grid of {node_name}'s output"))

    def _requantize_state(self, source: str, output: str) -> None:
        source_spec, spec = self.spec(source), self.spec(output)
        assert source_spec is not None
        assert spec is not None
        if source_spec.same_as(spec):
            return
        producer = next(n for n in self.rewriter.nodes.values() if output in n.outputs)
        readers = [node.name for node in self.rewriter.nodes.values() if output in node.inputs]
        self.assign(output, source_spec)
        raw = self._requantize_output(producer, output, spec)
        self.rewriter.replace_uses(output, raw, only=readers)  # they read the value on the grid it was annotated with


def _most_useful_first(graph: Graph) -> list[Node]:
    """Returns the quantisers in graph order, but of several on one tensor the best one to store it on first.

    That is the finest of those that clip no more than the others do; a second one rounds what the first one stored.
    """
    groups = quantizers_by_source(graph).values()
    return [node for group in groups for node in sorted(group, key=lambda n: _rank_as_storage(n, group))]


def _rank_as_storage(node: Node, group: list[Node]) -> tuple[bool, float]:
    specs = [n.op.spec for n in group if isinstance(n.op, FakeQuant)]
    assert isinstance(node.op, FakeQuant)
    spec = node.op.spec
    return (not covers_all(spec, specs), float(spec.scale[0]))


def _clamp_may_requantize(node: Node) -> bool:
    """The runtime's stand-alone rectifiers requantise in the same rounding."""
    return isinstance(node.op, Relu) or (isinstance(node.op, Clip) and (node.op.low, node.op.high) in ((0, 6), (-1, 1)))


def _widest(specs: list[Affine]) -> Affine:
    """Returns the grid that covers the others, or a new one over their union."""
    return specs[0] if all(spec.same_as(specs[0]) for spec in specs) else union_grid(specs)
