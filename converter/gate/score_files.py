"""Score files: trials scored anywhere, as CSV, NPZ or Parquet, one row per trial.

Columns: trial_id, label (1 keyword, 0 not), score, duration (seconds, 1 when absent), group (optional).
"""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kwsq.converter.data import check_headers
from kwsq.converter.det.trials import BoolArray, FloatArray
from kwsq.converter.gate.pairs import PairedTrials
from kwsq.converter.input_file import MAX_BYTES, read_file
from kwsq.ir.errors import Problem, UsageError

REQUIRED, OPTIONAL = ("trial_id", "label", "score"), ("duration", "group")
COLUMNS = REQUIRED + OPTIONAL
SUFFIXES = (".csv", ".npz", ".parquet")
_SHOWN = 3
Columns = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreFile:
    """One model's scores.

    Args:
        name: file name, for messages.
        sha256: of the file's bytes.
        columns: column -> one value per trial; trial_id and group as text.
    """

    name: str
    sha256: str
    columns: Columns

    @property
    def trial_ids(self) -> list[str]:
        """Identifiers in file order."""
        return [str(value) for value in self.columns["trial_id"]]


def is_score_file(path: Path) -> bool:
    """Returns whether the name is that of a score file."""
    return path.suffix.lower() in SUFFIXES


def read_scores(path: Path, flag: str) -> ScoreFile:
    """Reads a score file.

    Args:
        path: CSV with a header line, NPZ with an array per column, or Parquet (needs pyarrow).
        flag: option that named it, for messages.

    Raises:
        UsageError: the file cannot be read, or a column is missing, unknown or unfit.
    """
    data, where = read_file(path, flag), f"{flag} {path.name!r}"
    readers = {".csv": _from_csv, ".npz": _from_npz, ".parquet": _from_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(Problem(where, f"the suffix {path.suffix!r}", ", ".join(SUFFIXES), "write one of these"))
    columns = reader(data, where)
    _check_columns(columns, where)
    converted = {name: _converted(name, values, where) for name, values in columns.items()}
    if "group" in converted and not _has_groups(converted["group"], where):
        del converted["group"]
    sizes = {name: values.size for name, values in converted.items()}
    if len(set(sizes.values())) != 1:
        raise UsageError(Problem(where, str(sizes), "columns of one length", "write one row per trial"))
    found = ScoreFile(path.name, hashlib.sha256(data).hexdigest(), converted)
    _check_duplicates(found, where)
    _check_values(found, where)
    return found


def join(reference: ScoreFile, candidate: ScoreFile) -> PairedTrials:
    """Returns the trials of both files, joined on trial_id, in the order of the sorted identifiers.

    Raises:
        UsageError: a trial is in one file only, or its label, group or duration differs.
    """
    first, second = (np.argsort(np.array(file.trial_ids), kind="stable") for file in (reference, candidate))
    _check_same_trials(reference, candidate)
    problems = [
        _difference(name, reference, candidate, first, second)
        for name in ("label", *OPTIONAL)
        if name in reference.columns and name in candidate.columns
    ]
    if found := [problem for problem in problems if problem is not None]:
        raise UsageError(found)
    shared: dict[str, npt.NDArray[np.generic]] = {}
    for file, order in ((candidate, second), (reference, first)):
        shared.update({name: values[order] for name, values in file.columns.items() if name != "score"})
    return PairedTrials.of(
        shared["label"],
        reference.columns["score"][first],
        candidate.columns["score"][second],
        shared.get("duration", 1.0),
        shared.get("group"),
    )


def evalset_sha256(file: ScoreFile) -> str:
    """Returns a hash of what was tested, whatever the scores: identifiers, labels, durations and groups, sorted."""
    names = [name for name in COLUMNS if name != "score" and name in file.columns]
    lines = sorted("\x1f".join(str(file.columns[name][i]) for name in names) for i in range(len(file.trial_ids)))
    return hashlib.sha256("\n".join([*names, *lines]).encode()).hexdigest()


def _from_csv(data: bytes, where: str) -> Columns:
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(Problem(where, str(error), "UTF-8 CSV", "write it as UTF-8 with a header line")) from error
    header, body = ([name.strip() for name in rows[0]], [row for row in rows[1:] if row]) if rows else ([], [])
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise UsageError(Problem(where, f"several columns {_some(repeated)}", "one of each", "remove all but one"))
    for number, row in enumerate(body, 1):
        if len(row) != len(header):
            found = f"{len(row)} fields in row {number}"
            raise UsageError(Problem(where, found, f"{len(header)} fields", "correct the row"))
    return {name: np.array([row[i] for row in body], np.str_) for i, name in enumerate(header)}


def _from_npz(data: bytes, where: str) -> Columns:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
                raise UsageError(Problem(where, f"more than {MAX_BYTES} bytes unpacked", "fewer", "check the file"))
            check_headers(archive, COLUMNS)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name].reshape(-1) for name in arrays.files if name in COLUMNS}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        remedy = "write it with numpy.savez, texts as numpy strings"
        raise UsageError(Problem(where, str(error), "an .npz of plain arrays", remedy)) from error


def _from_parquet(data: bytes, where: str) -> Columns:
    try:
        from pyarrow import ArrowInvalid, BufferReader, parquet
    except ImportError as error:
        remedy = "pip install 'kwsq[parquet]', or write CSV or NPZ"
        raise UsageError(Problem(where, "pyarrow is not installed", "pyarrow to read Parquet", remedy)) from error
    try:
        table = parquet.read_table(BufferReader(data))
    except (ArrowInvalid, OSError) as error:
        raise UsageError(Problem(where, str(error), "a Parquet file", "check the file")) from error
    return {name: np.array(table[name].to_pylist()) for name in table.column_names if name in COLUMNS}


def _check_columns(columns: Columns, where: str) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        found = f"no {', '.join(missing)} among {', '.join(columns) or 'no columns'}"
        expected = f"{', '.join(REQUIRED)} and, if known, {', '.join(OPTIONAL)}"
        raise UsageError(Problem(where, found, expected, "name the columns so"))


def _converted(name: str, values: npt.NDArray[np.generic], where: str) -> npt.NDArray[np.generic]:
    if values.dtype.kind not in "biufUSO":
        raise UsageError(Problem(f"{where}, column {name}", f"{values.dtype} values", "numbers or texts", "convert it"))
    if name not in ("label", "score", "duration"):
        return np.asarray(values, np.str_)
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(Problem(f"{where}, column {name}", str(error), "numbers", "correct the column")) from error


def _has_groups(groups: npt.NDArray[np.generic], where: str) -> bool:
    """Whether a column names groups; empty in every row it does not, empty in some they would be one group."""
    empty = int((groups == "").sum())
    if 0 < empty < groups.size:
        found, expected = f"{empty} empty of {groups.size}", "a speaker or recording in every row, or in none"
        raise UsageError(Problem(f"{where}, column group", found, expected, "name one for each trial"))
    return not empty


def _check_duplicates(file: ScoreFile, where: str) -> None:
    ids, counts = np.unique(np.array(file.trial_ids, np.str_), return_counts=True)
    repeated = ids[counts > 1]
    if repeated.size or "" in ids:
        found = f"{repeated.size} repeated: {_some(repeated.tolist())}" if repeated.size else "an empty trial_id"
        raise UsageError(Problem(f"{where}, column trial_id", found, "one row per trial", "make identifiers unique"))


def _check_values(file: ScoreFile, where: str) -> None:
    """Checks each value by itself, while its row is known: joined trials are sorted."""
    checks: Mapping[str, tuple[Callable[[FloatArray], BoolArray], str, str]] = {
        "label": (lambda values: np.isin(values, (0, 1)), "1 or 0", "1 marks the keyword"),
        "score": (np.isfinite, "finite numbers", "remove the trial or repair the model"),
        "duration": (lambda values: np.isfinite(values) & (values > 0), "seconds above 0", "correct the row"),
    }
    problems = []
    for name, (is_good, expected, remedy) in checks.items():
        values = np.asarray(file.columns.get(name, ()), np.float64)
        wrong = np.flatnonzero(~is_good(values))
        if wrong.size:
            first = wrong[0]
            found = f"{wrong.size} wrong, first {values[first]} in row {first + 1}, trial {file.trial_ids[first]!r}"
            problems.append(Problem(f"{where}, column {name}", found, expected, remedy))
    if problems:
        raise UsageError(problems)


def _check_same_trials(reference: ScoreFile, candidate: ScoreFile) -> None:
    first, second = set(reference.trial_ids), set(candidate.trial_ids)
    problems = [
        Problem(
            f"{file.name!r}",
            f"{len(missing)} trials missing: {_some(sorted(missing))}",
            "the same trials in both",
            "score every trial with both models",
        )
        for file, missing in ((candidate, first - second), (reference, second - first))
        if missing
    ]
    if problems:
        raise UsageError(problems)


def _difference(
    name: str, reference: ScoreFile, candidate: ScoreFile, first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]
) -> Problem | None:
    one, other = reference.columns[name][first], candidate.columns[name][second]
    differing = np.flatnonzero(one != other)
    if not differing.size:
        return None
    trial = reference.columns["trial_id"][first][differing[0]]
    found = f"{differing.size} trials differ, first {str(trial)!r}: {one[differing[0]]} and {other[differing[0]]}"
    return Problem(f"column {name}", found, "equal values in both files", "correct the file that is wrong")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (", ..." if len(names) > _SHOWN else "")
