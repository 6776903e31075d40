from __future__ import annotations

import pytest
import torch
from toys import ROUTED, toy_images, toy_network

from qcaps.quantization.applying import Saturation
from qcaps.quantization.calibration import Calibration, SiteRange, calibrate, plan_of_width
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic
from qcaps.quantization.plan import BitPlan
from qcaps.reports.layers import activation_bytes, layer_table


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
    rows = layer_table(PLAN, CALIBRATION, {})
    assert [row.site for row in rows] == ["conv1.weight", "conv1.bias", "conv1.out", "caps.logits@1", "caps.logits@2"]
    assert [row.group for row in rows] == ["weights", "weights", "activations", "routing", "routing"]


def test_a_row_says_kind_width_scale_and_values() -> None:
    weight, bias, out, *_ = layer_table(PLAN, CALIBRATION, {})
    assert (weight.kind, weight.bits, weight.scale, weight.values) == ("fixed_point", 3, 3 - 1 - 5, 13)
    assert (bias.kind, bias.bits, bias.scale, bias.values) == ("float32", 32, None, 5)
    assert (out.bits, out.scale, out.values) == (4, 4 - 1 + 2, 101)


def test_the_scale_of_a_logarithmic_format_is_its_largest_exponent() -> None:
    plan = BitPlan("logarithmic", {"conv1.weight": Logarithmic(4, -3)}, {})
    (row,) = layer_table(plan, CALIBRATION, {})
    assert (row.kind, row.bits, row.scale) == ("logarithmic", 4, -3)


def test_weights_are_charged_as_stored_and_arrays_by_the_bit() -> None:
    # ⌈13 · 3 / 8⌉ + 1 for the scale; 5 · 4; 101 · 4 / 8; 10 · 4; 10 · 8 / 8
    assert [row.bytes for row in layer_table(PLAN, CALIBRATION, {})] == [6, 20, 50.5, 40, 10]


def test_saturation_is_the_share_of_clamped_values() -> None:
    counted = {"conv1.weight": Saturation(13, 13), "conv1.out": Saturation(200, 3), "caps.logits@2": Saturation(0, 0)}
    shares = {row.site: row.saturated for row in layer_table(PLAN, CALIBRATION, counted)}
    assert shares == {"conv1.weight": 1, "conv1.bias": 0, "conv1.out": 0.015, "caps.logits@1": 0, "caps.logits@2": 0}


def test_an_array_of_several_iterations_counts_once_at_its_widest() -> None:
    # 101 · 4 bits and 10 · 32 bits, of which the second iteration takes only 8
    assert activation_bytes(PLAN, CALIBRATION) == (50.5 + 40, 4 * (101 + 10))


@pytest.mark.parametrize("bits", [4, 16])
def test_activations_of_one_width_shrink_by_their_width(bits: int) -> None:
    found = calibrate(toy_network(ROUTED), toy_images(ROUTED), divisor=255, batch_size=20, seed=0)
    quantized, in_float = activation_bytes(plan_of_width(found, bits, "truncation"), found)
    # conv1 400, primary: votes, sum and out 108 each and one coupling; class_caps: votes 27 · 3 · 4 twelve-fold, ...
    votes, logits, coupling, total, out = 27 * 3 * 4, 27 * 3, 27 * 3, 12, 12
    assert in_float == 4 * (400 + 3 * 108 + 1 + votes + logits + coupling + total + out)
    assert quantized == in_float * bits / 32
