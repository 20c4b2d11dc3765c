"""Intervals between edges: those of a binary search, at ties too, however many edges there are."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kwsq.ir.quant import Codebook
from kwsq.models.quantizers.codebook import CodebookQuantizer
from kwsq.models.quantizers.intervals import MOST_COUNTED, edges_below
from kwsq.models.quantizers.lloyd_max import nearest_index, thresholds

edge_lists = st.lists(st.integers(-20, 20), min_size=0, max_size=40).map(sorted)
level_lists = st.lists(st.integers(-127, 127), min_size=4, max_size=4, unique=True).map(sorted)
scales = st.floats(2.0**-60, 2.0**60, width=32)


@pytest.mark.parametrize(("side", "or_at"), [("left", False), ("right", True)])
@settings(max_examples=30, deadline=None)
@given(edges=edge_lists)
def test_a_value_lies_where_a_search_finds_it(side: str, or_at: bool, edges: list[int]) -> None:
    values = np.arange(-21.0, 21.5, 0.5, dtype=np.float32)
    found = edges_below(tf.constant(values), tf.constant(edges, tf.float32), or_at=or_at)
    np.testing.assert_array_equal(found, np.searchsorted(np.array(edges, np.float32), values, side=side))


@pytest.mark.parametrize("count", [MOST_COUNTED, MOST_COUNTED + 1, 127])
@pytest.mark.parametrize(("side", "or_at"), [("left", False), ("right", True)])
def test_many_edges_are_counted_or_searched_alike(count: int, side: str, or_at: bool) -> None:
    edges = np.sort(np.random.default_rng(0).normal(size=count)).astype(np.float32)
    values = np.concatenate([edges, np.random.default_rng(1).normal(size=200).astype(np.float32)])
    found = edges_below(tf.constant(values), tf.constant(edges), or_at=or_at)
    np.testing.assert_array_equal(found, np.searchsorted(edges, values, side=side))


@settings(max_examples=100, deadline=None)
@example(levels=[-127, -126, 126, 127], scale=0.1)
@example(levels=[-2, -1, 1, 2], scale=1.0)
@given(levels=level_lists, scale=scales)
def test_the_nearest_level_is_the_exporters_one_on_a_threshold_and_a_bit_beside_it(
    levels: list[int], scale: float
) -> None:
    codebook = Codebook(np.array(levels, np.int8), np.array([scale], np.float32), 2)
    layer = CodebookQuantizer(2)
    layer.build((1,))
    layer.levels.assign(np.array(levels, np.float32))
    layer.scale.assign(codebook.scale[0])
    middles = thresholds(codebook.levels.astype(np.float64) * float(codebook.scale[0])).astype(np.float32)
    far = np.array([-200.0, -1.0, 0.0, 1.0, 200.0], np.float32) * np.float32(scale)
    values = np.concatenate(
        [
            middles,
            np.nextafter(middles, -np.inf),
            np.nextafter(middles, np.inf),
            far,
            [np.float32(-1e38), np.float32(1e38)],
        ]
    )
    values = values[(values == 0.0) | (np.abs(values) >= np.finfo(np.float32).tiny)]  # TensorFlow flushes denormals
    chosen = codebook.levels[nearest_index(values, codebook)].astype(np.float32) * codebook.scale[0]
    np.testing.assert_array_equal(layer.nearest(tf.constant(values)), chosen)


def test_a_weight_that_is_no_number_gives_a_level_all_the_same() -> None:
    layer = CodebookQuantizer(2)
    layer.build((3,))
    layer.levels.assign([-2.0, -1.0, 1.0, 2.0])
    np.testing.assert_array_equal(layer.nearest(tf.constant([np.nan, -np.inf, np.inf])), [-2.0, -2.0, 2.0])
