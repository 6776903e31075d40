"""A training run under way: its next step, the end of an epoch, and its state."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from qcaps.config.train import TrainConfig
from qcaps.errors import QcapsError
from qcaps.evaluation.measure import measure, predictor
from qcaps.models.network import CapsuleNetwork
from qcaps.progress import OnProgress
from qcaps.training.batches import Batches
from qcaps.training.optimizers import optimizer
from qcaps.training.schedule import learning_rate
from qcaps.training.setting import Lesson, State, TrainingData
from qcaps.training.state import EpochRecord, Position, pack_state, unpack_state
from qcaps.training.step_losses import StepLosses


class Run:
    """Everything that changes while a network is trained.

    Parameters
    ----------
    network
        Changed in place.
    data, config, lesson
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
        lesson: Lesson,
    ) -> None:
        self.network, self.data, self.config, self.accelerator = network, data, config, accelerator
        self.batches = Batches(data, config.batch_size, config.seed)
        self.position = Position()
        self.best: Mapping[str, Tensor] = {}
        network.to(memory_format=torch.channels_last)
        self.optimizer = optimizer(config, network)
        self.losses: nn.Module
        self.prepared_optimizer: torch.optim.Optimizer
        self.losses, self.prepared_optimizer = accelerator.prepare(StepLosses(network, config, lesson), self.optimizer)

    def one_step(self, order: Tensor) -> str:
        """Learn from the next batch; give a note on the loss."""
        position = self.position
        done = position.epoch * self.batches.per_epoch + position.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, done, self.batches.per_epoch)
        images, labels = self._own_part(*self.batches.batch(order, position.epoch, position.step))
        self.network.train()
        loss, class_loss, reconstruction = self.losses(images, labels, position.epoch)
        self.prepared_optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.prepared_optimizer.step()
        if not math.isfinite(float(loss.detach())):
            raise QcapsError(
                "the loss is no longer a number",
                where=f"epoch {position.epoch + 1}, step {position.step + 1}",
                do="lower --lr; `--mixed-precision no` may help as well",
            )
        position.step += 1
        position.class_loss_sum += float(class_loss)
        position.reconstruction_sum += float(reconstruction)
        return f"{self.network.loss} loss {position.class_loss_sum / position.step:.4f}"

    def finish_epoch(self, on_progress: OnProgress) -> None:
        """Score the validation images and keep the tensors if they are the best so far."""
        position, config, steps = self.position, self.config, self.batches.per_epoch
        self.network.eval()
        measured = measure(
            predictor(self.network),
            self.data.validation,
            batch_size=config.test_batch_size,
            phase=f"validate {position.epoch + 1}/{config.epochs}",
            on_progress=on_progress,
        )
        record = EpochRecord(
            epoch=position.epoch + 1,
            # Not from the optimizer: a run resumed after the last step of an epoch has made no step.
            lr=learning_rate(config, (position.epoch + 1) * steps - 1, steps),
            class_loss=position.class_loss_sum / steps,
            reconstruction_loss=position.reconstruction_sum / steps,
            validation_correct=measured.correct,
            validation_images=measured.images,
        )
        if position.finish(record):
            self.best = {
                name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
                for name, tensor in self.network.state_dict().items()
                if not name.endswith("num_batches_tracked")
            }

    def state(self) -> State:
        """Give everything that a resumed run needs."""
        return pack_state(self.position, self.network, self.best, self.optimizer)

    def restore(self, state: State) -> None:
        """Continue where a state was given."""
        self.position, self.best = unpack_state(*state, self.network, self.optimizer, where="resume file")

    def _own_part(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give this process its part of a batch, on its device."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        images = images[rank::world].to(self.accelerator.device).contiguous(memory_format=torch.channels_last)
        return images, labels[rank::world].to(self.accelerator.device)
