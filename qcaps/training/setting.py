"""What training is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from qcaps.data.augment import Augmentation
from qcaps.data.images import ImageSet
from qcaps.models.network import Output
from qcaps.progress import OnProgress
from qcaps.training.state import Position

State = tuple[dict[str, object], dict[str, Tensor]]


@dataclass(frozen=True)
class TrainingData:
    """Images to learn from and to choose by, and what is done to the former."""

    train: ImageSet
    validation: ImageSet
    augment: Augmentation


@dataclass(frozen=True)
class Surroundings:
    """What training needs of the world: a clock, someone to tell, a place to save, a wish to stop."""

    clock: Callable[[], float]
    on_progress: OnProgress
    save: Callable[[State], None]
    stop: Callable[[], bool]


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
