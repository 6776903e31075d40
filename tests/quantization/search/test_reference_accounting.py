from __future__ import annotations

import functools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcaps.evaluation.cost import StageCost, network_cost
from qcaps.models.network import weight_sites
from qcaps.models.spec import build, image_of, preset
from qcaps.quantization.calibration import Calibration, SiteRange
from qcaps.quantization.formats import FixedPoint, Float32
from qcaps.quantization.rounding import quantize
from qcaps.quantization.search.reference_accounting import (
    Outside,
    reference_activation_reduction,
    reference_formats,
    reference_sizes,
    reference_weight_bits,
    values_outside,
)


def stage(name, parameters):
    return StageCost(name, parameters, macs=0, activation_values=0, outputs=())


@functools.cache
def measured(name):
    """Give the cost of a network, the values at its weight sites and the shape of its images."""
    spec = preset(name).spec
    network = build(spec).eval()
    parameters = dict(network.named_parameters())
    values = {site: parameters[parameter].numel() for site, parameter in weight_sites(network).items()}
    return network_cost(network, image_of(spec)), values, image_of(spec)


def by_stage(sizes):
    found = {}
    for site, values in sizes.items():
        name = site.split(".")[0]
        found[name] = found.get(name, 0) + values
    return tuple(found.values())


@pytest.mark.parametrize(
    ("name", "image", "sizes"),
    [
        ("shallow-capsnet", 784, (102400, 9216, 160)),
        ("deepcaps", 784, (100352, 100352, 50176, 16384, 4096, 320)),
        ("deepcaps-64", 12288, (524288, 524288, 262144, 65536, 16384, 320)),
    ],
)
def test_the_sizes_of_the_outputs_are_those_of_the_published_formula(name, image, sizes):
    cost, _, shape = measured(name)
    assert (math.prod(shape), by_stage(reference_sizes(cost.arrays))) == (image, sizes)


def test_an_output_of_several_passes_counts_once_and_votes_do_not():
    arrays = {"c.votes": (9, 3, 2), "c.coupling@1": (9, 3), "c.sum@1": (3, 2), "c.out@1": (3, 2), "c.out@2": (3, 2)}
    assert reference_sizes(arrays) == {"c.out@2": 6}


@pytest.mark.parametrize("bits", [1, 8, 32])
def test_one_width_for_all_activations_gives_its_plain_ratio(bits):
    cost, _, image = measured("deepcaps")
    sizes = reference_sizes(cost.arrays)
    assert reference_activation_reduction(sizes, image, dict.fromkeys(sizes, bits)) == Fraction(32, bits)


def test_the_input_is_charged_like_the_first_output():
    sizes = {"conv1.out": 10, "class_caps.out": 5}
    widths = {"conv1.out": 4, "class_caps.out": 8}
    assert reference_activation_reduction(sizes, (1, 2, 3), widths) == Fraction(32 * 21, 6 * 4 + 10 * 4 + 5 * 8)


def test_the_activation_reduction_of_shallow_capsnet_is_that_of_the_formula():
    cost, _, image = measured("shallow-capsnet")
    sizes = reference_sizes(cost.arrays)
    widths = dict(zip(sizes, (7, 6, 5), strict=True))
    by_hand = Fraction(32 * (784 + 102400 + 9216 + 160), 784 * 7 + 102400 * 7 + 9216 * 6 + 160 * 5)
    assert reference_activation_reduction(sizes, image, widths) == by_hand


def test_every_parameter_is_charged_the_bits_of_its_stage():
    cost, values, _ = measured("shallow-capsnet")
    by_stage = {"conv1": 7, "primary": 6, "class_caps": 5}
    widths = {site: by_stage[site.split(".")[0]] for site in values}
    assert reference_weight_bits(cost.stages, values, widths) == 20_992 * 7 + 5_308_672 * 6 + 1_474_720 * 5


def test_a_norm_that_stays_float_is_charged_like_the_weights_of_its_stage():
    cost, values, _ = measured("deepcaps")
    assert sum(values.values()) == 8_445_504 - 2 * 128  # gain and shift of the norm have no site
    assert reference_weight_bits(cost.stages, values, dict.fromkeys(values, 3)) == 3 * 8_445_504


def test_a_stage_may_have_weights_of_several_widths():
    sites, widths = {"a.weight": 10, "a.bias": 2, "b.weight": 5}, {"a.weight": 3, "a.bias": 8, "b.weight": 2}
    bits = reference_weight_bits([stage("a", 14), stage("b", 5), stage("c", 1)], sites, widths)
    assert bits == 10 * 3 + 2 * 8 + 2 * 8 + 5 * 2 + 32  # the two without a site count as the widest, c is float


# Formats


def calibration(weights, arrays=None):
    def ranges(values):
        return {
            site: SiteRange(float(torch.tensor(v).abs().max()), torch.tensor(v), len(v)) for site, v in values.items()
        }

    return Calibration(ranges(weights), ranges(arrays or {}))


def weight_format(values, width):
    weights, _ = reference_formats(calibration({"a.weight": values}), {"a.weight": width})
    return weights["a.weight"]


@pytest.mark.parametrize(
    ("largest", "width", "fmt"),
    [
        (0.5, 4, FixedPoint(4, 3)),
        (0.875, 4, FixedPoint(4, 3)),  # the highest code there is
        (0.9, 4, FixedPoint(5, 3)),  # rounds up to 1
        (9.75, 4, FixedPoint(8, 3)),  # code 78
        (9.75, 1, FixedPoint(5, 0)),  # code 10
        (0.0, 6, FixedPoint(6, 5)),
        (9.75, 12, FixedPoint(16, 11)),
        (9.75, 13, Float32()),  # 17 bits would be needed
        (0.5, 16, FixedPoint(16, 15)),
        (0.5, 32, Float32()),
    ],
)
def test_a_weight_has_the_step_of_its_width_and_the_bits_of_its_largest_value(largest, width, fmt):
    assert weight_format([largest, 0.0], width) == fmt


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=8),
    st.integers(1, 10),
    st.sampled_from(["round_to_nearest", "truncation", "stochastic_rounding"]),
)
def test_nothing_is_clamped_and_every_value_is_rounded_to_its_step(values, width, rounding):
    tensor = torch.tensor(values, dtype=torch.float64)
    uniforms = torch.full((len(values),), 0.25) if rounding == "stochastic_rounding" else None
    rounded = quantize(tensor, weight_format(values, width), rounding, uniforms)
    steps = [Fraction(v) * 2 ** (width - 1) for v in values]
    codes = {
        "round_to_nearest": [round(step) for step in steps],
        "truncation": [math.floor(step) for step in steps],
        "stochastic_rounding": [math.floor(s) + (s - math.floor(s) > Fraction(1, 4)) for s in steps],
    }[rounding]
    assert rounded.saturated == 0
    assert rounded.values.tolist() == [code / 2 ** (width - 1) for code in codes]


def test_arrays_leave_room_for_images_that_calibration_did_not_see():
    seen = calibration({}, {"a.out": [0.3], "b.sum": [846.0]})
    _, arrays = reference_formats(seen, {"a.out": 4, "b.sum": 5})
    assert arrays == {"a.out": FixedPoint(16, 3), "b.sum": FixedPoint(16, 4)}


def test_an_array_too_large_for_16_bits_stays_float():
    _, arrays = reference_formats(calibration({}, {"b.sum": [846.0]}), {"b.sum": 8})
    assert arrays == {"b.sum": Float32()}


# Not storable


def test_weights_outside_the_range_of_the_format_are_counted():
    seen = calibration(
        {"a.weight": [-1.0, -1.5, 0.999, 1.0, 9.75], "b.weight": [0.5]}, {"a.out": [3.0], "b.out": [0.9]}
    )
    assert values_outside(seen, dict.fromkeys(("a.weight", "b.weight", "a.out", "b.out"), 8)) == Outside(3, 1)


def test_what_stays_float_is_outside_of_nothing():
    seen = calibration({"a.weight": [5.0]}, {"a.out": [3.0]})
    assert values_outside(seen, {"a.weight": 32, "a.out": 32}) == Outside(0, 0)


@pytest.mark.parametrize(
    ("outside", "label"),
    [
        (Outside(0, 0), "reference accounting"),
        (Outside(1, 0), "reference accounting, not storable: 1 weight outside [-1, 1)"),
        (Outside(0, 1), "reference accounting, not storable: values at 1 array site outside [-1, 1)"),
        (
            Outside(1234, 2),
            "reference accounting, not storable: 1,234 weights and values at 2 array sites outside [-1, 1)",
        ),
    ],
)
def test_the_label_says_whether_a_plan_can_be_stored(outside, label):
    assert outside.label == label
