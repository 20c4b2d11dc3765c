"""`--emit c`: sources beside the artefact, proven by a compiler, refused where they cannot be."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from c_networks import OPTIONS
from cli_runs import Outcome, kwsq_convert, left, quantized_dense
from lowered_cases import drawn_convolution, four_bit_stream
from lowered_models import LoweredModel, random_inputs

from kwsq.converter.c_form import c_form, check_codes, check_program
from kwsq.converter.output import C_KERNELS, C_SOURCES, OWN_FILES
from kwsq.converter.runtimes.c_program import toolchain
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.base import Artefact
from kwsq.targets.c.target import HEADER, KERNELS, SOURCE, CTarget

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: apt-get install gcc libc6-dev")


def emitted(folder: Path, *options: object) -> Outcome:
    """Convert the dense network into `out` of a folder, C sources too."""
    return kwsq_convert(quantized_dense(folder), "--target", "neon", "--emit", "c", "-o", folder / "out", *options)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("c")
    outcome = emitted(folder)
    assert outcome.code == 0, outcome.stderr
    assert "compiled: integer reference = program, bit for bit" in outcome.stdout
    return folder / "out"


def report_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = loaded["result"]
    return result


def test_the_report_names_the_sources_and_their_checks(converted: Path) -> None:
    report = report_of(converted)
    checks = {check["name"]: check for check in report["parity"]["checks"]}
    assert checks["c_codes"]["passed"]
    assert checks["c_program"]["passed"]
    assert report["options"]["emit"] == "c"
    beside = {entry["file"]: entry["what"] for entry in report["artefact"]["beside"]}
    assert "the network in C99" in beside["model.c"]
    assert {name for name in left(converted) if name.endswith((".c", ".h"))} == set(beside) == set(C_SOURCES)
    manifest = json.loads((converted / "manifest.json").read_text(encoding="utf-8"))
    assert set(beside) <= set(manifest["files"])


def test_what_is_written_compiles_as_the_documentation_says(converted: Path, tmp_path: Path) -> None:
    text = """
#include "model.h"
static uint8_t arena[DENSE_W4_ARENA_BYTES];
int main(void) {
    int8_t in[12] = {0}, out[4];
    return dense_w4_run(arena, in, out) != KWSQ_OK || DENSE_W4_IN_X_SCALE <= 0;
}
"""
    (tmp_path / "firmware.c").write_text(text, encoding="utf-8")
    sources = [str(path) for path in converted.glob("*.c")]
    command = ["cc", "-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", f"-I{converted}", "firmware.c", *sources]
    subprocess.run([*command, "-o", "firmware"], cwd=tmp_path, check=True, timeout=60)
    subprocess.run([tmp_path / "firmware"], check=True, timeout=60)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++: apt-get install g++")
def test_the_network_can_be_called_from_cpp(converted: Path, tmp_path: Path) -> None:
    text = """
#include "model.h"
static uint8_t arena[DENSE_W4_ARENA_BYTES];
static int8_t in[12], out[4];
int main() { return dense_w4_run(arena, in, out) != KWSQ_OK; }
"""
    (tmp_path / "firmware.cpp").write_text(text, encoding="utf-8")
    sources = [str(path) for path in converted.glob("*.c")]
    subprocess.run(["cc", "-std=c99", "-O2", "-c", *sources], cwd=tmp_path, check=True, timeout=60)
    objects = [path.name for path in tmp_path.glob("*.o")]
    command = ["g++", "-Wall", "-Wextra", "-Werror", f"-I{converted}", "firmware.cpp", *objects, "-o", "firmware"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    subprocess.run([tmp_path / "firmware"], check=True, timeout=60)


def test_float_inputs_and_outputs(tmp_path: Path) -> None:
    outcome = emitted(tmp_path, "--io", "float32")
    assert outcome.code == 0, outcome.stderr
    assert "const float *in_x" in (tmp_path / "out" / "model.h").read_text(encoding="utf-8")


def test_what_a_conversion_does_not_write_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = quantized_dense(tmp_path), tmp_path / "out"
    convert = ("--target", "neon", "-o", out, "--force")
    assert kwsq_convert(model, *convert, "--emit", "c").code == 0
    assert set(C_SOURCES) <= set(left(out))
    assert kwsq_convert(model, *convert).code == 0
    assert not set(C_SOURCES) & set(left(out))
    assert kwsq_convert(model, *convert, "--emit", "c").code == 0
    monkeypatch.setenv("CC", "false")
    assert kwsq_convert(model, *convert, "--emit", "c").code == 1
    assert left(out) == ["report.html", "report.json"]


def test_models_of_one_graph_name_share_a_firmware(tmp_path: Path) -> None:
    model = quantized_dense(tmp_path)
    for name in ("first", "second"):
        copy = Path(shutil.copy(model, tmp_path / f"{name}.onnx"))
        assert kwsq_convert(copy, "--target", "neon", "--emit", "c", "-o", tmp_path / name).code == 0
    text = """
#include "first/model.h"
#include "second/model.h"
int main(void) {
    static uint8_t arena[FIRST_ARENA_BYTES > SECOND_ARENA_BYTES ? FIRST_ARENA_BYTES : SECOND_ARENA_BYTES];
    int8_t in[12] = {1, 2, 3}, out[4], other[4];
    if (first_run(arena, in, out) != KWSQ_OK || second_run(arena, in, other) != KWSQ_OK) return 1;
    return out[0] != other[0] || out[3] != other[3];
}
"""
    (tmp_path / "firmware.c").write_text(text, encoding="utf-8")
    kernels = [f"first/{name}" for name in C_SOURCES if name.startswith("kwsq_") and name.endswith(".c")]
    units = ["firmware.c", "first/model.c", "second/model.c", *kernels]
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-Ifirst", "-I.", *units, "-o", "firmware"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    subprocess.run([tmp_path / "firmware"], check=True, timeout=60)


def test_the_kernels_that_are_written_are_kwsqs_to_replace() -> None:
    assert sorted(name for names in KERNELS.values() for name in names) == sorted(C_KERNELS)
    assert {SOURCE, HEADER, *C_KERNELS} == set(C_SOURCES) <= set(OWN_FILES)


def test_other_targets_have_none(tmp_path: Path) -> None:
    outcome = kwsq_convert(quantized_dense(tmp_path), "--target", "accel", "--emit", "c", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "--emit c: found --target accel; expected --target neon" in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_without_a_compiler_nothing_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = emitted(tmp_path)
    assert outcome.code == 2
    assert "no C compiler" in outcome.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("variable", "command"), [("CC", "false"), ("KWSQ_EMULATOR", "false"), ("CC", "true")])
def test_what_does_not_compile_or_run_fails_parity(
    variable: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, command)
    outcome = emitted(tmp_path)
    assert outcome.code == 1
    assert left(tmp_path / "out") == ["report.html", "report.json"]
    checks = {check["name"]: check["passed"] for check in report_of(tmp_path / "out")["parity"]["checks"]}
    assert checks["c_program"] is False


@pytest.mark.parametrize("value", ['gcc "', "/no/such/compiler", "no_such_program -O2"])
@pytest.mark.parametrize("variable", ["CC", "KWSQ_EMULATOR"])
def test_a_command_that_cannot_be_is_refused_before_anything(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    outcome = emitted(tmp_path)
    assert outcome.code == 2
    assert variable in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_options_of_cc_come_last_and_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -O3 -DNAME=\"'a b'\"")
    tools = toolchain()
    assert tools.command[-2:] == ["-O3", "-DNAME='a b'"]
    assert "-O2" in tools.command[:-2]
    graph, artefact = small()
    assert "-O3" in str(check_program(graph, artefact, random_inputs(graph, 2)).figures["compiler"])


def test_states_are_carried_by_the_caller() -> None:
    chunks = np.random.default_rng(1).integers(-128, 128, (16, 1, 6)).astype(np.int8)
    assert [check.passed for check in c_form(four_bit_stream(), OPTIONS, {"x": chunks}).checks] == [True, True]


@pytest.fixture(scope="module")
def network() -> tuple[LoweredGraph, Artefact]:
    return small()


def small() -> tuple[LoweredGraph, Artefact]:
    model = LoweredModel(seed=3)
    x = model.conv(model.input("x", (1, 5, 4, 3)), 6, (3, 3), pads=((1, 1), (1, 1)), grid=(0.2, 5))
    x = model.depthwise(x, (3, 3), grid=(0.2, -4))
    graph = model.graph(model.dense(model.reshape(x, (1, 36)), 4))
    return graph, CTarget().emit(graph, OPTIONS)


@pytest.mark.parametrize("array", ["codes_0", "codes_1", "codes_3", "biases_0", "multipliers_1", "scales_3", "numbers"])
def test_a_changed_number_is_noticed(array: str, network: tuple[LoweredGraph, Artefact]) -> None:
    graph, artefact = network
    text = artefact.proven_bytes.decode()
    if array == "numbers":
        changed = text.replace("{{3, 3}, {1, 1}, {1, 1}, {1, 1}, 3}", "{{3, 3}, {1, 1}, {1, 1}, {0, 1}, 3}")
    else:
        start = text.index("= {", text.index(f" {array}[")) + 3
        end = text.index("}", start)
        word = "0x1p-3," if "scales" in array else "11,"
        changed = text[:start] + " " + " ".join([word] * text[start:end].count(",")) + text[end:]
    assert changed != text
    other = replace(artefact, files={**artefact.files, artefact.name: changed.encode()})
    inputs = random_inputs(graph, 16)
    assert check_codes(graph, artefact).passed
    assert check_program(graph, artefact, inputs).passed
    assert not check_program(graph, other, inputs).passed
    assert check_codes(graph, other).passed is not array.startswith("codes")


@pytest.mark.parametrize("seed", range(0, 32, 3))
def test_codes_are_found_in_their_order(seed: int) -> None:
    graph, target = drawn_convolution(seed), CTarget()
    artefact = target.emit(target.legalize(graph, OPTIONS), OPTIONS)
    assert check_codes(graph, artefact).passed
    before, codes, after = re.split(r"(?<=codes_0)(\[[^}]*)", artefact.files[SOURCE].decode(), maxsplit=1)
    first, second = next((a, b) for a, b in itertools.pairwise(re.findall(r"-?\d+(?=,)", codes)) if a != b)
    swapped = re.sub(rf"(?<![-\d]){first},(\s+){second},", rf"{second},\g<1>{first},", codes, count=1)
    assert swapped != codes
    other = {**artefact.files, SOURCE: (before + swapped + after).encode()}
    assert not check_codes(graph, replace(artefact, files=other)).passed


@pytest.mark.parametrize(("core", "flags"), [("cortex-a53", ""), ("cortex-a76", "-march=armv8.2-a+dotprod")])
def test_cc_and_the_emulator_prove_the_sources_on_the_cores_of_the_device(
    core: str, flags: str, network: tuple[LoweredGraph, Artefact], monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool, package in (
        ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
        ("qemu-aarch64", "qemu-user"),
    ):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}: apt-get install {package}")
    monkeypatch.setenv("CC", f"aarch64-linux-gnu-gcc -static {flags}")
    monkeypatch.setenv("KWSQ_EMULATOR", f"qemu-aarch64 -cpu {core}")
    graph, artefact = network
    check = check_program(graph, artefact, random_inputs(graph, 16))
    assert check.passed, check.mismatches
    monkeypatch.delenv("KWSQ_EMULATOR")
    if not os.path.exists("/proc/sys/fs/binfmt_misc/qemu-aarch64"):
        assert not check_program(graph, artefact, random_inputs(graph, 16)).passed
