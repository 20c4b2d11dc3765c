"""The acceptance list names commands whose files exist; a moved test must not leave its line behind."""

from __future__ import annotations

import re
import tomllib

from checkout import ROOT

LINES = tomllib.loads((ROOT / "benchmarks" / "acceptance.toml").read_text(encoding="utf-8"))["line"]


def missing(command: str) -> list[str]:
    """The files and folders a command names that are not in the checkout."""
    named = re.findall(r"(?:tests|benchmarks)/[\w./-]*\w", command)
    return [path for path in named if not (ROOT / path).exists()]


def test_every_command_names_what_is_there() -> None:
    assert {line["command"]: missing(line["command"]) for line in LINES if missing(line["command"])} == {}


def test_a_moved_file_is_noticed() -> None:
    assert missing("pytest -q tests/docs/test_acceptance.py tests/gone.py -m slow") == ["tests/gone.py"]


def test_every_figure_has_one_group() -> None:
    assert all(re.compile(line["figure"]).groups == 1 for line in LINES)


def test_no_claim_is_made_twice() -> None:
    claims = [line["claim"] for line in LINES]
    assert len(claims) == len(set(claims))
