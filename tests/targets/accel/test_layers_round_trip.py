"""Layers of every kind, width, shape, alignment and order: written, read back, equal to the last bit."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from accel_packs import batch, fnv, pattern_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import LoweredModel

from kwsq.ir.execute import run_integer
from kwsq.ir.lowered import DepthwiseConv2D, LoweredGraph
from kwsq.targets.accel.bits import ALIGNMENTS_BITS, Layout
from kwsq.targets.accel.build import build_contents
from kwsq.targets.accel.execute import run_pack
from kwsq.targets.accel.format import Role
from kwsq.targets.accel.reader import read
from kwsq.targets.accel.weights import layer_codes, layer_scales
from kwsq.targets.accel.writer import write_pack


@st.composite
def layers(draw: st.DrawFn) -> LoweredGraph:
    """One convolution (output channels first), depthwise convolution (last) or dense layer."""
    bits = draw(st.integers(1, 8))
    levels = None
    if bits == 1 or draw(st.booleans()):
        levels = sorted(draw(st.sets(st.integers(-128, 127), min_size=2, max_size=min(2**bits, 40))))
    weights = {"bits": bits, "levels": levels, "per_channel": draw(st.booleans())}
    model = LoweredModel(draw(st.integers(0, 999)))
    height, width, depth = (draw(st.integers(1, 5)) for _ in range(3))
    x = model.input("x", (1, height, width, depth))
    kernel = (draw(st.integers(1, height)), draw(st.integers(1, width)))
    match draw(st.integers(0, 2)):
        case 0:
            y = model.conv(x, draw(st.integers(1, 9)), kernel, **weights)
        case 1:
            y = model.depthwise(x, kernel, multiplier=draw(st.integers(1, 3)), **weights)
        case _:
            y = model.dense(model.reshape(x, (1, height * width * depth)), draw(st.integers(1, 20)), **weights)
    return model.graph(y)


@settings(max_examples=150)
@given(layers(), st.sampled_from(Layout), st.sampled_from([None, *ALIGNMENTS_BITS, 2, 512]))
def test_a_layer_comes_back(graph: LoweredGraph, order: Layout, align: int | None) -> None:
    pack = read(write_pack(build_contents(graph, order, align), {}))
    node, operator, (layer,) = graph.nodes[-1], pack.graph.operators[-1], pack.graph.layers
    weight = graph[node.inputs[1]]
    codes = layer_codes(layer, pack.sections)
    np.testing.assert_array_equal(
        codes.T.reshape(weight.shape) if isinstance(node.op, DepthwiseConv2D) else codes.reshape(weight.shape),
        weight.data,
    )
    ends = (pack.graph.tensors[operator.inputs[0]].scale, pack.graph.tensors[operator.outputs[0]].scale)
    assert weight.scale is not None
    assert layer_scales(layer, pack.sections, *ends).tobytes() == weight.scale.tobytes()
    assert align is None or layer.layout.row_align_bits == align


@settings(max_examples=10)
@given(
    st.lists(
        st.tuples(layers(), st.sampled_from(Layout), st.sampled_from([1, 2, 8, 64, 512])), min_size=20, max_size=20
    )
)
def test_the_c_reference_computes_the_same(cases: list[tuple[LoweredGraph, Layout, int]]) -> None:
    packs = [write_pack(build_contents(graph, order, align), {}) for graph, order, align in cases]
    with TemporaryDirectory() as folder:
        digests = [digest for _, _, digest in batch(packs, Path(folder))]
    for (graph, _, _), data, digest in zip(cases, packs, digests, strict=True):
        pack = read(data)
        inputs = pattern_inputs(pack)
        expected, found = run_integer(graph, inputs), run_pack(pack, inputs)
        assert all(np.array_equal(found[name], expected[name]) for name in graph.outputs)
        assert digest == fnv(b"".join(found[entry.name].tobytes() for entry in pack.entries(Role.OUTPUT)))
