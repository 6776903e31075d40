"""Whatever the options, a training that is stopped after any step and started again ends with the same bits."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from toys import NORMED, toy_images

from qcaps.artifacts.container import container_bytes, read_container
from qcaps.config import TrainConfig
from qcaps.data.augmentation.published import SHIFT
from qcaps.errors import StoppedError
from qcaps.models.spec import initialised
from qcaps.progress import silent
from qcaps.training.devices import accelerator
from qcaps.training.loop import train
from qcaps.training.setting import EpochEnd, Surroundings, Trained, TrainingData

PLAIN = dataclasses.replace(NORMED, conv_channels=(2, 2, 2, 8), class_dim=2)
DRAWING = dataclasses.replace(PLAIN, decoder="fc")
NETWORKS = {"none": initialised(PLAIN, 3), "fc": initialised(DRAWING, 3)}
# 6 images in batches of 4: two steps an epoch, the last one of two images.
STEPS = 4
DATA = TrainingData(toy_images(PLAIN, 6, split="train"), toy_images(PLAIN, 6, seed=1), SHIFT)
NAMES = (
    *("adam", "adamw", "sgd", "adadelta", "adagrad", "adafactor"),
    *("adamax", "asgd", "nadam", "radam", "rmsprop", "rprop"),
)
OPTIMIZERS = {name: {"optimizer": name} for name in NAMES}
OPTION_SETS = OPTIMIZERS | {
    "sgd without momentum": {"optimizer": "sgd", "momentum": 0.0},
    "nesterov": {"optimizer": "sgd", "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    "centered rmsprop": {"optimizer": "rmsprop", "momentum": 0.5, "optimizer_arg": ("centered=true",)},
    "amsgrad": {"optimizer_arg": ("amsgrad=true", "betas=[0.5, 0.9]")},
    "constant": {"schedule": "constant"},
    "steps": {"schedule": "step", "milestones": (1,), "decay_rate": 0.1},
    "cosine with warm-up": {"schedule": "cosine", "warmup": 2},
    "exponential with warm-up": {"decay_steps": 1, "lr_floor": 0.008, "warmup": 1, "warmup_per": "epoch"},
    "clipped": {"clip_norm": 0.01},
    "hard": {"hard_training": True},
    "patience": {"patience": 1, "epochs": 5, "lr": 0.0, "schedule": "constant"},
    "bf16": {"mixed_precision": "bf16"},
}
WITH_A_DECODER = {
    "mse of the longest, drawn": {"reconstruction": "mse", "mask": "longest", "reconstructions_every": 1},
    "annealed l1 of half": {"reconstruction": "l1", "anneal_reconstruction": "2", "reconstruction_share": 0.5},
}


class Place:
    """A resume file in memory, and what was told of epochs."""

    def __init__(self) -> None:
        self.file: bytes = b""
        self.told: dict[int, EpochEnd] = {}

    def save(self, state) -> None:
        self.file = container_bytes({"schema": "qcaps.resume/1", **state[0]}, state[1])

    def hear(self, end: EpochEnd) -> None:
        self.told[end.record.epoch] = end

    def saved(self, tmp_path):
        if not self.file:
            return None
        (tmp_path / "resume.pt").write_bytes(self.file)
        container = read_container(tmp_path / "resume.pt", schema="qcaps.resume")
        return container.header, container.tensors


def config_of(options) -> TrainConfig:
    return TrainConfig(**{"epochs": 2, "batch_size": 4, "lr": 0.01, "test_batch_size": 6, **options})


def run(config: TrainConfig, place: Place, *, decoder="none", data=DATA, stop=lambda: False, resume=None) -> Trained:
    surroundings = Surroundings(lambda: 0.0, silent, place.save, stop, place.hear)
    device = accelerator("cpu", config.mixed_precision)
    return train(copy.deepcopy(NETWORKS[decoder]), data, config, device, surroundings, resume=resume)


def assert_the_same_however_often_it_is_stopped(config: TrainConfig, tmp_path, **more) -> None:
    whole, pieces = Place(), Place()
    expected = run(config, whole, **more)
    for _ in range(STEPS):
        with pytest.raises(StoppedError):
            run(config, pieces, stop=lambda: True, resume=pieces.saved(tmp_path), **more)
    found = run(config, pieces, resume=pieces.saved(tmp_path), **more)
    assert found.position == expected.position
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    assert whole.file == pieces.file
    assert whole.told.keys() == pieces.told.keys() == {record.epoch for record in expected.position.history}
    for epoch, end in whole.told.items():
        assert pieces.told[epoch].record == end.record
        if end.panel is not None:
            assert pieces.told[epoch].panel.reconstructions.equal(end.panel.reconstructions)


@pytest.mark.parametrize("name", OPTION_SETS)
def test_an_option_set_ends_with_the_same_bits_when_stopped_after_every_step(name, tmp_path):
    assert_the_same_however_often_it_is_stopped(config_of(OPTION_SETS[name]), tmp_path)


@pytest.mark.parametrize("name", WITH_A_DECODER)
def test_a_drawing_option_set_ends_with_the_same_bits_when_stopped_after_every_step(name, tmp_path):
    assert_the_same_however_often_it_is_stopped(config_of(WITH_A_DECODER[name]), tmp_path, decoder="fc")


def test_further_evaluation_sets_end_with_the_same_scores_when_stopped_after_every_step(tmp_path):
    data = dataclasses.replace(
        DATA, also={"some": toy_images(PLAIN, 5, seed=2), "others": toy_images(PLAIN, 3, seed=4)}
    )
    assert_the_same_however_often_it_is_stopped(config_of({}), tmp_path, data=data)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(name):
    start = NETWORKS["none"].state_dict()
    found = run(config_of(OPTIMIZERS[name] | {"epochs": 1}), Place()).tensors
    assert not found["stages.class_caps.weight"].equal(start["stages.class_caps.weight"])
