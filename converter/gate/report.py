"""The gate's report: one JSON document, from which everything else is rendered, and judging it again."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kwsq.converter.det import det_curve
from kwsq.converter.det.trials import Trials
from kwsq.converter.gate import few_groups
from kwsq.converter.gate.checks import accuracy_floor, margin_of
from kwsq.converter.gate.config import MARGINS, GateConfig, check_config
from kwsq.converter.gate.decision import EXACT, Decision, exit_code
from kwsq.converter.gate.verdict import Check, Status, TrialsNeeded, judged, overall
from kwsq.converter.manifest import versions
from kwsq.ir.errors import Problem, UsageError

Json = dict[str, Any]
SCHEMA_VERSION = 1
KIND = "gate"
CURVE_POINTS = 200


def gate_report(decision: Decision, sources: Mapping[str, Json], budget: Json | None = None) -> Json:
    """Returns the report of a decision.

    Args:
        decision: of the gate.
        sources: what was compared: "reference", "candidate" and "evalset", each with names and hashes.
        budget: what became of the limits in the settings; None in a conversion, which has a budget of its own.
    """
    comparison, config = decision.comparison, decision.comparison.config
    groups = comparison.groups() if comparison.pairs.is_clustered else None
    models = {"reference": comparison.reference, "candidate": comparison.candidate}
    rate = config.keyword_rate
    return _document(
        {
            "verdict": verdict_section(decision.checks, config, budget),
            "settings": config.to_json(),
            "sources": dict(sources),
            "trials": {
                "positives": comparison.positives,
                "negatives": comparison.negatives,
                "negative_hours": comparison.pairs.reference.negative_hours,
                "groups_with_keyword": groups[0] if groups else None,
                "groups_without_keyword": groups[1] if groups else None,
            },
            "operating_point": {
                "target_frr": comparison.target_frr,
                "frozen_threshold": comparison.threshold,
                "mean_false_accepts_over_band": dict(zip(models, comparison.accepts, strict=True)),
                **{name: point.to_json() for name, point in models.items()},
            },
            "false_discovery_rate_at_keyword_rate": {
                "keywords_per_hour": rate,
                **{
                    name: None if rate is None else point.matched.false_discovery_rate_at(rate)
                    for name, point in models.items()
                },
            },
            "checks": [check.to_json() for check in decision.checks],
            **({} if budget is None else {"budget": budget}),
            "det_curves": {
                "reference": _curve(comparison.pairs.reference),
                "candidate": _curve(comparison.pairs.candidate),
            },
            "notes": [
                *decision.notes,
                *(f"{name}: {source['lint']}" for name, source in sources.items() if source.get("lint")),
            ],
        }
    )


def _document(result: Json) -> Json:
    return {
        "generator": "kwsq",
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "result": result,
        "run": {"versions": versions(), "python": platform.python_version(), "machine": platform.machine()},
    }


def verdict_section(checks: tuple[Check, ...], config: GateConfig, budget: Json | None = None) -> Json:
    """Returns the verdict with the reasons for anything but PASS; a broken budget fails whatever the checks say."""
    status, broken = overall(checks), [] if budget is None else budget["failures"]
    deciding = [check for check in checks if check.status is status and status is not Status.PASS]
    reasons = [*(f"{check.id}: {sentence(check)}" for check in deciding), *broken]
    status = Status.FAIL if broken else status
    return {"status": status.value, "exit_code": exit_code(status, config.on_inconclusive), "reasons": reasons}


def sentence(check: Check) -> str:
    """Returns what a check found, in words.

    >>> sentence(Check("P1", "false accepts", "ratio", 0.1, "m", 0.25, 0.12, 0.4, Status.FAIL, ""))
    'false accepts: +25.0 % (between +12.0 % and +40.0 %), margin +10.0 %'
    """
    if check.status is Status.SKIPPED or check.point is None:
        text = f"{check.question}: {check.reason}"
        return text + _wanted(check)
    low, high = amount(check.lower, check.unit), amount(check.upper, check.unit)
    found = f"{check.question}: {amount(check.point, check.unit)} (between {low} and {high})"
    return f"{found}, margin {amount(check.margin, check.unit)}{_wanted(check)}"


def _wanted(check: Check) -> str:
    if check.needed is None or check.status is not Status.INCONCLUSIVE:
        return ""
    kind = "samples" if check.id.startswith("P4") else "keyword trials"
    others = f" and {check.needed.negatives:,} others" if check.needed.negatives else ""
    return f"; about {check.needed.positives:,} {kind}{others} would settle it, assuming {check.needed.assuming}"


def amount(value: float | None, unit: str) -> str:
    """Returns a worsening with its sign and unit.

    >>> amount(0.1, "ratio"), amount(-0.0021, "fraction"), amount(0.02, "seconds"), amount(None, "ratio")
    ('+10.0 %', '-0.21 pp', '+0.020 s', 'unbounded')
    """
    if value is None:
        return "unbounded"
    if unit == "ratio":
        return f"{100 * value:+.1f} %"
    return f"{100 * value:+.2f} pp" if unit == "fraction" else f"{value:+.3f} s"


def _curve(trials: Trials) -> Json:
    """Returns the DET curve, thinned evenly over its corners."""
    curve = det_curve(trials)
    corners = curve.corners()
    if corners.size > CURVE_POINTS:
        corners = corners[[round(i * (corners.size - 1) / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)]]
    return {
        "false_accept_rate": curve.false_accept_rate[corners].tolist(),
        "false_accepts_per_hour": curve.false_accepts_per_hour[corners].tolist(),
        "false_reject_rate": curve.false_reject_rate[corners].tolist(),
        "threshold": curve.threshold[corners].tolist(),
    }


def gate_document(document: Any) -> Any:
    """Returns the gate's part of a conversion report as a report of its own, any other document as it is."""
    result = document.get("result") if isinstance(document, dict) else None
    gate = result.get("gate") if isinstance(result, dict) and "kind" not in document else None
    if not isinstance(gate, dict):
        return document
    inner = {name: value for name, value in gate.items() if name != "enforced"}
    lines = result.get("budget") if isinstance(result, dict) else None
    if lines:
        inner["budget"] = _budget_of(lines) if isinstance(lines, list) else lines
    return {**document, "kind": KIND, "schema_version": SCHEMA_VERSION, "result": inner}


def _budget_of(lines: list[Any]) -> Any:
    """Returns a conversion's budget lines as the section of a gate's report; damaged ones for the check to refuse."""
    if not all(isinstance(line, dict) and isinstance(line.get("exceeded"), list) for line in lines):
        return lines
    broken = [(line.get("status"), text) for line in lines for text in line["exceeded"]]
    return {
        "metrics": {str(line.get("metric")): line.get("measured") for line in lines},
        "lines": lines,
        "failures": [text for status, text in broken if status == "fail"],
        "warnings": [text for status, text in broken if status == "warn"],
        "not_measured_here": [],
    }


def checked_report(document: object, where: str) -> Json:
    """Returns the document if it is a gate's report.

    Raises:
        UsageError: it is another document, or damaged.
    """
    named = (document.get("kind"), document.get("schema_version")) if isinstance(document, dict) else None
    if not isinstance(document, dict) or named != (KIND, SCHEMA_VERSION):
        raise UsageError(Problem(where, "another document", "a report of kwsq gate", "name a gate's report"))
    try:
        result = document["result"]
        Status(result["verdict"]["status"])
        checks = [_check(entry) for entry in result["checks"]]
        _check_numbers(checks)
        check_config(GateConfig.from_json(result["settings"]))
        _check_budget(result.get("budget"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = f"a damaged report: {type(error).__name__} {error}"
        raise UsageError(Problem(where, found, "a report of kwsq gate", "run the gate again")) from error
    return document


def _check_budget(budget: Any) -> None:
    if budget is None:
        return
    numbers = [*budget["metrics"].values(), *(line["measured"] for line in budget["lines"])]
    numbers += [value for line in budget["lines"] for value in (line["baseline"], line["limit"]) if value is not None]
    texts = [*budget["failures"], *budget["warnings"], *budget["not_measured_here"]]
    texts += [line[name] for line in budget["lines"] for name in ("metric", "status")]
    if not all(isinstance(n, int | float) for n in numbers) or not all(isinstance(t, str) for t in texts):
        raise TypeError("budget")


def _check_numbers(checks: list[Check]) -> None:
    for check in checks:
        bounds = (check.point, check.lower, check.upper)
        numbers = [check.margin, check.positives, check.negatives, *(b for b in bounds if b is not None)]
        if not all(isinstance(value, int | float) for value in numbers):
            raise TypeError(f"numbers of {check.id}")
        if not (isinstance(check.question, str) and isinstance(check.id, str)):
            raise TypeError(f"texts of {check.id}")


def rejudge(report: Json, where: str, settings: Mapping[str, Any], budget: Json | None = None) -> Json:
    """Returns a report with its verdicts under other margins; the bounds stay as they were measured.

    Args:
        report: of an earlier gate, as `checked_report` returned it.
        where: its name, for messages.
        settings: settings to replace, by name.
        budget: the budget under the limits in force, None for none.

    Raises:
        UsageError: a setting that enters the bounds.
    """
    result = report["result"]
    before = GateConfig.from_json(result["settings"])
    checks = [_check(entry) for entry in result["checks"]]
    fixed = [name for name, value in settings.items() if name not in MARGINS and getattr(before, name) != value]
    if fixed:
        expected = f"one of {', '.join(MARGINS)}"
        found = "a setting that enters the bounds"
        raise UsageError([Problem(f"{where}, {name}", found, expected, "run the gate again") for name in fixed])
    config = check_config(replace(before, **settings))
    _require_floor(checks, config, where)
    judged_again = tuple(_judged_again(check, before, config) for check in checks)
    return _document(
        {
            **result,
            **({} if budget is None else {"budget": budget}),
            "verdict": verdict_section(judged_again, config, budget),
            "settings": config.to_json(),
            "checks": [check.to_json() for check in judged_again],
        }
    )


def _require_floor(checks: list[Check], config: GateConfig, where: str) -> None:
    """Refuses a least accuracy that the report says nothing of: it holds the loss, not the accuracy itself."""
    judged = {check.id for check in checks if check.status is not Status.SKIPPED}
    if config.min_accuracy is not None and "P4.top1" in judged and "P4.min_accuracy" not in judged:
        found, expected = "a floor that was not set when the models ran", "no floor, or a report with one"
        raise UsageError(Problem(f"{where}, min_accuracy", found, expected, "run the gate again"))


def _check(entry: Json) -> Check:
    needed = entry["trials_needed"]
    fields = {name: value for name, value in entry.items() if name != "trials_needed"}
    return Check(
        **{**fields, "status": Status(entry["status"])}, needed=None if needed is None else TrialsNeeded(**needed)
    )


def _judged_again(check: Check, before: GateConfig, config: GateConfig) -> Check:
    if check.id == "P4.min_accuracy":
        return accuracy_floor((before.min_accuracy or 0.0) - (check.point or 0.0), config)
    if check.status is Status.SKIPPED:
        return check
    # A margin in hops stands in seconds, so it is scaled; the others are what the setting says.
    scale = check.margin / margin_of(check.margin_setting, before)
    check = replace(check, margin=scale * margin_of(check.margin_setting, config))
    if check.upper is None and check.lower is None:
        return check
    if check.method.startswith(few_groups.METHOD):
        return few_groups.judged_low(check)
    again = judged(replace(check, reason="", needed=None), config.confidence)
    # Why exact differences are exact does not depend on the margin.
    return replace(again, reason=check.reason) if check.method == EXACT else again
