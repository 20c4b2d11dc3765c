"""The committed synthetic set: balanced, speaker-disjoint, made as its script says, and worth listening to."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from kwsq.models.data.clips import LABELS, SILENCE, UNKNOWN
from kwsq.models.scoring.accuracy import accuracy
from kwsq.models.synthetic.dataset import FILE, LOW_AND_STEP, WAKE_WORD, load_synthetic, synthetic_words, to_codes
from kwsq.models.synthetic.generate import main, resample

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.mark.parametrize(("split", "speakers"), [("train", 10), ("val", 6)])
def test_every_speaker_says_every_word(split: str, speakers: int) -> None:
    examples = load_synthetic(split)
    counts = np.bincount(examples.labels, minlength=len(LABELS))
    assert (counts[:SILENCE] == speakers).all()
    assert (counts[SILENCE], counts[UNKNOWN]) == (speakers, 2 * speakers)
    assert synthetic_words(split).count(WAKE_WORD) == speakers
    assert examples.features.shape == (13 * speakers, 98, 64)
    assert load_synthetic(split, features="mfcc").features.shape == (13 * speakers, 49, 10)


def test_no_speaker_is_in_both_splits() -> None:
    spoken = [
        {who for who, label in zip(part.speakers, part.labels, strict=True) if label != SILENCE}
        for part in (load_synthetic("train"), load_synthetic("val"))
    ]
    assert not spoken[0] & spoken[1]


def test_the_file_is_small() -> None:
    assert FILE.stat().st_size < 700_000


@pytest.mark.parametrize("features", LOW_AND_STEP)
def test_a_code_is_within_half_a_step(features: str) -> None:
    low, step = LOW_AND_STEP[features]
    values = np.linspace(low, low + 255 * step, 1001, dtype=np.float32)
    back = low + step * to_codes(values, features).astype(np.float64)
    # Half a step, and one rounding of `values` to float32.
    assert np.abs(back - values).max() <= step / 2 + np.abs(values).max() * 2.0**-24


@pytest.mark.parametrize("name", ["float", "w4", "w5_codebook"])
def test_models_trained_on_people_understand_it(name: str) -> None:
    # 78 clips, chance 1/12: the standard deviation of a guesser is 3.2 points; 0.5 is thirteen of them away.
    assert accuracy(MODELS / "kws_ff" / f"kws_ff_{name}.onnx", load_synthetic("val")) > 0.5


def test_resampling_keeps_a_tone() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    # A whole number of periods below both Nyquist rates: exact but for float64 rounding in two transforms.
    np.testing.assert_allclose(resample(tone, 22_050, 16_000), expected, atol=1e-11)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs the program espeak-ng")
def test_the_script_makes_the_committed_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "again.npz"
    monkeypatch.setattr(sys, "argv", ["generate", str(tmp_path / "audio"), "--features", str(out)])
    main()
    with np.load(out) as again, np.load(FILE) as committed:
        assert again["speaker"].tolist() == committed["speaker"].tolist()
        # Another version of the synthesiser may place a sound elsewhere; the same one repeats to the byte.
        assert (again["lfbe"] == committed["lfbe"]).mean() > 0.9
