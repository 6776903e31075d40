from __future__ import annotations

import pytest

from qcaps.errors import UsageError
from qcaps.quantization.search.groups import Group, allowed_widths, fine_groups

WEIGHTS = {"conv1.weight": 100, "conv1.bias": 4}
ARRAYS = {
    "conv1.out": 64,
    "class_caps.votes": 48,
    "class_caps.coupling@1": 12,
    "class_caps.sum@1": 9,
    "class_caps.logits@1": 12,
    "class_caps.coupling@2": 12,
    "class_caps.sum@2": 9,
    "class_caps.logits@2": 12,
    "class_caps.coupling@3": 12,
    "class_caps.sum@3": 9,
}
SITES = (*WEIGHTS, *ARRAYS)


def groups(*, per_iteration: bool = False, pins: tuple[tuple[str, int], ...] = ()) -> dict[str, Group]:
    allowed = allowed_widths(SITES, (2, 4, 8), only=(), pins=pins)
    found = fine_groups(WEIGHTS, ARRAYS, allowed, per_iteration=per_iteration)
    assert len({group.name for group in found}) == len(found)
    return {group.name: group for group in found}


def test_every_weight_and_every_array_is_a_group() -> None:
    assert list(groups()) == [
        "conv1.weight",
        "conv1.bias",
        "conv1.out",
        "class_caps.votes",
        "class_caps.coupling",
        "class_caps.sum",
        "class_caps.logits",
    ]


def test_the_iterations_of_an_array_share_a_width_and_count_once() -> None:
    assert groups()["class_caps.coupling"] == Group(
        "class_caps.coupling",
        "activations",
        ("class_caps.coupling@1", "class_caps.coupling@2", "class_caps.coupling@3"),
        12,
    )


@pytest.mark.parametrize("per_iteration", [False, True])
@pytest.mark.parametrize("pins", [(), (("class_caps.sum@2", 8),), (("*@3", 4), ("*.weight", 2))])
def test_every_site_is_in_one_group(per_iteration: bool, pins: tuple[tuple[str, int], ...]) -> None:
    found = [site for group in groups(per_iteration=per_iteration, pins=pins).values() for site in group.sites]
    assert sorted(found) == sorted(SITES)


def test_kinds_are_weights_activations_and_routing() -> None:
    kinds = {name: group.kind for name, group in groups().items()}
    assert kinds == {
        "conv1.weight": "weights",
        "conv1.bias": "weights",
        "conv1.out": "activations",
        "class_caps.votes": "activations",
        "class_caps.coupling": "activations",
        "class_caps.sum": "routing",
        "class_caps.logits": "routing",
    }
    assert [group.is_weight for group in groups().values()] == [True, True, False, False, False, False, False]


def test_iterations_apart_have_a_share_of_the_array_each() -> None:
    found = groups(per_iteration=True)
    shares = {name: group.values for name, group in found.items() if "@" in name}
    assert shares == {
        "class_caps.coupling@1": 4,
        "class_caps.coupling@2": 4,
        "class_caps.coupling@3": 4,
        "class_caps.sum@1": 3,
        "class_caps.sum@2": 3,
        "class_caps.sum@3": 3,
        "class_caps.logits@1": 6,
        "class_caps.logits@2": 6,
    }
    assert all(group.sites == (name,) for name, group in found.items() if "@" in name)


def test_an_iteration_with_widths_of_its_own_is_apart() -> None:
    found = groups(pins=(("class_caps.sum@2", 8),))
    assert found["class_caps.sum@1"].sites == ("class_caps.sum@1", "class_caps.sum@3")
    assert found["class_caps.sum@2"].sites == ("class_caps.sum@2",)
    assert found["class_caps.coupling"].values == 12


def test_a_share_is_rounded_up() -> None:
    allowed = dict.fromkeys(("r.sum@1", "r.sum@2"), (2, 4))
    found = fine_groups({}, {"r.sum@1": 5, "r.sum@2": 5}, allowed, per_iteration=True)
    assert [group.values for group in found] == [3, 3]


def test_float_is_allowed_beside_the_packed_widths() -> None:
    assert allowed_widths(SITES, (2, 3), only=(), pins=()) == dict.fromkeys(SITES, (2, 3, 32))


def test_a_list_of_widths_leaves_float_out() -> None:
    assert allowed_widths(SITES, range(1, 17), only=(4, 8), pins=()) == dict.fromkeys(SITES, (4, 8))


def test_of_a_list_the_packed_widths_are_left() -> None:
    assert allowed_widths(["a.out"], range(2, 9), only=(1, 8, 12), pins=()) == {"a.out": (8,)}
    assert allowed_widths(["a.out"], range(2, 9), only=(12,), pins=()) == {"a.out": ()}


def pinned(*pins: tuple[str, int]) -> set[str]:
    """List the sites that have one width alone."""
    return {site for site, widths in allowed_widths(SITES, (2, 4), only=(), pins=pins).items() if len(widths) == 1}


def test_a_pin_takes_all_that_match() -> None:
    assert pinned(("conv1.*", 4)) == {"conv1.weight", "conv1.bias", "conv1.out"}


def test_a_pin_without_iteration_takes_all_of_them() -> None:
    assert pinned(("class_caps.logits", 4)) == {"class_caps.logits@1", "class_caps.logits@2"}


def test_a_pin_with_iteration_takes_that_one() -> None:
    assert pinned(("*.sum@2", 4)) == {"class_caps.sum@2"}


def test_a_later_pin_wins() -> None:
    found = allowed_widths(SITES, (2, 4), only=(2,), pins=(("conv1.*", 4), ("*.weight", 16), ("conv1.bias", 32)))
    assert (found["conv1.weight"], found["conv1.out"], found["conv1.bias"]) == ((16,), (4,), (32,))
    assert found["class_caps.votes"] == (2,)


def test_a_pin_may_be_a_width_that_is_not_searched() -> None:
    assert allowed_widths(["a.out"], (2, 4), only=(2, 4), pins=[("a.*", 7)]) == {"a.out": (7,)}


@pytest.mark.parametrize("pattern", ["conv1.weigth", "conv9.*", "CONV1.*", "class_caps.sum@4", "conv1"])
def test_a_pin_that_matches_nothing_is_an_error(pattern: str) -> None:
    with pytest.raises(UsageError, match="matches no site") as caught:
        allowed_widths(SITES, (2, 4), only=(), pins=[(pattern, 4)])
    assert caught.value.where == "--pin"
    assert caught.value.do.endswith("`qcaps inspect` lists them")


def test_a_misspelt_pin_names_the_site_that_is_near() -> None:
    with pytest.raises(UsageError) as caught:
        allowed_widths(SITES, (2, 4), only=(), pins=[("conv1.weigth", 4)])
    assert "conv1.weight" in caught.value.do
