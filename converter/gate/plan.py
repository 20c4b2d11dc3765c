"""How much data the gate needs for a margin: by formula, and by simulating the gate itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from kwsq.converter.gate.bootstrap import generator
from kwsq.converter.gate.checks import margin_of
from kwsq.converter.gate.config import GateConfig, check_config
from kwsq.converter.gate.decision import decide
from kwsq.converter.gate.simulate import ScoreModel
from kwsq.converter.gate.sizing import errors_needed, false_accepts_needed, hours_needed, positives_needed
from kwsq.converter.gate.verdict import Status
from kwsq.ir.errors import Problem, UsageError

Json = dict[str, object]
PLAN_REPLICATES = 200
PLAN_RUNS = 40
_STREAM = 6
_OVERLAPS = (0.0, 0.8, 0.9, 0.95)
_RATE_WIDTHS = (0.3, 0.2, 0.1, 0.05)


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is known before there is data.

    Args:
        positives: keyword trials that could be had.
        negatives: other trials that could be had.
        false_accept_rate: of the reference at the target.
        noise: sigma of what the candidate adds to a score, in standard deviations of the scores.
        discordance: share of keyword trials on which the models will disagree.
        runs: simulated test sets.
    """

    positives: int = 3000
    negatives: int = 150_000
    false_accept_rate: float = 0.0015
    noise: float = 0.02
    discordance: float = 0.01
    runs: int = PLAN_RUNS


def plan(request: PlanRequest, config: GateConfig) -> Json:
    """Returns data sizes by formula and the chance to pass with the size named.

    Raises:
        UsageError: a number is out of range.
    """
    check_config(config)
    _check(request)
    return {"formulas": _formulas(request, config), "simulation": _simulated(request, config)}


def _check(request: PlanRequest) -> None:
    allowed = {
        "positives": (10 <= request.positives <= 10**6, "10 to 1000000"),
        "negatives": (10 <= request.negatives <= 10**9, "10 to 1000000000"),
        "false_accept_rate": (0 < request.false_accept_rate < 0.5, "a fraction above 0 and below 0.5"),
        "noise": (0 < request.noise <= 2, "above 0, at most 2"),
        "discordance": (0 < request.discordance <= 1, "a fraction above 0"),
        "runs": (1 <= request.runs <= 10_000, "1 to 10000"),
    }
    wrong = [(name, text) for name, (good, text) in allowed.items() if not good]
    if wrong:
        raise UsageError(
            [Problem(f"plan, {n}", repr(getattr(request, n)), text, "correct the value") for n, text in wrong]
        )


def _formulas(request: PlanRequest, config: GateConfig) -> Json:
    positives = positives_needed(margin_of("frr_margin_pp", config), request.discordance, config.confidence)
    accepts = {f"{o:.0%}": false_accepts_needed(config.fa_ratio_margin, o, config.confidence) for o in _OVERLAPS}
    negatives = {share: math.ceil(count / request.false_accept_rate) for share, count in accepts.items()}
    return {
        "positives_for_frr_margin": positives,
        "false_accepts_by_overlap": accepts,
        "negatives_by_overlap": negatives,
        "errors_by_relative_width": {f"{w:.0%}": errors_needed(w, config.confidence) for w in _RATE_WIDTHS},
        "hours_without_false_accept_for_half_per_hour": hours_needed(0.5, 0, config.confidence),
        "remark": "formulas leave out that the threshold is estimated: lower bounds; the simulation counts it",
    }


def _simulated(request: PlanRequest, config: GateConfig) -> Json:
    phi = 0.05 if config.target_frr is None else config.target_frr
    if not 0 < phi < 1:
        raise UsageError(Problem("plan, target_frr", repr(phi), "a fraction above 0", "correct the value"))
    model = ScoreModel.of_rates(phi, request.false_accept_rate, request.noise)
    # Its own threshold on simulated scores, whatever the one in production is.
    settings = replace(config, target_frr=phi, threshold=None, replicates=PLAN_REPLICATES)
    rng = generator(config.seed, _STREAM)
    passes: dict[str, int] = {}
    for _ in range(request.runs):
        decision = decide(model.draw(rng, request.positives, request.negatives), settings)
        for check in decision.checks:
            if check.status is not Status.SKIPPED:
                passes[check.id] = passes.get(check.id, 0) + (check.status is Status.PASS)
        passes["gate"] = passes.get("gate", 0) + (decision.status is Status.PASS)
    return {
        "positives": request.positives,
        "negatives": request.negatives,
        "runs": request.runs,
        "true_fa_ratio_matched": model.fa_ratio,
        "true_fa_ratio_frozen": model.frozen_fa_ratio,
        "true_frr_increase_frozen": model.frozen_frr_increase,
        "pass_share": {name: float(np.float64(count) / request.runs) for name, count in passes.items()},
    }
