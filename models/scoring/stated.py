"""What a model file states of its classes and features: an ONNX file itself, an artefact in the manifest beside it."""

import hashlib
import json
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from kwsq.converter.input_file import read_file
from kwsq.converter.output import MANIFEST
from kwsq.ir.errors import UsageError


def stated_by(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file, or of the model that an artefact was converted from.

    Nothing of files that cannot be read, which is left to what runs them, and of artefacts whose manifest is not beside
    them, is damaged or describes other bytes.
    """
    return _metadata(path) or _metadata_of_source(path)


def _metadata(path: Path) -> dict[str, str]:
    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)  # whatever its name ends with
    except (OSError, DecodeError):
        return {}
    return {entry.key: entry.value for entry in model.metadata_props}


def _metadata_of_source(path: Path) -> dict[str, str]:
    try:
        manifest = json.loads(read_file(path.parent / MANIFEST, "manifest"))
        described, metadata = manifest["files"][path.name]["sha256"], manifest["source"]["metadata"]
        if described == hashlib.sha256(read_file(path, "model")).hexdigest():
            return {key: value for key, value in metadata.items() if isinstance(value, str)}
    except (UsageError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        pass
    return {}
