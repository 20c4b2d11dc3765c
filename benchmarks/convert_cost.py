"""Compare the CPU time of a whole `kwsq-convert`, parity and report included, with importing onnx and onnxruntime.

The model is a 335K-parameter dense network in the QCDQ dialect, made here from a fixed seed. Both commands run in the
same minute on the same machine, alternating; the smallest of the runs is compared, because noise only adds. Exit code 1
when the ratio is above 2.5. Both run as a user types them, without the limits on threads that the tests set: a library
that starts threads pays for them in either. With `--onnx2tf PYTHON`, an interpreter of any environment that has
onnx2tf installed, its conversion alone runs in the same loop and must cost more.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

RUNS = 7
RATIO_MAX = 2.5
WIDTHS = (1300, 128, 256, 256, 256, 12)


def cpu_seconds(*command: str) -> float:
    """Return user plus system time of one child process."""
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        command, check=True, env=plain, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def qcdq_network(seed: int = 0) -> onnx.ModelProto:
    """Return the network: 4-bit weights, batch norm and Relu behind every layer but the last, int8 activations."""
    rng = np.random.default_rng(seed)
    constants: dict[str, npt.NDArray[np.generic]] = {
        "low": np.int8(-7).reshape(()),
        "high": np.int8(7).reshape(()),
        "zero": np.int8(0).reshape(()),
        "uzero": np.uint8(0).reshape(()),
        "s_x": np.float32(0.05).reshape(()),
        "s_a": np.float32(0.02).reshape(()),
    }
    nodes = [*_quantizer("x", "a0", "s_x", "zero")]
    for i, (fan_in, fan_out) in enumerate(pairwise(WIDTHS)):
        constants[f"w{i}"] = rng.integers(-7, 8, (fan_out, fan_in)).astype(np.int8)
        constants[f"s{i}"] = np.float32(0.5 / np.sqrt(fan_in) / 4).reshape(())
        nodes.append(helper.make_node("Clip", [f"w{i}", "low", "high"], [f"c{i}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"c{i}", f"s{i}", "zero"], [f"d{i}"]))
        nodes.append(helper.make_node("Gemm", [f"a{i}", f"d{i}"], [f"y{i}"], transB=1))
        if i == len(WIDTHS) - 2:
            nodes += _quantizer(f"y{i}", "logits", "s_x", "zero")
            break
        for part, low, high in (("gamma", 0.5, 1.5), ("beta", -0.2, 0.2), ("mean", -0.1, 0.1), ("var", 0.5, 1.5)):
            constants[f"{part}{i}"] = rng.uniform(low, high, fan_out).astype(np.float32)
        norm = [f"y{i}", f"gamma{i}", f"beta{i}", f"mean{i}", f"var{i}"]
        nodes.append(helper.make_node("BatchNormalization", norm, [f"n{i}"]))
        nodes.append(helper.make_node("Relu", [f"n{i}"], [f"r{i}"]))
        nodes += _quantizer(f"r{i}", f"a{i + 1}", "s_a", "uzero")
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTHS[0]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, WIDTHS[-1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _quantizer(source: str, target: str, scale: str, zero: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{target}_q"]),
        helper.make_node("DequantizeLinear", [f"{target}_q", scale, zero], [target]),
    ]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx2tf", metavar="PYTHON", help="interpreter of an environment with onnx2tf")
    onnx2tf_python = parser.parse_args().onnx2tf
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        model.write_bytes(qcdq_network().SerializeToString())
        convert = [str(Path(sys.executable).with_name("kwsq-convert")), str(model), "--target", "neon", "--wbits", "4"]
        convert += ["-o", str(Path(folder) / "out"), "--force"]
        imports = [sys.executable, "-c", "import onnx, onnxruntime"]
        commands = [convert, imports]
        if onnx2tf_python:
            commands.append([onnx2tf_python, "-m", "onnx2tf", "-i", str(model), "-o", str(Path(folder) / "onnx2tf")])
        rows = [[cpu_seconds(*command) for command in commands] for _ in range(RUNS)]
    best = [min(column) for column in zip(*rows, strict=True)]
    ratio = best[0] / best[1]
    print(f"kwsq-convert {best[0]:.3f} s, import onnx, onnxruntime {best[1]:.3f} s")
    if len(best) > 2:
        print(f"onnx2tf converting alone {best[2]:.3f} s, whole kwsq-convert {best[0]:.3f} s")
    print(f"ratio {ratio:.2f} (at most {RATIO_MAX})")
    return int(ratio > RATIO_MAX or (len(best) > 2 and best[0] >= best[2]))


if __name__ == "__main__":
    sys.exit(main())
