"""Computed features on disk, under a name that their audio and their format decide.

The folder ignores itself in git. Behind the array stands a digest of the bytes before it: a file that is damaged, or
was never whole, counts as none.

Source: our choice.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.features import FeatureFormat
from kwsq.models.data.mfcc import MfccFormat
from kwsq.models.data.text_files import capped
from kwsq.models.data.whole_file import whole_file

DIGEST_BYTES = 16
_CHUNK_BYTES = 1 << 20
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
        stream.flush()
        with Path(stream.name).open("rb") as written:
            digest = _digest(written, stream.tell())
        stream.write(digest)
    return features


def _stored(path: Path) -> NDArray[np.float32] | None:
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size - DIGEST_BYTES
            if size < 0 or _digest(stream, size) != stream.read():
                return None
            stream.seek(0)
            return np.asarray(np.load(stream), dtype=np.float32)
    except OSError:
        return None


def _digest(stream: BinaryIO, size: int) -> bytes:
    """Read the first bytes of a file in pieces, and leave it behind them."""
    content = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for start in range(0, size, _CHUNK_BYTES):
        content.update(stream.read(min(_CHUNK_BYTES, size - start)))
    return content.digest()
