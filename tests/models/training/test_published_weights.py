"""A published float model becomes a Keras model that computes the same; a wrong file is refused by what is wrong."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from kwsq.ir.errors import UsageError
from kwsq.models import cli
from kwsq.models.data.clips import LABELS, LabelledFeatures, load_split
from kwsq.models.ds_cnn.model import build
from kwsq.models.layers.over_maps import QuantizedConv2D
from kwsq.models.layers.over_time import QuantizedDense
from kwsq.models.recipe import Recipe, Start, read_recipe
from kwsq.models.schemes import FloatWeights, TwoStage
from kwsq.models.table.read_protocol import read_protocol
from kwsq.models.table.run import open_workplace
from kwsq.models.training.published_start import adopt_published, channel_factors
from kwsq.models.training.published_weights import PublishedLayer, published_layers, read_layers
from kwsq.models.training.train import train_float

FOLDER = Path(__file__).resolve().parents[3] / "models" / "ds_cnn"
RECIPE, TABLE = FOLDER / "published.toml", FOLDER / "published_table.toml"
MODEL = "models/mlcommons_tiny/kws_ref_model_truefloat.onnx"
LOGITS = "Add__33:0"
UNIT = 2.0**-24
FRAMES, COEFFICIENTS = 49, 10


def random_layers(seed: int) -> tuple[PublishedLayer, ...]:
    """Layers of ds_cnn whose filters differ in size by up to a factor of ten; one filter is zero."""
    rng = np.random.default_rng(seed)
    layers = []
    for layer in build(FloatWeights()).layers:
        if isinstance(layer, QuantizedConv2D | QuantizedDense):
            shape = tuple(layer.parameter.shape)
            is_depthwise = getattr(layer, "is_depthwise", False)
            channels = shape[2] if is_depthwise else shape[-1]
            fan_in = np.prod(shape) / channels
            sizes = 10.0 ** rng.uniform(-0.7, 0.3, channels)
            sizes[channels // 2] = 0.0
            weight = rng.normal(size=shape) * np.sqrt(2.0 / fan_in) * sizes.reshape((-1, 1) if is_depthwise else (-1,))
            bias = rng.normal(size=channels)
            layers.append(PublishedLayer(layer.name, weight.astype(np.float32), bias.astype(np.float32)))
    return tuple(layers)


def onnx_model(layers: tuple[PublishedLayer, ...]) -> bytes:
    """Write layers as ds_cnn with its batch norms folded away, as published files have it."""
    nodes, tensors, current = [], [], "input"
    for layer in layers[:-1]:
        is_depthwise = layer.weight.shape[3] == 1 and layer.weight.shape[:2] == (3, 3)
        weight = layer.weight.transpose((2, 3, 0, 1) if is_depthwise else (3, 2, 0, 1))
        tensors += [numpy_helper.from_array(np.ascontiguousarray(weight), f"{layer.name}.w")]
        tensors += [numpy_helper.from_array(layer.bias, f"{layer.name}.b")]
        nodes.append(
            helper.make_node(
                "Conv", [current, f"{layer.name}.w", f"{layer.name}.b"], [layer.name], name=layer.name,
                auto_pad="SAME_UPPER", strides=[2, 2] if layer.name == "conv" else [1, 1],
                group=weight.shape[0] if is_depthwise else 1,
            )
        )  # fmt: skip
        current = f"{layer.name}.relu"
        nodes.append(helper.make_node("Relu", [layer.name], [current]))
    tensors += [numpy_helper.from_array(layers[-1].weight, "w"), numpy_helper.from_array(layers[-1].bias, "b")]
    nodes += [
        helper.make_node("GlobalAveragePool", [current], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["product"], name="dense"),
        helper.make_node("Add", ["b", "product"], ["logits"]),
    ]
    features = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, FRAMES, COEFFICIENTS])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(LABELS)])
    graph = helper.make_graph(nodes, "published", [features], [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def plain_run(content: bytes, name: str, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Run ONNX Runtime, optimisations off, up to a named tensor."""
    model = onnx.load_model_from_string(content)
    if name not in [output.name for output in model.graph.output]:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result = session.run([name], {session.get_inputs()[0].name: features})[0]
    return np.asarray(result, np.float64)


def rounding_deviation(model: Any, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Standard deviation of the rounding error of the logits, (n, classes), of one float32 evaluation.

    Roundings taken as independent with a mean of zero, each at most u times its result (Higham and Mary 2019). With
    deviation s of a layer's inputs x, fan-in n, weights w (each rounded once itself) and the sum of magnitudes
    m = |w| |x|: the sum has variance w^2 s^2 + (n + 1) u^2 m^2, the batch norm g x + o of six operations adds
    6 u^2 (|g| (|x| + |mean|) + |beta|)^2, ReLU adds nothing, and the mean over 125 positions adds 125 u^2 mean^2.
    """
    values, variance = tf.constant(features, tf.float64), tf.zeros(features.shape, tf.float64)
    for layer in model.layers:
        match layer:
            case QuantizedConv2D():
                weight = tf.cast(layer.parameter, tf.float64)
                fan_in = float(np.prod(layer.kernel)) * (1 if layer.is_depthwise else int(weight.shape[2]))
                sizes = _convolved(layer, tf.abs(values), tf.abs(weight))
                variance = _convolved(layer, variance, weight**2) + (fan_in + 1.0) * (UNIT * sizes) ** 2
                values = _convolved(layer, values, weight)
            case tf_keras.layers.BatchNormalization():
                gamma, beta, mean, spread = (array.astype(np.float64) for array in layer.get_weights())
                gain = gamma / np.sqrt(spread + layer.epsilon)
                size = np.abs(gain) * (tf.abs(values) + np.abs(mean)) + np.abs(beta)
                variance = gain**2 * variance + 6.0 * (UNIT * size) ** 2
                values = gain * (values - mean) + beta
            case tf_keras.layers.ReLU():
                values = tf.nn.relu(values)
            case QuantizedDense():
                weight = tf.cast(layer.parameter, tf.float64)
                sizes = tf.abs(values) @ tf.abs(weight) + np.abs(layer.bias.numpy())
                variance = variance @ weight**2 + (float(weight.shape[0]) + 2.0) * (UNIT * sizes) ** 2
            case _ if layer.name == "mean":
                cells = float(values.shape[1] * values.shape[2])
                values = tf.reduce_mean(values, axis=(1, 2))
                variance = tf.reduce_mean(variance, axis=(1, 2)) + cells * (UNIT * values) ** 2
            case _ if layer.name == "map":
                values, variance = values[..., tf.newaxis], variance[..., tf.newaxis]
    return np.asarray(np.sqrt(variance.numpy()))


def _convolved(layer: Any, values: Any, weight: Any) -> Any:
    if layer.is_depthwise:
        return tf.nn.depthwise_conv2d(values, weight, strides=(1, *layer.stride, 1), padding="SAME")
    return tf.nn.conv2d(values, weight, strides=layer.stride, padding="SAME")


def excess(model: Any, features: NDArray[np.float32], expected: NDArray[np.float64]) -> float:
    """Largest difference of logits, as a share of its bound.

    Two evaluations differ by sqrt(2) deviations; eight of those are exceeded by chance once in 1e15 logits. Errors of
    one layer share rounded weights and are not quite independent, which the bound on each rounding by u (a uniform
    error has a deviation of u / sqrt(3)) makes good.
    """
    found = model(features, training=False).numpy().astype(np.float64)
    return float((np.abs(found - expected) / (8.0 * np.sqrt(2.0) * rounding_deviation(model, features))).max())


def adopted(layers: tuple[PublishedLayer, ...], features: NDArray[np.float32]) -> Any:
    model = build(FloatWeights())
    adopt_published(model, layers, features)
    return model


def random_features(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(count, FRAMES, COEFFICIENTS)).astype(np.float32)


def test_the_adopted_model_computes_what_the_file_computes() -> None:
    content, features = onnx_model(random_layers(1)), random_features(32)
    model = adopted(read_layers(content), features[:16])
    assert excess(model, features, plain_run(content, "logits", features[:, None])) <= 1.0


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_one_number_that_is_off_is_noticed(part: str) -> None:
    content, features = onnx_model(random_layers(1)), random_features(32)
    layers = list(read_layers(content))
    array = getattr(layers[3], part).copy()
    array.flat[np.abs(array).argmax()] *= -1.0
    layers[3] = replace(layers[3], **{part: array})
    model = adopted(tuple(layers), features[:16])
    assert excess(model, features, plain_run(content, "logits", features[:, None])) > 1.0


def test_filters_of_a_layer_have_one_size_and_statistics_are_those_of_the_clips() -> None:
    features = random_features(16)
    model = adopted(random_layers(2), features)
    for layer in model.layers:
        if isinstance(layer, QuantizedConv2D):
            factor = channel_factors(layer.parameter.numpy(), is_depthwise=layer.is_depthwise)
            np.testing.assert_allclose(np.delete(factor, factor.size // 2), factor[0], rtol=1e-5)
    # A training step, which uses its batch's own statistics, computes the same on the same clips: to a part in a
    # thousand, because the variances of batch and estimate differ by their rounding only.
    told = model(features, training=False).numpy()
    np.testing.assert_allclose(model(features, training=True).numpy(), told, atol=1e-3 * np.abs(told).max())


def recipe(content: bytes) -> Recipe:
    return replace(read_recipe(RECIPE), start=Start("published.onnx", hashlib.sha256(content).hexdigest()))


def test_training_without_epochs_leaves_the_published_model(tmp_path: Path) -> None:
    content = onnx_model(random_layers(1))
    path = tmp_path / "published.onnx"
    path.write_bytes(content)
    features = random_features(16)
    examples = LabelledFeatures(features, np.zeros(16, np.int64), ("someone",) * 16)
    model = train_float(recipe(content), build, examples, seed=1, start=published_layers(recipe(content), path))
    assert excess(model, features, plain_run(content, "logits", features[:, None])) <= 1.0


def test_a_recipe_without_its_file_is_refused(tmp_path: Path) -> None:
    plan = read_recipe(RECIPE)
    with pytest.raises(UsageError, match=r"no --weights.*kws_ref_model_truefloat\.onnx"):
        published_layers(plan, None)
    with pytest.raises(UsageError, match="no such file"):
        published_layers(plan, tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="starts from random weights"):
        published_layers(replace(plan, start=None), tmp_path / "none.onnx")
    assert published_layers(replace(plan, start=None), None) is None


def test_commands_refuse_before_they_read_data(tmp_path: Path) -> None:
    places = ("--data", str(tmp_path), "--out", str(tmp_path / "out"))
    result = CliRunner().invoke(cli.app, ["train", str(RECIPE), *places])
    assert result.exit_code == 2
    assert "no --weights" in result.output
    with pytest.raises(UsageError, match="no --weights"):
        open_workplace(TABLE, tmp_path, tmp_path / "out", tmp_path / "rows.jsonl")
    assert not (tmp_path / "out").exists()


def test_the_protocol_compares_with_the_published_model_and_trains_as_the_recipe_does() -> None:
    protocol, plan = read_protocol(TABLE), read_recipe(RECIPE)
    method, control = protocol.method("two_stage_fast_long"), protocol.method("control_long")
    assert (protocol.control_of(method.name), protocol.recipe.float_phase.epochs) == (control.name, 0)
    assert (method.stage1.epochs, method.stage2.epochs) == (control.stage1.epochs, control.stage2.epochs)
    assert method.distillation == control.distillation
    assert len(protocol.seeds_of(method, 4)) == 5
    for variant in plan.variants:
        assert (variant.stage1, variant.stage2) == (method.stage1, method.stage2)
        assert variant.scheme in [method.scheme(bits) for bits in method.bits]
        assert protocol.plan(method).distillation == plan.distillation


def test_a_hash_may_be_written_in_capitals(tmp_path: Path) -> None:
    path = tmp_path / "published.onnx"
    path.write_bytes(onnx_model(random_layers(1)))
    capitals = Start("published.onnx", hashlib.sha256(path.read_bytes()).hexdigest().upper())
    assert published_layers(replace(read_recipe(RECIPE), start=capitals), path) is not None


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(onnx_model(random_layers(1)))
    with pytest.raises(UsageError, match=r"sha256.*60577e1e"):
        published_layers(read_recipe(RECIPE), path)


def test_a_model_of_another_shape_is_refused() -> None:
    layers = random_layers(1)
    with pytest.raises(UsageError, match="start from a model of this architecture"):
        adopt_published(build(FloatWeights()), layers[:-1], random_features(2))
    swapped = (layers[0], layers[2], layers[1], *layers[3:])
    with pytest.raises(UsageError, match="start from a model of this architecture"):
        adopt_published(build(FloatWeights()), swapped, random_features(2))


def test_weights_that_are_computed_are_refused() -> None:
    model = onnx.load_model_from_string(onnx_model(random_layers(1)))
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "pointwise2.b"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    with pytest.raises(UsageError, match="'pointwise2'"):
        read_layers(model.SerializeToString())


@pytest.mark.shared
def test_the_published_model_is_adopted_on_recorded_clips(shared_dir: Path, tmp_path: Path) -> None:
    """The recipe's own file, on the 643 clips of the report split; order of classes and features are thereby shown."""
    path = shared_dir / MODEL
    layers = published_layers(read_recipe(RECIPE), path)
    assert layers is not None
    clips = load_split(shared_dir / "data", tmp_path, dataset="gsc12", split="val", features="mfcc")
    model = adopted(layers, clips.features[::4])
    expected = plain_run(path.read_bytes(), LOGITS, clips.features[..., None])
    assert excess(model, clips.features, expected) <= 1.0
    # 90.2 % of these clips; a wrong order of classes would leave a twelfth, and other features about a half.
    assert (expected.argmax(axis=1) == clips.labels).mean() > 0.88
    wrong = replace(layers[3], bias=np.roll(layers[3].bias, 1))
    moved = adopted((*layers[:3], wrong, *layers[4:]), clips.features[::4])
    assert excess(moved, clips.features, expected) > 100.0


def test_a_quantized_model_starts_from_it_as_from_any_float_model() -> None:
    from kwsq.models.layers.sequential import adopt_weights

    features = random_features(16)
    source, target = adopted(random_layers(2), features), build(TwoStage(8))
    adopt_weights(target, source)
    told, found = (model(features, training=False).numpy() for model in (source, target))
    # Eight bits on a span of three deviations: most of the words stay, whatever the sizes of filters were.
    assert (told.argmax(axis=1) == found.argmax(axis=1)).mean() > 0.8


@pytest.mark.parametrize("content", [b"garbage", b"\x1c\0\0\0TFL3" + bytes(40)])
def test_what_is_no_onnx_file_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match="expected an ONNX file"):
        read_layers(content)


@pytest.mark.parametrize(("weight", "bias"), [((2, 1, 3), (2,)), ((2, 1, 3, 3), (1, 2))])
def test_a_layer_of_another_rank_is_refused(weight: tuple[int, ...], bias: tuple[int, ...]) -> None:
    tensors = [
        numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("w", weight), ("b", bias))
    ]
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="first")
    model = helper.make_model(helper.make_graph([node], "g", [], [], tensors))
    with pytest.raises(UsageError, match=r"node 'first': found weight .* bias .*expected 4 dimensions and one"):
        read_layers(model.SerializeToString())
