from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from toys import FOLDED, NORMED, toy_images

import qcaps.training.epoch_end
import qcaps.training.step_losses
from qcaps.artifacts.container import read_container, write_container
from qcaps.capsules.losses import HARD_MARGINS, NORMAL_MARGINS, margin_loss
from qcaps.config import TrainConfig
from qcaps.data.augment import NO_AUGMENTATION, Augmentation
from qcaps.data.augmentation.published import SHIFT
from qcaps.data.images import ImageSet
from qcaps.data.load import load_split
from qcaps.data.spec import data_spec
from qcaps.errors import QcapsError, StoppedError
from qcaps.evaluation.measure import Measurement
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.spec import initialised
from qcaps.progress import silent
from qcaps.training.devices import accelerator
from qcaps.training.loop import train
from qcaps.training.setting import FROM_LABELS, Lesson, Surroundings, TrainingData

WITH_DECODER = dataclasses.replace(NORMED, decoder="fc")
# 20 images in batches of 8: three steps an epoch, the last one of 4 images.
CONFIG = TrainConfig(epochs=3, batch_size=8, lr=0.01, test_batch_size=6)
STEPS = 9


def toy_data(augment=SHIFT) -> TrainingData:
    return TrainingData(toy_images(NORMED, 20, split="train"), toy_images(NORMED, 13, seed=1), augment=augment)


def surroundings(*, save=lambda state: None, stop=lambda: False, clock=lambda: 0.0, on_progress=silent):
    return Surroundings(clock, on_progress, save, stop)


def run(config=CONFIG, *, spec=NORMED, data=None, network=None, lesson=FROM_LABELS, resume=None, **world):
    network, place = network or initialised(spec, config.seed), accelerator("cpu", "no")
    return train(network, data or toy_data(), config, place, surroundings(**world), lesson=lesson, resume=resume)


def stop_after(steps: int):
    """Say yes at the given step, and at every later one."""
    asked = iter(range(1, 10**6))
    return lambda: next(asked) >= steps


@pytest.fixture
def on_disk(tmp_path):
    """Give a place to save to that works like a resume file, and its reader."""
    path = tmp_path / "resume.pt"

    def save(state):
        write_container(path, {"schema": "qcaps.resume/1", **state[0]}, state[1])

    def resume():
        container = read_container(path, schema="qcaps.resume")
        return container.header, container.tensors

    return save, resume


@pytest.fixture(scope="module")
def uninterrupted():
    return run()


def assert_same(found, expected) -> None:
    assert found.position == expected.position
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name


@pytest.mark.parametrize("steps", range(1, STEPS + 1))
def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits(steps, on_disk, uninterrupted):
    save, resume = on_disk
    with pytest.raises(StoppedError):
        run(save=save, stop=stop_after(steps))
    assert_same(run(resume=resume()), uninterrupted)


def test_a_run_with_a_decoder_resumes_with_the_same_bits_as_well(on_disk):
    save, resume = on_disk
    config = dataclasses.replace(CONFIG, epochs=1)
    with pytest.raises(StoppedError):
        run(config, spec=WITH_DECODER, save=save, stop=stop_after(2))
    assert_same(run(config, spec=WITH_DECODER, resume=resume()), run(config, spec=WITH_DECODER))


def test_a_run_that_is_stopped_after_every_step_ends_with_the_same_bits(on_disk, uninterrupted):
    save, resume = on_disk
    state = None
    for _ in range(STEPS):
        with pytest.raises(StoppedError):
            run(save=save, stop=lambda: True, resume=state)
        state = resume()
    assert_same(run(resume=state), uninterrupted)


def test_a_run_that_died_after_its_last_save_loses_nothing_but_time(on_disk, uninterrupted):
    save, resume = on_disk
    run(save=save)
    assert_same(run(resume=resume()), uninterrupted)


def test_training_twice_gives_the_same_bits(uninterrupted):
    assert_same(run(), uninterrupted)


def test_the_global_random_state_makes_no_difference(uninterrupted):
    torch.manual_seed(99)
    assert_same(run(), uninterrupted)


def test_another_seed_gives_another_network(uninterrupted):
    other = run(dataclasses.replace(CONFIG, seed=43), network=initialised(NORMED, CONFIG.seed))
    name = "stages.class_caps.weight"
    assert not torch.equal(other.tensors[name], uninterrupted.tensors[name])


def test_stopping_saves_and_says_so():
    saved = []
    with pytest.raises(StoppedError, match="saved"):
        run(save=saved.append, stop=stop_after(2))
    assert [header["position"]["step"] for header, _ in saved] == [2]


def test_the_state_is_saved_after_every_epoch():
    saved = []
    run(save=saved.append)
    assert [(h["position"]["epoch"], h["position"]["step"]) for h, _ in saved] == [(1, 0), (2, 0), (3, 0)]


def test_the_state_is_saved_every_minute_within_an_epoch():
    minutes = iter(range(0, 10**6, 61))
    saved = []
    run(dataclasses.replace(CONFIG, epochs=1), save=saved.append, clock=lambda: float(next(minutes)))
    assert [(h["position"]["epoch"], h["position"]["step"]) for h, _ in saved] == [(0, 1), (0, 2), (0, 3), (1, 0)]


def test_a_save_starts_the_minute_anew():
    # The steps end after 61, 100 and 121 seconds; after the first save the next is due at 122.
    now, ends, saved = [0.0], iter([61.0, 100.0, 121.0]), []

    def pass_time(step):
        if step.phase.startswith("epoch"):
            now[0] = next(ends)

    run(dataclasses.replace(CONFIG, epochs=1), save=saved.append, clock=lambda: now[0], on_progress=pass_time)
    assert [(h["position"]["epoch"], h["position"]["step"]) for h, _ in saved] == [(0, 1), (1, 0)]


def test_the_loss_falls_on_digits():
    spec = EfficientCapsNetSpec(conv_channels=(8, 8, 8, 16), norm_momentum=0.1)
    data = data_spec("digits")
    splits = TrainingData(load_split(data, "train"), load_split(data, "validation"), NO_AUGMENTATION)
    found = run(TrainConfig(epochs=2, lr=0.005, batch_size=32), spec=spec, data=splits)
    first, second = found.position.history
    assert second.class_loss < 0.6 * first.class_loss
    assert second.validation_correct > 0.8 * 300  # guessing gives 30


def numbered(first: int, count: int, split) -> ImageSet:
    """Give images whose every pixel is their number."""
    numbers = torch.arange(first, first + count)
    pixels = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 14, 14).contiguous()
    return ImageSet("digits", split, pixels, numbers % 3, numbers, ("a", "b", "c"))


def test_validation_images_are_only_looked_at_and_training_images_only_learned_from():
    train_set, validation = numbered(0, 20, "train"), numbered(100, 13, "validation")
    network = initialised(FOLDED, 0)
    learned, looked_at = [], []

    def record(module, inputs):
        numbers = (inputs[0][:, 0, 0, 0] * 255).round().long().tolist()
        (learned if module.training else looked_at).extend(numbers)

    network.register_forward_pre_hook(record)
    run(spec=FOLDED, network=network, data=TrainingData(train_set, validation, NO_AUGMENTATION))
    assert sorted(learned) == sorted(3 * list(range(20)))
    assert looked_at == 3 * list(range(100, 113))


def test_every_epoch_learns_from_every_image_once_in_an_order_of_its_own():
    seen = []

    def record(images, generator):
        seen.extend((images[:, 0, 0, 0] * 255).round().long().tolist())
        return images

    run(spec=FOLDED, data=TrainingData(numbered(0, 20, "train"), numbered(100, 4, "validation"), Augmentation(record)))
    epochs = [tuple(seen[start : start + 20]) for start in (0, 20, 40)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len(set(epochs)) == 3
    assert tuple(range(20)) not in epochs


def test_every_step_draws_its_augmentation_anew():
    draws = []

    def record(images, generator):
        draws.append(float(torch.rand((), generator=generator)))
        return images

    run(spec=FOLDED, data=toy_data(Augmentation(record)))
    assert len(set(draws)) == STEPS


def test_every_step_uses_the_learning_rate_of_its_schedule():
    # 0^0 = 1: the rate is 0 from the second step on, and no parameter moves any more.
    config = dataclasses.replace(CONFIG, epochs=1, decay_rate=0.0, decay_steps=1)
    saved = []
    with pytest.raises(StoppedError):
        run(config, spec=FOLDED, save=saved.append, stop=stop_after(1))
    found = run(config, spec=FOLDED)
    start = initialised(FOLDED, config.seed).state_dict()
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, saved[0][1][f"network.{name}"])
    assert not torch.equal(found.tensors["stages.conv1.conv.weight"], start["stages.conv1.conv.weight"])


def test_the_history_tells_the_learning_rate_of_the_last_step_of_every_epoch():
    found = run(dataclasses.replace(CONFIG, epochs=2, lr=1.0, decay_rate=0.5, decay_steps=1), spec=FOLDED)
    assert [record.lr for record in found.position.history] == [0.5**2, 0.5**5]


def test_hard_margins_are_used_in_the_last_half_of_the_epochs(monkeypatch):
    used = []
    real = qcaps.training.step_losses.class_loss

    def record(*args, margins, **more):
        used.append(margins)
        return real(*args, margins=margins, **more)

    monkeypatch.setattr(qcaps.training.step_losses, "class_loss", record)
    run(dataclasses.replace(CONFIG, hard_training=True), spec=FOLDED)
    assert used == [NORMAL_MARGINS] * 6 + [HARD_MARGINS] * 3


def scripted(monkeypatch, *corrects: int) -> None:
    """Let every epoch recognise as many of 10 validation images as the script says."""
    script = iter(corrects)

    def measure(*_args, **_options):
        correct = next(script)
        return Measurement(torch.tensor([1] * correct + [0] * (10 - correct)), torch.ones(10, dtype=torch.int64))

    monkeypatch.setattr(qcaps.training.epoch_end, "measure", measure)


@pytest.mark.parametrize(("corrects", "best"), [((5, 9, 2), 1), ((5, 9, 9), 1), ((1, 2, 3), 2), ((0, 0, 0), 0)])
def test_the_first_of_the_best_epochs_on_validation_images_is_kept(monkeypatch, corrects, best):
    scripted(monkeypatch, *corrects)
    states = []
    found = run(spec=FOLDED, save=lambda state: states.append(copy.deepcopy(state)))
    assert found.position.best_epoch == best
    assert [record.validation_correct for record in found.position.history] == list(corrects)
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, states[best][1][f"network.{name}"])


def slow_losses(network, data: TrainingData) -> tuple[float, float]:
    """Compute mean margin and reconstruction losses image by image, value by value."""
    margin = reconstruction = 0.0
    for pixels, label in zip(data.train.pixels, data.train.labels.tolist(), strict=True):
        image = pixels.unsqueeze(0) / 255
        with torch.no_grad():
            output = network(image)
            drawn = network.reconstruct(output.capsules, torch.tensor([label]))
        for other, score in enumerate(output.scores[0].tolist()):
            margin += max(0, 0.9 - score) ** 2 if other == label else 0.5 * max(0, score - 0.1) ** 2
        pairs = zip(drawn.flatten().tolist(), image.flatten().tolist(), strict=True)
        reconstruction += sum((a - b) ** 2 for a, b in pairs)
    return margin / len(data.train), reconstruction / len(data.train)


def test_the_losses_of_a_step_are_those_of_the_formula():
    spec, data = dataclasses.replace(FOLDED, decoder="fc"), toy_data(NO_AUGMENTATION)
    expected = slow_losses(initialised(spec, CONFIG.seed), data)
    record = run(dataclasses.replace(CONFIG, epochs=1, batch_size=20), spec=spec, data=data).position.history[0]
    assert record.class_loss == pytest.approx(expected[0], rel=1e-4)
    assert record.reconstruction_loss == pytest.approx(expected[1], rel=1e-4)


def test_without_a_decoder_there_is_no_reconstruction_loss():
    assert [record.reconstruction_loss for record in run(spec=FOLDED).position.history] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("share", "rows"), [(1.0, [8, 8, 4]), (0.3, [3, 3, 2]), (0.0, [])])
def test_only_the_share_asked_for_is_reconstructed(share, rows):
    network = initialised(WITH_DECODER, 0)
    drawn = []
    network.decoder.register_forward_pre_hook(lambda _, inputs: drawn.append(len(inputs[0])))
    run(dataclasses.replace(CONFIG, epochs=1, reconstruction_share=share), network=network)
    assert drawn == rows


def test_a_reconstruction_of_weight_zero_is_not_made():
    network = initialised(WITH_DECODER, 0)
    drawn = []
    network.decoder.register_forward_pre_hook(lambda _, inputs: drawn.append(len(inputs[0])))
    run(dataclasses.replace(CONFIG, epochs=1, regularization_scale=0.0), network=network)
    assert drawn == []


def test_the_reconstruction_moves_the_weights_of_the_encoder():
    config = dataclasses.replace(CONFIG, epochs=1)
    plain = run(dataclasses.replace(config, regularization_scale=0.0), spec=WITH_DECODER)
    regularized = run(dataclasses.replace(config, regularization_scale=0.1), spec=WITH_DECODER)
    name = "stages.conv1.conv.weight"
    assert not torch.equal(plain.tensors[name], regularized.tensors[name])


def test_a_loss_that_is_no_number_ends_the_run_with_its_place():
    with pytest.raises(QcapsError, match="no longer a number") as raised:
        run(spec=FOLDED, data=toy_data(Augmentation(lambda images, generator: images * math.nan)))
    assert raised.value.where == "epoch 1, step 1"
    assert "--lr" in raised.value.do


def test_progress_counts_steps_and_validation_images():
    told = []
    run(dataclasses.replace(CONFIG, epochs=2), spec=FOLDED, on_progress=told.append)
    expected = []
    for epoch in (1, 2):
        expected += [(f"epoch {epoch}/2", step, 3) for step in (1, 2, 3)]
        expected += [(f"validate {epoch}/2", images, 13) for images in (6, 12, 13)]
    assert [(step.phase, step.done, step.total) for step in told] == expected


def test_the_best_tensors_are_plain_contiguous_copies(uninterrupted):
    assert not any(name.endswith("num_batches_tracked") for name in uninterrupted.tensors)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in uninterrupted.tensors.values())


def test_bf16_trains_as_well():
    found = train(initialised(FOLDED, 0), toy_data(), CONFIG, accelerator("cpu", "bf16"), surroundings())
    assert all(tensor.dtype == torch.float32 for tensor in found.tensors.values())
    assert len(found.position.history) == 3


@pytest.mark.parametrize("loss", ["spread", "cross-entropy"])
def test_a_network_is_trained_with_the_loss_it_declares(loss):
    network, data = initialised(FOLDED, CONFIG.seed), toy_data(NO_AUGMENTATION)
    network.loss = loss
    with torch.no_grad():
        scores = network(data.train.pixels / 255).scores
    expected = 0.0
    for row, label in zip(scores.tolist(), data.train.labels.tolist(), strict=True):
        if loss == "spread":  # with the margin of the first epoch, 0.2
            expected += sum(max(0, 0.2 - (row[label] - a)) ** 2 for j, a in enumerate(row) if j != label)
        else:
            expected += math.log(sum(map(math.exp, row))) - row[label]
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=20)
    record = run(config, network=network, data=data).position.history[0]
    assert record.class_loss == pytest.approx(expected / 20, rel=1e-4)


def test_a_lesson_is_given_the_images_as_they_are_learned_from_and_what_the_network_says_of_them():
    network, data, given = initialised(FOLDED, CONFIG.seed), toy_data(NO_AUGMENTATION), []

    def beside(images, output):
        given.append((images, output))
        return output.scores.sum(1) * 0

    with torch.no_grad():
        expected = network(data.train.pixels / 255)
    run(dataclasses.replace(CONFIG, epochs=1, batch_size=20), network=network, data=data, lesson=Lesson(beside))
    ((images, output),) = given
    order = [(data.train.pixels / 255 == image).flatten(1).all(1).nonzero().item() for image in images]
    assert sorted(order) == list(range(20))
    torch.testing.assert_close(output.scores, expected.scores[order])
    torch.testing.assert_close(output.capsules, expected.capsules[order])


def test_a_lesson_adds_its_mean_to_the_loss_and_nothing_to_what_is_told():
    images = toy_images(NORMED, 20, split="train")
    images = dataclasses.replace(images, labels=torch.zeros(20, dtype=torch.int64))
    data = TrainingData(images, toy_images(NORMED, 13, seed=1), NO_AUGMENTATION)
    # The opposite of what is learned from labels: together they teach nothing.
    opposite = Lesson(lambda images, output: -margin_loss(output.scores, torch.zeros(len(images), dtype=torch.int64)))
    taught, plain = (run(spec=FOLDED, data=data, lesson=lesson) for lesson in (opposite, FROM_LABELS))
    start = initialised(FOLDED, CONFIG.seed).state_dict()
    assert all(tensor.equal(start[name]) for name, tensor in taught.tensors.items())
    assert not all(tensor.equal(start[name]) for name, tensor in plain.tensors.items())
    assert all(record.class_loss > 0.1 for record in taught.position.history)


def test_a_network_that_is_trained_already_meets_the_wide_spread_margin_at_once():
    network, data = initialised(FOLDED, CONFIG.seed), toy_data(NO_AUGMENTATION)
    network.loss = "spread"
    with torch.no_grad():
        scores = network(data.train.pixels / 255).scores
    expected = 0.0
    for row, label in zip(scores.tolist(), data.train.labels.tolist(), strict=True):
        expected += sum(max(0, 0.9 - (row[label] - a)) ** 2 for j, a in enumerate(row) if j != label)
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=20)
    record = run(config, network=network, data=data, lesson=Lesson(trained=True)).position.history[0]
    assert record.class_loss == pytest.approx(expected / 20, rel=1e-4)


def test_frozen_stages_come_out_of_training_as_they_went_in():
    network = initialised(NORMED, CONFIG.seed)
    network.freeze(["conv1", "conv2"])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = run(network=network).tensors
    changed = {name.split(".")[1] for name, tensor in found.items() if not tensor.equal(before[name])}
    assert changed == {"conv3", "conv4", "primary", "class_caps"}


def test_a_frozen_run_that_was_stopped_and_resumed_ends_with_the_same_bits(on_disk):
    def frozen():
        network = initialised(NORMED, CONFIG.seed)
        network.freeze(["conv1"])
        return network

    save, resume = on_disk
    with pytest.raises(StoppedError):
        run(network=frozen(), save=save, stop=stop_after(4))
    assert_same(run(network=frozen(), resume=resume()), run(network=frozen()))
