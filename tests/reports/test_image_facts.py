from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from qcaps.data.images import ImageSet
from qcaps.evaluation.outputs import Outputs
from qcaps.models.network import Output
from qcaps.reports.image_facts import BINS, MOST_WRONG, PANEL, Confusion, image_facts, lengths_of, panel

LABELS = torch.tensor([0, 1, 2, 2, 1])
# Right, right, taken for 0, taken for 1, right.
SCORES = torch.tensor(
    [[0.875, 0.25, 0.125], [0.0, 1.0, 0.5], [0.875, 0.125, 0.25], [0.25, 0.75, 0.625], [0.25, 0.5, 0.0]]
)
# Only the last one is wrong.
BEFORE = torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.9], [0.0, 0.0, 0.9], [0.0, 0.0, 0.9]])


def images(labels: Tensor = LABELS) -> ImageSet:
    pixels = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    names = tuple(f"c{number}" for number in range(int(labels.max()) + 1))
    return ImageSet("toy", "test", pixels, labels, 100 + torch.arange(len(labels)), names)


def outputs(scores: Tensor) -> Outputs:
    found = Outputs()
    found.see(Output(scores, scores.unsqueeze(2)))
    return found


def test_every_confusion_is_counted():
    (facts,) = image_facts(images(), {"float": outputs(SCORES)}, "margin").networks
    assert facts.correct == 3
    assert facts.confusions == (Confusion(2, 0, 1), Confusion(2, 1, 1))


def test_classes_are_counted():
    assert image_facts(images(), {"float": outputs(SCORES)}, "margin").class_sizes == (1, 2, 2)


def test_wrong_images_come_in_the_order_of_their_margins():
    found = image_facts(images(), {"float": outputs(SCORES)}, "margin")
    assert found.wrong_images == 2
    assert [(one.index, one.label, one.prediction) for one in found.wrong] == [(102, 2, 0), (103, 2, 1)]
    assert [one.label_score for one in found.wrong] == [0.25, 0.625]
    assert [one.score for one in found.wrong] == [0.875, 0.75]


def test_an_image_is_lost_if_the_first_network_has_it():
    found = image_facts(images(), {"float": outputs(BEFORE), "a.pt": outputs(SCORES)}, "margin")
    assert [one.lost for one in found.wrong] == [True, True]
    same = image_facts(images(), {"float": outputs(SCORES), "a.pt": outputs(SCORES)}, "margin")
    assert [one.lost for one in same.wrong] == [False, False]


def test_only_so_many_wrong_images_are_named_but_all_are_counted():
    labels = torch.zeros(100, dtype=torch.int64)
    labels[-1] = 1
    scores = torch.tensor([[0.0, 1.0]]).repeat(100, 1)
    found = image_facts(images(labels), {"float": outputs(scores)}, "margin")
    assert (found.wrong_images, len(found.wrong)) == (99, MOST_WRONG)


def test_lengths_are_counted_apart_for_the_label_the_strongest_other_and_the_rest():
    found = lengths_of(SCORES, LABELS)
    expected = {
        "label": [0.875, 1.0, 0.25, 0.625, 0.5],
        "strongest_other": [0.25, 0.5, 0.875, 0.75, 0.25],
        "others": [0.125, 0.0, 0.125, 0.25, 0.0],
    }
    for name, values in expected.items():
        counted = Counter(min(int(value * BINS), BINS - 1) for value in values)
        assert {place: count for place, count in enumerate(getattr(found, name)) if count} == counted


def test_every_capsule_is_in_one_bin_even_beyond_the_ends():
    found = lengths_of(torch.tensor([[1.25, -0.5, 0.5]]), torch.tensor([0]))
    assert [sum(part) for part in (found.label, found.strongest_other, found.others)] == [1, 1, 1]
    assert (found.label[-1], found.others[0]) == (1, 1)


def test_logits_have_no_lengths():
    (facts,) = image_facts(images(), {"float": outputs(SCORES)}, "cross-entropy").networks
    assert facts.lengths is None


def test_the_panel_is_spread_over_the_classes():
    labels = torch.arange(1000) % 10
    chosen = panel(labels, seed=7)
    assert len(chosen) == len(set(chosen.tolist())) == PANEL
    assert set(Counter(labels[chosen].tolist()).values()) == {3, 4}
    assert labels[chosen].tolist() == sorted(labels[chosen].tolist())


def test_the_panel_depends_on_the_seed_alone():
    labels = torch.arange(1000) % 10
    assert torch.equal(panel(labels, seed=7), panel(labels, seed=7))
    assert not torch.equal(panel(labels, seed=7), panel(labels, seed=8))


def test_a_small_split_is_its_own_panel():
    assert sorted(panel(LABELS, seed=7).tolist()) == [0, 1, 2, 3, 4]
