"""A recurrent network leaves as one step with a state; frame by frame, source and artefact name what Keras does."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keyword_cases import remembered_bands
from numpy.typing import NDArray

from kwsq.converter.config import ConvertOptions
from kwsq.converter.driver import run_conversion
from kwsq.ir.errors import UsageError
from kwsq.ir.quant import UNQUANTIZED
from kwsq.models.data.augmentation import Augmentation
from kwsq.models.data.clips import Features, LabelledFeatures
from kwsq.models.export_onnx import export_onnx
from kwsq.models.layers.calibration import calibrate
from kwsq.models.layers.over_time import QuantizedDense
from kwsq.models.layers.recurrent import QuantizedRecurrent
from kwsq.models.layers.sequential import layer_records
from kwsq.models.quantizers.activation import ActivationQuantizer, use_ranges
from kwsq.models.recipe import Distillation, Phase, Recipe, Variant
from kwsq.models.records import MeanOverTimeRecord, SplicedDenseRecord, WeightTensor
from kwsq.models.schemes import ActivationRanges, FloatWeights, LearnedStep, LloydMax, TwoStage, WeightScheme
from kwsq.models.training.train import train_float, train_variant

Floats = NDArray[np.float32]
FRAMES, BANDS, UNITS = 4, 2, 12
STEP = Phase(epochs=4, learning_rate=5e-3, weight_decay=0.0)
STILL = Augmentation(max_shift_frames=0, max_gain_db=0.0, noise_share=0.0, time_mask_frames=0, band_mask_bands=0)
PLAN = Recipe(
    architecture="recurrent",
    dataset="synthetic",
    train_split="train",
    report_split="val",
    batch_size=32,
    calibration_clips=128,
    float_phase=Phase(epochs=20, learning_rate=1e-2, weight_decay=0.0),
    augmentation=STILL,
    distillation=Distillation(weight=0.0, temperature=1.0),
    variants=(),
)
# No powers of two: sums then lie half way between two codes so often that a state, fed back, soon goes another way in
# LiteRT, whose additions break such ties upwards.
CASES: dict[str, Variant] = {
    "w4": Variant("w4", TwoStage(4), 100.0, STEP, STEP),
    "w3_codebook": Variant("w3_codebook", LloydMax(3), 100.0, STEP, STEP, activation_ranges=ActivationRanges.LEARNED),
    "w1": Variant("w1", LearnedStep(1), 100.0, STEP, STEP),
    "w4_channels": Variant("w4_channels", LearnedStep(4, per_channel=True), 100.0, STEP, STEP),
}


def build(scheme: WeightScheme) -> Any:
    return tf_keras.Sequential(
        [
            tf_keras.Input((FRAMES, BANDS)),
            ActivationQuantizer(name="features_quantizer"),
            QuantizedRecurrent(UNITS, scheme=scheme, every_frame=True, name="cell1"),
            QuantizedRecurrent(UNITS, scheme=scheme, name="cell2"),
            QuantizedDense(2, scheme=scheme, name="classifier"),
            ActivationQuantizer(name="logits_quantizer"),
        ]
    )


def clips(seed: int) -> LabelledFeatures:
    frames, labels = remembered_bands(seed, FRAMES)
    return LabelledFeatures(frames, labels, tuple(f"s{i}" for i in range(len(labels))), np.zeros(len(labels), bool))


@pytest.fixture(scope="module")
def float_model() -> Any:
    return train_float(PLAN, build, clips(seed=1), seed=5)


@pytest.fixture(scope="module", params=CASES)
def trained(
    request: pytest.FixtureRequest, float_model: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path, int]:
    variant = CASES[request.param]
    model = train_variant(PLAN, variant, build, float_model, clips(seed=1), seed=5)
    path = tmp_path_factory.mktemp("recurrent") / f"{variant.name}.onnx"
    path.write_bytes(export_onnx(layer_records(model), model.input_shape[1:], name=variant.name))
    return model, path, variant.scheme.bits


def keras_steps(model: Any, features: Features) -> list[tuple[Floats, ...]]:
    """Logits and both states after every frame: of the first frame alone, of the first two, and so on."""
    found = []
    for frames in range(1, FRAMES + 1):
        values, states = tf.constant(features[:, :frames]), []
        for layer in model.layers:
            values = layer(values, training=False)
            if isinstance(layer, QuantizedRecurrent):
                states.append(values[:, -1] if layer.every_frame else values)
        found.append((values.numpy(), *(state.numpy() for state in states)))
    return found


def source_steps(session: ort.InferenceSession, features: Features) -> list[tuple[Floats, ...]]:
    """The same, frame by frame, in ONNX Runtime."""
    states, found = [np.zeros((len(features), UNITS), np.float32)] * 2, []
    for frame in range(FRAMES):
        inputs = {"features": features[:, frame], "cell1.state": states[0], "cell2.state": states[1]}
        logits, *states = session.run(["logits", "cell1.next_state", "cell2.next_state"], inputs)
        found.append((logits, *states))
    return found


def artefact_steps(artefact: bytes, features: Features) -> list[tuple[Floats, ...]]:
    """The same in LiteRT's reference kernels, states handed on as codes."""
    interpreter = Interpreter(
        model_content=artefact, num_threads=1, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    frame_in, *states_in = interpreter.get_input_details()
    outputs = interpreter.get_output_details()
    assert [end["quantization"] for end in (*states_in, *outputs[1:])] == [(1 / 128, 0)] * 4
    scale, zero_point = frame_in["quantization"]
    codes = np.clip(np.rint(features / np.float32(scale)) + zero_point, -128, 127).astype(np.int8)
    found = [tuple(np.empty((len(codes), end["shape"][1]), np.float32) for end in outputs) for _ in range(FRAMES)]
    for clip, frames in enumerate(codes):
        states = [np.zeros((1, UNITS), np.int8)] * 2
        for frame, value in enumerate(frames):
            for end, code in zip((frame_in, *states_in), (value[np.newaxis], *states), strict=True):
                interpreter.set_tensor(end["index"], code)
            interpreter.invoke()
            given = [interpreter.get_tensor(end["index"]) for end in outputs]
            states = given[1:]
            for place, code, end in zip(found[frame], given, outputs, strict=True):
                step, zero = end["quantization"]
                place[clip] = (code[0].astype(np.float32) - zero) * np.float32(step)
    return found


def furthest(found: list[tuple[Floats, ...]], wanted: list[tuple[Floats, ...]], steps: tuple[float, ...]) -> float:
    """Largest distance of any logit or state at any frame, in steps of its grid."""
    return max(
        float(np.abs(one - other).max() / step)
        for frame, expected in zip(found, wanted, strict=True)
        for one, other, step in zip(frame, expected, steps, strict=True)
    )


def output_steps(model: Any) -> tuple[float, ...]:
    return float(model.layers[-1].spec().scale[0]), 1 / 128, 1 / 128


def session_of(path: Path, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    return ort.InferenceSession(str(path), options)


def test_the_source_gives_keras_logits_and_states_at_every_frame(trained: tuple[Any, Path, int]) -> None:
    model, path, bits = trained
    held_out = clips(seed=3)
    wanted = keras_steps(model, held_out.features)
    # Chance is 0.5 with a standard deviation of 0.03.
    assert (wanted[-1][0].argmax(axis=1) == held_out.labels).mean() > 0.8
    if bits == 1:  # QONNX's sign operator is not ONNX Runtime's; the artefact below stands for it
        return
    session = session_of(path, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    # Both round the same grids: what is left is float32, far below a step.
    assert furthest(source_steps(session, held_out.features), wanted, output_steps(model)) < 1e-3
    session_of(path, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)  # must load as users load it


def test_the_artefact_gives_keras_logits_and_states_at_every_frame(trained: tuple[Any, Path, int]) -> None:
    model, path, bits = trained
    held_out = clips(seed=3)
    conversion = run_conversion(ConvertOptions(model=path, target="neon", weight_bits=bits))
    assert conversion.exit_code == 0
    wanted = keras_steps(model, held_out.features)
    found = artefact_steps(conversion.artefact.proven_bytes, held_out.features)
    assert furthest(found, wanted, output_steps(model)) <= 1.01
    pairs = [pair for frames in zip(found, wanted, strict=True) for pair in zip(*frames, strict=True)]
    assert np.mean([np.mean(np.abs(one - other) < 1e-3) for one, other in pairs]) > 0.97


def test_the_bias_is_whole_steps_of_the_accumulator(trained: tuple[Any, Path, int]) -> None:
    model, _, _ = trained
    cell = model.get_layer("cell1")
    scales = [spec.scale for spec in (model.layers[0].spec(), cell.input_kernel.weight_tensor().spec)]
    codes = cell.bias.numpy().astype(np.float64) / (scales[0].astype(np.float64) * scales[1])
    assert np.abs(codes).max() > 1
    # The bias is float32: off by half of 2^-23 of itself at most.
    np.testing.assert_allclose(codes, np.rint(codes), atol=2.0**-24 * np.abs(codes).max())


def test_grids_of_sums_are_chosen_with_all_others_and_that_of_the_state_is_not() -> None:
    model = build(FloatWeights())
    use_ranges(model, ActivationRanges.LEARNED)
    cell = model.get_layer("cell1")
    assert all(hasattr(quantizer, "growth") for quantizer in (cell.driven, cell.recalled, cell.total))
    assert not hasattr(cell.held, "growth")


def test_ranges_follow_steps_of_training_and_not_frames() -> None:
    model, features = build(TwoStage(4)), clips(seed=1).features
    calibrate(model, features, 100.0)
    cell = model.get_layer("cell1")
    calibrated = [(float(q.low), float(q.high)) for q in (cell.driven, cell.recalled, cell.total)]
    for _ in range(20):
        model(features, training=True)
    after = [(float(q.low), float(q.high)) for q in (cell.driven, cell.recalled, cell.total)]
    # The same clips, now through quantized layers before it: ranges stay but for their rounding.
    np.testing.assert_allclose(after, calibrated, rtol=0.02, atol=0.02)


def test_a_float_network_leaves_without_grids(tmp_path: Path) -> None:
    model, features = build(FloatWeights()), clips(seed=1).features
    path = tmp_path / "float.onnx"
    path.write_bytes(export_onnx(layer_records(model), model.input_shape[1:], name="float"))
    session = session_of(path, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    assert furthest(source_steps(session, features), keras_steps(model, features), (1.0, 1.0, 1.0)) < 1e-5


def test_a_layer_over_several_frames_is_refused_by_name() -> None:
    weight = WeightTensor(np.zeros((5, 2, 2), np.float32), UNQUANTIZED)
    between = layer_records(build(FloatWeights()))
    records = (SplicedDenseRecord("splice1", weight, 1), MeanOverTimeRecord("mean"), *between)
    with pytest.raises(UsageError, match=r"several frames: splice1, mean.*dense and recurrent"):
        export_onnx(records, (FRAMES, BANDS), name="mixed")


def test_a_network_that_ends_in_its_state_is_refused() -> None:
    *records, _ = layer_records(build(FloatWeights()))
    with pytest.raises(UsageError, match=r"cell2 as last layer; expected a dense one"):
        export_onnx(tuple(records), (FRAMES, BANDS), name="headless")


def test_quantized_biases_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'cell'.*parameter_bits.*float bias"):
        QuantizedRecurrent(UNITS, scheme=LearnedStep(4, parameter_bits=8), name="cell")


def test_a_layer_behind_last_states_is_refused() -> None:
    layer = QuantizedRecurrent(UNITS, scheme=FloatWeights(), name="cell")
    with pytest.raises(UsageError, match=r"'cell'.*every_frame"):
        layer.build((None, UNITS))
