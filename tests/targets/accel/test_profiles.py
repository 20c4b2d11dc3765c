"""Profiles of other tools, each read back by a decoder written from the convention's description."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kwsq.targets.accel.profiles.finn import pack_finn
from kwsq.targets.accel.profiles.lce import pack_lce
from kwsq.targets.accel.profiles.max78002 import pack_max78002
from kwsq.targets.accel.profiles.ne16 import pack_ne16

Codes = NDArray[np.int8]
SIZES = st.tuples(st.integers(1, 20), st.integers(1, 4), st.integers(1, 4), st.integers(1, 70))
SEEDS = st.integers(0, 99)


def binary(shape: tuple[int, ...], seed: int) -> Codes:
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), shape)


@given(SIZES, SEEDS)
def test_lce_sign_words(shape: tuple[int, int, int, int], seed: int) -> None:
    """int32 words along the input channels, element i in bit i, set for values below 0, zeros behind the last."""
    codes = binary(shape, seed)
    words = pack_lce(codes)
    assert words.dtype == np.int32
    assert words.shape == (*shape[:3], -(-shape[3] // 32))
    for index in np.ndindex(*shape[:3]):
        for channel in range(words.shape[3] * 32):
            bit = int(words[index][channel // 32]) >> channel % 32 & 1
            assert bit == (channel < shape[3] and codes[index][channel] < 0)


def finn_elements(line: str, bits: int, count: int, reverse: bool) -> list[int]:
    """Hexadecimal text: the first element is the most significant field, unless reversed."""
    text = f"{int(line, 16):0{4 * len(line)}b}"
    fields = [text[len(text) - bits * (k + 1) : len(text) - bits * k] for k in range(count)]
    values = [int(field, 2) for field in (fields if reverse else fields[::-1])]
    if bits == 1:
        return [2 * value - 1 for value in values]
    return [value - 2**bits if value >= 2 ** (bits - 1) else value for value in values]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 12), st.integers(1, 3), st.integers(1, 8), st.booleans())
def test_finn_lines(pe: int, folds: int, simd: int, parts: int, bits: int, reverse: bool) -> None:
    rng = np.random.default_rng(bits)
    shape = (pe * folds, simd * parts)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    codes = binary(shape, 1) if bits == 1 else rng.integers(low, high, shape).astype(np.int8)
    lines = pack_finn(codes, bits, pe=pe, simd=simd, reverse=reverse, pad_to_bits=8)
    assert len(lines) == folds * parts
    for number, line in enumerate(lines):
        fold, part = divmod(number, parts)
        expected = codes[fold * pe : (fold + 1) * pe, part * simd : (part + 1) * simd].reshape(-1).tolist()
        assert len(line) % 2 == 0
        assert finn_elements(line, bits, pe * simd, reverse) == expected


def test_finn_example_of_its_documentation() -> None:
    """Bipolar 1 1 -1 1 is the bits 1101, first element most significant; reversed it is 1011."""
    codes = np.array([[1, 1, -1, 1]], np.int8)
    assert pack_finn(codes, 1, reverse=False) == ("d",)
    assert pack_finn(codes, 1, reverse=True) == ("b",)
    assert pack_finn(codes, 1, reverse=False, pad_to_bits=8) == ("0d",)


@given(st.integers(1, 20), st.integers(1, 5), SEEDS)
def test_max78002_words(outputs: int, inputs: int, seed: int) -> None:
    """72-bit words [k0] [k1..k4] [k5..k8], taps reversed, a byte per tap of eight outputs, a set bit for -1."""
    codes = binary((outputs, 3, 3, inputs), seed)
    memory = pack_max78002(codes)
    assert memory.shape == (inputs, -(-outputs // 8), 4)
    for channel, group in np.ndindex(inputs, memory.shape[1]):
        first, second, third, rest = (int(word) for word in memory[channel, group])
        assert first < 256
        assert rest == 0
        k = [first, *second.to_bytes(4, "big"), *third.to_bytes(4, "big")]
        for tap in range(9):
            for bit in range(8):
                output = 8 * group + bit
                expected = output < outputs and codes[output, tap // 3, tap % 3, channel] == -1
                assert k[8 - tap] >> bit & 1 == expected


@given(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 35)), st.integers(2, 8), SEEDS)
def test_ne16_planes(shape: tuple[int, int, int, int], bits: int, seed: int) -> None:
    """(O, I / 16, bits, H * W, 2 bytes): unsigned codes with an offset, input channel 0 in the lowest bit."""
    half = 2 ** (bits - 1)
    codes = np.random.default_rng(seed).integers(-half, half, shape).astype(np.int8)
    planes = pack_ne16(codes, bits)
    outputs, height, width, inputs = shape
    blocks = -(-inputs // 16)
    assert planes.shape == (outputs, blocks, bits, height * width, 2)
    words = planes[..., 0].astype(int) | planes[..., 1].astype(int) << 8
    for o, h, w, i in np.ndindex(outputs, height, width, blocks * 16):
        word = words[o, i // 16, :, h * width + w]
        unsigned = sum(int(word[p] >> i % 16 & 1) << p for p in range(bits))
        assert unsigned == (int(codes[o, h, w, i]) + half if i < inputs else 0)


def test_ne16_depthwise_has_its_channels_on_the_input_side() -> None:
    codes = np.arange(-4, 4, dtype=np.int8).reshape(1, 2, 2, 2)
    assert pack_ne16(codes, 3, depthwise=True).shape == (1, 1, 3, 4, 2)
    with pytest.raises(ValueError, match="depthwise"):
        pack_ne16(np.zeros((2, 1, 1, 1), np.int8), 3, depthwise=True)


def test_what_a_profile_cannot_hold_is_refused() -> None:
    ternary = np.array([-1, 0, 1, 1, 1, 1, 1, 1, 1], np.int8).reshape(1, 3, 3, 1)
    for pack in (pack_lce, pack_max78002):
        with pytest.raises(ValueError, match="-1 and"):
            pack(ternary)
    with pytest.raises(ValueError, match="bipolar"):
        pack_finn(ternary, 1)
    with pytest.raises(ValueError, match="3 bits"):
        pack_finn(np.array([[9]], np.int8), 3)
    with pytest.raises(ValueError, match="divisors"):
        pack_finn(np.array([[1, 2, 3]], np.int8), 3, simd=2)
    with pytest.raises(ValueError, match="3 x 3"):
        pack_max78002(np.ones((1, 1, 1, 1), np.int8))
    with pytest.raises(ValueError, match="2 to 8"):
        pack_ne16(np.array([[[[8]]]], np.int8), 4)
