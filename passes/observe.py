"""Ranges of activations the source leaves without a quantiser, observed on data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kwsq.ir.errors import Problem, UnsupportedModelError
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph
from kwsq.ir.ops import FakeQuant
from kwsq.ir.quant import INT8, Affine, FloatArray
from kwsq.passes.fuse_activation import grid_bounds

SEEDED_SAMPLES = 256


def affine_from_range(low: float, high: float) -> Affine:
    """Returns the int8 grid that spans [low, high] and holds real 0 exactly, equation (37).

    >>> spec = affine_from_range(-1.0, 1.55)
    >>> round(float(spec.scale[0]), 4), int(spec.zero_point[0])
    (0.01, -28)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255.0)
    if not scale > np.finfo(np.float32).tiny:
        scale = np.float32(1.0 / 255.0)
    zero_point = int(np.clip(np.rint(-128 - low / float(scale)), -128, 127))
    return Affine.per_tensor(float(scale), zero_point, INT8)


def input_spec(graph: Graph, name: str) -> Affine | None:
    """Returns the grid of the quantisers a graph input meets through value-keeping operators, of several the union."""
    quant = graph[name].quant
    if isinstance(quant, Affine):
        return quant
    consumers, met = graph.consumers(), list[Affine]()
    queue = [name]
    while queue:
        for node in consumers[queue.pop(0)]:
            if isinstance(node.op, FakeQuant):
                met.append(node.op.spec)
            if node.op.name in ("Reshape", "Transpose", "Concat", "Slice"):
                queue += node.outputs
    return union_grid(met) if met else None


def union_grid(specs: Sequence[Affine]) -> Affine:
    """Returns the first grid that reaches as far as all, or else one over their union."""
    bounds = [grid_bounds(spec) for spec in specs]
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    covering = (s for s, b in zip(specs, bounds, strict=True) if b[0] <= low and b[1] >= high)
    return next(covering, None) or affine_from_range(low, high)


def seeded_inputs(graph: Graph, seed: int, samples: int = SEEDED_SAMPLES) -> dict[str, FloatArray]:
    """Returns random inputs spread over each input's grid: normal around its middle, a quarter range wide.

    Args:
        graph: float graph with quantisers.
        seed: of the generator.
        samples: number of vectors.
    """
    return _scaled_to_grids(graph, seed, samples, _white)


def spread_inputs(
    graph: Graph, seed: int, samples: int = SEEDED_SAMPLES, first: int | None = None
) -> dict[str, FloatArray]:
    """Returns random inputs that drive averages far too: half noise, half patterns that repeat along dimensions.

    Real features have whole frames and whole coefficients that are high together. White noise has not: a layer that
    averages it over time sees next to nothing, and a range observed on it would clip real values.

    Args:
        graph: float graph with quantisers.
        seed: of the generator.
        samples: number of vectors.
        first: how many of them are wanted; None for all.
    """
    halves = [_scaled_to_grids(graph, seed, samples - samples // 2, _white)]
    wanted = samples if first is None else first
    if wanted > samples - samples // 2:
        halves.append(_scaled_to_grids(graph, seed, samples // 2, _patterned))
    return {
        name: np.concatenate([half[name] for half in halves])[: wanted * graph[name].shape[0]]
        if graph[name].shape
        else x
        for name, x in halves[0].items()
    }


def _scaled_to_grids(
    graph: Graph, seed: int, samples: int, draw: Callable[[np.random.Generator, tuple[int, ...]], FloatArray]
) -> dict[str, FloatArray]:
    rng = np.random.default_rng(seed)
    arrays = {}
    for name in graph.inputs:
        shape = graph[name].shape
        spec = input_spec(graph, name)
        low, high = (-3.0, 3.0) if spec is None else grid_bounds(spec)
        values = draw(rng, (samples * shape[0], *shape[1:]) if shape else ())
        values *= np.float32((high - low) / 4)
        values += np.float32((low + high) / 2)
        arrays[name] = np.clip(values, np.float32(low), np.float32(high), out=values)
    return arrays


def _white(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    return np.asarray(rng.standard_normal(shape, np.float32))


def _patterned(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Returns values of variance 1 per sample: a random mixture of noise repeated along nothing, one or all axes."""
    axes = [axis for axis in range(1, len(shape)) if shape[axis] > 1]
    repeated: list[tuple[int, ...]] = [(), *((axis,) for axis in axes), tuple(axes)]
    weights = np.sqrt(rng.dirichlet(np.ones(len(repeated)), shape[:1]).astype(np.float32))
    values = np.zeros(shape, np.float32)
    for i, along in enumerate(repeated):
        part = rng.standard_normal([1 if axis in along else size for axis, size in enumerate(shape)], np.float32)
        values += part * weights[:, i].reshape(-1, *[1] * (len(shape) - 1))
    return values


@dataclass(slots=True, eq=False)
class Observer:
    """Minimum and maximum of tensors of one graph on one data set; the graph runs once, when first asked."""

    graph: Graph
    inputs: Mapping[str, FloatArray]
    _ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def ranges(self, names: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Returns (min, max) of the tensors.

        Raises:
            UnsupportedModelError: naming every tensor that is infinite or undefined on the data.
        """
        missing = [name for name in names if name not in self._ranges]
        if missing:
            values = run_float(self.graph, self.inputs, keep=missing)
            for name in missing:
                self._ranges[name] = (float(values[name].min()), float(values[name].max()))
            _check_finite({name: self._ranges[name] for name in missing})
        return {name: self._ranges[name] for name in names}


def _check_finite(ranges: Mapping[str, tuple[float, float]]) -> None:
    problems = [
        Problem(
            f"tensor {name!r}", f"values in [{low}, {high}]", "finite values", "guard the operator that computes it"
        )
        for name, (low, high) in ranges.items()
        if not (np.isfinite(low) and np.isfinite(high))
    ]
    if problems:
        raise UnsupportedModelError(problems)


def carry_states(graph: Graph, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Returns the inputs with the streaming states that are missing from them.

    The vectors are taken as consecutive steps of one stream: states start at zero and every step's state outputs feed
    the next step.

    Args:
        graph: float graph with states.
        inputs: arrays (steps * batch, ...) for the inputs that are not states.
    """
    missing = [pair for pair in graph.states if pair.input not in inputs]
    if not missing:
        return dict(inputs)
    first = next(name for name in graph.inputs if name in inputs)
    batch = graph[first].shape[0]
    state = {pair.input: np.zeros(graph[pair.input].shape, np.float32) for pair in missing}
    history: dict[str, list[FloatArray]] = {name: [] for name in state}
    for step in range(len(inputs[first]) // batch):
        now = {name: array[step * batch : (step + 1) * batch] for name, array in inputs.items()}
        for name, value in state.items():
            history[name].append(value)
        values = run_float(graph, {**now, **state})
        state = {pair.input: values[pair.output] for pair in missing}
    return {**inputs, **{name: np.concatenate(steps) for name, steps in history.items()}}
