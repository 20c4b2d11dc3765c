"""Compare the CPU time of `kwsq-convert --help` with that of importing onnx and onnxruntime.

Both run in the same minute on the same machine, alternating; the smallest of the runs is compared, because
noise only adds. Exit code 1 when the ratio is above 1.
"""

import resource
import subprocess
import sys
from pathlib import Path

RUNS = 7
RATIO_MAX = 1.0


def cpu_seconds(*command: str) -> float:
    """Return user plus system time of one child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> int:
    """Measure, print, judge."""
    command = str(Path(sys.executable).with_name("kwsq-convert"))
    measured = [
        (cpu_seconds(command, "--help"), cpu_seconds(sys.executable, "-c", "import onnx, onnxruntime"))
        for _ in range(RUNS)
    ]
    answer, imports = (min(column) for column in zip(*measured, strict=True))
    ratio = answer / imports
    print(f"--help {answer:.3f} s, import onnx, onnxruntime {imports:.3f} s")
    print(f"ratio {ratio:.2f} (at most {RATIO_MAX})")
    return int(ratio > RATIO_MAX)


if __name__ == "__main__":
    sys.exit(main())
