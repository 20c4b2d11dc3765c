"""What post-training quantisation is asked for and what it answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from kwsq.ir.graph import Graph
from kwsq.passes.base import PassResult

RangeMethod = Literal["output", "minmax", "percentile", "mse"]
Scheme = Literal["auto", "per_channel", "per_tensor", "codebook"]


@dataclass(frozen=True, slots=True)
class PtqOptions:
    """Settings of post-training quantisation; the defaults are the recommended ones.

    Args:
        weight_bits: width of a weight, 1 to 8; 1 bit is -1 or +1 times a scale per channel.
        range_method: how activation ranges are chosen: by their effect on the network's output, or by the tensor
            alone (its extremes, a percentile, the least squared error).
        scheme: weight grid; "auto" takes per layer the one that hurts the output least.
        codebooks: whether "auto" may choose a codebook; a container that packs uniform codes only has no use for one.
        seed: seed of the order in which clips are drawn.
        clips: at most so many calibration clips are used.
        search_clips: at most so many of them score a candidate range or scheme.
        error_feedback: round weights with error feedback instead of each to its nearest level.
        bias_correction: move the biases by the mean error that quantisation leaves at each channel.
    """

    weight_bits: int
    range_method: RangeMethod = "output"
    scheme: Scheme = "auto"
    codebooks: bool = True
    seed: int = 0
    clips: int = 512
    search_clips: int = 100
    error_feedback: bool = True
    bias_correction: bool = True


@dataclass(frozen=True, slots=True)
class PtqRecord:
    """One choice, for the report.

    Args:
        tensor: name of the activation, weight or constant.
        kind: "activation", "weight" or "constant".
        range_low, range_high: real values of the lowest and the highest code.
        method: how the range or the codes were found.
        scheme: granularity of the grid, or "codebook".
        bits: width of a code.
        output_loss: mean output loss (see `kwsq.passes.ptq.output_loss`) over the calibration clips once this choice
            was made; None where nothing was measured.
    """

    tensor: str
    kind: Literal["activation", "weight", "constant"]
    range_low: float
    range_high: float
    method: str
    scheme: str
    bits: int
    output_loss: float | None = None

    def to_json(self) -> dict[str, object]:
        """Returns the fields as a JSON-ready dictionary."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PtqResult(PassResult):
    """A pass result with the choices made.

    Args:
        records: one per tensor that received a grid, in the order of the choices.
        prepared: the float graph that was quantised, its weights in the coordinates of the codes.
    """

    records: tuple[PtqRecord, ...] = ()
    prepared: Graph | None = None
