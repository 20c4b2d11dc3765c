"""A recurrent network leaves as one step with a state; frame by frame, source and artefact name what Keras does."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tf_keras
from ai_edge_litert.interpreter import Interpreter
from keyword_cases import remembered_bands

from kwsq.converter.config import ConvertOptions
from kwsq.converter.driver import run_conversion
from kwsq.ir.errors import UsageError
from kwsq.ir.quant import UNQUANTIZED
from kwsq.models.data.augmentation import Augmentation
from kwsq.models.data.clips import Features, LabelledFeatures
from kwsq.models.export_onnx import export_onnx
from kwsq.models.layers.over_time import QuantizedDense
from kwsq.models.layers.recurrent import QuantizedRecurrent
from kwsq.models.layers.sequential import layer_records
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.recipe import Distillation, Phase, Recipe, Variant
from kwsq.models.records import MeanOverTimeRecord, SplicedDenseRecord, WeightTensor
from kwsq.models.schemes import ActivationRanges, FloatWeights, LloydMax, TwoStage, WeightScheme
from kwsq.models.training.train import train_float, train_variant

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
CASES: dict[str, Variant] = {
    "w4": Variant("w4", TwoStage(4), 100.0, STEP, STEP),
    "w3_codebook": Variant("w3_codebook", LloydMax(3), 100.0, STEP, STEP, activation_ranges=ActivationRanges.LEARNED),
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


@pytest.fixture(params=CASES)
def trained(request: pytest.FixtureRequest, float_model: Any, tmp_path: Path) -> tuple[Any, Path, int]:
    variant = CASES[request.param]
    model = train_variant(PLAN, variant, build, float_model, clips(seed=1), seed=5)
    path = tmp_path / f"{variant.name}.onnx"
    path.write_bytes(export_onnx(layer_records(model), model.input_shape[1:], name=variant.name))
    return model, path, variant.scheme.bits


def stepped_source(path: Path, features: Features) -> Any:
    """Logits (N, classes) after the last frame, in ONNX Runtime."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options)
    first = second = np.zeros((len(features), UNITS), np.float32)
    for frame in range(FRAMES):
        inputs = {"features": features[:, frame], "cell1.state": first, "cell2.state": second}
        logits, first, second = session.run(None, inputs)
    return logits


def stepped_artefact(artefact: bytes, features: Features) -> Any:
    """Logits in codes (N, classes) after the last frame, in LiteRT; states stay codes."""
    interpreter = Interpreter(model_content=artefact, num_threads=1)
    interpreter.allocate_tensors()
    frame_in, *states_in = interpreter.get_input_details()
    logits_out, *states_out = interpreter.get_output_details()
    assert [state["quantization"] for state in (*states_in, *states_out)] == [(1 / 128, 0)] * 4
    scale, zero_point = frame_in["quantization"]
    codes = np.clip(np.rint(features / np.float32(scale)) + zero_point, -128, 127).astype(np.int8)
    found = []
    for clip in codes:
        states = [np.zeros((1, UNITS), np.int8)] * 2
        for frame in clip:
            interpreter.set_tensor(frame_in["index"], frame[np.newaxis])
            for state_in, state in zip(states_in, states, strict=True):
                interpreter.set_tensor(state_in["index"], state)
            interpreter.invoke()
            states = [interpreter.get_tensor(state_out["index"]) for state_out in states_out]
        found.append(interpreter.get_tensor(logits_out["index"])[0].astype(np.int32))
    return np.array(found)


def test_frame_by_frame_source_and_artefact_say_what_keras_says(trained: tuple[Any, Path, int]) -> None:
    model, path, bits = trained
    held_out = clips(seed=3)
    keras = model(held_out.features, training=False).numpy()
    # Chance is 0.5 with a standard deviation of 0.03.
    assert (keras.argmax(axis=1) == held_out.labels).mean() > 0.8
    source = stepped_source(path, held_out.features)
    np.testing.assert_array_equal(source.argmax(axis=1), keras.argmax(axis=1))
    conversion = run_conversion(ConvertOptions(model=path, target="neon", weight_bits=bits))
    assert conversion.exit_code == 0
    artefact = stepped_artefact(conversion.artefact.proven_bytes, held_out.features)
    np.testing.assert_array_equal(artefact.argmax(axis=1), keras.argmax(axis=1))


def test_a_layer_over_several_frames_is_refused_by_name() -> None:
    weight = WeightTensor(np.zeros((5, 2, 2), np.float32), UNQUANTIZED)
    between = layer_records(build(FloatWeights()))
    records = (SplicedDenseRecord("splice1", weight, 1), *between, MeanOverTimeRecord("mean"))
    with pytest.raises(UsageError, match=r"several frames: splice1, mean.*dense and recurrent"):
        export_onnx(records, (FRAMES, BANDS), name="mixed")
