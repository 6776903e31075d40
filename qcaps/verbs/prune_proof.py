"""The proof of a pruning: what became of the network, on validation images and, once, on test images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcaps.artifacts.checkpoint import read_checkpoint, write_checkpoint
from qcaps.capsules.losses import class_loss
from qcaps.data.images import ImageSet
from qcaps.data.load import load_split
from qcaps.evaluation.measure import Measurement, measure, predictor
from qcaps.evaluation.outputs import Outputs
from qcaps.evaluation.statistics import compare_paired, wilson_interval
from qcaps.models.network import CapsuleNetwork
from qcaps.pruning.candidates import cut_network, recalibrated
from qcaps.pruning.importance import importance
from qcaps.reports.image_facts import ImageFacts, image_facts
from qcaps.reports.pictures import Pictures, with_pictures
from qcaps.reports.pruning import Milestone, Seen, Stand
from qcaps.reports.quantization import Score
from qcaps.verbs.chain import First
from qcaps.verbs.decoding import drawing
from qcaps.verbs.prune_finalists import Finalist
from qcaps.verbs.prune_job import Job
from qcaps.verbs.prune_record import CHECKPOINT, pruned_checkpoint
from qcaps.verbs.prune_workshop import Workshop


@dataclass(frozen=True, eq=False)
class Look:
    """What a network makes of some images: its predictions, its loss on each, shape ``(n,)``, and what it said."""

    images: ImageSet
    measured: Measurement
    losses: Tensor
    outputs: Outputs

    def on(self, images: ImageSet) -> Look:
        """Give what it makes of some of these images, in the same order."""
        places = torch.isin(self.images.indices, images.indices).nonzero().flatten()
        measured = Measurement(self.measured.predictions[places], self.measured.labels[places])
        return Look(images, measured, self.losses[places], self.outputs.of(places))


@dataclass(frozen=True, eq=False)
class Proof:
    """What is proven of a pruned network.

    Parameters
    ----------
    milestones, by_chance
        Every network on the way, the result last; and the baseline, whose units were drawn at random.
    sha256, file_bytes
        Of the checkpoint of the result.
    first
        Checkpoint that the chain began with, and which images it recognised.
    images, pictures
        What the network makes of the test images, before and after.
    """

    milestones: tuple[Milestone, ...]
    by_chance: Milestone
    sha256: str
    file_bytes: int
    first: First
    images: ImageFacts
    pictures: Pictures


def prove(shop: Workshop, winner: Finalist) -> Proof:
    """Write the checkpoint of the winner and score it from there; the test images are opened here, once.

    Raises
    ------
    StoppedError
        If interrupted.
    """
    source, path = shop.material.source, shop.out / CHECKPOINT
    images, test = shop.material.images, load_split(shop.job.data, "test", data_dir=shop.job.config.data_dir)
    whole = _looks(shop, source.network, (images.validation, test), "unpruned")
    before = whole[0].on(images.choosing), whole[1]
    first, widths = first_of_chain(shop.job, whole), winner.candidate.widths
    made = pruned_checkpoint(
        shop, widths, winner.tensors, history=winner.history, best_epoch=winner.best_epoch, first=first
    )
    sha256 = write_checkpoint(path, made)

    said = {"unpruned": whole[1].outputs}

    def milestone(stand: Stand, network: CapsuleNetwork) -> Milestone:
        looks = _looks(shop, network.to(shop.material.device), [look.images for look in before], stand)
        said[stand] = looks[1].outputs
        return Milestone(stand, *(_seen(look, base) for look, base in zip(looks, before, strict=True)))

    way = [
        Milestone("unpruned", *(_seen(look, None) for look in before)),
        milestone("cut", cut_network(source, widths)),
        milestone("recalibrated", recalibrated(source, widths)),
    ]
    if winner.history:
        way.append(milestone("fine-tuned", read_checkpoint(path)[0].network()))
    another = shop.job.config.seed + 1  # should the importance itself be random
    by_chance = dataclasses.replace(source, scores=importance("random", source.network, seed=another).scores)
    baseline = milestone("random units, recalibrated", recalibrated(by_chance, widths))
    outputs = {"unpruned": said["unpruned"], CHECKPOINT: said[way[-1].stand]}
    networks = dict(zip(outputs, (source.network, read_checkpoint(path)[0].network()), strict=True))
    decoders = {name: drawing(network) for name, network in networks.items() if network.decoder is not None}
    facts = image_facts(test, outputs, source.network.loss)
    seen = with_pictures(facts, test, outputs, decoders, seed=shop.job.config.seed)
    return Proof(tuple(way), baseline, sha256, path.stat().st_size, first, *seen)


def first_of_chain(job: Job, looks: Sequence[Look]) -> First:
    """Give the first checkpoint of the chain; one that is known for other images only is none for these."""
    if job.first is not None and all(job.first.hits_on(look.images) is not None for look in looks):
        return job.first
    hits = {look.images.sha256(): look.measured.hits for look in looks}
    return First(job.file, job.sha256, job.source.model.architecture, hits)


def _looks(shop: Workshop, network: CapsuleNetwork, parts: Sequence[ImageSet], stand: Stand) -> list[Look]:
    """Let a network predict every image of some parts once."""
    found = []
    for images in parts:
        outputs = Outputs()
        measured = measure(
            predictor(network, outputs.see),
            images,
            batch_size=shop.job.config.test_batch_size,
            phase=f"{images.split} images: {stand}",
            on_progress=shop.on_progress,
            stop=shop.stop,
        )
        found.append(Look(images, measured, class_loss(network.loss, outputs.scores, images.labels), outputs))
    return found


def _seen(look: Look, before: Look | None) -> Seen:
    measured = look.measured
    interval = wilson_interval(measured.correct, measured.images)
    score = Score(look.images.split, measured.images, measured.correct, measured.accuracy, interval)
    if before is None:
        return Seen(score, float(look.losses.double().mean()), None)
    old, new = before.measured.hits, measured.hits
    lost, gained = int((old & ~new).sum()), int((new & ~old).sum())
    compared = compare_paired(lost=lost, gained=gained, images=measured.images, margin=0.0)
    return Seen(score, float(look.losses.double().mean()), compared)
