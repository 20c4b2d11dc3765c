"""One run at a time in an output folder, and none where nothing can be written."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from keyword_cases import noise_recordings
from typer.testing import CliRunner

from kwsq.ir.errors import Problem, UsageError
from kwsq.models import cli
from kwsq.models.training.run_lock import LOCK, held_folder
from kwsq.models.training.watching import ignore_line

HOLDER = """
import sys, time
from pathlib import Path
from kwsq.models.training.run_lock import held_folder
with held_folder(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""
SHIPPED = Path(__file__).resolve().parents[3] / "models" / "kws_ff" / "recipe.toml"


def hold(folder: Path) -> None:
    with held_folder(folder, ignore_line):
        assert (folder / LOCK).exists()


def fail_in(folder: Path) -> None:
    with held_folder(folder, ignore_line):
        if folder.name == "worked":
            (folder / "cache").mkdir()
        raise UsageError(Problem("data", "wrong data", "right ones", "correct them"))


def test_a_second_run_is_refused_until_the_first_is_gone_however_it_goes(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=rf"{folder}: found another run at work; .* name another folder"):
            hold(folder)
        hold(tmp_path / "new" / "other")
        process.kill()
    hold(folder)
    hold(folder)


def test_the_program_leaves_the_files_of_the_first_run_alone(tmp_path: Path) -> None:
    data = noise_recordings(tmp_path / "data", "gsc12", [("yes", "train"), ("yes", "val")])
    out = tmp_path / "out" / "kws_ff"
    with held_folder(out, ignore_line):
        arguments = ["train", str(SHIPPED), "--data", str(data), "--out", str(tmp_path / "out")]
        shown = CliRunner().invoke(cli.app, arguments)
    assert shown.exit_code == 2
    assert f"{out}: found another run at work" in shown.output
    assert [path.name for path in out.iterdir()] == [LOCK]


def test_a_run_that_fails_before_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    made, kept = tmp_path / "made" / "out", tmp_path / "kept"
    kept.mkdir()
    for folder in (made, kept, tmp_path / "worked"):
        with pytest.raises(UsageError, match="wrong data"):
            fail_in(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "worked"]
    assert sorted(path.name for path in (tmp_path / "worked").iterdir()) == ["cache", LOCK]


def test_what_a_killed_run_left_half_written_is_gone(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    names = (".metrics.json.12.partial", "state/.w4-stage1.npz.7.partial", "kept.partial", "state/.kept")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    hold(tmp_path)
    assert [name for name in names if (tmp_path / name).exists()] == ["kept.partial", "state/.kept"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "in_it"):
        with pytest.raises(UsageError, match=rf"{folder}: found .* expected a folder that can be written"):
            hold(folder)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"


def test_a_file_system_without_locks_is_said_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    lines: list[str] = []
    with held_folder(tmp_path, lines.append):
        assert len(lines) == 1
    assert lines[0].startswith(f"{tmp_path}: no locks here (No locks available)")
