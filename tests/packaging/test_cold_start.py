"""`--help` answers without loading what only a conversion needs."""

import json
import sys
from pathlib import Path

import pytest
from checkout import run

HEAVY = ("ai_edge_litert", "keras", "onnx", "onnx_graphsurgeon", "onnxruntime", "tensorflow", "tf_keras")
PROGRAM = """
import importlib, json, sys
sys.argv = [{command!r}, "--help"]
try:
    getattr(importlib.import_module("kwsq.converter.cli"), {function!r})()
except SystemExit as end:
    code = end.code
print(json.dumps([code, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


def modules_loaded_by(command: str, function: str, cwd: Path) -> tuple[int | None, set[str]]:
    done = run(sys.executable, "-c", PROGRAM.format(command=command, function=function), cwd=cwd)
    assert done.returncode == 0, done.stderr
    code, names = json.loads(done.stdout.splitlines()[-1])
    return code, set(names)


@pytest.mark.parametrize(("command", "function"), [("kwsq-convert", "convert_main"), ("kwsq", "main")])
def test_help_loads_nothing_heavy(command: str, function: str, tmp_path: Path) -> None:
    code, names = modules_loaded_by(command, function, tmp_path)
    assert code in (0, None)
    assert "kwsq" in names, "the listing itself must work for its silence to mean anything"
    assert names.isdisjoint(HEAVY), sorted(names.intersection(HEAVY))
