"""The training loop: steps and epochs, saved now and then, until the last epoch or a wish to stop."""

from __future__ import annotations

from accelerate import Accelerator

from qcaps.config.train import TrainConfig
from qcaps.errors import StoppedError
from qcaps.models.network import CapsuleNetwork
from qcaps.progress import Step
from qcaps.training.run import Run
from qcaps.training.setting import FROM_LABELS, Lesson, State, Surroundings, Trained, TrainingData

SECONDS_BETWEEN_SAVES = 60.0


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
        See :class:`~qcaps.training.setting.Surroundings`. A save happens after every epoch, every minute and before
        stopping.
    lesson
        See :class:`~qcaps.training.setting.Lesson`.
    resume
        A state given to `save` earlier; the run continues as if it had never stopped.

    Raises
    ------
    StoppedError
        If asked to stop; the state was saved.
    DivergedError
        If the loss or a weight is no longer a number; what was saved before is sound.
    UsageError
        If there is no such optimizer.
    """
    run = Run(network, data, config, accelerator, surroundings, lesson=lesson)
    if resume is not None:
        run.restore(resume)
    last_save = surroundings.clock()
    while not run.position.over(config.epochs, config.patience):
        order = run.batches.order(run.position.epoch)
        while run.position.step < run.batches.per_epoch:
            note = run.one_step(order)
            epoch, step = run.position.epoch, run.position.step
            surroundings.on_progress(Step(f"epoch {epoch + 1}/{config.epochs}", step, run.batches.per_epoch, note))
            stopping = surroundings.stop()
            if stopping or surroundings.clock() - last_save > SECONDS_BETWEEN_SAVES:
                run.save()
                last_save = surroundings.clock()
            if stopping:
                raise StoppedError("training was interrupted; its state is saved")
        run.finish_epoch()
        run.save()
        last_save = surroundings.clock()
    return Trained(run.best, run.position)
