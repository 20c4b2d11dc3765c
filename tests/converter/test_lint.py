"""`kwsq lint`: one line per problem, the exit code of the conversion it stands for, and nothing heavy loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import yaml
from checkout import ROOT, run, script
from cli_runs import float_dense, kwsq, kwsq_convert, quantized_dense, save
from onnx_models import build, node
from qdq_models import Scheme, float_model, quantized, random_feeds

BUNDLED = ROOT / "models" / "kws_ff" / "kws_ff_w4.onnx"
RUNTIMES = ("ai_edge_litert", "onnxruntime", "tensorflow")
SOFTMAX = """(float[1,12] x, float[12,4] w1, float[4] b1) => (float[1,4] y)
{ h = Gemm(x, w1, b1) y = Softmax(h) }"""


def unsupported(folder: Path) -> Path:
    nodes = [node("Det", ["x"], ["a"]), node("Det", ["x"], ["b"])]
    return save(build([*nodes, node("Add", ["a", "b"], ["y"])], inputs={"x": (1, 4, 4)}), folder / "det.onnx")


def broken(folder: Path) -> Path:
    path = folder / "broken.onnx"
    path.write_bytes(quantized_dense(folder).read_bytes()[:-40])
    return path


def hook() -> dict[str, object]:
    (entry,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert isinstance(entry, dict)
    return entry


def test_models_that_convert_pass_silently_under_quiet(tmp_path: Path) -> None:
    models = [shutil.copy(BUNDLED, tmp_path), float_dense(tmp_path)]
    outcome = kwsq("lint", *models)
    assert outcome.code == 0
    assert [line.removeprefix(f"{tmp_path}/") for line in outcome.stdout.splitlines()] == [
        "kws_ff_w4.onnx: ok",
        "float.onnx: ok (a float model: converting it needs --calibration)",
    ]
    assert kwsq("lint", "--quiet", *models).stdout == ""


def test_every_offending_node_of_every_file_has_its_line(tmp_path: Path) -> None:
    bad = unsupported(tmp_path)
    outcome = kwsq("lint", bad, BUNDLED, tmp_path / "absent.onnx")
    lines = outcome.stdout.splitlines()
    assert outcome.code == 4
    assert [("Det_a" in line, "Det_b" in line) for line in lines[:2]] == [(True, False), (False, True)]
    assert all(line.startswith(f"{bad}: error: ") and "expected" in line for line in lines[:2])
    assert lines[2] == f"{BUNDLED}: ok"
    assert "absent.onnx: error: " in lines[3]


@pytest.mark.parametrize("make", [unsupported, broken, quantized_dense])
def test_the_exit_code_is_that_of_the_conversion(make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = make(tmp_path)  # type: ignore[operator]
    assert kwsq("lint", model).code == kwsq_convert(model, "--target", "neon").code


def test_a_git_lfs_pointer_is_named_as_one(tmp_path: Path) -> None:
    pointer = tmp_path / "model.onnx"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8")
    outcome = kwsq("lint", pointer)
    assert (outcome.code, "git lfs pull" in outcome.stdout) == (2, True)


def test_symbolic_dimensions_want_a_shape(tmp_path: Path) -> None:
    model = float_model(SOFTMAX)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "features"
    path = save(model, tmp_path / "symbolic.onnx")
    assert kwsq("lint", path).code == 2
    assert kwsq("lint", path, "--shape", "x=1,12").code == 0


def test_probabilities_are_warned_of_and_logits_are_not(tmp_path: Path) -> None:
    model = float_model(SOFTMAX)
    probabilities = save(quantized(model, random_feeds(model, 16), Scheme(weight_bits=4)), tmp_path / "p.onnx")
    outcome = kwsq("lint", probabilities)
    assert (outcome.code, "warning: y: 8-bit probabilities saturate" in outcome.stdout) == (0, True)
    assert "warning" not in kwsq("lint", BUNDLED).stdout


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    nodes = [node("Det", ["x"], ["y"])]
    nodes[0].name = "\x1b[2Jnode\nsecond line"
    path = save(build(nodes, inputs={"x": (1, 4, 4)}), tmp_path / "escape.onnx")
    outcome = kwsq("lint", path)
    assert (outcome.code, outcome.stdout.count("\n"), "\x1b" in outcome.stdout) == (4, 1, False)


def test_json_holds_the_same_findings(tmp_path: Path) -> None:
    outcome = kwsq("lint", "--json", unsupported(tmp_path), float_dense(tmp_path))
    first, second = json.loads(outcome.stdout)["files"]
    assert outcome.code == 4
    assert [problem["op"] for problem in first["problems"]] == ["Det", "Det"]
    assert (second["exit_code"], second["problems"], second["needs_calibration"]) == (0, [], True)


@pytest.mark.parametrize("arguments", [[], ["--no-such-flag", "a.onnx"], ["--target", "gpu", "a.onnx"]])
def test_wrong_options_are_usage_errors(arguments: list[str]) -> None:
    assert kwsq("lint", *arguments).code == 2


def test_no_runtime_is_loaded(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom kwsq.converter.cli import main\n"
        f"sys.argv = ['kwsq', 'lint', {str(quantized_dense(tmp_path))!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"assert 'onnx' in sys.modules\nassert not [m for m in {RUNTIMES!r} if m in sys.modules], sorted(sys.modules)"
    )
    done = run(sys.executable, "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_hook_is_complete_and_matches_onnx_files_only() -> None:
    import re

    entry = hook()
    assert entry.keys() >= {"id", "name", "entry", "language", "files"}
    assert (entry["id"], entry["language"]) == ("kwsq-lint", "python")
    matched = [n for n in ("a.onnx", "models/b.onnx", "a.onnx.txt", "onnx") if re.search(str(entry["files"]), n)]
    assert matched == ["a.onnx", "models/b.onnx"]


def test_the_hooks_contract_with_pre_commit(tmp_path: Path) -> None:
    """Files as arguments, non-zero exactly when one is bad, no file changed."""
    program, *arguments = str(hook()["entry"]).split()
    assert program == "kwsq"
    good, bad = quantized_dense(tmp_path), unsupported(tmp_path)
    before = {path: path.read_bytes() for path in (good, bad)}
    passed = run(script("kwsq"), *arguments, str(good), cwd=tmp_path)
    failed = run(script("kwsq"), *arguments, str(good), str(bad), cwd=tmp_path)
    assert (passed.returncode, passed.stdout) == (0, "")
    assert (failed.returncode, failed.stdout.count("\n")) == (4, 2)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.skipif(shutil.which("pre-commit") is None, reason="pre-commit is not installed")
def test_pre_commit_itself_runs_the_hook(tmp_path: Path) -> None:
    """With the hook's own entry as a system hook: pre-commit would otherwise install kwsq from the network."""
    local = {**hook(), "language": "system", "entry": f"{script('kwsq')} lint --quiet"}
    config = {"repos": [{"repo": "local", "hooks": [local]}]}
    (tmp_path / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    quantized_dense(tmp_path)

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)

    command("git", "init", "-q")
    command("git", "add", "-A")
    passed = command("pre-commit", "run", "--all-files")
    assert passed.returncode == 0, passed.stdout
    unsupported(tmp_path)
    command("git", "add", "-A")
    failed = command("pre-commit", "run", "--all-files")
    assert (failed.returncode, failed.stdout.count("det.onnx: error: ")) == (1, 2)
    assert isinstance(onnx.load(tmp_path / "det.onnx"), onnx.ModelProto)
