"""The training loop: the loss of the network with reconstruction, best epoch chosen on validation images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from qcaps.capsules.losses import LAST_SPREAD_MARGIN, class_loss, reconstruction_loss
from qcaps.config.train import TrainConfig
from qcaps.data.augment import Augmentation
from qcaps.data.images import ImageSet
from qcaps.errors import QcapsError, StoppedError
from qcaps.evaluation.measure import measure, predictor
from qcaps.models.network import CapsuleNetwork, Output
from qcaps.progress import OnProgress, Step
from qcaps.training.schedule import epoch_spread_margin, learning_rate, margins
from qcaps.training.state import EpochRecord, Position, pack_state, unpack_state

SECONDS_BETWEEN_SAVES = 60.0

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


def train(
    network: CapsuleNetwork,
    data: TrainingData,
    config: TrainConfig,
    accelerator: Accelerator,
    surroundings: Surroundings,
    *,
    lesson: Lesson = FROM_LABELS,
    resume: State | None = None,
) -> Trained:
    """Train a network.

    Parameters
    ----------
    network
        Initialised; changed in place.
    data
        Both splits.
    config
        Every option.
    accelerator
        Places the work on devices and processes.
    surroundings
        See :class:`Surroundings`. A save happens after every epoch, every minute and before stopping.
    lesson
        See :class:`Lesson`.
    resume
        A state given to `save` earlier; the run continues as if it had never stopped.

    Raises
    ------
    StoppedError
        If asked to stop; the state was saved.
    QcapsError
        If the loss is no longer a number.
    """
    run = _Run(_Losses(network, config, lesson), data, accelerator)
    if resume is not None:
        run.position, run.best = unpack_state(*resume, network, run.optimizer, where="resume file")
    last_save = surroundings.clock()
    while run.position.epoch < config.epochs:
        order = _order(config.seed, run.position.epoch, len(data.train))
        while run.position.step < run.steps_per_epoch:
            note = run.one_step(order)
            epoch, step = run.position.epoch, run.position.step
            surroundings.on_progress(Step(f"epoch {epoch + 1}/{config.epochs}", step, run.steps_per_epoch, note))
            stopping = surroundings.stop()
            if stopping or surroundings.clock() - last_save > SECONDS_BETWEEN_SAVES:
                surroundings.save(run.state())
                last_save = surroundings.clock()
            if stopping:
                raise StoppedError("training was interrupted; its state is saved")
        run.finish_epoch(surroundings.on_progress)
        surroundings.save(run.state())
        last_save = surroundings.clock()
    return Trained(run.best, run.position)


class _Losses(nn.Module):
    """The network and its losses as one module, the shape that data-parallel training needs."""

    def __init__(self, network: CapsuleNetwork, config: TrainConfig, lesson: Lesson) -> None:
        super().__init__()
        self.network, self.config, self.lesson = network, config, lesson
        self.scale = config.regularization_scale if network.decoder is not None else 0.0
        self.share = config.reconstruction_share

    def forward(self, images: Tensor, labels: Tensor, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give the loss to minimise, and the mean class and reconstruction losses."""
        output = self.network(images)
        own = class_loss(
            self.network.loss,
            output.scores,
            labels,
            margins=margins(self.config, epoch),
            spread_margin=LAST_SPREAD_MARGIN if self.lesson.trained else epoch_spread_margin(self.config, epoch),
        ).mean()
        total = own if self.lesson.beside is None else own + self.lesson.beside(images, output).mean()
        count = math.ceil(len(images) * self.share)
        if not self.scale or not count:
            return total, own.detach(), own.new_zeros(())
        drawn = self.network.reconstruct(output.capsules[:count], labels[:count])
        reconstruction = reconstruction_loss(drawn, images[:count]).mean()
        return total + self.scale * reconstruction, own.detach(), reconstruction.detach()


class _Run:
    """A training run under way."""

    def __init__(self, losses: _Losses, data: TrainingData, accelerator: Accelerator) -> None:
        self.network, self.config = losses.network, losses.config
        self.data, self.accelerator = data, accelerator
        self.position = Position()
        self.best: Mapping[str, Tensor] = {}
        self.steps_per_epoch = math.ceil(len(data.train) / self.config.batch_size)
        self.network.to(memory_format=torch.channels_last)
        # Efficient-CapsNet trains with this epsilon; PyTorch's 1e-8 differs only where gradients vanish.
        learning = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(learning, lr=self.config.lr, eps=1e-7)
        self.losses: nn.Module
        self.prepared_optimizer: torch.optim.Optimizer
        self.losses, self.prepared_optimizer = accelerator.prepare(losses, self.optimizer)

    def one_step(self, order: Tensor) -> str:
        """Learn from the next batch; give a note on the loss."""
        position, config = self.position, self.config
        done = position.epoch * self.steps_per_epoch + position.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, done, self.steps_per_epoch)
        images, labels = self._batch(order)
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
        position, config = self.position, self.config
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
            lr=learning_rate(config, (position.epoch + 1) * self.steps_per_epoch - 1, self.steps_per_epoch),
            class_loss=position.class_loss_sum / self.steps_per_epoch,
            reconstruction_loss=position.reconstruction_sum / self.steps_per_epoch,
            validation_correct=measured.correct,
            validation_images=measured.images,
        )
        position.history.append(record)
        if position.best_epoch < 0 or record.validation_correct > position.best().validation_correct:
            position.best_epoch = position.epoch
            self.best = {
                name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
                for name, tensor in self.network.state_dict().items()
                if not name.endswith("num_batches_tracked")
            }
        position.epoch += 1
        position.step = 0
        position.class_loss_sum = position.reconstruction_sum = 0.0

    def state(self) -> State:
        """Give everything that a resumed run needs."""
        return pack_state(self.position, self.network, self.best, self.optimizer)

    def _batch(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Give this process its part of the next batch, scaled and augmented."""
        start = self.position.step * self.config.batch_size
        positions = order[start : start + self.config.batch_size]
        batch = self.data.train.subset(positions)
        key = (self.config.seed, self.position.epoch, self.position.step)
        images = self.data.augment(batch.prepared(), _generator(*key))
        rank, world, device = (
            self.accelerator.process_index,
            self.accelerator.num_processes,
            self.accelerator.device,
        )
        images = images[rank::world].to(device).contiguous(memory_format=torch.channels_last)
        return images, batch.labels[rank::world].to(device)


def _order(seed: int, epoch: int, images: int) -> Tensor:
    """Shuffle the images of an epoch."""
    return torch.randperm(images, generator=_generator(seed, epoch))


def _generator(*key: int) -> torch.Generator:
    """Make the generator of one epoch or step, so that a resumed run draws what an uninterrupted one would."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)
