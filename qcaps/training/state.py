"""Where a training run stands, as plain tensors and data that a resume file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from qcaps.errors import ArtifactError
from qcaps.training.timing import Timing


@dataclass(frozen=True)
class Score:
    """Images of a validation set, and how many of them were recognised."""

    correct: int
    images: int


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch: mean training losses per image, and images recognised on validation splits.

    `also` has the scores of further data sets by name, which nothing is chosen by.
    """

    epoch: int
    lr: float
    class_loss: float
    reconstruction_loss: float
    validation_correct: int
    validation_images: int
    also: Mapping[str, Score] = field(default_factory=dict)

    def row(self) -> dict[str, int | float]:
        """Give the record as one row of a table."""
        row: dict[str, int | float] = {name: value for name, value in asdict(self).items() if name != "also"}
        for name, score in self.also.items():
            row |= {f"{name}_correct": score.correct, f"{name}_images": score.images}
        return row


@dataclass
class Position:
    """Where in the run the next step stands, and the losses summed over this epoch so far."""

    epoch: int = 0
    step: int = 0
    class_loss_sum: float = 0.0
    reconstruction_sum: float = 0.0
    best_epoch: int = -1
    history: list[EpochRecord] = field(default_factory=list)
    # Of every epoch, the one under way included; differs between identical runs.
    timings: list[Timing] = field(default_factory=lambda: [Timing()], compare=False)

    def best(self) -> EpochRecord:
        """Give the record of the best epoch so far."""
        return self.history[self.best_epoch]

    def finish(self, record: EpochRecord) -> bool:
        """End an epoch; tell whether it is the best so far, the first of equals."""
        better = self.best_epoch < 0 or record.validation_correct > self.best().validation_correct
        self.history.append(record)
        if better:
            self.best_epoch = self.epoch
        self.epoch += 1
        self.step = 0
        self.class_loss_sum = self.reconstruction_sum = 0.0
        self.timings.append(Timing())
        return better

    def over(self, epochs: int, patience: int) -> bool:
        """Tell whether all epochs are done, or as many as `patience` since the best one; 0 is endless patience."""
        return self.epoch >= epochs or 0 < patience < self.epoch - self.best_epoch


def pack_state(
    position: Position,
    network: nn.Module,
    best: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Write the whole state of a run as a header and named tensors.

    Orders and augmentations are functions of (seed, epoch, step), so no generator needs to be kept.
    """
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    numbers: dict[str, dict[str, object]] = {}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in values.items() if isinstance(v, Tensor)}
        numbers[str(index)] = {k: v for k, v in values.items() if not isinstance(v, Tensor)}
    scale = None if scaler is None else scaler.state_dict()
    return {"position": asdict(position), "optimizer": numbers, "scaler": scale}, tensors


def unpack_state(
    header: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    *,
    where: str,
) -> tuple[Position, dict[str, Tensor]]:
    """Put a saved state back into network, optimizer and scaler; give the position and the best tensors so far.

    Raises
    ------
    ArtifactError
        If the state does not fit the network.
    """
    by_part: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimizer": {}}
    try:
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            by_part[part][rest] = tensor
        position = _position(header["position"])
        network.load_state_dict(by_part["network"], strict=True)
        state = optimizer.state_dict()
        state["state"] = {int(k): dict(v) for k, v in header["optimizer"].items()}  # type: ignore[attr-defined]  # also
        for name, tensor in by_part["optimizer"].items():
            index, key = name.split(".", 1)
            state["state"][int(index)][key] = tensor
        optimizer.load_state_dict(state)
        if scaler is not None:
            scaler.load_state_dict(header["scaler"])  # type: ignore[arg-type]  # checked by the except below
        return position, by_part["best"]
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"the resume file does not fit this network: {error}", where=where, do="start again with --fresh"
        ) from error


def _position(saved: object) -> Position:
    """Read a position out of a header, which may be damaged."""
    values = dict(saved)  # type: ignore[call-overload]  # the caller catches what this raises
    records = [dict(record) for record in values["history"]]
    for record in records:
        record["also"] = {name: Score(**score) for name, score in record["also"].items()}
    timings = [Timing(**timing) for timing in values["timings"]]
    return Position(**{**values, "history": [EpochRecord(**record) for record in records], "timings": timings})
