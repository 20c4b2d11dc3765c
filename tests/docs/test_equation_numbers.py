"""Every equation number that the code cites exists in docs/quantization.md, and each is defined once."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("ir", "passes", "targets", "converter", "models")


def defined(text: str) -> list[str]:
    """Return the numbers that stand at the end of an indented line."""
    return re.findall(r"^ {4}.*\((\d+[a-z]?)\)$", text, flags=re.MULTILINE)


def cited(text: str) -> set[str]:
    """Return the numbers on every line that names the page."""
    lines = [line.split("quantization.md", 1)[1] for line in text.splitlines() if "quantization.md" in line]
    return {number for line in lines for number in re.findall(r"\((\d+[a-z]?)\)", line)}


def unknown(citations: set[str], numbers: list[str]) -> set[str]:
    """Return citations without an equation; (14) stands for (14a) and (14b) together."""
    known = set(numbers) | {number.rstrip("ab") for number in numbers}
    return citations - known


def test_every_cited_equation_exists() -> None:
    numbers = defined((ROOT / "docs" / "quantization.md").read_text(encoding="utf-8"))
    assert len(numbers) > 30
    assert len(numbers) == len(set(numbers))
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    wrong = {str(path): unknown(cited(path.read_text(encoding="utf-8")), numbers) for path in sources}
    assert not {path: missing for path, missing in wrong.items() if missing}


def test_the_check_can_fail() -> None:
    numbers = defined("    a = b   (1)\n    c = d   (2a)\nprose (9)\n")
    assert numbers == ["1", "2a"]
    assert unknown(cited("Source: x; docs/quantization.md (1), (2), (7)."), numbers) == {"7"}
