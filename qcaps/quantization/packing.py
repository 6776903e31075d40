"""Codes packed at their own width, and the segment that holds one tensor.

Bit stream: code j takes the bits j·n … j·n + n - 1, lowest first; stream bit q is bit (q mod 8) of byte
⌊q/8⌋; unused bits of the last byte are 0. Segment: one scale exponent as a signed byte (-f, or the largest
exponent of a logarithmic format), then the codes in row-major order. Float32 tensors are stored as they are.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from qcaps.errors import ArtifactError, quoted
from qcaps.quantization.formats import FixedPoint, Logarithmic, PackedFormat, Rounding
from qcaps.quantization.rounding import decode, encode


def segment_bytes(count: int, bits: int) -> int:
    """Give the bytes of a segment: ⌈count · bits / 8⌉ for the codes and 1 for the scale."""
    return 1 + _stream_bytes(count, bits)


def pack_segment(values: Tensor, fmt: PackedFormat, rounding: Rounding, uniforms: Tensor | None = None) -> Tensor:
    """Round a tensor and pack it, scale first.

    Parameters
    ----------
    values
        Any shape, float32.
    fmt
        Width and scale.
    rounding
        Scheme, as for `qcaps.quantization.rounding.quantize`.
    uniforms
        One draw per value for stochastic rounding.

    Returns
    -------
    Tensor
        uint8, shape ``(segment_bytes(count, bits),)``.

    Raises
    ------
    ValueError
        As for `qcaps.quantization.rounding.quantize`.
    """
    codes, _ = encode(values, fmt, rounding, uniforms)
    scale = -fmt.frac_bits if isinstance(fmt, FixedPoint) else fmt.max_exponent
    header = torch.tensor([scale], dtype=torch.int8).view(torch.uint8)
    return torch.cat([header, pack_codes(codes, fmt.bits)])


def unpack_segment(
    segment: Tensor, kind: str, bits: int, shape: tuple[int, ...], *, where: str
) -> tuple[Tensor, PackedFormat]:
    """Read a segment that a stranger may have written.

    Parameters
    ----------
    segment
        uint8, one dimension.
    kind, bits, shape
        What the header of the file says about the tensor. The kind is that of a format's plain data; the
        shape is already known to be the network's.
    where
        File and tensor, for the message.

    Returns
    -------
    tuple
        Values as float32 in the given shape, and their format.

    Raises
    ------
    ArtifactError
        If the segment cannot have been written by `pack_segment` for this kind, width and shape.
    """
    count = math.prod(shape)
    expected = max(1, segment_bytes(count, bits))  # a width below 1 is refused with the scale
    if segment.dtype != torch.uint8 or segment.shape != (expected,):
        raise ArtifactError(f"a segment does not have its {expected} bytes", where=where)
    scale = int(segment[:1].view(torch.int8))
    try:
        fmt = _format(kind, bits, scale)
    except ValueError as error:
        raise ArtifactError(str(error), where=where) from error
    codes = unpack_codes(segment[1:], bits, count, signed=isinstance(fmt, FixedPoint), where=where)
    if isinstance(fmt, Logarithmic) and bool((codes == fmt.invalid_code).any()):
        raise ArtifactError("a segment holds the invalid code minus zero", where=where)
    return decode(codes, fmt).view(shape), fmt


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


def _format(kind: str, bits: int, scale: int) -> PackedFormat:
    """Put a format together from what header and segment say."""
    match kind:
        case "fixed_point":
            return FixedPoint(bits, -scale)
        case "logarithmic":
            return Logarithmic(bits, scale)
    raise ValueError(f"codes of the kind {quoted(kind)} are unknown")


def _stream_bytes(count: int, bits: int) -> int:
    """Give ⌈count · bits / 8⌉."""
    return -(-count * bits // 8)
