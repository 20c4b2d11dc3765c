"""The committed files: small, inside their declared widths, equal interfaces, and runnable as they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from keyword_cases import synthetic_keywords
from numpy.typing import NDArray
from onnx import numpy_helper

from kwsq.models.data import LabelledFeatures, load_split
from kwsq.models.evaluate import accuracy, logits

MODELS = Path(__file__).resolve().parents[2] / "models"
FOLDER = MODELS / "kws_ff"
FILES = ("kws_ff_float.onnx", "kws_ff_w4.onnx", "kws_ff_w5_codebook.onnx")
OTHER_FILES = {
    "kws_cnn": ("kws_cnn_float.onnx", "kws_cnn_w8.onnx", "kws_cnn_w4.onnx", "kws_cnn_w5_codebook.onnx"),
    "ds_cnn": ("ds_cnn_float.onnx", "ds_cnn_w8.onnx", "ds_cnn_w4.onnx"),
}
OTHERS = [(folder, name) for folder, names in OTHER_FILES.items() for name in names]
MOST_BYTES = 1_300_000


def tensors(name: str) -> dict[str, NDArray[np.generic]]:
    model = onnx.load(FOLDER / name)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_small_valid_and_runs(name: str) -> None:
    path = FOLDER / name
    assert path.stat().st_size <= MOST_BYTES
    onnx.checker.check_model(onnx.load(path), full_check=True)
    out = logits(path, synthetic_keywords(3, seed=1).features)
    assert out.shape == (3, 12)
    assert np.isfinite(out).all()


def test_w4_holds_six_weights_of_four_bits() -> None:
    codes = {name: values for name, values in tensors("kws_ff_w4.onnx").items() if name.endswith(".weight.codes")}
    assert len(codes) == 6
    for values in codes.values():
        assert values.dtype == np.int8
        assert np.abs(values).max() == 7


def test_w5_holds_six_weights_of_32_levels_that_are_not_uniform() -> None:
    stored = tensors("kws_ff_w5_codebook.onnx")
    books = [values for name, values in stored.items() if name.endswith(".levels")]
    assert len(books) == 6
    for name in [name for name in stored if name.endswith(".indices")]:
        levels = stored[name.replace("indices", "levels")].astype(int)
        assert levels.size == 32
        assert (np.diff(levels) > 0).all()
        assert np.unique(np.diff(levels)).size > 1
        assert stored[name].max() < 32


@pytest.mark.parametrize("name", FILES[1:])
def test_logits_have_their_own_int8_scale(name: str) -> None:
    last = onnx.load(FOLDER / name).graph.node[-1]
    assert (last.op_type, last.output[0]) == ("DequantizeLinear", "logits")
    assert tensors(name)[last.input[2]].dtype == np.int8


@pytest.mark.parametrize(("folder", "name"), OTHERS)
def test_a_convolutional_file_is_small_valid_and_at_its_width(folder: str, name: str) -> None:
    path = MODELS / folder / name
    assert path.stat().st_size <= MOST_BYTES
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    largest = max(
        (int(np.abs(values).max()) for key, values in stored.items() if key.endswith(".weight.codes")), default=0
    )
    most = {"w8": 127, "w4": 7}.get(path.stem.removeprefix(f"{folder}_"), 0)
    # tanh keeps squashed weights inside the grid's end, which the widest grid can tell.
    assert most // 2 <= largest <= most
    assert {values.size for key, values in stored.items() if key.endswith(".levels")} <= {32}


@pytest.mark.parametrize("folder", OTHER_FILES)
def test_no_committed_file_is_forgotten(folder: str) -> None:
    assert {path.name for path in (MODELS / folder).glob("*.onnx")} == set(OTHER_FILES[folder])


def card_accuracy(name: str, folder: Path = FOLDER) -> float:
    """The accuracy in percent that the card's table states for a file."""
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith(f"| `{name}`"))
    return float(row.split("|")[3])


@pytest.fixture(scope="module")
def held_out(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelledFeatures:
    return load_split(shared_dir / "data", tmp_path_factory.mktemp("cache"), dataset="gsc12", split="val")


@pytest.mark.parametrize("name", FILES)
def test_the_card_states_the_accuracy_of_the_file(name: str, held_out: LabelledFeatures) -> None:
    # One clip of 643 is 0.156 points; the card rounds to 0.01. A tie may fall differently on another processor,
    # hence one clip of room.
    assert abs(100 * accuracy(FOLDER / name, held_out) - card_accuracy(name)) < 0.156 + 0.01


def test_shuffled_labels_do_not_have_the_stated_accuracy(held_out: LabelledFeatures) -> None:
    wrong = replace(held_out, labels=np.roll(held_out.labels, 100))
    assert 100 * accuracy(FOLDER / FILES[1], wrong) < card_accuracy(FILES[1]) - 20


@pytest.mark.parametrize(("folder", "features"), [("kws_cnn", "lfbe"), ("ds_cnn", "mfcc")])
def test_the_convolutional_cards_state_the_accuracies(
    folder: str, features: str, shared_dir: Path, tmp_path: Path
) -> None:
    clips = load_split(shared_dir / "data", tmp_path, dataset="gsc12", split="val", features=features)
    for name in OTHER_FILES[folder]:
        stated = card_accuracy(name, MODELS / folder)
        assert abs(100 * accuracy(MODELS / folder / name, clips) - stated) < 0.156 + 0.01
