"""Options of ``qcaps train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qcaps.config.image_size import parse_image_size
from qcaps.config.option import LARGEST_SEED, option
from qcaps.config.training_numbers import parse_milestones
from qcaps.registry import AUGMENTATIONS, DATASETS, DECODERS, MODELS, PREPARATIONS


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every option of a training run, with its default."""

    model: str = option("efficient-capsnet", "Network to train.", names=MODELS)
    model_arg: tuple[str, ...] = option(
        (),
        "A number of the network, KEY=VALUE, for example routing_passes=1; may be repeated.",
        metavar="KEY=VALUE",
    )
    decoder: str | None = option(
        None, "Decoder that reconstructs the image from one capsule; by default what suits the network.", names=DECODERS
    )
    init: Path | None = option(
        None, "Checkpoint to start from: its stages of the same name and shape, and the widths of its backbone."
    )
    freeze: tuple[str, ...] = option(
        (),
        "A stage that stays as it is, statistics included; backbone names all in front of a capsule head; may be "
        "repeated.",
        metavar="STAGE",
    )
    dataset: str = option("mnist", "Images to train on.", names=DATASETS)
    data_dir: Path | None = option(None, "Folder of the data sets (QCAPS_DATA, else ~/.cache/qcaps/data).")
    image_size: tuple[int, int] | None = option(
        None,
        "Side, or HEIGHTxWIDTH, that your own images are resized to (default: that of the first one).",
        parse=parse_image_size,
        metavar="SIZE",
    )
    image_channels: int | None = option(
        None, "Your own images: 1 grey, 3 in colours (default: as the first one).", least=1, most=3, metavar="1|3"
    )
    preparation: str | None = option(
        None, "What is done to all images; by default what suits the data set.", names=PREPARATIONS
    )
    augmentation: str | None = option(
        None, "What is done to training images; by default what suits the data set.", names=AUGMENTATIONS
    )
    split_seed: int = option(
        1234, "Seed that draws the validation images out of the training set.", least=0, most=LARGEST_SEED
    )
    limit_train: int | None = option(
        None, "Train on this many images only, drawn evenly by class with the split seed.", least=1
    )
    limit_validation: int | None = option(None, "Validate on this many images only, drawn the same way.", least=1)
    epochs: int = option(10, "Passes over the training images.", least=1)
    batch_size: int = option(100, "Images per step.", least=1)
    lr: float = option(0.001, "Learning rate at the start, after the warm-up.", least=0)
    optimizer: str = option("adam", "adam, adamw, sgd, or any other of torch.optim by its name.")
    optimizer_arg: tuple[str, ...] = option(
        (),
        "A number of the optimizer, KEY=VALUE, for example betas=[0.9,0.98]; may be repeated.",
        metavar="KEY=VALUE",
    )
    weight_decay: float | None = option(None, "Weight decay (default: the optimizer's own, 0.01 of adamw).", least=0)
    momentum: float | None = option(
        None, "Momentum of sgd and others that have one (default: 0.9 of sgd).", least=0, most=1
    )
    nesterov: bool = option(False, "Look ahead along the momentum of sgd.")
    schedule: Literal["constant", "exponential", "step", "cosine"] = option(
        "exponential",
        "How the learning rate falls: constant, exponential or step (by a factor every decay period, smoothly or at "
        "once), or cosine (half of one, to 0 at the end).",
        metavar="SCHEDULE",
    )
    decay_rate: float = option(0.96, "Factor of the learning rate every decay period.", least=0, most=1)
    decay_steps: int = option(2000, "Length of a decay period, in steps or epochs.", least=1)
    decay_per: Literal["step", "epoch"] = option(
        "step", "Unit of the decay period: with step an exponential is smooth, with epoch it falls once an epoch."
    )
    milestones: tuple[int, ...] = option(
        (),
        "Epochs after which a schedule in steps falls, instead of decay periods: 30,60.",
        parse=parse_milestones,
        metavar="LIST",
    )
    lr_floor: float = option(0.0, "The learning rate never falls below this.", least=0)
    warmup: int = option(
        0, "Steps or epochs in which the learning rate rises evenly at the start; a cosine begins after them.", least=0
    )
    warmup_per: Literal["step", "epoch"] = option("step", "Unit of the warm-up.")
    clip_norm: float = option(0.0, "Longest gradient of all weights together; 0 for any length.", least=0)
    patience: int = option(
        0, "Epochs without a better validation score after which training ends; 0 for never.", least=0
    )
    hard_training: bool = option(False, "Use the hard margin loss in the second half of the epochs.")
    mask: Literal["label", "longest"] = option(
        "label", "Capsule that is reconstructed in training: that of the label, or the longest."
    )
    reconstruction: Literal["sse", "mse", "l1"] = option(
        "sse", "Error of a reconstruction: sum of squares, mean of squares, or sum of absolute values, of all pixels."
    )
    regularization_scale: float | None = option(
        None, "Weight of the reconstruction loss (default: as published, 0.0005 of sse and l1, 0.392 of mse).", least=0
    )
    anneal_reconstruction: Literal["none", "1", "2"] = option(
        "none",
        "How that weight grows with the epoch e, counted from 1: by (tanh(e/8 - pi) + 1)/2, or by tanh(e/16).",
        parse=str,
    )
    reconstruction_share: float = option(
        1.0,
        "Share of each batch that is reconstructed; less is faster, the loss stays unbiased.",
        least=0,
        most=1,
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = option(
        "no", "Number format of the heavy products; bf16 is faster where the processor has it."
    )
    also_evaluate: tuple[str, ...] = option(
        (),
        "Another data set whose validation images are scored after each epoch, never to choose by; may be repeated.",
        metavar="NAME",
    )
    test_batch_size: int = option(200, "Images per batch of the evaluation after each epoch.", least=1)
    reconstructions_every: int = option(
        0, "Draw the reconstructions of some validation images every so many epochs; 0 for never.", least=0
    )
    tracker: Literal["none", "tensorboard", "wandb"] = option("none", "Where else the history of the epochs goes.")
    seed: int = option(
        42, "Seed of the initial weights, the order of the images and the augmentation.", least=0, most=LARGEST_SEED
    )
    runs: int = option(
        1, "Train so many times, with this seed and those after it, in folders of their own.", least=1, most=1000
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N.", metavar="DEVICE")
    threads: int | None = option(None, "Compute threads (default: PyTorch's choice).", least=1)
    out: Path | None = option(None, "Output folder (default: runs/<model>-<dataset>-train).")
    fresh: bool = option(False, "Ignore an interrupted run in the output folder and start again.")
    reproducible: bool = option(False, "Leave times out of history.json.")
