"""docs/schedule_trials.md is what the benchmark prints of the committed trials."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "benchmarks" / "schedule_trials.py"


def printed(root: Path) -> str:
    command = [sys.executable, str(root / "benchmarks" / PROGRAM.name), "--page"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_page_states_every_finished_trial() -> None:
    page = (ROOT / "docs" / "schedule_trials.md").read_text(encoding="utf-8")
    assert page == printed(ROOT)
    finished = (ROOT / "docs" / "schedule_trials.jsonl").read_text(encoding="utf-8").count("\n")
    assert page.count("\n| ") == 1 + finished > 40


def test_another_result_gives_another_page(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "models").symlink_to(ROOT / "models")
    for file in (PROGRAM, PROGRAM.with_suffix(".toml"), ROOT / "docs" / "schedule_trials.jsonl"):
        text = file.read_text(encoding="utf-8").replace('"in_noise": 50.42', '"in_noise": 93.21')
        (tmp_path / file.relative_to(ROOT)).write_text(text, encoding="utf-8")
    lines = set(printed(tmp_path).splitlines()) ^ set(printed(ROOT).splitlines())
    assert {line.split(" | ")[-1] for line in lines} == {"50.42 |", "93.21 |"}
