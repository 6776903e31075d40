"""What a step of a recipe costs, in images that pass a network, before it is run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from qcaps.config import EvaluateConfig, PruneConfig, QuantizeConfig, TrainConfig
from qcaps.data.load import load_split
from qcaps.data.spec import DataSpec
from qcaps.errors import UsageError
from qcaps.models.spec import ModelSpec, image_of, initialised
from qcaps.quantization.search.sensitivity import IMAGES as NEAR_IMAGES
from qcaps.quantization.search.sensitivity import MEASURED
from qcaps.quantization.search.subject import STOCHASTIC_SEEDS
from qcaps.recipe.schema import StepConfig
from qcaps.registry import ROUNDINGS

# A step of training: one pass forward, and backward the work of two.
TRAINING_PASSES = 3
# Verdicts of a search. No search has needed so many, and most are over after a small part of the images.
MOST_PLANS = 200
# A candidate is recalibrated beside the network it was cut from.
RECALIBRATION_PASSES = 2
# Passes over the report images of a proof besides those of the artifacts: float, without routing, and watched.
PROOF_PASSES, ARTIFACTS = 4, 2
TIMED_BATCH = 32


@dataclass(frozen=True)
class Images:
    """How many images each split has."""

    train: int
    validation: int
    test: int


def count_images(data: DataSpec, data_dir: Path | None) -> Images | None:
    """Count the images of every split; None if they are missing. Nothing is downloaded."""
    try:
        train, validation, test = (
            len(load_split(data, split, data_dir=data_dir, download=False)) for split in ("train", "validation", "test")
        )
    except UsageError:
        return None
    return Images(train, validation, test)


def image_forwards(config: StepConfig, images: Images, *, sites: int) -> int:
    """Bound how many images pass the network; a step of training counts as three passes.

    Parameters
    ----------
    config
        The step.
    images
        Of its data set.
    sites
        Where the network can be rounded.
    """
    match config:
        case TrainConfig():
            return config.epochs * (TRAINING_PASSES * images.train + images.validation)
        case PruneConfig():
            return _of_pruning(config, images)
        case QuantizeConfig():
            return _of_quantizing(config, images, sites)
        case EvaluateConfig():
            return (1 + ARTIFACTS) * int(getattr(images, config.split))


def seconds_per_image(spec: ModelSpec) -> float:
    """Time one batch of an untrained network, after another one that is not timed."""
    network = initialised(spec, 0).eval()
    pixels = torch.zeros(TIMED_BATCH, *image_of(spec))
    with torch.inference_mode():
        network(pixels)
        start = time.perf_counter()
        network(pixels)
    return (time.perf_counter() - start) / TIMED_BATCH


def _of_pruning(config: PruneConfig, images: Images) -> int:
    candidates = config.candidates + config.improve + 1
    scored = min(config.scoring_images, images.validation // 2)
    calibrated = RECALIBRATION_PASSES * min(config.calibration_images, images.train)
    chosen = images.validation - scored
    tuned = config.finetune_epochs * (TRAINING_PASSES * images.train + chosen) + 2 * chosen
    return candidates * (calibrated + scored) + config.top_k * tuned + PROOF_PASSES * (images.test + chosen)


def _of_quantizing(config: QuantizeConfig, images: Images, sites: int) -> int:
    schemes = len(ROUNDINGS.names()) if config.rounding == "auto" else 1
    seeds = STOCHASTIC_SEEDS if config.rounding in {"stochastic_rounding", "auto"} else 1
    searches = 1 + (config.compare_baseline is not None) + (config.fallback is not None)
    sensitivity = NEAR_IMAGES * len(MEASURED) * sites
    search = schemes * searches * (sensitivity + MOST_PLANS * images.validation * seeds)
    if config.max_image_forwards is not None:
        search = min(search, config.max_image_forwards)
    beside = 2 * min(config.calibration_images, images.train) + images.validation
    tuning = TRAINING_PASSES * config.finetune_steps * config.test_batch_size
    return search + beside + tuning + (PROOF_PASSES + ARTIFACTS * seeds) * images.test
