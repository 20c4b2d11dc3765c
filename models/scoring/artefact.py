"""What an emitted artefact says of features: a file converted by kwsq's own driver, run in LiteRT.

A model trained for another accumulator than int32 is run by `kwsq.ir.execute.narrow`, on the integers that were
emitted: LiteRT's kernels have int32 accumulators only.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from kwsq.converter.config import ConvertOptions
from kwsq.converter.driver import run_conversion
from kwsq.converter.gate.model_pairs import load_runnable
from kwsq.converter.report import Conversion
from kwsq.converter.vectors import artefact_inputs
from kwsq.ir.errors import ParityError, Problem
from kwsq.ir.execute.narrow import METADATA_KEY, overflow_proofs, run_narrow
from kwsq.ir.numerics.accumulator import Accumulator
from kwsq.models.scoring.accuracy import logits, model_layout

PARITY_INPUTS = 8


@dataclass(frozen=True, slots=True, eq=False)
class ScoredArtefact:
    """Outputs of a model as it ships.

    Args:
        runtime: what ran it.
        model_bytes: size of the file.
        logits: (n, classes) float64 of the artefact.
        source_logits: (n, classes) float32 of its ONNX source as written, see `kwsq.models.scoring.accuracy`.
        facts: of a narrow accumulator: its contract, how many values were cut, how many layers of how many are proven
            never to be, and how many clips LiteRT's int32 accumulators give another class.
    """

    runtime: str
    model_bytes: int
    logits: NDArray[np.float64]
    source_logits: NDArray[np.float32]
    facts: dict[str, Any] = field(default_factory=dict)


def scored_artefact(model: Path, features: NDArray[np.float32], *, weight_bits: int | None) -> ScoredArtefact:
    """Convert a model and run the artefact; a float model runs as it is, in ONNX Runtime.

    Args:
        model: annotated ONNX file of the zoo.
        features: (n, frames, bands) float32.
        weight_bits: width it declares; None for a float model.

    Returns:
        Logits of artefact and source, (n, classes) each.

    Raises:
        ParityError: the artefact does not compute what its integer reference says.
    """
    source = logits(model, features)
    if weight_bits is None:
        return ScoredArtefact("onnxruntime", model.stat().st_size, source.astype(np.float64), source)
    options = ConvertOptions(model=model, target="neon", weight_bits=weight_bits, parity_inputs=PARITY_INPUTS)
    conversion = run_conversion(options)
    if conversion.exit_code:
        remedy = "report this model as a defect of kwsq"
        raise ParityError(Problem(model.name, "parity failed", "an artefact equal to its reference", remedy))
    artefact = conversion.artefact.proven_bytes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(artefact)
        runnable = load_runnable(path, "artefact")
        found = runnable.run(model_layout(features, rank=len(runnable.spec.shape)))
    contract = _contract(model)
    if contract is None:
        return ScoredArtefact("litert", len(artefact), found, source)
    narrow, facts = _narrow_logits(conversion, features, contract)
    facts["litert_top1_differs"] = int((narrow.argmax(axis=1) != found.argmax(axis=1)).sum())
    return ScoredArtefact("kwsq narrow", len(artefact), narrow, source, facts)


def _contract(model: Path) -> Accumulator | None:
    """Return the accumulator that a file names."""
    named = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    return Accumulator.parse(named[METADATA_KEY]) if METADATA_KEY in named else None


def _narrow_logits(
    conversion: Conversion, features: NDArray[np.float32], contract: Accumulator
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    graph = conversion.graph
    name = graph.inputs[0]
    real = {name: model_layout(features, rank=len(graph[name].shape))}
    run = run_narrow(graph, artefact_inputs(graph, real), contract)
    end = graph[graph.outputs[0]]
    assert end.scale is not None, "A fixed-point model ends in codes"
    codes = run.outputs[graph.outputs[0]].reshape(len(features), -1)
    proofs = overflow_proofs(graph, contract).values()
    facts = {
        "accumulator": str(contract),
        "saturated": sum(run.saturated.values()),
        "layers_proven": sum(proof.proven for proof in proofs),
        "layers": len(proofs),
    }
    return (codes.astype(np.float64) - end.zero_point) * float(end.scale[0]), facts
