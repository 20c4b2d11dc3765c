"""The commands that serve pipelines: `kwsq lint` and `kwsq attest`."""

from __future__ import annotations

from kwsq.converter import cli_options as options
from kwsq.converter.cli_outcome import finish, show_result, write_result
from kwsq.converter.config import parse_shape
from kwsq.converter.safe_text import printable


def lint(
    models: options.LintModels,
    target: options.LintTarget = "neon",
    batch: options.Batch = None,
    shape: options.Shapes = None,
    as_json: options.AsJson = False,
    quiet: options.LintQuiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Say what keeps .onnx files from being converted, one line per problem; nothing is run."""

    def action() -> int:
        shapes = dict(parse_shape(text) for text in shape or ())
        from kwsq.converter.lint import lint_file

        reports = [lint_file(model, target, batch, shapes) for model in models]
        if as_json:
            facts = {"generator": "kwsq", "schema_version": 1, "files": [report.to_json() for report in reports]}
            show_result(facts, (), as_json=True)
        else:
            shown = [line for report in reports if report.exit_code or not quiet for line in report.lines()]
            write_result("".join(f"{printable(line)}\n" for line in shown))
        return max(report.exit_code for report in reports)

    finish(action, verbose=verbose)


def attest(
    directory: options.AttestedDirectory,
    gate: options.AttestedGate = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Write an in-toto statement, a CycloneDX ML-BOM and a model card beside a proven artefact."""

    def action() -> int:
        from kwsq.converter.attest import attest as write
        from kwsq.converter.terminal import Line

        files = write(directory, gate)
        facts = {"generator": "kwsq", "schema_version": 1, "written": files}
        show_result(facts, [Line(f"written     {name}") for name in files], as_json=as_json)
        return 0

    finish(action, verbose=verbose)
