"""Random numbers for stochastic rounding: a pure function of seed, site, image and element.

No generator holds a state, so the draws depend neither on batch size, image order and device nor on what was
computed before, and two candidates of a search share theirs.

References
----------
The mixing function and the counter step are those of SplitMix64: Steele, Lea and Flood, "Fast Splittable
Pseudorandom Number Generators", 2014, with the constants of Stafford's variant 13.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

COUNTER_STEP = 0x9E3779B97F4A7C15
WEIGHT_IMAGE = 2**64 - 1


def uniforms(seed: int, site: str, images: Tensor, count: int) -> Tensor:
    """Draw numbers in [0, 1), multiples of 2^-24, for every element of every image at one site.

    Parameters
    ----------
    seed
        Any whole number; counts modulo 2^64.
    site
        Full site name with its iteration, such as ``class_caps.logits@2``.
    images
        Index of each image in its data set (not in the batch), int64, shape ``(batch,)``.
    count
        Elements of one image at this site.

    Returns
    -------
    Tensor
        float32, shape ``(batch, count)``, on the device of `images`.
    """
    key = _mix(images.new_tensor([_signed(seed)])) ^ _signed(site_key(site))
    streams = _mix(_mix(key) ^ images)  # (batch,)
    draws = torch.empty(len(images), count, dtype=torch.float32, device=images.device)  # (batch, count)
    rows = max(1, _BLOCK // max(1, count))
    for top in range(0, len(images), rows):
        for left in range(0, count, _BLOCK):
            block = draws[top : top + rows, left : left + _BLOCK]
            _fill(block, streams[top : top + rows], first=left + 1)
    return draws


def weight_uniforms(seed: int, site: str, count: int) -> Tensor:
    """Draw numbers in [0, 1) for the `count` elements of a weight tensor; see `uniforms`."""
    return uniforms(seed, site, torch.tensor([_signed(WEIGHT_IMAGE)]), count)[0]


def site_key(site: str) -> int:
    """Give the 64-bit key of a site name: the first 8 bytes of its SHA-256, little endian."""
    return int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "little")


# Elements drawn at a time: small enough for the integers of one block to stay in the cache.
_BLOCK = 1 << 17


def _fill(block: Tensor, streams: Tensor, *, first: int) -> None:
    """Write the draws of neighbouring elements, of which `first` is the counter of the first."""
    counters = torch.arange(first, first + block.shape[1], device=block.device)
    states = streams[:, None] + counters * _signed(COUNTER_STEP)  # (rows, elements)
    # The last step of the mix reaches only the lower 33 bits, and the upper 24 are the draw.
    block.copy_(_shifted(_mix_upper(states), 40)).mul_(2.0**-24)


def _mix(z: Tensor) -> Tensor:
    """Scramble 64-bit states in place."""
    z = _mix_upper(z)
    z ^= _shifted(z, 31)
    return z


def _mix_upper(z: Tensor) -> Tensor:
    """Scramble 64-bit states in place, all but the last step."""
    z ^= _shifted(z, 30)
    z *= _signed(0xBF58476D1CE4E5B9)
    z ^= _shifted(z, 27)
    z *= _signed(0x94D049BB133111EB)
    return z


def _shifted(z: Tensor, places: int) -> Tensor:
    """Shift right and fill with zeros; the shift of int64 itself fills with the sign."""
    return (z >> places).bitwise_and_((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    """Give the int64 with the same 64 bits."""
    value %= 1 << 64
    return value - (1 << 64) if value >> 63 else value
