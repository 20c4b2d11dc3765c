"""What quantization costs the published MLPerf Tiny network: float against 4-bit artefact, by held-out speakers.

Runs models/ds_cnn/published_table.toml: every clip of gsc12 is scored once per seed by a model that was not fine-tuned
on its speaker. Finished rows are kept in a file and not run again; delete it to measure anew (about 55 CPU minutes).
Exit code 1 where the 4-bit loss of the method that goes through all seeds exceeds what is asked, against the published
model; that against the same model fine-tuned in float is printed beside it.

Usage: python benchmarks/published_ds_cnn.py [ROWS]
"""

from __future__ import annotations

import sys
from math import inf
from pathlib import Path

from kwsq.models.cli import prepare_tensorflow
from kwsq.models.table.protocol import FLOAT, FLOAT_BITS
from kwsq.models.table.rows import read_results
from kwsq.models.table.run import open_workplace, run
from kwsq.models.table.statistics import Clips, accuracies, cells, loss

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
PROTOCOL = ROOT / "models" / "ds_cnn" / "published_table.toml"
WEIGHTS = SHARED / "models" / "mlcommons_tiny" / "kws_ref_model_truefloat.onnx"
ROWS = ROOT / "docs" / "published_ds_cnn.jsonl"
ASKED_OF, ASKED_POINTS = "two_stage_fast_long", 0.3


def main(rows: Path) -> int:
    """Print one line per method and width; 0 when the 4-bit loss is as asked."""
    prepare_tensorflow(1)
    place = open_workplace(PROTOCOL, SHARED / "data", ROOT / ".cache" / "published_ds_cnn", rows, WEIGHTS)
    run(place, lambda line: print(line, file=sys.stderr, flush=True))
    results = read_results(rows)
    table, clips = cells(place.protocol, results), Clips.of(results)
    asked = inf
    for (name, bits), cell in table.items():
        found = 100.0 * accuracies(clips, cell)
        line = f"{name} {bits} bits: {found.mean():.2f} % of {clips.labels.size} clips, {found.size} seeds"
        for reference in dict.fromkeys((FLOAT, place.protocol.control_of(name))):
            difference = loss(clips, table[reference, FLOAT_BITS], cell)
            if difference is not None and reference != name:
                value, low, high = (100.0 * x for x in (difference.value, difference.low, difference.high))
                asked = value if (name, reference) == (ASKED_OF, FLOAT) else asked
                line += f"; loss against {reference} {value:+.2f} points [{low:+.2f}, {high:+.2f}]"
        print(line)
    return int(asked > ASKED_POINTS)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else ROWS))
