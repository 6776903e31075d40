"""The finalists of a pruning, fine-tuned: each can be interrupted and continued, and several processes share them."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from qcaps.artifacts.container import read_container, write_container
from qcaps.artifacts.journal import content_key
from qcaps.data.augment import augmentation
from qcaps.data.spec import data_spec_to_dict
from qcaps.distributed import from_all, process_count, process_index
from qcaps.evaluation.content import tensors_sha256
from qcaps.evaluation.measure import measure, predictor
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import ModelSpec, spec_to_dict
from qcaps.progress import OnProgress, Step
from qcaps.pruning.candidates import Candidate, recalibrated
from qcaps.pruning.finetuning import FinetuneConfig, finetune, recipe_of
from qcaps.training.devices import accelerator
from qcaps.training.setting import State, Surroundings, Trained, TrainingData
from qcaps.training.state import EpochRecord
from qcaps.verbs.prune_job import Job
from qcaps.verbs.prune_workshop import Workshop

RESUME = "qcaps.resume"
# What torchrun tells its processes.
TOGETHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True, eq=False)
class Finalist:
    """A candidate that was fine-tuned.

    Parameters
    ----------
    candidate
        Before.
    tensors
        Of the best epoch, the decoder's included.
    recalibrated_correct, correct
        Choosing images recognised before the first epoch, and after the best one.
    best_epoch
        0 if the network was best before the first.
    history
        Of all epochs.
    """

    candidate: Candidate
    tensors: Mapping[str, Tensor]
    recalibrated_correct: int
    correct: int
    best_epoch: int
    history: tuple[EpochRecord, ...]


def finetune_finalists(candidates: Sequence[Candidate], shop: Workshop) -> tuple[Finalist, ...]:
    """Fine-tune candidates, each in one process and as if it were alone.

    Returns
    -------
    tuple
        In the order of the candidates, the same in every process.

    Raises
    ------
    StoppedError
        If interrupted; the state is saved, and the same call continues.
    """
    mine = []
    for place in range(process_index(), len(candidates), process_count()):
        name = f"finalist {place + 1} of {len(candidates)}"
        mine.append(_finetuned(candidates[place], shop, name))
    shared = from_all(mine)
    return tuple(shared[place % len(shared)][place // len(shared)] for place in range(len(candidates)))


def winner_of(finalists: Sequence[Finalist]) -> Finalist:
    """Choose the one that recognises most of the choosing images; of equals the one with the better score."""
    return max(finalists, key=lambda one: one.correct)


def forget_states(out: Path) -> None:
    """Remove what interrupted fine-tunings left in a folder."""
    for path in out.glob("finetune-*.pt"):
        path.unlink(missing_ok=True)


def own_accelerator(device: str, mixed_precision: str) -> Accelerator:
    """Make an accelerator that works alone, on a GPU of its own where processes share a machine that has some."""
    if device == "auto" and process_count() > 1 and torch.cuda.is_available():
        device = f"cuda:{process_index() % torch.cuda.device_count()}"
    with _alone():
        return accelerator(device, mixed_precision)


@contextmanager
def _alone() -> Iterator[None]:
    """Hide what torchrun says, or every process would wait for the others to train the same network."""
    hidden = {name: os.environ.pop(name) for name in TOGETHER if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _finetuned(candidate: Candidate, shop: Workshop, name: str) -> Finalist:
    """Recalibrate a candidate, train it, and keep whichever is better."""
    config, network = shop.job.config, recalibrated(shop.material.source, candidate.widths)
    tensors = plain_tensors(network)

    def listen(told: Step) -> None:
        shop.on_progress(dataclasses.replace(told, phase=f"{name}: {told.phase}"))

    before = measure(
        predictor(network),
        shop.material.images.choosing,
        batch_size=config.test_batch_size,
        phase="recalibrated",
        on_progress=listen,
        stop=shop.stop,
    ).correct
    untrained = Finalist(candidate, tensors, before, before, 0, ())
    if not config.finetune_epochs:
        return untrained
    trained = _train(shop.material.source.spec.with_widths(candidate.widths), tensors, shop, listen)
    history, best = tuple(trained.position.history), trained.position.best()
    if best.validation_correct < before:
        return dataclasses.replace(untrained, history=history)
    return Finalist(candidate, trained.tensors, before, best.validation_correct, best.epoch, history)


def plain_tensors(network: CapsuleNetwork) -> dict[str, Tensor]:
    """Give what a checkpoint holds of a network."""
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _train(spec: ModelSpec, tensors: Mapping[str, Tensor], shop: Workshop, on_progress: OnProgress) -> Trained:
    """Fine-tune one network, from its state file if there is one."""
    job, images, options = shop.job, shop.material.images, finetune_config(shop.job)
    teacher = shop.material.source.network
    key = _key(spec, tensors, shop, options)
    path = shop.out / f"finetune-{key[:16]}.pt"
    resume = None
    if path.exists():
        container = read_container(path, schema=RESUME)
        resume = (dict(container.header), dict(container.tensors)) if container.header.get("key") == key else None

    def save(state: State) -> None:
        header, held = state
        write_container(path, {"schema": f"{RESUME}/1", "key": key, **header}, held)

    place = own_accelerator(job.config.device, options.recipe.mixed_precision)
    data = TrainingData(images.training, images.choosing, augmentation(job.data.augmentation))
    surroundings = Surroundings(time.monotonic, on_progress, save, shop.stop)
    return finetune(spec, tensors, data, options, place, surroundings, teacher=teacher, resume=resume)


def finetune_config(job: Job) -> FinetuneConfig:
    """Say how finalists are fine-tuned."""
    config = job.config
    return FinetuneConfig(
        recipe=dataclasses.replace(recipe_of(job.source.record), test_batch_size=config.test_batch_size),
        epochs=config.finetune_epochs,
        lr=config.finetune_lr,
        distill=config.distill,
        distill_weight=config.distill_weight,
        augment=config.augment,
        seed=config.seed,
    )


def _key(spec: ModelSpec, tensors: Mapping[str, Tensor], shop: Workshop, options: FinetuneConfig) -> str:
    """Name a fine-tuning by all that its result depends on."""
    images = shop.material.images
    return content_key(
        spec_to_dict(spec),
        tensors_sha256(tensors),
        shop.job.sha256,
        dataclasses.asdict(options),
        data_spec_to_dict(shop.job.data),
        images.choosing.sha256(),
        torch.__version__,
    )
