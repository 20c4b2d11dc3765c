"""The feature reference against a scalar implementation of its equations, and its limits."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from kwsq.models.data import features

UNIT = 2.0**-53
FLOAT32_UNIT = 2.0**-24


def scalar_mel(hertz: float) -> float:
    return 2595.0 * math.log10(1.0 + hertz / 700.0)


def scalar_triangle(band: int, hertz: float) -> float:
    low, high = scalar_mel(60.0), scalar_mel(7600.0)
    step = (high - low) / 65
    left = low + band * step
    position = (scalar_mel(hertz) - left) / step
    return max(0.0, min(position, 2.0 - position))


def scalar_frame(frame: list[float], window_length: int) -> tuple[list[float], list[float]]:
    """One frame by equations (1)-(6), with a bound on |this - any float64 evaluation| per band.

    Bound: a sum of 400 products in float64, in any order, errs by at most 400 u sum|w x| in the real and in the
    imaginary part; window and twiddles err by a few u relative, so 410 u sum|w x| =: d for each side and 2 d between
    two sides. Hence |dS| <= 2 |X| (2 sqrt2 d) + (2 sqrt2 d)^2 and |dy| <= sum_k B |dS| / (E + floor) / SPREAD. The
    257-term sum over bins, the mel weights and the logarithm add 1e-13 (E + floor) relative, far below the last term:
    half a float32 ulp of |y| for the rounding of the result.
    """
    windowed = [x * (0.5 - 0.5 * math.cos(2.0 * math.pi * n / window_length)) for n, x in enumerate(frame)]
    per_part = 2.0 * math.sqrt(2.0) * 410 * UNIT * sum(map(abs, windowed))
    power, power_error = [], []
    for k in range(257):
        angles = [2.0 * math.pi * ((k * n) % 512) / 512 for n in range(400)]
        real = math.fsum(x * math.cos(a) for x, a in zip(windowed, angles, strict=True))
        imaginary = math.fsum(x * math.sin(a) for x, a in zip(windowed, angles, strict=True))
        power.append(real * real + imaginary * imaginary)
        power_error.append(2.0 * math.sqrt(power[-1]) * per_part + per_part**2)
    values, bounds = [], []
    for band in range(64):
        weights = [scalar_triangle(band, 31.25 * k) for k in range(257)]
        energy = math.fsum(w * s for w, s in zip(weights, power, strict=True))
        error = math.fsum(w * e for w, e in zip(weights, power_error, strict=True))
        values.append((math.log(energy + 1e-5) + 6.0) / 4.0)
        bounds.append(error / (energy + 1e-5) / 4.0 + 1e-12 + FLOAT32_UNIT * abs(values[-1]))
    return values, bounds


def waveform(samples: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(20)
    time_s = np.arange(samples) / 16_000
    return 0.3 * np.sin(2 * np.pi * 700 * time_s) + 0.01 * rng.standard_normal(samples)


def worst_excess(window_length: int) -> float:
    """Largest |reference - scalar| over its bound, on three frames."""
    samples = waveform(400 + 2 * 160)
    computed = features.lfbe(samples)
    worst = 0.0
    for t in range(3):
        values, bounds = scalar_frame(samples[160 * t : 160 * t + 400].tolist(), window_length)
        excess = np.abs(computed[t].astype(np.float64) - values) / np.array(bounds)
        worst = max(worst, float(excess.max()))
    return worst


def test_the_reference_equals_the_scalar_equations() -> None:
    assert worst_excess(window_length=400) <= 1.0


def test_the_comparison_notices_a_symmetric_window() -> None:
    assert worst_excess(window_length=399) > 1.0


def test_one_second_gives_98_frames_of_64_bands() -> None:
    assert features.lfbe(waveform(16_000)).shape == (98, 64)
    assert features.frame_count(16_000) == 98
    assert features.frame_count(399) == 0


def test_features_of_a_delayed_waveform_are_the_delayed_features() -> None:
    samples = waveform(4_000)
    # Summation order may differ with the number of frames: one float32 ulp at |y| < 4 is 2^-22.
    np.testing.assert_allclose(features.lfbe(samples[160:]), features.lfbe(samples)[1:], rtol=0, atol=2.0**-22)


def test_silence_is_the_floor() -> None:
    expected = np.float32((math.log(1e-5) + 6.0) / 4.0)
    np.testing.assert_array_equal(features.lfbe(np.zeros(400)), np.full((1, 64), expected))


def test_every_band_holds_a_bin() -> None:
    assert (features.mel_filterbank().sum(axis=0) > 0.5).all()


def test_energies_come_back_from_features() -> None:
    energy = np.random.default_rng(3).lognormal(-2.0, 4.0, size=1000)
    back = features.energy_from_log(features.log_from_energy(energy))
    # |y| < 8 rounds to 2^-22; times SPREAD, a product and a sum below 32 rounded at 2^-20 each: the exponent is off
    # by less than 2^-20 + 2 * 2^-20, so E + floor by 2^-18 relative, and E by that of E + floor.
    np.testing.assert_array_less(np.abs(back - energy), 2.0**-18 * (energy + 1e-5))


@pytest.mark.parametrize(
    "bad", [np.zeros(399), np.zeros((2, 400)), np.full(400, np.nan)], ids=["short", "stereo", "nan"]
)
def test_unusable_waveforms_are_refused(bad: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="waveform"):
        features.lfbe(bad)
