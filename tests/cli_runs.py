"""Running the command line in this process, and the small models it is run on."""

from __future__ import annotations

import contextlib
import io
import signal
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
from qdq_models import Scheme, float_model, quantized, random_feeds

from kwsq.converter import cli

TEXT = """(float[1,12] x, float[12,16] w1, float[16] b1, float[16,4] w2, float[4] b2) => (float[1,4] y)
{ h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"""


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str


def kwsq(*arguments: object) -> Outcome:
    return _invoke("kwsq", arguments)


def kwsq_convert(*arguments: object) -> Outcome:
    return _invoke("kwsq-convert", arguments)


def _invoke(program: str, arguments: tuple[object, ...]) -> Outcome:
    entry = {"kwsq": cli.main, "kwsq-convert": cli.convert_main}[program]
    stdout, stderr = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    argv = [program, *map(str, arguments)]
    code: object = 0
    try:
        with patch("sys.argv", argv), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            entry()
    except SystemExit as end:
        code = end.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert isinstance(code, int), f"exit status {code!r}"
    return Outcome(code, stdout.getvalue(), stderr.getvalue())


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def float_dense(folder: Path) -> Path:
    return save(float_model(TEXT), folder / "float.onnx")


def quantized_dense(folder: Path, bits: int = 4) -> Path:
    model = float_model(TEXT)
    return save(quantized(model, random_feeds(model, 64), Scheme(weight_bits=bits)), folder / f"dense_w{bits}.onnx")


def samples(folder: Path, count: int = 40, seed: int = 5) -> Path:
    """Inputs and random labels."""
    rng = np.random.default_rng(seed)
    path = folder / "samples.npz"
    np.savez(path, x=rng.normal(0.25, 1, (count, 12)).astype(np.float32), y=rng.integers(0, 4, count))
    return path


def left(folder: Path) -> list[str]:
    """Every file and folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
