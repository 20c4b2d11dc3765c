"""The embedded form beside a pack: the same codes in a `.tflite` that TensorFlow Lite Micro runs as it is."""

from __future__ import annotations

from dataclasses import replace

from kwsq.converter.parity import Check, check
from kwsq.converter.proof import Arrays, Beside
from kwsq.converter.runtimes.tflm import is_installed, measure_arena, missing
from kwsq.ir.errors import UnsupportedModelError, UsageError
from kwsq.ir.lowered import LoweredGraph
from kwsq.passes.base import Note
from kwsq.targets.base import TargetOptions, load_target

FILE_NAME = "model.tflite"
DESCRIPTION = "the same codes in lookup tables, for TensorFlow Lite Micro"


def embedded_form(lowered: LoweredGraph, options: TargetOptions, inputs: Arrays) -> Beside:
    """Returns `model.tflite` in the lut container with its checks, or why there is none.

    Args:
        lowered: integer graph before legalisation.
        options: of the pack.
        inputs: as the pack takes them.
    """
    if not is_installed():
        return _without(f"tflite-micro is not installed, which proves it; {missing().remedy}")
    neon = load_target("neon")
    chosen = replace(options, container="lut", runtime="tflm")
    try:
        graph = neon.legalize(lowered, chosen)
        data = neon.emit(graph, chosen).proven_bytes
    except (UsageError, UnsupportedModelError) as error:
        reason = f"{error.summary}: {error.problems[0].where}: {error.problems[0].found}"
        return _without(reason)
    parity = check(graph, data, None, inputs)
    arena = f"; its arena there {measure_arena(data):,} B" if parity.passed else ""
    return Beside(
        {FILE_NAME: data}, {FILE_NAME: f"{DESCRIPTION}{arena}"}, tuple(_about_the_file(c) for c in parity.checks)
    )


def _without(reason: str) -> Beside:
    return Beside(notes=(Note("embedded_form", FILE_NAME, f"not written: {reason}"),))


def _about_the_file(check: Check) -> Check:
    return replace(check, name=f"embedded_{check.name}", question=f"{FILE_NAME}: {check.question}")
