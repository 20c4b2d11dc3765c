"""The command-line contract: exit codes, what is left behind, what goes to which stream."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from checkout import ROOT, run, script
from cli_runs import float_dense, kwsq, kwsq_convert, left, quantized_dense, samples, save
from onnx_models import build, node
from tflite_mutations import flip_byte, mutated

from kwsq.converter import driver
from kwsq.targets.base import Artefact
from kwsq.targets.neon.target import NeonTarget

TOO_LONG = "a" * 300
"""No file system takes a name of this length."""
FILES = ["manifest.json", "model.tflite", "report.html", "report.json"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    quantized_dense(folder)
    float_dense(folder)
    samples(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dense(models: Path, *options: object) -> list[object]:
    return [models / "dense_w4.onnx", "--target", "neon", "--wbits", 4, *options]


# ---- success ----


def test_a_conversion_leaves_exactly_its_four_files(models: Path, here: Path) -> None:
    outcome = kwsq_convert(*dense(models))
    assert (outcome.code, outcome.stderr) == (0, "")
    assert left(here) == ["dense_w4.neon-w4", *(f"dense_w4.neon-w4/{name}" for name in FILES)]
    assert outcome.stdout.startswith("PASS  dense_w4.onnx")
    *_, footprint_row, float_row = outcome.stdout.rstrip().splitlines()
    assert footprint_row.split()[:2] == ["this", "file"]
    assert float_row.split()[:2] == ["float32", "model"]
    assert "parity PASSED" in outcome.stdout


def test_both_programs_convert(models: Path, here: Path) -> None:
    assert kwsq("convert", *dense(models, "-o", "a")).code == 0
    assert kwsq_convert(*dense(models, "-o", "b")).code == 0
    for name in FILES:
        assert (here / "a" / name).read_bytes() == (here / "b" / name).read_bytes()


def test_json_is_the_report_alone(models: Path, here: Path) -> None:
    outcome = kwsq_convert(*dense(models, "-o", "out", "--json"))
    assert outcome.stdout == (here / "out" / "report.json").read_text(encoding="utf-8")
    assert outcome.stderr == ""


def test_quiet_prints_one_line_and_verbose_shows_stages(models: Path, here: Path) -> None:
    quiet = kwsq_convert(*dense(models, "-o", "a", "-q"))
    assert (quiet.stdout.count("\n"), quiet.stderr) == (1, "")
    verbose = kwsq_convert(*dense(models, "-o", "b", "-v"))
    assert [line.split()[-1] for line in verbose.stderr.splitlines()] == [
        "load",
        "passes",
        "emit",
        "parity",
        "measure",
        "write",
    ]


def test_the_manifest_vouches_for_every_file_and_names_no_place(models: Path, here: Path) -> None:
    kwsq_convert(*dense(models, "-o", "out", "--calibration", models / "samples.npz"))
    text = (here / "out" / "manifest.json").read_text(encoding="utf-8")
    listed = json.loads(text)["files"]
    assert sorted(listed) == FILES[1:]
    for name, facts in listed.items():
        data = (here / "out" / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    for name in FILES:
        data = (here / "out" / name).read_bytes()
        assert str(here).encode() not in data
        assert str(models).encode() not in data


def test_the_same_input_gives_the_same_bytes(models: Path, tmp_path: Path) -> None:
    for number, zone in enumerate(["UTC", "Asia/Tokyo"]):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        done = run(
            script("kwsq-convert"),
            *map(str, dense(models, "-o", "out")),
            cwd=folder,
            PYTHONHASHSEED=str(number),
            TZ=zone,
        )
        assert done.returncode == 0, done.stderr
    for name in FILES:
        assert (tmp_path / "run0/out" / name).read_bytes() == (tmp_path / "run1/out" / name).read_bytes()


def test_accuracy_is_measured_on_data(models: Path, here: Path) -> None:
    outcome = kwsq_convert(*dense(models, "--data", models / "samples.npz", "--json"))
    accuracy = json.loads(outcome.stdout)["result"]["accuracy"]
    assert (accuracy["assessed"], accuracy["samples"]) == (True, 40)
    # Same model, same codes: at most a tie decided the other way.
    assert abs(accuracy["source_top1"] - accuracy["artefact_top1"]) <= 2 / 40


# ---- usage and input errors: nothing is left ----


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{m}/dense_w4.onnx"], "--target"),
        (["{m}/dense_w4.onnx", "--target", "gpu"], "gpu"),
        (["{m}/dense_w4.onnx", "--target", "accel", "--container", "int4"], "stream or planes"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--container", "planes"], "int8 or int4 or lut"),
        (["{m}/dense_w4.onnx", "--target", "accel", "--runtime", "tflm"], "--target neon"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--no-such-option"], "no-such-option"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--container", "lut"], "--runtime tflm"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--wbits", "0"], "1 to 8"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--wbits", "9"], "1 to 8"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--wbits", "four"], "four"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--wbits", "3"], "--requantize"),
        (["{m}/missing.onnx", "--target", "neon"], "no such file"),
        (["{m}", "--target", "neon"], "a directory"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--calibration", "none.npz"], "no such file"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--calibration", "{m}/dense_w4.onnx"], "npz"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--min-accuracy", "0.9"], "--data"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--min-accuracy", "lots"], "lots"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--shape", "x=1,y"], "name=1,49,10"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--shape", "z=1,12"], "no graph input"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--state", "s1"], "input=output"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--state", "s1=n1"], "an unknown name"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--state", "none", "--state", "s1=n1"], "`none` alone"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--state", "s1=n1", "--state", "s1=n2"], "pair it once"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--state", "s1=n1", "--state", "s2=n1"], "pair it once"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--inputs", "0"], "--inputs"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--inputs", "100000000"], "1 to 10000"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--drop-softmax"], "--drop-softmax"),
        (["{m}/dense_w4.onnx", "--target", "neon", "-o", "/proc/none/out"], "output directory"),
        (["{m}/float.onnx", "--target", "neon", "--wbits", "4"], "--calibration"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--hop-ms", "0"], "0.001 or more"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--hop-ms", "nan"], "0.001 or more"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--hop-ms", "1e-320"], "0.001 or more"),
        ([TOO_LONG, "--target", "neon"], "File name too long"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--calibration", TOO_LONG], "File name too long"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--data", TOO_LONG], "File name too long"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--encodings", TOO_LONG], "File name too long"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--config", TOO_LONG], "File name too long"),
        (["{m}/dense_w4.onnx", "--target", "neon", "--baseline", TOO_LONG], "File name too long"),
        (
            ["{m}/dense_w4.onnx", "--target", "neon", "--update-baseline", "--baseline", TOO_LONG, "-o", TOO_LONG],
            "long",
        ),
    ],
)
def test_usage_errors_leave_nothing(models: Path, here: Path, arguments: list[str], complaint: str) -> None:
    outcome = kwsq_convert(*(text.format(m=models) for text in arguments))
    assert (outcome.code, outcome.stdout) == (2, "")
    assert complaint in outcome.stderr.replace("│", "")
    assert "Traceback" not in outcome.stderr
    assert left(here) == []


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07", bytes(range(256)) * 4])
def test_garbage_is_invalid_even_where_calibration_is_missing(here: Path, content: bytes) -> None:
    (here / "bad.onnx").write_bytes(content)
    outcome = kwsq_convert("bad.onnx", "--target", "neon", "--wbits", 4, "-o", "deep/out")
    assert (outcome.code, outcome.stdout) == (5, "")
    assert "Traceback" not in outcome.stderr
    assert left(here) == ["bad.onnx"]


def test_every_unsupported_node_is_listed_before_calibration_is_missed(here: Path) -> None:
    model = build(
        [node("Erf", ["x"], ["a"]), node("Relu", ["a"], ["b"]), node("GRU", ["b"], ["y"])], inputs={"x": (1, 4)}
    )
    save(model, here / "odd.onnx")
    outcome = kwsq_convert("odd.onnx", "--target", "neon", "-o", "out")
    assert (outcome.code, outcome.stdout) == (4, "")
    assert all(text in outcome.stderr for text in ("Erf", "GRU", "opset 17"))
    assert "Relu" not in outcome.stderr
    assert left(here) == ["odd.onnx"]


def test_a_directory_in_use_is_refused_before_any_work(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "notes.txt").write_text("mine")
    (here / "bad.onnx").write_bytes(b"not a model")
    outcome = kwsq_convert("bad.onnx", "--target", "neon", "-o", "out")
    assert outcome.code == 2
    assert "--force" in outcome.stderr


# ---- failed gates: reports but no artefact ----


def test_a_missed_accuracy_leaves_the_reports_alone(models: Path, here: Path) -> None:
    (here / "out").mkdir()
    for name in ("model.tflite", "manifest.json", "notes.txt"):
        (here / "out" / name).write_text("old")
    gate = ["--data", models / "samples.npz", "--min-accuracy", "99%"]
    outcome = kwsq_convert(*dense(models, "-o", "out", "--force", *gate))
    assert outcome.code == 1
    assert outcome.stdout.startswith("FAIL")
    assert "below --min-accuracy 99.00%" in outcome.stderr
    assert left(here / "out") == ["notes.txt", "report.html", "report.json"]
    assert json.loads((here / "out" / "report.json").read_text())["result"]["artefact"]["kept"] is False
    assert kwsq_convert(*dense(models, "-o", "b", "--data", models / "samples.npz", "--min-accuracy", 0)).code == 0


def test_failed_parity_names_the_tensor_and_keeps_no_artefact(
    models: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = NeonTarget.emit

    def corrupting(target: NeonTarget, graph: object, options: object) -> Artefact:
        artefact = honest(target, graph, options)  # type: ignore[arg-type]  # passed through
        (name,) = artefact.files
        weight = next(n for n in artefact.header["tensors"] if n.startswith("w1"))  # type: ignore[attr-defined]
        return Artefact(artefact.target, {name: mutated(artefact.files[name], flip_byte(weight, 5))}, artefact.header)

    monkeypatch.setattr(NeonTarget, "emit", corrupting)
    outcome = kwsq_convert(*dense(models, "-o", "out"))
    assert outcome.code == 1
    assert "w1" in outcome.stderr
    assert "parity FAILED" in outcome.stdout
    assert left(here / "out") == ["report.html", "report.json"]


# ---- defects and interruptions ----


def test_a_defect_is_exit_70_with_a_short_message(models: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "render_html", lambda report: 1 // 0)
    outcome = kwsq_convert(*dense(models, "-o", "a/out"))
    assert (outcome.code, outcome.stdout) == (70, "")
    assert "internal error: ZeroDivisionError" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert left(here) == []
    assert "Traceback" in kwsq_convert(*dense(models, "-o", "a/out", "-v")).stderr


def interrupted(command: list[object], cwd: Path, number: int, *, at: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and the rest of stderr of a program that gets a signal once a line of stderr holds `at`."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite started in the background of a shell ignores SIGINT, and its children would.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        assert any(at in line for line in process.stderr)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_leaves_nothing(tmp_path: Path, number: int, code: int) -> None:
    # Enough vectors, each with all its tensors, that parity is still running when the signal comes.
    model = ROOT / "models" / "kws_ff" / "kws_ff_w4.onnx"
    options = ("--target", "neon", "-o", "deep/out", "--inputs", 1000, "--intermediates", "-v")
    command = [script("kwsq-convert"), model, *options]
    found, stdout, stderr = interrupted(command, tmp_path, number, at="emit")
    assert (found, stdout) == (code, ""), stderr
    assert "Traceback" not in stderr
    assert left(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_while_modules_are_loaded_has_its_exit_code(tmp_path: Path, number: int, code: int) -> None:
    command = [script("kwsq-convert"), "--help"]
    # Verbose, so that every module is named on stderr.
    found, stdout, stderr = interrupted(command, tmp_path, number, at="typer/__init__", PYTHONVERBOSE="1")
    assert (found, stdout) == (code, "")
    assert "Traceback" not in stderr


def shell(command: str, cwd: Path) -> tuple[int, str, str]:
    done = run("sh", "-c", command, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def test_a_closed_stdout_is_refused_before_any_work(models: Path, tmp_path: Path) -> None:
    code, _, stderr = shell(f"{script('kwsq-convert')} {models}/dense_w4.onnx --target neon -o out >&-", tmp_path)
    assert code == 2
    assert "stdout: found a closed stream" in stderr
    assert left(tmp_path) == []


def test_a_closed_stderr_changes_nothing(models: Path, tmp_path: Path) -> None:
    command = f"{script('kwsq-convert')} {models}/dense_w4.onnx --target neon -q -v -o out 2>&-"
    code, stdout, _ = shell(command, tmp_path)
    assert (code, stdout.count("\n")) == (0, 1)
    assert left(tmp_path / "out") == FILES


def test_a_result_that_cannot_be_printed_ends_with_2_and_keeps_what_was_written(models: Path, tmp_path: Path) -> None:
    code, _, stderr = shell(
        f"{script('kwsq-convert')} {models}/dense_w4.onnx --target neon -o out > /dev/full", tmp_path
    )
    assert code == 2
    assert "stdout: found No space left on device" in stderr
    assert left(tmp_path / "out") == FILES


@pytest.mark.parametrize("arguments", ["ops", "ops --markdown", "inspect {} --json", "lint none.onnx", "--help"])
def test_a_full_disk_under_stdout_is_no_defect(models: Path, tmp_path: Path, arguments: str) -> None:
    command = arguments.format(models / "float.onnx")
    code, _, stderr = shell(f"{script('kwsq')} {command} > /dev/full", tmp_path)
    assert code == 2
    assert "No space left on device" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("arguments", ["inspect none.onnx", "convert {} --target neon --wbits 9 -v", "ops --no-option"])
def test_a_full_disk_under_stderr_is_no_defect(models: Path, tmp_path: Path, arguments: str) -> None:
    command = arguments.format(models / "float.onnx")
    assert shell(f"{script('kwsq')} {command} 2> /dev/full", tmp_path) == (2, "", "")


def test_a_reader_that_stops_reading_is_no_defect(tmp_path: Path) -> None:
    pipe = f"{sys.executable} -c 'import sys; sys.stdin.readline()'"
    done = run("sh", "-c", f"{script('kwsq')} ops --json | {pipe}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


# ---- the other commands ----


def test_footprint_of_what_was_written(models: Path, here: Path) -> None:
    for number, container in enumerate(["int8", "int4"]):
        kwsq_convert(*dense(models, "-o", f"out{number}", "--container", container))
        outcome = kwsq("footprint", f"out{number}/model.tflite", "--json")
        facts = json.loads(outcome.stdout)
        assert facts["file_bytes"] == (here / f"out{number}" / "model.tflite").stat().st_size
        assert facts["flash"]["total_bytes"] == facts["file_bytes"]
        assert facts["flash"]["weights_bytes"] == (12 * 16 + 16 * 4) // (2 if container == "int4" else 1)
        assert facts["declared_bits_per_weight"] == 4
        assert facts["macs"] == 12 * 16 + 16 * 4
    assert "Footprint" in kwsq("footprint", "out0/model.tflite").stdout


def test_footprint_of_onnx_files(models: Path, here: Path) -> None:
    facts = json.loads(kwsq("footprint", models / "dense_w4.onnx", "--json").stdout)
    assert (facts["macs"], facts["parameters"], facts["declared_bits_per_weight"]) == (256, 276, 4)
    assert facts["containers"]["packed_weight_bytes"] == 12 * 16 // 2 + 16 * 4 // 2
    assert facts["flash"]["total_bytes"] == facts["file_bytes"]
    floats = json.loads(kwsq("footprint", models / "float.onnx", "--json").stdout)
    assert floats["float_model"]["parameter_bytes"] == 4 * 276
    odd = build(
        [node("Erf", ["x"], ["a"]), node("MatMul", ["a", "w"], ["y"])],
        inputs={"x": (1, 4)},
        constants={"w": np.ones((4, 3), np.float32)},
    )
    save(odd, here / "odd.onnx")
    measured = json.loads(kwsq("footprint", "odd.onnx", "--json").stdout)
    assert (measured["parameters"], measured["activations"]) == (12, None)
    assert any("Erf" in note for note in measured["notes"])


def test_footprint_counts_the_codes_of_a_file_that_kwsq_cannot_read_whole(models: Path, here: Path) -> None:
    """And neither scales nor zero points, which are no parameters."""
    model = onnx.load(models / "dense_w4.onnx")
    output = model.graph.output[0].name
    model.graph.node.append(node("Erf", [output], ["end"]))
    model.graph.output[0].name = "end"
    save(model, here / "odd.onnx")
    measured = json.loads(kwsq("footprint", "odd.onnx", "--json").stdout)
    assert measured["parameters"] == 276
    assert measured["containers"]["int8_weight_bytes"] == 12 * 16 + 16 * 4


def test_four_bits_hold_codes_that_are_as_narrow_whatever_their_type(here: Path) -> None:
    codes = np.resize(np.arange(-8, 8), (81, 3)).astype(np.int8)
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["d"]),
        node("DequantizeLinear", ["codes", "s"], ["w"]), node("MatMul", ["d", "w"], ["y"]),
    ]  # fmt: skip
    for name, values, expected in (("narrow", codes, 122), ("wide", codes * 2, 243)):
        model = build(nodes, inputs={"x": (1, 81)}, constants={"s": np.float32(0.1), "codes": values})
        save(model, here / f"{name}.onnx")
        facts = json.loads(kwsq("footprint", f"{name}.onnx", "--json").stdout)
        assert facts["containers"]["int4_weight_bytes"] == expected


@pytest.mark.parametrize("batch", [0, -1, 10**8, 10**20])
def test_footprint_of_no_possible_batch_is_refused(batch: int) -> None:
    outcome = kwsq("footprint", ROOT / "models" / "kws_ff" / "kws_ff_w4.onnx", "--batch", batch)
    assert (outcome.code, "expected 1 to 65536 per dimension" in outcome.stderr) == (2, True)


def test_footprint_of_symbolic_dimensions(here: Path) -> None:
    model = build(
        [node("MatMul", ["x", "w"], ["y"])],
        inputs={"x": ("N", "time", 4)},
        constants={"w": np.ones((4, 3), np.float32)},
    )
    save(model, here / "open.onnx")
    facts = json.loads(kwsq("footprint", "open.onnx", "--json").stdout)
    assert (facts["parameters"], facts["macs"], facts["activations"]) == (12, 0, None)
    assert any("--shape" in note for note in facts["notes"])
    facts = json.loads(kwsq("footprint", "open.onnx", "--shape", "x=1,5,4", "--json").stdout)
    assert (facts["parameters"], facts["macs"]) == (12, 60)
    assert kwsq("footprint", "open.onnx", "--shape", "z=1,5,4").code == 2


def test_a_terminal_that_cannot_show_a_sign(models: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path / "m") + b"\xff.onnx"
    Path(os.fsdecode(name)).write_bytes((models / "dense_w4.onnx").read_bytes())
    command = [script("kwsq-convert"), os.fsdecode(name), "--target", "neon", "-o", "out"]
    done = run(*command, cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    done = run(*command, "--force", "--json", cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert json.loads(done.stdout)["result"]["options"]["model"] == "m\udcff.onnx"
    assert done.stdout == (tmp_path / "out" / "report.json").read_text(encoding="utf-8")


def test_inspect_says_what_would_happen(models: Path, here: Path) -> None:
    facts = json.loads(kwsq("inspect", models / "dense_w4.onnx", "--json").stdout)
    assert facts["convertible"] is True
    assert "qcdq" in facts["dialects"]
    assert sorted(q["bits"] for q in facts["quantizers"] if q["role"] == "constant") == [4, 4]
    floats = json.loads(kwsq("inspect", models / "float.onnx", "--json").stdout)
    assert "--calibration" in floats["needs"][0]["where"]
    save(build([node("Erf", ["x"], ["y"])], inputs={"x": (1, 4)}), here / "odd.onnx")
    refused = kwsq("inspect", "odd.onnx", "--json")
    assert refused.code == 0
    assert [p["op"] for p in json.loads(refused.stdout)["refused"]] == ["Erf"]
    kwsq_convert(*dense(models, "-o", "out"))
    tflite = json.loads(kwsq("inspect", "out/model.tflite", "--json").stdout)
    assert [tflite["operators"][i]["operator"] for i in (0, -1)] == ["FULLY_CONNECTED", "FULLY_CONNECTED"]
    for path in (models / "dense_w4.onnx", models / "float.onnx", Path("odd.onnx"), Path("out/model.tflite")):
        assert kwsq("inspect", path).code == 0


@pytest.mark.parametrize("command", ["inspect", "footprint"])
def test_looking_into_garbage(here: Path, command: str) -> None:
    (here / "a.onnx").write_bytes(b"junk" * 9)
    (here / "a.tflite").write_bytes(b"\x08\0\0\0TFL3" + b"\xff" * 40)
    assert kwsq(command, "a.onnx").code == 5
    assert kwsq(command, "a.tflite").code == 5
    assert kwsq(command, "missing").code == 2
    assert kwsq(command, ".").code == 2


def test_colour_only_on_a_terminal_and_not_against_no_color(models: Path, tmp_path: Path) -> None:
    def on_terminal(**environment: str) -> str:
        command = f"{script('kwsq')} footprint {models / 'float.onnx'}"
        done = run("script", "-qec", command, "/dev/null", cwd=tmp_path, TERM="xterm-256color", **environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert "\x1b[" in on_terminal(NO_COLOR="")
    # Bold stays; NO_COLOR is about colours.
    assert "\x1b[3" not in on_terminal(NO_COLOR="1")
    assert "\x1b[" not in kwsq("footprint", models / "float.onnx").stdout


def test_help_is_cheap(tmp_path: Path) -> None:
    """At most what importing onnx and onnxruntime costs; the best of three runs each."""

    def cpu_seconds(*command: str | Path) -> float:
        best = float("inf")
        for _ in range(3):
            before = os.times()
            assert run(*command, cwd=tmp_path).returncode == 0
            after = os.times()
            best = min(
                best, after.children_user - before.children_user + after.children_system - before.children_system
            )
        return best

    helped = cpu_seconds(script("kwsq-convert"), "--help")
    assert helped <= cpu_seconds(sys.executable, "-c", "import onnx, onnxruntime")
