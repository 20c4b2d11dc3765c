"""The committed wake-word files: small, at their width, and as good as the card says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kwsq.models.data.clips import LabelledFeatures, load_split
from kwsq.models.recipe import read_recipe
from kwsq.models.scoring.accuracy import logits
from kwsq.models.scoring.detection import keyword_trials, miss_rate
from kwsq.models.synthetic.dataset import load_synthetic

FOLDER = Path(__file__).resolve().parents[2] / "models" / "wake_word"
FILES = ("kws_ff_yes_float.onnx", "kws_ff_yes_w4.onnx")
KEYWORDS = read_recipe(FOLDER / "recipe.toml").keywords
MOST_BYTES = 1_300_000
# One clip of 58 is 1.73 points; a tie may fall differently on another processor, hence one clip of room.
ONE_KEYWORD = 1.73


def card(name: str) -> list[str]:
    """The cells of a file's row in the card."""
    text = (FOLDER / "CARD.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
    return [cell.strip() for cell in row.split("|")[1:-1]]


def test_no_committed_file_is_forgotten() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.onnx")) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_small_valid_and_has_two_outputs(name: str) -> None:
    path = FOLDER / name
    assert path.stat().st_size <= MOST_BYTES
    assert card(name)[-1] == f"{path.stat().st_size:,}"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    out = logits(path, load_synthetic("val").features)
    assert out.shape == (78, 2)
    assert np.isfinite(out).all()


def test_w4_holds_six_weights_of_four_bits() -> None:
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(FOLDER / "kws_ff_yes_w4.onnx").graph.initializer}
    codes = [values for name, values in stored.items() if name.endswith(".weight.codes")]
    assert [np.abs(values.astype(int)).max() <= 7 for values in codes] == [True] * 6


@pytest.mark.parametrize("name", FILES)
def test_it_hears_the_word_from_voices_of_a_synthesizer(name: str) -> None:
    clips = load_synthetic("val", keywords=KEYWORDS)
    found = miss_rate(keyword_trials(logits(FOLDER / name, clips.features), clips, 1), 0.05)
    # Six keywords; by chance each is missed with 0.95, so that five or six heard have a chance of 2e-6.
    assert found.value <= 1 / 6
    shuffled = replace(clips, labels=np.roll(clips.labels, 30))
    assert miss_rate(keyword_trials(logits(FOLDER / name, clips.features), shuffled, 1), 0.05).value > 0.5


@pytest.fixture(scope="module")
def held_out(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelledFeatures:
    cache = tmp_path_factory.mktemp("cache")
    return load_split(shared_dir / "data", cache, dataset="gsc12", split="val", keywords=KEYWORDS)


@pytest.mark.shared
@pytest.mark.parametrize("name", FILES)
def test_the_card_states_what_the_file_misses(name: str, held_out: LabelledFeatures) -> None:
    scores = logits(FOLDER / name, held_out.features)
    _, _, stated, interval, accuracy, _ = card(name)
    found = miss_rate(keyword_trials(scores, held_out, 1), 0.01)
    assert abs(100 * found.value - float(stated)) < ONE_KEYWORD
    low, high = (float(bound) for bound in interval.split(" to "))
    assert 100 * found.low == pytest.approx(low, abs=ONE_KEYWORD)
    assert 100 * found.high == pytest.approx(high, abs=2 * ONE_KEYWORD)
    assert (found.keywords, found.others) == (58, 585)
    assert 100 * (scores.argmax(axis=1) == held_out.labels).mean() == pytest.approx(float(accuracy), abs=0.17)
    shuffled = replace(held_out, labels=np.roll(held_out.labels, 100))
    assert 100 * miss_rate(keyword_trials(scores, shuffled, 1), 0.01).value > float(stated) + 50
