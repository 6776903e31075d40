from __future__ import annotations

import pytest
import torch
from toy_search import toy_subject
from toys import FOLDED, NORMED, ROUTED, toy_network

from qcaps.artifacts.journal import content_key
from qcaps.models.network import float_tensors, weight_sites
from qcaps.models.spec import ModelSpec
from qcaps.quantization.artifact import payload_bytes
from qcaps.quantization.calibration import plan_of_width
from qcaps.quantization.choosing import choose_channel_formats, choose_format
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, PerChannel, Rounding
from qcaps.quantization.search.subject import Subject


def mixed(subject: Subject, *bits: int) -> dict[str, int]:
    """Give the sites some widths in turn."""
    return {site: bits[number % len(bits)] for number, site in enumerate(subject.sites)}


@pytest.mark.parametrize(
    ("rounding", "seeds"), [("round_to_nearest", (7,)), ("logarithmic", (7,)), ("stochastic_rounding", (7, 8, 9))]
)
def test_only_a_random_scheme_takes_several_seeds(rounding: Rounding, seeds: tuple[int, ...]) -> None:
    assert toy_subject(rounding=rounding).seeds == seeds


def test_sites_are_weights_and_then_arrays() -> None:
    subject = toy_subject()
    assert subject.sites[:2] == ("conv1.weight", "conv1.bias")
    assert set(subject.sites) == subject.calibration.weights.keys() | subject.calibration.arrays.keys()


@pytest.mark.parametrize("rounding", ["truncation", "logarithmic"])
def test_a_plan_gives_every_site_its_width_and_the_scale_of_calibration(rounding: Rounding) -> None:
    subject = toy_subject(rounding=rounding)
    widths = mixed(subject, 2, 5, 8, 32)
    plan = subject.plan(widths)
    assert plan.rounding == rounding
    assert {site: fmt.bits for site, fmt in (plan.weights | plan.arrays).items()} == widths
    for site, found in (subject.calibration.weights | subject.calibration.arrays).items():
        expected = choose_format(found.sample, found.largest, widths[site], rounding)
        assert (plan.weights | plan.arrays)[site] == expected
    kinds = {type(fmt) for fmt in plan.arrays.values()}
    assert kinds == {Float32, Logarithmic if rounding == "logarithmic" else FixedPoint}


def test_a_common_width_is_a_plan_like_any_other() -> None:
    subject = toy_subject()
    assert subject.common_width(5) == plan_of_width(subject.calibration, 5, "round_to_nearest")


def test_a_plan_does_not_depend_on_those_asked_for_before() -> None:
    fresh, used = toy_subject(), toy_subject()
    for bits in (2, 3, 16, 32):
        used.common_width(bits)
    assert used.plan(mixed(used, 3, 4)) == fresh.plan(mixed(fresh, 3, 4))


def test_scales_per_channel_are_those_of_the_weights_with_channels() -> None:
    subject = toy_subject(per_channel=True)
    plan = subject.common_width(4)
    apart = {site for site, fmt in plan.weights.items() if isinstance(fmt, PerChannel)}
    assert apart == {"conv1.weight", "primary.weight", "class_caps.weight"}
    sample = subject.calibration.weights["conv1.weight"].sample
    assert plan.weights["conv1.weight"] == choose_channel_formats(sample, 4, "round_to_nearest")


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [(1,), (2, 3, 5, 7, 32), (16,), (32,)])
@pytest.mark.parametrize("spec", [FOLDED, NORMED, ROUTED], ids=["folded", "normed", "routed"])
def test_the_payload_of_widths_is_that_of_their_plan(spec: ModelSpec, bits: tuple[int, ...], per_channel: bool) -> None:
    subject = toy_subject(spec, per_channel=per_channel)
    widths = mixed(subject, *bits)
    assert subject.payload_bytes(widths) == payload_bytes(toy_network(spec), subject.plan(widths))


def test_a_bias_with_two_axes_has_one_scale_and_is_counted_so() -> None:
    subject = toy_subject(FOLDED, per_channel=True)
    bias = subject.calibration.weights["class_caps.bias"]
    assert bias.sample.dim() > 1
    assert subject.weight_bytes("class_caps.bias", 8) == 1 + bias.values


def test_what_has_no_site_is_counted_in_float() -> None:
    subject = toy_subject(NORMED)
    unrounded = sum(tensor.numel() for tensor in float_tensors(toy_network(NORMED)).values())
    assert unrounded > 0
    weights = sum(-(-found.values * 3 // 8) + 1 for found in subject.calibration.weights.values())
    assert subject.payload_bytes(dict.fromkeys(subject.sites, 3)) == 4 * unrounded + weights


def test_a_weight_in_float_has_no_scale() -> None:
    subject = toy_subject(per_channel=True)
    assert subject.weight_bytes("conv1.weight", 32) == 4 * subject.calibration.weights["conv1.weight"].values


def test_activations_are_the_sum_of_the_arrays_each_at_its_widest_iteration() -> None:
    subject = toy_subject()
    arrays = {site: found.values for site, found in subject.calibration.arrays.items()}
    widths = dict.fromkeys(subject.sites, 4) | {"class_caps.sum@2": 16, "class_caps.logits@1": 7}
    # three classes of four values each; 27 capsules with a logit for each class
    assert (arrays["class_caps.sum@1"], arrays["class_caps.logits@1"]) == (12, 81)
    once = sum(values for site, values in arrays.items() if "@" not in site or site.endswith("@1"))
    assert subject.activation_bytes(widths) == once * 4 / 8 + 12 * (16 - 4) / 8 + 81 * (7 - 4) / 8


def test_weights_do_not_count_as_activations() -> None:
    subject = toy_subject()
    wide = dict.fromkeys(subject.sites, 4) | dict.fromkeys(subject.calibration.weights, 32)
    assert subject.activation_bytes(wide) == subject.activation_bytes(dict.fromkeys(subject.sites, 4))


def test_the_same_network_has_the_same_content() -> None:
    assert content_key(*toy_subject().content) == content_key(*toy_subject(rounding="truncation").content)


@pytest.mark.parametrize("site", ["conv1.weight", "primary.bias", "class_caps.weight"])
def test_one_changed_bit_of_a_weight_is_another_content(site: str) -> None:
    subject, other = toy_subject(), toy_subject()
    weight = dict(other.network.named_parameters())[weight_sites(other.network)[site]]
    last = (-1,) * weight.dim()
    weight[last] = torch.nextafter(weight[last], torch.tensor(9.0))
    assert subject.content != other.content
