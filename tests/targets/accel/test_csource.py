"""The C99 reference, compiled with every warning an error and both sanitizers, against the Python executor."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accel_packs import CSOURCE, batch, compiled, packed, raw_vectors, run_c
from lowered_cases import CASES, build, four_bit_stream
from lowered_models import LoweredModel, random_inputs

from kwsq.ir import lowered as ir
from kwsq.ir.execute import run_integer
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.accel.execute import run_pack
from kwsq.targets.accel.format import Role
from kwsq.targets.accel.reader import read

VECTORS = 1000


def one_bit_network() -> LoweredGraph:
    model = LoweredModel(seed=11)
    x = model.input("x", (1, 6, 5, 3))
    binary = {"levels": (-1, 1), "bits": 1}
    x = model.conv(x, 8, (3, 3), pads=((1, 1), (1, 1)), grid=(0.2, -20), **binary)
    x = model.depthwise(x, (3, 3), pads=((1, 1), (1, 1)), grid=(0.2, 7), **binary)
    x = model.conv(x, 6, (1, 1), grid=(0.2, 0), per_channel=False, **binary)
    x = model.reduce(ir.Mean((1, 2), False), x, (0.05, -3))
    y = model.dense(x, 4, grid=(0.02, 2), **binary)
    for name, tensor in model.tensors.items():
        if name.startswith("bias"):  # the builder's biases suit eight-bit weights
            model.tensors[name] = replace(tensor, data=np.asarray(tensor.data) // 50)
    return model.graph(y)


def five_bit_network() -> LoweredGraph:
    model = LoweredModel(seed=12)
    x = model.input("x", (1, 1, 20, 6))
    x = model.conv(x, 8, (1, 3), pads=((0, 0), (2, 0)), bits=5)
    gate = model.unary(ir.Logistic(), model.conv(x, 8, (1, 1), bits=5), (1 / 256, -128))
    x = model.binary(ir.Mul(), x, gate, (0.06, -9))
    x = model.pool(ir.AveragePool2D, x, (1, 4), stride=(1, 4))
    x = model.dense(model.reshape(x, (1, 40)), 5, bits=5, levels=tuple(range(-124, 125, 8)))
    return model.graph(model.unary(ir.Softmax(), x, (1 / 256, -128)))


@pytest.mark.parametrize("container", ["stream", "planes"])
@pytest.mark.parametrize("network", [one_bit_network, five_bit_network])
def test_a_thousand_inputs_agree_in_all_three_executors(
    network: Callable[[], LoweredGraph], container: str, tmp_path: Path
) -> None:
    graph, data = packed(network(), container)
    pack, inputs = read(data), random_inputs(graph, VECTORS)
    expected, found = run_integer(graph, inputs), run_pack(pack, inputs)
    (output,) = graph.outputs
    np.testing.assert_array_equal(found[output], expected[output])
    assert run_c(data, raw_vectors(pack, Role.INPUT, inputs, VECTORS), tmp_path) == expected[output].tobytes()
    assert np.unique(expected[output]).size > 10, "constant outputs would prove nothing"


@pytest.mark.parametrize("name", CASES)
def test_every_operator_agrees(name: str, tmp_path: Path) -> None:
    graph, data = packed(build(name))
    pack, inputs = read(data), random_inputs(graph, 3)
    expected = raw_vectors(pack, Role.OUTPUT, run_pack(pack, inputs), 3)
    assert run_c(data, raw_vectors(pack, Role.INPUT, inputs, 3), tmp_path) == expected


def test_streaming_states_go_from_step_to_step(tmp_path: Path) -> None:
    graph, data = packed(four_bit_stream())
    steps = 30
    chunks = np.random.default_rng(1).integers(-128, 128, (steps, 1, 6)).astype(np.int8)
    state = np.full((1, 2, 6), -3, np.int8)
    rows = []
    for chunk in chunks:
        outputs = run_integer(graph, {"x": chunk[None], "s": state})
        state = outputs[graph.states[0].output]
        rows.append(b"".join(outputs[name].tobytes() for name in graph.outputs))
    assert run_c(data, chunks.tobytes(), tmp_path) == b"".join(rows)


def test_every_flipped_bit_and_every_truncation_is_refused(tmp_path: Path) -> None:
    data = packed(four_bit_stream())[1]
    flipped = []
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        flipped.append(bytes(damaged))
    truncated = [data[:length] for length in range(len(data))]
    outcomes = batch([data, *flipped, *truncated], tmp_path)
    assert outcomes[0][0] == 0
    assert {status for status, _, _ in outcomes[1:]} == {1}


def test_a_damaged_section_is_named(tmp_path: Path) -> None:
    data = packed(four_bit_stream())[1]
    for section, part in read(data).sections.items():
        if part:
            damaged = bytearray(data)
            damaged[data.index(bytes(part))] ^= 1
            assert batch([bytes(damaged)], tmp_path)[0] == (1, int(section), "-")


def test_the_example_program_checks_a_pack(tmp_path: Path) -> None:
    program = compiled(CSOURCE / "kwsq_main.c")
    path = tmp_path / "model.kwsq"
    path.write_bytes(packed(four_bit_stream())[1])
    assert subprocess.run([program, path], check=False).returncode == 0
    path.write_bytes(b"KWSQPACK" + bytes(100))
    done = subprocess.run([program, path], capture_output=True, text=True, check=False)
    assert (done.returncode, "header" in done.stderr) == (1, True)


def test_the_reference_needs_no_heap_and_no_float_beyond_the_standard() -> None:
    library = [path for path in CSOURCE.glob("kwsq_*.[ch]") if path.name != "kwsq_main.c"]
    text = "".join(path.read_text(encoding="utf-8") for path in library)
    assert not [word for word in ("malloc", "calloc", "realloc", "free(", "alloca", "stdlib.h") if word in text]
