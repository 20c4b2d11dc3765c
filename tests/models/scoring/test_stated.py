"""An artefact states the classes and features of the model it was converted from, by the manifest beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from cli_runs import kwsq_convert
from onnx import helper
from onnx_models import unstated

from kwsq.ir.errors import UsageError
from kwsq.models.scoring.stated import stated_by
from kwsq.models.scoring.task import Task, task_of

YES = Path(__file__).resolve().parents[3] / "models" / "wake_word" / "kws_ff_yes_w4.onnx"
STATED = {"kwsq.classes": '["_other_", "yes"]', "kwsq.features": "lfbe"}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stated")
    model = onnx.load(YES)
    helper.set_model_props(model, {**STATED, "exported_from": str(folder)})
    onnx.save(model, folder / "model.onnx")
    outcome = kwsq_convert(folder / "model.onnx", "--target", "neon", "--wbits", 4, "-o", folder / "out")
    assert (outcome.code, outcome.stderr) == (0, "")
    return folder / "out"


def copied(folder: Path, converted: Path, change: Callable[[Any], object] = lambda manifest: None) -> Path:
    """Copy artefact and manifest, and change the latter."""
    manifest = json.loads((converted / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / "model.tflite").write_bytes((converted / "model.tflite").read_bytes())
    return folder / "model.tflite"


def test_the_manifest_takes_over_what_training_stated_and_nothing_else(converted: Path) -> None:
    manifest = json.loads((converted / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"]["metadata"] == STATED
    assert stated_by(converted / "model.tflite") == STATED


def test_a_source_that_states_nothing_leaves_no_metadata(tmp_path: Path) -> None:
    outcome = kwsq_convert(unstated(YES, tmp_path), "--target", "neon", "--wbits", 4, "-o", tmp_path / "out")
    assert outcome.code == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert sorted(manifest["source"]) == ["name", "sha256"]
    assert stated_by(tmp_path / "out" / "model.tflite") == {}


def test_the_task_of_an_artefact_is_its_models_and_others_are_refused(converted: Path) -> None:
    assert task_of([converted / "model.tflite"], (), None) == Task(("yes",), "lfbe")
    with pytest.raises(UsageError, match=r"model\.tflite: found classes _other_, yes; expected classes _other_, no"):
        task_of([converted / "model.tflite"], ("no",), None)
    with pytest.raises(UsageError, match=r"model\.tflite: found features 'lfbe'; expected features 'mfcc'"):
        task_of([converted / "model.tflite"], (), "mfcc")


def test_other_bytes_than_the_manifest_describes_state_nothing(converted: Path, tmp_path: Path) -> None:
    path = copied(tmp_path, converted)
    assert stated_by(path) == STATED
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert stated_by(path) == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.clear(),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest.update(files={}),
        lambda manifest: manifest.update(source="model.onnx"),
        lambda manifest: manifest["source"].pop("metadata"),
        lambda manifest: manifest["source"].update(metadata=["kwsq.classes"]),
        lambda manifest: manifest["source"].update(metadata={"kwsq.classes": 1}),
    ],
)
def test_a_damaged_manifest_states_nothing(converted: Path, tmp_path: Path, change: Callable[[Any], object]) -> None:
    assert stated_by(copied(tmp_path, converted, change)) == {}


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '"text"', "\udcff"])
def test_a_manifest_that_is_no_object_states_nothing(converted: Path, tmp_path: Path, text: str) -> None:
    path = copied(tmp_path, converted)
    path.with_name("manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    assert stated_by(path) == {}


@pytest.mark.parametrize("suffix", [".json", ".onnxjson", ".textproto", ".prototxt", ".onnxtxt"])
def test_a_file_is_read_as_what_it_is_whatever_its_name_ends_with(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"model{suffix}").write_bytes(YES.read_bytes())
    assert stated_by(tmp_path / f"model{suffix}") == stated_by(YES) != {}
    (tmp_path / f"none{suffix}").write_bytes(b"{\xff")
    assert stated_by(tmp_path / f"none{suffix}") == {}
