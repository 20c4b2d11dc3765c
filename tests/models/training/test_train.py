"""Training on seeded synthetic features with a small network: it learns, keeps its widths, and repeats."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras
from full_disk import room_for
from keyword_cases import BANDS, FRAMES, synthetic_keywords

from kwsq.ir.errors import UsageError
from kwsq.ir.quant import Affine, Codebook
from kwsq.models.data.augmentation import Augmentation
from kwsq.models.data.clips import LABELS, LabelledFeatures
from kwsq.models.export_onnx import export_onnx
from kwsq.models.kws_ff.model import build as build_kws_ff
from kwsq.models.layers.norm_statistics import MOST_CLIPS, are_young, settle_norms
from kwsq.models.layers.over_time import MeanOverTime, QuantizedDense, SplicedDense
from kwsq.models.layers.sequential import layer_records, set_schemes
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.recipe import Distillation, Phase, Recipe, Variant
from kwsq.models.records import DenseRecord, FakeQuantizeRecord, SplicedDenseRecord
from kwsq.models.schemes import FloatWeights, LloydMax, NormClips, TwoStage, WeightScheme
from kwsq.models.training.train import export_all, norm_features, train_variant, trained_models

STEP = Phase(epochs=1, learning_rate=2e-3, weight_decay=0.0)
PLAN = Recipe(
    architecture="small",
    dataset="synthetic",
    train_split="train",
    report_split="val",
    batch_size=16,
    calibration_clips=32,
    float_phase=Phase(epochs=6, learning_rate=5e-3, weight_decay=1e-4),
    augmentation=Augmentation(max_shift_frames=4, time_mask_frames=4, band_mask_bands=2),
    distillation=Distillation(weight=0.0, temperature=1.0),
    variants=(
        Variant("w4", TwoStage(4), 100.0, STEP, STEP),
        Variant("w3_codebook", LloydMax(3), 99.9, STEP, STEP),
    ),
)


def build_small(scheme: WeightScheme) -> Any:
    return tf_keras.Sequential(
        [
            tf_keras.Input((FRAMES, BANDS)),
            ActivationQuantizer(name="features_quantizer"),
            SplicedDense(24, taps=5, stride=3, scheme=scheme, name="splice1"),
            tf_keras.layers.BatchNormalization(name="splice1_norm"),
            tf_keras.layers.ReLU(name="splice1_relu"),
            MeanOverTime(name="mean"),
            ActivationQuantizer(name="mean_quantizer"),
            QuantizedDense(len(LABELS), scheme=scheme, name="classifier"),
            ActivationQuantizer(name="logits_quantizer"),
        ]
    )


def train_once(*, seed: int) -> dict[str, Any]:
    return trained_models(PLAN, build_small, synthetic_keywords(192, seed=1), seed=seed)


def exported(models: dict[str, Any]) -> dict[str, bytes]:
    return {name: export_onnx(layer_records(model), (FRAMES, BANDS), name=name) for name, model in models.items()}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return train_once(seed=5)


@pytest.mark.parametrize("name", ["float", "w4", "w3_codebook"])
def test_training_learns_the_synthetic_keywords(models: dict[str, Any], name: str) -> None:
    held_out = synthetic_keywords(96, seed=2)
    logits = models[name](held_out.features, training=False).numpy()
    # Chance is 1/12 with a standard deviation of 2.8 points: 0.3 is seven of them away.
    assert (logits.argmax(axis=1) == held_out.labels).mean() > 0.3


def test_weights_left_the_float_model_but_stay_inside_their_width(models: dict[str, Any]) -> None:
    for record in layer_records(models["w4"]):
        if isinstance(record, SplicedDenseRecord | DenseRecord):
            assert isinstance(record.weight.spec, Affine)
            assert (record.weight.spec.range.low, record.weight.spec.range.high) == (-7, 7)
            assert record.weight.spec.range.contains(record.weight.values)
            assert np.unique(record.weight.values).size > 7
    for record in layer_records(models["w3_codebook"]):
        if isinstance(record, SplicedDenseRecord | DenseRecord):
            assert isinstance(record.weight.spec, Codebook)
            assert record.weight.spec.levels.size == 8
            assert np.isin(record.weight.values, record.weight.spec.levels).all()


def test_stage_two_quantizes_activations_and_logits(models: dict[str, Any]) -> None:
    names = [record.name for record in layer_records(models["w4"]) if isinstance(record, FakeQuantizeRecord)]
    assert names == ["features_quantizer", "mean_quantizer", "logits_quantizer"]
    assert not any(isinstance(record, FakeQuantizeRecord) for record in layer_records(models["float"]))


def test_the_seed_alone_decides_the_bytes(models: dict[str, Any]) -> None:
    assert exported(train_once(seed=5)) == exported(models)


def test_a_variant_may_have_a_teacher_of_its_own(models: dict[str, Any]) -> None:
    """Its weights are those of a recipe that states the teacher for all, and not those without one."""
    teacher, first = Distillation(weight=0.5, temperature=2.0), PLAN.variants[0]
    examples = synthetic_keywords(192, seed=1)

    def weights(plan: Recipe, variant: Variant) -> bytes:
        model = train_variant(plan, variant, build_small, models["float"], examples, seed=5)
        return exported({"w4": model})["w4"]

    own = weights(PLAN, replace(first, distillation=teacher))
    assert own == weights(replace(PLAN, distillation=teacher), first)
    assert own != exported(models)["w4"]


def test_files_are_exported_whole_or_not_at_all(models: dict[str, Any], tmp_path: Path) -> None:
    held_out = synthetic_keywords(12, seed=2)
    (result,) = export_all({"float": models["float"]}, PLAN, held_out, tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written.keys() == {result.file, "metrics.json"}
    assert [each["file"] for each in json.loads(written["metrics.json"])] == [result.file] == ["small_float.onnx"]
    with room_for(1000), pytest.raises(UsageError, match=r"small_float\.onnx: found File too large"):
        export_all({"float": models["w4"]}, PLAN, held_out, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written


def norm_of(model: Any) -> list[Any]:
    norm = model.get_layer("splice1_norm")
    return [norm.moving_mean.numpy(), norm.moving_variance.numpy()]


def test_half_of_mixed_clips_are_augmented() -> None:
    clips = synthetic_keywords(96, seed=2)
    clean, mixed, again = (
        norm_features(kind, clips, PLAN, np.random.default_rng(7))
        for kind in (NormClips.CLEAN, NormClips.MIXED, NormClips.MIXED)
    )
    np.testing.assert_array_equal(clean, clips.features)
    np.testing.assert_array_equal(mixed, again)
    known = {row.tobytes() for row in clips.features}
    np.testing.assert_array_equal(mixed[:48], clips.features[::2])
    assert [row.tobytes() in known for row in mixed] == [True] * 48 + [False] * 48


def test_a_large_corpus_gives_as_many_clips_as_are_asked() -> None:
    some = synthetic_keywords(96, seed=2)
    copies = -(-(MOST_CLIPS + 1) // 96)
    many = LabelledFeatures(
        np.tile(some.features, (copies, 1, 1)),
        np.tile(some.labels, copies),
        some.speakers * copies,
        np.tile(some.is_noise, copies),
    )
    for kind in (NormClips.CLEAN, NormClips.MIXED):
        assert len(norm_features(kind, many, PLAN, np.random.default_rng(7))) == MOST_CLIPS


def test_norms_of_a_variant_take_the_statistics_of_the_clips_it_names(models: dict[str, Any]) -> None:
    clips = synthetic_keywords(192, seed=1)
    found = {}
    for kind in NormClips:
        variant = replace(PLAN.variants[0], norm_clips=kind)
        found[kind] = train_variant(PLAN, variant, build_small, models["float"], clips, seed=5)
    mixed = found[NormClips.MIXED]
    for kind in (NormClips.AS_TRAINED, NormClips.CLEAN):
        for one, other in zip(norm_of(mixed), norm_of(found[kind]), strict=True):
            assert np.abs(one - other).max() > 0.001
        np.testing.assert_array_equal(mixed.layers[1].parameter, found[kind].layers[1].parameter)
    clean = norm_of(found[NormClips.CLEAN])
    settle_norms(mixed, clips.features)
    for one, other in zip(norm_of(mixed), clean, strict=True):
        np.testing.assert_array_equal(one, other)


def test_norms_of_a_float_model_after_a_few_steps_take_the_statistics_of_augmented_clips() -> None:
    """After nine steps the moving averages are nine tenths of what they began with."""
    clips, plain = synthetic_keywords(144, seed=1), Augmentation(0, 0.0, 0.0, masks=0)
    short = replace(PLAN, float_phase=replace(PLAN.float_phase, epochs=1), augmentation=plain, variants=())
    model = trained_models(short, build_small, clips, seed=5)["float"]
    found = norm_of(model)
    settle_norms(model, clips.features)
    for one, other in zip(found, norm_of(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_norms_keep_their_averages_once_they_have_forgotten_what_they_began_with() -> None:
    model = build_small(FloatWeights())
    assert are_young(model, 687)  # 0.99^687 = 0.001003
    assert not are_young(model, 688)
    model.layers[2].momentum = 0.5
    assert [are_young(model, steps) for steps in (9, 10)] == [True, False]


def test_kws_ff_has_the_stated_size() -> None:
    model = build_kws_ff(FloatWeights())
    quantizer_state = 3 * sum(isinstance(layer, ActivationQuantizer) for layer in model.layers)
    assert model.count_params() - quantizer_state == 246_828


def test_kws_ff_decides_on_53_frames() -> None:
    """An output before the mean sees frames 3 t ... 3 t + 52 and no other."""
    model = build_kws_ff(FloatWeights())
    trunk = tf_keras.Sequential(model.layers[: [layer.name for layer in model.layers].index("mean")])
    features = synthetic_keywords(1, seed=6).features
    changed = features.copy()
    changed[:, 53] += 1.0
    plain, moved = trunk(features).numpy(), trunk(changed).numpy()
    assert plain.shape[1] == (FRAMES - 53) // 3 + 1
    np.testing.assert_array_equal(plain[:, 0], moved[:, 0])
    assert (plain[:, 1] != moved[:, 1]).any()


def test_single_layers_have_their_own_width() -> None:
    wide = replace(PLAN.variants[0], layers=(("classifier", TwoStage(8)),))
    plan = replace(PLAN, variants=(wide,), float_phase=STEP)
    model = trained_models(plan, build_small, synthetic_keywords(48, seed=1), seed=5)["w4"]
    weights = {r.name: r.weight for r in layer_records(model) if isinstance(r, SplicedDenseRecord | DenseRecord)}
    assert isinstance(weights["splice1"].spec, Affine)
    assert isinstance(weights["classifier"].spec, Affine)
    assert (weights["splice1"].spec.range.high, weights["classifier"].spec.range.high) == (7, 127)
    assert np.abs(weights["classifier"].values.astype(int)).max() > 7


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="'splice9'"):
        set_schemes(build_small(FloatWeights()), {"splice9": TwoStage(8)})
