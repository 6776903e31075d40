from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import FOLDED, ROUTED, echo_network, toy_images, toy_network

from qcaps.capsules.sites import hooked
from qcaps.data.images import ImageSet
from qcaps.errors import QcapsError
from qcaps.models.network import CapsuleNetwork, array_sites, weight_sites
from qcaps.models.spec import ModelSpec
from qcaps.progress import Step
from qcaps.quantization.calibration import (
    SAMPLE,
    Calibration,
    SiteRange,
    array_format,
    calibrate,
    plan_of_width,
    weight_format,
)
from qcaps.quantization.choosing import choose_channel_formats, choose_format
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, PerChannel


def calibrated(network: CapsuleNetwork, images: ImageSet, *, batch_size: int = 8, seed: int = 0) -> Calibration:
    return calibrate(network, images, batch_size=batch_size, seed=seed)


def passed(network: CapsuleNetwork, pixels: Tensor) -> dict[str, list[Tensor]]:
    """List what passes every site, image by image."""
    arrays: dict[str, list[Tensor]] = {}

    def note(site: str, array: Tensor) -> Tensor:
        arrays.setdefault(site, []).append(array[0])
        return array

    with torch.inference_mode(), hooked(network, note):
        for image in pixels:
            network(image.unsqueeze(0))
    return arrays


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
def test_the_largest_magnitude_of_every_array_is_that_of_all_images(spec: ModelSpec) -> None:
    network, images = toy_network(spec), toy_images(spec)
    ranges = calibrated(network, images).arrays
    expected = passed(network, images.pixels / 255)
    assert list(ranges) == list(expected)
    for site, arrays in expected.items():
        largest = max(array.abs().max().item() for array in arrays)
        assert ranges[site].largest == pytest.approx(largest, rel=1e-5), site
        assert ranges[site].values == arrays[0].numel(), site


@pytest.mark.parametrize(("first", "second", "largest"), [(0, 255, 1.0), (51, 0, 0.2), (0, 0, 0.0)])
def test_the_largest_magnitude_is_exact_even_where_the_sample_misses_it(
    first: int, second: int, largest: float
) -> None:
    # one pixel among 2 x 200,000, of which one sixth is sampled
    pixels = torch.zeros(2, 1, 400, 500, dtype=torch.uint8)
    pixels[0, 0, 399, 499], pixels[1, 0, 7, 7] = first, second
    images = ImageSet("digits", "train", pixels, torch.zeros(2), torch.tensor([3, 9]), ("0",))
    found = calibrated(echo_network(), images, batch_size=1).arrays["echo.out"]
    assert found.largest == torch.tensor(largest).item()
    assert found.sample.numel() == SAMPLE
    assert found.values == 200_000


def test_negative_values_count_by_their_magnitude() -> None:
    network = toy_network(ROUTED)
    images = toy_images(ROUTED)
    arrays = torch.stack(passed(network, images.pixels / 255)["primary.votes"])
    network.stages["primary"].conv.weight.mul_(-1)
    mirrored = calibrated(network, images).arrays["primary.votes"].largest
    assert -arrays.min() != arrays.max()
    assert mirrored == pytest.approx(arrays.abs().max().item())


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
def test_weights_are_sampled_whole(spec: ModelSpec) -> None:
    network = toy_network(spec)
    network.stages["conv1"].conv.bias[1] = -17.25
    found = calibrated(network, toy_images(spec)).weights
    assert found["conv1.bias"].largest == 17.25
    assert torch.equal(found["conv1.weight"].sample, network.stages["conv1"].conv.weight)
    assert found["class_caps.weight"].values == network.stages["class_caps"].weight.numel()


def test_a_small_array_is_sampled_whole_in_the_order_of_the_images() -> None:
    images = toy_images(FOLDED, 5)
    found = calibrated(echo_network(), images, batch_size=2).arrays["echo.out"]
    assert torch.equal(found.sample, (images.pixels / 255).flatten())


def large(count: int = 9) -> ImageSet:
    """Give images of which less than a tenth can be sampled, all values of all images distinct or nearly so."""
    pixels = torch.randint(0, 256, (count, 3, 160, 160), generator=torch.Generator().manual_seed(1))
    indices = torch.arange(count) * 7
    return ImageSet("digits", "train", pixels.to(torch.uint8), torch.zeros(count), indices, ("0",))


@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_the_batch_size_does_not_change_samples(batch_size: int) -> None:
    whole = calibrated(echo_network(), large(), batch_size=64).arrays["echo.out"]
    found = calibrated(echo_network(), large(), batch_size=batch_size).arrays["echo.out"]
    assert torch.equal(found.sample, whole.sample)
    assert found.sample.numel() == SAMPLE // 9 * 9


def test_the_sample_of_an_image_holds_values_of_that_image_from_all_over_it() -> None:
    ramp = torch.arange(9 * 76800).view(9, 3, 160, 160).fmod(251).to(torch.uint8)
    images = ImageSet("digits", "train", ramp, torch.zeros(9), torch.arange(9), ("0",))
    sample = calibrated(echo_network(), images).arrays["echo.out"].sample
    # evenly drawn from a ramp over 0..250, mean 125 and standard error 0.3 of 255
    assert sample.mean().item() * 255 == pytest.approx(125, abs=1.5)


def test_the_sample_depends_on_the_seed() -> None:
    one, other = (calibrated(echo_network(), large(), seed=seed).arrays["echo.out"].sample for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
def test_calibrating_leaves_the_network_as_it_was(spec: ModelSpec) -> None:
    network, images = toy_network(spec), toy_images(spec)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    scores = network(images.pixels / 255).scores
    calibrated(network, images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.training
    assert torch.equal(network(images.pixels / 255).scores, scores)


def test_calibrating_tells_how_far_it_is() -> None:
    steps: list[Step] = []
    images = toy_images(FOLDED, 5)
    calibrate(toy_network(FOLDED), images, batch_size=2, seed=0, on_progress=steps.append)
    assert [(s.phase, s.done, s.total) for s in steps] == [("calibrate", done, 5) for done in (2, 4, 5)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("parameter", "site"),
    [
        ("stages.conv1.conv.weight", "conv1.out"),
        ("stages.conv3.conv.bias", "conv3.out"),
        ("stages.class_caps.weight", "class_caps.votes"),
    ],
)
def test_a_broken_weight_is_an_error_that_names_the_site(parameter: str, site: str, value: float) -> None:
    network = toy_network(FOLDED)
    network.get_parameter(parameter).data[0] = value
    with pytest.raises(QcapsError, match="NaN or infinity") as caught:
        calibrated(network, toy_images(FOLDED))
    assert caught.value.where == site


def test_a_broken_weight_that_no_array_shows_is_an_error_that_names_it() -> None:
    # a ReLU turns -infinity into 0
    network = toy_network(FOLDED)
    network.stages["conv1"].conv.bias[0] = -math.inf
    with pytest.raises(QcapsError, match="NaN or infinity") as caught:
        calibrated(network, toy_images(FOLDED))
    assert caught.value.where == "conv1.bias"


def test_a_failed_calibration_leaves_no_hook_behind() -> None:
    network, images = toy_network(FOLDED), toy_images(FOLDED)
    bias = network.stages["conv1"].conv.bias
    bias[0] = math.nan
    with pytest.raises(QcapsError):
        calibrated(network, images)
    bias[0] = 0
    assert list(calibrated(network, images).arrays) == list(array_sites(network, (1, 14, 14)))


@pytest.mark.parametrize(
    ("rounding", "bits", "kind"),
    [
        ("round_to_nearest", 5, FixedPoint),
        ("truncation", 16, FixedPoint),
        ("logarithmic", 4, Logarithmic),
        ("logarithmic", 9, Float32),
        ("round_to_nearest", 17, Float32),
    ],
)
def test_a_plan_of_one_width_covers_every_site(rounding: str, bits: int, kind: type) -> None:
    network = toy_network(ROUTED)
    ranges = calibrated(network, toy_images(ROUTED))
    plan = plan_of_width(ranges, bits, rounding)
    assert plan.rounding == rounding
    assert list(plan.weights) == list(ranges.weights)
    assert list(plan.arrays) == list(array_sites(network, (1, 14, 14)))
    formats = [*plan.weights.values(), *plan.arrays.values()]
    assert {type(fmt) for fmt in formats} == {kind}
    assert {fmt.bits for fmt in formats} == {32 if kind is Float32 else bits}


def test_every_site_of_a_plan_has_its_own_scale() -> None:
    network = toy_network(ROUTED)
    network.stages["class_caps"].weight.mul_(64)
    ranges = calibrated(network, toy_images(ROUTED))
    plan = plan_of_width(ranges, 6, "truncation")
    scales = {fmt.frac_bits for fmt in plan.arrays.values() if isinstance(fmt, FixedPoint)}
    assert len(scales) > 3
    for site, fmt in (*plan.weights.items(), *plan.arrays.items()):
        seen = (ranges.weights | ranges.arrays)[site]
        assert fmt == choose_format(seen.sample, seen.largest, 6, "truncation"), site


def test_the_scale_holds_the_largest_value_though_the_sample_lacks_it() -> None:
    ranges = Calibration({}, {"conv1.out": SiteRange(largest=9.75, sample=torch.zeros(5), values=5)})
    assert plan_of_width(ranges, 6, "truncation").arrays == {"conv1.out": FixedPoint(6, 1)}  # up to 16


def test_the_channels_of_a_weight_are_its_first_axis_and_a_bias_has_one() -> None:
    network = toy_network(FOLDED)
    found = calibrated(network, toy_images(FOLDED))
    assert dict(network.named_parameters())[weight_sites(network)["class_caps.bias"]].dim() > 1
    channels = {"conv1": 4, "conv2": 4, "conv3": 6, "conv4": 16, "primary": 16, "class_caps": 2}
    weights = {f"{stage}.weight": count for stage, count in channels.items()}
    assert {s: seen.channels for s, seen in found.weights.items()} == {f"{s}.bias": 1 for s in channels} | weights
    assert {seen.channels for seen in found.arrays.values()} == {1}


@pytest.mark.parametrize("rounding", ["round_to_nearest", "stochastic_rounding", "truncation", "logarithmic"])
def test_a_plan_per_channel_has_scales_per_channel_in_the_weights_alone(rounding: str) -> None:
    network = toy_network(FOLDED)
    ranges = calibrated(network, toy_images(FOLDED))
    plan = plan_of_width(ranges, 4, rounding, per_channel=True)
    one_scale = plan_of_width(ranges, 4, rounding)
    assert plan.arrays == one_scale.arrays
    assert list(plan.weights) == list(one_scale.weights)
    for site, fmt in plan.weights.items():
        if site.endswith(".weight"):
            assert fmt == choose_channel_formats(ranges.weights[site].sample, 4, rounding)
            assert isinstance(fmt, PerChannel)
        else:
            assert fmt == one_scale.weights[site]


def test_formats_of_weights_and_arrays_follow_their_range() -> None:
    seen = SiteRange(4.0, torch.tensor([[0.5, 0.25], [4.0, -2.0]]), 4, channels=2)
    assert array_format(seen, 6, "truncation") == FixedPoint(6, 2)  # up to 8
    assert weight_format(seen, 6, "truncation") == FixedPoint(6, 2)
    assert weight_format(seen, 6, "truncation", per_channel=True) == PerChannel(FixedPoint(6, 0), (5, 2))
    assert weight_format(seen, 6, "logarithmic", per_channel=True) == PerChannel(Logarithmic(6, 0), (1, -2))


def test_a_weight_of_one_channel_has_one_scale() -> None:
    seen = SiteRange(4.0, torch.tensor([[4.0, -2.0]]), 2, channels=1)
    assert weight_format(seen, 6, "truncation", per_channel=True) == FixedPoint(6, 2)


@pytest.mark.parametrize(("rounding", "bits"), [("truncation", 17), ("logarithmic", 9), ("truncation", 32)])
def test_widths_that_cannot_be_packed_stay_float_per_channel_too(rounding: str, bits: int) -> None:
    seen = SiteRange(4.0, torch.ones(2, 2), 4, channels=2)
    assert weight_format(seen, bits, rounding, per_channel=True) == Float32()
    assert array_format(seen, bits, rounding) == Float32()
