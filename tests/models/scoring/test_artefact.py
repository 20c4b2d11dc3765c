"""What a row scores: the emitted integers, in the accumulator that the model was trained for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from keyword_cases import synthetic_keywords

from kwsq.models.export_onnx import ACCUMULATOR_KEY, export_onnx
from kwsq.models.kws_ff.model import build
from kwsq.models.layers.fixed_point import FixedPointLayer
from kwsq.models.layers.sequential import layer_records
from kwsq.models.recipe import Phase, Variant, read_recipe
from kwsq.models.schemes import FixedPoint, FloatWeights
from kwsq.models.scoring.artefact import scored_artefact
from kwsq.models.training.train import train_variant

RECIPE = Path(__file__).resolve().parents[3] / "models" / "kws_ff" / "recipe.toml"
HELD_OUT = synthetic_keywords(24, seed=2)


@pytest.fixture(scope="module")
def trained() -> Any:
    plan = replace(read_recipe(RECIPE), batch_size=16, calibration_clips=16)
    variant = Variant("fxp", FixedPoint(8), 100.0, Phase(1, 1e-3, 0.0), Phase(1, 1e-3, 0.0))
    return train_variant(plan, variant, build, build(FloatWeights()), synthetic_keywords(48, seed=1), seed=0)


def written(model: Any, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(export_onnx(layer_records(model), model.input_shape[1:], name="fxp"))
    return path


@pytest.mark.slow
def test_a_fixed_point_model_is_scored_with_its_own_accumulator(trained: Any, tmp_path: Path) -> None:
    scored = scored_artefact(written(trained, tmp_path), HELD_OUT.features, weight_bits=8)
    np.testing.assert_array_equal(scored.logits, trained(HELD_OUT.features, training=False).numpy())
    cuts = sum(int(layer.saturated) for layer in trained.layers if isinstance(layer, FixedPointLayer))
    assert scored.facts["accumulator"] == "int16 group=32 shift=4"
    assert (scored.facts["saturated"], scored.facts["layers"]) == (cuts, 6)
    assert 0 <= scored.facts["layers_proven"] <= 6
    assert scored.runtime == "kwsq narrow"


@pytest.mark.slow
def test_another_accumulator_gives_other_scores_and_none_is_litert(trained: Any, tmp_path: Path) -> None:
    path = written(trained, tmp_path)
    own = scored_artefact(path, HELD_OUT.features, weight_bits=8)
    model = onnx.load(path)
    (entry,) = (entry for entry in model.metadata_props if entry.key == ACCUMULATOR_KEY)
    entry.value = "int16 group=32 shift=8"
    onnx.save(model, path)
    coarse = scored_artefact(path, HELD_OUT.features, weight_bits=8)
    assert (coarse.logits != own.logits).any()
    model.metadata_props.remove(entry)
    onnx.save(model, path)
    plain = scored_artefact(path, HELD_OUT.features, weight_bits=8)
    assert (plain.runtime, plain.facts) == ("litert", {})
