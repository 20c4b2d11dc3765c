"""The pipeline: every pass between the source and the integer graph, in one literal tuple with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kwsq.ir.errors import InternalError, Problem, UsageError
from kwsq.ir.graph import Graph
from kwsq.ir.lowered import LoweredGraph
from kwsq.ir.ops import Conv, Dense, FakeQuant
from kwsq.ir.quant import FloatArray, Unquantized
from kwsq.passes.attach_scales import AttachScales
from kwsq.passes.base import Level, Note, Pass
from kwsq.passes.center_rounding import CenterRounding
from kwsq.passes.drop_softmax import DropSoftmax
from kwsq.passes.feed_bias_error import feed_bias_error
from kwsq.passes.fold_batchnorm import FoldBatchNorm
from kwsq.passes.fold_gain import FoldGain
from kwsq.passes.fuse_activation import FuseActivation
from kwsq.passes.fuse_hard_swish import FuseHardSwish
from kwsq.passes.fuse_rsqrt import FuseRsqrt
from kwsq.passes.import_graph import import_graph
from kwsq.passes.lower import check_lowerable, lower
from kwsq.passes.observe import SEEDED_SAMPLES, Observer, carry_states, spread_inputs
from kwsq.passes.place_quantizers import PlaceQuantizers
from kwsq.passes.separate_grids import SeparateGrids
from kwsq.passes.widths import (
    WeightWidth,
    check_widths,
    declared_bits,
    forget_weight_grids,
    layer_weights,
    weight_widths,
)

if TYPE_CHECKING:
    from kwsq.passes.dialects import Normalized
    from kwsq.passes.ptq import PtqOptions, PtqRecord, PtqResult

DEFAULT_WEIGHT_BITS = 8
SEEDED_MARGIN = 0.15
"""Widens ranges observed on seeded inputs: real ones may reach further, and a clipped logit changes decisions."""

FOLDING: tuple[Pass, ...] = (
    # First, while Sqrt and Div are still there as written.
    FuseRsqrt(),
    # Before gains: the half step it adds before a quantiser joins the bias of the layer there.
    CenterRounding(),
    # Before gains, which would take its x / 6 and x + 3 for affine maps of their own.
    FuseHardSwish(),
    # Before gains: a batch norm is folded with its own epsilon, in float64, once.
    FoldBatchNorm(),
    # After batch norms: what is left of Mul and Add by constants joins the layer or becomes one affine per channel.
    FoldGain(),
    # After folding, when the operator before a clamp is the one that will run.
    FuseActivation(),
)


@dataclass(frozen=True, slots=True, eq=False)
class PipelineOptions:
    """What the user asked of the passes.

    Args:
        weight_bits: expected width of the weights; None for the model's own (8 for a float model).
        calibration: real-valued arrays by input name, (n * batch, ...), or None.
        requantize: quantise annotated weights again.
        ptq: method of post-training quantisation; None for the defaults.
        drop_softmax: emit logits.
        float_io: float32 inputs and outputs.
        states: output by state input; None to pair by order and shape.
        seed: of seeded inputs.
    """

    weight_bits: int | None = None
    calibration: Mapping[str, FloatArray] | None = None
    requantize: bool = False
    ptq: PtqOptions | None = None
    drop_softmax: bool = False
    float_io: bool = False
    states: Mapping[str, str] | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class PipelineResult:
    """Every stage a report or a check needs.

    Args:
        source: the model as imported: the float meaning of the source, its own quantisers included.
        annotated: the graph with every quantiser the artefact has; differs from `source` by folding, and by the
            quantisers added after training for a float model.
        lowered: the integer graph.
        is_ptq: whether weights were quantised after training.
        source_widths: weight widths as the source has them.
        widths: weight widths of the artefact.
        weight_bits: the width shipped.
        notes: of all passes.
        ptq_records: ranges and schemes chosen after training.
        unquantized: `annotated` with its float weights and no quantisers; None for a model quantised in training.
    """

    source: Graph
    annotated: Graph
    lowered: LoweredGraph
    is_ptq: bool
    source_widths: tuple[WeightWidth, ...]
    widths: tuple[WeightWidth, ...]
    weight_bits: int
    notes: tuple[Note, ...]
    ptq_records: tuple[PtqRecord, ...] = field(default=())
    unquantized: Graph | None = None


def run_pipeline(normalized: Normalized, opset: int, options: PipelineOptions) -> PipelineResult:
    """Runs every pass.

    Args:
        normalized: source with canonical quantisers.
        opset: version of the default domain.
        options: what the user asked for.

    Raises:
        UnsupportedModelError: naming every node without an integer form.
        UsageError: a float model without calibration data, or a width the model does not have.
    """
    notes = list(normalized.notes)
    source = import_graph(normalized.graph, opset, states=options.states)
    guessed = (
        ", paired by order and shape (--state names pairs, --state none denies them)" if options.states is None else ""
    )
    notes += [
        Note("import_graph", p.input, f"streaming state, fed by output {p.output!r}{guessed}") for p in source.states
    ]
    graph = _run(DropSoftmax(), source, notes) if options.drop_softmax else source
    reference = graph
    graph = _recover_grids(graph, notes)
    source_widths = weight_widths(graph)
    if options.requantize:
        graph = forget_weight_grids(graph)
    elif options.weight_bits is not None:
        check_widths(source_widths, options.weight_bits)
    for step in FOLDING:
        graph = _run(step, graph, notes)
    check_lowerable(graph)  # before any time is spent on quantising
    after = _post_train(graph, options, source_widths, notes)
    is_ptq, records = after is not None, () if after is None else after.records
    floats = None if after is None else after.prepared
    graph = annotated = graph if after is None else after.graph
    graph = _run(SeparateGrids(), _run(PlaceQuantizers(), graph, notes), notes)
    observed = _observed_inputs(graph, options)
    graph = _run(_attach(graph, observed, options, is_ptq=is_ptq), graph, notes)
    result = lower(graph, float_io=options.float_io)
    fed = feed_bias_error(result, graph, annotated, observed)
    notes += [*result.notes, *fed.notes]
    widths = weight_widths(annotated)
    bits = options.weight_bits or declared_bits(widths) or DEFAULT_WEIGHT_BITS
    return PipelineResult(
        reference,
        annotated,
        fed.graph,
        is_ptq,
        source_widths,
        widths,
        bits,
        tuple(notes),
        records,
        floats,
    )


def check_operators(normalized: Normalized, opset: int) -> None:
    """Refuses what every conversion of the model would be refused for, whatever the options and the data.

    Raises:
        UnsupportedModelError: naming every node that cannot be expressed.
    """
    graph = import_graph(normalized.graph, opset, states={})
    for step in FOLDING:
        graph = _run(step, graph, [])
    check_lowerable(graph)


def _run(step: Pass, graph: Graph, notes: list[Note]) -> Graph:
    missing = step.requires - graph.facts
    if missing:
        where = f"pass {step.name}"
        raise InternalError(Problem(where, f"facts {sorted(missing)} missing", "its requirements", "report this"))
    result = step.run(graph)
    notes += result.notes
    return result.graph


def _recover_grids(graph: Graph, notes: list[Note]) -> Graph:
    if all(not isinstance(weight.quant, Unquantized) for _, weight in layer_weights(graph)):
        return graph
    from kwsq.passes.recover_grid import RecoverGrid

    return _run(RecoverGrid(), graph, notes)


def _is_layer(op: object) -> bool:
    return isinstance(op, Conv | Dense)


def _needs_post_training(graph: Graph) -> str:
    """Returns why the model needs quantisation after training, "" when it does not."""
    layers = [node for node in graph.nodes if _is_layer(node.op)]
    floats = [node.name for node in layers if isinstance(graph[node.inputs[1]].quant, Unquantized)]
    quantizers = any(isinstance(node.op, FakeQuant) for node in graph.nodes)
    if floats and quantizers:
        return f"float weights in {', '.join(floats)}"
    if quantizers or (graph.integer_io and not floats):
        return ""
    if layers and not floats:
        return "quantised weights but no activation quantisers"
    return "no quantisation annotations: a float model"


def _post_train(
    graph: Graph, options: PipelineOptions, widths: tuple[WeightWidth, ...], notes: list[Note]
) -> PtqResult | None:
    """Returns what quantisation after training made of the graph, None where training left nothing to do."""
    reason = _needs_post_training(graph)
    if not reason:
        return None
    annotated = any(isinstance(node.op, FakeQuant) for node in graph.nodes)
    if options.calibration is None and not annotated:
        raise UsageError(
            Problem(
                "--calibration",
                f"{reason}, and no calibration data",
                "a .npz of representative inputs",
                "pass --calibration X.npz (a few hundred inputs, no labels), or train with quantisation",
            )
        )
    from kwsq.passes.ptq import PtqOptions, quantize_float_graph

    bits = options.weight_bits or declared_bits(widths) or DEFAULT_WEIGHT_BITS
    if declared_bits(widths) is not None and not options.requantize:
        # Training left these weights at full precision beside its narrow ones: they get the container's full width.
        bits = DEFAULT_WEIGHT_BITS
    chosen = replace(options.ptq or PtqOptions(weight_bits=bits, seed=options.seed), weight_bits=bits)
    notes.append(Note("ptq", graph.name, f"quantised after training at {bits} bits ({reason})", Level.INFO))
    result = quantize_float_graph(graph, _observed_inputs(graph, options), chosen)
    notes += result.notes
    return result


def _observed_inputs(graph: Graph, options: PipelineOptions) -> dict[str, FloatArray]:
    if options.calibration is not None:
        return carry_states(graph, options.calibration)
    states = {pair.input for pair in graph.states}
    drawn = spread_inputs(graph, options.seed)
    return carry_states(graph, {name: values for name, values in drawn.items() if name not in states})


def _attach(graph: Graph, inputs: Mapping[str, FloatArray], options: PipelineOptions, *, is_ptq: bool) -> AttachScales:
    if options.calibration is not None:
        return AttachScales(Observer(graph, inputs), "calibration data", warn=False)
    observed_on = f"{SEEDED_SAMPLES} seeded inputs"
    return AttachScales(Observer(graph, inputs), observed_on, warn=not is_ptq, margin=SEEDED_MARGIN)
