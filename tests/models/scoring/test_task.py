"""Classes and features that a file states decide how it is scored; the command line may not say otherwise."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from keyword_cases import noise_recordings
from onnx import helper
from onnx_models import unstated
from typer.testing import CliRunner

from kwsq.ir.errors import UsageError
from kwsq.ir.quant import UNQUANTIZED
from kwsq.models import cli
from kwsq.models.data.clips import LABELS, OTHER
from kwsq.models.export_onnx import export_onnx
from kwsq.models.records import DenseRecord, LayerRecord, MeanOverTimeRecord, ReluRecord, WeightTensor
from kwsq.models.scoring.accuracy import logits
from kwsq.models.scoring.task import Task, task_of

MODELS = Path(__file__).resolve().parents[3] / "models"
YES = MODELS / "wake_word" / "kws_ff_yes_w4.onnx"
MFCC = MODELS / "ds_cnn" / "ds_cnn_w4.onnx"


def network(bands: int, classes: int) -> tuple[LayerRecord, ...]:
    """Means of the bands, and so many classes of them."""
    weights = np.random.default_rng(3).normal(size=(bands, classes)).astype(np.float32)
    dense = DenseRecord("dense", WeightTensor(weights, UNQUANTIZED), np.zeros(classes, np.float32))
    return ReluRecord("relu"), MeanOverTimeRecord("mean"), dense


def write(folder: Path, name: str, classes: tuple[str, ...], features: str = "lfbe", *, states: bool = True) -> Path:
    stated = {"classes": classes, "features": features} if states else {}
    path, (frames, bands) = folder / name, {"lfbe": (98, 64), "mfcc": (49, 10)}[features]
    path.write_bytes(export_onnx(network(bands, len(classes)), (frames, bands), name="m", **stated))
    return path


def test_what_files_state_is_taken_where_nothing_is_asked_for(tmp_path: Path) -> None:
    words = write(tmp_path, "words.onnx", (OTHER, "no", "yes"), "mfcc")
    twelve = write(tmp_path, "twelve.onnx", LABELS)
    assert task_of([words], (), None) == Task(("no", "yes"), "mfcc")
    assert task_of([unstated(YES, tmp_path), words], (), None) == Task(("no", "yes"), "mfcc")
    assert task_of([YES], (), None) == Task(("yes",), "lfbe")
    assert task_of([twelve], (), None) == Task((), "lfbe")
    assert task_of([words], ("no", "yes"), "mfcc") == Task(("no", "yes"), "mfcc")


def test_of_files_that_state_nothing_the_command_line_decides(tmp_path: Path) -> None:
    artefact = tmp_path / "model.tflite"
    artefact.write_bytes(b"\x1c\x00\x00\x00TFL3 and more")
    for path in (unstated(YES, tmp_path), artefact, tmp_path / "none.onnx"):
        assert task_of([path], ("no", "yes"), "mfcc") == Task(("no", "yes"), "mfcc")
        assert task_of([path], (), None) == Task((), "lfbe")


def refusal(models: list[Path], keywords: tuple[str, ...] = (), features: str | None = None) -> list[str]:
    with pytest.raises(UsageError) as caught:
        task_of(models, keywords, features)
    return [str(problem) for problem in caught.value.problems]


def test_every_file_that_states_something_else_is_refused(tmp_path: Path) -> None:
    words = write(tmp_path, "words.onnx", (OTHER, "no", "yes"), "mfcc")
    twelve = write(tmp_path, "twelve.onnx", LABELS)
    assert refusal([words, unstated(YES, tmp_path), twelve], ("yes", "no"), "lfbe") == [
        "words.onnx: found classes _other_, no, yes; expected classes _other_, yes, no, as --keyword says; "
        "leave --keyword out: the file states it",
        f"twelve.onnx: found classes {', '.join(LABELS)}; expected classes _other_, yes, no, as --keyword says; "
        "leave --keyword out: the file states it",
        "words.onnx: found features 'mfcc'; expected features 'lfbe', as --features says; "
        "leave --features out: the file states it",
    ]
    (tmp_path / "more").mkdir()
    namesake = write(tmp_path / "more", "words.onnx", (OTHER, "yes", "no"), "lfbe")
    assert refusal([words, namesake]) == [
        "words.onnx: found classes _other_, yes, no; expected classes _other_, no, yes, as words.onnx says; "
        "evaluate these files apart",
        "words.onnx: found features 'lfbe'; expected features 'mfcc', as words.onnx says; evaluate these files apart",
    ]


@pytest.mark.parametrize(
    ("keywords", "found"),
    [
        (("yes", "no", "yes", "no", "up"), "'no' 2 times, 'yes' 2 times"),
        (("_other_", ""), "'_other_', ''"),
        (("yes", "hey/siri", "..", "a\nb", "\udcff"), "'hey/siri', '..', 'a\\nb', '\\udcff'"),
    ],
)
def test_keywords_that_are_no_different_words_are_refused(keywords: tuple[str, ...], found: str) -> None:
    (problem,) = refusal([YES], keywords)
    assert problem.startswith(f"--keyword: found {found}; expected ")


@pytest.mark.parametrize(
    "stated",
    ["", "yes", '{"a": 1}', '["yes", "no"]', '["_other_"]', '["_other_", "a", "a"]', "[1]", '["_other_", "../a"]'],
)
def test_classes_that_cannot_be_read_are_refused(tmp_path: Path, stated: str) -> None:
    path = write(tmp_path, "words.onnx", (OTHER, "no", "yes"))
    model = onnx.load(path)
    helper.set_model_props(model, {"kwsq.classes": stated})
    onnx.save(model, path)
    (problem,) = refusal([path], ("no", "yes"))
    assert problem.startswith(f"words.onnx: kwsq.classes: found {stated!r}; expected a JSON list")


def test_features_that_there_are_not_are_named_where_they_stand(tmp_path: Path) -> None:
    (problem,) = refusal([YES], (), "foo")
    assert problem == "--features: found 'foo'; expected one of lfbe, mfcc; correct it"
    path = write(tmp_path, "words.onnx", (OTHER, "no", "yes"))
    model = onnx.load(path)
    helper.set_model_props(model, {"kwsq.features": "foo"})
    onnx.save(model, path)
    (problem,) = refusal([path])
    assert problem == "words.onnx: kwsq.features: found 'foo'; expected one of lfbe, mfcc; export the model again"


def evaluate(data: Path, *arguments: object) -> tuple[int, str]:
    options = ["--data", data, "--cache", data / "cache", "--dataset", "own", *arguments]
    result = CliRunner().invoke(cli.app, ["eval", *map(str, options)])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_recordings(tmp_path_factory.mktemp("data"), "own", [("yes", "val"), ("no", "val"), ("up", "val")])


def test_eval_takes_words_from_the_file_and_refuses_their_order_turned(data: Path, tmp_path: Path) -> None:
    path = write(tmp_path, "words.onnx", (OTHER, "no", "yes"))
    code, stated = evaluate(data, path)
    assert code == 0
    assert "no: FRR" in stated
    assert (code, stated) == evaluate(data, path, "--keyword", "no", "--keyword", "yes", "--features", "lfbe")
    code, output = evaluate(data, path, "--keyword", "yes", "--keyword", "no")
    assert (code, "found classes _other_, no, yes" in output) == (2, True)
    code, output = evaluate(data, write(tmp_path, "old.onnx", (OTHER, "no", "yes"), states=False))
    assert (code, "3 outputs" in output) == (2, True)


def test_eval_refuses_a_keyword_twice_before_anything_is_computed(tmp_path: Path) -> None:
    code, output = evaluate(tmp_path, YES, "--keyword", "yes", "--keyword", "yes")
    assert (code, "--keyword: found 'yes' 2 times" in output) == (2, True)
    assert not list(tmp_path.iterdir())


def test_eval_with_features_that_a_model_does_not_take_names_those_it_does(data: Path, tmp_path: Path) -> None:
    assert evaluate(data, MFCC)[0] == 0
    code, output = evaluate(data, unstated(MFCC, tmp_path))
    assert code == 2
    assert "ds_cnn_w4.onnx: found features of shape (1, 98, 64); expected features of shape (1, 49, 10)" in output
    assert "name --features mfcc" in output
    words = write(tmp_path, "old.onnx", (OTHER, "no", "yes"), states=False)
    code, output = evaluate(data, words, "--keyword", "no", "--keyword", "yes", "--features", "mfcc")
    assert (code, "found features of shape (10, 49); expected features of shape (64, 98)" in output) == (2, True)
    assert "name --features lfbe" in output


def test_a_model_of_no_front_end_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(export_onnx(network(5, 3), (7, 5), name="m"))
    assert logits(path, np.zeros((2, 7, 5), np.float32)).shape == (2, 3)
    with pytest.raises(UsageError, match=r"found features of shape \(64, 98\).*no front end gives these"):
        logits(path, np.zeros((2, 98, 64), np.float32))
