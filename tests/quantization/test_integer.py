from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toys import FOLDED, ROUTED, toy_images, toy_network

from qcaps.capsules.sites import Sites
from qcaps.models.deepcaps import DeepCapsSpec
from qcaps.models.network import CapsuleNetwork, Output
from qcaps.models.spec import ModelSpec
from qcaps.quantization import integer
from qcaps.quantization.applying import ArrayRounder, round_weights, weights_replaced
from qcaps.quantization.calibration import calibrate, plan_of_width
from qcaps.quantization.formats import FixedPoint, Float32
from qcaps.quantization.integer import convolution_inputs, integer_convolutions, integer_units
from qcaps.quantization.plan import BitPlan

has_units = pytest.mark.skipif(not integer_units(), reason="this machine does not convolve integers")
IMAGE = (1, 14, 14)
# Every convolution of a toy but the first one, which reads pixels.
CONVOLUTIONS = {
    FOLDED: ("stages.conv2.conv", "stages.conv3.conv", "stages.conv4.conv", "stages.primary.conv"),
    ROUTED: ("stages.primary.conv",),
}


@pytest.fixture(autouse=True)
def _every_convolution_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer, "LEAST_PRODUCTS", 0)


@pytest.fixture
def _probed_anew() -> Iterator[None]:
    integer_units.cache_clear()
    yield
    integer_units.cache_clear()


def drawn(low: int, high: int, *shape: int) -> Tensor:
    """Draw whole numbers, both ends among them."""
    found = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(0)).double()
    found.view(-1)[:2] = torch.tensor([low, high])
    return found


def layer(codes: Tensor, steps: Tensor | float, **geometry: object) -> nn.Conv2d:
    """Make a convolution with these codes as weights, one step for each output channel or for all."""
    n_out, n_in, *kernel = codes.shape
    n_in *= int(str(geometry.get("groups", 1)))
    conv = nn.Conv2d(n_in, n_out, tuple(kernel), **{"bias": False, **geometry})  # type: ignore[arg-type]
    conv.requires_grad_(requires_grad=False)
    steps = torch.as_tensor(steps, dtype=torch.float64).expand(n_out)
    conv.weight.copy_(codes * steps.view(-1, 1, 1, 1))
    return conv


def computed(conv: nn.Conv2d, x: Tensor, fmt: FixedPoint) -> Tensor:
    """Convolve with integers."""
    form = integer._integer_form(conv, fmt)
    assert form is not None
    return form(conv, x)


def exact(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve in float64, which holds every sum here."""
    weight = conv.weight.double()
    return functional.conv2d(x.double(), weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


@has_units
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"padding": 2},
        {"stride": 2, "padding": 1},
        {"stride": (1, 2), "padding": (2, 0), "dilation": 2},
        {"groups": 4},
        {"groups": 8, "padding": 1},
    ],
)
def test_sums_below_24_bits_are_exact(geometry: dict[str, int], signed: bool) -> None:
    codes = drawn(-128, 127, 16, 8 // geometry.get("groups", 1), 3, 3)
    conv = layer(codes, 2.0**-9, **geometry)
    x = (drawn(-128 if signed else 0, 127, 3, 8, 11, 9) * 2.0**-4).float()
    expected = exact(conv, x)
    assert expected.abs().max() < 2**24 * 2.0**-13
    assert torch.equal(computed(conv, x, FixedPoint(8, 4)).double(), expected)


@has_units
def test_every_pair_of_widths_is_exact() -> None:
    for bits in range(1, 9):
        for weight_bits in range(1, 9):
            ends = [(-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (bits, weight_bits)]
            conv = layer(drawn(*ends[1], 4, 16, 3, 3), 2.0**3)
            x = (drawn(*ends[0], 1, 16, 5, 5) * 2.0**-20).float()
            assert torch.equal(computed(conv, x, FixedPoint(bits, 20)).double(), exact(conv, x))


@has_units
@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("weight", [-128, 127])
def test_the_largest_sums_do_not_saturate(value: int, weight: int) -> None:
    conv = layer(torch.full((4, 512, 5, 5), float(weight)), 1.0, padding=2)
    found = computed(conv, torch.full((1, 512, 8, 8), float(value)), FixedPoint(8, 0))
    assert found[0, 0, 4, 4] == 512 * 25 * value * weight
    assert found[0, 0, 0, 0] == 512 * 9 * value * weight


@has_units
def test_a_sum_above_24_bits_is_rounded_once() -> None:
    x, conv = drawn(100, 127, 1, 256, 6, 6).float(), layer(drawn(-128, -120, 4, 256, 5, 5), 0.125)
    sums = (exact(conv, x) * 8).flatten().long().tolist()
    assert all(2**26 < -total < 2**27 for total in sums)  # where float32 numbers are 8 apart
    assert any(total % 8 for total in sums)
    found = computed(conv, x, FixedPoint(8, 0)).flatten().tolist()
    assert found == [round(Fraction(total, 8)) for total in sums]


@has_units
def test_the_bias_is_added_once() -> None:
    conv = layer(drawn(-3, 3, 4, 2, 3, 3), 0.25, bias=True)
    conv.bias.copy_(torch.tensor([1 / 3, -1e-3, 1e6, 0.0]))
    x = drawn(-8, 7, 2, 2, 6, 6).float()
    expected = exact(conv, x) + conv.bias.double().view(-1, 1, 1)
    assert torch.equal(computed(conv, x, FixedPoint(4, 0)), expected.float())


@has_units
def test_every_output_channel_may_have_a_step_of_its_own() -> None:
    codes = drawn(-128, 127, 6, 4, 3, 3)
    codes[5] = 0
    conv = layer(codes, torch.tensor([1.0, 2.0**-30, 2.0**20, 0.5, 2.0**-7, 1.0]))
    x = (drawn(-2, 1, 2, 4, 6, 6) * 0.5).float()
    found = computed(conv, x, FixedPoint(2, 1))
    assert torch.equal(found.double(), exact(conv, x))
    assert not found[:, 5].any()


@has_units
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_the_output_lies_in_memory_as_that_of_floats(order: torch.memory_format) -> None:
    conv = layer(drawn(-2, 1, 4, 3, 3, 3), 1.0).to(memory_format=order)
    x = drawn(-2, 1, 2, 3, 6, 6).float().contiguous(memory_format=order)
    assert computed(conv, x, FixedPoint(2, 0)).stride() == conv(x).stride()


@pytest.mark.parametrize(
    ("weights", "fits"),
    [
        ([-128.0, 127.0], True),
        ([128.0, 126.0], True),
        ([-256.0, 254.0], True),
        ([128.0, 1.0], False),
        ([-129.0, 1.0], False),
        ([-257.0, 1.0], False),
        ([0.1, 1.0], False),
        ([0.0, 0.0], True),
        ([2.0**-120, 0.0], False),
        ([2.0**120, 0.0], False),
    ],
)
def test_only_codes_of_8_bits_are_taken(weights: list[float], fits: bool) -> None:
    conv = nn.Conv2d(1, 1, (1, 2), bias=False).requires_grad_(requires_grad=False)
    conv.weight.copy_(torch.tensor(weights).view(1, 1, 1, 2))
    form = integer._integer_form(conv, FixedPoint(8, 0)) if integer_units() else None
    assert (form is not None) == (fits and integer_units())


@has_units
@pytest.mark.parametrize("fmt", [FixedPoint(9, 3), FixedPoint(8, -100), Float32()])
def test_inputs_of_other_formats_are_not_taken(fmt: FixedPoint | Float32) -> None:
    assert integer._integer_form(layer(torch.ones(1, 1, 3, 3), 2.0**20), fmt) is None


@has_units
def test_convolutions_that_the_operator_does_not_know_are_not_taken() -> None:
    fmt, codes = FixedPoint(8, 0), torch.ones(2, 2, 3, 3)
    assert integer._integer_form(layer(codes, 1.0), fmt) is not None
    assert integer._integer_form(layer(codes, 1.0, padding="same"), fmt) is None
    assert integer._integer_form(layer(codes, 1.0, padding=1, padding_mode="reflect"), fmt) is None
    assert integer._integer_form(layer(codes, 1.0).double(), fmt) is None
    assert integer._integer_form(layer(torch.ones(1, 70_000, 1, 1), 1.0), fmt) is None
    assert integer._integer_form(nn.Linear(2, 2), fmt) is None


@has_units
def test_convolutions_with_few_products_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer, "LEAST_PRODUCTS", 72)
    fmt = FixedPoint(8, 0)
    assert integer._integer_form(layer(torch.ones(8, 4, 3, 3), 1.0), fmt) is not None
    assert integer._integer_form(layer(torch.ones(7, 4, 3, 3), 1.0), fmt) is None
    assert integer._integer_form(layer(torch.ones(8, 4, 3, 3), 1.0, stride=(1, 2)), fmt) is None
    assert integer._integer_form(layer(torch.ones(8, 1, 3, 3), 1.0, groups=8), fmt) is None


def plan_of(network: CapsuleNetwork, spec: ModelSpec, bits: int = 6) -> BitPlan:
    ranges = calibrate(network, toy_images(spec, split="train"), batch_size=20, seed=0)
    return plan_of_width(ranges, bits, "round_to_nearest", per_channel=True)


def with_integers(network: CapsuleNetwork, plan: BitPlan, spec: ModelSpec) -> tuple[tuple[str, ...], Output]:
    """Run a plan on the images of a toy; give the names of the convolutions that used integers as well."""
    images, inputs = toy_images(spec), convolution_inputs(network, IMAGE)
    weights = round_weights(network, plan, 0).tensors
    with (
        torch.inference_mode(),
        weights_replaced(network, weights),
        integer_convolutions(network, plan, inputs) as names,
    ):
        return names, ArrayRounder(plan, 0).forward(network, images.pixels / 255, images.indices)


def in_float(network: CapsuleNetwork, plan: BitPlan, spec: ModelSpec) -> Output:
    images = toy_images(spec)
    with torch.inference_mode(), weights_replaced(network, round_weights(network, plan, 0).tensors):
        return ArrayRounder(plan, 0).forward(network, images.pixels / 255, images.indices)


@has_units
@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_a_network_gives_the_same_scores_with_integers_as_in_float(spec: ModelSpec, bits: int) -> None:
    network = toy_network(spec)
    plan = plan_of(network, spec, bits)
    names, found = with_integers(network, plan, spec)
    assert names == CONVOLUTIONS[spec]
    assert torch.equal(found.scores, in_float(network, plan, spec).scores)
    assert bits == 2 or len(found.scores.unique()) > 20


@has_units
def test_layers_of_more_than_8_bits_stay_in_float() -> None:
    network = toy_network(FOLDED)
    plan = plan_of(network, FOLDED)
    wide = plan_of(network, FOLDED, 9)
    plan = dataclasses.replace(
        plan,
        weights={**plan.weights, "conv2.weight": wide.weights["conv2.weight"]},
        arrays={**plan.arrays, "conv2.out": wide.arrays["conv2.out"]},
    )
    assert with_integers(network, plan, FOLDED)[0] == CONVOLUTIONS[FOLDED][2:]


def test_blocks_are_sized_inside_the_context_as_outside() -> None:
    # Sizes are found out on a copy on the meta device, where the operators would crash.
    network, images = toy_network(ROUTED), toy_images(ROUTED)
    plan = plan_of(network, ROUTED)
    expected = in_float(network, plan, ROUTED).scores.argmax(1)
    with (
        torch.inference_mode(),
        weights_replaced(network, round_weights(network, plan, 0).tensors),
        integer_convolutions(network, plan, convolution_inputs(network, IMAGE)),
    ):
        found = ArrayRounder(plan, 0).predictor(network)(images.pixels / 255, images.indices)
        copied = copy.deepcopy(network)
    assert torch.equal(found, expected)
    assert all(not a.is_set_to(b) for a, b in zip(copied.parameters(), network.parameters(), strict=True))


def test_a_network_is_afterwards_what_it_was() -> None:
    network = toy_network(FOLDED)
    before = [dict(vars(module)) for module in network.modules()]
    with_integers(network, plan_of(network, FOLDED), FOLDED)
    assert [dict(vars(module)) for module in network.modules()] == before


def test_a_network_is_what_it_was_after_an_exception() -> None:
    network = toy_network(FOLDED)
    before, plan = [dict(vars(module)) for module in network.modules()], plan_of(network, FOLDED)
    inputs = convolution_inputs(network, IMAGE)
    with pytest.raises(KeyboardInterrupt), integer_convolutions(network, plan, inputs):
        raise KeyboardInterrupt
    assert [dict(vars(module)) for module in network.modules()] == before


@has_units
def test_a_block_inside_another_gives_back_what_it_took() -> None:
    network = toy_network(ROUTED)
    plans, inputs = [plan_of(network, ROUTED, bits) for bits in (3, 6)], convolution_inputs(network, IMAGE)
    x = (drawn(0, 3, 1, 4, 10, 10) * 2.0**-30).float()  # nothing but zeros, once read by the step of a plan
    conv = network.get_submodule("stages.primary.conv")
    weights = round_weights(network, plans[0], 0).tensors
    with torch.inference_mode(), weights_replaced(network, weights), integer_convolutions(network, plans[0], inputs):
        assert not conv(x).any()
        with integer_convolutions(network, plans[1], inputs):
            pass
        assert not conv(x).any()
    assert conv(x).any()


def test_the_inputs_of_a_chain_of_convolutions_are_found() -> None:
    expected = ["conv1.out", "conv2.out", "conv3.out", "conv4.out"]
    assert convolution_inputs(toy_network(FOLDED), IMAGE) == dict(zip(CONVOLUTIONS[FOLDED], expected, strict=True))


def test_the_inputs_of_residual_blocks_are_found() -> None:
    spec = DeepCapsSpec(conv_channels=4, types=(2,) * 12, dims=(4,) * 12, competing_types=2, class_dim=4, classes=3)
    found = convolution_inputs(toy_network(spec), (1, 28, 28))
    blocks = {f"stages.block{b}.{one}.conv": "" for b in range(1, 5) for one in ("l1", "l2", "l3", "skip")}
    for name in blocks:
        block, one = name.split(".")[1:3]
        before = f"block{int(block[-1]) - 1}.sum_out" if block != "block1" else "conv1.out"
        blocks[name] = {"l1": before, "l2": f"{block}.l1.out", "l3": f"{block}.l2.out", "skip": f"{block}.l1.out"}[one]
    assert found == blocks


class _Odd(nn.Module):
    """Convolutions of what came to a site, of a part of what left it, of two arrays in turn, and of all of one."""

    def __init__(self) -> None:
        super().__init__()
        self.raw, self.part, self.both, self.whole = (nn.Conv2d(n, 2, 1) for n in (2, 1, 2, 2))
        self.sites = Sites("votes", "out")

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, -x], 1)
        votes = self.sites("votes", x)
        out = self.sites("out", votes + 1)
        y = self.raw(x) + self.part(votes[:, :1]) + self.both(votes) + self.both(out)
        return (y + self.whole(out.flatten(2).view(x.shape))).flatten(2).transpose(1, 2)


def test_only_whole_arrays_behind_one_site_are_found() -> None:
    assert convolution_inputs(CapsuleNetwork({"odd": _Odd()}), IMAGE) == {"stages.odd.whole": "odd.out"}


def test_finding_inputs_leaves_no_hook_behind() -> None:
    network = toy_network(ROUTED)
    before = [(module, len(module._forward_pre_hooks)) for module in network.modules()]
    convolution_inputs(network, IMAGE)
    assert [(module, len(module._forward_pre_hooks)) for module in network.modules()] == before


def raising(*_arguments: object) -> Tensor:
    raise RuntimeError("no such kernel")


def saturating(*arguments: object) -> Callable[[Tensor], Tensor]:
    """Make the operator of a processor that adds two products up in 16 bits."""
    codes, scales, _, (stride, padding, _), _, zero_point = arguments
    assert isinstance(codes, Tensor)
    assert isinstance(scales, Tensor)

    def convolve(x: Tensor) -> Tensor:
        values, weights = x.double() - zero_point, codes.double()
        pairs = [
            functional.conv2d(values[:, i : i + 2], weights[:, i : i + 2], None, stride, padding).clamp(-(2**15), 2**15)
            for i in range(0, codes.shape[1], 2)
        ]
        return (sum(pairs) * scales.view(-1, 1, 1)).float()

    return convolve


@pytest.mark.usefixtures("_probed_anew")
@pytest.mark.parametrize("operator", [raising, saturating])
def test_everything_stays_in_float_where_the_operators_fail(
    monkeypatch: pytest.MonkeyPatch, operator: Callable[..., object]
) -> None:
    monkeypatch.setattr(integer, "_operator", operator)
    network = toy_network(ROUTED)
    plan = plan_of(network, ROUTED)
    names, found = with_integers(network, plan, ROUTED)
    assert names == ()
    assert torch.equal(found.scores, in_float(network, plan, ROUTED).scores)


@pytest.mark.usefixtures("_probed_anew")
@pytest.mark.parametrize("missing", ["qconv_prepack", "qconv2d_pointwise"])
def test_a_pytorch_without_the_operators_has_no_integer_units(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    kept = {name: getattr(torch.ops.onednn, name) for name in {"qconv_prepack", "qconv2d_pointwise"} - {missing}}
    monkeypatch.setattr(torch.ops, "onednn", SimpleNamespace(**kept))
    assert not integer_units()


@pytest.mark.usefixtures("_probed_anew")
def test_a_processor_without_the_instructions_has_no_integer_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert not integer_units()


@pytest.mark.usefixtures("_probed_anew")
def test_the_units_are_tried_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: calls.append(None) or {})
    integer_units()
    integer_units()
    assert len(calls) == 1


@has_units
@pytest.mark.slow
def test_the_kernels_of_an_older_processor_are_found_out() -> None:
    # Held to AVX2, oneDNN takes kernels that add pairs of products up in 16 bits, with saturation.
    code = "from qcaps.quantization.integer import integer_units; print(integer_units())"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
