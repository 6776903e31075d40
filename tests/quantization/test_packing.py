from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcaps.errors import ArtifactError
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, PackedFormat, PerChannel, Rounding
from qcaps.quantization.packing import (
    pack_codes,
    pack_segment,
    segment_bytes,
    stored_bytes,
    unpack_codes,
    unpack_segment,
)
from qcaps.quantization.rounding import quantize

LENGTHS = [*range(18), 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257]


def random_codes(bits: int, count: int, *, signed: bool) -> torch.Tensor:
    low = -(2 ** (bits - 1)) if signed else 0
    generator = torch.Generator().manual_seed(bits * 1000 + count)
    return torch.randint(low, low + 2**bits, (count,), generator=generator, dtype=torch.int32)


def packed_by_hand(codes: list[int], bits: int) -> bytes:
    """The bit stream as one large whole number."""
    number: int = sum((code % 2**bits) << (j * bits) for j, code in enumerate(codes))
    return number.to_bytes((len(codes) * bits + 7) // 8, "little")


def test_three_codes_of_three_bits_by_hand() -> None:
    # lowest bit first: 100 010 110 -> byte 0 is 1000 1011 read backwards, byte 1 is 0
    assert pack_codes(torch.tensor([1, 2, 3]), 3).tolist() == [0b11010001, 0]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(1, 17))
def test_codes_of_every_width_and_length_come_back(bits: int, signed: bool) -> None:
    for count in LENGTHS:
        codes = random_codes(bits, count, signed=signed)
        data = pack_codes(codes, bits)
        assert bytes(data.tolist()) == packed_by_hand(codes.tolist(), bits)
        assert torch.equal(unpack_codes(data, bits, count, signed=signed), codes)


@settings(deadline=None)
@given(st.integers(1, 16), st.data())
def test_random_codes_come_back(bits: int, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), max_size=257))
    packed = pack_codes(torch.tensor(codes, dtype=torch.int32), bits)
    assert unpack_codes(packed, bits, len(codes), signed=True).tolist() == codes


def test_codes_are_packed_in_row_major_order() -> None:
    codes = torch.arange(6).view(2, 3).t()
    assert pack_codes(codes, 8).tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(("count", "bits", "expected"), [(0, 5, 1), (1, 1, 2), (8, 3, 4), (9, 3, 5), (257, 16, 515)])
def test_a_segment_costs_its_codes_and_one_scale(count: int, bits: int, expected: int) -> None:
    assert segment_bytes(count, bits) == expected
    assert pack_segment(torch.zeros(count), FixedPoint(bits, 0), "truncation").shape == (expected,)


@pytest.mark.parametrize("length", [0, 1, 3, 4])
def test_a_stream_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ArtifactError, match=r"conv1\.weight"):
        unpack_codes(torch.zeros(length, dtype=torch.uint8), 3, 5, signed=True, where="conv1.weight")


@pytest.mark.parametrize("bit", range(3, 8))
def test_a_set_bit_behind_the_last_code_is_refused(bit: int) -> None:
    data = torch.tensor([0, 1 << bit], dtype=torch.uint8)  # 11 bits are used
    with pytest.raises(ArtifactError, match=r"unused bits .*conv1\.weight"):
        unpack_codes(data, 11, 1, signed=True, where="conv1.weight")


@pytest.mark.parametrize("rounding", get_args(Rounding))
@pytest.mark.parametrize("scale", [-100, -7, 0, 7, 100])
def test_a_segment_gives_the_rounded_values_back_bit_for_bit(rounding: Rounding, scale: int) -> None:
    fmt: PackedFormat = Logarithmic(5, scale) if rounding == "logarithmic" else FixedPoint(5, scale)
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(3, 4, 5, generator=generator) * fmt.highest
    draws = torch.rand(60, generator=generator)
    kind: str = "logarithmic" if rounding == "logarithmic" else "fixed_point"
    segment = pack_segment(values, fmt, rounding, draws)
    read, read_format = unpack_segment(segment, kind, 5, (3, 4, 5), where="conv1.weight")
    expected = quantize(values, fmt, rounding, draws).values
    assert torch.equal(read.view(torch.int32), expected.view(torch.int32))
    assert read_format == fmt
    assert torch.equal(pack_segment(read, fmt, rounding, draws), segment)


def test_the_scale_comes_first_as_a_signed_byte() -> None:
    assert pack_segment(torch.tensor([1.0]), FixedPoint(8, 3), "truncation").tolist() == [253, 8]
    assert pack_segment(torch.tensor([1.0]), Logarithmic(8, -2), "logarithmic").tolist() == [254, 127]


@pytest.mark.parametrize("kind", ["fixed_point", "logarithmic"])
@pytest.mark.parametrize("scale", [101, 127, 128, 155])
def test_a_scale_out_of_range_is_refused(scale: int, kind: str) -> None:
    segment = torch.tensor([scale, 0], dtype=torch.uint8)
    with pytest.raises(ArtifactError, match=r"conv1\.weight"):
        unpack_segment(segment, kind, 8, (1,), where="conv1.weight")


@pytest.mark.parametrize(("kind", "bits"), [("fixed_point", 0), ("fixed_point", 24), ("logarithmic", 16)])
def test_a_width_that_cannot_be_packed_is_refused(kind: str, bits: int) -> None:
    segment = torch.zeros(segment_bytes(8, bits), dtype=torch.uint8)
    with pytest.raises(ArtifactError, match=r"conv1\.weight"):
        unpack_segment(segment, kind, bits, (8,), where="conv1.weight")


@pytest.mark.parametrize("kind", ["float32", "", "Logarithmic"])
def test_an_unknown_kind_is_refused(kind: str) -> None:
    with pytest.raises(ArtifactError, match=r"unknown .*conv1\.weight"):
        unpack_segment(torch.zeros(2, dtype=torch.uint8), kind, 8, (1,), where="conv1.weight")


def test_a_negative_width_of_an_empty_segment_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"conv1\.weight"):
        unpack_segment(torch.zeros(0, dtype=torch.uint8), "fixed_point", -2, (4,), where="conv1.weight")


def test_the_code_of_minus_zero_is_refused() -> None:
    segment = torch.tensor([0, 0b1000_0001], dtype=torch.uint8)  # codes 1 and 8 of four bits
    with pytest.raises(ArtifactError, match=r"minus zero .*conv1\.weight"):
        unpack_segment(segment, "logarithmic", 4, (2,), where="conv1.weight")


@pytest.mark.parametrize("change", [-1, 1])
def test_a_truncated_or_longer_segment_is_refused(change: int) -> None:
    segment = torch.zeros(segment_bytes(10, 3) + change, dtype=torch.uint8)
    with pytest.raises(ArtifactError, match=r"conv1\.weight"):
        unpack_segment(segment, "fixed_point", 3, (2, 5), where="conv1.weight")


def test_a_segment_of_another_dtype_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"conv1\.weight"):
        unpack_segment(torch.zeros(5), "fixed_point", 3, (2, 5), where="conv1.weight")


@settings(deadline=None)
@given(st.binary(max_size=12), st.sampled_from(["fixed_point", "logarithmic"]), st.integers(-3, 40))
def test_random_bytes_are_values_of_the_format_or_refused(raw: bytes, kind: str, bits: int) -> None:
    segment = torch.tensor(list(raw), dtype=torch.uint8)
    try:
        values, fmt = unpack_segment(segment, kind, bits, (2, 2), where="conv1.weight")
    except ArtifactError:
        return
    assert values.shape == (2, 2)
    assert values.abs().max().item() <= -fmt.lowest


# ---- a scale per channel ----


def channel_format(rounding: Rounding, bits: int, shifts: tuple[int, ...]) -> PerChannel:
    return PerChannel(Logarithmic(bits, 0) if rounding == "logarithmic" else FixedPoint(bits, 0), shifts)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("rounding", get_args(Rounding))
def test_channels_of_every_width_come_back_bit_for_bit(rounding: Rounding, bits: int) -> None:
    if rounding == "logarithmic" and not 2 <= bits <= 8:
        return
    fmt = channel_format(rounding, bits, (-100, 3, 100, 0, 7))
    generator = torch.Generator().manual_seed(bits)
    tops = torch.tensor([-one.lowest for one in fmt.channels]).view(-1, 1, 1)
    values = torch.randn(5, 3, 3, generator=generator) * tops / 2
    draws = torch.rand(45, generator=generator)
    segment = pack_segment(values, fmt, rounding, draws)
    kind = "logarithmic" if rounding == "logarithmic" else "fixed_point"
    read, found = unpack_segment(segment, kind, bits, (5, 3, 3), channels=5, where="conv1.weight")
    rows = zip(values, fmt.channels, draws.view(5, 3, 3), strict=True)
    expected = torch.stack([quantize(row, one, rounding, u).values for row, one, u in rows])
    assert torch.equal(read.view(torch.int32), expected.view(torch.int32))
    assert found == fmt
    assert torch.equal(pack_segment(read, fmt, rounding, draws), segment)
    assert segment.numel() == 5 + -(-45 * bits // 8) == segment_bytes(45, bits, 5) == stored_bytes(45, fmt)


def test_the_scales_of_all_channels_come_first_then_all_codes_in_one_stream() -> None:
    values = torch.tensor([[1.0, -0.5], [4.0, 8.0]])
    # -f as signed bytes; codes 2, -1 in halves and 1, 2 in fours, of four bits each
    assert pack_segment(values, PerChannel(FixedPoint(4, 0), (1, -2)), "truncation").tolist() == [255, 2, 0xF2, 0x21]
    # the largest exponents; fields of three bits: 2^0, 2^-1 below 2^0 and 2^2, 2^3 below 2^3
    segment = pack_segment(values, PerChannel(Logarithmic(4, 0), (0, -3)), "logarithmic")
    assert segment.tolist() == [0, 3, 0xE7, 0x76]


def test_one_channel_is_stored_as_a_tensor_of_one_scale_is() -> None:
    values = torch.linspace(-1, 1, 9).view(1, 9)
    segment = pack_segment(values, PerChannel(FixedPoint(5, 0), (4,)), "truncation")
    assert torch.equal(segment, pack_segment(values, FixedPoint(5, 4), "truncation"))


@pytest.mark.parametrize(
    ("fmt", "expected"),
    [(Float32(), 52), (FixedPoint(3, 1), 6), (Logarithmic(8, 0), 14), (PerChannel(FixedPoint(3, 0), (1,) * 13), 18)],
)
def test_stored_bytes_are_codes_and_scales_or_floats(fmt: PackedFormat | Float32, expected: int) -> None:
    assert stored_bytes(13, fmt) == expected


@pytest.mark.parametrize(
    ("channels", "shape"), [(3, (2, 4)), (1, (2, 4)), (8, (2, 4)), (4, (2, 4)), (1, ()), (0, (2, 4))]
)
def test_other_channels_than_the_first_axis_are_refused(channels: int, shape: tuple[int, ...]) -> None:
    segment = torch.zeros(segment_bytes(8, 4, max(channels, 1)), dtype=torch.uint8)
    with pytest.raises(ArtifactError, match=r"every channel.*conv1\.weight"):
        unpack_segment(segment, "fixed_point", 4, shape, channels=channels, where="conv1.weight")


@pytest.mark.parametrize("scale", [101, 127, 128, 155])
@pytest.mark.parametrize("channel", [0, 2])
def test_a_scale_of_a_channel_out_of_range_is_refused(scale: int, channel: int) -> None:
    segment = torch.zeros(segment_bytes(6, 4, 3), dtype=torch.uint8)
    segment[channel] = scale
    with pytest.raises(ArtifactError, match=r"is not within .*conv1\.weight"):
        unpack_segment(segment, "fixed_point", 4, (3, 2), channels=3, where="conv1.weight")


def test_a_code_of_minus_zero_in_a_channel_is_refused() -> None:
    segment = torch.tensor([1, 2, 0x18], dtype=torch.uint8)
    with pytest.raises(ArtifactError, match=r"minus zero .*conv1\.weight"):
        unpack_segment(segment, "logarithmic", 4, (2, 1), channels=2, where="conv1.weight")


@settings(deadline=None)
@given(st.binary(max_size=12), st.sampled_from(["fixed_point", "logarithmic", "float32"]), st.integers(-3, 40))
def test_random_bytes_are_values_of_their_channels_or_refused(raw: bytes, kind: str, bits: int) -> None:
    segment = torch.tensor(list(raw), dtype=torch.uint8)
    try:
        values, fmt = unpack_segment(segment, kind, bits, (2, 2), channels=2, where="conv1.weight")
    except ArtifactError:
        return
    assert isinstance(fmt, PerChannel)
    assert [row.abs().max().item() <= -one.lowest for row, one in zip(values, fmt.channels, strict=True)] == [True] * 2
