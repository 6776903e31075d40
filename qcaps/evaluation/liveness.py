"""How long the arrays of a forward pass live, and what they take at its fullest step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from qcaps.capsules.sites import hooked
from qcaps.models.network import CapsuleNetwork


@dataclass(frozen=True)
class Life:
    """The steps between which an array has to be kept: the one that first gives it, and the last that reads it."""

    first: int
    last: int


def array_lives(network: CapsuleNetwork, image: tuple[int, int, int]) -> dict[str, Life]:
    """Find out how long every array has to be kept.

    Parameters
    ----------
    network
        In evaluation mode; on the meta device nothing is computed.
    image
        Channels, height and width.

    Returns
    -------
    dict
        Array, a site name without its iteration → its life. Every site is a step, counted from 0 in execution order,
        and so is the read-out at the end.

    Notes
    -----
    All iterations of an array share one place in memory, which is kept from the first of them to the last step that
    reads any: votes, logits, couplings, sums and outputs of a routing loop stand beside each other.

    Which steps read an array is seen from the graph that gradients would flow through, cut at every site.
    """
    lives: dict[str, Life] = {}
    left: dict[Tensor, str] = {}  # what left its site → its array
    step = 0

    def read(*tensors: Tensor) -> None:
        for leaf in _leaves(tensor for tensor in tensors if tensor.requires_grad):
            if leaf in left:
                lives[left[leaf]] = Life(lives[left[leaf]].first, step)

    def note(site: str, array: Tensor) -> Tensor:
        nonlocal step
        read(array)
        name = site.split("@", 1)[0]
        lives[name] = Life(lives[name].first if name in lives else step, step)
        step += 1
        leaf = array.detach().requires_grad_()
        left[leaf] = name
        return leaf

    with torch.enable_grad(), hooked(network, note):
        read(*network(torch.empty(1, *image, device=next(network.parameters()).device)))
    return lives


def _leaves(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Walk from tensors back to those they were computed from."""
    nodes: list[Node] = [get_gradient_edge(tensor).node for tensor in tensors]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            yield leaf
        before = {fn for fn, _ in node.next_functions if fn is not None} - seen
        seen |= before
        nodes.extend(before)


def peak(lives: Mapping[str, Life], sizes: Mapping[str, float]) -> float:
    """Sum the sizes of the arrays that are alive at the step where they take most.

    Parameters
    ----------
    lives
        See :func:`array_lives`.
    sizes
        Array → its size in any unit, at its widest iteration.
    """
    steps = {lives[array].first for array in sizes}  # the sum grows only where an array begins
    return max(
        sum(size for array, size in sizes.items() if lives[array].first <= step <= lives[array].last) for step in steps
    )
