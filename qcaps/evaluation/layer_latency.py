"""How long every layer takes, all timed in the same passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

import torch
from torch import Tensor, nn

from qcaps.models.network import CapsuleNetwork

# Name for what runs in none of them; no path has a space.
BETWEEN = "between layers"


def layer_latencies(
    network: CapsuleNetwork,
    images: Tensor,
    layers: Iterable[str],
    *,
    clock: Callable[[], float],
    warmup: int = 2,
    repeats: int = 7,
) -> dict[str, float]:
    """Time one batch, every layer by itself.

    Parameters
    ----------
    network
        In inference form.
    images
        The batch, shape ``(batch, channels, height, width)``.
    layers
        Paths within the stages. None is charged for those inside it.
    clock
        Gives seconds and never goes back; on an accelerator it has to synchronise first.
    warmup, repeats
        Batches run first and not timed, and batches timed.

    Returns
    -------
    dict
        Layer → median milliseconds, and what runs between them.
    """
    batches = []
    for _ in range(warmup + repeats):
        spent = dict.fromkeys((*layers, BETWEEN), 0.0)
        with torch.inference_mode(), _charged(network.stages, spent, clock):
            network(images)
        batches.append(spent)
    return {layer: 1000 * median(batch[layer] for batch in batches[warmup:]) for layer in batches[0]}


@contextmanager
def _charged(stages: nn.Module, spent: dict[str, float], clock: Callable[[], float]) -> Iterator[None]:
    """Charge the time inside the block to whichever layer runs."""
    running = [BETWEEN]
    last = clock()

    def charge() -> None:
        nonlocal last
        now = clock()
        spent[running[-1]] += now - last
        last = now

    def enter(layer: str) -> None:
        charge()
        running.append(layer)

    def leave(*_: object) -> None:
        charge()
        running.pop()

    with ExitStack() as hooks:
        for layer in spent.keys() - {BETWEEN}:
            module = stages.get_submodule(layer)
            hooks.enter_context(module.register_forward_pre_hook(lambda *_, layer=layer: enter(layer)))
            hooks.enter_context(module.register_forward_hook(leave))
        last = clock()
        yield
        charge()
