"""Convert the float models of ../shared after training and score the emitted files.

Each model is calibrated on 200 clips of the train split, drawn with a fixed seed, all defaults, and scored on the 3,500
other clips of gsc12. Nothing is chosen by these scores. Usage: python benchmarks/ptq_artefacts.py [NAME ...]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared"
CLIPS, SEED = 200, 0
MLPERF = "down go left no off on right stop up yes _silence_ _unknown_".split()
ARM = "_silence_ _unknown_ yes no up down left right on off stop go".split()


@dataclass(frozen=True, slots=True)
class Case:
    """A float model, its features, its label order and the accuracy asked of it per width, in percent."""

    name: str
    model: str
    features: str
    labels: list[str]
    floors: dict[int, float]


CASES = (
    Case("mlperf", "mlcommons_tiny/kws_ref_model_truefloat.onnx", "ml", MLPERF, {8: 91.9, 4: 91.4}),
    Case("dnn_m", "arm_ml_kws_for_mcu/DNN_M.onnx", "arm640", ARM, {8: 80.8, 4: 80.2}),
    Case("ds_cnn_l", "arm_ml_kws_for_mcu/DS_CNN_L.onnx", "arm320", ARM, {8: 91.4, 5: 91.5, 4: 90.8}),
)


def write_vectors(case: Case, folder: Path) -> tuple[Path, Path]:
    """Write the calibration and the scoring file; no clip is in both."""
    data = np.load(SHARED / "data" / "gsc12_mfcc.npz")
    train = np.flatnonzero(data["split"] == "train")
    chosen = np.random.default_rng(SEED).choice(train, CLIPS, replace=False)
    others = np.setdiff1d(np.arange(len(data["label"])), chosen)
    x = data[case.features].astype(np.float32)
    y = np.array([case.labels.index(str(label)) for label in data["label"]])
    calibration, scored = folder / "calibration.npz", folder / "scored.npz"
    np.savez(calibration, x=x[chosen])
    np.savez(scored, x=x[others], y=y[others])
    return calibration, scored


def convert(case: Case, bits: int, folder: Path) -> dict[str, float] | str:
    """Return accuracies in percent and the file size, or what went wrong."""
    calibration, scored = write_vectors(case, folder)
    out = folder / f"w{bits}"
    command = [str(Path(sys.executable).with_name("kwsq-convert")), str(SHARED / "models" / case.model)]
    command += ["--target", "neon", "--wbits", str(bits), "--calibration", str(calibration)]
    command += ["--data", str(scored), "-o", str(out), "--force"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"exit code {done.returncode}: {done.stderr.strip()}"
    accuracy = json.loads((out / "report.json").read_text())["result"]["accuracy"]
    size = (out / "model.tflite").stat().st_size
    return {"source": 100 * accuracy["source_top1"], "artefact": 100 * accuracy["artefact_top1"], "bytes": size}


def main(names: list[str]) -> int:
    """Print one row per model and width; 0 when every floor holds."""
    failed = 0
    print("| model | float % | bits | artefact % | asked % | file bytes |\n|---|---|---|---|---|---|")
    for case in CASES:
        if names and case.name not in names:
            continue
        for bits, floor in case.floors.items():
            with tempfile.TemporaryDirectory() as folder:
                row = convert(case, bits, Path(folder))
            if isinstance(row, str):
                print(f"| {case.name} | - | {bits} | {row} | {floor} | - |", flush=True)
                failed += 1
                continue
            failed += row["artefact"] < floor
            cells = (case.name, f"{row['source']:.2f}", bits, f"{row['artefact']:.2f}", floor, f"{row['bytes']:.0f}")
            print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
    print(f"rows below what is asked: {failed}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
