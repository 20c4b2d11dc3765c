"""A float network in, a quantised one out: what it holds, how close it stays, and that it is always the same."""

import hashlib
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from builders import Model, grid, kinds, lowered, lsb_distance, op_node, texts
from numpy.typing import NDArray

from kwsq.ir import ops
from kwsq.ir.errors import UnsupportedModelError, UsageError
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph
from kwsq.ir.ops import Activation
from kwsq.ir.quant import Affine, Codebook
from kwsq.passes.ptq import PtqOptions, PtqResult, quantize_float_graph

CLASSES, CLIPS = 6, 150


def float_conv(model: Model, x: str, channels: int, groups: int = 1, activation: Activation = Activation.RELU) -> str:
    fan_in = model.shape(x)[1] // groups
    gain = model.rng.uniform(0.3, 3, (channels, 1, 1, 1))  # what folding a batch norm leaves: unequal channels
    weight = model.constant(gain * model.rng.laplace(0, 1 / np.sqrt(fan_in * 9), (channels, fan_in, 3, 3)), name="w")
    op = ops.Conv((1, 1), ((1, 1), (1, 1)), (1, 1), groups, activation)
    return model.node(op, x, weight, model.bias(channels))


def network(seed: int = 0, activation: Activation = Activation.RELU) -> Graph:
    """A small depthwise separable network with a residual, a mean and a softmax."""
    model = Model(seed)
    x = float_conv(model, model.input("x", (1, 1, 10, 8)), 8, activation=activation)
    y = float_conv(model, float_conv(model, x, 8, groups=8), 8)
    pooled = model.node(ops.Mean((2, 3), False), model.node(ops.Add(), x, y))
    weight = model.constant(model.rng.normal(0, 2, (CLASSES, 8)), name="head")
    logits = model.node(ops.Dense(), pooled, weight, model.bias(CLASSES))
    return model.graph(model.node(ops.Softmax(1), logits, output="probabilities"))


def clips(count: int, seed: int, *, silent_share: float = 0.0) -> NDArray[np.float32]:
    """Smooth random fields; silent clips have one huge coefficient per row, as log-mel cepstra of silence do."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 1, 10, 8)).cumsum(axis=2)
    x[: int(silent_share * count), :, :, 0] = -150
    return rng.permutation(x).astype(np.float32)


def quantized(graph: Graph, **options: object) -> PtqResult:
    settings = {"weight_bits": 4, **options}
    return quantize_float_graph(graph, {"x": clips(CLIPS, 1)}, PtqOptions(**settings))  # type: ignore[arg-type]


def agreement(graph: Graph, result: PtqResult, x: NDArray[np.float32]) -> float:
    """Share of inputs on which both networks decide the same."""
    outputs = [run_float(g, {"x": x})["probabilities"].argmax(axis=1) for g in (graph, result.graph)]
    return float((outputs[0] == outputs[1]).mean())


def logits(graph: Graph, x: NDArray[np.float32]) -> NDArray[np.float32]:
    name = op_node(graph, "Softmax").inputs[0]
    return run_float(graph, {"x": x}, keep=[name])[name]


def distance(graph: Graph, result: PtqResult, x: NDArray[np.float32]) -> float:
    """Root mean square difference of the logits."""
    return float(np.sqrt(np.square(logits(graph, x) - logits(result.graph, x)).mean()))


def digest(result: PtqResult) -> str:
    sha = hashlib.sha256()
    for node in result.graph.nodes:
        if isinstance(node.op, ops.FakeQuant):
            sha.update(node.op.spec.scale.tobytes() + node.op.spec.zero_point.tobytes())
    for tensor in result.graph.constants():
        sha.update(tensor.name.encode() + np.asarray(tensor.data).tobytes())
        if isinstance(tensor.quant, Affine | Codebook):
            sha.update(tensor.quant.scale.tobytes())
    return sha.hexdigest()


# ---- what it holds ----


def test_every_activation_has_one_grid_and_every_weight_codes() -> None:
    graph = network()
    result = quantized(graph)
    assert result.graph.outputs == graph.outputs
    assert result.graph.inputs == graph.inputs
    produced = [node.op.name for node in graph.nodes]
    assert kinds(result.graph).count("FakeQuant") == len(produced) + 1  # and the input: nothing here only moves values
    for node in result.graph.nodes:
        if isinstance(node.op, ops.Conv | ops.Dense):
            tensor = result.graph[node.inputs[1]]
            assert tensor.data is not None
            assert tensor.data.dtype == np.int8
            assert isinstance(tensor.quant, Affine | Codebook)
            assert result.graph[node.inputs[2]].data.dtype == np.float32  # type: ignore[union-attr]


def test_the_softmax_has_the_kernels_grid() -> None:
    result = quantized(network())
    (last,) = (node for node in result.graph.nodes if node.outputs == ("probabilities",))
    assert isinstance(last.op, ops.FakeQuant)
    assert last.op.spec.same_as(grid(1 / 256, -128))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_result_lowers_and_computes_the_same(bits: int) -> None:
    """The integer graph may round a value next to a tie the other way in each of 6 operators, and softmax amplifies."""
    graph = quantized(network(), weight_bits=bits).graph
    result = lowered(graph)
    assert "requantised" not in texts(result)
    assert lsb_distance(graph, result) <= 16


def test_records_name_every_choice() -> None:
    result = quantized(network())
    kinds_of = [record.kind for record in result.records]
    assert kinds_of.count("weight") == 4
    assert kinds_of.count("activation") == 8
    for record in result.records:
        assert record.range_low <= 0 <= record.range_high or record.kind == "weight"
        assert record.output_loss is None or 0 <= record.output_loss <= 1
        assert record.to_json()["tensor"] == record.tensor
    assert "mean output loss" in texts(result)
    assert "relative error of the layer's output: per_channel" in texts(result)


def test_annotations_are_kept() -> None:
    model = Model()
    x = model.quantize(model.input("x", (1, 1, 10, 8)), grid(0.11))
    y = model.quantize(model.conv(x, 4, (3, 3), bits=3), grid(0.07))
    weight = model.constant(model.rng.normal(0, 1, (3, 4 * 48)), name="free")
    flat = model.node(ops.Reshape((1, 4 * 48)), y)
    graph = model.graph(model.node(ops.Dense(), flat, weight, model.bias(3)))
    result = quantized(graph)
    before = {n.name: n.op for n in graph.nodes if isinstance(n.op, ops.FakeQuant)}
    assert before.items() <= {n.name: n.op for n in result.graph.nodes}.items()
    conv = op_node(graph, "Conv")
    for name in conv.inputs[1:]:
        assert graph[name] is result.graph[name]
    assert [record.tensor for record in result.records] == [graph.outputs[0], weight]


def test_only_activations_are_quantised_when_all_weights_have_codes() -> None:
    model = Model()
    graph = model.graph(model.conv(model.input("x", (1, 1, 10, 8)), 4, (3, 3), bits=3))
    result = quantized(graph)
    assert {record.kind for record in result.records} == {"activation"}


# ---- widths, schemes, methods ----


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width(bits: int) -> None:
    result = quantized(network(), weight_bits=bits)
    for node in result.graph.nodes:
        if isinstance(node.op, ops.Conv | ops.Dense):
            tensor = result.graph[node.inputs[1]]
            assert isinstance(tensor.quant, Affine | Codebook)
            assert tensor.quant.bits == bits
            assert len(np.unique(np.asarray(tensor.data))) <= 2**bits


@pytest.mark.parametrize(("scheme", "kind"), [("per_channel", Affine), ("per_tensor", Affine), ("codebook", Codebook)])
def test_a_scheme_can_be_forced(scheme: str, kind: type) -> None:
    result = quantized(network(), scheme=scheme)
    assert all(isinstance(t.quant, kind) for t in result.graph.constants() if np.asarray(t.data).dtype == np.int8)
    assert {record.scheme for record in result.records if record.kind == "weight"} == {scheme}


def test_codebooks_can_be_ruled_out() -> None:
    result = quantized(network(), codebooks=False)
    assert "codebook" not in {record.scheme for record in result.records}


@pytest.mark.parametrize("method", ["output", "minmax", "percentile", "mse"])
def test_range_methods(method: str) -> None:
    graph = network()
    result = quantized(graph, range_method=method, weight_bits=8)
    methods = {record.method.split()[0] for record in result.records if record.kind == "activation"}
    assert methods == {method, "fixed"}
    assert agreement(graph, result, clips(400, 2)) > 0.9


# ---- how close it stays: shares measured on these seeds, with room to spare ----


@pytest.mark.parametrize(("bits", "share"), [(8, 0.96), (5, 0.95), (4, 0.92), (3, 0.85)])
def test_decisions_on_other_inputs(bits: int, share: float) -> None:
    graph = network()
    assert agreement(graph, quantized(graph, weight_bits=bits), clips(500, 2)) >= share


def test_ranges_by_output_give_up_the_outlier() -> None:
    """The first activation saturates, so the network does not care how far out the outliers are."""
    graph = network(activation=Activation.RELU6)
    calibration = {"x": clips(CLIPS, 1, silent_share=0.08)}
    results = {
        method: quantize_float_graph(graph, calibration, PtqOptions(8, method))  # type: ignore[arg-type]
        for method in ("output", "minmax")
    }
    low = {method: result.records[0].range_low for method, result in results.items()}
    assert low["minmax"] < -145 < low["output"]
    speech = clips(500, 2)
    assert distance(graph, results["output"], speech) < 0.6 * distance(graph, results["minmax"], speech)


@pytest.mark.parametrize("seed", range(3))
def test_feedback_and_correction_pay_on_other_inputs(seed: int) -> None:
    graph, x = network(seed), clips(500, 2)
    full = distance(graph, quantized(graph, weight_bits=3, scheme="per_channel"), x)
    plain = quantized(graph, weight_bits=3, scheme="per_channel", error_feedback=False, bias_correction=False)
    assert full < 0.7 * distance(graph, plain, x)


# ---- always the same ----


def test_the_same_input_gives_the_same_bytes() -> None:
    assert digest(quantized(network())) == digest(quantized(network()))


def test_the_seed_and_the_clips_matter_only_beyond_the_limit() -> None:
    """With all clips in use, the order decides which of them score the candidates, and the halves of equation (63)."""
    kept = {"search_clips": CLIPS}
    results = [quantized(network(), seed=seed, **kept) for seed in (0, 7)]
    grids = [{x.tensor: (x.range_low, x.range_high) for x in r.records if x.kind == "activation"} for r in results]
    assert grids[0] == grids[1]
    assert digest(quantized(network(), clips=60)) != digest(quantized(network(), clips=60, seed=7))


def test_the_number_of_threads_does_not_matter() -> None:
    program = "import test_quantize as t; print(t.digest(t.quantized(t.network())))"
    folders = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    digests = []
    for threads, core in (("1", "Sandybridge"), ("2", "Nehalem")):
        # OpenBLAS picks its kernels, and with them the order of its sums, by the processor; a build on another BLAS
        # ignores the variable and then only the threads differ.
        environment = {**os.environ, "PYTHONPATH": folders, "OPENBLAS_NUM_THREADS": threads, "OPENBLAS_CORETYPE": core}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        digests.append(run.stdout.strip())
    assert digests[0] == digests[1] == digest(quantized(network()))


def test_a_variance_that_rounds_to_zero_is_survived() -> None:
    """Layer norm over rows of very different size: on one 8-bit grid the small variances are code 0."""
    model = Model(3)
    x = model.input("x", (1, 1, 10, 8))
    squared = model.node(ops.Mul(), x, x)
    root = model.node(ops.Rsqrt(), model.node(ops.Mean((3,), True), squared))
    rows = model.node(ops.Reshape((1, 80)), model.node(ops.Mul(), x, root))
    weight = model.constant(model.rng.normal(0, 0.3, (CLASSES, 80)), name="head")
    logits = model.node(ops.Dense(), rows, weight, model.bias(CLASSES))
    graph = model.graph(model.node(ops.Softmax(1), logits, output="probabilities"))
    sizes = np.exp(np.random.default_rng(5).uniform(-4, 2, (CLIPS, 1, 1, 1)))
    result = quantize_float_graph(graph, {"x": (clips(CLIPS, 1) * sizes).astype(np.float32)}, PtqOptions(8))
    assert all(np.isfinite(record.output_loss) for record in result.records if record.output_loss is not None)


# ---- refusals ----


@pytest.mark.parametrize("bits", [0, 9])
def test_widths_out_of_range(bits: int) -> None:
    with pytest.raises(UsageError, match="1 to 8"):
        quantized(network(), weight_bits=bits)


def test_calibration_must_fit() -> None:
    with pytest.raises(UsageError, match="input 'x'"):
        quantize_float_graph(network(), {}, PtqOptions(8))
    with pytest.raises(UsageError, match="input 'x'"):
        quantize_float_graph(network(), {"x": np.zeros((3, 10, 8), np.float32)}, PtqOptions(8))


def test_undefined_calibration_is_refused() -> None:
    x = clips(60, 1)
    x[50, 0, 0, 0] = np.nan
    with pytest.raises(UnsupportedModelError, match="finite"):
        quantize_float_graph(network(), {"x": x}, PtqOptions(8))


def test_few_clips_work_with_a_warning() -> None:
    graph = network()
    result = quantize_float_graph(graph, {"x": clips(3, 1)}, PtqOptions(4))
    assert "warning: model: only 3 calibration inputs" in texts(result)
    assert "chosen on so few" not in texts(quantized(graph))
    assert agreement(graph, result, clips(200, 2)) > 0.6


def test_clips_of_one_class_are_warned_about() -> None:
    """Whatever the input, the bias of one class wins; with it taken away the clips spread over the classes."""
    for offset, warned in ((100.0, True), (0.0, False)):
        model = Model()
        x = model.input("x", (1, 12))
        weight = model.constant(model.rng.normal(size=(CLASSES, 12)))
        bias = model.constant(np.where(np.arange(CLASSES) == 2, offset, 0.0))
        graph = model.graph(model.node(ops.Dense(), x, weight, bias))
        inputs = np.random.default_rng(0).normal(size=(CLIPS, 12)).astype(np.float32)
        result = quantize_float_graph(graph, {"x": inputs}, PtqOptions(8))
        said = [note for note in result.notes if "draw them from all classes" in note.text]
        assert bool(said) == warned
        assert all("class 2" in note.text for note in said)


def warned(x: NDArray[np.float32], **options: object) -> str:
    result = quantize_float_graph(network(), {"x": x}, PtqOptions(8, **options))  # type: ignore[arg-type]
    return "\n".join(text for text in texts(result).splitlines() if text.startswith("warning"))


@pytest.mark.parametrize("places", [[17], [17, 40]])
def test_outliers_are_named_by_their_place_in_the_data(places: list[int]) -> None:
    x = clips(CLIPS, 1)
    x[places, 0, 3, 2] = 1e6
    found = warned(x)
    for place in places:
        assert f"clip {place} reaches 1e+06" in found
    assert "take --ranges percentile" in found


def test_a_network_that_outliers_made_constant_is_said_to_be() -> None:
    x = clips(CLIPS, 1)
    x[17, 0, 3, 2] = 1e6
    assert "answers nearly the same to all calibration inputs" in warned(x, range_method="minmax")


@pytest.mark.parametrize("silent_share", [0.0, 0.3])
def test_usual_data_are_not_warned_about(silent_share: float) -> None:
    found = warned(clips(CLIPS, 1, silent_share=silent_share))
    assert not any(words in found for words in ("reaches", "are equal", "nearly the same"))


def test_equal_clips_are_warned_about() -> None:
    x = clips(60, 1)
    assert "all 60 calibration inputs are equal" in warned(x[:1].repeat(60, axis=0))


def test_calibration_beyond_float32_is_refused_without_warnings_of_numpy() -> None:
    x = clips(60, 1)
    x[50] = 3e38
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnsupportedModelError, match="finite"):
            quantize_float_graph(network(), {"x": x}, PtqOptions(8))
