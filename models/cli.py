"""`kwsq train` and `kwsq eval`: the command line of the zoo; TensorFlow is imported only once training starts.

Also run as `python -m kwsq.models.cli train RECIPE --data DIR --out DIR --seed N`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kwsq.ir.errors import KwsqError, Problem, UsageError

if TYPE_CHECKING:
    from kwsq.models.data.clips import LabelledFeatures

Data = Annotated[
    Path,
    typer.Option(envvar="KWSQ_DATA", help="Folder with the audio and manifest.csv, or in the Speech Commands layout."),
]


def train(
    recipes: Annotated[list[Path], typer.Argument(help="Recipe files; models/*/recipe.toml is the whole zoo.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Output folder; each recipe gets a folder of its own in it.")],
    weights: Annotated[Path | None, typer.Option(help="Published model that the recipe's [start] names.")] = None,
    shards: Annotated[Path | None, typer.Option(help="Clips to train on, as `kwsq shard` wrote them.")] = None,
    seed: Annotated[int, typer.Option(help="Decides initial weights, order and augmentation.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of one operation.")] = 1,
) -> None:
    """Train recipes: float, then every quantized variant; write annotated ONNX files and metrics.json.

    A run that was killed goes on from its last finished epoch and ends in the same files.
    """
    run = _training("train", threads).train
    for recipe in recipes:
        with _reported():
            results = run(recipe, data, _folder(out, recipe), seed, weights=weights, shards=shards, show=_show)
        for result in results:
            typer.echo(_line(result.file, result.accuracy, result.clips))


def shard(
    recipe: Annotated[Path, typer.Argument(help="Recipe file: its train split, features and keywords.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    shards: Annotated[int, typer.Option(min=1, help="Number of files.")] = 8,
) -> None:
    """Write the clips a recipe trains on into shards, for corpora that no memory holds: `kwsq train --shards`."""
    run = _training("shard", 1).shard
    with _reported():
        count = run(recipe, data, out, shards)
    typer.echo(f"{count} clips in {shards} shards in {out}")


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


def _show(line: str) -> None:
    typer.echo(line, err=True)


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
    features: Annotated[str, typer.Option(help="What the models take: lfbe or mfcc.")] = "lfbe",
    keyword: Annotated[list[str] | None, typer.Option(help="Word of a wake-word model's recipe, in its order.")] = None,
    false_accept_rate: Annotated[float, typer.Option(help="Rate at which keywords missed are counted.")] = 0.01,
    cache: Annotated[Path, typer.Option(help="Folder for computed features.")] = Path(".cache/features"),
) -> None:
    """Print the accuracy of exported models as written; of wake-word models also the share of keywords missed."""
    from kwsq.models.data.clips import load_split

    keywords = tuple(keyword or ())
    with _reported():
        clips = load_split(data, cache, dataset=dataset, split=split, features=features, keywords=keywords)
        for path in models:
            for line in _evaluation(path, clips, keywords, false_accept_rate):
                typer.echo(line)


def _evaluation(
    path: Path, clips: "LabelledFeatures", keywords: tuple[str, ...], false_accept_rate: float
) -> Iterator[str]:
    from kwsq.models.data.clips import class_names
    from kwsq.models.scoring.accuracy import logits
    from kwsq.models.scoring.detection import keyword_trials, miss_rate

    scores, names = logits(path, clips.features), class_names(keywords)
    if scores.shape[1] != len(names):
        expected, remedy = f"{len(names)}: {', '.join(names)}", "name the recipe's words with --keyword"
        raise UsageError(Problem(path.name, f"{scores.shape[1]} outputs", expected, remedy))
    yield _line(path.name, float((scores.argmax(axis=1) == clips.labels).mean()), len(clips.labels))
    for number, word in enumerate(keywords, start=1):
        missed = miss_rate(keyword_trials(scores, clips, number), false_accept_rate)
        yield (
            f"{path.name}  {word}: FRR {100 * missed.value:.2f} % [{100 * missed.low:.2f}, {100 * missed.high:.2f}] "
            f"of {missed.keywords} at FAR {100 * false_accept_rate:g} % of {missed.others}"
        )


def _line(name: str, accuracy: float, clips: int) -> str:
    return f"{name}  accuracy {100 * accuracy:.2f} % of {clips} clips"


app = typer.Typer(add_completion=False, no_args_is_help=True)
app.command()(train)
app.command("eval")(evaluate)
app.command()(shard)

if __name__ == "__main__":
    app()
