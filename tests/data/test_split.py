from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcaps.data.split import evenly, hold_out, hold_out_group
from qcaps.errors import UsageError

PER_CLASS = 3
seeds = st.integers(0, 2**63 - 1)


@st.composite
def label_lists(draw: st.DrawFn) -> list[int]:
    """Labels of 1 to 5 classes, each with more than PER_CLASS images, in any order of the file."""
    counts = draw(st.dictionaries(st.integers(0, 9), st.integers(PER_CLASS + 1, 8), min_size=1, max_size=5))
    by_class = [label for label, count in counts.items() for _ in range(count)]
    return draw(st.permutations(by_class))


@given(label_lists(), seeds)
def test_both_parts_are_disjoint_complete_and_ascending(labels: list[int], seed: int) -> None:
    parts = hold_out(torch.tensor(labels), PER_CLASS, seed)

    taken, left = parts.taken.tolist(), parts.left.tolist()
    assert sorted(taken + left) == list(range(len(labels)))
    assert taken == sorted(taken)
    assert left == sorted(left)


@given(label_lists(), seeds)
def test_every_class_gives_the_same_number(labels: list[int], seed: int) -> None:
    taken = hold_out(torch.tensor(labels), PER_CLASS, seed).taken.tolist()

    held = [labels[position] for position in taken]
    assert sorted(held) == sorted(list(set(labels)) * PER_CLASS)


@given(label_lists(), seeds)
def test_the_first_of_each_permuted_class_are_taken_with_one_generator_for_all(labels: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    expected = []
    for label in range(10):
        positions = [i for i in range(len(labels)) if labels[i] == label]
        if positions:
            expected += generator.permutation(positions).tolist()[:PER_CLASS]

    assert hold_out(torch.tensor(labels), PER_CLASS, seed).taken.tolist() == sorted(expected)


def test_another_seed_takes_other_images() -> None:
    labels = torch.arange(1000) % 10

    first, second = (hold_out(labels, 50, seed).taken.tolist() for seed in (1234, 1235))

    # Two independent halves share about half of their members.
    assert 150 < len(set(first) & set(second)) < 350


def test_images_are_not_taken_from_the_beginning_of_a_class() -> None:
    labels = torch.arange(1000) // 500

    taken = hold_out(labels, 100, 1234).taken

    assert taken[:100].float().mean() == pytest.approx(249.5, abs=60)
    assert taken[100:].float().mean() == pytest.approx(749.5, abs=60)


@pytest.mark.parametrize("per_class", [3, 4])
def test_a_class_that_would_be_left_without_images_is_refused(per_class: int) -> None:
    with pytest.raises(UsageError, match="class 1 has only 3"):
        hold_out(torch.tensor([0, 0, 0, 0, 0, 1, 1, 1]), per_class, 1234)


def test_a_group_is_held_out_whole() -> None:
    parts = hold_out_group(torch.tensor([9, 4, 9, 6, 9]), 9)

    assert parts.taken.tolist() == [0, 2, 4]
    assert parts.left.tolist() == [1, 3]


@given(label_lists(), seeds, st.integers(1, 50))
def test_an_even_draw_takes_as_many_of_each_class_as_it_has(labels: list[int], seed: int, count: int) -> None:
    drawn = evenly(torch.tensor(labels), count, seed).tolist()

    assert drawn == sorted(set(drawn))
    assert len(drawn) == min(count, len(labels))
    taken = {label: sum(labels[position] == label for position in drawn) for label in set(labels)}
    most = max(taken.values())
    assert all(number >= min(most - 1, labels.count(label)) for label, number in taken.items())


@given(label_lists(), seeds)
def test_a_larger_draw_holds_the_smaller_one(labels: list[int], seed: int) -> None:
    smaller, larger = (set(evenly(torch.tensor(labels), count, seed).tolist()) for count in (4, 7))

    assert smaller <= larger


def test_an_even_draw_depends_on_the_seed() -> None:
    labels = torch.arange(1000) % 10

    first, second = (evenly(labels, 100, seed).tolist() for seed in (1, 2))

    assert first != second
    assert labels[torch.tensor(first)].bincount().tolist() == [10] * 10
