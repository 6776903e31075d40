from __future__ import annotations

import dataclasses

import pytest
from toy_search import toy_bench, toy_subject, toy_task

from qcaps.quantization.search.groups import Group, allowed_widths
from qcaps.quantization.search.pricing import Prices
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.task import Task

WIDTHS = (2, 3, 8, 32)


def task_of(subject: Subject, *, per_iteration: bool = False, pins: tuple[tuple[str, int], ...] = ()) -> Task:
    with toy_bench() as bench:
        task = toy_task(bench, subject, per_iteration=per_iteration)
    task.widths = allowed_widths(subject.sites, WIDTHS[:-1], only=(), pins=pins)
    return task


def prices_of(task: Task) -> Prices:
    """Price every group with the damage that the law of the rounding error gives its values."""
    widths = {group.name: task.widths[group.sites[0]] for group in task.groups}
    scores = {
        group.name: {bits: 0.0 if bits == 32 else (1 + number) * 0.25**bits for bits in widths[group.name]}
        for number, group in enumerate(task.groups)
    }
    return Prices(task.subject, task.groups, widths, scores)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", WIDTHS)
def test_the_price_of_a_weight_is_its_bytes_in_the_file(bits: int, per_channel: bool) -> None:
    subject = toy_subject(per_channel=per_channel)
    prices = prices_of(task_of(subject))
    for group in prices.groups:
        if group.is_weight:
            assert prices.price(group, bits) == subject.weight_bytes(group.name, bits)


def test_the_price_of_an_array_is_that_of_its_values_once() -> None:
    prices = prices_of(task_of(toy_subject()))
    logits = next(group for group in prices.groups if group.name == "class_caps.logits")
    assert prices.price(logits, 3) == 81 * 3 / 8


@pytest.mark.parametrize("pins", [(), (("class_caps.sum@2", 8), ("*.logits@1", 2))])
@pytest.mark.parametrize("per_iteration", [False, True])
def test_the_totals_of_every_point_are_the_bytes_of_its_plan(
    per_iteration: bool, pins: tuple[tuple[str, int], ...]
) -> None:
    task = task_of(toy_subject(), per_iteration=per_iteration, pins=pins)
    prices = prices_of(task)
    front = prices.front(task.groups, 1.0)
    payload, activations = prices.totals(front)
    for point in range(0, len(front), 1 + len(front) // 50):
        widths = prices.spread(front.choice(point))
        assert payload[point] == task.subject.payload_bytes(widths)
        assert activations[point] == task.subject.activation_bytes(widths)


def test_the_totals_of_large_arrays_do_not_overflow() -> None:
    task = task_of(toy_subject())
    ranges = task.subject.calibration
    large = {site: dataclasses.replace(found, values=10**7) for site, found in ranges.arrays.items()}
    task.subject = dataclasses.replace(task.subject, calibration=dataclasses.replace(ranges, arrays=large))
    prices = prices_of(task)
    front = prices.front(task.groups, 1.0)
    arrays = sum(not group.is_weight for group in task.groups)
    assert prices.totals(front)[1].max() == arrays * 10**7 * 32 / 8


def test_groups_that_a_front_lacks_count_nothing() -> None:
    task = task_of(toy_subject())
    prices = prices_of(task)
    weights = prices.front([group for group in task.groups if group.is_weight], 1.0)
    payload, activations = prices.totals(weights)
    assert set(activations.tolist()) == {0.0}
    least = dict.fromkeys(task.subject.sites, 2)
    assert payload[0] == task.subject.payload_bytes(least)


def test_a_byte_of_activations_counts_by_its_weight() -> None:
    prices = prices_of(task_of(toy_subject()))
    out = next(group for group in prices.groups if group.name == "conv1.out")
    bias = next(group for group in prices.groups if group.name == "conv1.bias")
    front = prices.front([out, bias], 0.5)
    expected = sorted(
        {
            8 * (prices.price(bias, b) + 0.5 * prices.price(out, a))
            for a, b in (tuple(front.choice(p).values()) for p in range(len(front)))
        }
    )
    assert front.costs.tolist() == expected


def test_activations_without_weight_are_as_wide_as_they_may_be() -> None:
    task = task_of(toy_subject())
    front = prices_of(task).front(task.groups, 0.0)
    arrays = {group.name for group in task.groups if not group.is_weight}
    assert all(front.choice(p)[name] == 32 for p in range(len(front)) for name in arrays)


def test_every_site_takes_the_width_of_its_group() -> None:
    task = task_of(toy_subject())
    prices = prices_of(task)
    choice = {group.name: 2 + number for number, group in enumerate(prices.groups)}
    widths = prices.spread(choice)
    assert set(widths) == set(task.subject.sites)
    assert widths["conv1.weight"] == 2
    assert widths["class_caps.sum@1"] == widths["class_caps.sum@3"] == choice["class_caps.sum"]


def test_a_group_of_several_weights_costs_their_sum() -> None:
    subject = toy_subject()
    both = Group("conv1", "weights", ("conv1.weight", "conv1.bias"), 104)
    prices = Prices(subject, (both,), {"conv1": (4,)}, {"conv1": {4: 0.0}})
    assert prices.price(both, 4) == 1 + 100 * 4 // 8 + 1 + 4 * 4 // 8
