"""The commands `kwsq gate`, `kwsq gate judge`, `kwsq gate plan` and `kwsq report`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from kwsq.converter import cli_options as options
from kwsq.converter.cli_outcome import finish, show_result, write_result


def gate(
    context: typer.Context,
    reference: options.GateReference = None,
    candidate: options.GateCandidate = None,
    data: options.GateData = None,
    keyword: options.Keyword = None,
    config: options.Config = None,
    target_frr: options.TargetFrr = None,
    threshold: options.Threshold = None,
    fa_margin: options.FaMargin = None,
    frr_margin: options.FrrMargin = None,
    keyword_rate: options.KeywordRate = None,
    seed: options.GateSeed = None,
    on_inconclusive: options.OnInconclusive = None,
    baseline: options.GateBaseline = None,
    update_baseline: options.UpdateBaseline = False,
    output: options.ReportFile = None,
    force: options.ForceFile = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Judge whether a candidate detects as well as its reference: PASS, FAIL or INCONCLUSIVE."""
    flags = {
        "target_frr": target_frr,
        "threshold": threshold,
        "fa_ratio_margin": fa_margin,
        "relative_fdr_margin": fa_margin,
        "frr_margin_pp": frr_margin,
        "keyword_rate": keyword_rate,
        "seed": seed,
        "on_inconclusive": on_inconclusive,
    }
    if context.invoked_subcommand is not None:
        return

    def action() -> int:
        from kwsq.converter.gate.commands import check_report_place, compare

        check_report_place(output, force=force, kept=(reference, candidate, data, config))
        measured = (baseline, update_baseline)
        report = compare(reference, candidate, data, tuple(keyword or ()), config, flags, measured)
        return _publish_gate(report, output, force=force, as_json=as_json, quiet=quiet)

    finish(action, verbose=verbose)


def gate_judge(
    report: options.GateReport,
    config: options.Config = None,
    fa_margin: options.FaMarginAgain = None,
    frr_margin: options.FrrMarginAgain = None,
    on_inconclusive: options.OnInconclusiveAgain = None,
    output: options.ReportFile = None,
    force: options.ForceFile = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Judge an earlier report again under other margins; no model is run."""
    flags = {
        "fa_ratio_margin": fa_margin,
        "relative_fdr_margin": fa_margin,
        "frr_margin_pp": frr_margin,
        "on_inconclusive": on_inconclusive,
    }

    def action() -> int:
        from kwsq.converter.gate.commands import check_report_place, judge_again

        check_report_place(output, force=force, kept=(config,))
        return _publish_gate(judge_again(report, config, flags), output, force=force, as_json=as_json, quiet=quiet)

    finish(action, verbose=verbose)


def gate_plan(
    positives: options.Positives = 3000,
    negatives: options.Negatives = 150_000,
    false_accept_rate: options.FalseAcceptRate = 0.0015,
    noise: options.Noise = 0.02,
    discordance: options.Discordance = 0.01,
    runs: options.Runs = 40,
    config: options.Config = None,
    target_frr: options.TargetFrr = None,
    fa_margin: options.FaMargin = None,
    frr_margin: options.FrrMargin = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Say how many trials the margins need, by formula and by simulation."""
    flags = {
        "target_frr": target_frr,
        "fa_ratio_margin": fa_margin,
        "relative_fdr_margin": fa_margin,
        "frr_margin_pp": frr_margin,
    }

    def action() -> int:
        from kwsq.converter.gate.commands import plan_for
        from kwsq.converter.gate_summaries import plan_blocks

        facts = plan_for((positives, negatives, false_accept_rate, noise, discordance, runs), config, flags)
        show_result(facts, plan_blocks(facts), as_json=as_json)
        return 0

    finish(action, verbose=verbose)


def report(
    document: options.SavedReport,
    to: options.ReportFormat = "text",
    figure: options.Figure = "sqnr",
    verbose: options.Verbose = False,
) -> None:
    """Render a report of kwsq as text, Markdown for a job summary, JUnit XML, a page or node data."""

    def action() -> int:
        from kwsq.converter.saved_report import is_gate, read_saved

        saved = read_saved(document)
        if to == "model-explorer":
            from kwsq.converter.manifest import json_bytes
            from kwsq.converter.model_explorer import node_data

            text = json_bytes(node_data(saved, figure)).decode()
        elif is_gate(saved):
            from kwsq.converter.gate_render import render

            text = render(saved, to)
        else:
            from kwsq.converter.report_render import render_conversion

            text = render_conversion(saved, to, str(document.parent))
        write_result(text, is_utf8=True)  # what is rendered says so, or is read by machines
        return 0

    finish(action, verbose=verbose)


def _publish_gate(report: Mapping[str, Any], output: Path | None, *, force: bool, as_json: bool, quiet: bool) -> int:
    from kwsq.converter.gate.commands import write_report
    from kwsq.converter.gate_summaries import gate_blocks

    if output is not None:
        write_report(report, output, force=force)
    blocks = gate_blocks(report)
    show_result(report, blocks[:1] if quiet else blocks, as_json=as_json)
    return int(report["result"]["verdict"]["exit_code"])
