"""Which images a pruning uses for what: those that judge units, those that score candidates, those that choose."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qcaps.config import PruneConfig
from qcaps.data.images import ImageSet
from qcaps.data.load import load_training_splits
from qcaps.data.spec import DataSpec
from qcaps.data.split import hold_out


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a pruning, test images not among them.

    Parameters
    ----------
    training
        To fine-tune with.
    calibration
        Some of them, to judge units by and to recalibrate candidates with.
    validation
        All that were held out of the training images.
    scoring, choosing
        The same in two parts: candidates are scored on the one; epochs and the winner are chosen on the other.

    Notes
    -----
    Scores come from images that no network was trained on. EagleEye scores on training images that it calibrates and
    fine-tunes on as well, which flatters what fits them.
    """

    training: ImageSet
    calibration: ImageSet
    validation: ImageSet
    scoring: ImageSet
    choosing: ImageSet


def chosen_images(data: DataSpec, config: PruneConfig) -> Images:
    """Read the images, and draw the parts: of every class as many validation images score.

    Raises
    ------
    UsageError
        If files are missing or damaged, or a class has a single validation image.
    """
    training, validation = load_training_splits(data, data_dir=config.data_dir)
    drawn = torch.randperm(len(training), generator=torch.Generator().manual_seed(config.seed))
    asked = config.scoring_images // len(validation.class_names)
    per_class = max(1, min(asked, data.validation_per_class // 2))
    parts = hold_out(validation.labels, per_class, data.split_seed)
    return Images(
        training=training,
        calibration=training.subset(drawn[: config.calibration_images]),
        validation=validation,
        scoring=validation.subset(parts.taken),
        choosing=validation.subset(parts.left),
    )
