"""Every committed quantized model: what Keras, ONNX Runtime, the integer reference and the artefact name.

Keras is rebuilt from the committed file: its weights become the values on their grid, its activation quantizers get the
file's ranges. The integer reference and the artefact are compared bit for bit by the converter's own parity, here on
the synthetic clips instead of its seeded inputs. Between ONNX Runtime, which sums in float and never rounds a bias, and
integers stands the rounding of every layer: a logit may move by a code or more, and a word changes where two logits are
that close. Logits of 8 bits are so on one clip in a hundred.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tf_keras
from numpy.typing import NDArray
from onnx import numpy_helper

from kwsq.converter.config import ConvertOptions
from kwsq.converter.driver import run_conversion
from kwsq.converter.gate.model_pairs import load_runnable
from kwsq.models.activation_quantizer import ActivationQuantizer
from kwsq.models.data import LabelledFeatures, class_names, load_split
from kwsq.models.evaluate import logits, model_layout
from kwsq.models.recipe import read_recipe
from kwsq.models.schemes import FloatWeights
from kwsq.models.synthetic.dataset import load_synthetic
from kwsq.models.train import architecture

MODELS = Path(__file__).resolve().parents[2] / "models"
FEATURES = {"kws_ff": "lfbe", "kws_cnn": "lfbe", "ds_cnn": "mfcc", "wake_word": "lfbe"}
BITS = {"w8": 8, "w5": 5, "w4": 4}
QUANTIZED = sorted(
    path.name for folder in FEATURES for path in (MODELS / folder).glob("*.onnx") if not path.stem.endswith("_float")
)
# 99.9 % of the 208 clips is all of them.
LEAST_AGREEMENT = 0.999
# Against float biases, measured on these and on 643 recorded clips: 98.0 % (ds_cnn_w4, 13 of 643, margins of at most
# three codes) to 100 %. The accumulators of a depthwise layer hold nine products, so rounding its bias to one of their
# steps weighs most there: logits of ds_cnn_w4 move by up to 12 codes, of the others by 1 (kws_ff, kws_cnn) to 4.
LEAST_INTEGER_AGREEMENT = 0.97
MOST_CODES_APART = {"kws_ff": 2, "kws_cnn": 2, "ds_cnn": 16, "wake_word": 2}
# (taps, C_in, C_out), (K_t, K_f, C_in, C_out) and (C_in, C_out) of Keras, from the axes of ONNX.
KERAS_AXES = {3: (2, 1, 0), 4: (2, 3, 1, 0), 2: (1, 0)}


def folder_of(name: str) -> str:
    return next(folder for folder in FEATURES if (MODELS / folder / name).exists())


def weight(tensors: dict[str, NDArray[np.generic]], layer: str) -> NDArray[np.float32]:
    """The weight's values: codes or levels times the scale."""
    scale = tensors[f"{layer}.weight.scale"].astype(np.float32)
    if f"{layer}.weight.indices" in tensors:
        codes = tensors[f"{layer}.weight.levels"][tensors[f"{layer}.weight.indices"]]
    else:
        codes = tensors[f"{layer}.weight.codes"]
    return codes.astype(np.float32) * scale.reshape((-1,) + (1,) * (codes.ndim - 1))


def keras_model(name: str) -> Any:
    """The committed file as a Keras model with fake quantization at inference."""
    stored = onnx.load(MODELS / folder_of(name) / name).graph.initializer
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in stored}
    recipe = read_recipe(MODELS / folder_of(name) / "recipe.toml")
    model = architecture(recipe.architecture, len(class_names(recipe.keywords)))(FloatWeights())
    for layer in model.layers:
        match layer:
            case ActivationQuantizer():
                scale = tensors[f"{layer.name}.scale"].astype(np.float64).item()
                zero_point = tensors[f"{layer.name}.zero_point"].item()
                layer.low.assign(scale * (-128 - zero_point))
                layer.high.assign(scale * (127 - zero_point))
                layer.enabled.assign(1.0)
            case tf_keras.layers.BatchNormalization():
                layer.set_weights([tensors[f"{layer.name}.{part}"] for part in ("gamma", "beta", "mean", "variance")])
            case _ if hasattr(layer, "parameter"):
                values = weight(tensors, layer.name)
                is_depthwise = bool(getattr(layer, "is_depthwise", False))
                layer.parameter.assign(values.transpose((2, 3, 0, 1) if is_depthwise else KERAS_AXES[values.ndim]))
                if hasattr(layer, "bias"):
                    layer.bias.assign(tensors[f"{layer.name}.bias"])
    return model


def proven_logits(path: Path, features: NDArray[np.float32], folder: Path) -> NDArray[np.float64]:
    """Convert with parity on these features; return the artefact's logits."""
    bits = next(bits for width, bits in BITS.items() if f"_{width}" in path.stem)
    arranged = model_layout(features, rank=len(onnx.load(path).graph.input[0].type.tensor_type.shape.dim))
    inputs = folder / "inputs.npz"
    np.savez(inputs, features=arranged)
    options = ConvertOptions(
        model=path, target="neon", weight_bits=bits, calibration=inputs, parity_inputs=len(features)
    )
    conversion = run_conversion(options)
    assert conversion.exit_code == 0
    artefact = folder / "model.tflite"
    artefact.write_bytes(conversion.artefact.proven_bytes)
    return np.asarray(load_runnable(artefact, "artefact").run(arranged))


def logits_scale(name: str) -> float:
    """One code of the logits in real units."""
    stored = onnx.load(MODELS / folder_of(name) / name).graph.initializer
    scale = next(tensor for tensor in stored if tensor.name == "logits_quantizer.scale")
    return float(numpy_helper.to_array(scale).item())


def check_agreement(name: str, features: NDArray[np.float32], folder: Path) -> None:
    """Compare every side with ONNX Runtime."""
    path = MODELS / folder_of(name) / name
    expected = logits(path, features)
    keras = keras_model(name).predict(features, verbose=0)
    artefact = proven_logits(path, features, folder)
    assert (keras.argmax(axis=1) == expected.argmax(axis=1)).mean() >= LEAST_AGREEMENT
    assert (artefact.argmax(axis=1) == expected.argmax(axis=1)).mean() >= LEAST_INTEGER_AGREEMENT
    assert np.rint(np.abs(artefact - expected) / logits_scale(name)).max() <= MOST_CODES_APART[folder_of(name)]


def both_splits(features: str) -> NDArray[np.float32]:
    return np.concatenate([load_synthetic(split, features=features).features for split in ("train", "val")])


@pytest.mark.parametrize("name", QUANTIZED)
def test_all_sides_name_the_same_synthetic_words(name: str, tmp_path: Path) -> None:
    check_agreement(name, both_splits(FEATURES[folder_of(name)]), tmp_path)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", QUANTIZED)
def test_all_sides_name_the_same_recorded_words(name: str, shared_dir: Path, tmp_path: Path) -> None:
    features = FEATURES[folder_of(name)]
    recorded: LabelledFeatures = load_split(
        shared_dir / "data", tmp_path / "cache", dataset="gsc12", split="val", features=features
    )
    check_agreement(name, recorded.features, tmp_path)


def test_another_scale_is_noticed() -> None:
    """One activation range at a fifth changes the words of some clips: the comparison is not blind."""
    features = load_synthetic("val").features
    model = keras_model("kws_ff_w4.onnx")
    before = model.predict(features, verbose=0)
    quantizer = model.get_layer("splice1_quantizer")
    quantizer.high.assign(quantizer.high * 0.2)
    assert (model.predict(features, verbose=0).argmax(axis=1) != before.argmax(axis=1)).mean() > 1 - LEAST_AGREEMENT
