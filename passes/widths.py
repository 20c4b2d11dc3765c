"""Which weight widths a model declares, and whether they are what the user expects to ship."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.graph import Graph, Tensor
from kwsq.ir.ops import Conv, Dense
from kwsq.ir.quant import UNQUANTIZED, Affine, Codebook, Unquantized
from kwsq.ir.rewrite import Rewriter


@dataclass(frozen=True, slots=True)
class WeightWidth:
    """Width of one weight tensor.

    Args:
        layer: name of the Conv or Dense.
        tensor: name of the weight.
        bits: width in bits; 32 for a float weight.
        declared: False when recovered from bare values, and so only a lower bound.
        parameters: number of weights.
    """

    layer: str
    tensor: str
    bits: int
    declared: bool
    parameters: int


def layer_weights(graph: Graph) -> list[tuple[str, Tensor]]:
    """Returns (layer name, weight) of every Conv and Dense."""
    return [(node.name, graph[node.inputs[1]]) for node in graph.nodes if isinstance(node.op, Conv | Dense)]


def weight_widths(graph: Graph) -> tuple[WeightWidth, ...]:
    """Returns the width of every layer's weight."""
    widths = []
    for layer, weight in layer_weights(graph):
        match weight.quant:
            case Unquantized():
                bits, declared = 32, True
            case Affine() | Codebook() as spec:
                bits, declared = spec.bits, spec.declared
        size = 1
        for dimension in weight.shape:
            size *= dimension
        widths.append(WeightWidth(layer, weight.name, bits, declared, size))
    return tuple(widths)


def declared_bits(widths: tuple[WeightWidth, ...]) -> int | None:
    """Returns the width that most weights have, None when none is quantised."""
    count: Counter[int] = Counter()
    for width in widths:
        if width.bits < 32:
            count[width.bits] += width.parameters
    return max(count, key=lambda bits: (count[bits], -bits)) if count else None


def check_widths(widths: tuple[WeightWidth, ...], expected: int) -> None:
    """Checks that the model is what `--wbits` says.

    Some quantised weight must be declared at `expected` bits, or be recovered at no more than that; weights declared
    wider stay and are listed by the report.

    Raises:
        UsageError: no weight has that width.
    """
    quantized = [width for width in widths if width.bits < 32]
    fits = [w for w in quantized if (w.bits == expected if w.declared else w.bits <= expected)]
    if not quantized or fits:
        return
    listing = ", ".join(f"{w.tensor}: {w.bits}{'' if w.declared else ' or more'}" for w in quantized)
    raise UsageError(
        Problem(
            f"--wbits {expected}",
            f"no weight declared {expected} bits wide ({listing})",
            f"--wbits {declared_bits(widths)}, or a model trained at {expected} bits",
            "pass the model's own width, or --requantize to quantise its weights again after training",
        )
    )


def forget_weight_grids(graph: Graph) -> Graph:
    """Returns the graph with the weights of its layers as real values again, for `--requantize`."""
    rewriter = Rewriter(graph)
    for _, weight in layer_weights(graph):
        if not isinstance(weight.quant, Unquantized):
            rewriter.tensors[weight.name] = replace(weight, data=weight.real(), quant=UNQUANTIZED, source_scale=None)
    return rewriter.finish()
