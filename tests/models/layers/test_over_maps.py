"""Convolutions over time and frequency: padding, export, and conversion of the two networks built from them.

Weights and inputs of the first tests are small integers, so that every float32 sum is exact in any order and Keras
and ONNX Runtime must agree to the bit.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tf_keras
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from kwsq.converter.config import ConvertOptions
from kwsq.converter.driver import run_conversion
from kwsq.ir.quant import Unquantized
from kwsq.models.ds_cnn.model import build as build_ds_cnn
from kwsq.models.export_onnx import export_onnx
from kwsq.models.kws_cnn.model import build as build_kws_cnn
from kwsq.models.layers.calibration import calibrate
from kwsq.models.layers.over_maps import AddChannel, MeanOverMap, QuantizedConv2D, same_pads
from kwsq.models.layers.over_time import QuantizedDense
from kwsq.models.layers.sequential import adopt_weights, layer_records
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.records import Conv2DRecord
from kwsq.models.schemes import FloatWeights, MaxAbs, TwoStage
from kwsq.models.scoring.accuracy import model_layout
from kwsq.models.synthetic.dataset import load_synthetic
from kwsq.targets.neon.reader import read

FRAMES, BANDS, CLASSES = 11, 6, 3
NETWORKS = {"kws_cnn": (build_kws_cnn, "lfbe", 77_996), "ds_cnn": (build_ds_cnn, "mfcc", 24_332)}


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5))
def test_padding_gives_the_size_that_same_promises(length: int, taps: int, step: int) -> None:
    before, _, after, _ = same_pads((length, 1), (taps, 1), (step, 1))
    assert 0 <= after - before <= 1
    assert (length + before + after - taps) // step + 1 == -(-length // step) or taps < step


def integer_network(kernel: tuple[int, int], stride: tuple[int, int]) -> Any:
    rng = np.random.default_rng(11)
    model = tf_keras.Sequential(
        [
            tf_keras.Input((FRAMES, BANDS)),
            AddChannel(name="map"),
            QuantizedConv2D(5, kernel=kernel, stride=stride, scheme=FloatWeights(), name="conv"),
            QuantizedConv2D(None, kernel=(3, 3), stride=(1, 1), scheme=FloatWeights(), name="depthwise"),
            MeanOverMap(name="mean"),
            QuantizedDense(CLASSES, scheme=FloatWeights(), name="classifier"),
        ]
    )
    model.set_weights([rng.integers(-3, 4, size=array.shape).astype(np.float32) for array in model.get_weights()])
    return model


def with_output(model_bytes: bytes, name: str) -> onnx.ModelProto:
    model = onnx.load_from_string(model_bytes)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    return model


def run(model: onnx.ModelProto, features: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"features": model_layout(features, rank=4)})[0])


@pytest.mark.parametrize("kernel", [(3, 3), (4, 2), (1, 1), (10, 4)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (4, 3)])
def test_exported_convolutions_compute_what_keras_computes(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    model = integer_network(kernel, stride)
    features = np.random.default_rng(12).integers(-4, 5, size=(2, FRAMES, BANDS)).astype(np.float32)
    exported = export_onnx(layer_records(model), (FRAMES, BANDS), name="integers")
    maps = tf_keras.Sequential(model.layers[:3])(features).numpy()
    np.testing.assert_array_equal(run(with_output(exported, "depthwise"), features), maps.transpose(0, 3, 1, 2))


def test_the_comparison_notices_a_padding_on_the_wrong_side() -> None:
    model = integer_network((4, 2), (2, 2))
    features = np.random.default_rng(12).integers(-4, 5, size=(2, FRAMES, BANDS)).astype(np.float32)
    moved = with_output(export_onnx(layer_records(model), (FRAMES, BANDS), name="integers"), "depthwise")
    pads = next(attribute for attribute in moved.graph.node[0].attribute if attribute.name == "pads")
    assert list(pads.ints) == [1, 0, 2, 0]
    pads.ints[:] = [2, 0, 1, 0]
    maps = tf_keras.Sequential(model.layers[:3])(features).numpy()
    assert (run(moved, features) != maps.transpose(0, 3, 1, 2)).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_stated_size(name: str) -> None:
    build, _, parameters = NETWORKS[name]
    model = build(FloatWeights())
    quantizer_state = 3 * sum(isinstance(layer, ActivationQuantizer) for layer in model.layers)
    assert model.count_params() - quantizer_state == parameters


def test_ds_cnn_is_the_published_network(shared_dir: Path) -> None:
    """Same convolution weights, counted and shaped, as the published float file; its biases sit before batch norms."""
    stored = onnx.load(shared_dir / "models" / "mlcommons_tiny" / "kws_ref_model_truefloat.onnx").graph.initializer
    theirs = sorted(numpy_helper.to_array(tensor).size for tensor in stored if len(tensor.dims) in (2, 4))
    ours = sorted(array.size for array in build_ds_cnn(FloatWeights()).get_weights() if array.ndim in (2, 4))
    assert ours == [size for size in theirs if size > 64]


SCHEMES = {
    "w4": TwoStage(4),
    "w4 per channel": TwoStage(4, per_channel=True),
    "w1 per channel": MaxAbs(1, per_channel=True),
}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_converts_on_the_exact_path(name: str, scheme: TwoStage | MaxAbs, tmp_path: Path) -> None:
    build, features, _ = NETWORKS[name]
    tf_keras.utils.set_random_seed(3)
    model = build(scheme)
    adopt_weights(model, build(FloatWeights()))
    calibrate(model, load_synthetic("val", features=features).features[:16], 100.0)
    path = tmp_path / f"{name}.onnx"
    records = layer_records(model)
    path.write_bytes(export_onnx(records, model.input_shape[1:], name=name))
    conversion = run_conversion(ConvertOptions(model=path, target="neon", weight_bits=scheme.bits, parity_inputs=4))
    assert conversion.exit_code == 0
    emitted = {tensor.name: tensor for tensor in read(conversion.artefact.proven_bytes, name).main.tensors}
    for record in (record for record in records if isinstance(record, Conv2DRecord)):
        found, spec = emitted[f"{record.name}.weight"], record.weight.spec
        codes = np.frombuffer(found.data, np.int8).reshape(found.shape)
        # (C_out, K_t, K_f, C_in); of a depthwise weight, (1, K_t, K_f, C).
        np.testing.assert_array_equal(codes, record.weight.values.transpose(3, 0, 1, 2))
        assert not isinstance(spec, Unquantized)
        # Batch norms as they start: one gain for all channels, which the scales take up.
        np.testing.assert_allclose(found.scale, spec.scale / np.sqrt(1.001) * np.ones(found.scale.size), rtol=1e-6)
        assert np.unique(spec.scale).size == (found.scale.size if scheme.per_channel else 1)
