"""Sizes and peers of the converted float models of ../shared.

MLCommons' own int8 file is scored on the clips and in the run that score kwsq's; the MLPerf model at 8 bits must be
smaller; INT4 must halve the weight bytes of every uniform 4-bit layer; the alexa network must convert with parity.
Usage: PYTHONPATH=benchmarks python benchmarks/ptq_files.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter
from ptq_artefacts import CASES, SHARED, write_vectors

ALEXA = SHARED / "models" / "siliconlabs_mltk" / "keyword_spotting_alexa.float32.onnx"
ALEXA_INPUT = (200, 118, 1, 108)
"""Log-mel frames; no recordings with this front end are at hand, so uniform noise over its range."""
PEER = SHARED / "models" / "mlcommons_tiny" / "kws_ref_model.tflite"


def convert(model: Path, calibration: Path, out: Path, *options: str) -> dict[str, object]:
    """Return the result block of the report; ends the program where the conversion fails."""
    command = [str(Path(sys.executable).with_name("kwsq-convert")), str(model), "--target", "neon", *options]
    command += ["--calibration", str(calibration), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{model.name} {' '.join(options)}: exit code {done.returncode}: {done.stderr.strip()}")
    result: dict[str, object] = json.loads((out / "report.json").read_text())["result"]
    return result


def peer_accuracy(x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> float:
    """Return the accuracy of MLCommons' int8 file in percent."""
    interpreter = Interpreter(str(PEER), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = source["quantization"]
    codes = np.clip(np.rint(x / scale) + zero_point, -128, 127).astype(np.int8)
    right = 0
    for clip, label in zip(codes, y, strict=True):
        interpreter.set_tensor(source["index"], clip.reshape(source["shape"]))
        interpreter.invoke()
        right += int(interpreter.get_tensor(target["index"]).argmax() == label)
    return 100 * right / len(y)


def uniform_weight_bytes(result: dict[str, object], file: Path) -> dict[str, int]:
    """Return the stored bytes of each weight tensor of 4 bits on a uniform grid, read from the file."""
    interpreter = Interpreter(str(file))
    sizes = {d["name"]: int(np.prod(d["shape"])) for d in interpreter.get_tensor_details()}
    rows: list[dict[str, object]] = result["weights"]  # type: ignore[assignment]
    uniform = [row for row in rows if row["bits"] == 4 and row["levels"] is None]
    return {
        str(row["tensor"]): -(-sizes[str(row["tensor"])] * (4 if row["container"] == "int4" else 8) // 8)
        for row in uniform
    }


def main() -> int:
    """Print the figures; 0 when every claim holds."""
    mlperf, held = CASES[0], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration, scored = write_vectors(mlperf, folder)
        model = SHARED / "models" / mlperf.model
        w8 = convert(model, calibration, folder / "w8", "--wbits", "8", "--data", str(scored))
        with np.load(scored) as data:
            peer = peer_accuracy(data["x"], data["y"])
        mine, theirs = (folder / "w8" / "model.tflite").stat().st_size, PEER.stat().st_size
        accuracy = 100 * w8["accuracy"]["artefact_top1"]  # type: ignore[index]
        print(f"MLPerf w8: {mine} bytes and {accuracy:.2f} %; MLCommons' int8 file: {theirs} bytes and {peer:.2f} %")
        held.append(mine < theirs)
        bytes_of = {}
        for container in ("int8", "int4"):
            out = folder / container
            uniform = ("--wbits", "4", "--scheme", "per_channel", "--container", container)
            bytes_of[container] = uniform_weight_bytes(convert(model, calibration, out, *uniform), out / "model.tflite")
        halved = [2 * bytes_of["int4"][t] <= size + 1 for t, size in bytes_of["int8"].items()]
        totals = {container: sum(sizes.values()) for container, sizes in bytes_of.items()}
        print(f"uniform w4 weights: {totals['int8']} bytes as int8, {totals['int4']} as int4, {len(halved)} layers")
        held.append(bool(halved) and all(halved))
        noise = folder / "alexa.npz"
        np.savez(noise, x=np.random.default_rng(0).uniform(-4, 4, ALEXA_INPUT).astype(np.float32))
        for bits in ("8", "4"):
            result = convert(ALEXA, noise, folder / f"alexa{bits}", "--wbits", bits)
            held.append(result["parity"]["passed"])  # type: ignore[index]
            print(f"alexa w{bits}: parity {'passed' if held[-1] else 'failed'}")
    print(f"claims that do not hold: {held.count(False)}")
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())
