"""pytest's fixture `assert_parity`: a test that the committed artefact is still the model it was made from.

    def test_release(assert_parity):
        assert_parity("models/wake.onnx", "release/model.tflite")

Registered as a pytest plugin by the package's metadata. kwsq itself is imported by the first test that uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import pytest

Files = str | PathLike[str]


@pytest.fixture(scope="session")
def assert_parity() -> Callable[..., None]:
    """Return `assert_parity(source, artefact, **settings)`.

    It fails the test, naming the first differing tensor, unless the artefact computes what the source says; see
    `kwsq.converter.verify.verify` for the settings. An unusable file or a wrong setting is an error of its own kind.
    """

    def check(source: Files, artefact: Files, **settings: Any) -> None:
        from kwsq.converter.verify import failure_text, verify

        report = verify(Path(source), Path(artefact), **settings)
        if not report.passed:
            pytest.fail(f"{artefact} is not {source}:\n{failure_text(report)}", pytrace=False)

    return check
