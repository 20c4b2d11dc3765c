"""A sample repository under the action's own shell: exit code, job summary, JUnit and outputs of four releases."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from checkout import ROOT
from cli_runs import quantized_dense

SCRIPT = ROOT / ".github" / "action" / "gate.sh"
ACTION = (ROOT / "action.yml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Job:
    """What one run of the action left."""

    code: int
    summary: str
    outputs: dict[str, str]
    suites: list[ET.Element]
    log: str


def run(repository: Path, **inputs: str) -> Job:
    """Run the action's second step in a repository, as GitHub would."""
    summary, outputs = repository / "summary.md", repository / "outputs.txt"
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(repository),
        "CI": "true",
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_OUTPUT": str(outputs),
        **{name: value for name, value in os.environ.items() if name in ("PYTHONPATH", "PYTHONSAFEPATH")},
        **inputs,
    }
    done = subprocess.run(
        ["bash", str(SCRIPT)], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    lines = outputs.read_text().splitlines() if outputs.exists() else []
    suites = [ET.parse(path).getroot() for path in sorted(repository.glob("*.junit.xml"))]
    text = summary.read_text(encoding="utf-8") if summary.exists() else ""
    return Job(done.returncode, text, dict(line.split("=", 1) for line in lines), suites, done.stdout + done.stderr)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    quantized_dense(tmp_path)
    (tmp_path / "kwsq.toml").write_text("[budget]\nflash_total = { max = 100_000 }\n")
    return tmp_path


def scores(path: Path, shift: float, seed: int = 1) -> Path:
    """A score file: 2,000 keywords and 6,000 others, each keyword `shift` nearer to the others."""
    rng = np.random.default_rng(seed)
    label = np.arange(8000) < 2000
    score = rng.normal(np.where(label, 4.0 - shift, 0.0), 1.0)
    lines = [
        "trial_id,label,score",
        *(f"t{i},{int(y)},{s:.6f}" for i, (y, s) in enumerate(zip(label, score, strict=True))),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_passing_model(repository: Path) -> None:
    job = run(repository, KWSQ_MODEL="dense_w4.onnx", KWSQ_WBITS="4")
    assert job.code == 0, job.log
    assert job.summary.startswith("### ✅ dense")
    assert job.outputs == {
        "verdict": "pass", "exit-code": "0", "directory": "kwsq-out", "junit": "kwsq-out.junit.xml"
    }  # fmt: skip
    assert (repository / "kwsq-out" / "model.tflite").is_file()
    (suite,) = job.suites
    assert suite.get("failures") == "0"
    assert any(case.get("name") == "flash_total" for case in suite.iter("testcase"))


def test_an_over_budget_model(repository: Path) -> None:
    (repository / "kwsq.toml").write_text("[budget]\nflash_total = { max = 100 }\n")
    job = run(repository, KWSQ_MODEL="dense_w4.onnx", KWSQ_WBITS="4")
    assert job.code == 1, job.log
    assert job.outputs["verdict"] == "fail"
    assert "### ❌" in job.summary
    assert not (repository / "kwsq-out" / "model.tflite").exists()
    (suite,) = job.suites
    failed = {case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None}
    assert failed == {"verdict", "flash_total"}


def test_a_worse_model(repository: Path) -> None:
    """The candidate's scores are a whole standard deviation nearer to the other words."""
    scores(repository / "old.csv", 0.0)
    scores(repository / "new.csv", 1.0)
    inputs = {"KWSQ_MODEL": "dense_w4.onnx", "KWSQ_REFERENCE": "old.csv", "KWSQ_CANDIDATE": "new.csv"}
    job = run(repository, **inputs)
    assert job.code == 1, job.log
    assert job.outputs["verdict"] == "fail"
    assert "### ✅ dense" in job.summary
    assert "### ❌ FAIL" in job.summary
    conversion, gate = sorted(job.suites, key=lambda suite: suite.get("failures") or "")
    assert conversion.get("failures") == "0"
    assert int(gate.get("failures") or 0) > 0


def test_an_equal_model_passes_the_second_gate(repository: Path) -> None:
    scores(repository / "old.csv", 0.0)
    job = run(repository, KWSQ_MODEL="dense_w4.onnx", KWSQ_REFERENCE="old.csv", KWSQ_CANDIDATE="old.csv")
    assert job.code == 0, job.log
    assert job.outputs["verdict"] == "pass"


def test_an_unsupported_model(repository: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) { y = Erf(x) }'
    )
    onnx.save(model, repository / "odd.onnx")
    job = run(repository, KWSQ_MODEL="odd.onnx")
    assert job.code == 4, job.log
    assert job.outputs["verdict"] == "refused"
    assert "exit code 4" in job.summary
    assert "Erf" in job.summary
    (suite,) = job.suites
    assert suite.get("failures") == "1"
    assert "Erf" in "".join(suite.itertext())
    assert not (repository / "kwsq-out").exists()


def test_inputs_are_never_shell(repository: Path) -> None:
    evil = "$(touch pwned);`touch pwned`;\"'<b>.onnx"
    job = run(repository, KWSQ_MODEL=evil, KWSQ_ARGUMENTS="--seed $(touch${IFS}pwned) *")
    assert job.code == 2, job.log
    assert not (repository / "pwned").exists()
    assert "<b>" not in job.summary
    assert len(job.suites) == 1


def test_arguments_are_words(repository: Path) -> None:
    job = run(repository, KWSQ_MODEL="dense_w4.onnx", KWSQ_ARGUMENTS="--wbits 4  --strip-names", KWSQ_OUTPUT="a/b c")
    assert job.code == 0, job.log
    assert (repository / "a" / "b c" / "model.tflite").is_file()


# ---- the metadata ----


def steps() -> list[str]:
    """The steps of the action, each as text."""
    body = ACTION.split("  steps:\n", 1)[1].split("\nbranding:", 1)[0]
    return re.split(r"^    - ", body, flags=re.MULTILINE)[1:]


def test_every_step_is_shell_without_interpolation() -> None:
    assert "using: composite" in ACTION
    assert len(steps()) == 2
    for step in steps():
        assert "shell: bash" in step
        assert "uses:" not in step
        assert "${{" not in step.split("run:", 1)[1]


def test_every_input_reaches_the_script_and_every_output_comes_from_it() -> None:
    declared = set(re.findall(r"^  ([a-z-]+):$", ACTION.split("\noutputs:")[0].split("\ninputs:")[1], re.MULTILINE))
    assert declared == set(re.findall(r"inputs\.([a-z-]+)", ACTION))
    script = SCRIPT.read_text(encoding="utf-8")
    for variable in re.findall(r"(KWSQ_[A-Z_]+): ", ACTION):
        assert variable == "KWSQ_PYTHON" or variable in script
    for name in re.findall(r"steps\.gate\.outputs\.([a-z-]+)", ACTION):
        assert f'echo "{name}=' in script


def test_the_action_needs_what_a_checkout_has() -> None:
    assert 'bash "$GITHUB_ACTION_PATH/.github/action/gate.sh"' in ACTION
    tracked: Any = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, check=False)
    assert tracked.returncode == 0, tracked.stderr
