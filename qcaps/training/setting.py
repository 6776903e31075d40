"""What training is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from qcaps.data.augment import Augmentation
from qcaps.data.images import ImageSet
from qcaps.models.network import Output
from qcaps.progress import OnProgress
from qcaps.training.panel import Panel
from qcaps.training.state import EpochRecord, Position
from qcaps.training.timing import Timing

State = tuple[dict[str, object], dict[str, Tensor]]


@dataclass(frozen=True)
class TrainingData:
    """Images to learn from and to choose by, what is done to the former, and further images that are only scored."""

    train: ImageSet
    validation: ImageSet
    augment: Augmentation
    also: Mapping[str, ImageSet] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochEnd:
    """What is known when an epoch is over; of the panel, if one is due."""

    record: EpochRecord
    timing: Timing
    panel: Panel | None


def _nobody(end: EpochEnd) -> None:
    """Be told in vain."""


@dataclass(frozen=True)
class Surroundings:
    """What training needs of the world: a clock, someone to tell, a place to save, a wish to stop.

    `on_epoch` is told before the state is saved: after an interruption it may hear of an epoch again.
    """

    clock: Callable[[], float]
    on_progress: OnProgress
    save: Callable[[State], None]
    stop: Callable[[], bool]
    on_epoch: Callable[[EpochEnd], None] = _nobody


@dataclass(frozen=True)
class Lesson:
    """What is taught beside the labels, and to whom.

    Parameters
    ----------
    beside
        Images and what the network says of them → a further loss of every image, shape ``(batch,)``; None for none.
    trained
        Whether the network is trained already; then the margin of a spread loss is wide from the first epoch on.
    """

    beside: Callable[[Tensor, Output], Tensor] | None = None
    trained: bool = False


FROM_LABELS = Lesson()


@dataclass(frozen=True)
class Trained:
    """Tensors of the best epoch, and the record of all."""

    tensors: Mapping[str, Tensor]
    position: Position
