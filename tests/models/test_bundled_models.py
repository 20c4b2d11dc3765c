"""The committed files: small, inside their declared widths, equal interfaces, and runnable as they are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from keyword_cases import synthetic_keywords
from numpy.typing import NDArray
from onnx import numpy_helper

from kwsq.models.data.clips import LabelledFeatures, class_names, load_split
from kwsq.models.export_onnx import standard_twin
from kwsq.models.scoring.accuracy import accuracy, logits

MODELS = Path(__file__).resolve().parents[2] / "models"
FOLDER = MODELS / "kws_ff"
WIDTHS = {"w8": 8, "w5": 5, "w4": 4, "w3": 3, "w2": 2}
FILES = tuple(f"kws_ff_{kind}.onnx" for kind in ("float", *WIDTHS, "w1", "w5_codebook", "w4_all", "w8_fxp", "w4_fxp"))
KWS_CNN = ("float", "w8", "w5", "w4", "w5_codebook", "w8_fxp", "w4_fxp")
FILES_OF = {
    "kws_ff": FILES,
    "kws_cnn": tuple(f"kws_cnn_{kind}.onnx" for kind in KWS_CNN),
    "ds_cnn": tuple(f"ds_cnn_{kind}.onnx" for kind in ("float", "w8", "w5", "w4")),
}
EVERY_FILE = [(folder, name) for folder, names in FILES_OF.items() for name in names]
OTHERS = [(folder, name) for folder, name in EVERY_FILE if folder != "kws_ff"]
MOST_BYTES = 1_300_000


def tensors(name: str) -> dict[str, NDArray[np.generic]]:
    model = onnx.load(FOLDER / name)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_small_valid_and_runs(name: str) -> None:
    path = FOLDER / name
    assert path.stat().st_size <= MOST_BYTES
    onnx.checker.check_model(standard_twin(onnx.load(path)), full_check=True)
    out = logits(path, synthetic_keywords(3, seed=1).features)
    assert out.shape == (3, 12)
    assert np.isfinite(out).all()


@pytest.mark.parametrize(("kind", "bits"), [*WIDTHS.items(), ("w4_all", 4), ("w8_fxp", 8), ("w4_fxp", 4)])
def test_a_uniform_file_holds_six_weights_of_its_width(kind: str, bits: int) -> None:
    stored = tensors(f"kws_ff_{kind}.onnx")
    codes = [values for name, values in stored.items() if name.endswith((".weight.codes", ".weight.levels"))]
    assert len(codes) == 6
    # Two bits are mid-rise: odd levels.
    top = 3 if bits == 2 else 2 ** (bits - 1) - 1
    for values in codes:
        assert values.dtype == np.int8
        # tanh keeps squashed weights inside the grid's end, which the widest grid can tell.
        assert top // 2 < np.abs(values.astype(int)).max() <= top


def test_w1_holds_signs() -> None:
    signs = [values for name, values in tensors("kws_ff_w1.onnx").items() if name.endswith(".weight.signs")]
    assert [sorted(np.unique(values)) for values in signs] == [[-1.0, 1.0]] * 6


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
    bits = WIDTHS.get(path.stem.removeprefix(f"{folder}_").removesuffix("_fxp"), 0)
    codes = {key: int(np.abs(values).max()) for key, values in stored.items() if key.endswith(".weight.codes")}
    assert bool(codes) == bool(bits)
    for key, largest in codes.items():
        top = 2 ** ((8 if key.startswith("depthwise") else bits) - 1) - 1
        assert top // 2 <= largest <= top
    assert {values.size for key, values in stored.items() if key.endswith(".levels")} <= {32}


@pytest.mark.parametrize("folder", FILES_OF)
def test_no_committed_file_is_forgotten(folder: str) -> None:
    assert {path.name for path in (MODELS / folder).glob("*.onnx")} == set(FILES_OF[folder])


@pytest.mark.parametrize("kind", ["w4_all", "w8_fxp", "w4_fxp"])
def test_where_everything_is_quantized_every_scale_is_a_power_of_two(kind: str) -> None:
    scales = [value for name, value in tensors(f"kws_ff_{kind}.onnx").items() if name.endswith(".scale")]
    assert len(scales) >= 14  # six weights, and activations
    assert all((np.frexp(scale)[0] == 0.5).all() for scale in scales)


@pytest.mark.parametrize(("folder", "name"), EVERY_FILE)
def test_a_file_states_its_classes_and_features(folder: str, name: str) -> None:
    stated = {entry.key: entry.value for entry in onnx.load(MODELS / folder / name).metadata_props}
    assert json.loads(stated["kwsq.classes"]) == list(class_names())
    assert stated["kwsq.features"] == ("mfcc" if folder == "ds_cnn" else "lfbe")


def card_row(name: str, folder: Path = FOLDER) -> list[str]:
    """The cells of the card's table that stand in a file's row."""
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith(f"| `{name}`"))
    return [cell.strip() for cell in row.split("|")[1:-1]]


def card_accuracy(name: str, folder: Path = FOLDER) -> float:
    """The accuracy in percent that the card's table states for a file."""
    return float(card_row(name, folder)[2])


@pytest.mark.parametrize(("folder", "name"), EVERY_FILE)
def test_the_card_states_the_bytes_of_the_file(folder: str, name: str) -> None:
    assert card_row(name, MODELS / folder)[3] == f"{(MODELS / folder / name).stat().st_size:,}"


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
    for name in FILES_OF[folder]:
        stated = card_accuracy(name, MODELS / folder)
        assert abs(100 * accuracy(MODELS / folder / name, clips) - stated) < 0.156 + 0.01
