"""What `kwsq gate` does, without printing: from files to a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kwsq.converter.baseline import Baseline
from kwsq.converter.budget import read_budget
from kwsq.converter.gate.class_trials import ClassTrials
from kwsq.converter.gate.config import GateConfig
from kwsq.converter.gate.decision import decide
from kwsq.converter.gate.pairs import PairedTrials
from kwsq.converter.gate.plan import PlanRequest, plan
from kwsq.converter.gate.report import checked_report, gate_document, gate_report, rejudge
from kwsq.converter.gate.score_files import evalset_sha256, is_score_file, join, read_scores
from kwsq.converter.gate_budget import MODELS, SCORES, GateBudget, judged_again
from kwsq.converter.input_file import read_file
from kwsq.converter.manifest import json_bytes
from kwsq.converter.output import check_new_file, write_file
from kwsq.converter.settings import gate_config, read_settings
from kwsq.ir.errors import Problem, UsageError

Json = dict[str, Any]


def compare(
    reference: Path | None,
    candidate: Path | None,
    data: Path | None,
    keywords: tuple[int, ...],
    config: Path | None,
    flags: Mapping[str, Any],
    baseline: tuple[Path | None, bool] = (None, False),
) -> Json:
    """Returns the report on two score files, or on two models and labelled data.

    Args:
        reference: scores or model of the approved detector.
        candidate: scores or model of the one to release.
        data: `.npz` of inputs and labels; needed by models.
        keywords: classes that are keywords, for models; none pools every class.
        config: settings file.
        flags: settings given on the command line, None where not given.
        baseline: file of the baseline, None for the usual one where there is one, and whether to renew it.

    Raises:
        KwsqError: an option, a file or a model is unfit.
    """
    sections = read_settings(config)
    settings = gate_config(sections, {**flags, "keywords": keywords or None})
    limits = read_budget(sections.get("budget", {}))
    if reference is None or candidate is None:
        missing = " and ".join(n for n, p in (("--reference", reference), ("--candidate", candidate)) if p is None)
        raise UsageError(Problem("kwsq gate", f"no {missing}", "both models or score files", "add the option"))
    trials, sources = _compared(reference, candidate, data, settings, by_option=bool(keywords))
    if isinstance(trials, PairedTrials):
        decision, target, metrics = decide(trials, settings), SCORES, dict[str, float]()
    else:
        decision = decide(trials.pairs, settings, trials.classified, trials.streams)
        target, metrics = MODELS, {**_sizes(candidate), "accuracy": float(trials.classified.candidate.mean())}
    rate = decision.comparison.candidate.matched.false_discovery_rate
    metrics |= {} if rate is None else {"fdr": rate}
    approved, released, evalset = (sources[name]["sha256"] for name in ("reference", "candidate", "evalset"))
    budget = GateBudget(limits, Baseline(target, approved, released, evalset, metrics), *baseline)
    report = gate_report(decision, sources, budget.section())
    if budget.update and report["result"]["verdict"]["exit_code"] == 0:
        budget.renew()
    return report


def _sizes(candidate: Path) -> dict[str, float]:
    """Returns what a `.tflite` costs, nothing for other files, whose cost is not that of what is flashed."""
    data = read_file(candidate, "--candidate")
    if data[4:8] != b"TFL3":
        return {}
    from kwsq.converter.tflite_footprint import measure
    from kwsq.targets.neon.reader import read

    footprint = measure(read(data, candidate.name))
    memory = {} if footprint.plan is None else {"ram_peak": footprint.plan.high_water_bytes}
    return {"flash_total": len(data), "macs": footprint.macs, **memory}


def _compared(
    reference: Path, candidate: Path, data: Path | None, config: GateConfig, *, by_option: bool
) -> tuple[PairedTrials | ClassTrials, Json]:
    if is_score_file(reference) and is_score_file(candidate):
        if data is not None or by_option:
            found = "--data or --keyword with score files"
            raise UsageError(Problem("kwsq gate", found, "score files alone", "leave them out, or name two models"))
        first, second = read_scores(reference, "--reference"), read_scores(candidate, "--candidate")
        sources = {
            "reference": {"file": first.name, "sha256": first.sha256},
            "candidate": {"file": second.name, "sha256": second.sha256},
            "evalset": {"file": None, "sha256": evalset_sha256(first)},
        }
        return join(first, second), sources
    if is_score_file(reference) or is_score_file(candidate):
        scores, model = (reference, candidate) if is_score_file(reference) else (candidate, reference)
        found = f"scores {scores.name!r} and a model {model.name!r}"
        remedy = "name two models and --data, or two score files (kwsq eval --scores)"
        raise UsageError(Problem("kwsq gate", found, "two of a kind", remedy))
    from kwsq.converter.gate.model_pairs import scored_pair

    if data is None:
        found = "no --data"
        raise UsageError(Problem("kwsq gate", found, "labelled inputs to run the models on", "add --data EVAL.npz"))
    return scored_pair(reference, candidate, data, config)


def judge_again(report: Path, config: Path | None, flags: Mapping[str, Any]) -> Json:
    """Returns an earlier report under other margins.

    Raises:
        UsageError: not a gate's report, or a setting that would change the bounds.
    """
    sections = read_settings(config)
    settings = gate_config(sections, flags)
    named = [*sections.get("gate", {}), *(name for name, value in flags.items() if value is not None)]
    document = read_report(report)
    budget = document["result"].get("budget")
    limits = read_budget(sections.get("budget", {}))
    if limits and budget is None:
        found, remedy = "limits, and a report without measurements", "convert again, or run the gate again"
        raise UsageError(Problem(f"settings, [budget], and {report.name!r}", found, "a report with a budget", remedy))
    if budget is not None and "budget" in sections:
        budget = judged_again(limits, budget)
    values = {name: getattr(settings, name) for name in named}
    return rejudge(document, f"report {report.name!r}", values, budget)


def read_report(path: Path) -> Json:
    """Returns a gate's report, also out of the report of a conversion with `--data`.

    Raises:
        UsageError: not JSON, or another document.
    """
    where = f"report {path.name!r}"
    try:
        document = json.loads(read_file(path, "report"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UsageError(Problem(where, str(error), "JSON", "name a report of kwsq gate")) from error
    return checked_report(gate_document(document), where)


def plan_for(numbers: tuple[int, int, float, float, float, int], config: Path | None, flags: Mapping[str, Any]) -> Json:
    """Returns the plan for keyword trials, others, false accept rate, noise, discordance and runs."""
    return dict(plan(PlanRequest(*numbers), gate_config(read_settings(config), flags)))


def check_report_place(path: Path | None, *, force: bool, kept: Sequence[Path | None] = ()) -> None:
    """Checks where a report is to be written, before the work for it.

    Raises:
        UsageError: the file exists and `force` is not given, is one of those kept, or cannot be written.
    """
    if path is not None:
        check_new_file(path, _place(path), force=force, kept=kept)


def write_report(report: Mapping[str, Any], path: Path, *, force: bool) -> None:
    """Writes a report, whole or not at all.

    Raises:
        UsageError: the file exists and `force` is not given, or it cannot be written.
    """
    check_report_place(path, force=force)
    write_file(path, json_bytes(report), _place(path))


def _place(path: Path) -> str:
    return f"--output {str(path)!r}"
