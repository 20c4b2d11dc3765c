"""action.yml run as a runner runs it: inputs become variables of a step, its text goes to bash, files come back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

BASH = ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c")
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


@dataclass(frozen=True)
class ActionRun:
    """What one use of the action left.

    Args:
        code: exit status of the step that failed, else 0.
        outputs: of the action.
        summary: what the job page would show.
        log: stdout and stderr of all steps.
        workspace: the caller's checkout.
    """

    code: int
    outputs: Mapping[str, str]
    summary: str
    log: str
    workspace: Path

    def junit(self, part: str) -> ET.Element:
        return ET.parse(self.workspace / self.outputs["directory"] / f"junit-{part}.xml").getroot()


def load(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def faults(action: Mapping[str, Any]) -> list[str]:
    """What a runner would refuse, or what would let an input become a command."""
    found = []
    if action.get("runs", {}).get("using") != "composite":
        found.append("runs.using is not composite")
    for step in action.get("runs", {}).get("steps", ()):
        name = step.get("name", step.get("uses", "?"))
        if "uses" in step and not (step["uses"].startswith("./") or PINNED.fullmatch(step["uses"])):
            found.append(f"{name}: {step['uses']} is not pinned by a full commit hash")
        if "run" in step and "shell" not in step:
            found.append(f"{name}: no shell")
        if EXPRESSION.search(step.get("run", "")):
            found.append(f"{name}: an expression inside a script")
        for variable, value in step.get("env", {}).items():
            named = re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", value)
            if named is None or named[1] not in action["inputs"]:
                found.append(f"{name}: {variable} is not an input")
    ids = {step.get("id") for step in action.get("runs", {}).get("steps", ())}
    for name, output in action.get("outputs", {}).items():
        named = re.fullmatch(r"\$\{\{ steps\.(\w+)\.outputs\.([\w-]+) \}\}", output["value"])
        if named is None or named[1] not in ids or named[2] != name:
            found.append(f"output {name} comes from no step")
    return found


def run_action(root: Path, workspace: Path, scratch: Path, inputs: Mapping[str, object]) -> ActionRun:
    """Run every step in `workspace`, with kwsq of this environment on PATH; stops at the first that fails."""
    action = load(root / "action.yml")
    unknown = set(inputs) - set(action["inputs"])
    assert not unknown, f"no such inputs: {unknown}"
    values = {name: str(inputs.get(name, spec["default"])) for name, spec in action["inputs"].items()}
    scratch.mkdir(parents=True, exist_ok=True)
    files = {name: scratch / name for name in ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
    for path in files.values():
        path.write_text("", encoding="utf-8")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "INPUT_", "PYTHON"))}
    base = {
        **inherited,
        **{name: str(path) for name, path in files.items()},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_ACTION_PATH": str(root),
        "RUNNER_TEMP": str(scratch),
        "CI": "true",
    }
    code, log = 0, ""
    for step in action["runs"]["steps"]:
        variables = {k: EXPRESSION.sub(lambda m: values[m[1].strip()[7:]], v) for k, v in step["env"].items()}
        done = subprocess.run(
            [*BASH, step["run"]],
            cwd=workspace,
            env={**base, **variables},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        code, log = done.returncode, log + done.stdout + done.stderr
        if code:
            break
    lines = files["GITHUB_OUTPUT"].read_text(encoding="utf-8").splitlines()
    outputs = dict(line.partition("=")[::2] for line in lines)
    return ActionRun(code, outputs, files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8"), log, workspace)
