"""The walls between the folders stand, and each falls when somebody breaks it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOMS, ROOT, copy_of_checkout, pyproject, run, script


def imported_modules(path: Path) -> Iterator[str]:
    """Every absolute module name that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def foreign_imports_of_ir(root: Path) -> set[str]:
    allowed = {"numpy", "kwsq", *sys.stdlib_module_names}
    used = {name.partition(".")[0] for path in (root / "ir").rglob("*.py") for name in imported_modules(path)}
    return used - allowed


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    links = root / ".typing" / "kwsq"
    links.mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        if not (links / room).is_symlink():
            (links / room).symlink_to(root / room, target_is_directory=True)
    return run(script("lint-imports"), "--no-cache", cwd=root, PYTHONPATH=str(links.parent))


def test_ir_imports_numpy_and_the_standard_library_only() -> None:
    assert foreign_imports_of_ir(ROOT) == set()


def test_the_independence_contract_lists_every_target() -> None:
    contracts = pyproject()["tool"]["importlinter"]["contracts"]
    (contract,) = (c for c in contracts if c["id"] == "targets-independent")
    targets = {f"kwsq.targets.{path.parent.name}" for path in (ROOT / "targets").glob("*/__init__.py")}
    assert set(contract["modules"]) == targets


def test_all_contracts_are_kept(tmp_path: Path) -> None:
    done = lint_imports(copy_of_checkout(tmp_path / "copy"))
    assert done.returncode == 0, done.stdout


BREACHES = [
    ("ir/breach.py", "from kwsq import passes", "Imports go down only"),
    ("passes/breach.py", "import kwsq.targets", "Imports go down only"),
    ("targets/breach.py", "import kwsq.converter", "Imports go down only"),
    ("converter/breach.py", "def late():\n    import kwsq.models", "Imports go down only"),
    ("models/breach.py", "import kwsq.passes", "models reaches the rest only through ir and converter"),
    ("models/quantizers/breach.py", "import kwsq.models.layers", "In models: what trains stands on what it trains"),
    ("models/layers/breach.py", "import kwsq.models.training", "In models: what trains stands on what it trains"),
    ("models/training/breach.py", "import kwsq.models.table", "In models: what trains stands on what it trains"),
    ("models/data/breach.py", "import kwsq.models.quantizers", "In models: what trains stands on what it trains"),
    ("ir/breach.py", "import onnx", "ir imports NumPy and the standard library only"),
    ("converter/breach.py", "def late():\n    import tensorflow", "TensorFlow is imported in models only"),
    ("targets/neon/breach.py", "import kwsq.targets.other", "Targets never import each other"),
]


@pytest.mark.parametrize(("path", "statement", "contract"), BREACHES)
def test_a_breach_is_reported_under_its_contract(tmp_path: Path, path: str, statement: str, contract: str) -> None:
    copy = copy_of_checkout(tmp_path / "copy")
    if "other" in statement:
        add_second_target(copy)
    (copy / path).write_text(f"{statement}\n", encoding="utf-8")
    done = lint_imports(copy)
    broken = [line for line in done.stdout.splitlines() if line.endswith("BROKEN")]
    assert done.returncode != 0
    assert any(line.startswith(contract) for line in broken), done.stdout


def add_second_target(copy: Path) -> None:
    (copy / "targets" / "other").mkdir()
    (copy / "targets" / "other" / "__init__.py").touch()
    settings = copy / "pyproject.toml"
    text = settings.read_text(encoding="utf-8")
    assert 'modules = ["kwsq.targets.neon"' in text
    text = text.replace('modules = ["kwsq.targets.neon"', 'modules = ["kwsq.targets.other", "kwsq.targets.neon"')
    settings.write_text(text, encoding="utf-8")


def test_a_foreign_import_that_no_contract_lists_is_noticed(tmp_path: Path) -> None:
    copy = copy_of_checkout(tmp_path / "copy")
    (copy / "ir" / "breach.py").write_text("import sklearn.cluster\n", encoding="utf-8")
    assert foreign_imports_of_ir(copy) == {"sklearn"}


# Distributions whose module has another name.
MODULE_OF = {"protobuf": "google", "ethos_u_vela": "ethosu"}


def declared_modules(*extras: str) -> set[str]:
    project = pyproject()["project"]
    optional = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    names = {re.split(r"[<>=]", line)[0].replace("-", "_") for line in requirements}
    return {MODULE_OF.get(name, name) for name in names}


def undeclared_imports(root: Path, room: str, declared: set[str]) -> set[str]:
    """Third-party modules a room imports that no dependency brings: here by luck, absent elsewhere."""
    known = {"kwsq", *declared, *sys.stdlib_module_names}
    used = {name.partition(".")[0] for path in (root / room).rglob("*.py") for name in imported_modules(path)}
    return used - known


@pytest.mark.parametrize("room", ROOMS)
def test_every_imported_library_is_a_declared_dependency(room: str) -> None:
    extras = {"models": ("train",), "targets": ("ethos-u", "tflm"), "converter": ("tflm", "parquet", "pytest")}
    assert undeclared_imports(ROOT, room, declared_modules(*extras.get(room, ()))) == set()


def test_an_undeclared_library_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "converter").mkdir()
    (tmp_path / "converter" / "breach.py").write_text("import onnx, requests\n", encoding="utf-8")
    assert undeclared_imports(tmp_path, "converter", declared_modules()) == {"requests"}
