"""Scores become one row of classes for each label, or are refused: an arg-max over frames and classes names nothing."""

import numpy as np
import pytest

from kwsq.converter.class_rows import class_rows, rows_of
from kwsq.ir.errors import UsageError


@pytest.mark.parametrize(
    ("shape", "count"), [((6, 12), 6), ((6, 12, 1, 1), 6), ((6, 1, 12), 6), ((1, 12), 1), ((42, 1), 6), ((24,), 6)]
)
def test_dimensions_of_size_one_do_not_count(shape: tuple[int, ...], count: int) -> None:
    scores = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(rows_of(scores, count), scores.reshape(count, -1))


def test_every_position_may_have_a_label_of_its_own() -> None:
    scores = np.arange(90).reshape(6, 5, 3)
    np.testing.assert_array_equal(class_rows(scores, np.zeros(30, np.int64)), scores.reshape(30, 3))


@pytest.mark.parametrize(("shape", "count"), [((6, 5, 3), 6), ((30, 3), 6), ((1, 5, 3), 1), ((6, 5, 1, 3), 6)])
def test_a_row_never_runs_over_several_positions(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(UsageError, match=rf"for {count} samples; expected one row of classes for each"):
        class_rows(np.zeros(shape), np.zeros(count, np.int64))


@pytest.mark.parametrize(
    ("shape", "labels"), [((6, 3), [0] * 5), ((6, 3), [3] * 6), ((6, 3), [-1] * 6), ((6, 1), [0] * 6)]
)
def test_labels_are_classes_of_the_scores(shape: tuple[int, ...], labels: list[int]) -> None:
    with pytest.raises(UsageError, match="expected one class per output row"):
        class_rows(np.zeros(shape), np.array(labels))
