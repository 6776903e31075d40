"""Options of ``qcaps train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qcaps.config.option import LARGEST_SEED, option
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
    preparation: str | None = option(
        None, "What is done to all images; by default what suits the data set.", names=PREPARATIONS
    )
    augmentation: str | None = option(
        None, "What is done to training images; by default what suits the data set.", names=AUGMENTATIONS
    )
    split_seed: int = option(
        1234, "Seed that draws the validation images out of the training set.", least=0, most=LARGEST_SEED
    )
    epochs: int = option(10, "Passes over the training images.", least=1)
    batch_size: int = option(100, "Images per step.", least=1)
    lr: float = option(0.001, "Learning rate of Adam at the start.", least=0)
    schedule: Literal["decay", "cosine"] = option(
        "decay", "How it falls: by a factor every decay period, or along half a cosine to 0 at the end."
    )
    decay_rate: float = option(0.96, "Factor of the learning rate every decay period.", least=0, most=1)
    decay_steps: int = option(2000, "Length of a decay period, in steps or epochs.", least=1)
    decay_per: Literal["step", "epoch"] = option(
        "step", "Unit of the decay period: step decays smoothly, epoch once an epoch."
    )
    lr_floor: float = option(0.0, "The learning rate never falls below this.", least=0)
    hard_training: bool = option(False, "Use the hard margin loss in the second half of the epochs.")
    regularization_scale: float = option(
        0.0005, "Weight of the reconstruction loss, the sum of squared pixel errors.", least=0
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
    test_batch_size: int = option(200, "Images per batch of the evaluation after each epoch.", least=1)
    seed: int = option(
        42, "Seed of the initial weights, the order of the images and the augmentation.", least=0, most=LARGEST_SEED
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N.", metavar="DEVICE")
    threads: int | None = option(None, "Compute threads (default: PyTorch's choice).", least=1)
    out: Path | None = option(None, "Output folder (default: runs/<model>-<dataset>-train).")
    fresh: bool = option(False, "Ignore an interrupted run in the output folder and start again.")
