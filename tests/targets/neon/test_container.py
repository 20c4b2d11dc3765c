"""INT4 packing: the same network in half the weight bytes, and every tensor that is not packed named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lowered_models import LoweredModel, emit, random_inputs

from kwsq.converter.runtimes.litert import KernelSet, run_litert
from kwsq.ir.errors import UsageError
from kwsq.ir.execute import run_integer
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.base import TargetOptions
from kwsq.targets.neon.container import choose_containers, pack_int4
from kwsq.targets.neon.reader import read
from kwsq.targets.neon.target import NeonTarget


def mixed(per_channel: bool = True) -> LoweredGraph:
    model = LoweredModel(2)
    h = model.conv(model.input("x", (1, 9, 5, 3)), 7, (3, 3), bits=4, per_channel=per_channel)
    h = model.depthwise(h, (3, 3), bits=3, per_channel=per_channel)
    h = model.reshape(h, (1, 5 * 7))
    h = model.dense(h, 9, bits=4, per_channel=per_channel)
    h = model.dense(h, 8, levels=(-7, -2, 1, 6), bits=2, per_channel=per_channel)
    return model.graph(model.dense(h, 4, bits=8, per_channel=per_channel))


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=33))
def test_packing_is_low_nibble_first_and_reversible(codes: list[int]) -> None:
    data = pack_int4(np.array(codes, np.int8))
    assert len(data) == (len(codes) + 1) // 2
    nibbles = [n for byte in data for n in (byte & 15, byte >> 4)]
    assert [n - 16 if n > 7 else n for n in nibbles][: len(codes)] == codes
    assert all(n == 0 for n in nibbles[len(codes) :])


@pytest.mark.parametrize("per_channel", [True, False])
def test_both_containers_compute_the_same(per_channel: bool) -> None:
    graph, bytes8 = emit(mixed(per_channel))
    packed_graph, bytes4 = emit(mixed(per_channel), container="int4")
    inputs = random_inputs(graph, 4)
    expected = run_integer(graph, inputs)
    np.testing.assert_equal(run_integer(packed_graph, inputs), expected)
    # BUILTIN's INT4 and INT8 kernels of one operator are the same arithmetic; XNNPACK has no INT4 convolution, so its
    # files run on different kernels and are compared in the parity tests.
    for kernels in (KernelSet.REFERENCE, KernelSet.BUILTIN):
        runs = [run_litert(data, [inputs["x"]], kernels).outputs[0] for data in (bytes8, bytes4)]
        np.testing.assert_array_equal(*runs)
        if kernels is KernelSet.REFERENCE:
            np.testing.assert_array_equal(runs[0], expected[graph.outputs[0]])


def test_packed_and_kept_tensors_are_named() -> None:
    target, options = NeonTarget(), TargetOptions(container="int4")
    artefact = target.emit(target.legalize(mixed(), options), options)
    assert artefact.header["packed_tensors"] == ["weight", "weight_1", "weight_2"]
    assert artefact.header["kept_tensors"] == {
        "weight_3": "a codebook of 4 levels",
        "weight_4": "codes in [-101, 125]",
    }


def test_weight_bytes_halve() -> None:
    graph, data = emit(mixed(), container="int4")
    sizes = {t.name: len(t.data) for t in read(data, "m").main.tensors if t.name.startswith("weight")}
    for name in ("weight", "weight_1", "weight_2"):
        assert sizes[name] == (graph[name].size + 1) // 2
    for name in ("weight_3", "weight_4"):
        assert sizes[name] == graph[name].size


def test_a_code_outside_keeps_its_tensor_whole() -> None:
    """Mutation: one code of 8, or of -9, and the tensor is no longer packed."""
    for code in (8, -9):
        model = LoweredModel(2)
        y = model.dense(model.input("x", (1, 6)), 4, bits=4)
        codes = np.array(model.tensors["weight"].data)
        codes[1, 2] = code
        y = model.node(model.nodes[0].op, ["x", model.constant("w", codes, (0.1, 0)), "bias"], (1, 4), model.grid(y))
        z = model.dense(y, 3, bits=4)
        graph = model.graph(y, z)
        choice = choose_containers(graph, "int4", "litert")
        assert choice.kept == {"w": f"codes in [{codes.min()}, {codes.max()}]"}


def test_nothing_fits_names_every_tensor() -> None:
    model = LoweredModel()
    graph = model.graph(model.dense(model.dense(model.input("x", (1, 8)), 8), 4, levels=(-1, 1), bits=1))
    with pytest.raises(UsageError) as caught:
        emit(graph, container="int4")
    assert [problem.where for problem in caught.value.problems] == ["weight", "weight_1"]


def test_a_network_without_weights_has_nothing_to_pack() -> None:
    model = LoweredModel()
    graph = model.graph(model.reshape(model.input("x", (1, 8)), (2, 4)))
    with pytest.raises(UsageError) as caught:
        emit(graph, container="int4")
    (problem,) = caught.value.problems
    assert (problem.found, problem.remedy) == ("no layer with weights", "use --container int8")
