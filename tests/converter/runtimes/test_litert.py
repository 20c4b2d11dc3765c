"""LiteRT sessions: stacked vectors, kept tensors, refusals with what the runtime printed."""

import numpy as np
import pytest
from lowered_cases import build
from lowered_models import LoweredModel, emit, random_inputs

from kwsq.converter.runtimes.litert import KernelSet, LitertSession, run_litert
from kwsq.ir.errors import ParityError
from kwsq.ir.execute import run_integer
from kwsq.targets.neon.build import tensor_order


@pytest.mark.parametrize("kernels", KernelSet)
def test_vectors_and_kept_tensors(kernels: KernelSet) -> None:
    model = LoweredModel()
    h = model.dense(model.input("x", (1, 12)), 7)
    graph, data = emit(model.graph(model.dense(h, 5)))
    inputs = random_inputs(graph, 6)
    expected = run_integer(graph, inputs, keep=[h])
    index = tensor_order(graph).index(h)
    session = LitertSession(data, kernels, preserve=True)
    for _ in range(2):
        run = session.run([inputs["x"]], [index])
        assert run.kept[index].shape == (6, 7)
        # FULLY_CONNECTED of every kernel set is at most 1 LSB from the reference; two layers were seen 2 apart.
        assert np.abs(run.kept[index].astype(int) - expected[h]).max() <= 1
        assert np.abs(run.outputs[0].astype(int) - expected[graph.outputs[0]]).max() <= 2


def test_a_refused_model_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    _, data = emit(build("dense"))
    for broken in (b"", data[:100], data.replace(b"TFL3", b"TFL9")):
        with pytest.raises(ParityError, match=r"LiteRT \(BUILTIN_REF\)"):
            LitertSession(broken, KernelSet.REFERENCE)
    assert capfd.readouterr().err == ""


def test_the_delegate_keeps_silent(capfd: pytest.CaptureFixture[str]) -> None:
    graph, data = emit(build("dense"))
    run_litert(data, [random_inputs(graph)["x"]], KernelSet.DEFAULT)
    assert capfd.readouterr().err == ""


def test_wrong_inputs_are_refused() -> None:
    _, data = emit(build("dense"))
    with pytest.raises(ParityError, match="0 input arrays"):
        run_litert(data, [], KernelSet.REFERENCE)
    with pytest.raises(ParityError):
        run_litert(data, [np.zeros((1, 40), np.float32)], KernelSet.REFERENCE)
