"""Models broken one field at a time: every outcome is a conversion or a named refusal, never a defect of kwsq."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runs import TEXT, kwsq, kwsq_convert, left, save
from onnx import numpy_helper
from qdq_models import Scheme, float_model, quantized, random_feeds

CONVOLUTION = """(float[1,1,12,10] x, float[4,1,3,3] w1, float[4,1,3,3] w2, float[4] v1, float[4] b1, float[4] b2,
float[4] v2, float[4,3] w3) => (float[1,3] y)
{ c = Conv<pads=[1,1,1,1],strides=[2,2]>(x, w1) n = BatchNormalization(c, v1, b1, b2, v2) r = Relu(n)
d = Conv<group=4,pads=[1,1,1,1]>(r, w2) g = GlobalAveragePool(d) f = Flatten(g) y = MatMul(f, w3) }"""
STREAM = """(float[1,4] x, float[1,6] s, float[10,6] w1, float[6,3] w2) => (float[1,3] y, float[1,6] n)
{ c = Concat<axis=-1>(x, s) h = MatMul(c, w1) n = Relu(h) q = MatMul(n, w2) y = Softmax(q) }"""
OPERATORS = """Relu Add Mul Conv MatMul Gemm Transpose Softmax Clip Concat Reshape Squeeze QuantizeLinear Sigmoid Pad
DequantizeLinear ReduceMean Flatten Slice MaxPool Identity Div Sub Split Tanh HardSwish LeakyRelu LSTM""".split()
ODD_FLOATS = (0, -1, np.nan, np.inf, 1e-30, 1e30, 1e-45)
ODD_INTEGERS = (-(2**40), -1, 0, 1, 2, 7, 2**31 - 1)
Mutation = Callable[[onnx.GraphProto, np.random.Generator], None]


def some_node(graph: onnx.GraphProto, rng: np.random.Generator) -> onnx.NodeProto:
    return graph.node[rng.integers(len(graph.node))]


def some_constant(graph: onnx.GraphProto, rng: np.random.Generator) -> onnx.TensorProto:
    return graph.initializer[rng.integers(len(graph.initializer))]


def other_operator(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    some_node(graph, rng).op_type = str(rng.choice(OPERATORS))


def fewer_inputs(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    node = some_node(graph, rng)
    if node.input:
        del node.input[rng.integers(len(node.input))]


def more_inputs(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    some_node(graph, rng).input.append(some_node(graph, rng).output[0])


def other_input(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    node = some_node(graph, rng)
    names = ["", *(c.name for c in graph.initializer), *(n.output[0] for n in graph.node)]
    if node.input:
        node.input[rng.integers(len(node.input))] = str(rng.choice(names))


def odd_attribute(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    attributes = [a for node in graph.node for a in node.attribute]
    if not attributes:
        return
    attribute = attributes[rng.integers(len(attributes))]
    if attribute.ints:
        attribute.ints[rng.integers(len(attribute.ints))] = int(rng.choice(ODD_INTEGERS))
    else:
        attribute.i, attribute.f = int(rng.choice(ODD_INTEGERS)), float(rng.choice(ODD_FLOATS))


def odd_dimension(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    constant = some_constant(graph, rng)
    if constant.dims:
        constant.dims[rng.integers(len(constant.dims))] = int(rng.choice(ODD_INTEGERS))


def odd_value(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    constant = some_constant(graph, rng)
    values = numpy_helper.to_array(constant).copy()
    odd = rng.choice(ODD_FLOATS) if values.dtype.kind == "f" else rng.choice([-128, 0, 127])
    values.reshape(-1)[rng.integers(values.size)] = odd
    constant.CopyFrom(numpy_helper.from_array(values, constant.name))


def other_shape(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    constant = some_constant(graph, rng)
    values = numpy_helper.to_array(constant).reshape(-1)
    constant.CopyFrom(numpy_helper.from_array(values[: max(1, values.size // 2)], constant.name))


def missing_node(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    del graph.node[rng.integers(len(graph.node))]


def other_magnitude(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    constant = some_constant(graph, rng)
    values = numpy_helper.to_array(constant) * rng.choice([-1.0, 0.0, 1e-6, 1e6])
    constant.CopyFrom(numpy_helper.from_array(values.astype(numpy_helper.to_array(constant).dtype), constant.name))


MUTATIONS: tuple[Mutation, ...] = (
    other_operator,
    fewer_inputs,
    more_inputs,
    other_input,
    odd_attribute,
    odd_dimension,
    odd_value,
    other_shape,
    missing_node,
    other_magnitude,
)


@pytest.fixture(scope="module")
def sound_models() -> list[onnx.ModelProto]:
    models = [float_model(text) for text in (TEXT, CONVOLUTION, STREAM)]
    return [quantized(model, random_feeds(model, 16), Scheme(weight_bits=4)) for model in models]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinities and overflows are what is asked of NumPy here
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda m: m.__name__)
def test_every_outcome_has_a_name(sound_models: list[onnx.ModelProto], mutate: Mutation, tmp_path: Path) -> None:
    rng = np.random.default_rng(MUTATIONS.index(mutate))
    for number in range(12):
        model = onnx.ModelProto()
        model.CopyFrom(sound_models[number % len(sound_models)])
        for _ in range(1 + number % 2):
            mutate(model.graph, rng)
        path = save(model, tmp_path / f"{number}.onnx")
        out = tmp_path / f"out{number}"
        outcome = kwsq_convert(path, "--target", "neon", "-o", out, "--inputs", 4, "-v")
        assert outcome.code in (0, 1, 2, 4, 5), f"case {number}: {outcome.stderr}"
        assert "Traceback" not in outcome.stderr
        files = {0: 4, 1: 2}.get(outcome.code)
        assert (len(left(out)) if out.exists() else None) == files
        looked = [kwsq(command, path, "--json").code for command in ("inspect", "footprint")]
        assert set(looked) <= {0, 2, 4, 5}, f"case {number}"
