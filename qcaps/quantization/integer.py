"""Integer convolutions: layers of at most 8 bits computed on the processor's int8 units, with exact sums.

A convolution whose input was rounded to codes of at most 8 bits, and whose weights are such codes too, adds up products
of integers. The int8 operators that PyTorch has from oneDNN add them up in 32 bits, turn the sum into a float32, scale
it by a power of two and add the bias: below 2^24 steps every sum is exact, and from there on it is rounded once. They
are internal to PyTorch, so that they are tried out first; without them everything stays as it is, in float.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from qcaps.capsules.sites import hooked
from qcaps.models.network import CapsuleNetwork
from qcaps.quantization.formats import SCALE_LIMIT, FixedPoint, NumberFormat
from qcaps.quantization.plan import BitPlan

# Each multiplies bytes and adds the products up in 32 bits; what came before saturates in 16.
INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni")
# Added to signed codes, for the operators want bytes without a sign.
SIGNED = 128
# So many products of bytes never add up to more than 32 bits.
MOST_TERMS = ((1 << 31) - 1) // (255 * 128)
# With fewer products for each value that comes in, turning it into a code costs more than integers save.
LEAST_PRODUCTS = 128

# Output of a convolution from its module and its input.
Convolution = Callable[[nn.Conv2d, Tensor], Tensor]
# Stride, padding and dilation, rows and columns of each.
Geometry = tuple[list[int], list[int], list[int]]


@functools.cache
def integer_units() -> bool:
    """Tell whether this processor convolves integers fast, and this PyTorch exactly: tried out once, never raises."""
    try:
        found = torch.cpu.get_capabilities()
        fast = any(found.get(name, False) for name in INSTRUCTIONS)
        return fast and all(_exact(zero_point, padding) for zero_point in (0, SIGNED) for padding in (0, 1))
    except Exception:  # whether the operators exist, and what they raise, is nowhere promised
        return False


def _exact(zero_point: int, padding: int) -> bool:
    """Compare a convolution with sums of integers, the largest that there can be among them."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-zero_point, 256 - zero_point, (4, 256, 7, 7), generator=generator)
    values[0], values[1] = -zero_point, 255 - zero_point
    codes = torch.randint(-128, 128, (24, 256, 3, 3), generator=generator)
    codes[:8], codes[8:16] = -128, 127
    scales, bias = torch.exp2(-torch.arange(24.0)), torch.randn(24, generator=generator)
    convolve = _operator(codes.to(torch.int8), scales, bias, ([2, 2], [padding, padding], [1, 1]), 1, zero_point)
    found = convolve((values + zero_point).to(torch.uint8).contiguous(memory_format=torch.channels_last))
    windows = functional.pad(values, [padding] * 4).unfold(2, 3, 2).unfold(3, 3, 2)  # (batch, in, h', w', 3, 3)
    sums = torch.einsum("bihwkl,oikl->bohw", windows, codes)
    return torch.equal(found, sums.float() * scales.view(-1, 1, 1) + bias.view(-1, 1, 1))


def convolution_inputs(network: CapsuleNetwork, image: tuple[int, int, int]) -> dict[str, str]:
    """Find the convolutions that are given one whole array as it left its site.

    Parameters
    ----------
    network
        In float; it is run on one image.
    image
        Channels, height and width.

    Returns
    -------
    dict
        Module name → site.
    """
    left: dict[int, tuple[str, Tensor]] = {}
    given: dict[str, set[str]] = {}

    def note(site: str, array: Tensor) -> Tensor:
        array = array.clone()  # so that what came to the site is told from what left it
        left[array.data_ptr()] = site, array
        return array

    def look(name: str, inputs: tuple[Tensor, ...]) -> None:
        site, array = left.get(inputs[0].data_ptr(), ("", inputs[0]))
        given.setdefault(name, set()).add(site if array.numel() == inputs[0].numel() else "")

    handles = [
        module.register_forward_pre_hook(lambda _module, inputs, name=name: look(name, inputs))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.inference_mode(), hooked(network, note):
            network(torch.zeros(1, *image, device=next(network.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return {name: site for name, (site, *others) in given.items() if site and not others}


@contextmanager
def integer_convolutions(
    network: CapsuleNetwork, plan: BitPlan, inputs: Mapping[str, str]
) -> Iterator[tuple[str, ...]]:
    """Compute with integers inside the block, where a plan leaves a convolution at most 8 bits.

    Parameters
    ----------
    network
        Its weights rounded. Inside the block it is for arrays that are rounded by the plan, and for nothing else.
    plan
        The formats of the arrays.
    inputs
        What :func:`convolution_inputs` found.

    Yields
    ------
    tuple
        Names of the convolutions that compute with integers: none without :func:`integer_units`.
    """
    names: list[str] = []
    with ExitStack() as stack:
        for name, site in inputs.items() if integer_units() else ():
            module = network.get_submodule(name)
            convolution = _integer_form(module, plan.of_array(site))
            if convolution is not None:
                stack.enter_context(_computed_by(module, convolution))
                names.append(name)
        yield tuple(names)


@contextmanager
def _computed_by(module: nn.Module, convolution: Convolution) -> Iterator[None]:
    """Let a module compute in another way inside the block."""
    attributes = vars(module)
    before = attributes.get("forward")  # of a block around this one
    # Bound to the module, so that a copy made inside the block computes with the copy.
    attributes["forward"] = types.MethodType(convolution, module)
    try:
        yield
    finally:
        del attributes["forward"]
        if before is not None:
            attributes["forward"] = before


def _integer_form(module: nn.Module, fmt: NumberFormat) -> Convolution | None:
    """Prepare a convolution of an array of this format, if integers can compute it and are faster."""
    if not isinstance(module, nn.Conv2d) or not isinstance(fmt, FixedPoint) or fmt.bits > 8:
        return None
    weight = module.weight.detach()
    products = weight[:, 0].numel() / module.groups / (module.stride[0] * module.stride[1])
    if products < LEAST_PRODUCTS or weight[0].numel() > MOST_TERMS:
        return None
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    frac_bits = _finest(weight)
    codes = weight * torch.exp2(frac_bits.float()).view(-1, 1, 1, 1)
    total = frac_bits + fmt.frac_bits
    if not torch.equal(codes, codes.round()) or total.abs().max() > SCALE_LIMIT:
        return None
    return _prepared(module, codes.to(torch.int8), torch.exp2(-total.float()), fmt)


def _finest(weight: Tensor) -> Tensor:
    """Give the most fraction bits with which the weights of each output channel are within codes of 8 bits."""
    low, high = weight.amin((1, 2, 3)), weight.amax((1, 2, 3))
    # The lowest code, -128, is a power of two, and everything nearer to zero is below that power.
    largest = torch.maximum(high, torch.nextafter(-low, torch.zeros_like(low)))
    return (7 - torch.frexp(largest).exponent).clamp_max_(SCALE_LIMIT)


def _prepared(conv: nn.Conv2d, codes: Tensor, scales: Tensor, fmt: FixedPoint) -> Convolution:
    """Lay the codes of the weights out for the operator, and give what convolves with them."""
    bias = None if conv.bias is None else conv.bias.detach()
    geometry = (list(conv.stride), [int(size) for size in conv.padding], list(conv.dilation))
    # Codes without a sign, those behind a ReLU for example, are spared the correction for what is added to signed ones.
    convolve = functools.cache(functools.partial(_operator, codes, scales, bias, geometry, conv.groups))
    # Beside it the last bit of a float32 is one step, so that the lowest byte of the sum is the code.
    anchor = 1.5 * 2.0**23 * fmt.step

    def forward(module: nn.Conv2d, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:  # shapes are found out on the meta device
            return nn.Conv2d.forward(module, x)
        found = (x + anchor).view(torch.int32).to(torch.uint8).contiguous(memory_format=torch.channels_last)
        signed = bool(found.amax() >= SIGNED)
        y: Tensor = convolve(SIGNED)(found.bitwise_xor_(SIGNED)) if signed else convolve(0)(found)
        return y.contiguous() if x.is_contiguous() else y  # in the order of memory that floats would have

    return forward


def _operator(
    codes: Tensor, scales: Tensor, bias: Tensor | None, geometry: Geometry, groups: int, zero_point: int
) -> Callable[[Tensor], Tensor]:
    """Make the operator: bytes that stand for themselves less `zero_point` → sums times the scale of each channel."""
    onednn, zeros = torch.ops.onednn, torch.zeros(len(codes), dtype=torch.int64)
    packed = onednn.qconv_prepack(codes, scales, 1.0, zero_point, *geometry, groups, None)
    tail: tuple[object, ...] = (bias, *geometry, groups, 1.0, 0, torch.float32, "none", [], "")

    def convolve(x: Tensor) -> Tensor:
        y: Tensor = onednn.qconv2d_pointwise(x, 1.0, zero_point, packed, scales, zeros, *tail)
        return y

    return convolve
