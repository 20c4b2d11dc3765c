"""The wheel, built through the sdist from a clean copy and installed elsewhere, is the product."""

import shutil
import site
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkout import copy_of_checkout, declared_packages, package_directories, package_files, run, script

pytestmark = pytest.mark.packaging


@dataclass(frozen=True, slots=True)
class Installed:
    """A clean environment that holds the wheel, and an empty folder to work in."""

    python: Path
    elsewhere: Path

    def script(self, name: str) -> Path:
        return self.python.with_name(name)


def clean_environment(folder: Path) -> Path:
    """An environment without kwsq that borrows the outer one's libraries: fast, and needs no network.

    A .pth line adds the outer folder to the path without reading that folder's own .pth files, so the
    editable install's import hook stays out.
    """
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    outer = [path for path in site.getsitepackages() if Path(path).is_dir()]
    Path(purelib, "outer.pth").write_text("\n".join(outer) + "\n", encoding="utf-8")
    return python


def pip_install(python: Path, *what: str | Path) -> None:
    done = run(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index",
        "--no-build-isolation", "--force-reinstall", *what, cwd=python.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def build(source: Path, out: Path) -> Path:
    """Build sdist, then the wheel from that sdist."""
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=source.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with the trap laid: a stale build/ that still holds a removed package."""
    copy = copy_of_checkout(tmp_path_factory.mktemp("source") / "kwsq")
    stale = copy / "build" / "lib" / "kwsq" / "removed"
    stale.mkdir(parents=True)
    (stale / "__init__.py").touch()
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    python = clean_environment(folder / "env")
    pip_install(python, wheel)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    return Installed(python, elsewhere)


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def names_expected(source: Path) -> set[str]:
    names = set()
    for name, folder in package_directories(source).items():
        paths = (path.relative_to(folder).as_posix() for path in package_files(folder))
        names |= {f"{name.replace('.', '/')}/{path}" for path in paths}
    return names


def test_the_wheel_holds_exactly_the_rooms(wheel: Path, source: Path) -> None:
    assert names_in(wheel) == names_expected(source)


def test_the_wheel_carries_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))
        assert b"Version 2.0, January 2004" in archive.read(licence)


def check_wheel_contents(wheel: Path, source: Path) -> subprocess.CompletedProcess[str]:
    return run(script("check-wheel-contents"), "--config", source / "pyproject.toml", wheel, cwd=wheel.parent)


def test_the_wheel_passes_check_wheel_contents(wheel: Path, source: Path) -> None:
    done = check_wheel_contents(wheel, source)
    assert done.returncode == 0, done.stdout


def test_a_wheel_with_a_plain_models_package_is_refused(source: Path, tmp_path: Path) -> None:
    spoilt = shutil.copytree(source, tmp_path / "kwsq")
    settings = spoilt / "pyproject.toml"
    text = settings.read_text(encoding="utf-8")
    assert "packages = [" in text
    settings.write_text(text.replace("packages = [", 'packages = ["models", ', 1), encoding="utf-8")
    wheel = build(spoilt, tmp_path / "dist")
    done = check_wheel_contents(wheel, spoilt)
    assert done.returncode != 0
    assert "W202" in done.stdout, done.stdout  # an entry at the top that is not in `toplevel`
    assert names_in(wheel) != names_expected(spoilt)


def test_every_package_imports_from_the_installed_wheel(installed: Installed) -> None:
    names = sorted(declared_packages())
    program = f"import importlib as i; print(*(i.import_module(n).__file__ for n in {names}), sep='\\n')"
    done = run(installed.python, "-c", program, cwd=installed.elsewhere)
    assert done.returncode == 0, done.stderr
    environment = installed.python.parents[1].resolve()
    assert all(Path(line).resolve().is_relative_to(environment) for line in done.stdout.splitlines())


@pytest.mark.parametrize("command", ["kwsq", "kwsq-convert"])
def test_each_script_runs_from_another_directory(installed: Installed, command: str) -> None:
    done = run(installed.script(command), "--help", cwd=installed.elsewhere)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_installed_command_converts_the_bundled_model(installed: Installed) -> None:
    program = "from importlib.resources import files; print(files('kwsq.models.kws_ff') / 'kws_ff_w4.onnx')"
    model = run(installed.python, "-c", program, cwd=installed.elsewhere).stdout.strip()
    done = run(
        installed.script("kwsq-convert"), model, "--target", "neon", "--wbits", "4", "-o", "out",
        cwd=installed.elsewhere,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (installed.elsewhere / "out").iterdir()}
    assert {"model.tflite", "report.json", "report.html", "manifest.json"} <= written


def test_an_editable_install_sees_the_checkout_and_new_modules(source: Path, tmp_path: Path) -> None:
    python = clean_environment(tmp_path / "env")
    checkout = shutil.copytree(source, tmp_path / "kwsq")
    pip_install(python, "--editable", checkout)
    (checkout / "passes" / "written_later.py").write_text("answer = 42\n", encoding="utf-8")
    program = "import kwsq.passes.written_later as m; print(m.__file__, m.answer)"
    done = run(python, "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(checkout / "passes" / "written_later.py"), "42"]
