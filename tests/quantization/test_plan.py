from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qcaps.errors import ArtifactError
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, NumberFormat, PerChannel
from qcaps.quantization.plan import BitPlan, plan_from_header, plan_to_dict, plan_to_header

PLAN = BitPlan(
    "truncation",
    {"conv1.weight": FixedPoint(3, 5), "conv1.bias": Float32()},
    {"conv1.out": FixedPoint(8, -2), "class_caps.coupling": FixedPoint(4, 6), "class_caps.coupling@2": Float32()},
)
DATA = {
    "rounding": "truncation",
    "weights": {
        "conv1.weight": {"kind": "fixed_point", "bits": 3, "frac_bits": 5},
        "conv1.bias": {"kind": "float32", "bits": 32},
    },
    "arrays": {
        "conv1.out": {"kind": "fixed_point", "bits": 8, "frac_bits": -2},
        "class_caps.coupling": {"kind": "fixed_point", "bits": 4, "frac_bits": 6},
        "class_caps.coupling@2": {"kind": "float32", "bits": 32},
    },
}


def test_a_plan_becomes_plain_data() -> None:
    assert plan_to_dict(PLAN) == DATA


def test_the_header_of_a_file_holds_all_of_a_plan_of_one_scale_a_tensor() -> None:
    assert plan_to_header(PLAN) == DATA


def test_the_header_of_a_file_only_counts_the_channels() -> None:
    fmt = PerChannel(FixedPoint(3, 0), (5, -6))
    plan = BitPlan("truncation", {"conv1.weight": fmt}, {})
    assert plan_to_header(plan)["weights"] == {"conv1.weight": {"kind": "fixed_point", "bits": 3, "channels": 2}}
    assert plan_to_dict(plan)["weights"] == {"conv1.weight": {"kind": "fixed_point", "bits": 3, "frac_bits": [5, -6]}}


def test_an_array_cannot_have_a_scale_per_channel() -> None:
    with pytest.raises(ValueError, match="only weights"):
        BitPlan("truncation", {}, {"conv1.out": PerChannel(FixedPoint(3, 0), (5, 6))})


def test_plain_data_becomes_the_plan_with_its_sites_in_order() -> None:
    plan = plan_from_header(DATA, {}, where="x.pt")
    assert plan == PLAN
    assert [*plan.weights, *plan.arrays] == [*PLAN.weights, *PLAN.arrays]


FORMATS: st.SearchStrategy[NumberFormat] = st.one_of(
    st.builds(FixedPoint, st.integers(1, 16), st.integers(-100, 100)),
    st.builds(Logarithmic, st.integers(2, 8), st.integers(-100, 100)),
    st.builds(Float32),
)
CHANNELS = st.builds(
    PerChannel,
    st.sampled_from([FixedPoint(1, 0), FixedPoint(16, 0), Logarithmic(2, 0), Logarithmic(8, 0)]),
    st.lists(st.integers(-100, 100), min_size=1, max_size=5).map(tuple),
)
SITES = st.dictionaries(st.text(max_size=6), FORMATS, max_size=4)
WEIGHTS = st.dictionaries(st.text(max_size=6), FORMATS | CHANNELS, max_size=4)


def segments_of(plan: BitPlan) -> dict[str, Tensor]:
    """Segments of scales without codes: minus the shifts, as signed bytes."""
    formats = {site: fmt for site, fmt in plan.weights.items() if isinstance(fmt, PerChannel)}
    return {site: torch.tensor([-s % 256 for s in fmt.shifts], dtype=torch.uint8) for site, fmt in formats.items()}


@given(
    st.sampled_from(["round_to_nearest", "stochastic_rounding", "truncation", "logarithmic"]).flatmap(
        lambda rounding: st.builds(BitPlan, st.just(rounding), WEIGHTS, SITES)
    )
)
def test_any_plan_survives_a_file(plan: BitPlan) -> None:
    assert plan_from_header(json.loads(json.dumps(plan_to_header(plan))), segments_of(plan), where="x.pt") == plan


def test_an_iteration_of_its_own_comes_before_the_entry_for_all() -> None:
    assert PLAN.of_array("class_caps.coupling@2") == Float32()


@pytest.mark.parametrize("site", ["class_caps.coupling", "class_caps.coupling@1", "class_caps.coupling@3"])
def test_an_entry_without_iteration_covers_all_iterations(site: str) -> None:
    assert PLAN.of_array(site) == FixedPoint(4, 6)


@pytest.mark.parametrize("site", ["conv2.out", "conv1", "coupling@2", "conv1.weight", "logits@1"])
def test_a_site_without_format_is_an_error(site: str) -> None:
    with pytest.raises(KeyError):
        PLAN.of_array(site)


def changed(**changes: object) -> dict[str, object]:
    return {**DATA, **changes}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "truncation",
        {},
        {"rounding": "truncation", "weights": {}},
        changed(widths={}),
        changed(rounding=None),
        changed(rounding=["truncation"]),
        changed(rounding="trunc"),
        changed(rounding="\x1b[2Jtruncation"),
        changed(weights=[]),
        changed(arrays=None),
        changed(arrays={"conv1.out": 8}),
        changed(arrays={"conv1.out": {"kind": "fixed_point", "bits": 17, "frac_bits": 0}}),
        changed(arrays={"conv1.out": {"kind": "fixed_point", "bits": True, "frac_bits": 0}}),
        changed(weights={"conv1.weight": {"kind": "fixed_point", "bits": 8, "frac_bits": 1e9}}),
        changed(weights={"conv1.weight": {"kind": "fixed_point", "bits": 8, "frac_bits": [1, 2, 3]}}),
        changed(weights={"conv1.bias": {"kind": "fixed_point", "bits": 8, "channels": 2}}),
        changed(weights={"conv1.weight": {"kind": "fixed_point", "bits": 8, "channels": 0}}),
        changed(weights={"conv1.weight": {"kind": "fixed_point", "bits": 8, "channels": -1}}),
        changed(weights={"conv1.weight": {"kind": "fixed_point", "bits": 8, "channels": 4}}),
        changed(weights={"conv1.weight": {"kind": "fixed_point", "bits": 8, "channels": 10**30}}),
        changed(weights={"conv1.weight": {"kind": "fixed_point", "bits": 8, "channels": True}}),
        changed(weights={"conv1.weight": {"kind": "fixed_point", "bits": True, "channels": 3}}),
        changed(weights={"conv1.weight": {"kind": "fixed_point", "bits": 8, "channels": 3.0}}),
        changed(weights={"conv1.weight": {"kind": "fixed_point", "bits": 8, "channels": 3, "frac_bits": 0}}),
        changed(weights={"conv1.weight": {"kind": "fixed_point", "bits": 17, "channels": 3}}),
        changed(weights={"conv1.weight": {"kind": "float32", "bits": 32, "channels": 3}}),
        changed(weights={"conv1.weight": {"kind": None, "bits": 8, "channels": 3}}),
        changed(weights={"class_caps.weight": {"kind": "fixed_point", "bits": 8, "channels": 3}}),
        changed(arrays={"conv1.weight": {"kind": "fixed_point", "bits": 8, "channels": 3}}),
    ],
)
def test_anything_else_is_refused_in_one_line_that_names_the_file(data: object) -> None:
    segments = {"conv1.weight": torch.zeros(3, dtype=torch.uint8), "class_caps.weight": torch.zeros(3)}
    with pytest.raises(ArtifactError) as caught:
        plan_from_header(data, segments, where="x.pt")
    assert caught.value.where.startswith("x.pt")
    assert str(caught.value).isprintable()


def test_a_format_that_is_refused_names_its_site() -> None:
    with pytest.raises(ArtifactError) as caught:
        plan_from_header(changed(arrays={"conv7.out": {"kind": "float32", "bits": 16}}), {}, where="x.pt")
    assert caught.value.where == "x.pt: conv7.out"


def test_a_routing_of_one_pass_takes_the_formats_of_the_first():
    plan = BitPlan("truncation", {}, {"class_caps.sum@1": FixedPoint(4, 6), "class_caps.sum@2": FixedPoint(5, 6)})
    assert plan.of_array("class_caps.sum") == FixedPoint(4, 6)
