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
from kwsq.converter.cli_options import AsJson
from kwsq.converter.cli_outcome import reported, show_result, write_result
from kwsq.ir.errors import Problem, UsageError
from kwsq.models.allowed import long_names, require_none

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kwsq.models.data.clips import LabelledFeatures
    from kwsq.models.live_bar import Display

MOST_SEED = 2**32 - 1
"""NumPy's generators take no larger one."""
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="For internal errors, show the traceback.")]
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
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Decides initial weights, order and augmentation.")
    ] = 0,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Processor threads of one operation.")] = 1,
    verbose: Verbose = False,
) -> None:
    """Train recipes: float, then every quantized variant; write annotated ONNX files and metrics.json.

    Several recipes train one after the other: models/*/recipe.toml is the whole zoo.

    A run that was killed goes on from its last finished epoch and ends in the same files.

    On a terminal, a bar below the lines of epochs shows how far a stage is; with CI set or TERM=dumb there is none.
    """
    with _reported(verbose):
        _check_recipes(recipes, out)
        run = _training("train", threads).train
        for recipe in recipes:
            with _shown() as display:
                sinks = {"show": display.line, "told": display.count}
                results = run(recipe, data, _folder(out, recipe), seed, weights=weights, shards=shards, **sinks)
            for result in results:
                write_result(_line(result.file, result.accuracy, result.clips))


def _check_recipes(recipes: list[Path], out: Path) -> None:
    """Before the first is trained: all can be read, and have folders of their own."""
    from kwsq.models.recipe import read_recipe

    kin: dict[Path, list[Path]] = {}
    for recipe in recipes:
        read_recipe(recipe)
        kin.setdefault(_folder(out, recipe), []).append(recipe)
    expected, remedy = "a folder for each recipe", "train them into output folders of their own, one after the other"
    require_none(
        [
            Problem(str(folder), f"the files of {' and '.join(map(str, same))}", expected, remedy)
            for folder, same in kin.items()
            if len(same) > 1
        ]
    )


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
    verbose: Verbose = False,
) -> None:
    """Write the clips a recipe trains on into shards, for corpora that no memory holds: `kwsq train --shards`."""
    with _reported(verbose):
        number, parts = _part(part)
        run = _training("shard", 1).shard
        with _shown() as display:
            count = run(recipe, data, out, shards, (number, parts), show=display.line, told=display.count)
        write_result(f"{count} clips in {len(range(number - 1, shards, parts))} shards in {out}\n")


def _training(command: str, threads: int) -> Any:
    """Import what trains.

    Raises:
        UsageError: its packages are missing.
    """
    prepare_tensorflow(threads)
    try:
        return import_module("kwsq.models.training.train")
    except ImportError as error:
        found, remedy = f"no package {error.name}", "pip install 'kwsq[train]'"
        raise UsageError(Problem(f"kwsq {command}", found, "the packages of training", remedy)) from error


@contextmanager
def _reported(verbose: bool) -> Iterator[None]:
    """End the command as all commands end; a file that cannot be read or written is no defect of kwsq."""
    with reported(verbose=verbose):
        try:
            yield
        except OSError as error:
            found, remedy = error.strerror or str(error), "see to it, or name another place"
            where = str(error.filename or "files")
            raise UsageError(Problem(where, found, "files that can be read and written", remedy)) from error


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
    false_accept_rate: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Rate at which keywords missed are counted.")
    ] = 0.01,
    scores: Annotated[Path | None, typer.Option(help="Folder for score files, one per model and word.")] = None,
    part: Annotated[str, typer.Option(help="I/N: every N-th clip from the I-th on, for N machines.")] = "1/1",
    cache: Annotated[Path, typer.Option(help="Folder for computed features.")] = Path(".cache/features"),
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Print the accuracy of exported models as written; of wake-word models also the share of keywords missed.

    With --scores, every word's scores are written as `kwsq gate` reads them; those of parts after `kwsq merge-scores`.
    """
    from kwsq.models.data.clips import load_split
    from kwsq.models.scoring.task import task_of

    with _reported(verbose):
        share, task = _part(part), task_of(models, keyword or (), features)
        keywords = task.keywords
        _check_places(models, scores, cache, part, keywords)
        with _shown() as display:
            clips = load_split(
                data, cache, dataset=dataset, split=split, features=task.features, keywords=keywords, part=share,
                show=display.line, told=display.count,
            )  # fmt: skip
        figures = []
        for path in models:
            found = evaluated(path, clips, keywords, rate=false_accept_rate, scores=scores, part=share)
            figures.append(found)
            if not as_json:
                write_result(_lines(found, scores))
        if as_json:
            title = {"generator": "kwsq", "schema_version": 1, "dataset": dataset, "split": split, "part": part}
            task_facts = {"features": task.features, "keywords": list(keywords)}
            show_result({**title, **task_facts, "models": figures}, None, as_json=True)


def _part(part: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", part)
    number, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= parts:
        remedy = "write 1/4 for the first of four"
        raise UsageError(Problem("--part", repr(part[:40]), "I/N with I from 1 to N", remedy))
    return number, parts


def _check_places(models: list[Path], scores: Path | None, cache: Path, part: str, keywords: tuple[str, ...]) -> None:
    """Before the clips are read: nobody waits for an evaluation that cannot be written, or is written over."""
    from kwsq.models.data.clips import class_names

    if _part(part)[1] > 1 and scores is None:
        raise UsageError(Problem("--part", part, "--scores as well", "name the folder for this part's score files"))
    _make_folder("--cache", cache)
    if scores is None:
        return
    names = [path.name for path in models]
    expected, remedy = "models of different names", "evaluate them into folders of their own"
    again = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    problems = [Problem("--scores", f"{name} {names.count(name)} times", expected, remedy) for name in again]
    files = [f"{name}.{word}.csv" for name in dict.fromkeys(names) for word in class_names(keywords)]
    require_none([*problems, *long_names("--scores", files, "give the model's file a shorter name")])
    _make_folder("--scores", scores)


def _make_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = f"{folder}: {error.strerror or error}"
        raise UsageError(Problem(option, found, "a folder", "name another folder")) from error


def merge_scores(
    parts: Annotated[list[Path], typer.Argument(help="Score files of one word and one model.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="File with all trials.")],
    verbose: Verbose = False,
) -> None:
    """Merge the score files that several machines wrote, `kwsq eval --part`, into the one that `kwsq gate` reads."""
    from kwsq.models.scoring import score_shards

    with _reported(verbose):
        trials = score_shards.merge_scores(parts, out)
        write_result(f"{trials} trials of {len(parts)} parts in {out}\n")


def evaluated(
    path: Path,
    clips: "LabelledFeatures",
    keywords: tuple[str, ...],
    *,
    rate: float,
    scores: Path | None,
    part: tuple[int, int],
) -> dict[str, Any]:
    """Return the figures of a model, shares from 0 to 1; write its score files.

    Args:
        path: of the model.
        clips: those of the part.
        keywords: of the task.
        rate: of false accepts, at which keywords missed are counted; not of parts.
        scores: folder for score files, None for none.
        part: (i, n).

    Raises:
        KwsqError: the model cannot be run, has other classes, or a file cannot be written.
    """
    from kwsq.models.scoring.score_shards import write_keywords

    found = _logits(path, clips, keywords)
    right = float((found.argmax(axis=1) == clips.labels).mean())
    missed = list(_missed(found, clips, keywords, rate)) if part == (1, 1) else []
    figures = {"file": path.name, "accuracy": right, "clips": clips.clips, "missed": missed}
    if scores is not None:
        files = write_keywords(scores, path, found, clips, keywords=keywords, part=part)
        figures["score_files"] = [str(file) for file in files]
    return figures


def _logits(path: Path, clips: "LabelledFeatures", keywords: tuple[str, ...]) -> "NDArray[np.float32]":
    from kwsq.models.data.clips import class_names
    from kwsq.models.scoring.accuracy import logits

    scores, names = logits(path, clips.features), class_names(keywords)
    if scores.shape[1] != len(names):
        expected, remedy = f"{len(names)}: {', '.join(names)}", "name the recipe's words with --keyword"
        raise UsageError(Problem(path.name, f"{scores.shape[1]} outputs", expected, remedy))
    return scores


def _missed(
    scores: "NDArray[np.float32]", clips: "LabelledFeatures", keywords: tuple[str, ...], rate: float
) -> Iterator[dict[str, Any]]:
    from kwsq.models.scoring.detection import keyword_trials, miss_rate

    for number, word in enumerate(keywords, start=1):
        missed = miss_rate(keyword_trials(scores, clips, number), rate)
        yield {
            "keyword": word,
            "frr": missed.value,
            "frr_low": missed.low,
            "frr_high": missed.high,
            "keyword_clips": missed.keywords,
            "far": rate,
            "other_clips": missed.others,
        }


def _lines(figures: dict[str, Any], scores: Path | None) -> str:
    name = figures["file"]
    lines = [_line(name, figures["accuracy"], figures["clips"])]
    for each in figures["missed"]:
        low, high = 100 * each["frr_low"], 100 * each["frr_high"]
        lines.append(
            f"{name}  {each['keyword']}: FRR {100 * each['frr']:.2f} % [{low:.2f}, {high:.2f}] "
            f"of {each['keyword_clips']} at FAR {100 * each['far']:g} % of {each['other_clips']}\n"
        )
    if scores is not None:
        lines.append(f"{name}  scores of {len(figures['score_files'])} words in {scores}\n")
    return "".join(lines)


def _line(name: str, accuracy: float, clips: int) -> str:
    return f"{name}  accuracy {100 * accuracy:.2f} % of {clips} clips\n"


app = new_app(no_args_is_help=True)
app.command()(train)
app.command("eval")(evaluate)
app.command()(shard)
app.command("merge-scores")(merge_scores)

if __name__ == "__main__":
    app()
