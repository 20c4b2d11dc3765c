"""Instructions that one inference of C sources executes on emulated ARM cores: exact counts, not time.

    python benchmarks/c_instructions.py

Converts the 8- and 4-bit kws_ff with `--emit c`, builds them for Cortex-A72 and, with dot products, Cortex-A76, runs
one and eleven inferences under QEMU with a counting plugin, and prints a tenth of the difference.

Needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user 7.2.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORES = {"cortex-a72": [], "cortex-a76": ["-march=armv8.2-a+dotprod"]}
MULTIPLY_ACCUMULATES = 5_823_680
MAIN = """
#include "model.h"
static uint8_t arena[{macro}_ARENA_BYTES];
static int8_t in[6272], out[12];
int main(int argc, char **argv) {{
    (void)argv;
    for (int i = 0; i < 6272; i++) in[i] = (int8_t)(i * 37 + 11);
    for (int i = 1; i < argc; i++)
        if ({name}_run(arena, in, out) != KWSQ_OK) return 1;
    return 0;
}}
"""


def instructions(folder: Path, program: str, core: str, runs: int) -> int:
    """Return what a program executes for so many inferences."""
    emulator = ["qemu-aarch64", "-cpu", core, "-L", "/usr/aarch64-linux-gnu", "-plugin", "./count.so"]
    command = [*emulator, f"./{program}", *["x"] * runs]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return int(re.findall(r"executed (\d+)", done.stderr)[-1])


def main() -> int:
    """Print a line per width and core."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plugin = str(ROOT / "benchmarks" / "qemu_count.c")
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", "count.so", plugin], cwd=folder, check=True)
        for bits in (8, 4):
            name, out = f"kws_ff_w{bits}", folder / f"w{bits}"
            model = ROOT / "models" / "kws_ff" / f"{name}.onnx"
            command = ["kwsq-convert", str(model), "--target", "neon", "--emit", "c", "--quiet", "-o", str(out)]
            subprocess.run(command, check=True, capture_output=True)
            (out / "main.c").write_text(MAIN.format(name=name, macro=name.upper()), encoding="utf-8")
            for core, flags in CORES.items():
                units = [str(path) for path in out.glob("*.c")]
                compiler = ["aarch64-linux-gnu-gcc", "-std=c99", "-O3", *flags, f"-I{out}", *units]
                subprocess.run([*compiler, "-o", f"{name}_{core}"], cwd=folder, check=True)
                once, often = (instructions(folder, f"{name}_{core}", core, runs) for runs in (1, 11))
                each = (often - once) / 10
                per_mac = each / MULTIPLY_ACCUMULATES
                print(f"{name} on {core}: {each / 1e6:.2f} M instructions, {per_mac:.3f} a multiply-accumulate")
    return 0


if __name__ == "__main__":
    sys.exit(main())
