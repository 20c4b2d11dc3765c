"""The file itself: deterministic, aligned, without waste, versioned as its operands need."""

import base64
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as generated
from lowered_cases import CASES, build
from lowered_models import LoweredModel, emit

from kwsq.ir import lowered as ir
from kwsq.ir.lowered import LoweredGraph
from kwsq.ir.ops import Activation
from kwsq.targets.neon.build import tensor_order
from kwsq.targets.neon.reader import read


def network(bits: int = 8) -> LoweredGraph:
    model = LoweredModel(5)
    h = model.conv(model.input("x", (1, 49, 10, 1)), 16, (10, 4), stride=(2, 2), pads=((4, 4), (1, 1)), bits=bits)
    h = model.depthwise(h, (3, 3), pads=((1, 1), (1, 1)), activation=Activation.RELU, grid=(0.1, -128), bits=bits)
    h = model.conv(h, 16, (1, 1), activation=Activation.RELU, grid=(0.1, -128), bits=bits)
    h = model.reduce(ir.Mean((1, 2), False), h, (0.05, -128))
    return model.graph(model.dense(h, 12, bits=bits))


def parsed(data: bytes) -> Any:
    return generated.ModelT.InitFromPackedBuf(data)


SCRIPT = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from lowered_cases import CASES, build
from lowered_models import emit
digest = hashlib.sha256()
for name in CASES:
    digest.update(emit(build(name), version="1.2.3", remarks={"b": 1, "a": [2]})[1])
print(digest.hexdigest())
"""


def test_same_bytes_whatever_the_hash_seed_and_folder(tmp_path: Path) -> None:
    tests = str(Path(__file__).resolve().parents[2])
    digests = set()
    for seed, folder in (("0", tmp_path), ("4242", Path.home())):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, tests],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_identifier_version_and_sorted_operator_codes() -> None:
    _, data = emit(network())
    assert data[4:8] == b"TFL3"
    model = parsed(data)
    assert model.version == 3
    codes = [code.builtinCode for code in model.operatorCodes]
    assert codes == sorted(set(codes))
    assert all(code.deprecatedBuiltinCode == min(code.builtinCode, 127) for code in model.operatorCodes)


@pytest.mark.parametrize("bits", [4, 8])
def test_every_buffer_is_aligned(bits: int) -> None:
    _, data = emit(network(bits), container="int4" if bits == 4 else "int8")
    model = generated.Model.GetRootAsModel(data, 0)
    filled = 0
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if buffer.DataLength():
            filled += 1
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            assert start % 16 == 0
    assert filled > 8


def test_nothing_is_stored_twice() -> None:
    _, data = emit(network())
    model = parsed(data)
    contents = [bytes(bytearray(b.data)) for b in model.buffers if b.data is not None]
    assert len(contents) == len(set(contents))
    names = [t.name for t in model.subgraphs[0].tensors if t.name]
    assert len(names) == len(set(names))
    assert all(t.quantization is None or t.quantization.min is None for t in model.subgraphs[0].tensors)
    # The zero points of 16 channels are one vector, however many tensors have 16 channels.
    assert data.count(bytes(16 * 8)) <= 2


def test_the_file_is_hardly_larger_than_its_contents() -> None:
    """A tensor is a table, a shape, a grid and a padded buffer; an operator a table, two lists and its options.

    None of them needs 100 bytes; codes, metadata and the file's own tables fit 600.
    """
    graph, data = emit(network(), strip_names=True)
    constants = sum(t.size_bytes for t in graph.tensors.values() if t.is_constant)
    grids = sum(4 * t.scale.size for t in graph.tensors.values() if t.scale is not None)
    assert len(data) < constants + grids + 8 * 16 + 100 * (len(graph.tensors) + len(graph.nodes)) + 600


def test_equal_constants_share_a_buffer() -> None:
    model = LoweredModel()
    x = model.input("x", (1, 4))
    codes = np.arange(4, dtype=np.int8)
    a, b = (model.constant(name, codes, (0.1, 0)) for name in ("a", "b"))
    y = model.binary(ir.Add(), model.binary(ir.Add(), x, a, (0.1, 0)), b, (0.1, 0))
    _, data = emit(model.graph(y))
    tensors = {t.name.decode(): t for t in parsed(data).subgraphs[0].tensors}
    assert tensors["a"].buffer == tensors["b"].buffer != 0


def test_stripped_names_leave_inputs_and_outputs() -> None:
    graph, data = emit(network(), strip_names=True)
    names = [t.name for t in read(data, "m").main.tensors]
    assert {n for n in names if n} == {*graph.inputs, *graph.outputs}
    assert len(data) < len(emit(network())[1])


def test_metadata_name_bits_levels_scales_and_source() -> None:
    model = LoweredModel()
    h = model.dense(model.input("x", (1, 40)), 6, levels=(-90, -20, 3, 55), bits=2)
    y = model.dense(h, 5, bits=5)
    annotated = np.array([0.25], np.float32)
    model.tensors["weight_1"] = replace(model.tensors["weight_1"], source_scale=annotated)
    graph, data = emit(model.graph(y), version="1.2.3", source_sha256="ab" * 32, remarks={"dropped": ["Softmax"]})
    order = tensor_order(graph)
    entry = json.loads(read(data, "m").metadata["kwsq"])
    first, second = (str(order.index(name)) for name in ("weight", "weight_1"))
    assert entry == {
        "format": 1,
        "kwsq": "1.2.3",
        "source": "ab" * 32,
        "dropped": ["Softmax"],
        "bits": {first: 2, second: 5},
        "levels": {first: [-90, -20, 3, 55]},
        "source_scale": {second: base64.b64encode(annotated.tobytes()).decode()},
    }
    assert read(data, "m").description == "kwsq 1.2.3"


@pytest.mark.parametrize(
    ("name", "container", "versions", "runtime"),
    [
        ("dense", "int8", {"FULLY_CONNECTED": 4}, "1.14.0"),
        ("dense rank 3", "int8", {"FULLY_CONNECTED": 5}, "2.0.0"),
        ("conv 4 bits", "int8", {"CONV_2D": 3}, "1.14.0"),
        ("conv 4 bits", "int4", {"CONV_2D": 7}, "2.11.0"),
        ("conv grouped", "int8", {"CONV_2D": 6}, "2.9.0"),
        ("mul", "int8", {"MUL": 2}, "1.14.0"),
        ("mul upscale", "int8", {"MUL": 3}, "1.15.0"),
        ("batch matmul", "int8", {"BATCH_MATMUL": 2}, "2.3.0"),
        ("split uneven", "int8", {"SPLIT_V": 2}, "2.3.0"),
        ("quantize float", "int8", {"QUANTIZE": 1}, "1.14.0"),
        ("conv explicit pads", "int8", {"CONV_2D": 3, "PAD": 2}, "1.14.0"),
    ],
)
def test_operator_versions_and_oldest_runtime(
    name: str, container: str, versions: dict[str, int], runtime: str
) -> None:
    _, data = emit(build(name), container=container)
    file = read(data, "m")
    assert {op.name: op.version for op in file.main.operators} == versions
    assert file.metadata["min_runtime_version"] == runtime.encode().ljust(16, b"\0")


def test_operators_kwsq_adds_share_their_operands() -> None:
    model = LoweredModel()
    x = model.input("x", (1, 6, 6, 2))
    pad = ir.Pad(((0, 0), (1, 0), (0, 0), (0, 0)))
    h = model.node(pad, [model.node(pad, [x], (1, 7, 6, 2), (0.05, -3))], (1, 8, 6, 2), (0.05, -3))
    _, data = emit(model.graph(h))
    operands = [op.inputs[1] for op in read(data, "m").main.operators]
    assert operands[0] == operands[1]


def test_all_cases_are_one_operator_each() -> None:
    counts = Counter(len(build(name).nodes) for name in CASES)
    assert set(counts) == {1}
