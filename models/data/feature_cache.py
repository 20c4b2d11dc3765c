"""Computed features on disk, under a name that their audio and their format decide.

The folder ignores itself in git. A file that is damaged counts as none.

Source: our choice.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.features import FeatureFormat
from kwsq.models.data.mfcc import MfccFormat
from kwsq.models.data.text_files import capped
from kwsq.models.data.whole_file import whole_file

Place = tuple[str, int]
"""File, relative to the data folder, and first sample."""


def cache_key(data: Path, places: Sequence[Place], constants: FeatureFormat | MfccFormat) -> str:
    """Identify clips by what their files hold: names, sizes and dates stay where audio is replaced.

    Raises:
        UsageError: files are missing.
    """
    names = list(dict.fromkeys(name for name, _ in places))
    if missing := [name for name in names if not (data / name).is_file()]:
        found, remedy = f"no file {capped(missing)}", "bring the audio, or take the clips out of the list"
        raise UsageError(Problem(str(data), found, "every file that is listed", remedy))
    content = {name: hashlib.blake2b((data / name).read_bytes(), digest_size=16).hexdigest() for name in names}
    files = [(name, start, content[name]) for name, start in places]
    facts = {"format": asdict(constants), "files": files}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def cached(path: Path, clips: int, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return what a file holds; compute and write it first where there is none, or none that is whole.

    Args:
        path: of the file, `.npy`.
        clips: length of the first axis.
        compute: gives the features.
    """
    stored = _stored(path)
    if stored is not None and len(stored) == clips:
        return stored
    features = compute()
    with whole_file(path) as stream:  # two processes may do so at once
        (path.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        np.save(stream, features)
    return features


def _stored(path: Path) -> NDArray[np.float32] | None:
    try:
        features = np.load(path)
    except (OSError, ValueError, EOFError):  # of a file cut short, each of them, by where it was cut
        return None
    return features if isinstance(features, np.ndarray) and features.ndim else None
