"""Running a model file on arrays: a pack in its executor, a `.tflite` in LiteRT, an ONNX model in onnxruntime."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.data import InputSpec, read_arrays
from kwsq.converter.output import check_new_file, write_file
from kwsq.ir.errors import Problem, UnsupportedModelError, UsageError
from kwsq.ir.numerics import quantize

Array = npt.NDArray[Any]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Port:
    """An input of a model.

    Args:
        spec: name, shape and element type.
        scale: of its grid, 0.0 without one.
        zero_point: of its grid.
        state_from: output that feeds it at the next step, "" for an input that is no state.
    """

    spec: InputSpec
    scale: float = 0.0
    zero_point: int = 0
    state_from: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be run.

    Args:
        runtime: what runs it.
        ports: its inputs in order.
        run: stacked inputs by name -> outputs by name.
    """

    runtime: str
    ports: tuple[Port, ...]
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]]


def run_model(data: bytes, format: str, model_path: Path, inputs: Path, output: Path) -> Json:
    """Runs a model on the arrays of an `.npz` and writes its outputs to another.

    Real numbers for a quantised input are rounded onto its grid; codes are taken as they are. Of a pack with states,
    samples are consecutive steps of one sequence that starts at real 0.

    Args:
        data: the model file.
        format: "kwsq", "tflite" or "onnx".
        model_path: where it was read, for messages; kept.
        inputs: `.npz` of arrays by input name, the first dimension k times the declared one.
        output: `.npz` to write; an existing one is replaced.

    Returns:
        Facts about the run, JSON-ready.

    Raises:
        UsageError: arrays that do not fit or are a pack's states, or an output that cannot be written.
        InvalidModelError, UnsupportedModelError: the model cannot be run.
    """
    model = {"kwsq": _pack, "tflite": _tflite, "onnx": _onnx}[format](data, model_path.name)
    check_new_file(output, f"--output {str(output)!r}", force=True, kept=(model_path, inputs))
    free = [port for port in model.ports if not port.state_from]
    states = [port.spec.name for port in model.ports if port.state_from]
    arrays = read_arrays(inputs, "--input", [port.spec for port in free], states)
    codes = {port.spec.name: _taken(arrays[port.spec.name], port) for port in free}
    try:
        outputs = _stepped(model, codes) if len(free) < len(model.ports) else model.run(codes)
    except ValueError as error:
        raise UsageError(Problem("--input", str(error), "values the model is defined for", "check the data")) from error
    _write(output, outputs)
    shown = [{"name": name, "shape": list(a.shape), "dtype": str(a.dtype)} for name, a in outputs.items()]
    first = free[0] if free else None
    vectors = len(codes[first.spec.name]) // max(first.spec.shape[0], 1) if first is not None else 1
    return {"format": format, "runtime": model.runtime, "vectors": vectors, "outputs": shown, "output": output.name}


def _taken(array: Array, port: Port) -> Array:
    """Returns an array as the model takes it."""
    dtype = np.dtype(port.spec.dtype)
    if array.dtype == dtype:
        return array
    where = f"--input, array {port.spec.name!r}"
    if array.dtype.kind == "f" and port.scale > 0:
        if not np.isfinite(array).all():
            raise UsageError(Problem(where, "NaN or infinite values", "finite values", "remove those samples"))
        limits = np.iinfo(dtype)
        grid = {"scale": port.scale, "zero_point": port.zero_point, "low": int(limits.min), "high": int(limits.max)}
        return quantize(np.asarray(array, np.float32), **grid)  # type: ignore[arg-type]  # scale is the only float
    converted = array.astype(dtype)
    if (array.dtype.kind == "f" and dtype.kind in "iu") or not np.array_equal(converted, array):
        raise UsageError(Problem(where, f"{array.dtype} values", str(dtype), "save codes or, for a grid, real numbers"))
    return converted


def _stepped(model: Model, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    states = {
        port.spec.name: np.full(port.spec.shape, port.zero_point, port.spec.dtype)
        for port in model.ports
        if port.state_from
    }
    sizes = {port.spec.name: port.spec.shape[0] for port in model.ports}
    count = min(len(array) // sizes[name] for name, array in inputs.items())
    steps: list[Mapping[str, Array]] = []
    for step in range(count):
        chunk = {name: array[step * sizes[name] : (step + 1) * sizes[name]] for name, array in inputs.items()}
        steps.append(model.run({**chunk, **states}))
        states = {port.spec.name: steps[-1][port.state_from] for port in model.ports if port.state_from}
    return {name: np.concatenate([step[name] for step in steps]) for name in steps[0]}


def _write(path: Path, arrays: Mapping[str, Array]) -> None:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]  # keyword names
    write_file(path, stream.getvalue(), f"--output {str(path)!r}")


# ---- formats ----


def _pack(data: bytes, path: str) -> Model:
    from kwsq.targets.accel.execute import numpy_type, run_pack
    from kwsq.targets.accel.format import Role
    from kwsq.targets.accel.reader import read

    pack = read(data, path)
    ports = []
    for entry in pack.entries(Role.INPUT):
        tensor = pack.tensor(entry)
        source = "" if entry.partner is None else pack.io[entry.partner].name
        spec = InputSpec(entry.name, tensor.shape, numpy_type(tensor).__name__)
        ports.append(Port(spec, tensor.scale, tensor.zero_point, source))
    return Model("kwsq pack executor", tuple(ports), lambda inputs: run_pack(pack, inputs))


def _tflite(data: bytes, path: str) -> Model:
    from kwsq.converter.runtimes.litert import KernelSet, LitertSession
    from kwsq.targets.neon.lookup import DECODE
    from kwsq.targets.neon.reader import read

    graph = read(data, path).main
    foreign = sorted({op.name for op in graph.operators if op.name.startswith("CUSTOM:") and op.name != DECODE})
    if foreign:
        remedy = "run the file before it was compiled, e.g. model_int8.tflite"
        raise UnsupportedModelError(Problem(path, ", ".join(foreign), "operators of LiteRT", remedy))
    tensors = [graph.tensors[i] for i in graph.inputs]
    ports = []
    for tensor in tensors:
        dtype = tensor.dtype.lower()
        if dtype not in ("int8", "uint8", "int16", "int32", "float32"):
            found, remedy = f"a {tensor.dtype} input {tensor.name!r}", "run it in its own application"
            raise UnsupportedModelError(Problem(path, found, "numbers of at most 32 bits", remedy))
        scale = float(tensor.scale[0]) if tensor.scale.size else 0.0
        zero_point = int(tensor.zero_point[0]) if tensor.zero_point.size else 0
        ports.append(Port(InputSpec(tensor.name, tensor.shape, dtype), scale, zero_point))
    outputs = [graph.tensors[i].name for i in graph.outputs]
    if any(operator.name == DECODE for operator in graph.operators):
        from kwsq.converter.runtimes.tflm import run_tflm

        def decode_and_run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            done = run_tflm(data, [inputs[tensor.name] for tensor in tensors])
            return dict(zip(outputs, done.outputs, strict=True))

        return Model("TensorFlow Lite Micro", tuple(ports), decode_and_run)
    session = LitertSession(data, KernelSet.DEFAULT)

    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        done = session.run([inputs[tensor.name] for tensor in tensors])
        return dict(zip(outputs, done.outputs, strict=True))

    return Model("LiteRT, default kernels", tuple(ports), run)


def _onnx(data: bytes, path: str) -> Model:
    from kwsq.converter.runtimes.onnx_source import source_runner
    from kwsq.passes.load import load_bytes

    source = load_bytes(data, path)
    ports = tuple(
        Port(InputSpec(t.name, tuple(int(n) for n in t.shape), str(np.dtype(t.dtype)))) for t in source.graph.inputs
    )
    runtime, run = source_runner(source)
    return Model(runtime, ports, run)
