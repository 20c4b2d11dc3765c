import numpy as np
import pytest
from numerics_cases import assert_identical, cases


def test_a_single_lsb_is_found() -> None:
    ours = np.zeros((3, 4), dtype=np.int8)
    runtime = ours.copy()
    runtime[1, 2] = -1
    with pytest.raises(AssertionError, match="1 codes differ, by up to 1 LSB"):
        assert_identical(ours, runtime, "case")


@pytest.mark.parametrize("runtime", [np.zeros(4, np.int8), np.zeros(3, np.uint8)])
def test_another_shape_or_dtype_is_found(runtime: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="runtime"):
        assert_identical(np.zeros(3, np.int8), runtime, "case")


def test_cases_repeat_and_differ_from_each_other() -> None:
    first, again = ([rng.integers(2**40) for rng in cases(1, 5)] for _ in range(2))
    assert first == again
    assert len(set(first)) == 5
