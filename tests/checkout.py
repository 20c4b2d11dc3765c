"""The checkout as data: its rooms and packages, and clean copies for tests that build or break things."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("ir", "passes", "targets", "converter", "models")
# What a fresh clone does not have, and what a build does not read.
NOT_CLONED = (
    ".git",
    ".venv",
    ".typing",
    ".cache",
    "build",
    "dist",
    "out",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
)


def pyproject(root: Path = ROOT) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def declared_packages(root: Path = ROOT) -> set[str]:
    return set(pyproject(root)["tool"]["setuptools"]["packages"])


def package_directories(root: Path = ROOT) -> dict[str, Path]:
    """Every folder of the rooms that holds Python files, by import name."""
    found = {}
    for room in ROOMS:
        for module in (root / room).rglob("*.py"):
            folder = module.parent
            found[".".join(("kwsq", *folder.relative_to(root).parts))] = folder
    return found


def package_files(folder: Path) -> list[Path]:
    """Every file of a package, those of its folders without Python files included."""
    found = []
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".pyc":
            found.append(path)
        elif path.is_dir() and path.name != "__pycache__" and not any(path.rglob("*.py")):
            found += package_files(path)
    return found


def copy_of_checkout(destination: Path) -> Path:
    shutil.copytree(ROOT, destination, ignore=shutil.ignore_patterns(*NOT_CLONED))
    return destination


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command away from the checkout's own paths; the caller judges the return code."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, "PYTHONSAFEPATH": "1", **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def script(name: str) -> Path:
    """A console script of the environment that runs the tests."""
    return Path(sys.executable).parent / name


def benchmark(name: str) -> Any:
    """A program of benchmarks/ as a module: the folder is no package."""
    spec = spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
