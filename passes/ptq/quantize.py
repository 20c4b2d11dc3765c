"""Post-training quantisation of a float graph: activations first, then weights, then the graph with both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.execute.real import stacked_samples
from kwsq.ir.graph import Graph
from kwsq.ir.ops import FakeQuant
from kwsq.ir.quant import FloatArray, fake_quantize
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Level, Note
from kwsq.passes.ptq.activations import ActivationSearch, Grids
from kwsq.passes.ptq.calibration_notes import answer_notes, data_notes
from kwsq.passes.ptq.equalize import equalize_channels
from kwsq.passes.ptq.layer_weights import LayerChoice, WeightSearch
from kwsq.passes.ptq.layers import own_biases
from kwsq.passes.ptq.mean_layers import merge_means
from kwsq.passes.ptq.options import PtqOptions, PtqRecord, PtqResult
from kwsq.passes.ptq.output_loss import Head, OutputLoss, by_clip, find_heads
from kwsq.passes.ptq.ranges import clipped
from kwsq.passes.ptq.replay import Replay

NAME = "ptq"
FEW_CLIPS = 50
SAME_ANSWER = 0.95
PER_ROW_SCHEMES = ("auto", "per_channel")
"""With these a row's scale takes up the gain of its channel; one scale per tensor would have to span all gains."""


def quantize_float_graph(graph: Graph, calibration: Mapping[str, FloatArray], options: PtqOptions) -> PtqResult:
    """Returns the graph with a quantiser on every activation and integer codes for every weight that lacked them.

    Args:
        graph: float graph, batch norms folded and activations fused; tensors that carry quantisers or codes already
            are left alone.
        calibration: float32 arrays by input name, (clips * batch, ...), streaming states included; no labels.
        options: width and method.

    Returns:
        The quantised graph, notes and records; identical for identical arguments.

    Raises:
        UsageError: a width that is not between 1 and 8, or calibration arrays that do not fit the inputs.
        UnsupportedModelError: the calibration data make a tensor infinite or undefined.
    """
    _check(options)
    inputs, order = _drawn(graph, calibration, options)
    clips = len(order)
    heads = find_heads(graph)
    scored = [head.tensor for head in heads]
    prepared = own_biases(merge_means(graph))
    equalized: tuple[Note, ...] = ()
    if options.scheme in PER_ROW_SCHEMES:
        prepared, equalized = equalize_channels(Replay(prepared, inputs, clips, scored))
    float_run = Replay(prepared, inputs, clips, scored).finish()
    loss = OutputLoss(heads, float_run, clips)
    grids, records = ActivationSearch(prepared, Replay(prepared, inputs, clips, scored), loss, options).run()
    reference, quantized = (
        _on_grids(Replay(prepared, inputs, clips, scored, put), grids) for put in (clipped, fake_quantize)
    )
    choices = WeightSearch(prepared, reference, quantized, loss, options).run()
    records += [_weight_record(choice, options) for choice in choices]
    outputs = quantized.finish()
    final = float(loss.per_clip(outputs).mean())
    notes = (
        *equalized,
        _summary(prepared, clips, final),
        *_one_sided(prepared, heads, float_run, clips),
        *_few(prepared, clips),
        *data_notes(prepared, inputs, order),
        *answer_notes(loss.kept_spread(outputs)),
        *(_why(choice) for choice in choices),
    )
    return PtqResult(_emit(prepared, grids, choices), True, notes, tuple(records), prepared)


def _check(options: PtqOptions) -> None:
    if not 1 <= options.weight_bits <= 8:
        raise UsageError(
            Problem("weight bits", str(options.weight_bits), "1 to 8", "choose another width, for example 8 or 4")
        )


def _drawn(
    graph: Graph, calibration: Mapping[str, FloatArray], options: PtqOptions
) -> tuple[dict[str, FloatArray], list[int]]:
    """Returns at most `options.clips` clips in seeded random order, so that any leading part is a fair sample.

    Beside them, the place of each in the data.
    """
    arrays = {name: np.asarray(calibration[name], np.float32) for name in graph.inputs if name in calibration}
    samples = stacked_samples(graph, arrays)
    order = np.random.default_rng(options.seed).permutation(samples)[: options.clips]
    drawn = {}
    for name, array in arrays.items():
        by_clip = array.reshape(samples, -1, *array.shape[1:])[order]
        drawn[name] = by_clip.reshape(-1, *array.shape[1:])
    return drawn, order.tolist()


def _on_grids(replay: Replay, grids: Grids) -> Replay:
    replay.grids.update(grids)
    for name in replay.graph.inputs:
        if name in grids:
            replay.replace_live(name, grids[name])
    return replay


def _emit(graph: Graph, grids: Grids, choices: Sequence[LayerChoice]) -> Graph:
    rewriter = Rewriter(graph)
    for name, grid in grids.items():
        _insert_quantizer(rewriter, name, FakeQuant(grid, dialect=NAME))
    for choice in choices:
        rows, layer = choice.chosen.rows, choice.layer
        codes = rows.grid.codes(rows.values).reshape(graph[layer.weight].shape)
        rewriter.update_tensor(layer.weight, data=codes, quant=rows.spec())
        if choice.chosen.bias is not None:
            rewriter.update_tensor(layer.bias, data=choice.chosen.bias)
    return rewriter.finish()


def _insert_quantizer(rewriter: Rewriter, name: str, op: FakeQuant) -> None:
    """Puts a quantiser behind a tensor; a computed graph output keeps its name for the quantised value."""
    node_name = f"{name}/quantize"
    if name not in rewriter.outputs or name in rewriter.inputs:
        consumers = list(rewriter.nodes)
        (quantized,) = rewriter.add_node(node_name, op, [name])
        rewriter.replace_uses(name, quantized, only=consumers)
        return
    raw = rewriter.fresh(f"{name}/float")
    producer = next(node for node in rewriter.nodes.values() if name in node.outputs)
    rewriter.tensors[raw] = type(rewriter.tensors[name])(raw, rewriter.tensors[name].shape, origin=name)
    rewriter.update_node(producer.name, outputs=tuple(raw if o == name else o for o in producer.outputs))
    rewriter.add_node(node_name, op, [raw], outputs=[name])


def _weight_record(choice: LayerChoice, options: PtqOptions) -> PtqRecord:
    rows = choice.chosen.rows
    method = "error feedback" if options.error_feedback else "nearest"
    losses = choice.chosen.losses
    loss = None if losses is None else float(losses.mean())
    low, high = float(rows.values.min()), float(rows.values.max())
    return PtqRecord(choice.layer.weight, "weight", low, high, method, rows.label, rows.bits, loss)


def _why(choice: LayerChoice) -> Note:
    errors = ", ".join(f"{name} {trial.layer_error:.2g}" for name, trial in choice.trials.items())
    text = (
        f"{choice.chosen.rows.label} at {choice.chosen.rows.bits} bits; relative error of the layer's output: {errors}"
    )
    return Note(NAME, choice.layer.weight, text)


def _summary(graph: Graph, clips: int, loss: float) -> Note:
    return Note(
        NAME, graph.name, f"mean output loss {loss:.4f} on {clips} calibration clips (0: as in float, 1: unlike)"
    )


def _one_sided(graph: Graph, heads: Sequence[Head], outputs: Mapping[str, FloatArray], clips: int) -> tuple[Note, ...]:
    """Warns where the float network gives all clips the same answer, as it does on clips of one class."""
    head = heads[0]
    if head.kind != "softmax" or clips < FEW_CLIPS:
        return ()
    classes, counts = np.unique(by_clip(head, outputs[head.tensor], clips).argmax(axis=2), return_counts=True)
    if counts.max() < SAME_ANSWER * counts.sum():
        return ()
    text = (
        f"class {classes[counts.argmax()]} is the float network's answer to {counts.max()} of {counts.sum()} "
        "calibration inputs: ranges chosen on one class may not fit others; draw them from all classes"
    )
    return (Note(NAME, graph.name, text, Level.WARNING),)


def _few(graph: Graph, clips: int) -> tuple[Note, ...]:
    if clips >= FEW_CLIPS:
        return ()
    text = (
        f"only {clips} calibration inputs: ranges and roundings chosen on so few may not fit others; give some hundred"
    )
    return (Note(NAME, graph.name, text, Level.WARNING),)
