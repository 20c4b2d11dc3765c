"""Every committed quantized model: what Keras, ONNX Runtime, the integer executor and the artefact name.

Keras is rebuilt from the committed file: its weights become the values on their grid, its activation quantizers get the
file's ranges. The artefact is run by LiteRT's default kernels, which round a sum of products once, as ONNX Runtime
does; biases lie on the accumulator's codes, so that all add the same; the executor computes with either kernel set. The
reference kernels, which the converter's own parity compares bit for bit with the executor, round twice: of the hidden
codes one in a hundred differs by one, of the logits one in seven, and a word where two logits are that close.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tf_keras
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.helper import get_node_attr_value

from kwsq.converter.config import ConvertOptions
from kwsq.converter.driver import run_conversion
from kwsq.converter.report import Conversion
from kwsq.converter.runtimes.litert import KernelSet, run_litert
from kwsq.converter.vectors import artefact_inputs
from kwsq.ir.execute import run_integer
from kwsq.ir.execute.kernel_sets import DEFAULT_KERNELS
from kwsq.ir.execute.kernels import Kernels
from kwsq.models.architectures import architecture
from kwsq.models.data.clips import LabelledFeatures, class_names, load_split
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.recipe import read_recipe
from kwsq.models.schemes import FloatWeights
from kwsq.models.scoring.accuracy import logits, model_layout
from kwsq.models.synthetic.dataset import load_synthetic

MODELS = Path(__file__).resolve().parents[2] / "models"
FEATURES = {"kws_ff": "lfbe", "kws_cnn": "lfbe", "ds_cnn": "mfcc", "wake_word": "lfbe"}
BITS = {f"w{bits}": bits for bits in range(1, 9)}
QUANTIZED = sorted(
    path.name
    for folder in FEATURES
    for path in (MODELS / folder).glob("*.onnx")
    if not path.stem.endswith(("_float", "_fxp"))  # fixed point: test_fixed_point_files
)
# Of the 208 synthetic clips, and of the 643 recorded ones, that is all of them but for ties, see `agreement`.
LEAST_AGREEMENT = 0.999
# Measured: one clip of the 208 for one file, where the processor has AVX2 at most; none where it has AVX-512.
MOST_TIES = 0.01
# Measured: up to 6 of the 208 (ds_cnn_w8, whose ten layers round twice each), up to 7 of the 643.
LEAST_REFERENCE_AGREEMENT = 0.96
# (taps, C_in, C_out), (K_t, K_f, C_in, C_out) and (C_in, C_out) of Keras, from the axes of ONNX.
KERAS_AXES = {3: (2, 1, 0), 4: (2, 3, 1, 0), 2: (1, 0)}


def folder_of(name: str) -> str:
    return next(folder for folder in FEATURES if (MODELS / folder / name).exists())


def weight(tensors: dict[str, NDArray[np.generic]], layer: str) -> NDArray[np.float32]:
    """The weight's values: codes or levels times the scale."""
    scale = tensors[f"{layer}.weight.scale"].astype(np.float32)
    if f"{layer}.weight.indices" in tensors:
        codes = tensors[f"{layer}.weight.levels"][tensors[f"{layer}.weight.indices"]]
    elif f"{layer}.weight.signs" in tensors:
        codes = tensors[f"{layer}.weight.signs"]
    else:
        codes = tensors[f"{layer}.weight.codes"]
    return codes.astype(np.float32) * scale.reshape((-1,) + (1,) * (codes.ndim - 1))


def keras_model(name: str) -> Any:
    """The committed file as a Keras model with fake quantization at inference."""
    graph = onnx.load(MODELS / folder_of(name) / name).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    epsilons = {node.input[1].removesuffix(".gamma"): get_node_attr_value(node, "epsilon") for node in norms}
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
                layer.epsilon = epsilons[layer.name]  # none where norms were merged and quantized
                layer.set_weights([tensors[f"{layer.name}.{part}"] for part in ("gamma", "beta", "mean", "variance")])
            case _ if hasattr(layer, "parameter"):
                values = weight(tensors, layer.name)
                is_depthwise = bool(getattr(layer, "is_depthwise", False))
                layer.parameter.assign(values.transpose((2, 3, 0, 1) if is_depthwise else KERAS_AXES[values.ndim]))
                if hasattr(layer, "bias"):
                    layer.bias.assign(tensors[f"{layer.name}.bias"])
    return model


def proven(path: Path, arranged: NDArray[np.float32], folder: Path) -> Conversion:
    """Convert with parity on these features."""
    inputs = folder / "inputs.npz"
    np.savez(inputs, features=arranged)
    bits = next(bits for width, bits in BITS.items() if f"_{width}" in path.stem)
    options = ConvertOptions(
        model=path, target="neon", weight_bits=bits, calibration=inputs, parity_inputs=len(arranged)
    )
    conversion = run_conversion(options)
    assert conversion.exit_code == 0
    return conversion


def run(conversion: Conversion, codes: NDArray[np.int8], kernels: KernelSet) -> NDArray[np.int32]:
    """Logits of the artefact in LiteRT."""
    (found,) = run_litert(conversion.artefact.proven_bytes, [codes], kernels).outputs
    return np.asarray(found.reshape(len(codes), -1), dtype=np.int32)


def logits_zero_point(conversion: Conversion) -> int:
    return conversion.graph[conversion.graph.outputs[0]].zero_point


def executed(conversion: Conversion, codes: NDArray[np.int8], kernels: Kernels) -> NDArray[np.int32]:
    """Logits of the integer executor."""
    graph = conversion.graph
    return np.asarray(run_integer(graph, {graph.inputs[0]: codes}, kernels=kernels)[graph.outputs[0]], dtype=np.int32)


def logits_scale(name: str) -> float:
    """One code of the logits in real units."""
    stored = onnx.load(MODELS / folder_of(name) / name).graph.initializer
    scale = next(tensor for tensor in stored if tensor.name == "logits_quantizer.scale")
    return float(numpy_helper.to_array(scale).item())


def agreement(found: NDArray[np.int32], expected: NDArray[np.int32]) -> float:
    """Share of clips that are named alike, by logits as codes without a zero point.

    A class that is within one code of the best is as good a name: floats are added in another order on another
    processor, which moves a sum at a tie by one code.
    """
    named, best = found.argmax(axis=1), expected.max(axis=1)
    assert (named != expected.argmax(axis=1)).mean() <= MOST_TIES
    return float((np.take_along_axis(expected, named[:, None], axis=1)[:, 0] >= best - 1).mean())


def check_agreement(name: str, features: NDArray[np.float32], folder: Path) -> None:
    """Compare every side with ONNX Runtime."""
    path = MODELS / folder_of(name) / name
    rank = len(onnx.load(path).graph.input[0].type.tensor_type.shape.dim)
    arranged, source = model_layout(features, rank=rank), logits(path, features)
    expected = np.rint(source / logits_scale(name)).astype(np.int32)
    conversion = proven(path, arranged, folder)
    trained = np.rint(keras_model(name).predict(features, verbose=0) / logits_scale(name)).astype(np.int32)
    assert agreement(trained, expected) >= LEAST_AGREEMENT

    graph = conversion.graph
    (codes,) = artefact_inputs(graph, {graph.inputs[0]: arranged}).values()
    by_default, by_reference = (run(conversion, codes, kernels) for kernels in (KernelSet.DEFAULT, KernelSet.REFERENCE))
    once = executed(conversion, codes, DEFAULT_KERNELS.kernels)
    for found in (by_default - logits_zero_point(conversion), once - logits_zero_point(conversion)):
        assert agreement(found, expected) >= LEAST_AGREEMENT
        assert np.abs(found - expected).max() <= 1

    # These equal the executor's own, bit for bit: `proven` compared them on the same clips.
    assert (by_reference.argmax(axis=1) == expected.argmax(axis=1)).mean() >= LEAST_REFERENCE_AGREEMENT


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
