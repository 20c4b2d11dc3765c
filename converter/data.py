"""Reading `--calibration` and `--data`: arrays by input name from an `.npz` that nobody vouches for.

Members are checked against their headers before an array is made: a few bytes of zip can promise terabytes, and pickled
objects would run code.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import Problem, UsageError

MAX_ARRAY_BYTES = 2**31
Array = npt.NDArray[np.generic]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a graph input accepts.

    Args:
        name: input name.
        shape: static shape; the first dimension is the batch.
        dtype: "float32", or "uint8" / "int8" for an input that is itself integer.
    """

    name: str
    shape: Shape
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Inputs of a model and, for evaluation, their classes.

    Args:
        inputs: input name -> array of the input's type and shape, but with `runs` times its first dimension.
        runs: number of inferences the arrays feed.
        dropped: samples left over because they do not fill a batch.
        labels: one class per row of the first dimension, or per run; None where none were asked for.
    """

    inputs: Mapping[str, Array]
    runs: int
    dropped: int = 0
    labels: npt.NDArray[np.int64] | None = None


def read_samples(
    path: Path,
    flag: str,
    inputs: Sequence[InputSpec],
    *,
    states: frozenset[str] = frozenset(),
    labelled: bool = False,
) -> Samples:
    """Reads the samples of a model.

    Args:
        path: `.npz` file.
        flag: option that named it, for messages.
        inputs: the model's inputs.
        states: inputs that carry a streaming state; samples are consecutive chunks then, and a state's array
            may be absent.
        labelled: whether `y` must hold one class per sample.

    Returns:
        Arrays of every input, reshaped to (-1, *shape at batch 1) and cut to whole batches.

    Raises:
        UsageError: listing every array that is missing or unfit.
    """
    archive = _Archive.open(path, flag)
    problems: list[Problem] = []
    found: dict[str, Array] = {}
    wanted = [spec for spec in inputs if spec.name not in states or spec.name in archive.members]
    free = [spec for spec in inputs if spec.name not in states]
    for spec in wanted:
        alone = len(free) == 1 and spec is free[0]
        key = "x" if alone and spec.name not in archive.members else spec.name
        try:
            found[spec.name] = _fitted(archive.read(key, inputs), spec, f"{flag}, array {key!r}")
        except UsageError as error:
            problems += error.problems
    batches = {spec.name: spec.shape[0] for spec in wanted}
    if not problems:
        problems += _count_problems({name: len(array) // batches[name] for name, array in found.items()}, flag)
    if problems:
        raise UsageError(problems)
    rows = {len(array) for array in found.values()}
    runs = min((len(array) // batches[name] for name, array in found.items()), default=0)
    cut = {name: array[: runs * batches[name]] for name, array in found.items()}
    dropped = max((len(array) - len(cut[name]) for name, array in found.items()), default=0)
    labels = _labels(archive, rows | {runs}, inputs) if labelled else None
    if labels is not None and labels.size != runs:
        labels = labels[: labels.size - dropped]
    return Samples(cut, runs, dropped, labels)


def read_arrays(path: Path, flag: str, inputs: Sequence[InputSpec], states: Collection[str] = ()) -> dict[str, Array]:
    """Reads one array per input as it is saved, whole batches of the declared shape.

    Args:
        path: `.npz` file.
        flag: option that named it, for messages.
        inputs: the inputs wanted.
        states: inputs that whoever runs the model feeds itself: arrays for them would be left alone.

    Raises:
        UsageError: listing every array that is missing or has another shape, or is a state's.
    """
    archive = _Archive.open(path, flag)
    found: dict[str, Array] = {}
    problems = [
        Problem(f"{flag}, array {name!r}", "values of a state", "inputs alone: states begin at 0", "leave it out")
        for name in sorted(archive.members.keys() & set(states))
    ]
    for spec in inputs:
        key = "x" if len(inputs) == 1 and spec.name not in archive.members else spec.name
        try:
            found[spec.name] = _whole(archive.read(key, inputs), spec, f"{flag}, array {key!r}")
        except UsageError as error:
            problems += error.problems
    if not problems:
        counts = {spec.name: len(found[spec.name]) // spec.shape[0] for spec in inputs if spec.shape}
        problems += _count_problems(counts, flag)
    if problems:
        raise UsageError(problems)
    return found


def _whole(array: Array, spec: InputSpec, where: str) -> Array:
    """Returns an array that holds whole batches of an input."""
    fits = array.ndim == len(spec.shape) and array.shape[1:] == spec.shape[1:]
    if fits and (not spec.shape or (array.shape[0] > 0 and array.shape[0] % spec.shape[0] == 0)):
        return array
    found, expected = f"shape {list(array.shape)}", f"shape {list(spec.shape)}, the first dimension times k"
    raise UsageError(Problem(where, found, expected, "save arrays of the model's input shape"))


@dataclass(frozen=True, slots=True, eq=False)
class _Archive:
    path: Path
    flag: str
    members: Mapping[str, zipfile.ZipInfo]

    @classmethod
    def open(cls, path: Path, flag: str) -> _Archive:
        try:
            with zipfile.ZipFile(path) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            where = f"{flag} {str(path)!r}"
            raise UsageError(Problem(where, str(error), "an .npz archive", "write it with numpy.savez")) from error
        return cls(path, flag, members)

    def read(self, key: str, inputs: Sequence[InputSpec]) -> Array:
        where = f"{self.flag}, array {key!r}"
        if key not in self.members:
            known = ", ".join(sorted(self.members)[:12]) or "none"
            names = ", ".join(spec.name for spec in inputs)
            expected = f"an array per model input ({names})" + (" or one called x" if len(inputs) == 1 else "")
            raise UsageError(Problem(where, f"only {known}", expected, "save it under the input's name"))
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.members[key]) as stream:
                return _read_array(stream, self.members[key].file_size)
        except (
            OSError,
            zipfile.BadZipFile,
            ValueError,
            NotImplementedError,
            RuntimeError,
            EOFError,
        ) as error:
            raise UsageError(Problem(where, str(error), "a numeric array", "write it with numpy.savez")) from error


def check_headers(archive: zipfile.ZipFile, names: Collection[str]) -> None:
    """Checks that members do not promise more than they hold, before NumPy makes room for it.

    Raises:
        ValueError: one does.
    """
    for info in archive.infolist():
        if info.filename.removesuffix(".npy") in names:
            with archive.open(info) as stream:
                shape, _, dtype = _header(stream)
            size_bytes = math.prod(shape) * dtype.itemsize
            if size_bytes > info.file_size and not dtype.hasobject:
                raise ValueError(f"{info.filename}: {size_bytes} bytes by its header, {info.file_size} in the archive")


def _header(stream: IO[bytes]) -> tuple[Shape, bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"array format {version}, where 1.0 and 2.0 are read")


def _read_array(stream: IO[bytes], member_bytes: int) -> Array:
    shape, fortran, dtype = _header(stream)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise ValueError(f"{dtype} elements, where numbers are read")
    size_bytes = math.prod(shape) * dtype.itemsize
    if size_bytes > MAX_ARRAY_BYTES or size_bytes > member_bytes:
        raise ValueError(f"{size_bytes} bytes by its header, {member_bytes} in the archive")
    data = stream.read(size_bytes)
    if len(data) != size_bytes:
        raise ValueError(f"{len(data)} of {size_bytes} bytes")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _fitted(array: Array, spec: InputSpec, where: str) -> Array:
    """Returns the array as (-1, *shape at batch 1), batches joined, of the input's type."""
    batch, *sample = spec.shape
    if array.size % math.prod(sample) or array.size < math.prod(spec.shape):
        found, expected = f"shape {list(array.shape)}", f"samples of {[1, *sample]}, at least {batch} of them"
        raise UsageError(Problem(where, found, expected, "save samples of the model's input shape"))
    sizes, wanted = ([size for size in shape if size > 1] for shape in (array.shape, sample))
    end = sizes[-len(wanted) :] if wanted else []
    if end != wanted and sorted(end) == sorted(wanted):
        found, expected = f"shape {list(array.shape)}", f"samples of {[1, *sample]}"
        raise UsageError(Problem(where, f"{found}, axes in another order", expected, "transpose the samples"))
    if spec.dtype == "float32":
        if not np.isfinite(array).all():
            raise UsageError(Problem(where, "NaN or infinite values", "finite values", "remove those samples"))
        with np.errstate(over="ignore"):
            result: Array = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(result).all():
            raise UsageError(Problem(where, "values beyond float32", "float32 values", "scale the data"))
    else:
        result = _integer(array, spec.dtype, where)
    return result.reshape(-1, *sample)


def _integer(array: Array, dtype: str, where: str) -> Array:
    limits = np.iinfo(dtype)
    if array.dtype.kind not in "biu" or array.min() < limits.min or array.max() > limits.max:
        found = f"{array.dtype} values"
        expected = f"{dtype} codes from {limits.min} to {limits.max}"
        raise UsageError(Problem(where, found, expected, "save the codes the model's integer input takes"))
    return np.ascontiguousarray(array, dtype)


def _count_problems(counts: Mapping[str, int], flag: str) -> list[Problem]:
    if len(set(counts.values())) <= 1:
        return []
    text = ", ".join(f"{name}: {count}" for name, count in counts.items())
    return [Problem(flag, f"different numbers of samples ({text})", "one number", "save as many of each input")]


def _labels(archive: _Archive, counts: set[int], inputs: Sequence[InputSpec]) -> npt.NDArray[np.int64]:
    where = f"{archive.flag}, labels 'y'"
    if "y" not in archive.members:
        known = ", ".join(sorted(archive.members)[:12])
        raise UsageError(Problem(where, f"only {known}", "integer classes", "save the class of each sample as y"))
    labels = archive.read("y", inputs)
    if labels.dtype.kind not in "iu" or labels.size not in counts or (labels.size and labels.min() < 0):
        found = f"{labels.dtype} values of shape {list(labels.shape)}"
        expected = f"{max(counts)} integer classes from 0"
        raise UsageError(Problem(where, found, expected, "save one class per sample"))
    return labels.reshape(-1).astype(np.int64)
