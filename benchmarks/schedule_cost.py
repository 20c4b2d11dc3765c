"""CPU minutes of whole schedules: the float phase and what goes on from it, of every row in docs/results.jsonl.

Rows were measured as they were trained, on one thread each beside other work, which makes them dearer, not cheaper.

    python benchmarks/schedule_cost.py
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from kwsq.models.table.protocol import FLOAT
from kwsq.models.table.rows import read_results

ROWS = Path(__file__).resolve().parents[1] / "docs" / "results.jsonl"
ALLOWED_MINUTES = 20.0


def main() -> int:
    """Print the dearest schedule of each method and the dearest of all; 1 where that is above what is allowed."""
    seconds = {row: finished.facts["cpu_seconds"] for row, finished in read_results(ROWS).rows.items()}
    start = {(row.seed, row.fold): spent for row, spent in seconds.items() if row.method == FLOAT}
    minutes: dict[str, list[float]] = defaultdict(list)
    for row, spent in seconds.items():
        if row.method != FLOAT:
            minutes[row.method].append((start[row.seed, row.fold] + spent) / 60)
    for method, found in minutes.items():
        print(f"{method:28} {len(found):3} rows, dearest {max(found):5.1f} CPU minutes")
    dearest = max(max(found) for found in minutes.values())
    print(f"dearest schedule {dearest:.1f} CPU minutes, allowed {ALLOWED_MINUTES:g}")
    return int(dearest >= ALLOWED_MINUTES)


if __name__ == "__main__":
    sys.exit(main())
