"""What one forward pass does, layer by layer: the sides of every product of tensors, and the arrays at the sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from qcaps.capsules.sites import Sites, hooked
from qcaps.models.network import CapsuleNetwork

Shape = tuple[int, ...]
Note = Callable[[Shape], None]

aten = torch.ops.aten


@dataclass(frozen=True)
class Product:
    """One product of tensors: a convolution or a matrix product.

    Parameters
    ----------
    layer
        That computes it.
    plain
        Whether a ``Conv2d`` or a ``Linear`` does.
    lengths
        Their product is the number of multiply-accumulates of one image.
    """

    layer: str
    plain: bool
    lengths: Shape

    @property
    def macs(self) -> int:
        """Count the multiply-accumulates."""
        return math.prod(self.lengths)


@dataclass(frozen=True)
class Trace:
    """One image through a network.

    Parameters
    ----------
    products
        In execution order.
    arrays
        Array site → shape of what passes it, without the batch, in execution order.
    outputs
        Stage → shape of every tensor that it gives to the next, without the batch.
    layers
        Layer → names of its parameters within the stages, in execution order. A layer is a module with array sites of
        its own, and what it contains; a stage whose modules have none is one layer.
    """

    products: tuple[Product, ...]
    arrays: Mapping[str, Shape]
    outputs: Mapping[str, tuple[Shape, ...]]
    layers: Mapping[str, tuple[str, ...]]


def traced(network: CapsuleNetwork, image: tuple[int, int, int]) -> Trace:
    """Run one blank image and write down what is computed.

    Parameters
    ----------
    network
        In evaluation mode; on the meta device nothing is computed.
    image
        Channels, height and width.
    """
    owners = {m.owner for m in network.stages.modules() if isinstance(m, Sites) and m.arrays}
    parameters: dict[str, list[str]] = {}
    products: list[Product] = []
    arrays: dict[str, Shape] = {}
    outputs: dict[str, tuple[Shape, ...]] = {}
    running: list[str] = []

    def note_product(lengths: Shape) -> None:
        layer = _layer(running[-1], owners)
        parameters.setdefault(layer, [])
        plain = isinstance(network.stages.get_submodule(running[-1]), nn.Conv2d | nn.Linear)
        products.append(Product(layer, plain, lengths))

    def note_array(site: str, array: Tensor) -> Tensor:
        parameters.setdefault(site.rsplit(".", 1)[0], [])
        arrays[site] = tuple(array.shape[1:])
        return array

    value = torch.empty(1, *image, device=next(network.parameters()).device)
    with torch.no_grad(), hooked(network, note_array), _entered(network.stages, running), _Products(note_product):
        for name, stage in network.stages.items():
            value = stage(value)
            outputs[name] = tuple(tuple(t.shape[1:]) for t in ((value,) if isinstance(value, Tensor) else value))
    for path, _ in network.stages.named_parameters():
        parameters.setdefault(_layer(path, owners), []).append(path)
    return Trace(tuple(products), arrays, outputs, {layer: tuple(names) for layer, names in parameters.items()})


def _layer(path: str, owners: set[str]) -> str:
    """Give the innermost layer around a module or a parameter."""
    parts = path.split(".")
    around = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((one for one in around if one in owners), parts[0])


@contextmanager
def _entered(stages: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the path of the module that runs, behind those it runs in, at the end of a list."""

    def leave(*_: object) -> None:
        running.pop()

    with ExitStack() as hooks:
        for path, module in stages.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(lambda *_, path=path: running.append(path)))
            hooks.enter_context(module.register_forward_hook(leave))
        yield


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tell the lengths of every product, of the same operations that torch's flop counter knows."""

    def __init__(self, note: Note) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.note = note

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        operation, named = func._overloadpacket, kwargs or {}
        if operation not in flop_registry:
            with self:
                result = func.decompose(*args, **named)
            return func(*args, **named) if result is NotImplemented else result
        result = func(*args, **named)
        self.note(_lengths(operation, args, result))
        return result


def _lengths(operation: object, args: Sequence[object], result: object) -> Shape:
    """Give numbers whose product is the multiply-accumulates of one operation."""
    if operation is aten.convolution:
        places, weight = (args[0] if args[6] else result), args[1]
        assert isinstance(places, Tensor)
        assert isinstance(weight, Tensor)
        return places.shape[0], *places.shape[2:], *weight.shape
    if operation in (aten.mm, aten.bmm, aten.addmm, aten.baddbmm):
        *_, left, right = (arg for arg in args if isinstance(arg, Tensor))  # before them comes what is added
        return *left.shape, right.shape[-1]
    raise NotImplementedError(f"no multiply-accumulates are known for {operation}")
