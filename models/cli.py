"""`kwsq train`, `eval`, `shard` and `merge-scores`: the command line of the zoo.

TensorFlow is imported only once training starts.

Also run as `python -m kwsq.models.cli train RECIPE --data DIR --out DIR --seed N`.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kwsq.converter.cli_commands import new_app
from kwsq.ir.errors import KwsqError, Problem, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kwsq.models.data.clips import LabelledFeatures
    from kwsq.models.live_bar import Display

Data = Annotated[
    Path,
    typer.Option(envvar="KWSQ_DATA", help="Folder with the audio and manifest.csv, or in the Speech Commands layout."),
]


def train(
    recipes: Annotated[list[Path], typer.Argument(help="Recipe files.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Output folder; each recipe gets a folder of its own in it.")],
    weights: Annotated[Path | None, typer.Option(help="Published model that the recipe's section start names.")] = None,
    shards: Annotated[Path | None, typer.Option(help="Clips to train on, as `kwsq shard` wrote them.")] = None,
    seed: Annotated[int, typer.Option(help="Decides initial weights, order and augmentation.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of one operation.")] = 1,
) -> None:
    """Train recipes: float, then every quantized variant; write annotated ONNX files and metrics.json.

    Several recipes train one after the other: models/*/recipe.toml is the whole zoo.

    A run that was killed goes on from its last finished epoch and ends in the same files.

    On a terminal, a bar below the lines of epochs shows how far a stage is; with CI set or TERM=dumb there is none.
    """
    run = _training("train", threads).train
    for recipe in recipes:
        with _reported(), _shown() as display:
            sinks = {"show": display.line, "told": display.count}
            results = run(recipe, data, _folder(out, recipe), seed, weights=weights, shards=shards, **sinks)
        for result in results:
            typer.echo(_line(result.file, result.accuracy, result.clips))


def shard(
    recipe: Annotated[Path, typer.Argument(help="Recipe file: its train split, features and keywords.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    shards: Annotated[
        int,
        typer.Option(
            min=1, help="Number of files in all; a multiple of the GPUs, or workers, that will train on them."
        ),
    ] = 8,
    part: Annotated[str, typer.Option(help="I/N: every N-th shard from the I-th on, for N machines.")] = "1/1",
) -> None:
    """Write the clips a recipe trains on into shards, for corpora that no memory holds: `kwsq train --shards`."""
    with _reported():
        number, parts = _part(part)
    run = _training("shard", 1).shard
    with _reported(), _shown() as display:
        count = run(recipe, data, out, shards, (number, parts), show=display.line, told=display.count)
    typer.echo(f"{count} clips in {len(range(number - 1, shards, parts))} shards in {out}")


def _training(command: str, threads: int) -> Any:
    """Import what trains; end the command where its packages are missing."""
    prepare_tensorflow(threads)
    try:
        return import_module("kwsq.models.training.train")
    except ImportError as error:
        typer.echo(f"kwsq {command}: {error.name} is missing; pip install 'kwsq[train]'", err=True)
        raise typer.Exit(2) from error


@contextmanager
def _reported() -> Iterator[None]:
    """Say what is wrong, and end the command with its exit code."""
    try:
        yield
    except KwsqError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error


def _folder(out: Path, recipe: Path) -> Path:
    """A recipe's own folder: that of its architecture, and one more for recipes of another name."""
    folder = out / recipe.resolve().parent.name
    return folder if recipe.stem == "recipe" else folder / recipe.stem


def _shown() -> "AbstractContextManager[Display]":
    from kwsq.models.live_bar import shown

    return shown(sys.stderr)


def prepare_tensorflow(threads: int) -> None:
    """Set what TensorFlow reads while it loads; call before it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")


def evaluate(
    models: Annotated[list[Path], typer.Argument(help="ONNX files of the zoo, or what they were converted to.")],
    data: Data,
    dataset: Annotated[str, typer.Option(help="Value of the manifest's set column.")] = "gsc12",
    split: Annotated[str, typer.Option(help="Value of the manifest's split column.")] = "val",
    features: Annotated[
        str | None, typer.Option(help="What the models take, lfbe or mfcc; as they state, else lfbe.")
    ] = None,
    keyword: Annotated[
        list[str] | None, typer.Option(help="Word of a wake-word model's recipe, in its order; as the models state.")
    ] = None,
    false_accept_rate: Annotated[float, typer.Option(help="Rate at which keywords missed are counted.")] = 0.01,
    scores: Annotated[Path | None, typer.Option(help="Folder for score files, one per model and word.")] = None,
    part: Annotated[str, typer.Option(help="I/N: every N-th clip from the I-th on, for N machines.")] = "1/1",
    cache: Annotated[Path, typer.Option(help="Folder for computed features.")] = Path(".cache/features"),
) -> None:
    """Print the accuracy of exported models as written; of wake-word models also the share of keywords missed.

    With --scores, every word's scores are written as `kwsq gate` reads them; those of parts after `kwsq merge-scores`.
    """
    from kwsq.models.data.clips import load_split
    from kwsq.models.scoring.score_shards import write_keywords
    from kwsq.models.scoring.task import task_of

    with _reported():
        share, task = _part(part), task_of(models, keyword or (), features)
        keywords = task.keywords
        if share[1] > 1 and scores is None:
            raise UsageError(Problem("--part", part, "--scores as well", "name the folder for this part's score files"))
        if scores is not None:
            _make_folder(scores, models)
        with _shown() as display:
            clips = load_split(
                data, cache, dataset=dataset, split=split, features=task.features, keywords=keywords, part=share,
                show=display.line, told=display.count,
            )  # fmt: skip
        for path in models:
            found = _logits(path, clips, keywords)
            typer.echo(_line(path.name, float((found.argmax(axis=1) == clips.labels).mean()), clips.clips))
            for line in _missed(path.name, found, clips, keywords, false_accept_rate) if share == (1, 1) else ():
                typer.echo(line)
            if scores is not None:
                files = write_keywords(scores, path, found, clips, keywords=keywords, part=share)
                typer.echo(f"{path.name}  scores of {len(files)} words in {scores}")


def _part(part: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", part)
    number, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= parts:
        remedy = "write 1/4 for the first of four"
        raise UsageError(Problem("--part", repr(part[:40]), "I/N with I from 1 to N", remedy))
    return number, parts


def _make_folder(scores: Path, models: list[Path]) -> None:
    """Before the clips are read: nobody waits for an evaluation that cannot be written, or is written over."""
    names = [path.name for path in models]
    if again := sorted({name for name in names if names.count(name) > 1}):
        expected, remedy = "models of different names", "evaluate them into folders of their own"
        raise UsageError(Problem("--scores", f"{again[0]} twice", expected, remedy))
    try:
        scores.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = "name another folder"
        raise UsageError(Problem("--scores", error.strerror or str(error), "a folder", remedy)) from error


def merge_scores(
    parts: Annotated[list[Path], typer.Argument(help="Score files of one word and one model.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="File with all trials.")],
) -> None:
    """Merge the score files that several machines wrote, `kwsq eval --part`, into the one that `kwsq gate` reads."""
    from kwsq.models.scoring import score_shards

    with _reported():
        trials = score_shards.merge_scores(parts, out)
    typer.echo(f"{trials} trials of {len(parts)} parts in {out}")


def _logits(path: Path, clips: "LabelledFeatures", keywords: tuple[str, ...]) -> "NDArray[np.float32]":
    from kwsq.models.data.clips import class_names
    from kwsq.models.scoring.accuracy import logits

    scores, names = logits(path, clips.features), class_names(keywords)
    if scores.shape[1] != len(names):
        expected, remedy = f"{len(names)}: {', '.join(names)}", "name the recipe's words with --keyword"
        raise UsageError(Problem(path.name, f"{scores.shape[1]} outputs", expected, remedy))
    return scores


def _missed(
    name: str, scores: "NDArray[np.float32]", clips: "LabelledFeatures", keywords: tuple[str, ...], rate: float
) -> Iterator[str]:
    from kwsq.models.scoring.detection import keyword_trials, miss_rate

    for number, word in enumerate(keywords, start=1):
        missed = miss_rate(keyword_trials(scores, clips, number), rate)
        yield (
            f"{name}  {word}: FRR {100 * missed.value:.2f} % [{100 * missed.low:.2f}, {100 * missed.high:.2f}] "
            f"of {missed.keywords} at FAR {100 * rate:g} % of {missed.others}"
        )


def _line(name: str, accuracy: float, clips: int) -> str:
    return f"{name}  accuracy {100 * accuracy:.2f} % of {clips} clips"


app = new_app(no_args_is_help=True)
app.command()(train)
app.command("eval")(evaluate)
app.command()(shard)
app.command("merge-scores")(merge_scores)

if __name__ == "__main__":
    app()
