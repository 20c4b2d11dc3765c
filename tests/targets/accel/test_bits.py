"""Bit fields of every width, shape, alignment and order: packed here, decoded by arithmetic on one large integer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kwsq.ir.quant import IntRange
from kwsq.targets.accel.bits import ALIGNMENTS_BITS, Layout, RowLayout, choose_alignment, pack_rows, unpack_rows
from kwsq.targets.accel.codes import Coding, Scheme, choose_coding

LAYOUTS = st.builds(
    RowLayout,
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    bits=st.integers(1, 8),
    row_align_bits=st.sampled_from([*ALIGNMENTS_BITS, 2, 4, 256, 512]),
    order=st.sampled_from(Layout),
)


def random_fields(layout: RowLayout, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2**layout.bits, (layout.rows, layout.columns)).astype(np.uint8)


def decoded(data: bytes, layout: RowLayout) -> list[list[int]]:
    """docs/pack-format.md, "Weights", word by word: the tensor as one little-endian number."""
    number, bits = int.from_bytes(data, "little"), layout.bits

    def up(count: int) -> int:
        return -(-count // layout.row_align_bits) * layout.row_align_bits

    rows = []
    for row in range(layout.rows):
        if layout.order is Layout.STREAM:
            start = row * up(layout.columns * bits)
            rows.append([number >> start + k * bits & 2**bits - 1 for k in range(layout.columns)])
        else:
            plane = up(layout.columns)
            starts = [(row * bits + p) * plane for p in range(bits)]
            rows.append([sum((number >> s + k & 1) << p for p, s in enumerate(starts)) for k in range(layout.columns)])
    return rows


@given(LAYOUTS, st.integers(0, 99))
def test_round_trip_and_independent_decoder(layout: RowLayout, seed: int) -> None:
    fields = random_fields(layout, seed)
    data = pack_rows(fields, layout)
    assert len(data) == layout.size_bytes
    assert decoded(data, layout) == fields.tolist()
    np.testing.assert_array_equal(unpack_rows(data, layout), fields)


@given(LAYOUTS, st.integers(0, 99))
def test_every_padding_bit_must_be_zero(layout: RowLayout, seed: int) -> None:
    """A flipped bit changes a field or is refused: nothing is stored where nobody looks."""
    fields = random_fields(layout, seed)
    data = bytearray(pack_rows(fields, layout))
    position = np.random.default_rng(seed).integers(8 * len(data))
    data[position // 8] ^= 1 << position % 8
    touched = [k for row in decoded(bytes(data), layout) for k in row] != fields.reshape(-1).tolist()
    if touched:
        assert int((unpack_rows(bytes(data), layout) != fields).sum()) == 1
    else:
        assert layout.padding_bits
        with pytest.raises(ValueError, match="padding bit"):
            unpack_rows(bytes(data), layout)


def test_all_padding_bits_are_counted() -> None:
    layout = RowLayout(2, 10, 1, 8)
    data = pack_rows(np.ones((2, 10), np.uint8), layout)
    assert 8 * len(data) - sum(byte.bit_count() for byte in data) == layout.padding_bits == 12


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_every_width(bits: int) -> None:
    signed, unsigned = IntRange.of(bits), IntRange.of(min(bits, 7), signed=False)
    for span, scheme in ((signed, Scheme.SIGNED), (unsigned, Scheme.UNSIGNED)):
        codes = np.arange(span.low, span.high + 1, dtype=np.int8)[None]
        coding = choose_coding(codes, bits, None)
        assert coding is not None
        assert scheme is Scheme.SIGNED or coding.scheme is scheme or bits == 8
        np.testing.assert_array_equal(coding.to_codes(coding.to_fields(codes)), codes)
    assert bits == 8 or choose_coding(np.array([signed.low, signed.high + 1]), bits, None) is None


@given(st.integers(1, 8), st.data())
def test_codebooks_of_every_width(bits: int, data: st.DataObject) -> None:
    values = st.integers(-128, 127)
    levels = sorted(data.draw(st.sets(values, min_size=2, max_size=min(2**bits, 256))))
    codes = np.random.default_rng(1).choice(np.array(levels, np.int8), (3, 7))
    coding = choose_coding(codes, bits, np.array(levels, np.int8))
    assert coding is not None
    fields = coding.to_fields(codes)
    assert [[levels[i] for i in row] for row in fields.tolist()] == codes.tolist()
    np.testing.assert_array_equal(coding.to_codes(fields), codes)


def test_a_code_that_is_no_level_has_no_field() -> None:
    assert choose_coding(np.array([-1, 0, 1]), 1, np.array([-1, 1])) is None
    assert choose_coding(np.array([-1, 1]), 1, np.array([-1, 1])) is not None


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 31"):
        pack_rows(np.array([[32]], np.uint8), RowLayout(1, 1, 5))
    with pytest.raises(ValueError, match="shape"):
        pack_rows(np.zeros((1, 2), np.uint8), RowLayout(2, 1, 5))
    with pytest.raises(ValueError, match="expected 2"):
        unpack_rows(b"\0", RowLayout(2, 1, 5))
    with pytest.raises(ValueError, match="below 2"):
        Coding(Scheme.CODEBOOK, 2, np.array([1, 2], np.int8)).to_codes(np.array([[2]], np.uint8))
    with pytest.raises(ValueError, match="int8"):
        Coding(Scheme.UNSIGNED, 8).to_codes(np.array([[200]], np.uint8))


def test_one_bit_means_what_the_manifest_says() -> None:
    assert Coding(Scheme.CODEBOOK, 1, np.array([-1, 1], np.int8)).bit1_means == 1
    assert Coding(Scheme.SIGNED, 1).bit1_means == -1
    assert Coding(Scheme.UNSIGNED, 1).bit1_means == 1


def test_alignment_is_the_widest_that_costs_little() -> None:
    # 560 five-bit weights are 2,800 bits, 16 short of 22 * 128: 0.57 %. Nine bits in a byte would waste 7 of 16.
    assert choose_alignment([(104, 560, 5)], Layout.STREAM) == 128
    assert choose_alignment([(64, 9, 1)], Layout.STREAM) == 1
    assert choose_alignment([(16, 64, 4), (16, 80, 4)], Layout.STREAM) == 64
    assert choose_alignment([], Layout.STREAM) == 128
