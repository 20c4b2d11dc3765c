"""manifest.json: what was written, from what and by what; the same bytes for the same input, options and versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("ai-edge-litert", "numpy", "onnx", "onnxruntime")
"""What the numbers in a report depend on besides kwsq."""


@cache
def versions() -> dict[str, str]:
    """Returns the versions of kwsq and of the libraries that run models."""
    return {name: _version(name) for name in ("kwsq", *LIBRARIES)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def json_bytes(value: object) -> bytes:
    """Returns `value` as UTF-8 JSON with a final newline; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not UTF-8 reaches Python as surrogates, whose backslash form is JSON's own.
    return text.encode(errors="backslashreplace")


def manifest(
    files: Mapping[str, bytes],
    *,
    source: Mapping[str, object],
    options: Mapping[str, object],
    notes: Sequence[object],
    compiler: str = "",
) -> bytes:
    """Returns the contents of manifest.json.

    Args:
        files: name -> contents of everything else in the directory.
        source: name and SHA-256 of the model, and what it states of itself.
        options: of the conversion.
        notes: of the passes.
        compiler: name and version of the compiler whose bytes are among the files, e.g. "ethos-u-vela 5.2.0".
    """
    described = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in sorted(files.items())
    }
    return json_bytes(
        {
            "generator": "kwsq",
            "format": 1,
            "versions": versions(),
            **({"compiler": compiler} if compiler else {}),
            "source": dict(source),
            "options": dict(options),
            "files": described,
            "notes": list(notes),
        }
    )
