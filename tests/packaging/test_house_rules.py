"""Sizes and names that keep the code readable; the linter has no rule for these."""

import ast
from collections.abc import Iterator
from pathlib import Path

from checkout import ROOMS, ROOT

FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
# Only the command line turns an unforeseen exception into an exit code.
MAY_CATCH_EVERYTHING = {"converter/cli_outcome.py"}


def source_files(root: Path) -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((root / room).rglob("*.py"))


def findings(root: Path) -> list[str]:
    found = []
    for path in source_files(root):
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8")
        found += [f"{name}: {fault}" for fault in faults_of_file(path, text)]
        found += [f"{name}:{line}: {fault}" for line, fault in faults_of_code(ast.parse(text), name)]
    return found


def faults_of_file(path: Path, text: str) -> Iterator[str]:
    lines = text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{lines} lines, at most {FILE_LINES_MAX}: split it by topic"
    if VAGUE_NAMES & {path.stem, path.parent.name}:
        yield "a name that says nothing: name the topic"


def faults_of_code(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"
        elif isinstance(node, ast.ExceptHandler) and name not in MAY_CATCH_EVERYTHING and catches_everything(node):
            yield node.lineno, "catches every exception: name the ones expected"


def catches_everything(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or (
        isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
    )


def test_the_house_rules_hold() -> None:
    assert findings(ROOT) == []


def test_each_rule_can_fail(tmp_path: Path) -> None:
    (tmp_path / "ir").mkdir()
    (tmp_path / "ir" / "utils.py").write_text("x = 1\n" * 401, encoding="utf-8")
    body = "    x = 1\n" * 60
    swallow = "try:\n    pass\nexcept Exception:\n    pass\n"
    (tmp_path / "ir" / "long.py").write_text(f"def f():\n{body}{swallow}", encoding="utf-8")
    assert [line.partition(": ")[2].partition(" ")[0] for line in findings(tmp_path)] == [
        "f",
        "catches",
        "401",
        "a",
    ]
