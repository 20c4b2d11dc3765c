"""The options and arguments of the command line; their help texts are the reference users read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

OnnxModel = Annotated[Path, Argument(metavar="MODEL", help="The ONNX model.", show_default=False)]
AnyModel = Annotated[Path, Argument(metavar="MODEL", help="An .onnx, .tflite or .kwsq file.", show_default=False)]

Target = Annotated[
    Literal["neon", "accel", "ethos-u"],
    Option(help="What to write for.", show_default=False),
]
WeightBits = Annotated[
    int | None,
    Option(metavar="N", help="Weight bits to ship, 1 to 8.", show_default="the model's own; 8 for a float model"),
]
Container = Annotated[
    Literal["int8", "int4", "lut", "stream", "planes"] | None,
    Option(
        help="How weight codes are stored. neon: int8, int4 where they fit [-8, 7], or with --runtime tflm lut, "
        "tables of up to 128 values; accel: bit stream or planes.",
        show_default="int8; stream for accel",
    ),
]
Emit = Annotated[
    Literal["tflite", "c"],
    Option(help="c: C99 sources too, with NEON kernels, for devices without a runtime (neon; needs a C compiler)."),
]
Runtime = Annotated[
    Literal["litert", "tflm"], Option(help="Interpreter to write for; tflm: run in it too, if installed.")
]
RowAlign = Annotated[
    int | None,
    Option(
        metavar="BITS",
        help="With accel: where weight rows begin, 1, which leaves no gaps, or a power of two from 8 to 512.",
        show_default="the widest up to 128 that costs at most 2 %",
    ),
]
Accelerator = Annotated[
    str | None,
    Option(metavar="NAME", help="With ethos-u: the configuration Vela compiles for.", show_default="ethos-u55-128"),
]
Calibration = Annotated[
    Path | None,
    Option(metavar="X.npz", help="Representative inputs by name; needed by float models.", show_default=False),
]
Data = Annotated[
    Path | None,
    Option(metavar="EVAL.npz", help="Inputs and labels y: measures accuracy, feeds the gate.", show_default=False),
]
Output = Annotated[
    Path | None, Option("--output", "-o", metavar="DIR", help="Output directory.", show_default="STEM.TARGET-wN/")
]
RunInput = Annotated[Path, Option("--input", metavar="X.npz", help="Input arrays by name.", show_default=False)]
RunOutput = Annotated[Path, Option("--output", metavar="Y.npz", help="Where the outputs go.", show_default=False)]
Force = Annotated[bool, Option("--force", help="Replace kwsq's own files in a directory in use.")]
Batch = Annotated[int | None, Option(metavar="N", help="Size of a symbolic batch dimension.", show_default="1")]
Shapes = Annotated[
    list[str] | None,
    Option("--shape", metavar="NAME=1,49,10", help="Full shape of an input with symbolic dimensions. Repeatable."),
]
Io = Annotated[Literal["int8", "float32"], Option(help="Type of the artefact's inputs and outputs.")]
DropSoftmax = Annotated[bool, Option("--drop-softmax", help="Emit logits in place of probabilities.")]
StripNames = Annotated[bool, Option("--strip-names", help="Leave inner tensor names out.")]
OfflineMemoryPlan = Annotated[
    bool,
    Option("--offline-memory-plan", help="Write the memory plan into the file, for TensorFlow Lite Micro to use."),
]
HopMs = Annotated[
    float | None, Option("--hop-ms", metavar="MS", help="Time between two inferences: traffic and MACs per second.")
]
Scheme = Annotated[
    Literal["auto", "per_channel", "per_tensor", "codebook"] | None,
    Option(help="Weight grid of post-training quantization.", show_default="auto"),
]
Ranges = Annotated[
    Literal["output", "minmax", "percentile", "mse"] | None,
    Option(help="How post-training quantization chooses activation ranges.", show_default="output"),
]
Requantize = Annotated[bool, Option("--requantize", help="Quantize annotated weights again, to --wbits.")]
States = Annotated[
    list[str] | None,
    Option(
        "--state",
        metavar="S1=N1",
        help="Streaming state: input and the output feeding it, repeatable; none: the model has no states.",
        show_default="(paired by order and shape)",
    ),
]
Encodings = Annotated[Path | None, Option(metavar="FILE", help="AIMET encodings beside the model.", show_default=False)]
MinAccuracy = Annotated[
    str | None, Option(metavar="A", help="Least top-1 accuracy on --data: 0.915 or 91.5.", show_default=False)
]
Inputs = Annotated[int, Option(metavar="N", help="Most input vectors for parity; of large models fewer, 16 at least.")]
BisectInputs = Annotated[int, Option("--inputs", metavar="N", help="Generated inputs to measure on.")]
Seed = Annotated[int, Option(metavar="N", help="Seed of generated inputs.")]
Intermediates = Annotated[bool, Option("--intermediates", help="Compare every inner tensor on every input.")]
Bisect = Annotated[bool, Option("--bisect", help="Report what each layer's quantization costs (kwsq bisect).")]
AsJson = Annotated[bool, Option("--json", help="Print the result as JSON alone on stdout.")]
Markdown = Annotated[bool, Option("--markdown", help="Print docs/ops.md.")]
NoProgress = Annotated[bool, Option("--quiet", "-q", help="Show no progress.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Print the verdict alone.")]
Verbose = Annotated[bool, Option("--verbose", "-v", help="Show stages and, for internal errors, the traceback.")]

Baseline = Annotated[
    Path | None,
    Option(metavar="FILE", help="Committed measurements.", show_default="kwsq-baseline.json, if there"),
]
GateBaseline = Annotated[
    Path | None,
    Option(
        "--baseline", metavar="FILE", help="Committed measurements.", show_default="kwsq-gate-baseline.json, if there"
    ),
]
UpdateBaseline = Annotated[bool, Option("--update-baseline", help="Make what is measured now the baseline.")]

GateReference = Annotated[
    Path | None,
    Option(
        "--reference",
        metavar="REF",
        help="Approved .onnx or .tflite, or its scores: .csv, .npz, .parquet.",
        show_default=False,
    ),
]
GateCandidate = Annotated[
    Path | None, Option("--candidate", metavar="CAND", help="The same of the model to release.", show_default=False)
]
GateData = Annotated[
    Path | None,
    Option("--data", metavar="EVAL.npz", help="Inputs and labels y, to run two models on.", show_default=False),
]
GateReport = Annotated[Path, Argument(metavar="REPORT.json", help="Report of an earlier gate.", show_default=False)]
SavedReport = Annotated[
    Path, Argument(metavar="REPORT.json", help="Report of a conversion or of a gate.", show_default=False)
]
Keyword = Annotated[
    list[int] | None,
    Option(metavar="CLASS", help="Class that is the keyword. Repeatable.", show_default="every class, pooled"),
]
Config = Annotated[
    Path | None,
    Option(metavar="FILE", help="Settings.", show_default="kwsq.toml or [tool.kwsq] of pyproject.toml"),
]
TargetFrr = Annotated[
    float | None, Option(metavar="F", help="False reject rate to match the models at.", show_default="0.05")
]
Threshold = Annotated[
    float | None, Option(metavar="T", help="The reference's threshold in production.", show_default=False)
]
_fa_margin = partial(Option, "--fa-margin", metavar="F", help="Increase of false accepts that is still good.")
_frr_margin = partial(Option, "--frr-margin", metavar="PP", help="Increase of the false reject rate, in points.")
_on_inconclusive = partial(Option, "--on-inconclusive", help="Exit code of INCONCLUSIVE: 3 or 0.")
_REPORTS = "the report's"
FaMargin = Annotated[float | None, _fa_margin(show_default="0.10")]
FaMarginAgain = Annotated[float | None, _fa_margin(show_default=_REPORTS)]
FrrMargin = Annotated[float | None, _frr_margin(show_default="0.5")]
FrrMarginAgain = Annotated[float | None, _frr_margin(show_default=_REPORTS)]
OnInconclusive = Annotated[Literal["fail", "warn"] | None, _on_inconclusive(show_default="fail")]
OnInconclusiveAgain = Annotated[Literal["fail", "warn"] | None, _on_inconclusive(show_default=_REPORTS)]
KeywordRate = Annotated[
    float | None, Option(metavar="R", help="Keyword utterances per hour in use.", show_default=False)
]
GateSeed = Annotated[int | None, Option("--seed", metavar="N", help="Seed of the resamples.", show_default="0")]
ReportFile = Annotated[
    Path | None, Option("--output", "-o", metavar="FILE", help="Also write the report here.", show_default=False)
]
ForceFile = Annotated[bool, Option("--force", help="Replace the report file.")]
Positives = Annotated[int, Option(metavar="N", help="Keyword trials to simulate.")]
Negatives = Annotated[int, Option(metavar="N", help="Other trials to simulate.")]
FalseAcceptRate = Annotated[float, Option(metavar="F", help="The reference's false accept rate.")]
Noise = Annotated[float, Option(metavar="SIGMA", help="What the candidate adds to a score, in s.d. of scores.")]
Discordance = Annotated[float, Option(metavar="F", help="Share of keyword trials on which the models disagree.")]
Runs = Annotated[int, Option(metavar="N", help="Simulated test sets.")]
ReportFormat = Annotated[
    Literal["text", "md", "junit", "html", "model-explorer"],
    Option("--to", help="What to write on stdout; model-explorer: node data, a figure per operator of a .tflite file."),
]
Figure = Annotated[
    Literal["sqnr", "flash", "macs", "memory"], Option(help="With --to model-explorer: which figure of an operator.")
]

LintModels = Annotated[list[Path], Argument(metavar="MODEL...", help="ONNX models.", show_default=False)]
LintTarget = Annotated[Literal["neon", "accel", "ethos-u"], Option(help="What they must convert for.")]
LintQuiet = Annotated[bool, Option("--quiet", "-q", help="Print nothing about models that convert.")]
AttestedDirectory = Annotated[
    Path, Argument(metavar="DIR", help="Output directory of a passed conversion.", show_default=False)
]
AttestedGate = Annotated[
    Path | None,
    Option("--gate", metavar="GATE.json", help="Report of kwsq gate on the artefact.", show_default=False),
]
