"""A protocol of four methods and rows of it whose truth is known: no model is trained."""

from pathlib import Path

import numpy as np

from kwsq.models.recipe import Distillation, Phase
from kwsq.models.table.protocol import CONTROL, FLOAT, Method, Protocol
from kwsq.models.table.read_protocol import read_protocol
from kwsq.models.table.rows import KEYWORDS, FinishedRow, FoldClips, Results, score_codes

RECIPE = Path(__file__).resolve().parents[1] / "models" / "kws_ff" / "table.toml"
FOLDS, SPEAKERS, CLIPS_PER_SPEAKER = 5, 100, 20
SEEDS = (0, 1, 2)
STAGE, NONE = Phase(1, 1e-3, 0.0), Distillation(0.0, 1.0)


def protocol() -> Protocol:
    methods = (
        Method(FLOAT, "float", (32,), STAGE, STAGE, NONE),
        Method(CONTROL, "float", (32,), STAGE, STAGE, NONE),
        Method("good", "two_stage", (4,), STAGE, STAGE, NONE),
        Method("poor", "max_abs", (4, 2), STAGE, STAGE, NONE),
    )
    control = {FLOAT: FLOAT} | dict.fromkeys((CONTROL, "good", "poor"), CONTROL)
    recipe = read_protocol(RECIPE).recipe
    return Protocol(recipe, FOLDS, 0, SEEDS, ("poor",), control, methods)


def fold_clips(fold: int) -> FoldClips:
    rng = np.random.default_rng([1, fold])
    speakers = np.arange(fold, SPEAKERS, FOLDS).repeat(CLIPS_PER_SPEAKER)
    return FoldClips(fold, rng.integers(0, 12, speakers.size), speakers, (1.0, 0.5))


def scored(clips: FoldClips, error_rate: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Classes that are wrong at a rate, and log odds that are lower for words that were not said."""
    wrong = rng.random(clips.labels.size) < error_rate
    predicted = np.where(wrong, (clips.labels + 1) % 12, clips.labels)
    said = predicted[:, None] == np.array(KEYWORDS)
    odds = np.where(said, 2.0, -3.0) + rng.normal(0, 1, said.shape)
    return predicted, score_codes(odds)


def results(plan: Protocol, error_rates: dict[tuple[str, int], float], *, leave_out: int = 0) -> Results:
    folds = {fold: fold_clips(fold) for fold in range(FOLDS)}
    rows = {}
    for number, row in enumerate(plan.rows()):
        rate = error_rates[row.method, row.bits]
        predicted, scores = scored(folds[row.fold], rate, np.random.default_rng([2, number]))
        facts = {"cpu_seconds": 10, "keras_top1_differs": 1, "onnxruntime_top1_differs": 0}
        rows[row] = FinishedRow(row, 1000, predicted, scores, facts)
    kept = list(rows)[: len(rows) - leave_out]
    return Results(folds, {row: rows[row] for row in kept})


RATES = {(FLOAT, 32): 0.1, (CONTROL, 32): 0.1, ("good", 4): 0.1, ("poor", 4): 0.2, ("poor", 2): 0.4}
