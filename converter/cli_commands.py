"""The commands of `kwsq-convert` and `kwsq`.

Only typer is imported up front: `--help` must not wait for ONNX.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from kwsq.converter import cli_options as options
from kwsq.converter.cli_ci import attest, lint
from kwsq.converter.cli_gate import gate, gate_judge, gate_plan, report
from kwsq.converter.cli_outcome import EXIT_CODES, finish, message, show_result, write_result
from kwsq.converter.config import ConvertOptions, check_options, hop_problems, parse_accuracy, parse_shape, parse_states
from kwsq.converter.input_file import read_file
from kwsq.ir.errors import UsageError

if TYPE_CHECKING:
    from kwsq.converter.footprint import MemoryReport

FIELD_OF_OPTION = {"wbits": "weight_bits", "row_align": "row_align_bits", "inputs": "parity_inputs"}
"""Options whose field of `ConvertOptions` has another name."""
ZOO = "kwsq.models.cli"
ZOO_COMMANDS = {
    "train": "Train recipes of the model zoo; goes on where it was killed (needs kwsq[train]).",
    "eval": "Print the accuracy of the zoo's models on labelled clips.",
    "shard": "Write the clips a recipe trains on into shards (needs kwsq[train]).",
    "merge-scores": "Merge the score files that several machines wrote, into one that `kwsq gate` reads.",
}
PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def convert(
    model: options.OnnxModel,
    target: options.Target,
    wbits: options.WeightBits = None,
    container: options.Container = None,
    emit: options.Emit = "tflite",
    runtime: options.Runtime = "litert",
    row_align: options.RowAlign = None,
    accelerator: options.Accelerator = None,
    calibration: options.Calibration = None,
    data: options.Data = None,
    output: options.Output = None,
    force: options.Force = False,
    batch: options.Batch = None,
    shape: options.Shapes = None,
    io: options.Io = "int8",
    drop_softmax: options.DropSoftmax = False,
    strip_names: options.StripNames = False,
    offline_memory_plan: options.OfflineMemoryPlan = False,
    hop_ms: options.HopMs = None,
    scheme: options.Scheme = None,
    ranges: options.Ranges = None,
    requantize: options.Requantize = False,
    state: options.States = None,
    encodings: options.Encodings = None,
    min_accuracy: options.MinAccuracy = None,
    inputs: options.Inputs = 64,
    seed: options.Seed = 0,
    intermediates: options.Intermediates = False,
    bisect: options.Bisect = False,
    config: options.Config = None,
    baseline: options.Baseline = None,
    update_baseline: options.UpdateBaseline = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Convert an ONNX keyword-spotting model and prove the result."""
    arguments = dict(locals())  # every option, under its own name
    finish(lambda: _convert(arguments), verbose=verbose)


def _convert(arguments: dict[str, Any]) -> int:
    as_json, quiet, verbose = (arguments.pop(name) for name in ("as_json", "quiet", "verbose"))
    shapes, states, min_accuracy = (arguments.pop(name) for name in ("shape", "state", "min_accuracy"))
    chosen = ConvertOptions(
        **{FIELD_OF_OPTION.get(name, name): value for name, value in arguments.items()},
        shapes=dict(parse_shape(text) for text in shapes or ()),
        states=parse_states(states),
        min_accuracy=None if min_accuracy is None else parse_accuracy(min_accuracy),
    )
    # Before the imports below, which take longer than everything a wrong option needs.
    check_options(chosen)
    from kwsq.converter.driver import convert as run_driver
    from kwsq.converter.summaries import conversion_blocks

    with _progress(quiet=quiet, verbose=verbose) as progress:
        result = run_driver(chosen, progress)
    blocks = conversion_blocks(result.report, str(result.directory))
    show_result(result.report, blocks[:1] if quiet else blocks, as_json=as_json)
    for reason in result.report["result"]["verdict"]["reasons"]:
        message(f"{'failed' if result.exit_code == 1 else 'inconclusive'}: {reason}")
    return result.exit_code


def inspect(
    model: options.AnyModel,
    batch: options.Batch = None,
    shape: options.Shapes = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Show dialects, scales and bits of an .onnx, .tflite or .kwsq, and what would be refused."""

    def action() -> int:
        data, shapes = read_file(model, "model"), dict(parse_shape(text) for text in shape or ())
        from kwsq.converter.summaries import inspection_blocks

        match _format_of(model, data):
            case "kwsq":
                from kwsq.converter.inspect_pack import inspect_pack

                facts = inspect_pack(data, model.name)
            case "tflite":
                from kwsq.converter.inspect import inspect_tflite

                facts = inspect_tflite(data, model.name)
            case _:
                from kwsq.converter.inspect import inspect_onnx

                facts = inspect_onnx(data, model.name, batch, shapes)
        show_result(_titled(model, facts), inspection_blocks(facts), as_json=as_json)
        return 0

    finish(action, verbose=verbose)


def footprint(
    model: options.AnyModel,
    batch: options.Batch = None,
    shape: options.Shapes = None,
    hop_ms: options.HopMs = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure flash, activation memory and MACs of any .onnx, .tflite or .kwsq."""

    def action() -> int:
        problems = hop_problems(hop_ms)
        if problems:
            raise UsageError(problems)
        data, shapes = read_file(model, "model"), dict(parse_shape(text) for text in shape or ())
        from kwsq.converter.summaries import footprint_blocks

        report = _measured(data, model, batch, shapes)
        facts = replace(report, hop_ms=hop_ms).to_json()
        show_result(_titled(model, facts), footprint_blocks(facts), as_json=as_json)
        return 0

    finish(action, verbose=verbose)


def _measured(data: bytes, model: Path, batch: int | None, shapes: Mapping[str, tuple[int, ...]]) -> MemoryReport:
    match _format_of(model, data):
        case "kwsq":
            from kwsq.converter.pack_footprint import measure_pack
            from kwsq.targets.accel.reader import read as read_pack

            return measure_pack(read_pack(data, model.name))
        case "tflite":
            from kwsq.converter.tflite_footprint import measure_with_arena

            return measure_with_arena(data, model.name)
        case _:
            from kwsq.converter.onnx_footprint import measure_onnx

            return measure_onnx(data, model.name, batch, shapes)


def run(
    model: options.AnyModel,
    inputs: options.RunInput,
    output: options.RunOutput,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Run a .kwsq, .tflite or .onnx on arrays and save its outputs.

    A .kwsq carries its streaming states from one sample to the next, from 0 on; the others take states as inputs and
    return them as outputs.
    """

    def action() -> int:
        data = read_file(model, "model")
        from kwsq.converter.run_model import run_model
        from kwsq.converter.summaries import run_blocks

        facts = run_model(data, _format_of(model, data), model, inputs, output)
        show_result(_titled(model, facts), run_blocks(facts), as_json=as_json)
        return 0

    finish(action, verbose=verbose)


def bisect(
    model: options.OnnxModel,
    wbits: options.WeightBits = None,
    calibration: options.Calibration = None,
    data: options.Data = None,
    batch: options.Batch = None,
    shape: options.Shapes = None,
    inputs: options.BisectInputs = 64,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.NoProgress = False,
    verbose: options.Verbose = False,
) -> None:
    """Find the layers whose quantization costs most: each alone, and all but each."""

    def action() -> int:
        chosen = ConvertOptions(
            model,
            "neon",
            weight_bits=wbits,
            calibration=calibration,
            data=data,
            batch=batch,
            shapes=dict(parse_shape(text) for text in shape or ()),
            parity_inputs=inputs,
            seed=seed,
        )
        check_options(chosen)
        from kwsq.converter.bisect_command import bisect_blocks, bisect_model

        with _progress(quiet=quiet, verbose=verbose) as progress:
            report = bisect_model(chosen, progress)
        show_result(report, bisect_blocks(report), as_json=as_json)
        return 0

    finish(action, verbose=verbose)


def ops(
    as_json: options.AsJson = False,
    markdown: options.Markdown = False,
    verbose: options.Verbose = False,
) -> None:
    """List supported operators and dialects, read off the code."""

    def action() -> int:
        from kwsq.converter.ops import as_markdown, supported
        from kwsq.converter.summaries import ops_blocks

        if markdown:
            write_result(as_markdown())
            return 0
        facts = supported()
        show_result(facts, ops_blocks(facts), as_json=as_json)
        return 0

    finish(action, verbose=verbose)


def application(name: Literal["kwsq", "kwsq-convert"]) -> typer.Typer:
    """Returns the commands of a program."""
    if name == "kwsq-convert":
        app = new_app(epilog=EXIT_CODES)
        app.command("kwsq-convert", epilog=EXIT_CODES)(convert)
        return app
    app = new_app(help="Convert keyword-spotting models and look into them.", no_args_is_help=True)
    app.command(epilog=EXIT_CODES)(convert)
    app.command()(inspect)
    app.command()(footprint)
    app.command()(run)
    app.command()(bisect)
    app.command()(ops)
    app.command(epilog=EXIT_CODES)(lint)
    app.command()(attest)
    gates = new_app(help="Judge whether a candidate detects as well as its reference.", epilog=EXIT_CODES)
    gates.callback(invoke_without_command=True)(gate)
    gates.command("judge")(gate_judge)
    gates.command("plan")(gate_plan)
    app.add_typer(gates, name="gate")
    app.command()(report)
    for command, summary in ZOO_COMMANDS.items():
        app.command(command, help=summary, context_settings=PASSED_ON)(_zoo)
    return app


def _zoo(context: typer.Context) -> None:
    # By name, when it is asked for: nothing here knows models/, which stands above.
    importlib.import_module(ZOO).app([str(context.info_name), *context.args], prog_name="kwsq")


def new_app(**settings: Any) -> typer.Typer:
    """Returns a program without commands, as all of kwsq's are: settings as `typer.Typer` takes them."""
    # Boxes and colours only where somebody looks; rich costs as much as everything else in --help.
    markup: Literal["rich"] | None = "rich" if sys.stdout.isatty() and sys.stderr.isatty() else None
    return typer.Typer(add_completion=False, rich_markup_mode=markup, pretty_exceptions_enable=False, **settings)


def _titled(model: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"generator": "kwsq", "schema_version": 1, "file": model.name, **facts}


def _format_of(path: Path, data: bytes) -> Literal["kwsq", "tflite", "onnx"]:
    """Returns what a file is, by what it begins with and else by its name."""
    if data.startswith(b"KWSQPACK") or path.suffix == ".kwsq":
        return "kwsq"
    return "tflite" if data[4:8] == b"TFL3" or path.suffix == ".tflite" else "onnx"


@contextlib.contextmanager
def _progress(*, quiet: bool, verbose: bool) -> Iterator[Callable[[str], None]]:
    """Yields what is called with the name of each stage: a line that changes on a terminal, timed lines with -v."""
    if verbose:
        yield _StageLog().begin
    elif quiet or os.environ.get("CI") or not sys.stderr.isatty():
        yield lambda stage: None
    else:
        from rich.console import Console

        # A descriptor of its own: runtimes' messages are caught by redirecting descriptor 2 for a while.
        with os.fdopen(os.dup(sys.stderr.fileno()), "w", errors="backslashreplace") as terminal:
            console = Console(file=terminal, no_color=bool(os.environ.get("NO_COLOR")))
            with console.status("start") as status:
                yield status.update


class _StageLog:
    """Writes when each stage begins, in seconds from the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def begin(self, stage: str) -> None:
        """Notes the beginning of a stage."""
        message(f"{time.monotonic() - self._start:7.2f} s  {stage}")
