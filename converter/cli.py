"""The command line: `kwsq-convert` and `kwsq`. The only place that prints, and the only one that catches everything.

stdout carries the result, stderr everything else. Only typer is imported up front: `--help` must not wait for ONNX.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TextIO

import typer

from kwsq.converter.config import ConvertOptions, parse_accuracy, parse_shape, parse_state
from kwsq.converter.safe_text import printable
from kwsq.ir.errors import KwsqError

INTERRUPTED, TERMINATED, INTERNAL, IO_FAILED = 130, 143, 70, 2
EXIT_CODES = (
    "Exit codes: 0 ok; 1 parity, gate or budget failed; 2 usage or I/O; 3 inconclusive; 4 unsupported model; "
    "5 invalid or unsafe input; 70 internal error."
)

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The model file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON alone on stdout.")]
Batch = Annotated[int | None, typer.Option(metavar="N", help="Size of a symbolic batch dimension.", show_default="1")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="NAME=1,49,10", help="Full shape of an input with symbolic dimensions. Repeatable."
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show stages and, for internal errors, the traceback.")]


def convert(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX model.", show_default=False)],
    target: Annotated[
        Literal["neon", "accel", "ethos-u"],
        typer.Option(help="What to write for. accel and ethos-u are not available yet.", show_default=False),
    ],
    wbits: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Weight bits to ship, 1 to 8.",
            show_default="the model's own; 8 for a float model",
        ),
    ] = None,
    container: Annotated[
        Literal["int8", "int4"], typer.Option(help="How weight codes are stored; int4 packs those that fit [-8, 7].")
    ] = "int8",
    runtime: Annotated[
        Literal["litert", "tflm"], typer.Option(help="Interpreter the artefact must run in.")
    ] = "litert",
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="X.npz", help="Representative inputs by name; needed by float models.", show_default=False
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="EVAL.npz", help="Inputs and labels y: measures accuracy.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Output directory.", show_default="STEM.TARGET-wN/"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace kwsq's own files in a directory in use.")] = False,
    batch: Batch = None,
    shape: Shapes = None,
    io: Annotated[Literal["int8", "float32"], typer.Option(help="Type of the artefact's inputs and outputs.")] = "int8",
    drop_softmax: Annotated[
        bool, typer.Option("--drop-softmax", help="Emit logits in place of probabilities.")
    ] = False,
    strip_names: Annotated[bool, typer.Option("--strip-names", help="Leave inner tensor names out.")] = False,
    scheme: Annotated[
        Literal["auto", "per_channel", "per_tensor", "codebook"] | None,
        typer.Option(help="Weight grid of post-training quantization.", show_default="auto"),
    ] = None,
    ranges: Annotated[
        Literal["output", "minmax", "percentile", "mse"] | None,
        typer.Option(help="How post-training quantization chooses activation ranges.", show_default="output"),
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Quantize annotated weights again, to --wbits.")
    ] = False,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="S1=N1", help="Streaming state: input and the output feeding it. Repeatable."),
    ] = None,
    encodings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="AIMET encodings beside the model.", show_default=False)
    ] = None,
    min_accuracy: Annotated[
        str | None,
        typer.Option(metavar="A", help="Least top-1 accuracy on --data: 0.915 or 91.5.", show_default=False),
    ] = None,
    inputs: Annotated[int, typer.Option(metavar="N", help="Input vectors parity is checked on.")] = 64,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of generated inputs.")] = 0,
    intermediates: Annotated[
        bool, typer.Option("--intermediates", help="Compare every inner tensor on every input.")
    ] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict alone.")] = False,
    verbose: Verbose = False,
) -> None:
    """Convert an ONNX keyword-spotting model and prove the result."""

    def action() -> int:
        options = ConvertOptions(
            model=model,
            target=target,
            weight_bits=wbits,
            container=container,
            runtime=runtime,
            calibration=calibration,
            data=data,
            output=output,
            force=force,
            batch=batch,
            shapes=dict(parse_shape(text) for text in shape or ()),
            io=io,
            drop_softmax=drop_softmax,
            strip_names=strip_names,
            scheme=scheme,
            ranges=ranges,
            requantize=requantize,
            states=dict(parse_state(text) for text in state) if state else None,
            encodings=encodings,
            min_accuracy=None if min_accuracy is None else parse_accuracy(min_accuracy),
            parity_inputs=inputs,
            seed=seed,
            intermediates=intermediates,
        )
        return _convert(options, as_json=as_json, quiet=quiet, verbose=verbose)

    _run(action, verbose=verbose)


def _convert(options: ConvertOptions, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    from kwsq.converter.config import check_options

    check_options(options)
    from kwsq.converter.driver import convert as run_driver
    from kwsq.converter.summaries import conversion_blocks

    with _progress(quiet=quiet, verbose=verbose) as progress:
        result = run_driver(options, progress)
    blocks = conversion_blocks(result.report, str(result.directory))
    _print(result.report, blocks[:1] if quiet else blocks, as_json=as_json)
    for reason in result.report["result"]["verdict"]["reasons"]:
        _message(f"failed: {reason}")
    return result.exit_code


def inspect(
    model: Model, batch: Batch = None, shape: Shapes = None, as_json: AsJson = False, verbose: Verbose = False
) -> None:
    """Show dialects, scales and bits of an .onnx or .tflite, and what would be refused."""

    def action() -> int:
        data, shapes = _read(model), dict(parse_shape(text) for text in shape or ())
        from kwsq.converter.inspect import inspect_onnx, inspect_tflite
        from kwsq.converter.summaries import inspection_blocks

        facts = (
            inspect_tflite(data, model.name)
            if _is_tflite(model, data)
            else inspect_onnx(data, model.name, batch, shapes)
        )
        _print(_titled(model, facts), inspection_blocks(facts), as_json=as_json)
        return 0

    _run(action, verbose=verbose)


def footprint(
    model: Model, batch: Batch = None, shape: Shapes = None, as_json: AsJson = False, verbose: Verbose = False
) -> None:
    """Measure flash, activation memory and MACs of any .onnx or .tflite."""

    def action() -> int:
        data, shapes = _read(model), dict(parse_shape(text) for text in shape or ())
        from kwsq.converter.summaries import footprint_blocks

        if _is_tflite(model, data):
            from kwsq.converter.tflite_footprint import measure
            from kwsq.targets.neon.reader import read

            report = measure(read(data, model.name))
        else:
            from kwsq.converter.onnx_footprint import measure_onnx

            report = measure_onnx(data, model.name, batch, shapes)
        facts = report.to_json()
        _print(_titled(model, facts), footprint_blocks(facts), as_json=as_json)
        return 0

    _run(action, verbose=verbose)


def ops(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/ops.md.")] = False,
    verbose: Verbose = False,
) -> None:
    """List supported operators and dialects, read off the code."""

    def action() -> int:
        from kwsq.converter.ops import as_markdown, supported
        from kwsq.converter.summaries import ops_blocks

        if markdown:
            sys.stdout.write(as_markdown())
            return 0
        facts = supported()
        _print(facts, ops_blocks(facts), as_json=as_json)
        return 0

    _run(action, verbose=verbose)


def convert_main() -> None:
    """Entry point of `kwsq-convert`."""
    app = _app(epilog=EXIT_CODES)
    app.command("kwsq-convert", epilog=EXIT_CODES)(convert)
    _start(app, "kwsq-convert")


def main() -> None:
    """Entry point of `kwsq`."""
    app = _app(help="Convert keyword-spotting models and look into them.", no_args_is_help=True)
    app.command(epilog=EXIT_CODES)(convert)
    app.command()(inspect)
    app.command()(footprint)
    app.command()(ops)
    _start(app, "kwsq")


def _app(**settings: Any) -> typer.Typer:
    # Boxes and colours only where somebody looks; rich costs as much as everything else in --help.
    markup: Literal["rich"] | None = "rich" if sys.stdout.isatty() and sys.stderr.isatty() else None
    return typer.Typer(add_completion=False, rich_markup_mode=markup, pretty_exceptions_enable=False, **settings)


def _start(app: typer.Typer, name: str) -> NoReturn:
    # A terminated process leaves as little behind as an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        app(prog_name=name)
    except KeyboardInterrupt:
        _message("interrupted")
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _run(action: Callable[[], int], *, verbose: bool) -> NoReturn:
    """Ends the command with the exit code its outcome stands for."""
    try:
        code = action()
        sys.stdout.flush()
    except KwsqError as error:
        _message(error.summary)
        for problem in error.problems:
            _message(f"  {problem}")
        code = error.exit_code
    except KeyboardInterrupt:
        _message("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read stdout has seen enough; Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = IO_FAILED
    except Exception as error:
        if verbose:
            import traceback

            traceback.print_exc(file=sys.stderr)
        _message(f"internal error: {type(error).__name__}: {error}")
        _message("this is a defect of kwsq; please report it with the model and the command (-v shows the traceback)")
        code = INTERNAL
    raise typer.Exit(code)


def _message(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"kwsq: {printable(text)}", file=sys.stderr)


def _print(facts: Mapping[str, Any], blocks: Any, *, as_json: bool) -> None:
    if as_json:
        from kwsq.converter.manifest import json_bytes

        sys.stdout.write(json_bytes(facts).decode())
        return
    from kwsq.converter.terminal import show

    show(blocks, sys.stdout, color=not os.environ.get("NO_COLOR"))


def _titled(model: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"generator": "kwsq", "schema_version": 1, "file": model.name, **facts}


def _read(path: Path) -> bytes:
    from kwsq.ir.errors import Problem, UsageError

    try:
        return path.read_bytes()
    except OSError as error:
        found = error.strerror or str(error)
        raise UsageError(Problem(str(path), found, "an .onnx or .tflite file", "check the path")) from error


def _is_tflite(path: Path, data: bytes) -> bool:
    return data[4:8] == b"TFL3" or path.suffix == ".tflite"


@contextlib.contextmanager
def _progress(*, quiet: bool, verbose: bool) -> Iterator[Callable[[str], None]]:
    """Yields what is called with the name of each stage: a line that changes on a terminal, timed lines with -v."""
    if verbose:
        yield _StageLog(sys.stderr).begin
    elif quiet or os.environ.get("CI") or not sys.stderr.isatty():
        yield lambda stage: None
    else:
        from rich.console import Console

        with Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR"))).status("start") as status:
            yield status.update


class _StageLog:
    """Writes when each stage begins, in seconds from the start."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._start = stream, time.monotonic()

    def begin(self, stage: str) -> None:
        """Notes the beginning of a stage."""
        print(f"kwsq: {time.monotonic() - self._start:7.2f} s  {stage}", file=self._stream)
