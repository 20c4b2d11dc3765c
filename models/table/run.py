"""The runner of the table: trains every row of a protocol, converts it and scores the emitted artefact.

Several processes may run the same protocol on one output folder: each takes the first row that is neither
finished nor being worked on, so that work ends in the protocol's order whatever happens to a process.

    python -m kwsq.models.table.run models/kws_ff/table.toml --data DIR --out DIR --rows docs/results.jsonl
"""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from kwsq.ir.errors import KwsqError, Problem, UsageError
from kwsq.models.cli import Data, prepare_tensorflow
from kwsq.models.data.clips import LabelledFeatures, load_split
from kwsq.models.data.folds import clip_groups, speaker_folds, subset
from kwsq.models.table.protocol import FLOAT, Protocol, Row
from kwsq.models.table.read_protocol import read_protocol
from kwsq.models.table.rows import (
    KEYWORDS,
    FinishedRow,
    FoldClips,
    append_line,
    file_digest,
    fingerprint,
    read_results,
    score_codes,
)
from kwsq.models.training.published_weights import PublishedLayer, published_layers

RETRY_SECONDS = 5.0
ROWS_PER_PROCESS = 40
"""After so many rows the program starts itself again: TensorFlow keeps some 50 MB of every model it has traced."""
START = "float_weights"
"""Fact of a row: the digest of the float weights that it goes on from, or is."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where a run reads and writes: protocol, clips with their folds, output folder, results file, published layers."""

    protocol: Protocol
    examples: LabelledFeatures
    fold_of: NDArray[np.int64]
    out: Path
    rows: Path
    start: tuple[PublishedLayer, ...] | None = None

    def float_weights(self, row: Row) -> Path:
        """The cached weights of the float model that a row starts from."""
        return self.out / "float" / f"{self.protocol.float_row(row).name}.npz"

    def train_clips(self, fold: int) -> LabelledFeatures:
        """Return the clips of all folds but one."""
        return subset(self.examples, self.fold_of != fold)

    def score_clips(self, fold: int) -> LabelledFeatures:
        """Return the clips of one fold."""
        return subset(self.examples, self.fold_of == fold)


def open_workplace(protocol: Path, data: Path, out: Path, rows: Path, weights: Path | None = None) -> Workplace:
    """Load everything a run needs, and state the folds in the results file where they are missing.

    Raises:
        UsageError: the results file states other clips: its rows and new ones would be of different data.
    """
    plan = read_protocol(protocol)
    start = published_layers(plan.recipe, weights)
    examples = load_split(data, out / "cache", dataset=plan.recipe.dataset, split=None, features=plan.recipe.features)
    groups = clip_groups(examples)
    fold_of = speaker_folds(groups, plan.folds, plan.fold_seed)
    place = Workplace(plan, examples, fold_of, out, rows, start)
    known, numbers = read_results(rows).folds, np.unique(np.array(groups), return_inverse=True)[1]
    for fold in range(plan.folds):
        mine = fold_of == fold
        clips = FoldClips(fold, examples.labels[mine], numbers[mine], fingerprint(examples.features[mine]))
        if fold not in known:
            append_line(rows, clips.to_json())
        elif not known[fold].are(clips):
            remedy = "run on the data of before, or begin another results file"
            raise UsageError(Problem(str(rows), f"other clips or features in fold {fold}", "those of this run", remedy))
    return place


def run(place: Workplace, report: Any, *, most: int | None = None) -> set[Row]:
    """Finish every row of the protocol that can be, or so many of them.

    Args:
        place: where to read and write.
        report: called with one line per row.
        most: finished rows after which to return; None for no limit.

    Returns:
        The rows whose training diverged, or whose model kwsq refused or did not reproduce. This process tried each
        once; another one, or the next, tries again.
    """
    refused: set[Row] = set()
    done = 0
    while pending := hopeful_rows(place, refused):
        if done == most:
            break
        before = len(refused)
        if not any(_attempt(place, row, report, refused) for row in pending):
            time.sleep(RETRY_SECONDS)
        elif len(refused) == before:  # the next process would begin with the refused ones again
            done += 1
    return refused


def hopeful_rows(place: Workplace, refused: set[Row]) -> list[Row]:
    """Return what is left to do but for the refused, and for what needs a float model that was."""
    return [row for row in pending_rows(place) if not _hopeless(place, row, refused)]


def _hopeless(place: Workplace, row: Row, refused: set[Row]) -> bool:
    """Whether a row was refused, or needs a float model that was refused before it left its weights."""
    return row in refused or (place.protocol.float_row(row) in refused and not place.float_weights(row).exists())


def pending_rows(place: Workplace) -> list[Row]:
    """Return what is left to do, in order: unfinished rows, and float models they need whose weights are gone."""
    finished, rows = read_results(place.rows).rows.keys(), list(place.protocol.rows())
    needed = {place.protocol.float_row(row) for row in rows if row not in finished}
    missing = {row for row in needed if not place.float_weights(row).exists()}
    return [row for row in rows if row not in finished or row in missing]


def _attempt(place: Workplace, row: Row, report: Any, refused: set[Row]) -> bool:
    """Finish one row or add it to the refused; False if it waits for its float model or another process has it."""
    if row.method != FLOAT and not place.float_weights(row).exists():
        return False
    with _claimed(place.out / "claims" / row.name) as mine:
        if not mine:
            return False
        if row not in pending_rows(place):  # finished between reading and claiming
            return True
        started = time.monotonic()
        try:
            finished = _finish(place, row)
            _check_return(place, finished)
        except KwsqError as error:
            refused.add(row)
            report(f"{row.name}: {error}")
            return True
        if row not in read_results(place.rows).rows:  # else only its weights were missing
            append_line(place.rows, finished.to_json())
        labels = place.score_clips(row.fold).labels
        accuracy = 100.0 * float((finished.predicted == labels).mean())
        report(f"{row.name}: {accuracy:.2f} % of {labels.size}, {time.monotonic() - started:.0f} s, {finished.facts}")
    return True


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Hold a row; the system lets go of it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _finish(place: Workplace, row: Row) -> FinishedRow:
    """Train, convert and score one row."""
    if row.method != FLOAT:
        _check_start(place, row)
    from kwsq.models.table.row_training import trained_row  # TensorFlow, once there is something to train

    started = time.process_time()
    clips, float_weights = place.train_clips(row.fold), place.float_weights(row)
    model = trained_row(place.protocol, row, clips, float_weights, place.start)
    facts = {"cpu_seconds": round(time.process_time() - started), START: file_digest(float_weights)}
    return _scored(model, place.score_clips(row.fold), place, row, facts)


def _check_start(place: Workplace, row: Row) -> None:
    """Refuse to go on from other float weights than the finished rows of the same seed and fold did.

    A loss is a difference of two rows: of two float models it would hold their difference as well. Weights that are
    gone come back the same on the same kind of processor only. Rows that name none are older than this check.
    """
    mine, kin = file_digest(place.float_weights(row)), (row.seed, row.fold)
    finished = read_results(place.rows).rows.values()
    others = {f.facts.get(START, mine) for f in finished if (f.row.seed, f.row.fold) == kin} - {mine}
    if others:
        found = f"float weights {mine} of seed {row.seed}, fold {row.fold}"
        remedy = "bring those weights back, or take the rows of this seed and fold out of the results"
        raise UsageError(Problem(str(place.rows), found, f"{', '.join(sorted(others))}, as finished rows", remedy))


def _check_return(place: Workplace, again: FinishedRow) -> None:
    """Take float weights away that come back with other scores than the finished row of their model has."""
    before = read_results(place.rows).rows.get(again.row)
    if before is not None and not np.array_equal(before.scores, again.scores):
        place.float_weights(again.row).unlink()
        found = f"float weights of seed {again.row.seed}, fold {again.row.fold}, trained again, score otherwise"
        remedy = "train them on the kind of processor of before, or take the rows of this seed and fold out"
        raise UsageError(Problem(str(place.rows), found, "the scores of the finished row", remedy))


def _scored(model: Any, clips: LabelledFeatures, place: Workplace, row: Row, trained: dict[str, Any]) -> FinishedRow:
    from kwsq.converter.gate.class_trials import log_odds
    from kwsq.models.export_onnx import export_onnx
    from kwsq.models.layers.sequential import layer_records
    from kwsq.models.scoring.artefact import scored_artefact

    path = place.out / "models" / f"{row.name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(export_onnx(layer_records(model), model.input_shape[1:], name=row.method))
    scored = scored_artefact(path, clips.features, weight_bits=None if row.bits == 32 else row.bits)
    keras = model(clips.features, training=False).numpy().argmax(axis=1)
    predicted = scored.logits.argmax(axis=1)
    facts = {
        "runtime": scored.runtime,
        **scored.facts,
        **trained,
        "keras_top1_differs": int((keras != predicted).sum()),
        "onnxruntime_top1_differs": int((scored.source_logits.argmax(axis=1) != predicted).sum()),
    }
    odds = np.stack([log_odds(scored.logits, keyword) for keyword in KEYWORDS], axis=1)
    return FinishedRow(row, scored.model_bytes, predicted.astype(np.int64), score_codes(odds), facts)


def main(
    protocol: Annotated[Path, typer.Argument(help="Protocol file, such as models/kws_ff/table.toml.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Output folder: features, float checkpoints, models.")],
    rows: Annotated[Path, typer.Option(help="Results file that finished rows are appended to.")],
    weights: Annotated[Path | None, typer.Option(help="Published model that the recipe's [start] names.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of one operation.")] = 1,
) -> None:
    """Train and score every row of a protocol that is not finished; may be killed and started again.

    Exits with 1 where a row could not be finished.
    """
    prepare_tensorflow(threads)
    place = open_workplace(protocol, data, out, rows, weights)
    refused = run(place, lambda line: typer.echo(line, err=True), most=ROWS_PER_PROCESS)
    if hopeful_rows(place, refused):
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if refused:
        raise typer.Exit(1)


if __name__ == "__main__":
    os.umask(0o022)
    typer.run(main)
