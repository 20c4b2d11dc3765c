"""What quantization after training costs a broadcasted residual network with sub-spectral norms, on unseen speakers.

The network is trained on the clips of ../shared, on all but one of five speaker-disjoint folds, written to ONNX as
PyTorch writes it, and converted with no flag beyond `--wbits` and `--calibration`, on 200 clips of the training side.
Every clip is scored by models that never heard its speaker, one per seed. Its many roundings in a row make it the
hardest of the float networks that were tried; nothing is chosen by these scores. Two seeds, because on one the losses
of five networks scatter by more than what is allowed.

    PYTHONPATH=benchmarks python benchmarks/ptq_bc_resnet.py --data ../shared/data --epochs 60 --widths 8 5 4

Source: B. Kim et al., "Broadcasted Residual Learning for Efficient Keyword Spotting", 2021; written from the paper.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf_keras
from onnx import TensorProto, helper, numpy_helper
from ptq_files import convert

from kwsq.models.data.clips import LABELS, load_split
from kwsq.models.data.folds import clip_groups, speaker_folds

ALLOWED = {8: 0.5, 5: 0.8, 4: 1.5}
FOLDS, CALIBRATION, SUB_BANDS, EPSILON = 5, 200, 5, 1e-5
BANDS, FRAMES = 40, 49
STAGES = ((8, 2, 1, 1), (12, 2, 2, 2), (16, 4, 2, 4), (20, 4, 1, 8))
"""Channels, blocks, stride over frequency, dilation over time."""
layers = tf_keras.layers


@dataclass(frozen=True, slots=True)
class Task:
    """One network: the clips it is scored on, and everything drawn."""

    data: Path
    fold: int
    seed: int
    epochs: int
    widths: tuple[int, ...]


def main() -> int:
    """Print a line per network and one of means; 1 where a mean loss is above what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--widths", type=int, nargs="+", default=list(ALLOWED))
    options = parser.parse_args()
    chosen = [(fold, seed) for seed in options.seeds for fold in options.folds]
    tasks = [Task(options.data, fold, seed, options.epochs, tuple(options.widths)) for fold, seed in chosen]
    losses: dict[int, list[float]] = {bits: [] for bits in options.widths}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for task, (accuracy, found) in zip(tasks, pool.map(losses_of, tasks), strict=True):
            text = ", ".join(f"w{bits} {value:+.2f}" for bits, value in found.items())
            print(f"fold {task.fold}, seed {task.seed}: float {accuracy:.2f} %, losses in points {text}", flush=True)
            for bits, value in found.items():
                losses[bits].append(value)
    print(f"mean losses {', '.join(mean_loss(bits, values) for bits, values in losses.items())}")
    return int(any(np.mean(values) > ALLOWED[bits] for bits, values in losses.items()))


def mean_loss(bits: int, values: list[float]) -> str:
    """Return a width's mean, its standard error and what is allowed."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"w{bits} {np.mean(values):+.2f} points (standard error {error:.2f}, allowed {ALLOWED[bits]})"


def losses_of(task: Task) -> tuple[float, dict[int, float]]:
    """Train, export and convert one network; its accuracy in float, and what each width loses of it."""
    with tempfile.TemporaryDirectory() as folder:
        clips = load_split(task.data, Path(folder) / "cache", dataset="gsc12", split=None)
        features, fold_of = as_maps(clips.features), speaker_folds(clip_groups(clips), FOLDS, 0)
        heard, seed = fold_of != task.fold, task.seed * FOLDS + task.fold
        path, scale = Path(folder) / "network.onnx", features[heard].std()
        inputs = ((features - features[heard].mean(axis=(0, 2), keepdims=True)) / scale).astype(np.float32)
        model = trained(inputs[heard], clips.labels[heard], task.epochs, seed)
        export(model, path)
        check_export(model, path, inputs[heard][:8])
        chosen = np.random.default_rng(seed).choice(heard.sum(), CALIBRATION, replace=False)
        calibration, scored = Path(folder) / "calibration.npz", Path(folder) / "scored.npz"
        np.savez(calibration, x=inputs[heard][chosen][:, None])
        np.savez(scored, x=inputs[~heard][:, None], y=clips.labels[~heard])
        found: dict[int, float] = {}
        for bits in task.widths:
            options = ("--wbits", str(bits), "--data", str(scored))
            accuracy: Any = convert(path, calibration, Path(folder) / f"w{bits}", *options)["accuracy"]
            found[bits] = 100.0 * float(accuracy["source_top1"] - accuracy["artefact_top1"])
        return 100.0 * float(accuracy["source_top1"]), found


def as_maps(features: np.ndarray) -> np.ndarray:
    """Log-mel features (n, 98, 64) as (n, 40, 49): two frames averaged, bands interpolated."""
    frames = features.reshape(len(features), FRAMES, 2, -1).mean(axis=2)
    place = np.linspace(0, frames.shape[2] - 1, BANDS)
    low = np.minimum(place.astype(int), frames.shape[2] - 2)
    share = (place - low).astype(np.float32)
    return (frames[:, :, low] * (1 - share) + frames[:, :, low + 1] * share).transpose(0, 2, 1)


# ---- the network in Keras: frequency, time, channels ----------------------------------------------------------------


def norm(x: object) -> object:
    """A batch norm."""
    return layers.BatchNormalization(epsilon=EPSILON)(x)


def sub_spectral_norm(x: object) -> object:
    """A batch norm with parameters of its own for every fifth of the bands."""
    bands, frames, channels = x.shape[1:]  # type: ignore[attr-defined]
    y = layers.Permute((2, 3, 1, 4))(layers.Reshape((SUB_BANDS, bands // SUB_BANDS, frames, channels))(x))
    y = norm(layers.Reshape((bands // SUB_BANDS, frames, SUB_BANDS * channels))(y))
    y = layers.Permute((3, 1, 2, 4))(layers.Reshape((bands // SUB_BANDS, frames, SUB_BANDS, channels))(y))
    return layers.Reshape((bands, frames, channels))(y)


def block(x: object, channels: int, stride: int, dilation: int, *, is_first: bool) -> object:
    """Frequency path, mean over frequency, temporal path, broadcast back."""
    y = layers.ReLU()(norm(layers.Conv2D(channels, 1, use_bias=False)(x))) if is_first else x
    y = layers.DepthwiseConv2D((3, 1), use_bias=False)(layers.ZeroPadding2D(((1, 1), (0, 0)))(y))
    frequency = sub_spectral_norm(y[:, ::stride])
    t = layers.ZeroPadding2D(((0, 0), (dilation, dilation)))(tf.reduce_mean(frequency, axis=1, keepdims=True))
    t = norm(layers.DepthwiseConv2D((1, 3), dilation_rate=(1, dilation), use_bias=False)(t))
    t = layers.SpatialDropout2D(0.1)(layers.Conv2D(channels, 1, use_bias=False)(t * tf.sigmoid(t)))
    total = frequency + t if is_first else frequency + t + x
    return tf.nn.relu(total)


def build() -> tf_keras.Model:
    """BC-ResNet-1."""
    inputs = tf_keras.Input((BANDS, FRAMES, 1))
    x = layers.Conv2D(16, 5, strides=(2, 1), use_bias=False)(layers.ZeroPadding2D(2)(inputs))
    x = layers.ReLU()(norm(x))
    for channels, blocks, stride, dilation in STAGES:
        for number in range(blocks):
            x = block(x, channels, stride if number == 0 else 1, dilation, is_first=number == 0)
    x = layers.DepthwiseConv2D(5, use_bias=False)(layers.ZeroPadding2D(((0, 0), (2, 2)))(x))
    x = layers.ReLU()(norm(layers.Conv2D(32, 1, use_bias=False)(x)))
    x = layers.Conv2D(len(LABELS), 1, use_bias=False)(tf.reduce_mean(x, axis=[1, 2], keepdims=True))
    return tf_keras.Model(inputs, layers.Reshape((len(LABELS),))(x))


def trained(features: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> tf_keras.Model:
    """A network trained with shifts and masks."""
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(seed)
    rng, model = np.random.default_rng(seed), build()
    rate = tf_keras.optimizers.schedules.CosineDecay(2e-3, epochs * (len(labels) // 64))
    cross_entropy = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(rate), cross_entropy)
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        model.fit(augmented(features[order], rng)[..., None], labels[order], batch_size=64, shuffle=False, verbose=0)
    return model


def augmented(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Clips shifted by up to 4 frames, up to 5 bands and 5 frames hidden."""
    result = features.copy()
    for clip in result:
        clip[:] = np.roll(clip, rng.integers(-4, 5), axis=1)
        for axis, length in enumerate(clip.shape):
            width = rng.integers(0, 6)
            start = rng.integers(0, length - width + 1)
            clip[(slice(None),) * axis + (slice(start, start + width),)] = 0
    return result


# ---- the same in ONNX: channels, frequency, time --------------------------------------------------------------------


def _number(name: str) -> int:
    """Keras lists layers by depth, but numbers those of a kind as they are made: conv2d, conv2d_1, ..."""
    end = name.rsplit("_", 1)[-1]
    return int(end) if end.isdigit() else 0


class Writer:
    """Writes the nodes, taking the weights of the Keras model's layers in the order they were made."""

    def __init__(self, model: tf_keras.Model) -> None:
        kinds = (layers.Conv2D, layers.DepthwiseConv2D, layers.BatchNormalization)
        in_order = sorted(model.layers, key=lambda layer: _number(layer.name))
        self._weights = {kind: [x.get_weights() for x in in_order if type(x) is kind] for kind in kinds}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add an operator; return its output."""
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"n{len(self.nodes)}", **attributes))
        return output

    def constant(self, values: np.ndarray) -> str:
        """Add a constant; return its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def conv(self, x: str, **attributes: object) -> str:
        """The next convolution."""
        (weight,) = self._weights[layers.Conv2D].pop(0)
        return self.node("Conv", x, self.constant(weight.transpose(3, 2, 0, 1)), **attributes)

    def depthwise(self, x: str, **attributes: object) -> str:
        """The next depthwise convolution."""
        (weight,) = self._weights[layers.DepthwiseConv2D].pop(0)
        codes = self.constant(weight.transpose(2, 3, 0, 1))
        return self.node("Conv", x, codes, group=weight.shape[2], **attributes)

    def norm(self, x: str, order: np.ndarray | None = None) -> str:
        """The next batch norm, its channels in another order."""
        arrays = self._weights[layers.BatchNormalization].pop(0)
        names = [self.constant(array if order is None else array[order]) for array in arrays]
        return self.node("BatchNormalization", x, *names, epsilon=EPSILON)

    def reshape(self, x: str, *shape: int) -> str:
        """A reshape."""
        return self.node("Reshape", x, self.constant(np.array(shape, np.int64)))

    def block(self, x: str, channels: int, bands: int, stride: int, dilation: int, *, is_first: bool) -> str:
        """As `block`; `bands` are those of its output."""
        y = self.node("Relu", self.norm(self.conv(x))) if is_first else x
        y = self.depthwise(y, pads=[1, 0, 1, 0], strides=[stride, 1])
        order = np.arange(SUB_BANDS * channels).reshape(SUB_BANDS, channels).T.ravel()
        y = self.norm(self.reshape(y, 1, channels * SUB_BANDS, bands // SUB_BANDS, FRAMES), order)
        y = self.reshape(y, 1, channels, bands, FRAMES)
        t = self.node("ReduceMean", y, axes=[2], keepdims=1)
        t = self.norm(self.depthwise(t, pads=[0, dilation, 0, dilation], dilations=[1, dilation]))
        t = self.conv(self.node("Mul", t, self.node("Sigmoid", t)))
        total = self.node("Add", y, t)
        return self.node("Relu", total if is_first else self.node("Add", total, x))


def export(model: tf_keras.Model, path: Path) -> None:
    """Write the network to ONNX."""
    writer, bands = Writer(model), BANDS // 2
    x = writer.node("Relu", writer.norm(writer.conv("x", strides=[2, 1], pads=[2, 2, 2, 2])))
    for channels, blocks, stride, dilation in STAGES:
        bands //= stride
        for number in range(blocks):
            is_first = number == 0
            x = writer.block(x, channels, bands, stride if is_first else 1, dilation, is_first=is_first)
    x = writer.depthwise(x, pads=[0, 2, 0, 2])
    x = writer.node("Relu", writer.norm(writer.conv(x)))
    x = writer.reshape(writer.conv(writer.node("ReduceMean", x, axes=[2, 3], keepdims=1)), 1, len(LABELS))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 1, BANDS, FRAMES]), (x, [1, len(LABELS)]))
    ]
    graph = helper.make_graph(writer.nodes, "bc_resnet", values[:1], values[1:], writer.constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def check_export(model: tf_keras.Model, path: Path, clips: np.ndarray) -> None:
    """Stop where the file does not compute what the model does."""
    session = onnxruntime.InferenceSession(str(path))
    found = np.concatenate([session.run(None, {"x": clip[None, None]})[0] for clip in clips])
    np.testing.assert_allclose(found, model.predict(clips[..., None], verbose=0), rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    sys.exit(main())
