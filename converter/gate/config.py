"""What the gate is asked: operating point, margins, resamples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from kwsq.converter.det.operating_point import check_target
from kwsq.converter.det.streaming import LOCKOUT_SECONDS
from kwsq.ir.errors import Problem, UsageError

DEFAULT_TARGET_FRR = 0.05
BAND_POINTS = 9
SEED_MAX = 2**64 - 1
PERCENT = 100.0
FRAMES_MAX, LOCKOUT_MAX_SECONDS = 10_000, 3600.0


@dataclass(frozen=True, slots=True)
class GateConfig:
    """Settings of the gate; the keys of `[gate]` in kwsq.toml are these names.

    Args:
        target_frr: phi, false reject rate at which the models are matched; None takes what `threshold` gives the
            reference, or 5 % without one.
        threshold: the reference's threshold in production; None takes the one that gives `target_frr`.
        frr_band: false accepts are averaged over target_frr * (1 +- frr_band), which steadies the estimate of the same
            ratio; 0 compares at the one point.
        fa_ratio_margin: P1 and P3, increase of false accepts that is still good, 0.10 = +10 %.
        relative_fdr_margin: P1, the same for the false discovery rate.
        frr_margin_pp: P2, increase of the false reject rate in percentage points.
        accuracy_margin_pp: P4, loss of top-1 accuracy in percentage points.
        min_accuracy: P4, least top-1 accuracy of the candidate as a fraction, None for no floor.
        latency_margin_hops: P5, increase of the 95th percentile of detection latency, in hops.
        confidence: of each one-sided bound.
        replicates: bootstrap resamples.
        seed: of the resamples.
        keyword_rate: keyword utterances per hour in use, for the false discovery rate at that rate; None leaves it out.
        keywords: classes that are keywords, for models; none pools every class.
        smoothing_frames: for recordings, length of the moving average over past scores.
        lockout_seconds: for recordings, time after a detection during which nothing is detected.
        on_inconclusive: "fail" ends with exit code 3, "warn" with 0.
    """

    target_frr: float | None = None
    threshold: float | None = None
    frr_band: float = 0.2
    fa_ratio_margin: float = 0.10
    relative_fdr_margin: float = 0.10
    frr_margin_pp: float = 0.5
    accuracy_margin_pp: float = 1.0
    min_accuracy: float | None = None
    latency_margin_hops: float = 1.0
    confidence: float = 0.95
    replicates: int = 2000
    seed: int = 0
    keyword_rate: float | None = None
    keywords: tuple[int, ...] = ()
    smoothing_frames: int = 1
    lockout_seconds: float = LOCKOUT_SECONDS
    on_inconclusive: Literal["fail", "warn"] = "fail"

    def to_json(self) -> dict[str, object]:
        """Returns the settings as a JSON-ready dictionary."""
        return {**asdict(self), "keywords": list(self.keywords)}

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Returns the settings that `to_json` wrote.

        Raises:
            TypeError: an unknown name, or keywords that are no list.
        """
        return cls(**{**settings, "keywords": tuple(settings.get("keywords", ()))})


MARGINS = (
    "fa_ratio_margin",
    "relative_fdr_margin",
    "frr_margin_pp",
    "accuracy_margin_pp",
    "min_accuracy",
    "latency_margin_hops",
    "on_inconclusive",
)
"""Settings that a report can be judged by again: they do not enter the bounds."""


def check_config(config: GateConfig) -> GateConfig:
    """Returns the settings after checking them.

    Raises:
        UsageError: listing every value out of range.
    """
    if config.target_frr is not None:
        check_target(config.target_frr)
    allowed: Mapping[str, tuple[bool, str]] = {
        "threshold": (config.threshold is None or math.isfinite(config.threshold), "a finite number"),
        "frr_band": (0 <= config.frr_band < 1, "a fraction from 0 to below 1"),
        "fa_ratio_margin": (0 < config.fa_ratio_margin < math.inf, "a fraction above 0; 0.10 is +10 %"),
        "relative_fdr_margin": (0 < config.relative_fdr_margin < math.inf, "a fraction above 0; 0.10 is +10 %"),
        "frr_margin_pp": (0 < config.frr_margin_pp < PERCENT, "percentage points above 0"),
        "accuracy_margin_pp": (0 < config.accuracy_margin_pp < PERCENT, "percentage points above 0"),
        "min_accuracy": (config.min_accuracy is None or 0 <= config.min_accuracy <= 1, "a fraction from 0 to 1"),
        "latency_margin_hops": (0 < config.latency_margin_hops < math.inf, "hops above 0"),
        "confidence": (0.5 < config.confidence < 1, "a fraction above 0.5 and below 1"),
        "replicates": (100 <= config.replicates <= 100_000, "100 to 100000"),
        "seed": (0 <= config.seed <= SEED_MAX, "0 to 2**64 - 1"),
        "keyword_rate": (
            config.keyword_rate is None or 0 < config.keyword_rate < math.inf,
            "utterances per hour above 0",
        ),
        "keywords": (
            all(keyword >= 0 for keyword in config.keywords) and len(set(config.keywords)) == len(config.keywords),
            "classes from 0, each once",
        ),
        "smoothing_frames": (1 <= config.smoothing_frames <= FRAMES_MAX, f"1 to {FRAMES_MAX}"),
        "lockout_seconds": (0 < config.lockout_seconds <= LOCKOUT_MAX_SECONDS, f"above 0, to {LOCKOUT_MAX_SECONDS}"),
        "on_inconclusive": (config.on_inconclusive in ("fail", "warn"), "fail or warn"),
    }
    wrong = [(name, text) for name, (good, text) in allowed.items() if not good]
    if wrong:
        raise UsageError(
            [Problem(f"gate setting {n}", repr(getattr(config, n)), text, "correct the value") for n, text in wrong]
        )
    return config


def band_targets(target_frr: float, band: float) -> tuple[float, ...]:
    """Returns the false reject rates that are averaged over, evenly spaced around the target."""
    if band == 0 or target_frr == 0:
        return (target_frr,)
    reach = min(band * target_frr, (1.0 - target_frr) / 2)
    return tuple(target_frr + reach * (2 * i / (BAND_POINTS - 1) - 1) for i in range(BAND_POINTS))
