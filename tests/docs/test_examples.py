"""Examples in docstrings and pages run; an example that nobody runs goes wrong."""

import doctest
import importlib
import sys
from pathlib import Path

import pytest
from checkout import ROOT, package_directories

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules_with_examples() -> list[str]:
    """Modules that show a `>>>`; models is left out because importing it may load TensorFlow."""
    return sorted(
        f"{package}.{path.stem}" if path.stem != "__init__" else package
        for package, folder in package_directories().items()
        for path in folder.glob("*.py")
        if not package.startswith("kwsq.models") and ">>> " in path.read_text(encoding="utf-8")
    )


def pages_with_examples() -> list[Path]:
    candidates = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    return sorted(page for page in candidates if ">>> " in page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples_run(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_page_examples_run() -> None:
    outcomes = {p.name: doctest.testfile(str(p), False, optionflags=OPTIONS) for p in pages_with_examples()}
    assert {name: outcome.failed for name, outcome in outcomes.items() if outcome.failed} == {}


def test_a_wrong_example_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong_example.py").write_text('"""\n>>> 1 + 1\n3\n"""\n', encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = doctest.testmod(importlib.import_module("wrong_example"), optionflags=OPTIONS)
    del sys.modules["wrong_example"]
    assert outcome.failed == 1
