"""Reading .npz: shapes, types and names are settled or refused, and hostile archives cost nothing."""

import io
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kwsq.converter.data import InputSpec, read_samples
from kwsq.ir.errors import UsageError

X = InputSpec("features", (1, 4, 3))


def saved(folder: Path, **members: object) -> Path:
    path = folder / "x.npz"
    np.savez(path, **members)  # type: ignore[arg-type]  # NumPy saves what it can turn into an array
    return path


@pytest.mark.parametrize("key", ["features", "x"])
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 1, 4, 3), (60,), (5, 12)])
def test_any_shape_of_the_right_size_is_reshaped(tmp_path: Path, key: str, shape: tuple[int, ...]) -> None:
    values = np.arange(60, dtype=np.float64).reshape(shape)
    samples = read_samples(saved(tmp_path, **{key: values, "other": "text"}), "--calibration", [X])
    assert (samples.runs, samples.dropped) == (5, 0)
    assert samples.inputs["features"].shape == (5, 4, 3)
    assert samples.inputs["features"].dtype == np.float32
    assert np.array_equal(samples.inputs["features"].reshape(-1), np.arange(60))


def test_the_name_wins_over_x(tmp_path: Path) -> None:
    path = saved(tmp_path, features=np.zeros((1, 4, 3)), x=np.ones((1, 4, 3)))
    assert not read_samples(path, "--data", [X]).inputs["features"].any()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int16, np.uint8]), st.sampled_from([(12,), (24,), (2, 12)])
    )
)
def test_values_survive_or_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    path = saved(tmp_path, x=values)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32).reshape(-1, *X.shape[1:])
    if not np.isfinite(expected).all():
        with pytest.raises(UsageError, match=r"NaN|float32"):
            read_samples(path, "--calibration", [X])
        return
    assert np.array_equal(read_samples(path, "--calibration", [X]).inputs["features"], expected)


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"y": [0]}, "only y"),
        ({"x": np.zeros(13)}, "samples of"),
        ({"x": np.zeros(0)}, "at least 1 of them"),
        ({"x": np.full(12, np.nan)}, "NaN"),
        ({"x": np.full(12, 1e300)}, "beyond float32"),
        ({"x": np.array(["a"] * 12)}, "elements"),
        ({"x": np.zeros(12, complex)}, "elements"),
        ({"x": np.array([None] * 12)}, "elements"),
    ],
)
def test_unfit_arrays_are_refused_by_name(tmp_path: Path, members: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        read_samples(saved(tmp_path, **members), "--calibration", [X])
    assert "--calibration" in caught.value.message()


@pytest.mark.parametrize("shape", [(60, 4, 5), (60, 1, 4, 5), (4, 5)])
def test_samples_with_axes_in_another_order_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Their values would be read in a wrong order, without a sign of it."""
    with pytest.raises(UsageError, match=r"axes in another order; expected samples of \[1, 5, 4\]; transpose"):
        read_samples(saved(tmp_path, x=np.zeros(shape)), "--data", [InputSpec("x", (1, 5, 4))])


@pytest.mark.parametrize("shape", [(60, 5, 4), (60, 20), (1200,), (60, 1, 5, 4), (3, 20, 5, 4), (60, 5, 1, 4), (5, 4)])
def test_samples_may_be_flat_or_have_dimensions_of_size_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape)
    found = read_samples(saved(tmp_path, x=values), "--data", [InputSpec("x", (1, 5, 4))]).inputs["x"]
    np.testing.assert_array_equal(found, values.reshape(-1, 5, 4))


def test_every_problem_is_listed(tmp_path: Path) -> None:
    inputs = [InputSpec("a", (1, 2)), InputSpec("b", (1, 3)), InputSpec("c", (1, 1))]
    with pytest.raises(UsageError) as caught:
        read_samples(saved(tmp_path, a=np.zeros(3), c=np.zeros(1)), "--data", inputs)
    assert [problem.where for problem in caught.value.problems] == ["--data, array 'a'", "--data, array 'b'"]


def test_x_is_no_name_for_one_of_several_inputs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="array 'a'"):
        read_samples(saved(tmp_path, x=np.zeros(2)), "--data", [InputSpec("a", (1, 2)), InputSpec("b", (1, 2))])


def test_counts_must_agree(tmp_path: Path) -> None:
    path = saved(tmp_path, a=np.zeros(4), b=np.zeros(3))
    with pytest.raises(UsageError, match="different numbers of samples"):
        read_samples(path, "--data", [InputSpec("a", (1, 2)), InputSpec("b", (1, 1))])


def test_states_may_be_absent(tmp_path: Path) -> None:
    inputs = [InputSpec("chunk", (1, 2)), InputSpec("s1", (1, 8))]
    samples = read_samples(saved(tmp_path, x=np.zeros((7, 2))), "--calibration", inputs, states=frozenset(["s1"]))
    assert list(samples.inputs) == ["chunk"]
    assert samples.runs == 7


def test_integer_inputs_keep_their_codes(tmp_path: Path) -> None:
    spec = InputSpec("x", (1, 2), "uint8")
    codes = np.array([[0, 255], [1, 2]])
    found = read_samples(saved(tmp_path, x=codes), "--data", [spec]).inputs["x"]
    assert found.dtype == np.uint8
    assert np.array_equal(found.reshape(2, 2), codes)
    for wrong in (codes - 1, codes + 1, codes.astype(np.float32)):
        with pytest.raises(UsageError, match="uint8 codes from 0 to 255"):
            read_samples(saved(tmp_path, x=wrong), "--data", [spec])


def test_labels(tmp_path: Path) -> None:
    path = saved(tmp_path, x=np.zeros((3, 4, 3)), y=np.array([[2], [0], [1]]))
    labels = read_samples(path, "--data", [X], labelled=True).labels
    assert labels is not None
    assert labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize("y", [np.zeros(2, int), np.zeros(3), np.array([0, -1, 2]), np.zeros((3, 12))])
def test_labels_must_be_one_class_each(tmp_path: Path, y: np.ndarray) -> None:
    with pytest.raises(UsageError, match="3 integer classes"):
        read_samples(saved(tmp_path, x=np.zeros((3, 4, 3)), y=y), "--data", [X], labelled=True)


def test_a_batch_takes_whole_batches_and_counts_the_rest(tmp_path: Path) -> None:
    spec = InputSpec("x", (4, 3))
    path = saved(tmp_path, x=np.arange(33.0).reshape(11, 3), y=np.arange(11))
    samples = read_samples(path, "--data", [spec], labelled=True)
    assert (samples.runs, samples.dropped) == (2, 3)
    assert samples.inputs["x"].shape == (8, 3)
    assert samples.labels is not None
    assert samples.labels.tolist() == list(range(8))
    with pytest.raises(UsageError, match="at least 4 of them"):
        read_samples(saved(tmp_path, x=np.zeros((3, 3))), "--data", [spec])


def test_missing_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="labels 'y'"):
        read_samples(saved(tmp_path, x=np.zeros((3, 4, 3))), "--data", [X], labelled=True)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + b"\0" * 40])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"an \.npz archive"):
        read_samples(path, "--calibration", [X])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 600))
def test_damaged_archives_are_refused_or_read(tmp_path: Path, edits: list[tuple[int, int]], length: int) -> None:
    data = bytearray(saved(tmp_path, x=np.zeros((2, 4, 3), np.float32)).read_bytes())
    for place, value in edits:
        data[place % len(data)] = value
    path = tmp_path / "damaged.npz"
    path.write_bytes(data[:length] if length < len(data) // 2 else data)
    try:
        samples = read_samples(path, "--calibration", [X])
    except UsageError:
        return
    assert samples.inputs["features"].shape[1:] == X.shape[1:]


def lying_header(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize("shape", ["(1099511627776,)", "(0, 1099511627776)", "(-4, -3)", "(100,)", "12", "'a'"])
def test_headers_that_promise_more_than_the_archive_holds(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", lying_header(shape) + b"\0" * 48)
    start = time.monotonic()
    with pytest.raises(UsageError):
        read_samples(path, "--calibration", [X])
    assert time.monotonic() - start < 2


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", stream.getvalue())
    with pytest.raises(UsageError, match="object elements"):
        read_samples(path, "--calibration", [X])
