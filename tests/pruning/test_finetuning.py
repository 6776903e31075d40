from __future__ import annotations

import dataclasses

import pytest
import torch
from toys import FOLDED, NORMED, toy_images, toy_network

from qcaps.config import TrainConfig
from qcaps.data.augment import NO_AUGMENTATION, Augmentation
from qcaps.data.augmentation.published import SHIFT
from qcaps.errors import StoppedError, UsageError
from qcaps.models.em_capsnet import EMCapsNetSpec
from qcaps.models.network import to_inference
from qcaps.models.spec import build, filled, initialised
from qcaps.progress import silent
from qcaps.pruning import finetuning
from qcaps.pruning.finetuning import FinetuneConfig, finetune, recipe_of, training_options
from qcaps.pruning.surgery import cut
from qcaps.training.devices import accelerator
from qcaps.training.setting import Surroundings, TrainingData

SOURCE = dataclasses.replace(NORMED, decoder="fc")
RECIPE = TrainConfig(batch_size=8, lr=0.1)
CONFIG = FinetuneConfig(recipe=RECIPE, epochs=2)


def tensors_of(spec, seed=1):
    return {k: v for k, v in initialised(spec, seed).state_dict().items() if not k.endswith("num_batches_tracked")}


def pruned(spec=SOURCE):
    units = {unit.name: tuple(range(0, unit.count, 2)) for unit in build(spec).units if unit.kind == "channels"}
    return cut(spec, tensors_of(spec), units)


def toy_data(augment=NO_AUGMENTATION):
    return TrainingData(toy_images(NORMED, 20, split="train"), toy_images(NORMED, 13, seed=1), augment)


def run(config=CONFIG, *, network=None, data=None, save=lambda state: None, stop=lambda: False, **more):
    spec, tensors = network or pruned()
    world = Surroundings(lambda: 0.0, silent, save, stop)
    return finetune(spec, tensors, data or toy_data(), config, accelerator("cpu", "no"), world, **more)


def teacher_of(spec=SOURCE):
    return to_inference(filled(spec, tensors_of(spec), where="test"))


def test_the_recipe_is_read_out_of_the_record():
    options = {"lr": 0.002, "batch_size": 128, "mixed_precision": "bf16", "freeze": ["conv1"], "epochs": 18, "seed": 7}
    found = recipe_of({"options": {**options, "reconstruction_share": 0.25}, "history": []})
    expected = {"lr": 0.002, "batch_size": 128, "mixed_precision": "bf16", "freeze": ("conv1",)}
    assert found == TrainConfig(**expected, reconstruction_share=0.25)


@pytest.mark.parametrize("record", [{}, {"options": {}}, {"options": None}, {"options": [1]}, {"options": {"bits": 8}}])
def test_what_no_record_says_is_the_default_of_training(record):
    assert recipe_of(record) == TrainConfig()


@pytest.mark.parametrize("options", [{"lr": "fast"}, {"batch_size": 0}, {"mixed_precision": "fp4"}])
def test_a_record_that_makes_no_sense_is_refused(options):
    with pytest.raises(UsageError, match="record of the checkpoint"):
        recipe_of({"options": options})


def test_it_is_a_training_at_half_of_the_rate_along_a_cosine():
    found = training_options(FinetuneConfig(recipe=TrainConfig(lr=0.002, lr_floor=0.001, batch_size=64), epochs=5))
    assert found.lr == pytest.approx(0.001)
    assert (found.schedule, found.lr_floor, found.epochs, found.batch_size) == ("cosine", 0.0, 5, 64)


def test_another_rate_can_be_asked_for():
    assert training_options(FinetuneConfig(recipe=RECIPE, lr=0.5)).lr == 0.5


def test_every_trainable_tensor_learns_and_none_of_the_given_ones_changes():
    spec, tensors = pruned()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    found = run(network=(spec, tensors)).tensors
    assert all(tensor.equal(before[name]) for name, tensor in tensors.items())
    same = {name for name, tensor in found.items() if tensor.equal(before[name])}
    assert found.keys() == before.keys()
    assert same == set()


def test_every_epoch_is_recorded_and_the_result_is_that_of_the_best(monkeypatch):
    found = run(dataclasses.replace(CONFIG, epochs=3))
    history = found.position.history
    assert [record.epoch for record in history] == [1, 2, 3]
    assert [record.validation_images for record in history] == [13, 13, 13]
    network = to_inference(filled(pruned()[0], found.tensors, where="test"))
    images = toy_data().validation
    correct = int((network(images.pixels / 255).scores.argmax(1) == images.labels).sum())
    assert correct == max(record.validation_correct for record in history)


def test_frozen_stages_stay_as_they_were_cut_statistics_included():
    spec, tensors = pruned()
    recipe = dataclasses.replace(RECIPE, freeze=("conv1", "conv2"))
    found = run(dataclasses.replace(CONFIG, recipe=recipe), network=(spec, tensors)).tensors
    changed = {name.split(".")[1] for name, tensor in found.items() if not tensor.equal(tensors[name])}
    assert {"conv1", "conv2"}.isdisjoint(changed)
    assert {"conv3", "conv4", "primary", "class_caps"} <= changed


@pytest.mark.parametrize(("augment", "drawn"), [(True, 6), (False, 0)])
def test_images_are_augmented_unless_that_is_switched_off(augment, drawn):
    draws = []

    def record(images, generator):
        draws.append(len(images))
        return SHIFT.change(images, generator)

    run(dataclasses.replace(CONFIG, augment=augment), data=toy_data(Augmentation(record)))
    assert len(draws) == drawn


def test_the_mean_loss_of_a_lesson_is_what_the_networks_differ_by():
    teacher, network = teacher_of(), to_inference(filled(*pruned(), where="test"))
    pixels = toy_images(NORMED, 4).pixels / 255
    with torch.no_grad():
        taught, said = teacher(pixels), network(pixels)
    poses = finetuning._Teaching(teacher, "poses", 3.0)(pixels, said)
    scores = finetuning._Teaching(teacher, "scores", 2.0)(pixels, said)
    for image in range(4):
        differences = (taught.capsules[image] - said.capsules[image]).flatten().tolist()
        assert poses[image].item() == pytest.approx(3 * sum(d * d for d in differences), rel=1e-4)
        pairs = zip(taught.scores[image].double(), said.scores[image].double(), strict=True)
        expected = sum(p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log() for p, q in pairs)
        assert scores[image].item() == pytest.approx(2 * expected.item(), rel=1e-3)


def distance(spec, tensors, teacher, distill):
    """Give the mean squared difference of what is taught."""
    student, pixels = to_inference(filled(spec, tensors, where="test")), toy_data().train.pixels / 255
    with torch.no_grad():
        said, taught = student(pixels), teacher(pixels)
    pair = (said.capsules, taught.capsules) if distill == "poses" else (said.scores, taught.scores)
    return float((pair[0] - pair[1]).square().mean())


@pytest.mark.parametrize("distill", ["scores", "poses"])
def test_a_taught_network_comes_closer_to_its_teacher_which_stays_as_it_is(distill):
    teacher = toy_network(FOLDED).requires_grad_()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    network = cut(FOLDED, before, {"conv1.channels": (0, 1, 3), "conv3.channels": (0, 2, 3, 4)})
    config = FinetuneConfig(recipe=RECIPE, epochs=10, lr=0.003, distill_weight=20.0)
    plain = run(config, network=network).tensors
    taught = run(dataclasses.replace(config, distill=distill), network=network, teacher=teacher).tensors
    assert distance(network[0], taught, teacher, distill) < 0.5 * distance(network[0], plain, teacher, distill)
    assert all(tensor.equal(before[name]) for name, tensor in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_lesson_needs_a_teacher():
    with pytest.raises(UsageError, match="no network to distill from"):
        run(dataclasses.replace(CONFIG, distill="scores"))


def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits():
    config = dataclasses.replace(CONFIG, distill="poses")
    whole, saved = run(config, teacher=teacher_of()), []
    asked = iter([False, False, False, True])
    with pytest.raises(StoppedError):
        run(config, teacher=teacher_of(), save=saved.append, stop=lambda: next(asked))
    header, tensors = saved[-1]
    resumed = run(config, teacher=teacher_of(), resume=(header, {k: t.clone() for k, t in tensors.items()}))
    assert resumed.position == whole.position
    assert all(tensor.equal(whole.tensors[name]) for name, tensor in resumed.tensors.items())


def test_a_spread_loss_starts_with_its_last_margin():
    spec = EMCapsNetSpec(
        channels=1,
        height=14,
        width=14,
        classes=3,
        conv_channels=4,
        kernel_size=3,
        stride=1,
        primary_types=2,
        conv_types=(2, 2),
        variance_floor=1e-2,
    )
    tensors, data = tensors_of(spec), toy_data()
    with torch.no_grad():
        scores = filled(spec, tensors, where="test")(data.train.pixels / 255).scores
    expected = 0.0
    for row, label in zip(scores.tolist(), data.train.labels.tolist(), strict=True):
        expected += sum(max(0, 0.9 - (row[label] - a)) ** 2 for j, a in enumerate(row) if j != label)
    config = FinetuneConfig(recipe=dataclasses.replace(RECIPE, batch_size=20), epochs=1)
    record = run(config, network=(spec, tensors), data=data).position.history[0]
    assert record.class_loss == pytest.approx(expected / 20, rel=1e-4)
