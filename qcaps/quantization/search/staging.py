"""Run candidates stage by stage, and remember what a shared beginning gave."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from qcaps.capsules.sites import hooked
from qcaps.quantization.applying import ArrayRounder, weights_replaced
from qcaps.quantization.formats import format_to_dict
from qcaps.quantization.integer import integer_convolutions
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.search.subject import Subject

# What passes from stage to stage: a tensor, or a small tuple of them.
Value = Tensor | tuple[Tensor, ...]
# Name of a batch of images, its pixels and its indices, and the seed of the draws → scores ``(batch, classes)``.
Run = Callable[[int, Tensor, Tensor, int], Tensor]
# An output that would fill more than this share of the memory over all images is computed again instead.
LARGEST_SHARE = 0.25


class StageMemory:
    """Outputs of stages by content, the least recently used forgotten first.

    Parameters
    ----------
    limit_bytes
        What all of them may take; 0 remembers nothing.
    images
        Images of the split, by which the share of an output is judged.
    """

    def __init__(self, limit_bytes: int, images: int) -> None:
        self.limit_bytes, self.images = limit_bytes, images
        self._held: OrderedDict[tuple[str, int, int], Value] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[str, int, int]) -> Value | None:
        """Find the output of a stage on a block of images."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key]

    def put(self, key: tuple[str, int, int], value: Value) -> None:
        """Remember an output, if it is worth its place."""
        size, count = _bytes(value), len(value if isinstance(value, Tensor) else value[0])
        if size * self.images > LARGEST_SHARE * self.limit_bytes * count or key in self._held:
            return
        self._held[key] = value
        self._bytes += size
        while self._bytes > self.limit_bytes:
            self._bytes -= _bytes(self._held.popitem(last=False)[1])


def _bytes(value: Value) -> int:
    return sum(t.nbytes for t in ((value,) if isinstance(value, Tensor) else value))


@contextmanager
def running(subject: Subject, plan: BitPlan, memory: StageMemory) -> Iterator[Run]:
    """Round the weights of a candidate inside the block, and give what runs it.

    Parameters
    ----------
    subject, plan
        The candidate.
    memory
        Asked for the outputs of the first stages, where another candidate has the same ones.
    """
    network = subject.network
    prefixes = _prefixes(subject, plan)
    stages = list(network.stages.values())

    def run(batch: int, pixels: Tensor, indices: Tensor, seed: int) -> Tensor:
        count = subject.blocks(pixels)
        pairs = zip(pixels.chunk(count), indices.chunk(count), strict=True)
        rounder = ArrayRounder(plan, seed, counting=False)
        return torch.cat([block(rounder, *pair, (batch, number)) for number, pair in enumerate(pairs)])

    def block(rounder: ArrayRounder, pixels: Tensor, indices: Tensor, place: tuple[int, int]) -> Tensor:
        names = [f"{prefix}/{rounder.seed}" if _is_random(plan) else prefix for prefix in prefixes]
        value: Value = pixels
        start = 0
        for number in range(len(stages) - 1, 0, -1):
            known = memory.get((names[number - 1], *place))
            if known is not None:
                value, start = known, number
                break
        with hooked(network, rounder.hook(indices)):
            for number in range(start, len(stages)):
                value = stages[number](value)
                if number < len(stages) - 1:
                    memory.put((names[number], *place), value)
        return network.read_out(value).scores  # type: ignore[arg-type]  # the last stage gives what is read out

    rounded = subject.round_weights(plan)
    replaced = weights_replaced(network, rounded.tensors)
    with replaced, integer_convolutions(network, plan, subject.convolution_inputs), torch.inference_mode():
        yield run


def _is_random(plan: BitPlan) -> bool:
    return plan.rounding == "stochastic_rounding"


def _prefixes(subject: Subject, plan: BitPlan) -> list[str]:
    """Identify the beginning of a candidate up to each stage: the network, and the formats of the sites so far."""
    digest = hashlib.sha256(f"{subject.content} {subject.seed} {plan.rounding}".encode())
    found = []
    for stage in subject.network.stages:
        for sites in (plan.weights, plan.arrays):
            own = {site: format_to_dict(fmt) for site, fmt in sites.items() if site.split(".", 1)[0] == stage}
            digest.update(repr(sorted(own.items())).encode())
        found.append(digest.hexdigest())
    return found
