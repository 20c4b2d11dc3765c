"""What the user asked for, checked as far as that needs no file."""

from __future__ import annotations

import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kwsq.ir.errors import Problem, UsageError

MOST_PARITY_INPUTS = 10_000
"""Far more than tell two models apart; a mistyped number must not fill the memory."""
LEAST_HOP_MS = 0.001
"""No detector listens more often; what happens per second must stay a number."""
WEIGHT_BITS = range(1, 9)
CONTAINERS: Mapping[str, tuple[str, ...]] = {
    "neon": ("int8", "int4", "lut"),
    "accel": ("stream", "planes"),
    "ethos-u": ("int8",),
}
"""Target -> how it can store weight codes, its default first."""
ROW_ALIGNMENTS_BITS = (1, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """One conversion.

    Args:
        model: the ONNX file.
        target: name in `kwsq.targets.base.TARGETS`.
        weight_bits: width the user expects to ship; None takes the narrowest width the model declares, 8 for
            a float model.
        container: how weight codes are stored, one of `CONTAINERS`; None takes the target's default.
        emit: "tflite", or "c" for C99 sources beside it.
        runtime: "litert" or "tflm": the interpreter the artefact must run in.
        row_align_bits: alignment of weight rows in a pack, one of `ROW_ALIGNMENTS_BITS`; None for the writer's choice.
        accelerator: configuration to compile for with the target ethos-u; None for its default.
        calibration: `.npz` of inputs for post-training quantization and for the scales the source leaves
            open.
        data: `.npz` of inputs and labels to measure accuracy on.
        output: output directory; None for `<stem>.<target>-w<N>/` in the working directory.
        force: replace kwsq's own files in a directory that is not empty.
        batch: size of a symbolic batch dimension.
        shapes: full shapes of inputs with other symbolic dimensions.
        io: "int8" or "float32": element type of the artefact's inputs and outputs.
        drop_softmax: emit the logits under a final softmax.
        strip_names: leave the names of inner tensors out of the artefact.
        offline_memory_plan: write where activations lie in the arena into the artefact.
        hop_ms: time between two inferences in use, for the traffic per second.
        scheme: weight scheme forced on post-training quantization, None for the best per layer.
        ranges: how post-training quantization chooses activation ranges, None for its default.
        requantize: move weights declared wider than `weight_bits` to that width.
        states: state input -> state output; empty for a model without states, None to pair by order and shape.
        encodings: AIMET encodings file.
        min_accuracy: smallest top-1 accuracy of the artefact on `data`, as a fraction.
        parity_inputs: number of input vectors parity is checked on.
        seed: seed of the generated inputs.
        intermediates: compare inner tensors too.
        bisect: measure what each layer's quantization costs.
        config: settings file with `[budget]`; None looks for kwsq.toml and pyproject.toml.
        baseline: committed measurements; None for kwsq-baseline.json where there is one.
        update_baseline: write what was measured as the new baseline.
        judged: whether the settings' limits apply.
    """

    model: Path
    target: str
    weight_bits: int | None = None
    container: str | None = None
    emit: Literal["tflite", "c"] = "tflite"
    runtime: str = "litert"
    row_align_bits: int | None = None
    accelerator: str | None = None
    calibration: Path | None = None
    data: Path | None = None
    output: Path | None = None
    force: bool = False
    batch: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    io: str = "int8"
    drop_softmax: bool = False
    strip_names: bool = False
    offline_memory_plan: bool = False
    hop_ms: float | None = None
    scheme: Literal["auto", "per_channel", "per_tensor", "codebook"] | None = None
    ranges: Literal["output", "minmax", "percentile", "mse"] | None = None
    requantize: bool = False
    states: Mapping[str, str] | None = None
    encodings: Path | None = None
    min_accuracy: float | None = None
    parity_inputs: int = 64
    seed: int = 0
    intermediates: bool = False
    bisect: bool = False
    config: Path | None = None
    baseline: Path | None = None
    update_baseline: bool = False
    judged: bool = True

    @property
    def chosen_container(self) -> str:
        """The container asked for, else the target's default."""
        return self.container or CONTAINERS[self.target][0]

    def output_directory(self, weight_bits: int) -> Path:
        """Returns the directory to write, for the width that was settled on."""
        return self.output or Path(f"{self.model.stem}.{self.target}-w{weight_bits}")

    def to_json(self) -> dict[str, object]:
        """Returns what bears on the result; files without their folders, which differ between machines."""
        return {
            "model": self.model.name,
            "target": self.target,
            "weight_bits": self.weight_bits,
            "container": self.chosen_container,
            "emit": self.emit,
            "runtime": self.runtime,
            "row_align_bits": self.row_align_bits,
            "accelerator": self.accelerator,
            "calibration": self.calibration.name if self.calibration else None,
            "data": self.data.name if self.data else None,
            "batch": self.batch,
            "shapes": {name: list(shape) for name, shape in sorted(self.shapes.items())},
            "io": self.io,
            "drop_softmax": self.drop_softmax,
            "strip_names": self.strip_names,
            "hop_ms": self.hop_ms,
            "offline_memory_plan": self.offline_memory_plan,
            "scheme": self.scheme,
            "ranges": self.ranges,
            "requantize": self.requantize,
            "states": None if self.states is None else dict(sorted(self.states.items())),
            "encodings": self.encodings.name if self.encodings else None,
            "min_accuracy": self.min_accuracy,
            "parity_inputs": self.parity_inputs,
            "seed": self.seed,
            "intermediates": self.intermediates,
            "bisect": self.bisect,
        }


def check_options(options: ConvertOptions) -> None:
    """Checks what can be checked before any file is opened.

    Raises:
        UsageError: listing every wrong option.
    """
    problems = [*_target_problems(options), *_file_problems(options)]
    if options.weight_bits is not None and options.weight_bits not in WEIGHT_BITS:
        found = f"{options.weight_bits} bits"
        problems.append(Problem("--wbits", found, "1 to 8", "choose the width the model was trained for"))
    if options.min_accuracy is not None and options.data is None:
        remedy = "add --data EVAL.npz with labels y"
        problems.append(Problem("--min-accuracy", "no --data", "labelled inputs to measure on", remedy))
    if not 1 <= options.parity_inputs <= MOST_PARITY_INPUTS:
        expected = f"1 to {MOST_PARITY_INPUTS}"
        problems.append(Problem("--inputs", str(options.parity_inputs), expected, "correct the value"))
    if options.batch is not None and options.batch < 1:
        problems.append(Problem("--batch", str(options.batch), "1 or more", "correct the value"))
    problems += hop_problems(options.hop_ms)
    if not 0 <= options.seed < 2**64:
        problems.append(Problem("--seed", str(options.seed), "0 to 2**64 - 1", "correct the value"))
    if problems:
        raise UsageError(problems)


def hop_problems(hop_ms: float | None) -> list[Problem]:
    """Returns what is wrong with a hop."""
    if hop_ms is None or (math.isfinite(hop_ms) and hop_ms >= LEAST_HOP_MS):
        return []
    return [Problem("--hop-ms", str(hop_ms), f"{LEAST_HOP_MS} or more", "give the time between two inferences")]


def _target_problems(options: ConvertOptions) -> list[Problem]:
    problems, known = [], CONTAINERS.get(options.target)
    if known is not None and options.container is not None and options.container not in known:
        expected, remedy = " or ".join(known), f"choose a container of --target {options.target}"
        problems.append(Problem("--container", options.container, expected, remedy))
    if options.container == "lut" and options.target == "neon":
        problems += _lut_problems(options)
    if options.target != "neon" and options.runtime != "litert":
        problems.append(Problem("--runtime", options.runtime, "--target neon", "leave --runtime out"))
    if options.target != "neon" and options.offline_memory_plan:
        found, remedy = f"--target {options.target}", "leave --offline-memory-plan out"
        problems.append(Problem("--offline-memory-plan", found, "--target neon", remedy))
    return [*problems, *_emit_problems(options), *_alignment_problems(options), *_accelerator_problems(options)]


def _emit_problems(options: ConvertOptions) -> list[Problem]:
    if options.emit == "tflite":
        return []
    if options.target != "neon":
        return [Problem("--emit c", f"--target {options.target}", "--target neon", "leave --emit out")]
    from kwsq.converter.runtimes.c_program import toolchain

    try:
        toolchain()
    except UsageError as error:
        return list(error.problems)
    return []


def _alignment_problems(options: ConvertOptions) -> list[Problem]:
    if options.row_align_bits is None:
        return []
    found, choices = f"{options.row_align_bits} bits", ", ".join(map(str, ROW_ALIGNMENTS_BITS))
    if options.target != "accel":
        return [Problem("--row-align", found, "--target accel", "leave --row-align out")]
    if options.row_align_bits not in ROW_ALIGNMENTS_BITS:
        return [Problem("--row-align", found, f"one of {choices}", "choose the alignment of your DMA")]
    return []


def _accelerator_problems(options: ConvertOptions) -> list[Problem]:
    if options.target != "ethos-u":
        if options.accelerator is None:
            return []
        return [Problem("--accelerator", options.accelerator, "--target ethos-u", "leave --accelerator out")]
    from kwsq.targets.neon.vela import ACCELERATORS, is_installed, missing

    problems = [] if is_installed() else [missing()]
    if options.accelerator is not None and options.accelerator not in ACCELERATORS:
        expected, remedy = f"one of {', '.join(ACCELERATORS)}", "choose a configuration of the list"
        problems.append(Problem("--accelerator", repr(options.accelerator), expected, remedy))
    return problems


def _lut_problems(options: ConvertOptions) -> list[Problem]:
    if options.runtime != "tflm":
        remedy = "add --runtime tflm: LiteRT has no operator that reads lookup tables"
        return [Problem("--container lut", f"--runtime {options.runtime}", "--runtime tflm", remedy)]
    from kwsq.converter.runtimes.tflm import is_installed, missing

    return [] if is_installed() else [missing()]


def _file_problems(options: ConvertOptions) -> list[Problem]:
    files = {
        "model": options.model,
        "--calibration": options.calibration,
        "--data": options.data,
        "--encodings": options.encodings,
        "--config": options.config,
        "--baseline": None if options.update_baseline else options.baseline,
    }
    return [
        Problem(f"{flag} {str(path)!r}", found, "a file", "check the path")
        for flag, path in files.items()
        if path is not None and (found := _not_a_file(path))
    ]


def _not_a_file(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "no such file"
    except OSError as error:  # a name too long, a folder that cannot be searched
        return error.strerror or str(error)
    return "" if stat.S_ISREG(mode) else "a directory" if stat.S_ISDIR(mode) else "something else"


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Returns (name, shape) of `name=1,49,10`.

    Raises:
        UsageError: the text has another form.

    >>> parse_shape("x=1,49,10")
    ('x', (1, 49, 10))
    """
    name, equals, sizes = text.rpartition("=")
    parts = sizes.split(",")
    if not (name and equals and all(part.strip().isdecimal() and len(part) < 10 for part in parts)):
        raise UsageError(Problem("--shape", repr(text), "name=1,49,10", "write the input's name and all its sizes"))
    return name, tuple(int(part) for part in parts)


def parse_states(texts: Sequence[str] | None) -> dict[str, str] | None:
    """Returns the output feeding each state input: `s1=n1` once per state, or `none` alone; None when nothing is said.

    Raises:
        UsageError: a text of another form, `none` beside a pair, or an input or output paired twice.

    >>> parse_states(["s1=n1", "s2=n2"]), parse_states(["none"]), parse_states([])
    ({'s1': 'n1', 's2': 'n2'}, {}, None)
    """
    if not texts:
        return None
    if list(texts) == ["none"]:
        return {}
    pairs: dict[str, str] = {}
    for text in texts:
        name, _, output = text.partition("=")
        if not (name and output):
            fix = "name a state input and the output feeding it, or `none` alone"
            raise UsageError(Problem("--state", repr(text), "input=output", fix))
        if name in pairs or output in pairs.values():
            raise UsageError(Problem("--state", repr(text), "each input and output in one pair", "pair it once"))
        pairs[name] = output
    return pairs


def parse_accuracy(text: str) -> float:
    """Returns the fraction of "0.915" or "91.5" or "91.5%".

    Raises:
        UsageError: not a number from 0 to 100.

    >>> parse_accuracy("0.915"), parse_accuracy("91.5"), parse_accuracy("91.5%")
    (0.915, 0.915, 0.915)
    """
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        expected = "a fraction (0.915) or a percentage (91.5)"
        raise UsageError(Problem("--min-accuracy", repr(text), expected, "correct the value"))
    return value / 100 if value > 1 or text.endswith("%") else value
