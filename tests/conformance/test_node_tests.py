"""ONNX's own tests: every one in reach converts to nearly the expected result or is refused by name.

Never a wrong output, never a traceback. `conformance.toml` lists the refused ones with a part of the message, and the
bounds that are not the default; a test that stops being refused fails until it is taken off the list.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conversion import assert_faithful, assert_interface, codes_of, convert, real_of
from node_models import NodeTest, exported_tests, node_tests
from numpy.typing import NDArray
from qdq_models import Arrays, Scheme, quantized, run_onnx

from kwsq.ir.errors import UnsupportedModelError, UsageError
from kwsq.ir.execute.integer import run_integer

LISTS = tomllib.loads(Path(__file__).with_name("conformance.toml").read_text(encoding="utf-8"))
TESTS = {test.name: test for test in (*node_tests(), *exported_tests())}
VECTORS = 8
DEFAULT_LSB = 1
# The annotated model rounds its input, its weights and its output; each rounding is half a step of a range of 255.
# Operators of gain about 1 keep them, hence a few steps.
FLOAT_LSB = 4


def noisy(test: NodeTest) -> Arrays:
    """Return the test's own data followed by copies with noise, a tenth of their deviation."""
    rng = np.random.default_rng(0)
    feeds = {}
    for name, values in test.data.items():
        noise = rng.normal(0, 0.1 * max(float(np.std(values)), 1e-3), (VECTORS - 1, *values.shape))
        stacked = np.concatenate([values[None], values[None] + noise])
        feeds[name] = stacked.reshape(VECTORS * values.shape[0], *values.shape[1:]).astype(np.float32)
    return feeds


def first_vector(array: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(-1)[: like.size].reshape(like.shape)


@pytest.mark.parametrize("name", [n for n in TESTS if n not in LISTS["refused"] and n not in LISTS["integer"]])
def test_converts(name: str) -> None:
    test = TESTS[name]
    feeds = noisy(test)
    model = quantized(test.model, feeds, Scheme())
    converted = convert(model, feeds)
    graph = converted.graph
    assert_interface(graph, model)
    codes = codes_of(graph, feeds)
    assert_faithful(converted, codes)
    expected = run_onnx(model, real_of(graph, codes))
    found = real_of(graph, {key: np.asarray(array) for key, array in run_integer(graph, codes).items()})
    for output in graph.outputs:
        step = float(graph[output].scale[0])
        distance = np.abs(found[output].reshape(expected[output].shape) - expected[output]).max() / step
        assert distance <= LISTS["lsb"].get(name, DEFAULT_LSB) + 0.01, output
        if name not in LISTS["far_from_float"]:
            reference = test.outputs[output]
            error = np.abs(first_vector(found[output], reference) - reference).max() / step
            assert error <= FLOAT_LSB + LISTS["lsb"].get(name, DEFAULT_LSB), output


@pytest.mark.parametrize("name", LISTS["integer"])
def test_integer_operator_keeps_its_codes(name: str) -> None:
    """Operators of the QOperator format: the expected codes to one rounding."""
    test = TESTS[name]
    converted = convert(test.model, None)
    assert_interface(converted.graph, test.model)
    assert_faithful(converted, test.data)
    found = run_integer(converted.graph, test.data)
    for output, reference in test.outputs.items():
        assert np.abs(np.asarray(found[output]).astype(int) - reference.astype(int)).max() <= DEFAULT_LSB


@pytest.mark.parametrize("name", LISTS["refused"])
def test_refused_by_name(name: str) -> None:
    test, part = TESTS[name], LISTS["refused"][name]
    model = annotated_where_possible(test)
    with pytest.raises((UnsupportedModelError, UsageError)) as caught:
        convert(model, noisy(test) if is_float(test) else None)
    assert part in str(caught.value)
    assert any(node.name in problem.where for node in test.model.graph.node for problem in caught.value.problems)


def is_float(test: NodeTest) -> bool:
    return all(values.dtype == np.float32 and values.size for values in test.data.values())


def annotated_where_possible(test: NodeTest) -> onnx.ModelProto:
    """Return the annotated model, or the model itself where onnxruntime cannot run it on noise (NaN, no elements)."""
    if not is_float(test) or test.name in LISTS["not_run"]:
        return test.model
    return quantized(test.model, noisy(test), Scheme())


def test_the_lists_name_tests_that_exist() -> None:
    listed = [name for key in ("refused", "integer", "lsb", "far_from_float", "not_run") for name in LISTS[key]]
    assert [name for name in listed if name not in TESTS] == []


def test_counts() -> None:
    """The suite grows with onnx, which is pinned: a changed count is looked at, then recorded."""
    assert LISTS["counts"] == {
        "onnx": onnx.__version__,
        "in_reach": len(TESTS),
        "refused": len(LISTS["refused"]),
        "converted": len(TESTS) - len(LISTS["refused"]),
    }
