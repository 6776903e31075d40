from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from toys import FOLDED, ROUTED, echo_network, toy_images, toy_network

from qcaps.capsules.sites import hooked
from qcaps.errors import QcapsError
from qcaps.models.network import CapsuleNetwork, Output, array_sites, predictions, weight_sites
from qcaps.models.spec import ModelSpec
from qcaps.quantization.applying import ArrayRounder, Saturation, round_weights, weights_replaced
from qcaps.quantization.calibration import calibrate, plan_of_width
from qcaps.quantization.draws import weight_uniforms
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, PerChannel, Rounding
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.rounding import quantize

IMAGE = (1, 14, 14)
SCHEMES: list[Rounding] = ["round_to_nearest", "stochastic_rounding", "truncation", "logarithmic"]


def plan_of(network: CapsuleNetwork, spec: ModelSpec, bits: int, rounding: Rounding) -> BitPlan:
    ranges = calibrate(network, toy_images(spec, split="train"), batch_size=20, seed=0)
    return plan_of_width(ranges, bits, rounding)


def forward(network: CapsuleNetwork, plan: BitPlan, spec: ModelSpec, seed: int = 0) -> Output:
    images = toy_images(spec)
    with torch.inference_mode():
        return ArrayRounder(plan, seed).forward(network, images.pixels / 255, images.indices)


def state(network: CapsuleNetwork) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_lent_weights_are_taken_back_bit_for_bit() -> None:
    network, images = toy_network(FOLDED), toy_images(FOLDED)
    before, places = state(network), {name: p.data_ptr() for name, p in network.named_parameters()}
    scores = network(images.pixels / 255).scores
    rounded = round_weights(network, plan_of(network, FOLDED, 3, "truncation"), 0).tensors
    with weights_replaced(network, rounded):
        assert all(torch.equal(p, rounded[name]) for name, p in network.named_parameters())
        assert not torch.equal(network(images.pixels / 255).scores, scores)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert {name: p.data_ptr() for name, p in network.named_parameters()} == places
    assert not network.training
    assert torch.equal(network(images.pixels / 255).scores, scores)


def test_lent_weights_are_taken_back_after_an_exception() -> None:
    network = toy_network(FOLDED)
    before = state(network)
    blank = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    with pytest.raises(KeyboardInterrupt), weights_replaced(network, blank):
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("rounding", SCHEMES)
def test_rounding_arrays_leaves_the_network_as_it_was(rounding: Rounding) -> None:
    network, images = toy_network(ROUTED), toy_images(ROUTED)
    before, scores = state(network), network(images.pixels / 255).scores
    forward(network, plan_of(network, ROUTED, 3, rounding), ROUTED)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(network(images.pixels / 255).scores, scores)


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
@pytest.mark.parametrize("rounding", SCHEMES)
def test_a_plan_at_float_width_gives_the_float_network_exactly(spec: ModelSpec, rounding: Rounding) -> None:
    network, images = toy_network(spec), toy_images(spec)
    plan = plan_of(network, spec, 32, rounding)
    pixels = (images.pixels / 255).contiguous(memory_format=torch.channels_last)
    expected = network(pixels)
    with weights_replaced(network, round_weights(network, plan, 0).tensors):
        found = forward(network, plan, spec)
        predicted = ArrayRounder(plan, 0).predictor(network)(images.pixels / 255, images.indices)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.capsules, expected.capsules)
    assert torch.equal(predicted, predictions(expected))
    assert len(predicted.unique()) > 1


def float_plan(network: CapsuleNetwork, rounding: Rounding = "round_to_nearest") -> BitPlan:
    sites = array_sites(network, IMAGE)
    return BitPlan(rounding, dict.fromkeys(weight_sites(network), Float32()), dict.fromkeys(sites, Float32()))


@pytest.mark.parametrize(
    ("spec", "site"),
    [(s, site) for s in (FOLDED, ROUTED) for site in array_sites(toy_network(s), IMAGE)],
)
def test_rounding_at_any_one_site_changes_what_the_network_says(spec: ModelSpec, site: str) -> None:
    network = toy_network(spec)
    ranges = calibrate(network, toy_images(spec), batch_size=20, seed=0)
    plan = float_plan(network)
    coarse = {**plan.arrays, site: plan_of_width(ranges, 3, "truncation").arrays[site]}
    found = forward(network, BitPlan("truncation", plan.weights, coarse), spec)
    assert not torch.equal(found.scores, forward(network, plan, spec).scores)


def test_an_array_is_rounded_as_a_loop_over_its_values_does() -> None:
    network, images = toy_network(FOLDED), toy_images(FOLDED, 3)
    pixels = (images.pixels / 255).contiguous(memory_format=torch.channels_last)
    fmt = FixedPoint(4, 3)
    plan = float_plan(network)
    plan = dataclasses.replace(plan, arrays={**plan.arrays, "conv2.out": fmt})
    after: list[Tensor] = []
    network.stages["conv2"].register_forward_hook(lambda _module, _args, output: after.append(output))
    network(pixels)
    ArrayRounder(plan, 0).forward(network, pixels, images.indices)
    in_float, rounded = (array.flatten().tolist() for array in after)
    expected = [min(max(round(Fraction(x) * 8), -8), 7) / 8 for x in in_float]
    assert rounded == expected
    assert len(set(expected)) > 4


@pytest.mark.parametrize("rounding", SCHEMES)
@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
def test_every_value_of_every_image_passes_its_site(spec: ModelSpec, rounding: Rounding) -> None:
    network, images = toy_network(spec), toy_images(spec)
    rounder = ArrayRounder(plan_of(network, spec, 4, rounding), 0)
    for rows in (slice(0, 7), slice(7, 20)):
        rounder.forward(network, images.pixels[rows] / 255, images.indices[rows])
    counted = {site: saturation.values for site, saturation in rounder.saturation.items()}
    assert counted == {site: 20 * values for site, values in array_sites(network, IMAGE).items()}


def test_clamped_values_of_an_array_are_counted_exactly() -> None:
    # [-1, 0.75] in steps of a quarter; halves round to even, so 0.875 becomes 1 and is clamped, 0.874 is not
    fmt, network = FixedPoint(3, 2), echo_network()
    pixels = torch.tensor([[-9.0, -1.125, -1.124, 0.0, 0.75, 0.874], [0.875, 1.0, -1.126, -1.376, -1.0, 0.1]])
    rounder = ArrayRounder(BitPlan("round_to_nearest", {"echo.weight": Float32()}, {"echo.out": fmt}), 0)
    found = rounder.forward(network, pixels.view(2, 1, 2, 3), torch.tensor([0, 1]))
    assert rounder.saturation == {"echo.out": Saturation(values=12, clamped=5)}
    assert found.capsules.flatten().tolist() == [-1, -1, -1, 0, 0.75, 0.75, 0.75, 0.75, -1, -1, -1, 0]
    rounder.forward(network, pixels.view(2, 1, 2, 3), torch.tensor([0, 1]))
    assert rounder.saturation == {"echo.out": Saturation(values=24, clamped=10)}


def test_clamped_values_of_a_weight_are_counted_exactly() -> None:
    network = echo_network(-1.2, -1.0, 0.76, 0.99, 1.0, 5.0)
    plan = BitPlan("truncation", {"echo.weight": FixedPoint(3, 2)}, {"echo.out": Float32()})
    found = round_weights(network, plan, 0)
    assert found.saturation == {"echo.weight": Saturation(values=6, clamped=3)}
    assert found.tensors["stages.echo.weight"].tolist() == [-1.0, -1.0, 0.75, 0.75, 0.75, 0.75]


def test_weights_are_rounded_without_touching_the_network() -> None:
    network = toy_network(FOLDED)
    before = state(network)
    plan = plan_of(network, FOLDED, 4, "round_to_nearest")
    found = round_weights(network, plan, 0).tensors
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert list(found) == list(weight_sites(network).values())
    for site, name in weight_sites(network).items():
        fmt = plan.weights[site]
        assert isinstance(fmt, FixedPoint)
        codes = [min(max(round(Fraction(w) / Fraction(fmt.step)), -8), 7) for w in before[name].flatten().tolist()]
        assert found[name].flatten().tolist() == [code * fmt.step for code in codes], site


@pytest.mark.parametrize("rounding", SCHEMES)
def test_channels_of_weights_are_rounded_with_the_draws_of_their_flat_positions(rounding: Rounding) -> None:
    network = toy_network(FOLDED)
    ranges = calibrate(network, toy_images(FOLDED), batch_size=20, seed=0)
    plan = plan_of_width(ranges, 3, rounding, per_channel=True)
    found, parameters = round_weights(network, plan, 5), dict(network.named_parameters())
    for site, name in weight_sites(network).items():
        fmt, weight = plan.weights[site], parameters[name]
        if not isinstance(fmt, PerChannel):
            continue
        draws = weight_uniforms(5, site, weight.numel()).view(weight.shape)
        loop = [quantize(w, one, rounding, u) for w, one, u in zip(weight, fmt.channels, draws, strict=True)]
        assert torch.equal(found.tensors[name], torch.stack([one.values for one in loop])), site
        assert found.saturation[site] == Saturation(weight.numel(), sum(one.saturated for one in loop)), site
    assert sum(saturation.clamped for saturation in found.saturation.values()) > 0
    assert any(isinstance(fmt, PerChannel) and len(set(fmt.shifts)) > 1 for fmt in plan.weights.values())


def test_weights_keep_their_order_in_memory() -> None:
    network = toy_network(FOLDED)
    found = round_weights(network, plan_of(network, FOLDED, 4, "truncation"), 0).tensors
    strides = {name: p.stride() for name, p in network.named_parameters()}
    assert {name: tensor.stride() for name, tensor in found.items()} == strides


def test_stochastic_weights_depend_on_the_seed_alone() -> None:
    network = toy_network(FOLDED)
    plan = plan_of(network, FOLDED, 4, "stochastic_rounding")
    first, again, other = (round_weights(network, plan, seed).tensors for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stages.conv1.conv.weight"], other["stages.conv1.conv.weight"])


def in_batches(spec: ModelSpec, order: Tensor, batch_size: int, seed: int = 5) -> dict[str, Tensor]:
    """Give the rounded features and capsules and the predictions of 64 images, in float64, sorted by image."""
    network, images = toy_network(spec).double(), toy_images(spec, 64)
    plan = plan_of(toy_network(spec), spec, 5, "stochastic_rounding")
    rounder, features = ArrayRounder(plan, seed), []
    network.stages["conv1"].register_forward_hook(lambda _module, _args, output: features.append(output))
    outputs = [
        rounder.forward(network, images.pixels[rows].double() / 255, images.indices[rows])
        for rows in order.split(batch_size)
    ]
    found = {
        "features": torch.cat(features),
        "capsules": torch.cat([output.capsules for output in outputs]),
        "predictions": torch.cat([predictions(output) for output in outputs]),
    }
    return {name: array[order.argsort()] for name, array in found.items()}


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_stochastic_draws_do_not_depend_on_the_batch_size(spec: ModelSpec, batch_size: int) -> None:
    whole, cut = (in_batches(spec, torch.arange(64), size) for size in (64, batch_size))
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
def test_stochastic_draws_do_not_depend_on_the_order_of_the_images(spec: ModelSpec) -> None:
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    ordered, found = in_batches(spec, torch.arange(64), 64), in_batches(spec, shuffled, 7)
    assert all(torch.equal(found[name], ordered[name]) for name in ordered)


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
def test_stochastic_draws_depend_on_the_seed(spec: ModelSpec) -> None:
    one, other = (in_batches(spec, torch.arange(64), 64, seed) for seed in (5, 6))
    assert not any(torch.equal(one[name], other[name]) for name in ("features", "capsules"))


def test_stochastic_draws_follow_the_index_of_the_image_not_its_place_in_the_batch() -> None:
    network = toy_network(ROUTED)
    plan = plan_of(network, ROUTED, 3, "stochastic_rounding")
    pixels = (toy_images(ROUTED, 1).pixels / 255).repeat(2, 1, 1, 1)
    twins = ArrayRounder(plan, 0).forward(network, pixels, torch.tensor([0, 1]))
    same = ArrayRounder(plan, 0).forward(network, pixels, torch.tensor([1, 1]))
    assert not torch.equal(twins.capsules[0], twins.capsules[1])
    assert torch.equal(same.capsules[0], same.capsules[1])
    assert torch.equal(twins.capsules[1], same.capsules[0])


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
def test_a_site_missing_from_the_plan_is_an_error(spec: ModelSpec) -> None:
    network = toy_network(spec)
    plan = float_plan(network)
    for site in array_sites(network, IMAGE):
        without = {name: fmt for name, fmt in plan.arrays.items() if name != site}
        with pytest.raises(KeyError):
            forward(network, BitPlan("truncation", plan.weights, without), spec)
    for site in weight_sites(network):
        without = {name: fmt for name, fmt in plan.weights.items() if name != site}
        with pytest.raises(KeyError):
            round_weights(network, BitPlan("truncation", without, plan.arrays), 0)


def test_an_entry_for_all_iterations_rounds_each_of_them() -> None:
    network = toy_network(ROUTED)
    plan = plan_of(network, ROUTED, 4, "round_to_nearest")
    common = {"class_caps.coupling": FixedPoint(4, 4)}
    arrays = {site: fmt for site, fmt in plan.arrays.items() if ".coupling@" not in site} | common
    spelled = {**plan.arrays, **{f"class_caps.coupling@{t}": FixedPoint(4, 4) for t in (1, 2, 3)}}
    short, long = (forward(network, dataclasses.replace(plan, arrays=a), ROUTED) for a in (arrays, spelled))
    assert torch.equal(short.capsules, long.capsules)


def test_a_format_that_the_scheme_cannot_have_is_an_error_that_names_the_site() -> None:
    network = toy_network(FOLDED)
    plan = float_plan(network)
    broken = dataclasses.replace(plan, arrays={**plan.arrays, "conv3.out": Logarithmic(4, 0)})
    with pytest.raises(QcapsError) as caught:
        forward(network, broken, FOLDED)
    assert caught.value.where == "conv3.out"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_an_error_that_names_the_site(value: float) -> None:
    network = toy_network(FOLDED)
    network.stages["conv3"].conv.bias[0] = value
    plan = float_plan(network)
    with pytest.raises(QcapsError, match="NaN or infinity") as caught:
        forward(network, plan, FOLDED)
    assert caught.value.where == "conv3.out"
    with pytest.raises(QcapsError, match="NaN or infinity") as caught:
        round_weights(network, plan, 0)
    assert caught.value.where == "conv3.bias"


def test_a_failed_forward_leaves_no_hook_behind() -> None:
    network = toy_network(FOLDED)
    plan = float_plan(network)
    with pytest.raises(KeyError):
        forward(network, dataclasses.replace(plan, arrays={}), FOLDED)
    seen: list[str] = []

    def note(site: str, array: Tensor) -> Tensor:
        seen.append(site)
        return array

    with hooked(network, note):
        network(torch.zeros(1, *IMAGE))
    assert seen == list(array_sites(network, IMAGE))
