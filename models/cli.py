"""`kwsq train`: the command line of training; TensorFlow is imported only once it runs.

Run as `python -m kwsq.models.cli RECIPE --data DIR --out DIR --seed N`, or as `kwsq train`.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from kwsq.ir.errors import KwsqError


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file, such as models/kws_ff/recipe.toml.")],
    data: Annotated[Path, typer.Option(envvar="KWSQ_DATA", help="Folder with manifest.csv and the audio.")],
    out: Annotated[Path, typer.Option(help="Output folder; also holds the feature cache.")],
    seed: Annotated[int, typer.Option(help="Decides initial weights, order and augmentation.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of one operation.")] = 1,
) -> None:
    """Train a recipe: float, then every quantized variant; write annotated ONNX files and metrics.json."""
    # Read by TensorFlow while it loads, hence before the import below.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    try:
        from kwsq.models.train import train as run
    except ImportError as error:
        typer.echo(f"kwsq train: {error.name} is missing; pip install 'kwsq[train]'", err=True)
        raise typer.Exit(2) from error
    try:
        results = run(recipe, data, out, seed, report=lambda line: typer.echo(line, err=True))
    except KwsqError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error
    for result in results:
        typer.echo(f"{result.file}  accuracy {100 * result.accuracy:.2f} % of {result.clips} clips")


if __name__ == "__main__":
    typer.run(train)
