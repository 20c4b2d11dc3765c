"""What `--data` says of each sample besides its class: speaker, length, and its place in a recording."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.data import check_headers
from kwsq.converter.det.trials import FloatArray, IntArray
from kwsq.ir.errors import Problem, UsageError

GROUPS = ("group", "speaker")
"""Names under which groups are looked for, the first found counts."""
MAX_COLUMN_BYTES = 2**28
_READ_ERRORS = (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Facts about each of n samples.

    Args:
        group: (n,) number of the speaker, None when unknown.
        duration_seconds: (n,) length of each.
        recording: (n,) number of the recording whose next hop each sample is, None for clips.
        hop_seconds: time between two samples of a recording, None for clips.
    """

    group: IntArray | None
    duration_seconds: FloatArray
    recording: IntArray | None = None
    hop_seconds: float | None = None


def read_columns(data: Path, samples: int, dropped: int = 0) -> Columns:
    """Returns the columns of an archive; those it lacks are taken as unknown, and lengths as 1 s or one hop.

    Args:
        data: `.npz` with, if known, `group` or `speaker`, `duration` in seconds, and for continuous audio `recording`
            per sample and one `hop_seconds`.
        samples: number of samples in use.
        dropped: samples at the end that were left out.

    Raises:
        UsageError: a column is no plain array, has another length, or half of a recording's description is missing.
    """
    found = _arrays(data)
    group = next((_column(found[name], name, samples, dropped) for name in GROUPS if name in found), None)
    recording = _column(found["recording"], "recording", samples, dropped) if "recording" in found else None
    hop = _hop(found)
    if (recording is None) != (hop is None):
        missing = "recording" if recording is None else "hop_seconds"
        remedy = "save the recording of each sample, and the time between two samples as hop_seconds"
        raise UsageError(Problem("--data", f"no {missing}", "recording and hop_seconds, or neither", remedy))
    duration = np.full(samples, 1.0 if hop is None else hop)
    if "duration" in found:
        duration = _numbers(_column(found["duration"], "duration", samples, dropped), "duration")
    codes = None if recording is None else _codes(recording)
    if codes is not None:
        _check_contiguous(codes)
    return Columns(None if group is None else _codes(group), duration, codes, hop)


def _arrays(data: Path) -> dict[str, npt.NDArray[Any]]:
    wanted = (*GROUPS, "duration", "recording", "hop_seconds")
    try:
        with zipfile.ZipFile(data) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
            check_headers(archive, wanted)
        large = [name for name in wanted if sizes.get(name, 0) > MAX_COLUMN_BYTES]
        if large:
            expected = f"at most {MAX_COLUMN_BYTES} bytes"
            raise UsageError(Problem(f"--data, {large[0]}", f"{sizes[large[0]]} bytes", expected, "check the file"))
        with np.load(data, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in wanted if name in arrays.files}
    except _READ_ERRORS as error:
        where, remedy = f"--data, {', '.join(wanted[:-1])} or hop_seconds", "save texts as numpy strings"
        raise UsageError(Problem(where, str(error), "plain arrays", remedy)) from error


def _column(array: npt.NDArray[Any], name: str, samples: int, dropped: int) -> npt.NDArray[Any]:
    values = array.reshape(-1)
    if values.size not in (samples, samples + dropped):
        found = f"{values.size} values for {samples} samples"
        raise UsageError(Problem(f"--data, {name}", found, "one of each per sample", "save one value per sample"))
    if values.dtype.kind not in "biufSU" or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        found = f"{values.dtype} values, or some that are not finite"
        raise UsageError(Problem(f"--data, {name}", found, "finite numbers or texts", "correct the column"))
    return values[:samples]


def _numbers(values: npt.NDArray[Any], name: str) -> FloatArray:
    if values.dtype.kind not in "iuf":
        found = f"{values.dtype} values"
        raise UsageError(Problem(f"--data, {name}", found, "numbers", "save seconds as numbers"))
    return values.astype(np.float64)


def _hop(found: dict[str, npt.NDArray[Any]]) -> float | None:
    if "hop_seconds" not in found:
        return None
    array = found["hop_seconds"]
    value = float(array.reshape(-1)[0]) if array.size == 1 and array.dtype.kind in "iuf" else 0.0
    if not (np.isfinite(value) and value > 0):
        raise UsageError(Problem("--data, hop_seconds", f"{array!r}"[:80], "one number above 0", "correct the value"))
    return value


def _codes(values: npt.NDArray[Any]) -> IntArray:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _check_contiguous(recording: IntArray) -> None:
    stretches = 1 + int(np.count_nonzero(np.diff(recording)))
    if stretches != np.unique(recording).size:
        found = f"{np.unique(recording).size} recordings in {stretches} pieces"
        raise UsageError(
            Problem("--data, recording", found, "each recording in one piece, in time order", "sort the samples")
        )
