"""A pack holds what the graph says, computes what it computes, and is refused when a single bit of it is wrong."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accel_packs import packed, resealed
from lowered_cases import CASES, IMAGE, build
from lowered_models import LoweredModel, random_inputs

from kwsq.ir import lowered as ir
from kwsq.ir.errors import InvalidModelError, UsageError
from kwsq.ir.execute import run_integer
from kwsq.ir.graph import StatePair
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.accel.execute import run_pack
from kwsq.targets.accel.format import ENTRY, HEADER, Role, Section
from kwsq.targets.accel.manifest import full_entries
from kwsq.targets.accel.reader import read, read_path
from kwsq.targets.accel.weights import layer_biases, layer_codes, layer_scales
from kwsq.targets.accel.writer import assemble

CONTAINERS = ("stream", "planes")


def small() -> LoweredGraph:
    """A convolution of five bits, a dense layer of one bit and a table."""
    model = LoweredModel(seed=4)
    x = model.input("x", (1, 3, 4, 2))
    x = model.conv(x, 3, (2, 2), bits=5)
    x = model.unary(ir.LeakyRelu(0.1), x, (0.09, 3))
    x = model.dense(model.reshape(x, (1, 18)), 4, levels=(-1, 1), bits=1)
    return model.graph(x)


def streaming() -> LoweredGraph:
    """Keeps the last two of three frames as its state."""
    model = LoweredModel(seed=5)
    frame, state = model.input("x", (1, 1, 6)), model.input("s", (1, 2, 6))
    window = model.node(ir.Concat(1), [state, frame], (1, 3, 6), (0.05, -3))
    crop = ir.StridedSlice((0, 1, 0), (1, 3, 6), (1, 1, 1))
    following = model.node(crop, [window], (1, 2, 6), (0.05, -3))
    y = model.dense(model.reshape(window, (1, 18)), 4, bits=3)
    return model.graph(y, following, states=(StatePair("s", following),))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", CASES)
def test_every_operator_computes_the_codes_of_the_reference(name: str, container: str) -> None:
    graph, data = packed(build(name), container)
    pack, inputs = read(data), random_inputs(graph, 5)
    expected, found = run_integer(graph, inputs), run_pack(pack, inputs)
    assert list(found) == list(graph.outputs)
    for output in graph.outputs:
        assert found[output].dtype == expected[output].dtype
        np.testing.assert_array_equal(found[output], expected[output])


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_scales_and_biases_come_back_bit_for_bit(bits: int, container: str) -> None:
    model = LoweredModel(seed=bits)
    levels = (-1, 1) if bits == 1 else None
    x = model.conv(model.input("x", (1, 5, 6, 3)), 7, (2, 3), bits=bits, levels=levels)
    x = model.depthwise(x, (2, 2), multiplier=2, bits=bits, levels=levels)
    x = model.dense(x, 5, bits=bits, levels=levels, per_channel=False)
    graph, data = packed(model.graph(x), container)
    pack = read(data)
    for layer, operator, node in zip(pack.graph.layers, pack.graph.operators, graph.nodes, strict=True):
        weight, bias = graph[node.inputs[1]], graph[node.inputs[2]]
        codes = layer_codes(layer, pack.sections)
        stored = (
            codes.T.reshape(weight.shape) if isinstance(node.op, ir.DepthwiseConv2D) else codes.reshape(weight.shape)
        )
        np.testing.assert_array_equal(stored, weight.data)
        np.testing.assert_array_equal(layer_biases(layer, pack.sections), bias.data)
        ends = (pack.graph.tensors[operator.inputs[0]], pack.graph.tensors[operator.outputs[0]])
        scales = layer_scales(layer, pack.sections, ends[0].scale, ends[1].scale)
        assert weight.scale is not None
        assert scales.tobytes() == weight.scale.tobytes()


def test_scales_are_stored_where_a_multiplier_does_not_tell_them() -> None:
    """A multiplier below 2**-32 is flushed to zero; its scale must survive all the same."""
    model = LoweredModel(seed=1)
    y = model.conv(model.input("x", (1, 2, 2, 3)), 4, (1, 1))
    weight = model.nodes[0].inputs[1]
    tiny = np.array([1e-3, 1e-12, 2e-3, 3e-3], np.float32)
    model.tensors[weight] = replace(model.tensors[weight], scale=tiny)
    graph, data = packed(model.graph(y))
    pack = read(data)
    (layer,) = pack.graph.layers
    assert layer.scale_index == 0
    assert layer_scales(layer, pack.sections, 1.0, 1.0).tobytes() == tiny.tobytes()
    inputs = random_inputs(graph, 3)
    np.testing.assert_array_equal(run_pack(pack, inputs)[y], run_integer(graph, inputs)[y])


def test_states_are_linked_and_streaming_steps_agree() -> None:
    graph, data = packed(streaming())
    pack = read(data)
    state = next(entry for entry in pack.io if entry.name == "s")
    assert state.partner is not None
    assert pack.io[state.partner].name == graph.states[0].output
    inputs = random_inputs(graph, 4)
    expected, found = run_integer(graph, inputs), run_pack(pack, inputs)
    assert all(np.array_equal(found[name], expected[name]) for name in graph.outputs)


def test_the_manifest_states_every_convention() -> None:
    pack = read(packed(small())[1])
    conv, dense = full_entries(pack.manifest)
    shared = {"bit_order": "lsb_first", "group": 1, "pack_axis": "input", "pad_value": 0, "word_bytes": 1}
    assert shared.items() <= conv.items()
    assert (conv["bits"], conv["scheme"], conv["shape"], conv["layout"]) == (5, "signed", [3, 2, 2, 2], "stream")
    assert (dense["bits"], dense["scheme"], dense["levels"], dense["bit1_means"]) == (1, "codebook", 2, 1)
    assert dense["row_align_bits"] in (1, 8, 16, 32, 64, 128)


def test_equal_input_gives_equal_bytes() -> None:
    assert packed(small())[1] == packed(small())[1]


def test_a_pack_is_read_where_it_lies(tmp_path: Path) -> None:
    graph, data = packed(small())
    (tmp_path / "model.kwsq").write_bytes(data)
    pack = read_path(tmp_path / "model.kwsq")
    inputs = random_inputs(graph, 2)
    assert np.array_equal(run_pack(pack, inputs)[graph.outputs[0]], run_integer(graph, inputs)[graph.outputs[0]])
    (tmp_path / "empty.kwsq").touch()
    with pytest.raises(InvalidModelError, match="header"):
        read_path(tmp_path / "empty.kwsq")


def test_sections_are_aligned_and_every_byte_is_accounted_for() -> None:
    data = packed(small())[1]
    pack = read(data)
    count = HEADER.unpack_from(data)[5]
    used = HEADER.size + ENTRY.size * count + sum(len(section) for section in pack.sections.values())
    assert 0 <= len(data) - used < 16 * (count + 1)
    for i in range(count):
        assert ENTRY.unpack_from(data, HEADER.size + ENTRY.size * i)[1] % 16 == 0


def test_inputs_that_do_not_fit_are_refused() -> None:
    pack = read(packed(small())[1])
    for wrong in ({}, {"x": np.zeros((1, 3, 4, 3), np.int8)}, {"x": np.zeros((1, 3, 4, 2), np.float32)}):
        with pytest.raises(UsageError, match="x"):
            run_pack(pack, wrong)


def test_a_code_without_a_value_is_refused() -> None:
    model = LoweredModel()
    graph, data = packed(model.graph(model.unary(ir.Rsqrt(), model.input("x", IMAGE, (0.05, 0)), (0.03, -128))))
    with pytest.raises(ValueError, match="at least 0"):
        run_pack(read(data), {"x": np.full(IMAGE, -1, np.int8)})
    with pytest.raises(ValueError, match="RSQRT"):
        run_integer(graph, {"x": np.full(IMAGE, -1, np.int8)})


# ---- damage ----


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidModelError) as caught:
        read(data)
    (problem,) = caught.value.problems
    assert problem.found
    assert problem.expected
    assert problem.remedy
    return problem.where.removeprefix("model.kwsq: ")


def places(data: bytes) -> list[tuple[int, int, set[str]]]:
    """(begin, end, names a defect there may be reported under) of every part of the file."""
    count = HEADER.unpack_from(data)[5]
    # Another number of sections shows where the table then seems to end.
    parts = [(0, 20, {"header"}), (20, 24, {"header", "section manifest"}), (24, 64, {"header"})]
    position = HEADER.size + ENTRY.size * count
    for i in range(count):
        at = HEADER.size + ENTRY.size * i
        kind, offset, length, _, _ = ENTRY.unpack_from(data, at)
        name, following = f"section {Section(kind).label}", f"section {Section(kind + 1).label}" if kind < 9 else ""
        # Another type may be that of the next section, which then stands twice; another length moves it.
        others = {f"section {section.label}" for section in Section}
        parts.append((at, at + 4, others | {f"section table, entry {k}" for k in (i, i + 1)} | {"header"}))
        parts.append((at + 4, at + 16, {name, following, "end of the file"}))
        parts.append((at + 16, at + 48, {name}))
        parts.append((position, offset + length, {name}))
        position = offset + length
    return [*parts, (position, len(data), {"end of the file"})]


def test_every_flipped_bit_is_refused_with_its_section() -> None:
    data = packed(small())[1]
    parts = places(data)
    assert sum(end - begin for begin, end, _ in parts) == len(data)
    for begin, end, names in parts:
        for position in range(begin, end):
            for bit in range(8):
                damaged = bytearray(data)
                damaged[position] ^= 1 << bit
                assert refusal(bytes(damaged)) in names, (position, bit)


def test_every_truncation_is_refused() -> None:
    data = packed(small())[1]
    assert {refusal(data[:length]) for length in range(len(data))} == {"header"}
    assert refusal(data + b"\0") == "header"


def test_reordered_and_missing_sections_are_refused() -> None:
    sections = {s: bytes(part) for s, part in read(packed(small())[1]).sections.items() if part}
    assert read(assemble(sections)).graph.layers
    names = list(sections)
    swapped = {name: sections[name] for name in (names[0], names[2], names[1], *names[3:])}
    assert refusal(assemble(swapped)) == "section table, entry 2"
    for required in (Section.MANIFEST, Section.GRAPH, Section.IO):
        rest = {section: part for section, part in sections.items() if section is not required}
        assert refusal(assemble(rest)) == f"section {required.label}"
    without = {section: part for section, part in sections.items() if section is not Section.WEIGHTS}
    assert refusal(assemble(without)) == "section graph"


def edited(section: Section, change: dict[int, bytes]) -> bytes:
    """The small pack with bytes of one section replaced and all digests right."""
    data = bytearray(packed(small())[1])
    count = HEADER.unpack_from(data)[5]
    entries = [ENTRY.unpack_from(data, HEADER.size + ENTRY.size * i) for i in range(count)]
    start = next(offset for kind, offset, *_ in entries if kind == section)
    for offset, value in change.items():
        data[start + offset : start + offset + len(value)] = value
    return resealed(bytes(data))


TENSORS = len(read(packed(small())[1]).graph.tensors)
FIRST_LAYER = 16 + 16 * TENSORS + 4 * struct.unpack_from("<I", read(packed(small())[1]).sections[Section.GRAPH], 8)[0]
FIRST_OPERATOR = FIRST_LAYER + 80

EDITS = {
    "unknown element type": (Section.GRAPH, {16: b"\x09"}),
    "reserved field of a tensor": (Section.GRAPH, {31: b"\x01"}),
    "reserved field of the graph": (Section.GRAPH, {6: b"\x01"}),
    "rank beyond the list": (Section.GRAPH, {18: b"\xff\xff"}),
    "scale not a number": (Section.GRAPH, {24: struct.pack("<f", float("nan"))}),
    "scale zero": (Section.GRAPH, {24: bytes(4)}),
    "zero point beyond int8": (Section.GRAPH, {28: struct.pack("<h", 128)}),
    "offset beyond the arena": (Section.GRAPH, {20: struct.pack("<I", 1 << 20)}),
    "offset not aligned": (Section.GRAPH, {20: struct.pack("<I", 8)}),
    "two tensors in one place": (Section.GRAPH, {16 + 16 + 4: bytes(4)}),
    "arena too large": (Section.GRAPH, {12: b"\xff\xff\xff\xff"}),
    "more operators than bytes": (Section.GRAPH, {2: b"\xff\x03"}),
    "fewer operators than bytes": (Section.GRAPH, {2: b"\x02\x00"}),
    "nine bits": (Section.GRAPH, {FIRST_LAYER: b"\x09"}),
    "unknown scheme": (Section.GRAPH, {FIRST_LAYER + 1: b"\x04"}),
    "layers of different layout": (Section.GRAPH, {FIRST_LAYER + 2: b"\x02"}),
    "no rows": (Section.GRAPH, {FIRST_LAYER + 4: bytes(4)}),
    "too many columns": (Section.GRAPH, {FIRST_LAYER + 8: struct.pack("<I", 1 << 17)}),
    "weights beyond the section": (Section.GRAPH, {FIRST_LAYER + 12: struct.pack("<I", 1 << 16)}),
    "levels of a uniform grid": (Section.GRAPH, {FIRST_LAYER + 20: b"\x02"}),
    "three levels of one bit": (Section.GRAPH, {FIRST_LAYER + 40 + 20: b"\x03"}),
    "biases beyond the section": (Section.GRAPH, {FIRST_LAYER + 24: struct.pack("<I", 1000)}),
    "multipliers beyond the section": (Section.GRAPH, {FIRST_LAYER + 28: struct.pack("<I", 1000)}),
    "scales beyond the section": (Section.GRAPH, {FIRST_LAYER + 32: struct.pack("<I", 1000)}),
    "kernel of another size": (Section.GRAPH, {FIRST_LAYER + 36: b"\x03"}),
    "unknown operator": (Section.GRAPH, {FIRST_OPERATOR: b"\x63"}),
    "other number of attributes": (Section.GRAPH, {FIRST_OPERATOR + 3: b"\x08"}),
    "reads what is not written yet": (Section.GRAPH, {FIRST_OPERATOR + 4: b"\x02"}),
    "writes its input": (Section.GRAPH, {FIRST_OPERATOR + 6: b"\x00"}),
    "another layer": (Section.GRAPH, {FIRST_OPERATOR + 8: b"\x01"}),
    "clamp upside down": (Section.GRAPH, {FIRST_OPERATOR + 12: struct.pack("<ii", 5, 4)}),
    "stride zero": (Section.GRAPH, {FIRST_OPERATOR + 20: bytes(4)}),
    "negative padding": (Section.GRAPH, {FIRST_OPERATOR + 36: struct.pack("<i", -1)}),
    "image larger than allowed": (Section.GRAPH, {FIRST_OPERATOR + 36: struct.pack("<ii", 65536, 65536)}),
    "negative multiplier": (Section.REQUANTIZATION, {3: b"\x80"}),
    "shift out of range": (Section.REQUANTIZATION, {7 * 4: b"\x20"}),
    "implied scale zero": (Section.REQUANTIZATION, {0: bytes(4)}),
    "levels out of order": (Section.CODEBOOKS, {0: b"\x01\xff"}),
    "padding bit": (Section.WEIGHTS, {15: b"\x80"}),
    "unknown role": (Section.IO, {6: b"\x02"}),
    "state without a source": (Section.IO, {8: b"\x00\x00"}),
    "name beyond the section": (Section.IO, {10: b"\xff"}),
    "name that is no text": (Section.IO, {28: b"\xff"}),
    "no JSON": (Section.MANIFEST, {0: b"["}),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_wrong_record_is_refused_though_all_digests_are_right(name: str) -> None:
    section, change = EDITS[name]
    where = refusal(edited(section, change))
    allowed = {
        Section.REQUANTIZATION: "section graph",
        Section.CODEBOOKS: "section graph",
    }
    assert where == allowed.get(section, f"section {section.label}")


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ("lsb_first", "msb_first"),
        ('"bits":5', '"bits":4'),
        ('"bit1_means":1', '"bit1_means":0'),
        ("[3,2,2,2]", "[3,2,2,3]"),
    ],
)
def test_a_manifest_that_contradicts_the_records_is_refused(found: str, wanted: str) -> None:
    sections = {s: bytes(part) for s, part in read(packed(small())[1]).sections.items() if part}
    text = sections[Section.MANIFEST].decode()
    assert found in text
    assert json.loads(text)
    assert refusal(assemble({**sections, Section.MANIFEST: text.replace(found, wanted).encode()})) == "section manifest"


def test_inputs_and_outputs_are_named() -> None:
    graph, data = packed(small())
    pack = read(data)
    assert [entry.name for entry in pack.entries(Role.INPUT)] == list(graph.inputs)
    assert [entry.name for entry in pack.entries(Role.OUTPUT)] == list(graph.outputs)
