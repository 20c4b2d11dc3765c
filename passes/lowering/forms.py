"""Physical forms of logical tensors.

A form lists, for every physical dimension, the logical axis stored there, or None for an inserted dimension of size 1.
(0, 2, 3, 1) stores NCHW as NHWC; (0, None, 2, 1) stores NCL as N1LC. Logical axes of size 1 may be left out. Two forms
whose axes of size > 1 come in the same order differ by a reshape only; any other pair needs a transpose.
"""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, ...]
Form = tuple[int | None, ...]


def identity_form(rank: int) -> Form:
    """Returns the form that keeps the logical order."""
    return tuple(range(rank))


def channels_last(rank: int, axis: int = 1, *, dims: int | None = None) -> Form:
    """Returns the form with `axis` last and the batch first, padded with unit dimensions to `dims` dimensions.

    >>> channels_last(4), channels_last(3, dims=4), channels_last(2, dims=4)
    ((0, 2, 3, 1), (0, None, 2, 1), (0, None, None, 1))
    """
    middle = [i for i in range(1, rank) if i != axis]
    head: list[int | None] = [0] if axis != 0 else []
    padding: list[int | None] = [None] * max(0, (dims or 0) - len(head) - len(middle) - 1)
    return (*head, *padding, *middle, axis)


def unit_dimensions_fitted(form: Form, dims: int) -> Form:
    """Returns the form with `dims` dimensions: unit dimensions are added after its first one, or its first ones go.

    >>> unit_dimensions_fitted((0, 2, 1), 4), unit_dimensions_fitted((None, 0, None, 1, 2), 4)
    ((0, None, 2, 1), (0, None, 1, 2))
    """
    surplus = [i for i, axis in enumerate(form) if axis is None][: max(0, len(form) - dims)]
    kept = tuple(axis for i, axis in enumerate(form) if i not in surplus)
    return (*kept[:1], *[None] * (dims - len(kept)), *kept[1:])


def physical_shape(form: Form, shape: Shape) -> Shape:
    """Returns the stored shape of a logical shape."""
    return tuple(1 if axis is None else shape[axis] for axis in form)


def order(form: Form, shape: Shape) -> tuple[int, ...]:
    """Returns the logical axes of size > 1 in stored order."""
    return tuple(axis for axis in form if axis is not None and shape[axis] > 1)


def same_order(a: Form, b: Form, shape: Shape) -> bool:
    """Returns whether a reshape converts one form into the other."""
    return order(a, shape) == order(b, shape)


def transpose_perm(source: Form, target: Form, shape: Shape) -> tuple[int, ...]:
    """Returns the permutation of the dimensions of `source` that brings its axes into the order of `target`."""
    wanted = order(target, shape)
    moving = [i for i, axis in enumerate(source) if axis is not None and shape[axis] > 1]
    by_axis = {source[i]: i for i in moving}
    still = [i for i in range(len(source)) if i not in moving]
    if set(still) == {0} or (0 in still and len(still) == 1):
        return (0, *(by_axis[axis] for axis in wanted))
    # Keep unit dimensions where the target has them when ranks agree, so that no reshape follows the transpose.
    if len(source) == len(target):
        free = iter(still)
        return tuple(by_axis[axis] if axis in by_axis else next(free) for axis in target)
    return (*still, *(by_axis[axis] for axis in wanted))


def renumbered(form: Form, mapping: dict[int, int]) -> Form:
    """Returns the form with logical axes renamed; axes without a new name become unit dimensions."""
    return tuple(None if axis is None else mapping.get(axis) for axis in form)


def unit_reshape_mapping(before: Shape, after: Shape) -> dict[int, int] | None:
    """Returns old axis -> new axis when a reshape only adds or removes dimensions of size 1, else None.

    >>> unit_reshape_mapping((1, 49, 10), (1, 1, 49, 10))
    {1: 2, 2: 3}
    """
    old = [i for i, size in enumerate(before) if size > 1]
    new = [i for i, size in enumerate(after) if size > 1]
    if [before[i] for i in old] != [after[i] for i in new]:
        return None
    return dict(zip(old, new, strict=True))


def broadcast_form(form: Form, rank: int, target_rank: int) -> Form:
    """Returns the form of a lower-rank operand seen as one of `target_rank`: leading unit axes are added."""
    shift = target_rank - rank
    return tuple(None if axis is None else axis + shift for axis in form)


def without(form: Form, axes: Sequence[int]) -> Form:
    """Returns the form with the given logical axes dropped from storage."""
    return tuple(axis for axis in form if axis is None or axis not in axes)
