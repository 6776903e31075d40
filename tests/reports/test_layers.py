from __future__ import annotations

import torch

from qcaps.quantization.applying import Saturation
from qcaps.quantization.calibration import Calibration, SiteRange
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, PerChannel
from qcaps.quantization.plan import BitPlan
from qcaps.reports.layers import array_bytes, layer_table


def ranges(**values: int) -> dict[str, SiteRange]:
    return {site.replace("_of_", "."): SiteRange(1.0, torch.zeros(1), count) for site, count in values.items()}


CALIBRATION = Calibration(
    ranges(conv1_of_weight=13, conv1_of_bias=5),
    {**ranges(conv1_of_out=101), **{f"caps.{r}": SiteRange(1.0, torch.zeros(1), 10) for r in ("logits@1", "logits@2")}},
)
PLAN = BitPlan(
    "truncation",
    {"conv1.weight": FixedPoint(3, 5), "conv1.bias": Float32()},
    {"conv1.out": FixedPoint(4, -2), "caps.logits@1": Float32(), "caps.logits@2": FixedPoint(8, 7)},
)


def test_every_site_has_a_row_weights_first() -> None:
    rows = layer_table(PLAN, CALIBRATION, {}, {})
    assert [row.site for row in rows] == ["conv1.weight", "conv1.bias", "conv1.out", "caps.logits@1", "caps.logits@2"]
    assert [row.group for row in rows] == ["weights", "weights", "activations", "routing", "routing"]


def test_a_row_says_kind_width_integer_bits_and_values() -> None:
    weight, bias, out, *_ = layer_table(PLAN, CALIBRATION, {}, {})
    assert (weight.kind, weight.bits, weight.scales, weight.values) == ("fixed_point", 3, (3 - 1 - 5, 3 - 1 - 5), 13)
    assert (bias.kind, bias.bits, bias.scales, bias.values) == ("float32", 32, None, 5)
    assert (out.bits, out.scales, out.values) == (4, (4 - 1 + 2, 4 - 1 + 2), 101)


def test_the_scale_of_a_logarithmic_format_is_its_largest_exponent() -> None:
    plan = BitPlan("logarithmic", {"conv1.weight": Logarithmic(4, -3)}, {})
    (row,) = layer_table(plan, CALIBRATION, {}, {})
    assert (row.kind, row.bits, row.scales) == ("logarithmic", 4, (-3, -3))


def test_scales_per_channel_are_told_by_the_least_and_the_largest_and_charged_one_by_one() -> None:
    fixed = PerChannel(FixedPoint(4, 0), (5, 2, 3))  # integer bits 4 - 1 - f
    logarithmic = PerChannel(Logarithmic(3, 0), (-1, 4))
    plan = BitPlan("truncation", {"conv1.weight": fixed, "conv1.bias": logarithmic}, {})
    weight, bias = layer_table(plan, CALIBRATION, {}, {})
    assert (weight.kind, weight.scales, weight.bytes) == ("fixed_point", (-2, 1), 3 + 7)  # ⌈13 · 4 / 8⌉
    assert (bias.kind, bias.scales, bias.bytes) == ("logarithmic", (-4, 1), 2 + 2)  # ⌈5 · 3 / 8⌉


def test_weights_are_charged_as_stored_and_arrays_by_the_bit() -> None:
    # ⌈13 · 3 / 8⌉ + 1 for the scale; 5 · 4; 101 · 4 / 8; 10 · 4; 10 · 8 / 8
    assert [row.bytes for row in layer_table(PLAN, CALIBRATION, {}, {})] == [6, 20, 50.5, 40, 10]


def test_saturation_is_the_share_of_clamped_values() -> None:
    counted = {"conv1.weight": Saturation(13, 13), "conv1.out": Saturation(200, 3), "caps.logits@2": Saturation(0, 0)}
    shares = {row.site: row.saturated for row in layer_table(PLAN, CALIBRATION, counted, {})}
    assert shares == {"conv1.weight": 1, "conv1.bias": 0, "conv1.out": 0.015, "caps.logits@1": 0, "caps.logits@2": 0}


def test_sensitivity_is_the_damage_predicted_of_the_width_in_use() -> None:
    damages = {"conv1.weight": {2: 0.5, 3: 0.125}, "caps.logits@2": {4: 1.0}}
    found = {row.site: row.sensitivity for row in layer_table(PLAN, CALIBRATION, {}, damages)}
    assert found == {**dict.fromkeys(found), "conv1.weight": 0.125}


def test_an_array_of_several_iterations_counts_once_at_its_widest() -> None:
    # 101 · 4 bits and 10 · 32 bits, of which the second iteration takes only 8
    assert array_bytes(PLAN, CALIBRATION) == {"conv1.out": 50.5, "caps.logits": 40}
