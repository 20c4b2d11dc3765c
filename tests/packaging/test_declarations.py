"""pyproject.toml says what the folders are: a package it forgets works here and is gone from the wheel."""

import ast
import re
from pathlib import Path

import pytest
from checkout import ROOMS, ROOT, copy_of_checkout, declared_packages, package_directories, package_files, pyproject


def undeclared(root: Path) -> set[str]:
    return set(package_directories(root)) - declared_packages(root)


def unshipped_data(root: Path) -> set[str]:
    """Files in a package's folder that no package-data pattern of that package matches."""
    patterns = pyproject(root)["tool"]["setuptools"]["package-data"]
    left = set()
    for name, folder in package_directories(root).items():
        wanted = [*patterns.get("*", ()), *patterns.get(name, ())]
        for path in package_files(folder):
            if path.suffix != ".py" and not any(path.match(pattern) for pattern in wanted):
                left.add(path.relative_to(root).as_posix())
    return left


def test_every_package_directory_is_declared() -> None:
    assert undeclared(ROOT) == set(), "add it to [tool.setuptools] packages in pyproject.toml"


def test_every_declared_package_exists() -> None:
    assert declared_packages() - set(package_directories()) == set()


def test_every_package_has_an_init_file() -> None:
    without = [name for name, folder in package_directories().items() if not (folder / "__init__.py").is_file()]
    assert without == []


def test_every_room_is_typed() -> None:
    assert [room for room in ROOMS if not (ROOT / room / "py.typed").is_file()] == []


def test_every_data_file_of_a_package_is_shipped() -> None:
    assert unshipped_data(ROOT) == set(), "add a pattern to [tool.setuptools.package-data]"


def test_neither_file_that_reopens_the_root_path_exists() -> None:
    reopening = [ROOT / "conftest.py", ROOT / "tests" / "__init__.py", ROOT / "__init__.py", ROOT / "kwsq"]
    assert [path for path in reopening if path.exists()] == []


def test_a_forgotten_package_and_a_forgotten_data_file_are_noticed(tmp_path: Path) -> None:
    copy = copy_of_checkout(tmp_path / "copy")
    assert undeclared(copy) == undeclared(ROOT)
    (copy / "passes" / "ghost").mkdir()
    (copy / "passes" / "ghost" / "rule.py").touch()
    (copy / "ir" / "table.csv").touch()
    (copy / "targets" / "accel" / "csource" / "notes.txt").touch()
    assert "kwsq.passes.ghost" in undeclared(copy)
    assert {"ir/table.csv", "targets/accel/csource/notes.txt"} <= unshipped_data(copy)


@pytest.mark.parametrize("command", ["kwsq", "kwsq-convert"])
def test_each_script_names_a_function_that_exists(command: str) -> None:
    module, _, function = pyproject()["project"]["scripts"][command].partition(":")
    path = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ]", requirement, maxsplit=1)[0] for requirement in requirements}


def explained_names(page: str) -> dict[str, set[str]]:
    """The names of docs/dependencies.md by the heading they stand under."""
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    return {s.splitlines()[0]: set(re.findall(r"^- `([\w-]+)`: \S", s, flags=re.MULTILINE)) for s in sections}


def test_every_dependency_has_its_reason() -> None:
    project = pyproject()["project"]
    declared = {"Core": requirement_names(project["dependencies"])}
    for extra, requirements in project["optional-dependencies"].items():
        declared[f"Extra `{extra}`"] = requirement_names(requirements)
    explained = explained_names((ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8"))
    explained.pop("System packages")
    assert explained == declared


def test_core_brings_no_training_framework() -> None:
    assert not requirement_names(pyproject()["project"]["dependencies"]) & {"tensorflow", "tf-keras", "torch"}
