"""What single options do to a training: the loop as a whole, on toy networks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from toys import FOLDED, NORMED, toy_images

import qcaps.training.epoch_end
from qcaps.config import TrainConfig
from qcaps.data.augment import NO_AUGMENTATION, Augmentation
from qcaps.errors import DivergedError
from qcaps.evaluation.measure import Measurement, measure, predictor
from qcaps.models.spec import initialised
from qcaps.progress import silent
from qcaps.training.devices import accelerator
from qcaps.training.loop import train
from qcaps.training.setting import Lesson, Surroundings, TrainingData

DRAWING = dataclasses.replace(FOLDED, decoder="fc")
CONFIG = TrainConfig(epochs=1, batch_size=20, lr=0.01, test_batch_size=6)
DATA = TrainingData(toy_images(FOLDED, 20, split="train"), toy_images(FOLDED, 13, seed=1), NO_AUGMENTATION)


def run(config=CONFIG, *, spec=FOLDED, data=DATA, lesson=None, clock=lambda: 0.0, **told):
    place = Surroundings(clock, silent, told.get("save", lambda state: None), lambda: False)
    place = dataclasses.replace(place, on_epoch=told.get("on_epoch", place.on_epoch))
    return train(initialised(spec, 3), data, config, accelerator("cpu", "no"), place, lesson=lesson or Lesson())


def change(found) -> torch.Tensor:
    """Give how far every weight went from where it began."""
    start = initialised(FOLDED, 3).state_dict()
    return torch.cat([(found.tensors[name] - start[name]).flatten() for name in start])


def test_a_clipped_step_is_as_long_as_the_limit_and_goes_the_same_way():
    plain = dataclasses.replace(CONFIG, optimizer="sgd", momentum=0.0, lr=0.5, schedule="constant")
    free, clipped = change(run(plain)), change(run(dataclasses.replace(plain, clip_norm=0.001)))
    assert free.norm() > 0.5 * 0.001
    assert float(clipped.norm()) == pytest.approx(0.5 * 0.001, rel=1e-3)
    assert float(torch.cosine_similarity(clipped, free, dim=0)) == pytest.approx(1, abs=1e-4)


def test_a_gradient_below_the_limit_is_left_alone():
    assert change(run(dataclasses.replace(CONFIG, clip_norm=1e6))).equal(change(run()))


def test_a_step_of_sgd_goes_down_the_gradient():
    found = change(run(dataclasses.replace(CONFIG, optimizer="sgd", momentum=0.0, lr=0.5, schedule="constant")))
    network = initialised(FOLDED, 3)
    scores = network(DATA.train.pixels / 255).scores
    present = torch.nn.functional.one_hot(DATA.train.labels, 3)
    loss = present * (0.9 - scores).clamp_min(0) ** 2 + 0.5 * (1 - present) * (scores - 0.1).clamp_min(0) ** 2
    (loss.sum() / 20).backward()
    expected = torch.cat([-0.5 * p.grad.flatten() for p in network.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", ["sse", "mse", "l1"])
@pytest.mark.parametrize("mask", ["label", "longest"])
def test_the_reconstruction_loss_is_that_of_the_capsule_and_error_asked_for(kind, mask):
    config = dataclasses.replace(CONFIG, reconstruction=kind, mask=mask)
    found = run(config, spec=DRAWING).position.history[0].reconstruction_loss
    network, total = initialised(DRAWING, 3), 0.0
    for pixels, label in zip(DATA.train.pixels, DATA.train.labels.tolist(), strict=True):
        with torch.no_grad():
            capsules = network(pixels[None] / 255).capsules
            lengths = capsules[0].norm(dim=1).tolist()
            kept = label if mask == "label" else lengths.index(max(lengths))
            drawn = network.reconstruct(capsules, torch.tensor([kept]))
        apart = [a - b for a, b in zip(drawn.flatten().tolist(), (pixels / 255).flatten().tolist(), strict=True)]
        total += sum(map(abs, apart)) if kind == "l1" else sum(a * a for a in apart) / (196 if kind == "mse" else 1)
    assert found == pytest.approx(total / 20, rel=1e-4)


def scripted(monkeypatch, *corrects: int) -> None:
    """Let every epoch recognise as many of 10 validation images as the script says."""
    script = iter(corrects)

    def scored(*_args, **_options):
        correct = next(script)
        return Measurement(torch.tensor([1] * correct + [0] * (10 - correct)), torch.ones(10, dtype=torch.int64))

    monkeypatch.setattr(qcaps.training.epoch_end, "measure", scored)


@pytest.mark.parametrize(
    ("patience", "corrects", "epochs"),
    [
        (1, (5, 6, 6, 9), 3),
        (2, (5, 6, 6, 6, 9), 4),
        (2, (5, 4, 6, 5, 5, 9), 5),
        (3, (1, 2, 3, 4, 5, 6), 6),
        (0, (5, 4, 3, 2, 1, 0), 6),
    ],
)
def test_training_ends_after_so_many_epochs_without_a_better_score(monkeypatch, patience, corrects, epochs):
    scripted(monkeypatch, *corrects)
    found = run(dataclasses.replace(CONFIG, epochs=6, patience=patience)).position
    assert [record.validation_correct for record in found.history] == list(corrects[:epochs])
    assert found.best().validation_correct == max(corrects[:epochs])


def test_further_sets_are_scored_after_every_epoch_and_never_chosen_by(monkeypatch):
    # The validation images are scored first, then the others, which are best in the second epoch.
    scripted(monkeypatch, 7, 1, 5, 10)
    data = dataclasses.replace(DATA, also={"others": DATA.validation})
    found = run(dataclasses.replace(CONFIG, epochs=2), data=data).position
    assert [record.row()["others_correct"] for record in found.history] == [1, 10]
    assert [record.row()["others_images"] for record in found.history] == [10, 10]
    assert found.best().epoch == 1


def test_the_score_of_a_further_set_is_what_a_measurement_finds():
    others = toy_images(FOLDED, 30, seed=9)
    found = run(data=dataclasses.replace(DATA, also={"others": others}))
    network = initialised(FOLDED, 3)
    network.load_state_dict(found.tensors)
    expected = measure(predictor(network.eval()), others, batch_size=7)
    assert found.position.history[0].also["others"].correct == expected.correct


def test_reconstructions_are_shown_every_so_many_epochs():
    ends = []
    run(dataclasses.replace(CONFIG, epochs=5, reconstructions_every=2), spec=DRAWING, on_epoch=ends.append)
    assert [end.record.epoch for end in ends if end.panel is not None] == [2, 4]
    assert len(ends) == 5


def test_a_loss_that_is_no_number_ends_training_and_leaves_what_was_saved():
    config, saved, steps = dataclasses.replace(CONFIG, epochs=3, batch_size=10), [], []

    def break_down(images, output):
        steps.append(len(images))
        return output.scores.sum(1) * (float("nan") if len(steps) == 4 else 0)

    with pytest.raises(DivergedError, match="the loss is no longer a number") as raised:
        run(config, lesson=Lesson(break_down), save=saved.append)
    assert raised.value.where == "epoch 2, step 2"
    assert raised.value.exit_code == 1
    assert [header["position"]["epoch"] for header, _ in saved] == [1]
    assert all(bool(tensor.isfinite().all()) for tensor in saved[0][1].values())


def test_weights_that_are_no_numbers_are_neither_saved_nor_chosen():
    class Poison(torch.autograd.Function):
        """A loss of zero whose gradient is no number."""

        @staticmethod
        def forward(ctx, scores):
            return scores.sum(1) * 0

        @staticmethod
        def backward(ctx, gradient):
            return torch.full((20, 3), float("nan"))

    saved = []
    with pytest.raises(DivergedError, match="a weight is no longer a number"):
        run(lesson=Lesson(lambda images, output: Poison.apply(output.scores)), save=saved.append)
    assert saved == []


def test_the_time_of_steps_and_of_waiting_for_images_is_told_apart():
    # Every reading of the clock takes a second, an augmentation ten.
    now = [0.0]

    def clock():
        now[0] += 1
        return now[0]

    def slow(images, generator):
        now[0] += 10
        return images

    ends = []
    config = dataclasses.replace(CONFIG, batch_size=8)
    run(config, data=dataclasses.replace(DATA, augment=Augmentation(slow)), clock=clock, on_epoch=ends.append)
    timing = ends[0].timing
    assert (timing.images, timing.waiting_seconds, timing.seconds) == (20, 3 * 11, 3 * 12)


def test_a_normed_network_starts_with_the_first_share_of_a_warm_up():
    config = dataclasses.replace(CONFIG, optimizer="sgd", momentum=0.0, schedule="constant", lr=0.4)
    whole, quarter = (run(dataclasses.replace(config, warmup=steps), spec=NORMED) for steps in (0, 4))
    name = "stages.class_caps.weight"
    start = initialised(NORMED, 3).state_dict()[name]
    torch.testing.assert_close(quarter.tensors[name] - start, (whole.tensors[name] - start) / 4, rtol=1e-3, atol=1e-7)
