"""Packs of networks with 250,000 weights of five and of one bit: unpacked, run in Python and in C99, and damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from accel_packs import batch, packed, raw_vectors, run_c
from keyword_networks import bundled, lowered_of, qonnx_binary
from lowered_models import random_inputs

from kwsq.converter.parity.pack_structure import check_pack_structure
from kwsq.ir.errors import InvalidModelError
from kwsq.ir.execute import run_integer
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.accel.execute import run_pack
from kwsq.targets.accel.format import ENTRY, HEADER, Role, Section
from kwsq.targets.accel.reader import read

NETWORKS: dict[str, Callable[[], LoweredGraph]] = {
    "w5": lambda: bundled("kws_ff_w5_codebook"),
    "w1": lambda: lowered_of(qonnx_binary()),
}


@pytest.mark.parametrize("container", ["stream", "planes"])
@pytest.mark.parametrize("name", NETWORKS)
def test_unpacking_gives_the_codes_and_both_executors_the_outputs(name: str, container: str, tmp_path: Path) -> None:
    agree(name, container, 20, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_thousand_inputs_agree_bit_for_bit(name: str, tmp_path: Path) -> None:
    agree(name, "stream", 1000, tmp_path)


def agree(name: str, container: str, vectors: int, folder: Path) -> None:
    """Compare codes, then the outputs of the integer reference, the Python executor and the C99 one."""
    graph, data = packed(NETWORKS[name](), container)
    pack, inputs = read(data), random_inputs(graph, vectors)
    assert check_pack_structure(graph, pack).passed
    expected, found = run_integer(graph, inputs), run_pack(pack, inputs)
    (output,) = graph.outputs
    np.testing.assert_array_equal(found[output], expected[output])
    assert run_c(data, raw_vectors(pack, Role.INPUT, inputs, vectors), folder) == expected[output].tobytes()
    assert np.unique(expected[output]).size > 10, "constant outputs would prove nothing"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_flipped_bit_anywhere_and_a_truncation_are_refused_alike(name: str, tmp_path: Path) -> None:
    """Of every part of the file: its first, its last and some bits between; in Python with the section's name."""
    _, data = packed(NETWORKS[name]())
    rng, damaged, names = np.random.default_rng(1), [], []
    for kind, offset, length in sections(data):
        for position in {0, length - 1, *rng.integers(length, size=2).tolist()}:
            broken = bytearray(data)
            broken[offset + position] ^= 1 << int(rng.integers(8))
            damaged.append(bytes(broken))
            names.append(f"section {Section(kind).label}")
    for length in (0, 7, HEADER.size, len(data) // 2, len(data) - 16, len(data) - 1):
        damaged.append(data[:length])
        names.append("header")
    for broken, where in zip(damaged, names, strict=True):
        with pytest.raises(InvalidModelError) as caught:
            read(broken)
        assert caught.value.problems[0].where == f"model.kwsq: {where}"
    outcomes = batch([data, *damaged], tmp_path)
    assert outcomes[0][0] != 1
    assert {status for status, _, _ in outcomes[1:]} == {1}
    labels = {int(section): f"section {section.label}" for section in Section} | {0: "header"}
    assert [labels[section] for _, section, _ in outcomes[1:]] == names


def sections(data: bytes) -> list[tuple[int, int, int]]:
    """(type, offset, length) of every section."""
    count = HEADER.unpack_from(data)[5]
    entries = (ENTRY.unpack_from(data, HEADER.size + ENTRY.size * i) for i in range(count))
    return [(kind, offset, length) for kind, offset, length, *_ in entries]
