"""Where a training run stands, as plain tensors and data that a resume file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from qcaps.errors import ArtifactError


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch: mean training losses per image, and images recognised on the validation split."""

    epoch: int
    lr: float
    class_loss: float
    reconstruction_loss: float
    validation_correct: int
    validation_images: int


@dataclass
class Position:
    """Where in the run the next step stands, and the losses summed over this epoch so far."""

    epoch: int = 0
    step: int = 0
    class_loss_sum: float = 0.0
    reconstruction_sum: float = 0.0
    best_epoch: int = -1
    history: list[EpochRecord] = field(default_factory=list)

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
        return better


def pack_state(
    position: Position, network: nn.Module, best: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Write the whole state of a run as a header and named tensors.

    Orders and augmentations are functions of (seed, epoch, step), so no generator needs to be kept.
    """
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
    return {"position": asdict(position)}, tensors


def unpack_state(
    header: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    where: str,
) -> tuple[Position, dict[str, Tensor]]:
    """Put a saved state back into `network` and `optimizer`; give the position and the best tensors so far.

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
        saved = dict(header["position"])  # type: ignore[call-overload]  # checked by the except below
        saved["history"] = [EpochRecord(**record) for record in saved["history"]]
        network.load_state_dict(by_part["network"], strict=True)
        state = optimizer.state_dict()
        state["state"] = {}
        for name, tensor in by_part["optimizer"].items():
            index, key = name.split(".", 1)
            state["state"].setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict(state)
        return Position(**saved), by_part["best"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"the resume file does not fit this network: {error}", where=where, do="start again with --fresh"
        ) from error
