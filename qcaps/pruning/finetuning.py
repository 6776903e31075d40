"""Fine-tuning of a cut network: a short training at a low rate, possibly taught by the unpruned network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from qcaps.capsules.losses import divergence
from qcaps.config.option import configure
from qcaps.config.train import TrainConfig
from qcaps.data.augment import NO_AUGMENTATION
from qcaps.errors import UsageError
from qcaps.models.network import CapsuleNetwork, Output
from qcaps.models.spec import ModelSpec, filled
from qcaps.training.beginning import stages_to_freeze
from qcaps.training.loop import train
from qcaps.training.setting import Lesson, State, Surroundings, Trained, TrainingData

# What a network was trained with that still holds when it is fine-tuned.
RECIPE = (
    *("batch_size", "clip_norm", "freeze", "hard_training", "lr", "mask", "mixed_precision"),
    *("momentum", "nesterov", "optimizer", "optimizer_arg", "weight_decay"),
    *("reconstruction", "reconstruction_share", "regularization_scale"),
)
SHARE_OF_RATE = 0.5

Distill = Literal["none", "scores", "poses"]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Every number of a fine-tuning.

    Parameters
    ----------
    recipe
        How the network was trained, see :func:`recipe_of`: batch size, precision, frozen stages and the weights of the
        losses are taken over.
    epochs
        Passes over the training images.
    lr
        Learning rate at the start, which falls along half a cosine to 0; None for half of the recipe's.
    distill
        What the unpruned network teaches beside the labels: its class ``scores``, by their divergence, or its class
        capsules, the ``poses``, by the sum of their squared differences.
    distill_weight
        Of that loss; the class loss has weight 1.
    augment
        Whether training images are augmented as they were in training.
    seed
        Of the order of the images and their augmentation.
    """

    recipe: TrainConfig
    epochs: int = 3
    lr: float | None = None
    distill: Distill = "none"
    distill_weight: float = 1.0
    augment: bool = True
    seed: int = 42


def recipe_of(record: Mapping[str, object]) -> TrainConfig:
    """Read how a network was trained out of the record of its checkpoint.

    Parameters
    ----------
    record
        What it does not say is what ``qcaps train`` does by default, a learning rate of 0.001 among the rest.

    Raises
    ------
    UsageError
        If an option that it names has a value it cannot have.
    """
    options = record.get("options")
    known = {name: options[name] for name in RECIPE if name in options} if isinstance(options, dict) else {}
    return configure(TrainConfig, known, where="record of the checkpoint")


def training_options(config: FinetuneConfig) -> TrainConfig:
    """Give the options of the training that a fine-tuning is."""
    return dataclasses.replace(
        config.recipe,
        epochs=config.epochs,
        lr=SHARE_OF_RATE * config.recipe.lr if config.lr is None else config.lr,
        schedule="cosine",
        lr_floor=0.0,
        seed=config.seed,
    )


def finetune(
    spec: ModelSpec,
    tensors: Mapping[str, Tensor],
    data: TrainingData,
    config: FinetuneConfig,
    accelerator: Accelerator,
    surroundings: Surroundings,
    *,
    teacher: CapsuleNetwork | None = None,
    resume: State | None = None,
) -> Trained:
    """Train a cut network, its decoder included.

    Parameters
    ----------
    spec, tensors
        The network; left as they are.
    data
        Training images, and validation images to choose the best epoch by.
    config
        Every option.
    accelerator, surroundings, resume
        As for :func:`~qcaps.training.loop.train`.
    teacher
        The unpruned network, to distill from; in evaluation mode, left as it is.

    Returns
    -------
    Trained
        Tensors of the best epoch, and a record of each.

    Raises
    ------
    UsageError
        If there is a teacher to distill from but none is given, or a frozen stage of the recipe does not exist.
    StoppedError, QcapsError
        As :func:`~qcaps.training.loop.train`.
    """
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    network = filled(spec, own, where="pruned network").to(accelerator.device)
    network.freeze(stages_to_freeze(network, config.recipe.freeze))
    if not config.augment:
        data = dataclasses.replace(data, augment=NO_AUGMENTATION)
    lesson = Lesson(trained=True)
    if config.distill != "none":
        if teacher is None:
            raise UsageError("there is no network to distill from", where="--distill")
        lesson = Lesson(_Teaching(teacher.to(accelerator.device), config.distill, config.distill_weight), trained=True)
    return train(network, data, training_options(config), accelerator, surroundings, lesson=lesson, resume=resume)


@dataclass(frozen=True)
class _Teaching:
    """The loss that a frozen teacher adds."""

    teacher: CapsuleNetwork
    what: Literal["scores", "poses"]
    weight: float

    def __call__(self, images: Tensor, output: Output) -> Tensor:
        """Compare what both networks say of the same images: shape ``(batch,)``."""
        with torch.no_grad():
            taught = self.teacher(images)
        if self.what == "scores":
            loss = divergence(self.teacher.loss, taught.scores, output.scores)
        else:
            loss = (output.capsules.float() - taught.capsules.float()).square().sum((1, 2))
        return self.weight * loss
