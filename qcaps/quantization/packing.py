"""Codes packed at their own width, and the segment that holds one tensor.

Bit stream: code j takes the bits j·n … j·n + n - 1, lowest first; stream bit q is bit (q mod 8) of byte
⌊q/8⌋; unused bits of the last byte are 0. Segment: scale exponents as signed bytes (-f, or the largest exponent
of a logarithmic format), one for the tensor or one per channel, then the codes in row-major order. Float32 tensors are
stored as they are.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from qcaps.errors import ArtifactError
from qcaps.quantization.formats import (
    Float32,
    Logarithmic,
    NumberFormat,
    PackedFormat,
    PerChannel,
    Rounding,
    base_format,
    shifted,
)
from qcaps.quantization.rounding import decode, encode


def segment_bytes(count: int, bits: int, channels: int = 1) -> int:
    """Give the bytes of a segment: ⌈count · bits / 8⌉ for the codes and 1 for the scale of every channel."""
    return channels + _stream_bytes(count, bits)


def stored_bytes(count: int, fmt: NumberFormat) -> int:
    """Give the bytes of a tensor in the file: its segment, or 4 for every value left in float."""
    return 4 * count if isinstance(fmt, Float32) else segment_bytes(count, fmt.bits, len(fmt.shifts))


def pack_segment(values: Tensor, fmt: PackedFormat, rounding: Rounding, uniforms: Tensor | None = None) -> Tensor:
    """Round a tensor and pack it, scales first.

    Parameters
    ----------
    values
        Any shape, float32.
    fmt
        Width and scales.
    rounding
        Scheme, as for `qcaps.quantization.rounding.quantize`.
    uniforms
        One draw per value for stochastic rounding.

    Returns
    -------
    Tensor
        uint8, shape ``(segment_bytes(count, bits, channels),)``.

    Raises
    ------
    ValueError
        As for `qcaps.quantization.rounding.quantize`.
    """
    codes, _ = encode(values, fmt, rounding, uniforms)
    scales = torch.tensor([-shift for shift in fmt.shifts], dtype=torch.int8).view(torch.uint8)
    return torch.cat([scales, pack_codes(codes, fmt.bits)])


def unpack_segment(
    segment: Tensor, kind: str, bits: int, shape: tuple[int, ...], *, channels: int | None = None, where: str
) -> tuple[Tensor, PackedFormat]:
    """Read a segment that a stranger may have written.

    Parameters
    ----------
    segment
        uint8, one dimension.
    kind, bits, shape
        What the header of the file says about the tensor. The kind is that of a format's plain data; the
        shape is already known to be the network's.
    channels
        As for `segment_format`.
    where
        File and tensor, for the message.

    Returns
    -------
    tuple
        Values as float32 in the given shape, and their format.

    Raises
    ------
    ArtifactError
        If the segment cannot have been written by `pack_segment` for this kind, width, shape and number of channels.
    """
    if channels is not None and shape[:1] != (channels,):
        raise ArtifactError("a segment does not have a scale for every channel", where=where)
    count, scales = math.prod(shape), 1 if channels is None else channels
    expected = max(scales, segment_bytes(count, bits, scales))  # a width below 1 is refused with the scale
    if segment.shape != (expected,):
        raise ArtifactError(f"a segment does not have its {expected} bytes", where=where)
    fmt = segment_format(segment, kind, bits, channels, where=where)
    base = fmt.base if isinstance(fmt, PerChannel) else fmt
    signed = not isinstance(base, Logarithmic)
    codes = unpack_codes(segment[scales:], bits, count, signed=signed, where=where)
    if isinstance(base, Logarithmic) and bool((codes == base.invalid_code).any()):
        raise ArtifactError("a segment holds the invalid code minus zero", where=where)
    return decode(codes.view(shape), fmt), fmt


def segment_format(segment: Tensor, kind: str, bits: int, channels: int | None, *, where: str) -> PackedFormat:
    """Read the scales of a segment that a stranger may have written.

    Parameters
    ----------
    segment, kind, bits, where
        As for `unpack_segment`.
    channels
        How many have a scale each, or None for a tensor of one scale.

    Raises
    ------
    ArtifactError
        If there are fewer scales, one is out of its range, or no format has this kind and width.
    """
    scales = 1 if channels is None else channels
    if segment.dtype != torch.uint8 or segment.dim() != 1 or len(segment) < scales:
        raise ArtifactError(f"a segment does not have the bytes of its {scales} scales", where=where)
    shifts = tuple(-scale for scale in segment[:scales].view(torch.int8).tolist())
    try:
        base = base_format(kind, bits)
        return shifted(base, shifts[0]) if channels is None else PerChannel(base, shifts)
    except ValueError as error:
        raise ArtifactError(str(error), where=where) from error


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack integer codes, any shape, into a stream of uint8; of each code the lowest `bits` (1 to 16)."""
    words = codes.detach().cpu().flatten().numpy().astype("<u2")
    code_bits = np.unpackbits(words.view(np.uint8).reshape(-1, 2), axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(code_bits, bitorder="little"))


def unpack_codes(data: Tensor, bits: int, count: int, *, signed: bool, where: str = "") -> Tensor:
    """Unpack `count` codes of 1 to 16 bits from a stream of uint8.

    Parameters
    ----------
    data
        uint8, one dimension.
    bits
        Width of a code.
    count
        Number of codes.
    signed
        Whether codes are two's complement (fixed point) or plain (logarithmic).
    where
        File and tensor, for the message.

    Returns
    -------
    Tensor
        int32, shape ``(count,)``.

    Raises
    ------
    ArtifactError
        If the stream has another length, or an unused bit of its last byte is set.
    """
    if data.shape != (_stream_bytes(count, bits),):
        raise ArtifactError(f"{count} codes of {bits} bits do not fill {data.numel()} bytes", where=where)
    stream = np.unpackbits(data.cpu().numpy(), bitorder="little")
    if stream[count * bits :].any():
        raise ArtifactError("unused bits after the last code are not zero", where=where)
    code_bytes = np.packbits(stream[: count * bits].reshape(count, bits), axis=1, bitorder="little")
    words = np.zeros((count, 2), dtype=np.uint8)
    words[:, : code_bytes.shape[1]] = code_bytes
    codes = torch.from_numpy(words.view("<u2").astype(np.int32).reshape(count))
    sign = 1 << (bits - 1) if signed else 0
    return (codes ^ sign) - sign


def _stream_bytes(count: int, bits: int) -> int:
    """Give ⌈count · bits / 8⌉."""
    return -(-count * bits // 8)
