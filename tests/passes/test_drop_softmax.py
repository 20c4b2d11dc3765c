"""On request the final probabilities become logits, under the same name."""

import numpy as np
import pytest
from builders import Model, grid, kinds, texts

from kwsq.ir import ops
from kwsq.ir.errors import UsageError
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Op
from kwsq.passes.drop_softmax import DropSoftmax

X = {"x": np.linspace(-1, 1, 8, dtype=np.float32)[None]}


def logits(model: Model) -> str:
    return model.quantize(model.dense(model.input("x", (1, 8)), 4), grid(0.1), output="logits")


@pytest.mark.parametrize("op", [ops.Softmax(1), ops.Sigmoid()])
@pytest.mark.parametrize("tail", ["plain", "quantised", "reshaped"])
def test_drops(op: Op, tail: str) -> None:
    model = Model()
    y = model.node(op, logits(model))
    if tail == "quantised":
        y = model.quantize(y, grid(1 / 255))
    elif tail == "reshaped":
        y = model.node(ops.Reshape((4,)), y)
    before = model.graph(y)
    result = DropSoftmax().run(before)
    assert result.graph.outputs == before.outputs
    assert op.name not in kinds(result.graph)
    assert kinds(result.graph).count("FakeQuant") == 1  # the one of the logits
    assert "carries logits" in texts(result)
    expected = run_float(before, X, keep=["logits"])["logits"]
    np.testing.assert_array_equal(run_float(result.graph, X)[y], expected.reshape(before[y].shape))


def test_logits_that_are_an_output_too_keep_their_name() -> None:
    model = Model()
    y = logits(model)
    before = model.graph(y, model.node(ops.Softmax(1), y))
    after = DropSoftmax().run(before).graph
    assert after.outputs == before.outputs
    values = run_float(after, X)
    np.testing.assert_array_equal(*(values[name] for name in after.outputs))


def test_probabilities_that_are_two_outputs() -> None:
    model = Model()
    y = model.node(ops.Softmax(1), logits(model))
    before = model.graph(y, model.node(ops.Reshape((4,)), y))
    after = DropSoftmax().run(before).graph
    assert after.outputs == before.outputs
    assert "Softmax" not in kinds(after)


def test_nothing_to_drop_is_a_usage_error() -> None:
    model = Model()
    with pytest.raises(UsageError, match=r"--drop-softmax: found outputs \['logits'\]"):
        DropSoftmax().run(model.graph(logits(model)))


def test_softmax_inside_stays() -> None:
    model = Model()
    with pytest.raises(UsageError, match="no Softmax or Sigmoid computes"):
        DropSoftmax().run(model.graph(model.dense(model.node(ops.Softmax(1), logits(model)), 2)))
