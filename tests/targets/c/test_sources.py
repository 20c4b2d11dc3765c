"""C sources compute what the integer reference does, on the machine at hand and on emulated ARM cores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from c_networks import (
    OPTIONS,
    SANITIZED,
    WARNINGS,
    Network,
    assert_reference,
    compiled_and_run,
    network,
    outputs,
)
from lowered_cases import CASES, build, drawn_convolution
from lowered_models import LoweredModel

from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.c.literals import array, comment, identifiers
from kwsq.targets.c.target import SOURCE, CTarget

CROSS = ["aarch64-linux-gnu-gcc", "-static", *WARNINGS]
CORES = {
    "cortex-a53": ["-O3"],
    "cortex-a72": ["-O2"],
    "cortex-a76": ["-O3", "-march=armv8.2-a+dotprod"],
}
"""Core -> flags of the compiler: the first two trap on dot products, which the third has."""


@pytest.fixture(scope="module")
def operators() -> list[Network]:
    return [network(build(name), f"case_{i}") for i, name in enumerate(CASES)]


def extreme(weights: tuple[int, ...], seed: int) -> LoweredGraph:
    """Layers of every length of a vector's rest, with the outermost codes."""
    model = LoweredModel(seed)
    x = model.input("x", (1, 3, 7, 21))
    x = model.conv(x, 19, (2, 3), pads=((1, 0), (0, 1)), grid=(0.2, -128))
    x = model.conv(x, 9, (1, 1), grid=(0.2, 127))
    y = model.dense(model.reshape(x, (1, int(np.prod(model.tensors[x].shape)))), 13)
    graph, rng = model.graph(y), np.random.default_rng(seed)
    share = max(weights) / 127  # the builder's scales and biases suit codes up to 127
    changed = {}
    for name, tensor in graph.tensors.items():
        if name.startswith("weight"):
            codes, scale = rng.choice(np.array(weights, np.int8), tensor.shape), np.asarray(tensor.scale) / share
            changed[name] = replace(tensor, data=codes, scale=scale.astype(np.float32))
        elif name.startswith("bias"):
            changed[name] = replace(tensor, data=(np.asarray(tensor.data) * share).astype(np.int32))
    return replace(graph, tensors={**graph.tensors, **changed})


@pytest.fixture(scope="module")
def extremes() -> list[Network]:
    """-128 does not fit two products in 16 bits, 127 one pair, 15 eight pairs, 1 many."""
    codes = {"full": (-128, 127), "narrow": (-127, 127), "five": (-15, 15), "four": (-7, 7), "one": (-1, 1)}
    networks = [network(extreme(values, seed), name, 40) for seed, (name, values) in enumerate(codes.items())]
    assert all(np.unique(next(iter(each.expected.values()))).size > 20 for each in networks), "constants prove nothing"
    return networks


@pytest.fixture(scope="module")
def shapes() -> list[Network]:
    return [network(drawn_convolution(seed), f"shape_{seed}") for seed in range(32)]


def test_drawn_convolutions_are_the_reference_under_sanitizers(shapes: list[Network], tmp_path: Path) -> None:
    assert_reference(shapes, outputs(shapes, tmp_path))


def test_every_operator_is_the_reference_under_sanitizers(operators: list[Network], tmp_path: Path) -> None:
    assert_reference(operators, outputs(operators, tmp_path))


def test_outermost_codes_are_the_reference_under_sanitizers(extremes: list[Network], tmp_path: Path) -> None:
    assert_reference(extremes, outputs(extremes, tmp_path))


@pytest.mark.parametrize("core", CORES)
def test_emulated_cores_compute_the_reference(
    core: str, operators: list[Network], extremes: list[Network], shapes: list[Network], tmp_path: Path
) -> None:
    networks = [*operators, *extremes, *shapes]
    assert_reference(networks, outputs(networks, tmp_path, [*CROSS, *CORES[core]], ["qemu-aarch64", "-cpu", core]))


def test_a_changed_code_is_noticed(extremes: list[Network], tmp_path: Path) -> None:
    one = extremes[-1]
    text = one.files[SOURCE].decode()
    start = text.index("= {", text.index("codes_")) + 3
    changed = text[:start] + text[start:].replace("-1,", "1,", 60)
    with pytest.raises(AssertionError):
        assert_reference([one], outputs([replace(one, files={**one.files, SOURCE: changed.encode()})], tmp_path))


def test_an_input_that_is_an_output_too_is_copied(tmp_path: Path) -> None:
    model = LoweredModel(seed=2)
    x = model.input("x", (1, 5))
    networks = [network(model.graph(model.dense(x, 3), x), "through")]
    assert_reference(networks, outputs(networks, tmp_path))


def test_an_input_that_nothing_reads_and_tensors_named_as_others(tmp_path: Path) -> None:
    model = LoweredModel(seed=2)
    model.input("unread", (1, 5))
    x = model.conv(model.input("arena", (1, 4, 4, 2)), 3, (2, 2), pads=((1, 0), (0, 1)))
    y = model.dense(model.reshape(x, (1, 48)), 4)
    networks = [network(model.graph(y), "names")]
    assert_reference(networks, outputs(networks, tmp_path))


def test_stripped_sources_name_no_inner_tensor() -> None:
    graph = build(next(iter(CASES)))
    target, names = CTarget(), {node.name for node in graph.nodes} | set(graph.tensors)
    inner = names - {*graph.inputs, *graph.outputs}
    plain, bare = (target.emit(graph, replace(OPTIONS, strip_names=strip)).files[SOURCE] for strip in (False, True))
    assert any(name.encode() in plain for name in inner)
    assert not [name for name in inner if f"* {name} *".encode() in bare]


def test_the_sources_are_the_same_for_the_same_graph() -> None:
    target = CTarget()
    graph = target.legalize(build(next(iter(CASES))), OPTIONS)
    assert target.emit(graph, OPTIONS).files == target.emit(graph, OPTIONS).files


def test_what_has_no_kernel_is_refused_by_name() -> None:
    model = LoweredModel(seed=1)
    y = model.dense(model.input("x", (1, 6)), 3)
    weight = model.nodes[0].inputs[1]
    model.tensors[weight] = replace(model.tensors[weight], zero_point=3)
    with pytest.raises(UnsupportedModelError, match="zero point 3") as refusal:
        CTarget().legalize(model.graph(y), OPTIONS)
    assert "the C kernels cannot compute" in str(refusal.value)


def test_identifiers_differ_and_are_words_of_c() -> None:
    names = ["a/b", "a.b", "a_b", "A B", "int", "9", "", "\u00e9", "kwsq_run", "x" * 300, "*/ int x; /*"]
    found = identifiers(names, "model")
    assert len({word.upper() for word in found.values()}) == len(names)
    assert max(map(len, found.values())) < 64
    assert all(word.isidentifier() and word.isascii() and not word.startswith(("kwsq", "_")) for word in found.values())
    assert "int" not in found.values()


def test_comments_end_where_they_should() -> None:
    for text in ("*/", "**//", "/*", "line\nline", "??/", "\\", "\u202e", "*\u200b/"):
        written = comment(text)
        assert written.count("*/") == written.count("/*") == 1
        assert "\n" not in written
        assert "??" not in written


@pytest.mark.parametrize("values", [
    np.array([-(2**31), 2**31 - 1, 0], np.int32),
    np.array([-128, 127], np.int8),
    np.array([0.1, 1e-40, 3.4e38], np.float32),
    np.array([0.1, 5e-324, 1.7e308], np.float64),
])  # fmt: skip
def test_literals_are_read_back_bit_for_bit(values: np.ndarray, tmp_path: Path) -> None:  # type: ignore[type-arg]
    text = f"#include <stdint.h>\n#include <stdio.h>\n{array('values', values)}"
    text += "int main(void) { return fwrite(values, sizeof values, 1, stdout) != 1; }\n"
    (tmp_path / "main.c").write_text(text, encoding="utf-8")
    assert compiled_and_run(SANITIZED, tmp_path) == values.tobytes()
