from __future__ import annotations

import math

import pytest
import torch

from qcaps.capsules.losses import (
    HARD_MARGINS,
    NORMAL_MARGINS,
    Margins,
    class_loss,
    divergence,
    margin_loss,
    ranking_divergence,
    reconstruction_loss,
    spread_loss,
    spread_margin,
)


def slow_margin_loss(scores, label, margins):
    total = 0.0
    for j, score in enumerate(scores):
        if j == label:
            total += max(0.0, margins.present - score) ** 2
        else:
            total += margins.absent_weight * max(0.0, score - margins.absent) ** 2
    return total


def test_normal_and_hard_margins_are_the_published_ones():
    assert Margins(present=0.9, absent=0.1, absent_weight=0.5) == NORMAL_MARGINS
    assert Margins(present=0.95, absent=0.05, absent_weight=0.8) == HARD_MARGINS


def test_margin_loss_of_two_images_by_hand():
    scores = torch.tensor([[0.5, 0.3, 0.0], [0.2, 0.95, 0.1]], dtype=torch.float64)
    # (0.9-0.5)² + 0.5·(0.3-0.1)² = 0.16 + 0.02; the second has 0.5·(0.2-0.1)² alone.
    expected = torch.tensor([0.18, 0.005], dtype=torch.float64)
    torch.testing.assert_close(margin_loss(scores, torch.tensor([0, 1])), expected)


def test_hard_margin_loss_by_hand():
    scores = torch.tensor([[0.92, 0.1]], dtype=torch.float64)
    # (0.95-0.92)² + 0.8·(0.1-0.05)² = 0.0009 + 0.002
    expected = torch.tensor([0.0029], dtype=torch.float64)
    torch.testing.assert_close(margin_loss(scores, torch.tensor([0]), HARD_MARGINS), expected)


@pytest.mark.parametrize("margins", [NORMAL_MARGINS, HARD_MARGINS], ids=["normal", "hard"])
def test_margin_loss_is_its_formula_image_by_image(margins):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(20, 10, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (20,), generator=generator)
    expected = [slow_margin_loss(s, y, margins) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)]
    torch.testing.assert_close(margin_loss(scores, labels, margins), torch.tensor(expected, dtype=torch.float64))


def test_a_confident_right_answer_costs_nothing():
    assert margin_loss(torch.tensor([[0.05, 0.93, 0.1]]), torch.tensor([1])).item() == 0


def test_the_gradient_of_the_margin_loss_is_its_finite_difference():
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 4, 1])
    assert torch.autograd.gradcheck(lambda s: margin_loss(s, labels, HARD_MARGINS), scores)


def test_spread_loss_of_two_images_by_hand():
    scores = torch.tensor([[0.5, 0.4, 0.1], [0.9, 0.2, 0.5]], dtype=torch.float64)
    # (0.2-0.1)² and nothing of the last class, which is 0.4 behind; (0.2+0.4)² + (0.2-0.3)₊²
    expected = torch.tensor([0.01, 0.36], dtype=torch.float64)
    torch.testing.assert_close(spread_loss(scores, torch.tensor([0, 2]), 0.2), expected)


@pytest.mark.parametrize("margin", [0.2, 0.9])
def test_spread_loss_is_its_formula_image_by_image(margin):
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(20, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (20,), generator=generator)
    expected = [
        sum(max(0.0, margin - (s[y] - s[j])) ** 2 for j in range(5) if j != y)
        for s, y in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(spread_loss(scores, labels, margin), torch.tensor(expected, dtype=torch.float64))


def test_a_lead_as_wide_as_the_margin_costs_nothing():
    assert spread_loss(torch.tensor([[0.25, 0.75, 0.0]]), torch.tensor([1]), 0.5).item() == 0


def test_the_gradient_of_the_spread_loss_is_its_finite_difference():
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 4, 1])
    assert torch.autograd.gradcheck(lambda s: spread_loss(s, labels, 0.5), scores)


def test_each_kind_of_network_has_its_own_class_loss_as_at_the_end_of_training():
    scores, labels = torch.tensor([[0.5, 0.3, 0.0]]), torch.tensor([0])
    assert class_loss("margin", scores, labels).tolist() == pytest.approx([0.4**2 + 0.5 * 0.2**2])
    assert class_loss("spread", scores, labels).tolist() == pytest.approx([0.7**2 + 0.4**2])
    expected = math.log(math.exp(0.5) + math.exp(0.3) + 1) - 0.5
    assert class_loss("cross-entropy", scores, labels).tolist() == pytest.approx([expected])


def test_margins_of_another_time_can_be_asked_for():
    scores, labels = torch.tensor([[0.5, 0.3, 0.0]]), torch.tensor([0])
    assert class_loss("margin", scores, labels, margins=HARD_MARGINS).item() == pytest.approx(0.45**2 + 0.8 * 0.25**2)
    assert class_loss("spread", scores, labels, spread_margin=0.3).item() == pytest.approx(0.1**2)


def test_the_divergence_of_logits_is_that_of_their_softmax_by_hand():
    target, scores = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence("cross-entropy", target, scores).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("kind", ["margin", "spread"])
def test_the_ranking_of_lengths_is_compared_by_the_softmax_of_ten_times_them(kind):
    target, scores = torch.tensor([[0.9, 0.1, 0.1]]), torch.tensor([[0.5, 0.4, 0.1]])
    p, q = ([math.exp(10 * s) for s in row] for row in (target[0].tolist(), scores[0].tolist()))
    expected = sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    assert ranking_divergence(kind, target, scores).tolist() == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("kind", ["margin", "spread", "cross-entropy"])
def test_scores_that_are_all_larger_by_as_much_rank_the_same(kind):
    target = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    assert ranking_divergence(kind, target, target + 0.25).tolist() == pytest.approx([0.0] * 5, abs=1e-6)


@pytest.mark.parametrize("kind", ["margin", "spread"])
def test_the_divergences_of_presences_add_up(kind):
    target, scores = torch.tensor([[0.5, 0.25]]), torch.tensor([[0.25, 0.5]])
    first = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    second = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert divergence(kind, target, scores).tolist() == pytest.approx([first + second])


@pytest.mark.parametrize("kind", ["margin", "spread", "cross-entropy"])
def test_a_divergence_is_zero_at_the_target_alone(kind):
    target = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    assert divergence(kind, target, target).tolist() == [0.0] * 5
    assert (divergence(kind, target, target.flip(1)) > 0).all()


def test_certain_scores_have_a_finite_divergence_and_gradient():
    scores = torch.tensor([[0.0, 1.0]], requires_grad=True)
    found = divergence("margin", torch.tensor([[1.0, 0.0]]), scores)
    found.backward()
    assert found.item() == pytest.approx(2 * math.log(1e4), rel=1e-3)
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["margin", "cross-entropy"])
def test_the_gradient_of_a_divergence_is_its_finite_difference(kind):
    generator = torch.Generator().manual_seed(1)
    target, scores = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    assert torch.autograd.gradcheck(lambda s: divergence(kind, target, s), scores.requires_grad_())


@pytest.mark.parametrize(("progress", "margin"), [(0, 0.2), (0.5, 0.55), (1, 0.9)])
def test_the_margin_of_the_spread_loss_rises_evenly(progress, margin):
    assert spread_margin(progress) == pytest.approx(margin, rel=1e-12)


def test_reconstruction_loss_sums_the_squared_errors_of_each_image():
    images = torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    drawn = torch.tensor([[[[0.5, 1.0], [0.0, 0.25]]], [[[0.0, 1.0], [1.0, 0.75]]]])
    assert reconstruction_loss(drawn, images).tolist() == [0.5, 1.0625]


def test_the_sum_weighted_as_by_sabour_equals_the_mean_weighted_as_by_efficient_capsnet():
    generator = torch.Generator().manual_seed(2)
    images, drawn = torch.rand(2, 3, 1, 28, 28, generator=generator)
    mean = torch.nn.functional.mse_loss(drawn, images)
    torch.testing.assert_close(reconstruction_loss(drawn, images, "mse").mean(), mean)
    torch.testing.assert_close(0.0005 * reconstruction_loss(drawn, images).mean(), 0.392 * mean)


def test_absolute_errors_are_summed_over_each_image():
    images = torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.25]]]])
    drawn = torch.tensor([[[[0.5, 0.75]]], [[[0.0, 1.0]]]])
    assert reconstruction_loss(drawn, images, "l1").tolist() == [0.75, 1.25]


def test_the_reconstruction_loss_of_half_precision_is_computed_in_single():
    images, drawn = torch.zeros(1, 1, 300, 300), torch.ones(1, 1, 300, 300, dtype=torch.float16)
    assert reconstruction_loss(drawn, images).tolist() == [90_000.0]  # beyond float16
