"""Committed fixed-point files: Keras, ONNX Runtime, the integers in their own accumulator, and LiteRT name one word.

Keras is rebuilt from the file's codes. Neither contract drops bits, so all must agree to the code where no sum was cut.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from kwsq.models.architectures import architecture
from kwsq.models.data.clips import load_split
from kwsq.models.layers.fixed_point import FixedPointLayer
from kwsq.models.schemes import FixedPoint
from kwsq.models.scoring.artefact import ScoredArtefact, scored_artefact
from kwsq.models.synthetic.dataset import load_synthetic

MODELS = Path(__file__).resolve().parents[3] / "models"
FILES = {
    f"{folder}/{folder}_w{scheme.bits}_fxp.onnx": scheme
    for folder in ("kws_cnn", "kws_ff")
    for scheme in (FixedPoint(8, accumulator_bits=32), FixedPoint(4))
}
# (C_out, C_in, ...) of ONNX to (..., C_in, C_out) of Keras.
KERAS_AXES = {4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0)}


def keras_model(name: str) -> Any:
    """The committed file as the Keras model that trained it."""
    stored = onnx.load(MODELS / name).graph.initializer
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in stored}
    model = architecture(name.split("/")[0])(FILES[name])
    for layer in model.layers:
        if isinstance(layer, FixedPointLayer):
            gain = tensors[f"{layer.name}_quantizer.scale"].item() * 128.0
            steps = gain / layer.input_gain / tensors[f"{layer.name}.weight.scale"].item()
            codes = tensors[f"{layer.name}.weight.codes"]
            layer.output_gain.assign(gain)
            layer.output_steps.assign(steps)
            layer.adopt(
                codes.transpose(KERAS_AXES[codes.ndim]),
                tensors[f"{layer.name}.bias.codes"] / steps / 128.0,
            )
    return model


def check(name: str, features: NDArray[np.float32]) -> ScoredArtefact:
    scored = scored_artefact(MODELS / name, features, weight_bits=FILES[name].bits)
    keras = keras_model(name)(features, training=False).numpy()
    np.testing.assert_array_equal(keras, scored.logits)
    assert scored.runtime == "kwsq narrow"
    assert scored.facts["saturated"] == 0
    assert scored.facts["accumulator"] == str(FILES[name].accumulator)
    np.testing.assert_array_equal(scored.source_logits, scored.logits)
    assert scored.facts["litert_top1_differs"] == 0
    return scored


@pytest.mark.parametrize("name", FILES)
def test_all_sides_name_the_same_synthetic_words(name: str) -> None:
    features = np.concatenate([load_synthetic(split).features for split in ("train", "val")])
    scored = check(name, features)
    assert np.unique(scored.logits.argmax(axis=1)).size > 6


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", FILES)
def test_all_sides_name_the_same_recorded_words(name: str, shared_dir: Path, tmp_path: Path) -> None:
    clips = load_split(shared_dir / "data", tmp_path / "cache", dataset="gsc12", split="val")
    scored = check(name, clips.features)
    assert (scored.logits.argmax(axis=1) == clips.labels).mean() > 0.85
