"""Quantization-aware fine-tuning: a short training of float weights by what they are once rounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from qcaps.capsules.losses import ranking_divergence
from qcaps.capsules.sites import Hook, hooked
from qcaps.data.augment import Augmentation, augmented
from qcaps.data.images import ImageSet
from qcaps.errors import QcapsError, StoppedError
from qcaps.evaluation.measure import even_blocks
from qcaps.models.network import CapsuleNetwork, weight_sites
from qcaps.progress import OnProgress, Step, silent
from qcaps.quantization.draws import uniforms, weight_uniforms
from qcaps.quantization.formats import NumberFormat
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.straight_through import round_through


def finetune(
    network: CapsuleNetwork,
    plan: BitPlan,
    images: ImageSet,
    *,
    teacher: CapsuleNetwork,
    augment: Augmentation,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    on_progress: OnProgress = silent,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Tensor]:
    """Train the weights of a network under a bit plan to choose as its float form does; the scales stay as they are.

    Parameters
    ----------
    network
        In inference form, norms folded; left as it is.
    plan
        Formats of all sites.
    images
        Training images, whose labels are not looked at; never those a decision is judged on.
    teacher
        The network in float: its scores are what is learned, see :func:`~qcaps.capsules.losses.ranking_divergence`.
    augment
        What is done to them.
    steps, batch_size
        Of the training, at least 1.
    lr
        Learning rate of Adam in the first step; it falls evenly to 0.
    seed
        Of the order of the images, their augmentation and the draws of stochastic rounding.
    on_progress, stop
        Told and asked after every step.

    Returns
    -------
    dict
        Parameter name → trained tensor, not rounded; rounding to the plan gives what was trained.

    Raises
    ------
    StoppedError
        If `stop` said so.
    QcapsError
        If a site holds NaN or infinity.

    Notes
    -----
    Batch norms that could not be folded keep their running statistics. Where a plan rounds all class capsules to 0 no
    gradient is left, and nothing is learned. A batch is cut into the blocks of an evaluation, whose gradients add up:
    as fast, and the votes of a large batch need not fit in memory.
    """
    masters = {name: p.detach().clone().requires_grad_() for name, p in network.stages.named_parameters("stages")}
    lesson = _Lesson(network, teacher, plan, masters, even_blocks(network))
    optimizer = torch.optim.Adam(masters.values(), lr=lr, eps=1e-7)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    generator = torch.Generator().manual_seed(seed)
    for step, positions in enumerate(_batches(len(images), batch_size, steps, generator), start=1):
        batch = images.subset(positions)
        optimizer.zero_grad()
        # Whole seeds apart from those that verdicts use: seed, seed + 1, …
        loss = lesson.backward(augmented(batch, augment, generator), batch.indices, seed + (step << 32))
        optimizer.step()
        schedule.step()
        on_progress(Step("fine-tune", step, steps, f"divergence {abs(loss):.4f}"))
        if stop():
            raise StoppedError("interrupted while fine-tuning")
    return {name: master.detach().contiguous() for name, master in masters.items()}


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What all steps have in common: both networks, the plan, the float weights, and into how many blocks to cut."""

    network: CapsuleNetwork
    teacher: CapsuleNetwork
    plan: BitPlan
    masters: Mapping[str, Tensor]
    blocks: Callable[[Tensor], int]

    def backward(self, pixels: Tensor, indices: Tensor, seed: int) -> float:
        """Give the float weights the gradients of the mean divergence of a batch; return that divergence."""
        weights = self._rounded_weights(seed)
        total, gradients = 0.0, [torch.zeros_like(weight) for weight in weights.values()]
        parts = (array.chunk(self.blocks(pixels)) for array in (pixels, indices))
        for part, its_indices in zip(*parts, strict=True):
            with hooked(self.network, self._array_hook(its_indices, seed)):
                scores = functional_call(self.network, weights, (part,)).scores
            with torch.no_grad():
                target = self.teacher(part).scores
            loss = ranking_divergence(self.network.loss, target, scores).sum() / len(pixels)
            found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
            for gradient, more in zip(gradients, found, strict=True):
                gradient += more
            total += float(loss.detach())
        torch.autograd.backward(list(weights.values()), gradients)
        return total

    def _rounded_weights(self, seed: int) -> dict[str, Tensor]:
        """Round every weight that has a site."""
        weights = dict(self.masters)
        for site, name in weight_sites(self.network).items():
            draws = weight_uniforms(seed, site, weights[name].numel()) if self._is_random else None
            weights[name] = self._round(site, weights[name], self.plan.weights[site], draws)
        return weights

    def _array_hook(self, indices: Tensor, seed: int) -> Hook:
        def hook(site: str, array: Tensor) -> Tensor:
            draws = uniforms(seed, site, indices, array[0].numel()) if self._is_random else None
            return self._round(site, array, self.plan.of_array(site), draws)

        return hook

    def _round(self, site: str, x: Tensor, fmt: NumberFormat, draws: Tensor | None) -> Tensor:
        try:
            return round_through(x, fmt, self.plan.rounding, draws)
        except ValueError as error:
            raise QcapsError(str(error), where=site, do="fine-tune at a lower learning rate") from error

    @property
    def _is_random(self) -> bool:
        return self.plan.rounding == "stochastic_rounding"


def _batches(images: int, batch_size: int, steps: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Draw positions of images: all in random order, again and again, cut into batches."""
    rounds = math.ceil(steps * batch_size / images)
    order = torch.cat([torch.randperm(images, generator=generator) for _ in range(rounds)])
    return torch.split(order[: steps * batch_size], batch_size)
