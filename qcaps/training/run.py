"""A training run under way: its next step, the end of an epoch, and its state."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from qcaps.config.train import TrainConfig
from qcaps.errors import DivergedError
from qcaps.models.network import CapsuleNetwork
from qcaps.training.batches import Batches
from qcaps.training.epoch_end import epoch_record, panel_if_due
from qcaps.training.optimizers import optimizer
from qcaps.training.schedule import learning_rate
from qcaps.training.setting import EpochEnd, Lesson, State, Surroundings, TrainingData
from qcaps.training.state import Position, pack_state, unpack_state
from qcaps.training.step_losses import StepLosses


class Run:
    """Everything that changes while a network is trained.

    Parameters
    ----------
    network
        Changed in place.
    data, config, surroundings, lesson
        As for :func:`~qcaps.training.loop.train`.
    accelerator
        Places the work on devices and processes.
    """

    def __init__(
        self,
        network: CapsuleNetwork,
        data: TrainingData,
        config: TrainConfig,
        accelerator: Accelerator,
        surroundings: Surroundings,
        *,
        lesson: Lesson,
    ) -> None:
        self.network, self.data, self.config = network, data, config
        self.accelerator, self.surroundings = accelerator, surroundings
        self.batches = Batches(data, config.batch_size, config.seed)
        self.position = Position()
        self.best: Mapping[str, Tensor] = {}
        network.to(memory_format=torch.channels_last)
        self.optimizer = optimizer(config, network)
        self.losses: nn.Module
        self.prepared_optimizer: torch.optim.Optimizer
        self.losses, self.prepared_optimizer = accelerator.prepare(StepLosses(network, config, lesson), self.optimizer)

    def one_step(self, order: Tensor) -> str:
        """Learn from the next batch; give a note on the loss.

        Raises
        ------
        DivergedError
            If the loss is no number; the weights stay as they were.
        """
        position, timing, clock = self.position, self.position.timings[-1], self.surroundings.clock
        began = clock()
        images, labels = self.batches.batch(order, position.epoch, position.step)
        timing.waiting_seconds += clock() - began
        self.network.train()
        loss, class_loss, reconstruction = self.losses(*self._own_part(images, labels), position.epoch)
        if not math.isfinite(float(loss.detach())):
            raise self._diverged("the loss is no longer a number")
        self._learn(loss)
        position.step += 1
        position.class_loss_sum += float(class_loss)
        position.reconstruction_sum += float(reconstruction)
        timing.images += len(labels)
        timing.seconds += clock() - began
        return f"{self.network.loss} loss {position.class_loss_sum / position.step:.4f}"

    def finish_epoch(self) -> None:
        """Score the validation images, keep the tensors if they are the best so far, and tell."""
        self._check_finite()
        position, on_progress = self.position, self.surroundings.on_progress
        self.network.eval()
        record = epoch_record(self.network, self.data, self.config, position, on_progress)
        if position.finish(record):
            self.best = {
                name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
                for name, tensor in self.network.state_dict().items()
                if not name.endswith("num_batches_tracked")
            }
        panel = panel_if_due(self.network, self.data, self.config, record.epoch)
        self.surroundings.on_epoch(EpochEnd(record, position.timings[-2], panel))

    def save(self) -> None:
        """Save everything that a resumed run needs.

        Raises
        ------
        DivergedError
            If some of it is no number; what was saved before stays.
        """
        self._check_finite()
        scaler = self.accelerator.scaler
        self.surroundings.save(pack_state(self.position, self.network, self.best, self.optimizer, scaler))

    def restore(self, state: State) -> None:
        """Continue where a state was saved."""
        scaler = self.accelerator.scaler
        self.position, self.best = unpack_state(*state, self.network, self.optimizer, scaler, where="resume file")

    def _learn(self, loss: Tensor) -> None:
        """Make the step of the optimizer."""
        done = self.position.epoch * self.batches.per_epoch + self.position.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, done, self.batches.per_epoch)
        self.prepared_optimizer.zero_grad()
        self.accelerator.backward(loss)
        if self.config.clip_norm:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.prepared_optimizer.step()

    def _own_part(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give this process its part of a batch, on its device."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        images = images[rank::world].to(self.accelerator.device).contiguous(memory_format=torch.channels_last)
        return images, labels[rank::world].to(self.accelerator.device)

    def _check_finite(self) -> None:
        """Refuse to go on with weights that are no numbers: a gradient was none."""
        held = [*self.network.state_dict().values()]
        held += [value for each in self.optimizer.state.values() for value in each.values()]
        floats = [value for value in held if isinstance(value, Tensor) and value.is_floating_point()]
        if not all(bool(value.isfinite().all()) for value in floats):
            raise self._diverged("a weight is no longer a number")

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            what,
            where=f"epoch {self.position.epoch + 1}, step {self.position.step + 1}",
            do="lower --lr or set --clip-norm; `--mixed-precision no` may help as well",
        )
