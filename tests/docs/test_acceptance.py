"""The acceptance list names commands whose files exist; a moved test must not leave its line behind."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace

from checkout import ROOT, benchmark

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


def test_of_a_written_page_only_what_was_not_asked_again_is_kept() -> None:
    run = benchmark("acceptance")
    a, b, c, d = (run.Line(*line, "(1)") for line in (("a", "x one"), ("b", "x two"), ("c", "y"), ("d", "x")))
    b_last, c_last = run.Outcome("2", "yes"), run.Outcome("3", "yes")
    # The page lacks the line "d", and shows another command for "a".
    written = run.page([(replace(a, command="x zero"), b_last), (b, b_last), (c, c_last)])
    assert run.kept_outcomes([a, b, c, d], written, "y") == {"b": b_last}
    assert run.kept_outcomes([a, b, c, d], written, "two") == {"c": c_last}
    assert run.kept_outcomes([a, b, c, d], written, "nowhere") == {"b": b_last, "c": c_last}


def test_no_claim_is_made_twice() -> None:
    claims = [line["claim"] for line in LINES]
    assert len(claims) == len(set(claims))
