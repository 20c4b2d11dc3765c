"""A sample repository that uses the action: models that pass, cost too much, got worse, or cannot be converted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from checkout import ROOT, copy_of_checkout, run
from cli_runs import TEXT, save
from composite_action import ActionRun, faults, load, run_action
from onnx import numpy_helper
from onnx_models import build, node
from qdq_models import Scheme, float_model, quantized, random_feeds, run_onnx

SCRIPT = ROOT / ".ci" / "action.sh"
CLIPS = 3000


def quantized_dense(*, damaged: bool = False) -> onnx.ModelProto:
    model = float_model(TEXT)
    if damaged:  # the classes of the last layer change places
        (last,) = (tensor for tensor in model.graph.initializer if tensor.name == "w2")
        last.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(last), 1, axis=1), "w2"))
    return quantized(model, random_feeds(model, 64), Scheme(weight_bits=4))


def labelled(folder: Path) -> None:
    """Inputs labelled by the float model: the approved network is good at them, the damaged one is not."""
    model = float_model(TEXT)
    feeds = random_feeds(model, CLIPS, seed=11)
    scores = np.concatenate([run_onnx(model, {"x": feeds["x"][i : i + 1]})["y"] for i in range(CLIPS)])
    np.savez(folder / "eval.npz", x=feeds["x"].astype(np.float32), y=scores.argmax(axis=1))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "repository"
    folder.mkdir()
    save(quantized_dense(), folder / "approved.onnx")
    save(quantized_dense(damaged=True), folder / "worse.onnx")
    nodes = [node("Det", ["x"], ["a"]), node("Det", ["x"], ["b"]), node("Add", ["a", "b"], ["y"])]
    save(build(nodes, inputs={"x": (1, 4, 4)}), folder / "unsupported.onnx")
    (folder / "broken.onnx").write_bytes((folder / "approved.onnx").read_bytes()[:-30])
    (folder / "tight.toml").write_text('[budget]\nflash_total = { max = "1KiB" }\n', encoding="utf-8")
    labelled(folder)
    return folder


def used(repository: Path, tmp_path: Path, **inputs: object) -> ActionRun:
    named = {name.replace("_", "-"): value for name, value in inputs.items()}
    named.setdefault("output", tmp_path / "report")
    return run_action(ROOT, repository, tmp_path / "runner", {"install": "false", **named})


def counts(done: ActionRun, part: str) -> dict[str, int]:
    """The totals JUnit readers show, checked against the elements they count."""
    suites = done.junit(part)
    assert suites.tag == "testsuites"
    (suite,) = suites
    kinds = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    found = {name: sum(case.find(tag) is not None for case in suite) for name, tag in kinds.items()}
    assert {name: int(suite.attrib[name]) for name in kinds} == found
    assert int(suite.attrib["tests"]) == len(suite) > 0
    assert all(case.get("classname") and case.get("name") for case in suite)
    return found


NOTHING = {"failures": 0, "errors": 0, "skipped": 0}


# ---- what the action is ----


def test_the_action_is_one_a_runner_takes() -> None:
    action = load(ROOT / "action.yml")
    assert faults(action) == []
    assert all("description" in entry for entry in (*action["inputs"].values(), *action["outputs"].values()))
    assert {"model", "target", "wbits", "calibration", "data", "config", "baseline", "args"} <= set(action["inputs"])


def _unpinned(action: dict[str, Any]) -> None:
    action["runs"]["steps"].append({"name": "new", "uses": "actions/upload-artifact@v4"})


def _injected(action: dict[str, Any]) -> None:
    action["runs"]["steps"][1]["run"] += " ${{ inputs.model }}"


def _without_shell(action: dict[str, Any]) -> None:
    del action["runs"]["steps"][0]["shell"]


def _misspelt(action: dict[str, Any]) -> None:
    action["runs"]["steps"][1]["env"]["INPUT_MODEL"] = "${{ inputs.absent }}"


def _lost_output(action: dict[str, Any]) -> None:
    del action["runs"]["steps"][1]["id"]


def _javascript(action: dict[str, Any]) -> None:
    action["runs"]["using"] = "node20"


@pytest.mark.parametrize("edit", [_unpinned, _injected, _without_shell, _misspelt, _lost_output, _javascript])
def test_every_fault_of_an_action_is_noticed(edit: Any) -> None:
    action = load(ROOT / "action.yml")
    edit(action)
    assert faults(action)


def test_the_script_reads_every_input_and_no_other() -> None:
    steps = load(ROOT / "action.yml")["runs"]["steps"]
    given = {name for step in steps for name in step["env"]}
    assert set(re.findall(r"INPUT_[A-Z_]+", SCRIPT.read_text(encoding="utf-8"))) - {"INPUT_"} == given


# ---- what it does ----


def test_a_good_model_passes(repository: Path, tmp_path: Path) -> None:
    done = used(repository, tmp_path, model="approved.onnx", wbits=4)
    assert (done.code, done.outputs["verdict"], done.outputs["exit-code"]) == (0, "pass", "0")
    assert counts(done, "conversion") == NOTHING
    assert done.summary.startswith("### ✅ approved")
    assert done.summary == Path(done.outputs["summary"]).read_text(encoding="utf-8")
    assert Path(done.outputs["report"]).is_file()
    assert (tmp_path / "report" / "conversion" / "model.tflite").is_file()
    assert done.outputs["gate-report"] == ""


def test_an_approved_model_passes_its_own_gate(repository: Path, tmp_path: Path) -> None:
    inputs = {"reference": "approved.onnx", "candidate": "approved.onnx", "data": "eval.npz"}
    done = used(repository, tmp_path, **inputs)
    assert (done.code, done.outputs["verdict"]) == (0, "pass")
    assert counts(done, "gate")["failures"] == 0
    assert "### ✅ PASS" in done.summary


def test_a_model_over_budget_fails(repository: Path, tmp_path: Path) -> None:
    done = used(repository, tmp_path, model="approved.onnx", config="tight.toml")
    assert (done.code, done.outputs["verdict"]) == (1, "fail")
    assert counts(done, "conversion")["failures"] >= 1
    assert "❌" in done.summary.splitlines()[0]
    assert "flash" in done.summary
    assert not (tmp_path / "report" / "conversion" / "model.tflite").exists()


def test_a_worse_model_fails_the_gate(repository: Path, tmp_path: Path) -> None:
    done = used(repository, tmp_path, model="worse.onnx", reference="approved.onnx", data="eval.npz")
    assert (done.code, done.outputs["verdict"]) == (1, "fail")
    assert counts(done, "conversion")["failures"] == 0, "it was converted faithfully"
    assert counts(done, "gate")["failures"] >= 1
    assert "### ❌ FAIL" in done.summary
    assert Path(done.outputs["gate-report"]).is_file()


def test_too_little_data_is_inconclusive(repository: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    label = np.arange(60) < 20
    for name in ("a", "b"):
        score = label * 2.0 + rng.normal(0, 1, 60)
        np.savez(
            tmp_path / f"{name}.npz", trial_id=np.arange(60), label=label.astype(int), duration=np.ones(60), score=score
        )
    done = used(repository, tmp_path, reference=tmp_path / "a.npz", candidate=tmp_path / "b.npz", data="eval.npz")
    assert (done.code, done.outputs["verdict"]) == (3, "inconclusive")
    warned = used(
        repository,
        tmp_path,
        reference=tmp_path / "a.npz",
        candidate=tmp_path / "b.npz",
        gate_args="--on-inconclusive\nwarn\n",
    )
    assert (warned.code, warned.outputs["verdict"]) == (0, "pass")


@pytest.mark.parametrize(
    ("inputs", "code", "verdict", "said"),
    [
        ({"model": "unsupported.onnx"}, 4, "unsupported", ("Det_a", "Det_b")),
        ({"model": "broken.onnx"}, 5, "invalid", ("not an ONNX model",)),
        ({"model": "absent.onnx"}, 2, "usage-error", ("absent.onnx",)),
        ({"model": "approved.onnx", "target": "gpu"}, 2, "usage-error", ("gpu",)),
        ({"model": "approved.onnx", "wbits": "four"}, 2, "usage-error", ("four",)),
        ({"model": "approved.onnx", "args": "--no-such-flag"}, 2, "usage-error", ("no-such-flag",)),
        ({"model": "approved.onnx", "config": "absent.toml"}, 2, "usage-error", ("absent.toml",)),
        ({"model": "approved.onnx", "baseline": "absent.json"}, 2, "usage-error", ("absent.json",)),
    ],
)
def test_a_refusal_names_its_reason_everywhere(
    repository: Path, tmp_path: Path, inputs: Mapping[str, str], code: int, verdict: str, said: tuple[str, ...]
) -> None:
    done = used(repository, tmp_path, **inputs)
    assert (done.code, done.outputs["verdict"], done.outputs["report"]) == (code, verdict, "")
    assert counts(done, "conversion") == {**NOTHING, "errors": 1}
    text = "".join(done.junit("conversion").itertext())
    assert all(word in text and word in done.summary and word in done.log for word in said)
    assert done.summary.startswith(f"### ❌ kwsq conversion: {verdict} (exit code {code})")


def test_nothing_to_do_is_a_usage_error(repository: Path, tmp_path: Path) -> None:
    for inputs in ({}, {"reference": "approved.onnx"}, {"model": "approved.onnx", "output": "a\nverdict=pass"}):
        done = used(repository, tmp_path, **inputs)
        assert (done.code, done.outputs) == (2, {"verdict": "usage-error", "exit-code": "2"})


# ---- what it does not let through ----


SHELL = ("$(touch hacked)", "`touch hacked`", "a; touch hacked", "' && touch hacked #", "--help")
ATTACKS = [(name, text) for name in ("model", "wbits", "calibration", "target", "args") for text in SHELL]


# --help as a further argument is one the user may give.
@pytest.mark.parametrize(("name", "text"), [attack for attack in ATTACKS if attack != ("args", "--help")])
def test_an_input_is_never_a_command(repository: Path, tmp_path: Path, name: str, text: str) -> None:
    done = used(repository, tmp_path, **{"model": "approved.onnx", name: text})
    assert (done.code, done.outputs["verdict"]) == (2, "usage-error")
    assert not (repository / "hacked").exists()


def test_a_models_names_reach_neither_the_runner_nor_the_markup(repository: Path, tmp_path: Path) -> None:
    hostile = build([node("Det", ["x"], ["y"])], inputs={"x": (1, 4, 4)})
    hostile.graph.node[0].name = "n\n::error::taken over</pre><script>&\x1b]0;x\x07\x00"
    save(hostile, tmp_path / "hostile.onnx")
    done = used(repository, tmp_path, model=tmp_path / "hostile.onnx")
    assert (done.code, counts(done, "conversion")["errors"]) == (4, 1)
    assert "<script" not in done.summary
    assert done.summary.count("</pre>") == 1
    lines = done.log.splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith("::stop-commands::"))
    token = lines[start].rpartition("::")[2]
    end = lines.index(f"::{token}::")
    assert not [line for line in (*lines[:start], *lines[end + 1 :]) if line.lstrip().startswith("::")]


@pytest.mark.parametrize(
    ("line", "changed", "noticed"),
    [
        ('    exit "$status"\n', "    exit 0\n", "code"),
        ("-e 's/</\\&lt;/g'", "", "xml"),
        ('        cat "$summary" >>"$GITHUB_STEP_SUMMARY"\n', "        :\n", "summary"),
        ('    set_output verdict "$(verdict_of "$status")"\n', "", "verdict"),
    ],
)
def test_a_script_that_loses_something_is_noticed(
    repository: Path, tmp_path: Path, line: str, changed: str, noticed: str
) -> None:
    root = tmp_path / "action"
    (root / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / "action.yml", root)
    text = SCRIPT.read_text(encoding="utf-8")
    assert text.count(line) == 1
    (root / ".ci" / "action.sh").write_text(text.replace(line, changed), encoding="utf-8")
    inputs = {"install": "false", "model": "approved.onnx", "output": str(tmp_path / "report"), "args": "--<b>\x02"}
    done = run_action(root, repository, tmp_path / "runner", inputs)
    found = []
    found += ["code"] * (done.code != 2)
    found += ["summary"] * ("usage-error" not in done.summary)
    found += ["verdict"] * (done.outputs.get("verdict") != "usage-error")
    try:
        done.junit("conversion")
    except ET.ParseError:
        found.append("xml")
    assert found == [noticed]


@pytest.mark.parametrize(
    "lost", ["", "{ iconv -f UTF-8 -t UTF-8 -c || true; } |", "LC_ALL=C tr -d '\\000-\\010\\013-\\037' |"]
)
def test_what_a_runtime_prints_before_it_dies_stays_readable(lost: str, tmp_path: Path) -> None:
    """A native library writes what it likes to stderr; a program in kwsq's place stands for one that crashed in it."""
    text = SCRIPT.read_text(encoding="utf-8")
    assert lost in text
    (tmp_path / "action.sh").write_text(text.replace(lost, "") if lost else text, encoding="utf-8")
    crash = tmp_path / "kwsq-convert"
    crash.write_text("#!/bin/sh\nprintf 'bad \\377 bytes \\002 & <signs> \\342\\202' >&2\nexit 139\n", encoding="utf-8")
    crash.chmod(0o755)
    variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "INPUT_MODEL": "m"}
    done = subprocess.run(["bash", "action.sh", "run"], cwd=tmp_path, env=variables, capture_output=True, check=False)
    assert done.returncode == 139
    first, *_, last = done.stdout.splitlines()
    assert last == b"::" + first.rpartition(b"::")[2] + b"::", "the runner takes commands again"
    written = tmp_path / "kwsq-report" / "junit-conversion.xml"
    if lost:
        with pytest.raises(ET.ParseError):
            ET.parse(written)
        return
    (error,) = ET.parse(written).getroot().iter("error")
    assert error.text == "bad  bytes  & <signs> "
    assert "internal-error (exit code 139)" in (tmp_path / "kwsq-report" / "summary.md").read_text(encoding="utf-8")


def test_an_earlier_run_does_not_answer_for_this_one(repository: Path, tmp_path: Path) -> None:
    first = used(repository, tmp_path, reference="approved.onnx", candidate="approved.onnx", data="eval.npz")
    assert Path(first.outputs["gate-report"]).is_file()
    second = used(repository, tmp_path, model="unsupported.onnx")
    assert (second.code, second.outputs["gate-report"], second.outputs["report"]) == (4, "", "")
    assert not (tmp_path / "report" / "junit-gate.xml").exists()


def test_an_interrupted_run_says_so(repository: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "INPUT_MODEL": "approved.onnx",
        "INPUT_OUTPUT": str(output),
        "INPUT_ARGS": "--inputs\n10000\n--intermediates",
        "GITHUB_OUTPUT": str(tmp_path / "outputs"),
    }
    with subprocess.Popen(
        ["bash", str(SCRIPT), "run"], cwd=repository, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
    ) as process:
        while not (output / "conversion.log").exists():
            time.sleep(0.02)
        time.sleep(0.4)
        os.killpg(process.pid, signal.SIGTERM)
    assert process.returncode in (143, -signal.SIGTERM)
    assert not (output / "conversion").exists()


@pytest.mark.packaging
def test_it_installs_itself(tmp_path: Path) -> None:
    """From a copy of the checkout, without a network: dependencies are those the machine has, which is none."""
    copy = copy_of_checkout(tmp_path / "action")
    scratch = tmp_path / "runner"
    scratch.mkdir()
    paths = {"RUNNER_TEMP": str(scratch), "GITHUB_PATH": str(scratch / "path"), "INPUT_PYTHON": sys.executable}
    refused = run("bash", copy / ".ci" / "action.sh", "install", cwd=tmp_path, PIP_NO_INDEX="1", **paths)
    assert (refused.returncode, "kwsq could not be installed" in refused.stderr) == (2, True)
    assert not (scratch / "path").exists()
    missing = run("bash", copy / ".ci" / "action.sh", "install", cwd=tmp_path, INPUT_PYTHON="no-such-python")
    assert (missing.returncode, "Python >= 3.11" in missing.stderr) == (2, True)
    bare = run("bash", copy / ".ci" / "action.sh", "install", cwd=tmp_path, INPUT_INSTALL="false", PATH="/usr/bin:/bin")
    assert (bare.returncode, "no kwsq-convert on PATH" in bare.stderr) == (2, True)
