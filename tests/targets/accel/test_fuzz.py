"""Damaged packs, half of them with their digests made right again: refused or run, alike in Python and in C."""

import struct
from pathlib import Path

import numpy as np
import pytest
from accel_packs import batch, fnv, packed, pattern_inputs, resealed
from lowered_cases import build
from numpy.random import Generator

from kwsq.ir.errors import InvalidModelError
from kwsq.targets.accel.execute import run_pack
from kwsq.targets.accel.format import ENTRY, HEADER, Role, Section
from kwsq.targets.accel.reader import read
from kwsq.targets.accel.records import Pack
from kwsq.targets.accel.validate import graph_work

NETWORKS = (
    "dense w1",
    "dense codebook",
    "conv same stride",
    "conv grouped",
    "depthwise multiplier",
    "batch matmul",
    "add broadcast",
    "mul squeeze-excite",
    "prelu",
    "softmax rows",
    "average pool same",
    "max pool pads",
    "mean keep",
    "pad rank 3",
    "transpose",
    "concat time",
    "slice",
    "split",
    "quantize",
    "dequantize",
    "leaky relu",
)
VALUES = (0, 1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2**17, 2**26, 2**31 - 1, 2**31, 2**32 - 1)
MAX_WORK, MAX_ARENA_BYTES = 2**20, 2**22  # as in pack_batch.c


def originals() -> list[bytes]:
    return [packed(build(name), container)[1] for name in NETWORKS for container in ("stream", "planes")]


def damaged(rng: Generator, data: bytes) -> bytes:
    """Return a pack with one to four defects; in four of five cases all digests are right again."""
    changed = bytearray(data)
    starts = [(HEADER.size, len(data) - HEADER.size)]
    # Where a file decides most: its graph and its boundary.
    for i in range(HEADER.unpack_from(data)[5]):
        kind, offset, length, _, _ = ENTRY.unpack_from(data, HEADER.size + ENTRY.size * i)
        if kind in (Section.GRAPH, Section.IO):
            starts += [(offset, length)] * 4
        elif kind != Section.MANIFEST:
            starts.append((offset, length))
    for _ in range(rng.integers(1, 5)):
        start, length = starts[rng.integers(len(starts))]
        at = start + int(rng.integers(max(length, 1)))
        at = min(at, len(data) - 4)
        match rng.integers(4):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at] = int(rng.integers(256))
            case 2:
                at -= (at - start) % 4
                struct.pack_into("<I", changed, at, int(VALUES[rng.integers(len(VALUES))]))
            case _:
                at -= (at - start) % 2
                (value,) = struct.unpack_from("<H", changed, at)
                struct.pack_into("<H", changed, at, (value + int(rng.integers(-3, 4))) % 2**16)
    result = bytes(changed)
    if rng.random() < 0.05:
        result = result[: rng.integers(len(result))]
    return resealed(result) if rng.random() < 0.8 else result


def outcome(data: bytes) -> str:
    """Return "refused", "manifest", "-" (not run) or the digest of the outputs; any other exception fails the test."""
    try:
        pack = read(data)
    except InvalidModelError as error:
        return "manifest" if "section manifest" in error.problems[0].where else "refused"
    if graph_work(pack.graph) > MAX_WORK or pack.graph.arena_bytes > MAX_ARENA_BYTES:
        return "-"
    return computed(pack)


def computed(pack: Pack) -> str:
    try:
        outputs = run_pack(pack, pattern_inputs(pack))
    except ValueError:  # a code below the lowest one a table is defined for, or NaN
        return "-"
    return fnv(b"".join(outputs[entry.name].tobytes() for entry in pack.entries(Role.OUTPUT)))


def compare(seed: int, count: int, folder: Path) -> dict[str, int]:
    """Damage packs, read them in both languages and count what became of them."""
    rng = np.random.default_rng(seed)
    whole = originals()
    packs = [damaged(rng, whole[rng.integers(len(whole))]) for _ in range(count)]
    counts = {"refused": 0, "manifest": 0, "ran": 0, "not run": 0}
    for data, (status, section, digest) in zip(packs, batch(packs, folder), strict=True):
        found = outcome(data)
        if found == "manifest":  # the C reader does not read it
            assert status != 1 or section != 0
            counts["manifest"] += 1
        elif found == "refused":
            assert status == 1
            counts["refused"] += 1
        else:
            assert status != 1
            assert digest == found
            counts["ran" if found != "-" else "not run"] += 1
    return counts


def test_ten_thousand_damaged_packs(tmp_path: Path) -> None:
    counts = compare(1, 10_000, tmp_path)
    assert counts["refused"] > 5_000
    assert counts["ran"] > 200, "damage that reaches the executors is what this test is about"


@pytest.mark.slow
def test_a_hundred_thousand_damaged_packs(tmp_path: Path) -> None:
    for seed in range(2, 12):
        compare(seed, 10_000, tmp_path)


def test_whole_packs_run_alike(tmp_path: Path) -> None:
    """The comparison can succeed: undamaged packs give equal digests in both languages."""
    whole = originals()
    assert [digest for _, _, digest in batch(whole, tmp_path)] == [outcome(data) for data in whole]
    assert "-" not in {outcome(data) for data in whole}
