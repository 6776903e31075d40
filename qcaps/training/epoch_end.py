"""The end of an epoch: validation images are scored, and some are drawn."""

from __future__ import annotations

from collections.abc import Mapping

from qcaps.config.train import TrainConfig
from qcaps.data.images import ImageSet
from qcaps.evaluation.measure import measure, predictor
from qcaps.models.network import CapsuleNetwork
from qcaps.progress import OnProgress
from qcaps.training.panel import Panel, draw_panel, panel_images
from qcaps.training.schedule import learning_rate
from qcaps.training.setting import TrainingData
from qcaps.training.state import EpochRecord, Position, Score


def epoch_record(
    network: CapsuleNetwork,
    data: TrainingData,
    config: TrainConfig,
    position: Position,
    on_progress: OnProgress,
) -> EpochRecord:
    """Score the validation images of all sets, and tell what was learned.

    Parameters
    ----------
    network
        In evaluation mode.
    data, config
        Of the run.
    position
        After the last step of the epoch.
    on_progress
        Told after every batch.
    """
    steps, count = position.step, f"{position.epoch + 1}/{config.epochs}"

    def score(images: ImageSet, phase: str) -> Score:
        measured = measure(
            predictor(network), images, batch_size=config.test_batch_size, phase=phase, on_progress=on_progress
        )
        return Score(measured.correct, measured.images)

    own = score(data.validation, f"validate {count}")
    also: Mapping[str, Score] = {name: score(images, f"{name} {count}") for name, images in data.also.items()}
    return EpochRecord(
        epoch=position.epoch + 1,
        # Not from the optimizer: a run resumed after the last step of an epoch has made no step.
        lr=learning_rate(config, (position.epoch + 1) * steps - 1, steps),
        class_loss=position.class_loss_sum / steps,
        reconstruction_loss=position.reconstruction_sum / steps,
        validation_correct=own.correct,
        validation_images=own.images,
        also=also,
    )


def panel_if_due(network: CapsuleNetwork, data: TrainingData, config: TrainConfig, epoch: int) -> Panel | None:
    """Draw the panel after every so many epochs, counted from 1."""
    if not config.reconstructions_every or epoch % config.reconstructions_every or network.decoder is None:
        return None
    return draw_panel(network, panel_images(data.validation))
