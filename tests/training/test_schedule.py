from __future__ import annotations

import pytest

from qcaps.capsules.losses import Margins
from qcaps.config import TrainConfig
from qcaps.training.schedule import epoch_spread_margin, learning_rate, margins, reconstruction_weight

NORMAL, HARD = Margins(0.9, 0.1, 0.5), Margins(0.95, 0.05, 0.8)


@pytest.mark.parametrize(("step", "expected"), [(0, 1e-3), (1000, 1e-3 * 0.96**0.5), (2000, 9.6e-4), (4000, 9.216e-4)])
def test_per_step_the_rate_decays_smoothly(step, expected):
    config = TrainConfig(lr=0.001, decay_rate=0.96, decay_steps=2000)
    assert learning_rate(config, step, steps_per_epoch=600) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("step", "expected"), [(0, 5e-4), (99, 5e-4), (100, 4.85e-4), (299, 4.7045e-4)])
def test_per_epoch_the_rate_is_constant_within_an_epoch(step, expected):
    config = TrainConfig(lr=5e-4, decay_rate=0.97, decay_steps=1, decay_per="epoch")
    assert learning_rate(config, step, steps_per_epoch=100) == pytest.approx(expected, rel=1e-12)


def test_a_period_of_two_epochs_decays_by_the_rate_every_second_epoch():
    config = TrainConfig(lr=1.0, decay_rate=0.25, decay_steps=2, decay_per="epoch")
    rates = [learning_rate(config, epoch * 10, steps_per_epoch=10) for epoch in range(5)]
    assert rates == [1.0, 0.5, 0.25, 0.125, 0.0625]


def test_the_rate_stays_at_its_floor():
    # Efficient-CapsNet: 5e-4 · 0.97^75 = 5.09e-5 is the last rate above 5e-5.
    config = TrainConfig(lr=5e-4, decay_rate=0.97, decay_steps=1, decay_per="epoch", lr_floor=5e-5)
    rates = [learning_rate(config, epoch, steps_per_epoch=1) for epoch in (75, 76, 150)]
    assert rates[0] > 5e-5
    assert rates[1:] == [5e-5, 5e-5]


def test_a_rate_of_one_never_decays():
    config = TrainConfig(lr=0.1, decay_rate=1.0)
    assert learning_rate(config, 10**6, steps_per_epoch=1) == 0.1


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (10, 0.75), (15, 0.5), (20, 0.25), (30, 0.0)])
def test_a_cosine_falls_to_zero_over_all_steps(step, share):
    # Thirds and halves of 180 degrees: cosines 1, 1/2, 0, -1/2 and -1.
    config = TrainConfig(lr=0.2, epochs=3, schedule="cosine", decay_rate=0.1, decay_steps=1)
    assert learning_rate(config, step, steps_per_epoch=10) == pytest.approx(0.2 * share, abs=1e-12)


def test_a_cosine_stays_at_its_floor():
    config = TrainConfig(lr=0.2, epochs=3, schedule="cosine", lr_floor=0.12)
    assert [learning_rate(config, step, steps_per_epoch=10) for step in (15, 29)] == [0.12, 0.12]


def rates(steps, **numbers):
    """Give the learning rates of some steps, ten of which make an epoch."""
    config = TrainConfig(**{"lr": 1.0, "epochs": 4, **numbers})
    return [learning_rate(config, step, steps_per_epoch=10) for step in steps]


def test_a_constant_rate_is_constant():
    assert rates([0, 7, 39], schedule="constant", decay_rate=0.1, decay_steps=1) == [1.0, 1.0, 1.0]


def test_steps_fall_at_the_end_of_every_decay_period_and_stay_level_between():
    numbers = {"schedule": "step", "decay_rate": 0.5, "decay_steps": 8}
    assert rates([0, 7, 8, 15, 16, 31], **numbers) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.125]


def test_steps_can_be_counted_in_epochs():
    numbers = {"schedule": "step", "decay_rate": 0.5, "decay_steps": 2, "decay_per": "epoch"}
    assert rates([0, 19, 20, 39], **numbers) == [1.0, 1.0, 0.5, 0.5]


def test_steps_fall_after_every_milestone_instead_of_decay_periods():
    # After the first and the third epoch.
    numbers = {"schedule": "step", "decay_rate": 0.5, "decay_steps": 1, "milestones": (1, 3)}
    assert rates([0, 9, 10, 29, 30, 39], **numbers) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("schedule", ["constant", "exponential", "step"])
def test_a_warm_up_rises_evenly_to_what_the_schedule_says(schedule):
    numbers = {"schedule": schedule, "decay_rate": 0.5, "decay_steps": 20, "decay_per": "epoch", "lr": 0.8}
    assert rates([0, 1, 3, 4], warmup=4, **numbers) == pytest.approx([0.2, 0.4, 0.8, 0.8])


def test_a_warm_up_can_be_counted_in_epochs():
    numbers = {"schedule": "constant", "warmup": 2, "warmup_per": "epoch"}
    assert rates([0, 9, 19, 20], **numbers) == pytest.approx([0.05, 0.5, 1.0, 1.0])


def test_a_cosine_begins_after_the_warm_up():
    # 30 steps are left: a third of them is 60 degrees, whose cosine is 1/2.
    numbers = {"schedule": "cosine", "warmup": 10}
    assert rates([4, 9, 10, 20, 25], **numbers) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5])


def test_a_warm_up_starts_below_the_floor():
    assert rates([0, 9], schedule="constant", lr=0.1, lr_floor=0.4, warmup=4) == pytest.approx([0.1, 0.4])


@pytest.mark.parametrize(("kind", "weight"), [("sse", 0.0005), ("l1", 0.0005), ("mse", 0.392)])
def test_a_reconstruction_has_its_published_weight_unless_another_is_given(kind, weight):
    assert reconstruction_weight(TrainConfig(reconstruction=kind), 5) == weight
    assert reconstruction_weight(TrainConfig(reconstruction=kind, regularization_scale=0.1), 5) == 0.1


# tanh from tables: tanh(0.0625) = 0.062419, tanh(1) = 0.761594, tanh(2) = 0.964028; 8 pi = 25.13 epochs to one half.
@pytest.mark.parametrize(
    ("mode", "epoch", "share"),
    [("none", 1, 1.0), ("2", 1, 0.062419), ("2", 16, 0.761594), ("2", 32, 0.964028), ("1", 1, 0.002392)],
)
def test_a_weight_is_annealed_by_the_number_of_the_epoch(mode, epoch, share):
    config = TrainConfig(regularization_scale=2.0, anneal_reconstruction=mode)
    assert reconstruction_weight(config, epoch - 1) == pytest.approx(2.0 * share, rel=1e-3)


def test_the_first_annealing_is_half_way_after_eight_pi_epochs():
    config = TrainConfig(regularization_scale=1.0, anneal_reconstruction="1")
    assert reconstruction_weight(config, 24) < 0.5 < reconstruction_weight(config, 25)


@pytest.mark.parametrize(("epochs", "first_hard"), [(10, 5), (5, 3), (3, 2), (2, 1)])
def test_hard_training_covers_the_last_half_of_the_epochs_rounded_down(epochs, first_hard):
    config = TrainConfig(epochs=epochs, hard_training=True)
    expected = [NORMAL] * first_hard + [HARD] * (epochs - first_hard)
    assert [margins(config, epoch) for epoch in range(epochs)] == expected


def test_a_single_epoch_is_never_hard():
    assert margins(TrainConfig(epochs=1, hard_training=True), 0) == NORMAL


def test_margins_stay_normal_unless_hard_training_is_asked_for():
    assert {margins(TrainConfig(epochs=4), epoch) for epoch in range(4)} == {NORMAL}


@pytest.mark.parametrize(("epochs", "expected"), [(1, [0.2]), (2, [0.2, 0.9]), (8, [0.2 + 0.1 * e for e in range(8)])])
def test_the_spread_margin_rises_evenly_from_the_first_epoch_to_the_last(epochs, expected):
    config = TrainConfig(epochs=epochs)
    assert [epoch_spread_margin(config, epoch) for epoch in range(epochs)] == pytest.approx(expected)
