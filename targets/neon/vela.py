"""Arm's compiler for Ethos-U, run as a process of its own: a `.tflite` file in, one with an `ethos-u` operator out.

The figures are Vela's own estimates; it says so itself. Source: running ethos-u-vela 5.2.0 (tests/targets/neon).
"""

from __future__ import annotations

import csv
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from kwsq.ir.errors import Problem, UnsupportedModelError, UsageError

ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
DEFAULT_ACCELERATOR = "ethos-u55-128"
TIMEOUT_SECONDS = 300
_KIB = 1024
_LAST_LINES = 6
_REFUSAL = re.compile(
    r"\(supported operators\) operator: (\S+), ofm: '([^']*)'\n(?:Reason: )?((?:(?!Warning|\n).+\n?)*)"
)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What Vela made of a file.

    Args:
        data: the compiled file.
        estimates: Vela's figures, JSON-ready.
        refusals: output tensor -> why Vela left its operator on the CPU.
    """

    data: bytes
    estimates: Mapping[str, object]
    refusals: Mapping[str, str]


def is_installed() -> bool:
    """Returns whether the optional package `ethos-u-vela` is there."""
    return importlib.util.find_spec("ethosu") is not None


def missing() -> Problem:
    """Returns what to say where the package is needed and absent."""
    return Problem("ethos-u-vela", "not installed", "Arm's compiler for Ethos-U", "run: pip install 'kwsq[ethos-u]'")


def compile_file(data: bytes, accelerator: str) -> Compiled:
    """Returns the file compiled for an accelerator; the same bytes every time.

    Args:
        data: an int8 `.tflite` file.
        accelerator: one of `ACCELERATORS`; memories are Vela's defaults for it.

    Raises:
        UsageError: the package is not installed.
        UnsupportedModelError: Vela refuses the file, dies of it or takes longer than five minutes.
    """
    if not is_installed():
        raise UsageError(missing())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.tflite").write_bytes(data)
        command = [sys.executable, "-P", "-m", "ethosu.vela", "model.tflite", "--accelerator-config", accelerator]
        command += ["--output-dir", "out"]
        try:
            done = _run(command, folder)
        except subprocess.TimeoutExpired as error:
            raise _failed(accelerator, f"no end within {TIMEOUT_SECONDS} s") from error
        written = Path(folder) / "out" / "model_vela.tflite"
        summaries = sorted((Path(folder) / "out").glob("model_summary_*.csv"))
        if done.returncode != 0 or not written.is_file() or not summaries:
            lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            reason = "; ".join(lines[-_LAST_LINES:])
            raise _failed(accelerator, f"exit status {done.returncode}: {reason}")
        with summaries[0].open(newline="", encoding="utf-8") as table:
            row = list(csv.DictReader(table))[-1]
        return Compiled(written.read_bytes(), _estimates(row, accelerator), _refusals(done.stdout + done.stderr))


def _run(command: list[str], folder: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS, check=False
    )


def _refusals(text: str) -> dict[str, str]:
    return {found[2]: " ".join(found[3].split()) for found in _REFUSAL.finditer(text)}


def _failed(accelerator: str, found: str) -> UnsupportedModelError:
    remedy = "try another --accelerator, or --target neon for the same file without Vela"
    return UnsupportedModelError(Problem(f"Vela for {accelerator}", found, "a compiled file", remedy))


def _estimates(row: Mapping[str, str], accelerator: str) -> dict[str, object]:
    """Returns the line of Vela's summary in bytes and cycles."""
    original, encoded = int(row["total_original_weights"]), int(row["total_npu_encoded_weights"])
    flash = float(row["on_chip_flash_memory_used"]) + float(row["off_chip_flash_memory_used"])
    return {
        "compiler": f"ethos-u-vela {version('ethos-u-vela')}",
        "accelerator": accelerator,
        "system_config": row["system_config"],
        "memory_mode": row["memory_mode"],
        "clock_hz": int(float(row["core_clock"])),
        "sram_bytes": round(float(row["sram_memory_used"]) * _KIB),
        "dram_bytes": round(float(row["dram_memory_used"]) * _KIB),
        "flash_bytes": round(flash * _KIB),
        "npu_cycles": int(row["cycles_npu"]),
        "total_cycles": int(row["cycles_total"]),
        "inference_seconds": float(row["inference_time"]),
        "macs": int(row["nn_macs"]),
        "original_weight_bytes": original,
        "encoded_weight_bytes": encoded,
        "encoded_bits_per_weight": round(8 * encoded / original, 4) if original else None,
    }
