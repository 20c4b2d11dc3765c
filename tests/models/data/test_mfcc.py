"""The cepstra against the published benchmark's own, and against TensorFlow's operators."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from kwsq.models.data.mfcc import mfcc


def speechlike(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * (200 + 900 * time) * time) * np.exp(-20 * (time - 0.5) ** 2)
    return (0.3 * tone + 0.01 * rng.standard_normal(16_000)).astype(np.float32)


def tensorflow_mfcc(waveform: np.ndarray) -> np.ndarray:
    samples = tf.constant(waveform, tf.float64) / waveform.max()
    magnitude = tf.abs(tf.signal.stft(samples, 480, 320, 512))
    bank = tf.signal.linear_to_mel_weight_matrix(40, 257, 16_000, 20.0, 4_000.0, dtype=tf.float64)
    log_mel = tf.math.log(tf.tensordot(magnitude, bank, 1) + 1e-6)
    return tf.signal.mfccs_from_log_mel_spectrograms(log_mel)[..., :10].numpy()


@pytest.mark.parametrize("seed", [1, 2])
def test_it_equals_the_operators_of_tensorflow(seed: int) -> None:
    waveform = speechlike(seed)
    ours = mfcc(waveform)
    assert ours.shape == (49, 10)
    assert ours.dtype == np.float32
    # Both in float64; the result is rounded to float32 once, half an ulp of values below 256 being 2**-17.
    np.testing.assert_allclose(ours, tensorflow_mfcc(waveform), atol=2.0**-16)


@pytest.mark.shared
def test_it_equals_the_published_features(shared_dir: Path) -> None:
    published = np.load(shared_dir / "data" / "gsc12_mfcc.npz")
    for clip in range(0, len(published["path"]), 370):
        samples, _ = soundfile.read(shared_dir / "data" / str(published["path"][clip]), dtype="float32")
        ours = mfcc(np.pad(samples[:16_000], (0, max(0, 16_000 - len(samples)))))
        # Theirs are float32 throughout: a band's relative error of some 1e-6 in the logarithm, near the floor more.
        np.testing.assert_allclose(ours, published["ml"][clip, :, :, 0], atol=2e-4)


def test_silence_without_a_positive_sample_is_finite() -> None:
    assert np.isfinite(mfcc(np.zeros(16_000, np.float32))).all()


@pytest.mark.parametrize("waveform", [np.zeros(8_000, np.float32), np.full(16_000, np.nan, np.float32)])
def test_what_is_not_a_second_of_samples_is_refused(waveform: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        mfcc(waveform)
