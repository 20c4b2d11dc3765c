"""Physical forms: what a conversion moves, every element of the tensor keeps its logical place."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsq.passes.lowering.forms import (
    Form,
    broadcast_form,
    channels_last,
    identity_form,
    order,
    physical_shape,
    renumbered,
    same_order,
    transpose_perm,
    unit_dimensions_fitted,
    unit_reshape_mapping,
    without,
)

Shape = tuple[int, ...]


def stored(values: np.ndarray, form: Form) -> np.ndarray:
    """Store a logical array as `form`, straight from the definition."""
    axes = [axis for axis in form if axis is not None]
    missing = [axis for axis in range(values.ndim) if axis not in axes]
    assert all(values.shape[axis] == 1 for axis in missing)
    return values.transpose([*missing, *axes]).reshape(physical_shape(form, values.shape))


def forms(shape: Shape, dims: int) -> list[Form]:
    """Return every form of `shape` with up to `dims` dimensions."""
    rank, found = len(shape), []
    for size in range(rank + 1):
        for kept in itertools.combinations(range(rank), size):
            if any(shape[axis] > 1 for axis in range(rank) if axis not in kept):
                continue
            for axes in itertools.permutations(kept):
                for units in range(dims - size + 1):
                    found += {tuple(f) for f in itertools.permutations([*axes, *[None] * units])}
    return sorted(set(found), key=str)


SHAPES: list[Shape] = [(3,), (1, 3), (2, 3), (1, 2, 3), (2, 3, 4), (1, 1, 3), (1, 2, 3, 4), (2, 1, 3, 1), (1, 3, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pair_of_forms_converts_by_one_transpose_and_a_reshape(shape: Shape) -> None:
    values = np.arange(np.prod(shape)).reshape(shape)
    choices = forms(shape, 4)
    rng = np.random.default_rng(0)
    pairs = list(itertools.product(choices, choices))
    picked = pairs if len(pairs) < 4000 else [pairs[i] for i in rng.choice(len(pairs), 4000, replace=False)]
    for source, target in picked:
        x = stored(values, source)
        if not same_order(source, target, shape):
            perm = transpose_perm(source, target, shape)
            assert sorted(perm) == list(range(len(source)))
            x = x.transpose(perm)
        np.testing.assert_array_equal(x.reshape(physical_shape(target, shape)), stored(values, target))


@given(st.permutations(range(4)), st.permutations(range(4)), st.lists(st.integers(1, 3), min_size=4, max_size=4))
def test_equal_ranks_need_no_reshape_after_the_transpose(a: list[int], b: list[int], sizes: list[int]) -> None:
    shape, source, target = tuple(sizes), tuple(a), tuple(b)
    if same_order(source, target, shape):
        return
    perm = transpose_perm(source, target, shape)
    moved = tuple(physical_shape(source, shape)[i] for i in perm)
    assert sorted(moved) == sorted(physical_shape(target, shape))
    if 1 not in sizes[1:]:
        assert moved == physical_shape(target, shape)


def test_same_order_ignores_unit_dimensions_only() -> None:
    assert same_order((0, 1, 2, 3), (0, 2, 3, 1), (1, 5, 1, 1))
    assert not same_order((0, 1, 2, 3), (0, 2, 3, 1), (1, 5, 2, 1))
    assert order((0, None, 2, 1), (1, 5, 7)) == (2, 1)


@given(st.lists(st.integers(2, 4), min_size=1, max_size=4), st.data())
def test_unit_reshapes_map_axes(core: list[int], data: st.DataObject) -> None:
    def with_units() -> Shape:
        shape = list(core)
        for _ in range(data.draw(st.integers(0, 2))):
            shape.insert(data.draw(st.integers(0, len(shape))), 1)
        return tuple(shape)

    before, after = with_units(), with_units()
    mapping = unit_reshape_mapping(before, after)
    assert mapping is not None
    values = np.arange(np.prod(before)).reshape(before)
    for form in (identity_form(len(before)), identity_form(len(before))[::-1]):
        aliased = renumbered(form, mapping)
        np.testing.assert_array_equal(stored(values, form), stored(values.reshape(after), aliased))


def test_other_reshapes_have_no_mapping() -> None:
    assert unit_reshape_mapping((2, 3), (3, 2)) is None
    assert unit_reshape_mapping((1, 6), (2, 3)) is None


@given(st.permutations(range(3)), st.lists(st.integers(1, 3), min_size=3, max_size=3))
def test_broadcast_form_is_the_form_of_the_expanded_tensor(form: list[int], sizes: list[int]) -> None:
    values = np.arange(np.prod(sizes)).reshape(sizes)
    wide = broadcast_form(tuple(form), 3, 5)
    np.testing.assert_array_equal(stored(values, tuple(form)), stored(values[None, None], wide))


def test_small_ones() -> None:
    assert channels_last(3, 0, dims=4) == (None, 1, 2, 0)
    assert channels_last(4, 2) == (0, 1, 3, 2)
    assert without((0, None, 2, 1), (2,)) == (0, None, 1)
    assert unit_dimensions_fitted((0, 1), 4) == (0, None, None, 1)
    assert unit_dimensions_fitted((0, 2, 3, 1), 4) == (0, 2, 3, 1)
    assert unit_dimensions_fitted((None, 0, 1, 2, 3), 4) == (0, 1, 2, 3)
    assert unit_dimensions_fitted((None, None, None, 2, 3), 4) == (None, None, 2, 3)
    assert unit_dimensions_fitted((0, 1, 2, 3, None), 4) == (0, 1, 2, 3)
