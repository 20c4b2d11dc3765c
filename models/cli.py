"""`kwsq train` and `kwsq eval`: the command line of the zoo; TensorFlow is imported only once training starts.

Also run as `python -m kwsq.models.cli train RECIPE --data DIR --out DIR --seed N`.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from kwsq.ir.errors import KwsqError

Data = Annotated[Path, typer.Option(envvar="KWSQ_DATA", help="Folder with manifest.csv and the audio.")]


def train(
    recipes: Annotated[list[Path], typer.Argument(help="Recipe files; models/*/recipe.toml is the whole zoo.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Output folder; each recipe gets a folder of its own in it.")],
    weights: Annotated[Path | None, typer.Option(help="Published model that the recipe's [start] names.")] = None,
    seed: Annotated[int, typer.Option(help="Decides initial weights, order and augmentation.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of one operation.")] = 1,
) -> None:
    """Train recipes: float, then every quantized variant; write annotated ONNX files and metrics.json.

    A run that was killed goes on from its last finished epoch and ends in the same files.
    """
    prepare_tensorflow(threads)
    try:
        from kwsq.models.train import train as run
    except ImportError as error:
        typer.echo(f"kwsq train: {error.name} is missing; pip install 'kwsq[train]'", err=True)
        raise typer.Exit(2) from error
    for recipe in recipes:
        try:
            results = run(recipe, data, _folder(out, recipe), seed, weights=weights, show=_show)
        except KwsqError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(error.exit_code) from error
        for result in results:
            typer.echo(_line(result.file, result.accuracy, result.clips))


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
    models: Annotated[list[Path], typer.Argument(help="ONNX files of the zoo.")],
    data: Data,
    dataset: Annotated[str, typer.Option(help="Value of the manifest's set column.")] = "gsc12",
    split: Annotated[str, typer.Option(help="Value of the manifest's split column.")] = "val",
    features: Annotated[str, typer.Option(help="What the models take: lfbe or mfcc.")] = "lfbe",
    cache: Annotated[Path, typer.Option(help="Folder for computed features.")] = Path(".cache/features"),
) -> None:
    """Print the accuracy of exported models in ONNX Runtime, graph optimisations off."""
    from kwsq.models.data import load_split
    from kwsq.models.evaluate import accuracy

    try:
        examples = load_split(data, cache, dataset=dataset, split=split, features=features)
    except KwsqError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error
    for path in models:
        typer.echo(_line(path.name, accuracy(path, examples), len(examples.labels)))


def _line(name: str, accuracy: float, clips: int) -> str:
    return f"{name}  accuracy {100 * accuracy:.2f} % of {clips} clips"


app = typer.Typer(add_completion=False, no_args_is_help=True)
app.command()(train)
app.command("eval")(evaluate)

if __name__ == "__main__":
    app()
